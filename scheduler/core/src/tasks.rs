// SPDX-License-Identifier: Apache-2.0
//! Task statuses.
//!
//! A status counts if its executor lives in that incarnation and holds slots for exactly that attempt; the first final
//! status gives the slots back, so a second one finds nothing. The status of a cancelled task only gives slots back.

use ballista_core::{ClassifiedError, ErrorClass, TaskKey};

use crate::effect::Effect;
use crate::event::OutputStats;
use crate::executors::{Held, Life};
use crate::stage::Phase;
use crate::state::State;
use crate::view::JobState;

impl State {
    pub(crate) fn task_finished(&mut self, life: Life, key: &TaskKey, stats: OutputStats, out: &mut Vec<Effect>) {
        let Some(held) = self.release(life, key) else { return };
        if held.cancelled {
            self.free_late_output(life, key, held, out);
            return;
        }
        let stage = self.jobs.get_mut(&held.job).and_then(|job| job.stages.get_mut(&key.stage));
        let Some(stage) = stage else { return };
        let Some(running) = stage.succeed(key, stats) else { return };
        if stage.is_final && !running.streaming {
            self.stream_ready(life, key, out);
        }
        self.advance(held.job, vec![key.stage], out);
    }

    pub(crate) fn task_failed(&mut self, life: Life, key: &TaskKey, error: ClassifiedError, out: &mut Vec<Effect>) {
        let Some(held) = self.release(life, key) else { return };
        if held.cancelled {
            return;
        }
        self.executors.unneed(life, held.job);
        let stage = self.jobs.get_mut(&held.job).and_then(|job| job.stages.get_mut(&key.stage));
        let running = stage.and_then(|stage| stage.take_running(key));
        let out_of_memory = running.filter(|_| error.class == ErrorClass::Resource);
        if out_of_memory.is_some_and(|running| self.plan_in_smaller_tasks(held.job, &running, out)) {
            return;
        }
        self.end_job(held.job, JobState::Failed(error), out);
    }

    pub(crate) fn task_streaming(&mut self, life: Life, key: &TaskKey, out: &mut Vec<Effect>) {
        let held = self.executors.get(life).and_then(|executor| executor.running.get(key)).copied();
        let job = self.by_id.get(&key.job).and_then(|seq| self.jobs.get_mut(seq));
        let stage = job.and_then(|job| job.stages.get_mut(&key.stage));
        if stage.as_ref().is_some_and(|stage| !stage.is_final) {
            return;
        }
        if held.is_some_and(|held| !held.cancelled) {
            let running = stage.and_then(|stage| stage.running(key));
            if let Some(running) = running.filter(|running| !running.streaming) {
                running.streaming = true;
                self.stream_ready(life, key, out);
            }
        } else if !stage.is_some_and(|stage| stage.has_output(key)) {
            // Neither running for us nor a winner whose status overtook this one: an attempt that nobody wants.
            if let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) {
                out.push(Effect::CancelTask { task: key.clone(), executor, incarnation });
            }
        }
    }

    fn stream_ready(&self, life: Life, key: &TaskKey, out: &mut Vec<Effect>) {
        if let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) {
            out.push(Effect::StreamReady { task: key.clone(), executor, incarnation });
        }
    }

    /// Gives a task's slots back to its executor and takes them off its job's share.
    fn release(&mut self, life: Life, key: &TaskKey) -> Option<Held> {
        let held = self.executors.release(life, key)?;
        if let Some(job) = self.jobs.get_mut(&held.job) {
            job.slots -= u64::from(held.slots);
        }
        self.requeue(held.job);
        Some(held)
    }

    /// A cancelled task ended with an output: if its stage or job was freed meanwhile, that was before the output was.
    fn free_late_output(&self, life: Life, key: &TaskKey, held: Held, out: &mut Vec<Effect>) {
        let Some(address) = self.executors.get(life).map(|executor| executor.address()) else { return };
        let Some(job) = self.jobs.get(&held.job) else {
            out.push(Effect::FreeJob { job: key.job.clone(), executors: vec![address] });
            return;
        };
        if job.stages.get(&key.stage).is_some_and(|stage| stage.phase == Phase::Freed) {
            out.push(Effect::FreeStage { job: key.job.clone(), stage: key.stage, executors: vec![address] });
        }
    }
}
