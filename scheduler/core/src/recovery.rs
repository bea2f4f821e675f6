// SPDX-License-Identifier: Apache-2.0
//! Lost executors and lost outputs: what has to run again.
//!
//! Losing outputs changes nothing by itself. A stage is opened again when somebody wants its outputs: a consumer with
//! tasks that have not run, a task that failed to read them, a planner that adds a consumer. Then the lost tasks run
//! again, with what they read wanted in turn, up to files:
//!
//! ```text
//!   A ✓✗✓ ──► B ✓✗✗ ──► C ✓ … …        the executor of the ✗ is lost
//!   A   ↺ ──► B   ↺↺ ──► C     waits    C has waiting tasks, so it wants B, which wants A
//! ```

use std::collections::BTreeSet;

use ballista_core::{ClassifiedError, ErrorClass, ExecutorId, Incarnation, StageId, TaskId, TaskKey};

use crate::effect::Effect;
use crate::executors::Life;
use crate::job::{Job, JobSeq};
use crate::pending::Pending;
use crate::stage::{Phase, Stage};
use crate::state::State;
use crate::view::JobState;

/// Why a query ends that lost a part of what it was publishing, and would write other rows now.
const HALF_PUBLISHED: &str = "it was publishing what the query had written, which it would not write again in the same \
                              way: some of it may be there, some may not";

/// A stage that started over so often ends its job.
const MAX_STAGE_ATTEMPTS: u32 = 20;

impl State {
    /// Disconnects an executor for good. Its tasks run again elsewhere; so do those whose outputs it held, as far as they
    /// are wanted.
    pub(crate) fn lose(&mut self, life: Life, reason: &str, out: &mut Vec<Effect>) {
        let Some(executor) = self.executors.remove(life, self.limits.fenced_incarnations) else { return };
        out.push(Effect::FenceExecutor { executor: executor.id.clone(), incarnation: executor.incarnation });
        for (key, held) in &executor.running {
            if let Some(job) = self.jobs.get_mut(&held.job) {
                job.slots -= u64::from(held.slots);
            }
            self.requeue(held.job);
            if !held.cancelled {
                self.attempt_died(held.job, key, out);
            }
        }
        let holds = |(seq, job): (&JobSeq, &Job)| job.touched.contains(&life).then_some(*seq);
        let jobs: Vec<JobSeq> = self.jobs.iter().filter_map(holds).collect();
        for seq in jobs {
            let name = &executor.id;
            if let Err(error) = self.lose_outputs(seq, life, &executor.address(), out) {
                let message = format!("executor {name} was lost ({reason}), and {error}");
                self.end_job(seq, JobState::Failed(ClassifiedError::new(ErrorClass::Infra, message)), out);
                continue;
            }
            self.recover(seq, out);
        }
    }

    /// Takes away what a lost executor held of a job. An error says why the job cannot go on.
    fn lose_outputs(
        &mut self,
        seq: JobSeq,
        life: Life,
        address: &(ExecutorId, Incarnation),
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(&seq) else { return Ok(()) };
        job.touched.remove(&life);
        let mut shaken = Vec::new();
        for (id, stage) in &mut job.stages {
            stage.touched.remove(&life);
            if !stage.lose_outputs(life) {
                continue;
            }
            if stage.commits && job.publishing && !stage.deterministic {
                return Err(HALF_PUBLISHED.to_owned());
            }
            if stage.is_kept && job.finished.is_some() {
                return Err("it held rows that were cached; they are computed again when they are read next".to_owned());
            }
            let (executor, incarnation) = address.clone();
            out.push(Effect::OutputsLost { job: job.id.clone(), stage: *id, executor, incarnation });
            shaken.push(*id);
        }
        for id in shaken {
            self.resume_result(seq, id, out);
        }
        Ok(())
    }

    /// Outputs of a stage on a connected executor are gone or damaged.
    pub(crate) fn invalidate(&mut self, seq: JobSeq, id: StageId, life: Life, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        let held = stage.outputs.values().filter(|output| output.life == life && !output.delivered).count();
        if !stage.lose_outputs(life) {
            return;
        }
        if !stage.released {
            (0..held).for_each(|_| self.executors.unneed(life, seq));
        }
        if let Some((executor, incarnation)) = self.executors.get(life).map(|executor| executor.address()) {
            out.push(Effect::OutputsLost { job: job.id.clone(), stage: id, executor: executor.clone(), incarnation });
            if stage.commits && job.publishing && !stage.deterministic {
                let message = format!("executor {executor} has lost outputs while {HALF_PUBLISHED}");
                self.end_job(seq, JobState::Failed(ClassifiedError::new(ErrorClass::Infra, message)), out);
                return;
            }
        }
        self.resume_result(seq, id, out);
        self.recover(seq, out);
    }

    /// Parts of a result that was complete are gone, and the client may not have read them: they come again.
    pub(crate) fn resume_result(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        if !job.stages.get(&id).is_some_and(|stage| stage.is_final) {
            return;
        }
        if job.finished.take().is_some() {
            job.resumed = true;
            out.push(Effect::JobResumed { job: job.id.clone() });
            self.reopen(seq, id, out);
        } else if job.publishing {
            let stage = job.stages.get(&id);
            job.committing.retain(|key, _| stage.is_some_and(|stage| stage.has_output(key)));
            self.reopen(seq, id, out);
        }
    }

    /// After a loss: lost tasks of open stages wait for slots again, and what open stages still have to read is wanted.
    pub(crate) fn recover(&mut self, seq: JobSeq, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let mut open = Vec::new();
        for (id, stage) in &mut job.stages {
            if stage.phase == Phase::Open {
                stage.want_all();
                open.push(*id);
            }
        }
        for id in &open {
            self.want_inputs(seq, *id, out);
        }
        self.advance(seq, open, out);
    }

    /// What a stage has yet to read is wanted.
    pub(crate) fn want_inputs(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(stage) = self.jobs.get(&seq).and_then(|job| job.stages.get(&id)) else { return };
        if stage.phase == Phase::Open && (stage.has_waiting() || !stage.delayed.is_empty()) {
            for input in stage.inputs.clone() {
                self.want_again(seq, input, out);
            }
        }
    }

    /// The outputs of a stage are wanted: it opens again if some are lost.
    pub(crate) fn want_again(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id).filter(|stage| stage.phase == Phase::Finished) else { return };
        if std::mem::replace(&mut stage.released, false) {
            for output in stage.outputs.values().filter(|output| !output.delivered) {
                self.executors.need(output.life, seq);
            }
        }
        if !stage.is_complete() {
            self.reopen(seq, id, out);
        }
    }

    /// Opens a finished stage, and those it reads as far as outputs of them are lost.
    pub(crate) fn reopen(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        if !self.start_over_if_mixed(seq, id, out) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id).filter(|stage| stage.phase == Phase::Finished) else { return };
        stage.phase = Phase::Open;
        stage.want_all();
        job.open_stages += 1;
        job.reopened.push(id);
        let (inputs, consumers) = (stage.inputs.clone(), stage.consumers.clone());
        let is_open = |job: &Job, id: &StageId| job.stages.get(id).is_some_and(|stage| stage.phase == Phase::Open);
        let blocked_by = inputs.iter().filter(|input| is_open(job, input)).count();
        if let Some(stage) = job.stages.get_mut(&id) {
            stage.blocked_by = blocked_by;
            if stage.is_ready() {
                job.ready.insert(id);
            }
        }
        for consumer in consumers {
            if let Some(consumer) = job.stages.get_mut(&consumer).filter(|consumer| consumer.phase == Phase::Open) {
                consumer.blocked_by += 1;
                job.ready.remove(&consumer.id);
            }
        }
        for input in &inputs {
            if let Some(input) = job.stages.get_mut(input) {
                input.open_consumers += 1;
            }
        }
        for input in inputs {
            self.want_again(seq, input, out);
        }
        self.requeue(seq);
    }

    /// Before a finished stage opens again: if it would not give the same rows, and somebody has read some of them, takes
    /// it back as a whole, and with it all that depends on what was read. `false` if that cannot be, because rows of it
    /// are at the client.
    fn start_over_if_mixed(&mut self, seq: JobSeq, first: StageId, out: &mut Vec<Effect>) -> bool {
        let Some(job) = self.jobs.get_mut(&seq) else { return false };
        let has_started = |id: &StageId| job.stages.get(id).is_some_and(Stage::has_started);
        let Some(stage) = job.stages.get(&first).filter(|stage| stage.phase == Phase::Finished) else { return true };
        if stage.deterministic || !stage.consumers.iter().any(has_started) {
            return true;
        }
        if stage.attempt.saturating_sub(stage.starts_at) >= MAX_STAGE_ATTEMPTS {
            let message = format!(
                "stage {first} would not give the same rows again and has lost outputs {MAX_STAGE_ATTEMPTS} times after \
                 they were read; look into the executors' logs for what goes wrong there"
            );
            job.doomed = Some(ClassifiedError::new(ErrorClass::Infra, message));
            return false;
        }
        let mut stages = BTreeSet::from([first]);
        // Consumers have larger numbers than what they read, so that one pass finds all.
        for (id, stage) in &job.stages {
            if stage.has_started() && stage.inputs.iter().any(|input| stages.contains(input)) {
                stages.insert(*id);
            }
        }
        // What the client was told of stays with it, whatever has become of the executor since.
        let is_out = |stage: &Stage| if stage.commits { job.publishing } else { stage.streamed };
        if stages.iter().filter_map(|id| job.stages.get(id)).any(|stage| stage.is_final && is_out(stage)) {
            let message = format!(
                "outputs of stage {first} were lost, which would not give the same rows again, after rows that depend on \
                 them were handed to the client or published; run the query again"
            );
            job.doomed = Some(ClassifiedError::new(ErrorClass::Infra, message));
            return false;
        }
        for id in stages {
            self.void(seq, id, out);
        }
        let Some(job) = self.jobs.get(&seq) else { return false };
        let open: Vec<_> =
            job.stages.values().filter(|stage| stage.phase == Phase::Open).map(|stage| stage.id).collect();
        for id in open {
            self.want_inputs(seq, id, out);
        }
        true
    }

    /// Takes back everything that a stage has done.
    fn void(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        for (key, life) in stage.running_keys(&job.id) {
            if let Some((executor, incarnation)) = self.executors.cancel(life, &key) {
                out.push(Effect::CancelTask { task: key, executor, incarnation });
            }
        }
        for output in stage.outputs.values().filter(|output| !output.delivered && !stage.released) {
            self.executors.unneed(output.life, seq);
        }
        let executors = self.executors.addresses(&stage.touched);
        out.push(Effect::ResetStage {
            job: job.id.clone(),
            stage: id,
            attempt: stage.attempt,
            for_good: false,
            executors,
        });
        stage.attempt += 1;
        for trouble in stage.tasks.values().filter_map(|task| task.trouble.as_ref()) {
            stage.past.add(trouble);
        }
        (stage.pending, stage.skipped) = (Pending::new(stage.partitions, &[]), Pending::default());
        stage.tasks.clear();
        stage.running.clear();
        stage.outputs.clear();
        stage.retries.clear();
        stage.delayed.clear();
        stage.lost.clear();
        stage.touched.clear();
        stage.unreachable.clear();
        stage.durations.clear();
        (stage.partitions_done, stage.stats) = (0, crate::event::OutputStats::default());
        // A finished stage opens when somebody wants it.
        if stage.phase == Phase::Finished {
            (stage.skipped, stage.pending) = (std::mem::take(&mut stage.pending), Pending::default());
            stage.released = false;
        }
        let is_ready = stage.is_ready();
        job.ready.remove(&id);
        if is_ready {
            job.ready.insert(id);
        }
    }

    /// An executor was lost while it ran a task. Too many of these, and the query is taken for the cause.
    fn attempt_died(&mut self, seq: JobSeq, key: &TaskKey, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now, &self.limits);
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&key.stage) else { return };
        if stage.take_running(key).is_none() {
            return;
        }
        let trouble = stage.trouble(key.task);
        if trouble.deaths == 0 || now.0 > trouble.last_death.0.saturating_add(limits.same_moment_millis) {
            trouble.deaths += 1;
            trouble.last_death = now;
        }
        if trouble.deaths >= limits.max_deaths {
            let message = format!(
                "the query is quarantined: {} executors were lost one after the other while they ran task {} of stage {}; \
                 if it needs more memory or disk than they have, or calls a function that ends the process, change that \
                 before you run it again",
                trouble.deaths, key.task, key.stage
            );
            self.end_job(seq, JobState::Failed(ClassifiedError::new(ErrorClass::Deterministic, message)), out);
            return;
        }
        self.run_again(seq, key.stage, key.task, out);
    }

    /// A task without an attempt that counts waits for slots again, and what it reads is wanted.
    pub(crate) fn run_again(&mut self, seq: JobSeq, id: StageId, task: TaskId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        let is_known = stage.tasks.contains_key(&task);
        if !is_known || stage.attempts(task).next().is_some() || stage.outputs.contains_key(&task) {
            return;
        }
        stage.lost.remove(&task);
        stage.retries.insert(task);
        if stage.is_ready() {
            job.ready.insert(id);
        }
        self.want_inputs(seq, id, out);
        self.requeue(seq);
    }
}
