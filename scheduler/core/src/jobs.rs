// SPDX-License-Identifier: Apache-2.0
//! A job's way from submission to its end.
//!
//! A job is a tree of exchanges whose stages are planned as their inputs finish. **Outputs are kept until the job is
//! over**, so that what is lost with an executor can be computed again from what is left; when every known consumer of a
//! stage is finished they are released, which says that they may go first if room is short.

use ballista_core::{ClassifiedError, ErrorClass, JobId, StageId, TaskKey};

use crate::effect::{Effect, PlanReason};
use crate::event::StageSpec;
use crate::job::{Job, JobSeq};
use crate::stage::{Phase, Stage};
use crate::state::State;
use crate::view::{JobState, JobView};

impl State {
    pub(crate) fn job_submitted(&mut self, id: JobId, weight: u32, out: &mut Vec<Effect>) {
        if self.by_id.contains_key(&id) || self.ended.iter().any(|ended| ended.job == id) {
            return;
        }
        let seq = JobSeq(self.next_job);
        self.next_job += 1;
        self.jobs.insert(seq, Job::new(id.clone(), weight, self.now));
        self.by_id.insert(id.clone(), seq);
        out.push(Effect::Plan { job: id, reason: PlanReason::Submitted });
    }

    pub(crate) fn planned(
        &mut self,
        id: &JobId,
        stages: &[StageSpec],
        small: bool,
        complete: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(seq) = self.awaiting_plan(id) else { return };
        match self.add_stages(seq, stages, small, complete, out) {
            Err(problem) => {
                let error = ClassifiedError::new(ErrorClass::Deterministic, format!("invalid plan: {problem}"));
                self.end_job(seq, JobState::Failed(error), out);
            }
            Ok(()) => {
                if complete {
                    self.release_unread_stages(seq, out);
                }
                self.advance(seq, stages.iter().map(|spec| spec.stage).collect(), out);
            }
        }
    }

    pub(crate) fn plan_failed(&mut self, id: &JobId, error: ClassifiedError, out: &mut Vec<Effect>) {
        if let Some(seq) = self.awaiting_plan(id) {
            self.end_job(seq, JobState::Failed(error), out);
        }
    }

    pub(crate) fn job_cancelled(&mut self, id: &JobId, reason: String, out: &mut Vec<Effect>) {
        if self.is_committing(id) {
            return;
        }
        let Some(seq) = self.by_id.get(id).copied() else { return };
        let is_finished = self.jobs.get(&seq).is_some_and(|job| job.finished.is_some());
        let end = if is_finished { JobState::Finished } else { JobState::Cancelled { reason } };
        self.end_job(seq, end, out);
    }

    pub(crate) fn client_done(&mut self, id: &JobId, out: &mut Vec<Effect>) {
        let Some(seq) = self.by_id.get(id).copied() else { return };
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        if job.publishing && job.finished.is_none() {
            job.client_left = true;
            return;
        }
        let end = if job.finished.is_some() || job.resumed {
            JobState::Finished
        } else if job.is_streaming_all() {
            // The client read to the end before the executors' last statuses came in.
            job.finished = Some(self.now);
            out.push(Effect::JobFinished { job: id.clone() });
            JobState::Finished
        } else {
            JobState::Cancelled { reason: "the client left before the job was finished".to_string() }
        };
        self.end_job(seq, end, out);
    }

    /// The job that an answer of the planner belongs to, if it is awaited.
    fn awaiting_plan(&mut self, id: &JobId) -> Option<JobSeq> {
        let seq = *self.by_id.get(id)?;
        let job = self.jobs.get_mut(&seq).filter(|job| job.finished.is_none() && !job.complete)?;
        job.plans_due = job.plans_due.checked_sub(1)?;
        Some(seq)
    }

    /// Adds planned stages and wires them to their inputs. On an error the job must end.
    fn add_stages(
        &mut self,
        seq: JobSeq,
        specs: &[StageSpec],
        small: bool,
        complete: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(&seq) else { return Ok(()) };
        job.small = small;
        job.complete = complete;
        for spec in specs {
            if spec.partitions > self.limits.max_stage_partitions {
                let limit = self.limits.max_stage_partitions;
                return Err(format!("stage {} has {} partitions, the limit is {limit}", spec.stage, spec.partitions));
            }
            let life = |(executor, bytes): &(_, u64)| Some((self.executors.current(executor)?, *bytes));
            let lives = |holders: &Vec<(_, u64)>| holders.iter().filter_map(life).collect();
            let preferred: Vec<Vec<_>> = spec.preferred.iter().map(lives).collect();
            let mut stage = Stage::new(spec, &preferred);
            (stage.attempt, stage.starts_at) = (self.first_attempt, self.first_attempt);
            if job.stages.insert(spec.stage, stage).is_some() {
                return Err(format!("stage {} is planned twice", spec.stage));
            }
            if spec.is_final && job.final_stage.replace(spec.stage).is_some() {
                return Err(format!("stage {} is a second final stage", spec.stage));
            }
            job.open_stages += 1;
        }
        for spec in specs {
            wire(job, spec.stage)?;
        }
        for input in specs.iter().flat_map(|spec| &spec.inputs) {
            self.want_again(seq, *input, out);
        }
        let Some(job) = self.jobs.get_mut(&seq) else { return Ok(()) };
        if complete && job.final_stage.is_none() {
            return Err("planning is complete without a final stage".to_string());
        }
        if job.is_stuck() {
            return Err("nothing runs, nothing is planned, and the final stage is missing".to_string());
        }
        Ok(())
    }

    /// Looks at stages that may have become ready, satisfied or done, and at all that follows from that.
    pub(crate) fn advance(&mut self, seq: JobSeq, mut due: Vec<StageId>, out: &mut Vec<Effect>) {
        if let Some(error) = self.jobs.get_mut(&seq).and_then(|job| job.doomed.take()) {
            self.end_job(seq, JobState::Failed(error), out);
            return;
        }
        while let Some(job) = self.jobs.get_mut(&seq) {
            let Some(id) = due.pop().or_else(|| job.reopened.pop()) else { break };
            let Some(stage) = job.stages.get_mut(&id) else { continue };
            if stage.phase != Phase::Open {
                continue;
            }
            if stage.blocked_by == 0 && stage.has_enough_rows() {
                stage.skip_waiting();
                self.cancel_unneeded(seq, id, out);
            }
            let Some(job) = self.jobs.get_mut(&seq) else { continue };
            let Some(stage) = job.stages.get_mut(&id) else { continue };
            if stage.is_ready() {
                job.ready.insert(id);
            } else {
                job.ready.remove(&id);
            }
            if !stage.is_done() {
                continue;
            }
            stage.phase = Phase::Finished;
            stage.shrunk = false;
            job.open_stages -= 1;
            let (is_final, inputs) = (stage.is_final, stage.inputs.clone());
            for input in &inputs {
                if let Some(input) = job.stages.get_mut(input) {
                    input.open_consumers -= 1;
                }
            }
            if is_final {
                self.commit(seq, id, out);
            } else {
                self.finish_stage(seq, id, &mut due, out);
            }
        }
        self.requeue(seq);
    }

    /// Cancels the running tasks of a stage that has enough rows, except those that a client reads from already: a
    /// cut stream would look like a fault to it. It ends them itself when it has its rows.
    fn cancel_unneeded(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        for (key, life) in stage.running_keys(&job.id) {
            if stage.running(&key).is_some_and(|running| !running.streaming) {
                stage.take_running(&key);
                stage.lost.insert(key.task);
                if let Some((executor, incarnation)) = self.executors.cancel(life, &key) {
                    out.push(Effect::CancelTask { task: key, executor, incarnation });
                }
            }
        }
    }

    /// Tells of a finished stage, unblocks its consumers and releases its inputs.
    fn finish_stage(&mut self, seq: JobSeq, id: StageId, due: &mut Vec<StageId>, out: &mut Vec<Effect>) {
        let Some(finished) = self.finished(seq, id) else { return };
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id) else { return };
        stage.unreachable.clear();
        let is_known = std::mem::replace(&mut stage.announced, true);
        let (consumers, inputs) = (stage.consumers.clone(), stage.inputs.clone());
        if is_known {
            out.push(Effect::OutputsMoved { job: job.id.clone(), finished });
        } else {
            out.push(Effect::Plan { job: job.id.clone(), reason: PlanReason::Finished(finished) });
            if !job.complete {
                job.plans_due += 1;
            }
        }
        for consumer in consumers {
            if let Some(consumer) = job.stages.get_mut(&consumer).filter(|consumer| consumer.phase == Phase::Open) {
                consumer.blocked_by -= 1;
                due.push(consumer.id);
            }
        }
        for stage in inputs.into_iter().chain([id]) {
            self.release_if_read(seq, stage, out);
        }
    }

    /// The final stage is finished: publishes what its tasks wrote, if anything, and then ends the job.
    fn commit(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(stage) = job.stages.get_mut(&id).filter(|stage| stage.commits) else {
            self.finish_job(seq, out);
            return;
        };
        let attempt = stage.attempt;
        for (task, output) in stage.outputs.iter_mut().filter(|(_, output)| !output.publishing) {
            let Some((executor, incarnation)) = self.executors.get(output.life).map(|executor| executor.address())
            else {
                continue;
            };
            output.publishing = true;
            let task = TaskKey {
                job: job.id.clone(),
                stage: id,
                stage_attempt: attempt,
                task: *task,
                attempt: output.attempt,
            };
            job.committing.insert(task.clone(), output.life);
            out.push(Effect::Commit { task, executor, incarnation });
        }
        job.publishing |= !job.committing.is_empty();
        if job.committing.is_empty() {
            self.finish_job(seq, out);
        } else {
            self.close(seq, out);
        }
    }

    pub(crate) fn task_committed(&mut self, key: &TaskKey, out: &mut Vec<Effect>) {
        let Some(seq) = self.by_id.get(&key.job).copied() else { return };
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(life) = job.committing.remove(key) else { return };
        let stage = job.stages.get_mut(&key.stage);
        if let Some(output) = stage.and_then(|stage| stage.outputs.get_mut(&key.task)) {
            output.delivered = true;
            self.executors.unneed(life, seq);
        }
        if !job.committing.is_empty() || job.open_stages > 0 {
            return;
        }
        let client_left = job.client_left;
        self.finish_job(seq, out);
        if client_left {
            self.end_job(seq, JobState::Finished, out);
        } else {
            self.requeue(seq);
        }
    }

    /// Something could not be published. A task that writes the same files again, over those that were published, may do
    /// better if the fault may pass.
    pub(crate) fn commit_failed(&mut self, key: &TaskKey, error: ClassifiedError, out: &mut Vec<Effect>) {
        let Some(seq) = self.by_id.get(&key.job).copied() else { return };
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let Some(life) = job.committing.remove(key) else { return };
        let stage = job.stages.get_mut(&key.stage);
        let may_pass = matches!(error.class, ErrorClass::Transient | ErrorClass::Infra | ErrorClass::Resource);
        let Some(stage) = stage.filter(|stage| stage.deterministic && may_pass) else {
            self.end_job(seq, JobState::Failed(error), out);
            return;
        };
        if stage.lose_output(key).is_some() {
            self.executors.unneed(life, seq);
        }
        self.reopen(seq, key.stage, out);
        self.write_again(seq, key, life, error, out);
    }

    fn is_committing(&self, id: &JobId) -> bool {
        let job = self.by_id.get(id).and_then(|seq| self.jobs.get(seq));
        job.is_some_and(|job| job.publishing && job.finished.is_none())
    }

    /// The results are complete.
    fn finish_job(&mut self, seq: JobSeq, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        job.finished = Some(self.now);
        out.push(Effect::JobFinished { job: job.id.clone() });
        self.close(seq, out);
    }

    /// The final stage is finished: whatever else runs for the job is not needed.
    fn close(&mut self, seq: JobSeq, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        job.ready.clear();
        let open: Vec<_> =
            job.stages.values().filter(|stage| stage.phase == Phase::Open).map(|stage| stage.id).collect();
        for id in open {
            let Some(job) = self.jobs.get_mut(&seq) else { return };
            let Some(stage) = job.stages.get_mut(&id) else { continue };
            job.open_stages -= 1;
            stage.phase = Phase::Finished;
            stage.skip_waiting();
            self.cancel_unneeded(seq, id, out);
        }
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        job.stages.values_mut().for_each(|stage| stage.open_consumers = 0);
        self.release_unread_stages(seq, out);
    }

    /// Releases the finished stages that nobody is known to read.
    pub(crate) fn release_unread_stages(&mut self, seq: JobSeq, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(&seq) else { return };
        let stages: Vec<_> = job.stages.keys().copied().collect();
        for stage in stages {
            self.release_if_read(seq, stage, out);
        }
    }

    fn release_if_read(&mut self, seq: JobSeq, id: StageId, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&seq) else { return };
        let complete = job.complete;
        let is_read = |stage: &&mut Stage| {
            let has_readers = complete || !stage.consumers.is_empty();
            let is_finished = stage.phase == Phase::Finished && !stage.is_final && !stage.released;
            is_finished && has_readers && stage.open_consumers == 0
        };
        let Some(stage) = job.stages.get_mut(&id).filter(is_read) else { return };
        stage.released = true;
        for output in stage.outputs.values().filter(|output| !output.delivered) {
            self.executors.unneed(output.life, seq);
        }
        let executors = self.executors.addresses(&stage.touched);
        out.push(Effect::ReleaseStage { job: job.id.clone(), stage: id, executors });
    }

    /// Drops the plan of a job whose only task ran out of memory, and asks for one of many tasks. `false` if the job was
    /// not planned as one task, was planned again before, has rows at the client already or is publishing.
    pub(crate) fn plan_in_smaller_tasks(&mut self, seq: JobSeq, out: &mut Vec<Effect>) -> bool {
        let Some(job) = self.jobs.get_mut(&seq) else { return false };
        let only_task = |stage: &Stage| stage.is_final && stage.tasks.len() == 1 && stage.is_done() && !stage.streamed;
        let one_task = job.complete && job.stages.len() == 1 && job.stages.values().all(only_task);
        // What the first plan has published stays, and the second one would write beside it.
        if !one_task || job.planned_again || job.publishing {
            return false;
        }
        let executors = self.executors.addresses(&job.touched);
        for (id, stage) in std::mem::take(&mut job.stages) {
            let (attempt, executors) = (stage.attempt, executors.clone());
            out.push(Effect::ResetStage { job: job.id.clone(), stage: id, attempt, for_good: true, executors });
        }
        (job.small, job.complete, job.planned_again) = (false, false, true);
        (job.final_stage, job.open_stages, job.plans_due) = (None, 0, 1);
        job.ready.clear();
        out.push(Effect::Plan { job: job.id.clone(), reason: PlanReason::OutOfMemory });
        self.requeue(seq);
        true
    }

    /// Ends a job for good: says so unless it was said before, cancels what runs, frees everything, keeps a summary.
    pub(crate) fn end_job(&mut self, seq: JobSeq, end: JobState, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.remove(&seq) else { return };
        self.by_id.remove(&job.id);
        self.queue.set(seq, None);
        match &end {
            JobState::Failed(error) => out.push(Effect::JobFailed { job: job.id.clone(), error: error.clone() }),
            JobState::Cancelled { .. } => out.push(Effect::JobCancelled { job: job.id.clone() }),
            JobState::Planning | JobState::Running | JobState::Finished => {}
        }
        for (task, life) in job.stages.values().flat_map(|stage| stage.running_keys(&job.id)) {
            if let Some((executor, incarnation)) = self.executors.cancel(life, &task) {
                out.push(Effect::CancelTask { task, executor, incarnation });
            }
        }
        for life in &job.touched {
            self.executors.forget(*life, seq);
        }
        out.push(Effect::FreeJob { job: job.id.clone(), executors: self.executors.addresses(&job.touched) });
        let mut summary = JobView::of(&job);
        summary.ended = Some(self.now);
        summary.state = end;
        self.ended.push_back(summary);
        while self.ended.len() > self.limits.ended_jobs {
            self.ended.pop_front();
        }
    }
}

/// Connects a new stage with its inputs.
fn wire(job: &mut Job, id: StageId) -> Result<(), String> {
    let Some(inputs) = job.stages.get(&id).map(|stage| stage.inputs.clone()) else { return Ok(()) };
    let mut blocked_by = 0;
    for input in inputs {
        // Larger ids than all inputs: no cycle can be built.
        let known = job.stages.get_mut(&input).filter(|_| input < id);
        let stage = known.ok_or_else(|| format!("stage {id} reads stage {input}, which is not planned before it"))?;
        if stage.is_final {
            return Err(format!("stage {id} reads stage {input}, whose outputs are the result"));
        }
        blocked_by += usize::from(stage.phase == Phase::Open);
        stage.consumers.push(id);
        stage.open_consumers += 1;
    }
    if let Some(stage) = job.stages.get_mut(&id) {
        stage.blocked_by = blocked_by;
    }
    Ok(())
}
