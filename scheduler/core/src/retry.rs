// SPDX-License-Identifier: Apache-2.0
//! What the failure of a task attempt means, by its class.
//!
//! | class | what happens |
//! |---|---|
//! | User, Deterministic | the job fails with the error: it would come again |
//! | Resource | once more with all free slots of an executor, then the job fails; a query of one task is planned as many |
//! | Fetch | what could not be read is computed again if it is gone; the task runs again, elsewhere if it can |
//! | Transient, Infra, Fenced | the task runs again after a while, elsewhere if it can, a few times |

use ballista_core::{ClassifiedError, ErrorClass, StageId, TaskId, TaskKey};

use crate::effect::Effect;
use crate::event::Instant64;
use crate::executors::Life;
use crate::job::JobSeq;
use crate::state::State;
use crate::view::JobState;

impl State {
    /// An attempt that counted has failed; it is off the books already.
    pub(crate) fn attempt_failed(
        &mut self,
        seq: JobSeq,
        key: &TaskKey,
        life: Life,
        error: ClassifiedError,
        out: &mut Vec<Effect>,
    ) {
        let outcome = match error.class {
            ErrorClass::User | ErrorClass::Deterministic => Err(error),
            ErrorClass::Resource => self.ran_short(seq, key, life, error, out),
            ErrorClass::Fetch => self.could_not_read(seq, key, life, error, out),
            ErrorClass::Transient | ErrorClass::Infra | ErrorClass::Fenced => self.fell(seq, key, life, error, out),
        };
        match outcome {
            Err(error) => self.end_job(seq, JobState::Failed(error), out),
            Ok(()) => self.advance(seq, vec![key.stage], out),
        }
    }

    /// A fault that may pass.
    fn fell(
        &mut self,
        seq: JobSeq,
        key: &TaskKey,
        life: Life,
        error: ClassifiedError,
        out: &mut Vec<Effect>,
    ) -> Result<(), ClassifiedError> {
        let (now, limit) = (self.now, self.limits.max_task_failures);
        self.executors.strike(life, now, &self.limits);
        let Some(stage) = self.stage_mut(seq, key.stage) else { return Ok(()) };
        if stage.is_tried_elsewhere(key.task, life) {
            return Ok(());
        }
        let trouble = stage.trouble(key.task);
        trouble.failures += 1;
        trouble.avoid.insert(life);
        let failures = trouble.failures;
        if failures >= limit {
            return Err(tried(error, failures));
        }
        self.run_later(seq, key.stage, key.task, failures, out);
        Ok(())
    }

    /// Memory or disk ran out.
    fn ran_short(
        &mut self,
        seq: JobSeq,
        key: &TaskKey,
        life: Life,
        error: ClassifiedError,
        out: &mut Vec<Effect>,
    ) -> Result<(), ClassifiedError> {
        if self.plan_in_smaller_tasks(seq, out) {
            return Ok(());
        }
        let Some(stage) = self.stage_mut(seq, key.stage) else { return Ok(()) };
        if stage.is_tried_elsewhere(key.task, life) {
            return Ok(());
        }
        let trouble = stage.trouble(key.task);
        trouble.failures += 1;
        trouble.avoid.insert(life);
        if std::mem::replace(&mut trouble.alone, true) {
            return Err(tried(error, trouble.failures));
        }
        self.run_again(seq, key.stage, key.task, out);
        Ok(())
    }

    /// What a task wrote could not be published: it runs again, and writes over what it wrote before.
    pub(crate) fn write_again(
        &mut self,
        seq: JobSeq,
        key: &TaskKey,
        life: Life,
        error: ClassifiedError,
        out: &mut Vec<Effect>,
    ) {
        // Its turn comes after a while.
        if let Some(stage) = self.stage_mut(seq, key.stage) {
            stage.lost.remove(&key.task);
            stage.retries.remove(&key.task);
        }
        match self.fell(seq, key, life, error, out) {
            Err(error) => self.end_job(seq, JobState::Failed(error), out),
            Ok(()) => self.advance(seq, vec![key.stage], out),
        }
    }

    /// Input of a task is gone, damaged or out of reach.
    fn could_not_read(
        &mut self,
        seq: JobSeq,
        key: &TaskKey,
        life: Life,
        error: ClassifiedError,
        out: &mut Vec<Effect>,
    ) -> Result<(), ClassifiedError> {
        let limit = self.limits.max_unread_inputs;
        let Some(stage) = self.stage_mut(seq, key.stage) else { return Ok(()) };
        let trouble = stage.trouble(key.task);
        trouble.fetches += 1;
        trouble.avoid.insert(life);
        let fetches = trouble.fetches;
        if fetches >= limit {
            return Err(tried(error, fetches));
        }
        let Some(input) = error.unread.clone() else {
            self.run_later(seq, key.stage, key.task, fetches, out);
            return Ok(());
        };
        if input.job != key.job || !stage.inputs.contains(&input.stage) {
            // Rows that another job keeps, which cannot be computed here.
            return Err(error);
        }
        let Some(holder) = self.executors.find(&input.executor, input.incarnation) else {
            // It is lost, and what it held is computed again.
            self.run_again(seq, key.stage, key.task, out);
            return Ok(());
        };
        let max_unreachable = self.limits.max_unreachable;
        let Some(producer) = self.stage_mut(seq, input.stage) else { return Err(error) };
        let strikes = producer.unreachable.entry(holder).or_insert(0);
        *strikes += 1;
        let is_lost = input.gone || *strikes >= max_unreachable;
        let now = self.now;
        self.executors.strike(holder, now, &self.limits);
        if is_lost {
            self.run_again(seq, key.stage, key.task, out);
            self.invalidate(seq, input.stage, holder, out);
        } else {
            self.run_later(seq, key.stage, key.task, fetches, out);
        }
        Ok(())
    }

    /// The client has all rows of a part of the result.
    pub(crate) fn result_read(&mut self, key: &TaskKey) {
        let Some(seq) = self.by_id.get(&key.job).copied() else { return };
        let stage = self.jobs.get_mut(&seq).and_then(|job| job.stages.get_mut(&key.stage));
        let Some(stage) = stage.filter(|stage| stage.is_final && !stage.commits && !stage.is_kept) else { return };
        if let Some(running) = stage.running(key) {
            running.read = true;
        } else if stage.has_output(key)
            && let Some(output) = stage.outputs.get_mut(&key.task)
            && !std::mem::replace(&mut output.delivered, true)
        {
            self.executors.unneed(output.life, seq);
        }
    }

    /// A part of the result cannot be read where it was said to be.
    pub(crate) fn result_unread(&mut self, key: &TaskKey, reason: &str, out: &mut Vec<Effect>) {
        let Some(seq) = self.by_id.get(&key.job).copied() else { return };
        let limit = self.limits.max_unread_results;
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&key.stage) else { return };
        if !stage.is_final || stage.commits || stage.is_kept || stage.attempt != key.stage_attempt {
            return;
        }
        let now = self.now;
        let life = if let Some(running) = stage.take_running(key) {
            if let Some((executor, incarnation)) = self.executors.cancel(running.life, key) {
                out.push(Effect::CancelTask { task: key.clone(), executor, incarnation });
            }
            running.life
        } else if let Some(output) = stage.lose_output(key) {
            self.executors.unneed(output.life, seq);
            if let Some((executor, incarnation)) = self.executors.get(output.life).map(|executor| executor.address()) {
                out.push(Effect::CancelTask { task: key.clone(), executor, incarnation });
            }
            output.life
        } else {
            return;
        };
        let trouble = stage.trouble(key.task);
        trouble.failures += 1;
        trouble.avoid.insert(life);
        let failures = trouble.failures;
        self.executors.strike(life, now, &self.limits);
        if failures >= limit {
            let message = format!("the result of task {key} cannot be read: {reason}");
            let error = tried(ClassifiedError::new(ErrorClass::Infra, message), failures);
            self.end_job(seq, JobState::Failed(error), out);
            return;
        }
        self.resume_result(seq, key.stage, out);
        if let Some(stage) = self.stage_mut(seq, key.stage) {
            stage.lost.remove(&key.task);
            stage.retries.remove(&key.task);
        }
        self.run_later(seq, key.stage, key.task, failures, out);
        self.recover(seq, out);
    }

    /// Runs a task again after a while, unless another attempt of it still runs.
    fn run_later(&mut self, seq: JobSeq, id: StageId, task: TaskId, failures: u32, out: &mut Vec<Effect>) {
        let doubled = self.limits.retry_millis.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let due = Instant64(self.now.0.saturating_add(doubled.min(self.limits.max_retry_millis)));
        let Some(stage) = self.stage_mut(seq, id) else { return };
        if stage.attempts(task).next().is_none() && stage.tasks.contains_key(&task) {
            stage.delayed.insert(task);
            self.delayed.insert((due, seq, id, task));
            self.want_inputs(seq, id, out);
        }
    }

    /// The tasks whose time has come wait for slots.
    pub(crate) fn start_delayed(&mut self, out: &mut Vec<Effect>) {
        while let Some(first) = self.delayed.first().copied().filter(|(due, ..)| *due <= self.now) {
            self.delayed.remove(&first);
            let (_, seq, id, task) = first;
            if self.stage_mut(seq, id).is_some_and(|stage| stage.delayed.remove(&task)) {
                self.run_again(seq, id, task, out);
                self.advance(seq, vec![id], out);
            }
        }
    }
}

/// An error that came again and again.
fn tried(error: ClassifiedError, times: u32) -> ClassifiedError {
    match times {
        0 | 1 => error,
        _ => ClassifiedError { message: format!("{} (the last of {times} attempts)", error.message), ..error },
    }
}
