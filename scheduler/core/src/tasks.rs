// SPDX-License-Identifier: Apache-2.0
//! Task statuses.
//!
//! A status counts if its executor lives in that incarnation and holds slots for exactly that attempt; the first final
//! status gives the slots back, so a second one finds nothing. The status of a cancelled task only gives slots back.

use ballista_core::{ClassifiedError, TaskKey};

use crate::effect::Effect;
use crate::event::OutputStats;
use crate::executors::{Held, Life};
use crate::job::JobSeq;
use crate::state::State;

impl State {
    pub(crate) fn task_finished(
        &mut self,
        life: Life,
        key: &TaskKey,
        stats: OutputStats,
        delivered: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(held) = self.release(life, key) else { return };
        if held.cancelled {
            self.free_late_output(life, key, out);
            return;
        }
        let now = self.now;
        let stage = self.jobs.get_mut(&held.job).and_then(|job| job.stages.get_mut(&key.stage));
        let Some(stage) = stage else { return };
        // Of other stages the executor may have to serve it yet.
        let delivered = delivered && stage.is_final && !stage.commits && !stage.is_kept;
        let Some(running) = stage.succeed(key, stats, delivered, now) else { return };
        let delivered = delivered || running.read;
        if delivered {
            self.executors.unneed(life, held.job);
        }
        if stage.is_final && !running.streaming {
            stage.streamed = true;
            self.stream_ready(life, key, out);
        }
        self.cancel_attempts(held.job, key, out);
        self.advance(held.job, vec![key.stage], out);
    }

    pub(crate) fn task_failed(&mut self, life: Life, key: &TaskKey, error: ClassifiedError, out: &mut Vec<Effect>) {
        let Some(held) = self.release(life, key) else { return };
        if held.cancelled {
            return;
        }
        self.executors.unneed(life, held.job);
        let stage = self.jobs.get_mut(&held.job).and_then(|job| job.stages.get_mut(&key.stage));
        if let Some(running) = stage.and_then(|stage| stage.take_running(key)) {
            self.attempt_failed(held.job, key, running.life, error, out);
        }
    }

    pub(crate) fn task_streaming(&mut self, life: Life, key: &TaskKey, out: &mut Vec<Effect>) {
        let held = self.executors.get(life).and_then(|executor| executor.running.get(key)).copied();
        let job = self.by_id.get(&key.job).and_then(|seq| self.jobs.get_mut(seq));
        let mut stage = job.and_then(|job| job.stages.get_mut(&key.stage));
        if stage.as_ref().is_some_and(|stage| !stage.is_final) {
            return;
        }
        if let Some(held) = held.filter(|held| !held.cancelled) {
            let running = stage.as_mut().and_then(|stage| stage.running(key));
            if let Some(running) = running.filter(|running| !running.streaming) {
                running.streaming = true;
                stage.into_iter().for_each(|stage| stage.streamed = true);
                self.stream_ready(life, key, out);
                // The client cannot read two attempts at once: the first one that has rows goes on.
                self.cancel_attempts(held.job, key, out);
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

    /// Cancels all attempts of a task but `key`.
    pub(crate) fn cancel_attempts(&mut self, seq: JobSeq, key: &TaskKey, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&key.stage) else { return };
        let others: Vec<_> = stage
            .attempts(key.task)
            .filter(|(attempt, _)| *attempt != key.attempt)
            .map(|(attempt, running)| (attempt, running.life))
            .collect();
        for (attempt, life) in others {
            let other = TaskKey { attempt, ..key.clone() };
            stage.take_running(&other);
            if let Some((executor, incarnation)) = self.executors.cancel(life, &other) {
                out.push(Effect::CancelTask { task: other, executor, incarnation });
            }
        }
    }

    /// Gives a task's slots back to its executor and takes them off its job's share.
    pub(crate) fn release(&mut self, life: Life, key: &TaskKey) -> Option<Held> {
        let held = self.executors.release(life, key)?;
        if let Some(job) = self.jobs.get_mut(&held.job) {
            job.slots -= u64::from(held.slots);
        }
        self.requeue(held.job);
        Some(held)
    }

    /// A cancelled task ended with an output: if its stage or job was freed meanwhile, that was before the output was.
    fn free_late_output(&self, life: Life, key: &TaskKey, out: &mut Vec<Effect>) {
        let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) else { return };
        if self.by_id.contains_key(&key.job) {
            // The executor throws the output away when it hears of the cancellation, also after the task's end.
            out.push(Effect::CancelTask { task: key.clone(), executor, incarnation });
        } else {
            out.push(Effect::FreeJob { job: key.job.clone(), executors: vec![(executor, incarnation)] });
        }
    }
}
