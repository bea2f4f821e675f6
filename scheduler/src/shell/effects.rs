// SPDX-License-Identifier: Apache-2.0
//! What the shell does about each effect of the core.

use ballista_core::{ClassifiedError, ErrorClass, JobId, TaskKey};
use ballista_exchange::Ticket;
use ballista_exchange::wire::task_key_to_proto;
use ballista_proto as proto;
use ballista_scheduler_core::{Effect, Event, Instant64};
use proto::job_event::Event as ToClient;
use proto::scheduler_message::Message as ToExecutor;
use tracing::{debug, info};

use super::Shell;
use super::executors::Life;
use super::job::{End, Task, TaskPhase};
use super::outgoing::Outgoing;
use super::pool::catch;

/// Jobs that are remembered after they were freed.
const ENDED_JOBS: usize = 100;

impl Shell {
    /// Does what an effect says. A panic fails its job only; the effects that follow it are carried out all the same.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        let (job, launch) = match &effect {
            Effect::Launch { task, executor, incarnation, .. } => {
                (Some(task.job.clone()), Some((task.clone(), (executor.clone(), *incarnation))))
            }
            Effect::CancelTask { task, .. }
            | Effect::StreamReady { task, .. }
            | Effect::Adopted { task, .. }
            | Effect::Commit { task, .. } => (Some(task.job.clone()), None),
            Effect::Plan { job, .. }
            | Effect::ReleaseStage { job, .. }
            | Effect::ResetStage { job, .. }
            | Effect::OutputsLost { job, .. }
            | Effect::OutputsMoved { job, .. }
            | Effect::JobResumed { job }
            | Effect::FreeJob { job, .. }
            | Effect::JobFinished { job }
            | Effect::JobFailed { job, .. }
            | Effect::JobCancelled { job } => (Some(job.clone()), None),
            Effect::FenceExecutor { .. } => (None, None),
        };
        if let Err(panic) = catch(|| self.apply(effect)) {
            if let Some((task, life)) = launch {
                self.launch_failed(task, life, &format!("panic: {panic}"));
            }
            self.panicked(job, &panic);
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Plan { job, reason } => self.plan(&job, reason),
            Effect::Launch { task, executor, incarnation, partitions, slots } => {
                let life = (executor, incarnation);
                if let Err(problem) = self.launch(&task, &life, partitions, slots) {
                    self.launch_failed(task, life, &problem);
                }
            }
            Effect::Adopted { task, executor, incarnation, partitions } => {
                let life = (executor, incarnation);
                if let Err(problem) = self.adopted(&task, &life, &partitions) {
                    let message = format!("task {task} of executor {} cannot be taken over: {problem}", life.0);
                    self.fail(&task.job, &ClassifiedError::new(ErrorClass::Deterministic, message));
                }
            }
            Effect::CancelTask { task, executor, incarnation } => {
                debug!(%task, %executor, "task cancelled");
                if let Some(record) = self.jobs.get_mut(&task.job).and_then(|job| job.task(&task)) {
                    record.phase = TaskPhase::Cancelled;
                }
                let cancel = proto::CancelTask { task: Some(task_key_to_proto(&task)) };
                self.send(&(executor, incarnation), ToExecutor::Cancel(cancel));
            }
            Effect::Commit { task, executor, incarnation } if self.journal_failed(&task.job) => {
                let message =
                    "what the query has written cannot be published: the scheduler's journal cannot be written";
                let error = ClassifiedError::new(ErrorClass::Deterministic, message);
                self.events.push_back(Event::CommitFailed { task, executor, incarnation, error });
            }
            Effect::Commit { task, executor, incarnation } => {
                let commit = proto::CommitTask { task: Some(task_key_to_proto(&task)) };
                self.send(&(executor, incarnation), ToExecutor::Commit(commit));
            }
            Effect::StreamReady { task, executor, incarnation } => self.result_ready(&task, &(executor, incarnation)),
            Effect::ReleaseStage { job, stage, executors } => {
                for life in executors {
                    let release = proto::ReleaseStage { job: job.to_string(), stage: stage.0 };
                    self.send(&life, ToExecutor::ReleaseStage(release));
                }
            }
            Effect::ResetStage { job, stage, attempt, for_good, executors } => {
                debug!(%job, %stage, for_good, "all that the stage has done is void");
                if for_good {
                    self.plans.remove_stage(&job, stage);
                }
                if let Some(record) = self.jobs.get_mut(&job).and_then(|record| record.stages.get_mut(&stage)) {
                    record.tasks.clear();
                    record.located = None;
                    record.outputs = super::outputs::StageOutputs::default();
                    record.attempt = attempt + 1;
                }
                self.write_reset(&job, stage, attempt + 1);
                for life in executors {
                    let free = proto::FreeStage { job: job.to_string(), stage: stage.0, stage_attempt: attempt };
                    self.send(&life, ToExecutor::FreeStage(free));
                }
            }
            Effect::OutputsLost { job, stage, executor, incarnation } => {
                debug!(%job, %stage, %executor, "outputs lost");
                if let Some(record) = self.jobs.get_mut(&job).and_then(|record| record.stages.get_mut(&stage)) {
                    record.lose(&(executor, incarnation));
                }
            }
            Effect::OutputsMoved { job, finished } => {
                if let Err(problem) = self.locate(&job, &finished) {
                    let message = format!("stage {} of job {job} cannot be read: {problem}", finished.stage);
                    self.fail(&job, &ClassifiedError::new(ErrorClass::Deterministic, message));
                }
            }
            Effect::JobResumed { job } => {
                info!(%job, "parts of the result were lost: the job goes on");
                if let Some(record) = self.jobs.get_mut(&job).filter(|record| record.end == Some(End::Finished)) {
                    record.end = None;
                    record.finished_at = None;
                    record.last_events.clear();
                }
            }
            Effect::FreeJob { job, executors } => {
                for life in executors {
                    self.send(&life, ToExecutor::FreeJob(proto::FreeJob { job: job.to_string() }));
                }
                // An executor may hold something of a job that goes on under this id, or is over and kept for its client.
                let is_known = self.jobs.get(&job).is_some_and(|record| record.in_core);
                if is_known && !self.state.is_live(&job) {
                    self.forget(&job, "cancelled");
                }
            }
            Effect::JobFinished { job } => self.job_finished(&job),
            Effect::JobFailed { job, error } => {
                info!(%job, class = %error.class, message = %error.message, "job failed");
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.fail(&job, &error);
                }
            }
            Effect::JobCancelled { job } => {
                info!(%job, "job cancelled");
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.cancelled(&job);
                }
            }
            Effect::FenceExecutor { executor, incarnation } => {
                let life = (executor, incarnation);
                if let Some(gone) = self.executors.remove(&life) {
                    self.write_executor(&life);
                    self.jobs.values_mut().for_each(|job| job.lose_tasks(&life));
                    for other in self.executors.lives() {
                        self.send(&other, ToExecutor::PeerLost(proto::PeerLost { incarnation: incarnation.0 }));
                    }
                    let reason = "this incarnation is no longer part of the cluster; register as a new one";
                    // Its queue may be closed or full; the end of the stream says the same.
                    let fenced = ToExecutor::Fenced(proto::Fenced { reason: reason.to_owned() });
                    let _ = gone.session.map(|session| session.send(Outgoing::Message(fenced)));
                }
            }
        }
    }

    fn launch(&mut self, task: &TaskKey, life: &Life, partitions: Vec<u32>, slots: u32) -> Result<(), String> {
        let job = self.jobs.get_mut(&task.job).ok_or("its job is gone")?;
        let stage = job.stages.get(&task.stage).ok_or("its stage is unknown")?;
        let launch = proto::Launch {
            task: Some(task_key_to_proto(task)),
            settings: job.settings.clone(),
            session_id: job.session_id.clone(),
            inputs: Vec::new(),
            is_final: stage.is_final,
            partitions,
            metrics: job.analysis.is_some(),
            stores: job.stores.clone(),
            slots,
        };
        let inputs = job.inputs_of(stage).ok_or("an input of its stage is not finished")?;
        debug!(%task, executor = %life.0, partitions = launch.partitions.len(), "task launched");
        let first_partition = launch.partitions.first().copied().unwrap_or(0);
        let (life_of_task, stage_attempt) = (life.clone(), task.stage_attempt);
        let record =
            Task { life: life_of_task, stage_attempt, first_partition, phase: TaskPhase::Running, inline: None };
        if let Some(stage) = job.stages.get_mut(&task.stage) {
            stage.tasks.insert((task.task, task.attempt), record);
        }
        if let Some(analysis) = &mut job.analysis {
            analysis.launched(task.stage);
        }
        self.send_outgoing(life, Outgoing::Launch(launch, inputs));
        Ok(())
    }

    /// A task of before a restart counts: remembers it as if it had been launched, and its output.
    fn adopted(&mut self, task: &TaskKey, life: &Life, partitions: &[u32]) -> Result<(), String> {
        let output = self.brought.remove(task);
        debug!(%task, executor = %life.0, finished = output.is_some(), "task taken over");
        let job = self.jobs.get_mut(&task.job).ok_or("its job is gone")?;
        let stage = job.stages.get_mut(&task.stage).ok_or("its stage is unknown")?;
        let first_partition = partitions.first().copied().unwrap_or(0);
        let (life_of_task, stage_attempt) = (life.clone(), task.stage_attempt);
        let record =
            Task { life: life_of_task, stage_attempt, first_partition, phase: TaskPhase::Running, inline: None };
        stage.tasks.insert((task.task, task.attempt), record);
        output.map_or(Ok(()), |output| job.take_output(task, life, output))
    }

    /// The executor never heard of the task: gives its slots back, and ends its job.
    fn launch_failed(&mut self, task: TaskKey, (executor, incarnation): Life, problem: &str) {
        let message = format!("task {task} could not be launched: {problem}");
        let error = ClassifiedError::new(ErrorClass::Deterministic, message);
        self.events.push_back(Event::TaskFailed { task, executor, incarnation, error });
    }

    /// Tells the client of a part of the result: the rows themselves, or where to fetch them.
    fn result_ready(&mut self, task: &TaskKey, life: &Life) {
        let Some(job) = self.jobs.get_mut(&task.job).filter(|job| !job.keeps_rows) else { return };
        let Some(stage) = job.stages.get_mut(&task.stage) else { return };
        let Some(record) = stage.tasks.get_mut(&(task.task, task.attempt)) else { return };
        let mut part = proto::ResultPart {
            order: record.first_partition,
            ordered: stage.ordered,
            task: Some(task_key_to_proto(task)),
            ..Default::default()
        };
        match (record.inline.take(), self.executors.get(life)) {
            (Some(rows), _) => part.inline = rows,
            (None, Some(executor)) => {
                let ticket = Ticket::result(life.1, task.clone());
                part.ticket = self.config.ticket_key.sign(&ticket.to_proto());
                part.location = Some(executor.address.to_proto());
            }
            // Its loss is among the events that wait.
            (None, None) => return,
        }
        job.parts.insert(task.task, part.clone());
        job.clients.send(ToClient::Result(part));
    }

    fn job_finished(&mut self, id: &JobId) {
        let view = self.state.job(id);
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.end.is_none()) else { return };
        let kept_bytes = match job.keeps_rows.then(|| job.keep_rows(id, &self.executors)).transpose() {
            Ok(bytes) => bytes,
            Err(problem) => {
                let message = format!("the rows of job {id} cannot be kept: {problem}");
                job.fail(id, &ClassifiedError::new(ErrorClass::Infra, message));
                self.events.push_back(Event::ClientDone { job: id.clone() });
                return;
            }
        };
        job.end = Some(End::Finished);
        job.finished_at = Some(Instant64(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)));
        let is_kept = kept_bytes.is_some();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let finished = proto::JobFinished {
            stages: view.as_ref().map_or(0, |view| count(view.stages.len())),
            tasks: view.as_ref().map_or(0, |view| u32::try_from(view.tasks.done).unwrap_or(u32::MAX)),
            rows: view.as_ref().map_or(0, |view| view.rows),
            bytes_exchanged: job.bytes_exchanged,
            parts: count(job.parts.len()),
            kept_bytes: kept_bytes.unwrap_or_default(),
        };
        info!(job = %id, stages = finished.stages, tasks = finished.tasks, rows = finished.rows, "job finished");
        if let Some(analysis) = job.analysis.as_ref().map(|analysis| analysis.to_proto()) {
            job.send_last(id, ToClient::Analysis(analysis));
        }
        job.send_last(id, ToClient::Finished(finished));
        let planning = super::job::Planning { complete: true, ..Default::default() };
        let planner = std::mem::replace(&mut job.planning, planning).planner;
        let has_remote_parts = job.has_remote_parts();
        self.drop_planner(planner);
        if is_kept {
            // Nothing is launched any more, and the plan may hold the rows that are kept.
            self.plans.remove_job(id);
        } else if !has_remote_parts {
            // All rows are here; what has to be kept for clients is kept in memory and in the journal.
            self.events.push_back(Event::ClientDone { job: id.clone() });
        }
    }

    /// Drops the record of a job, and with it everything that was kept for it but its end, if somebody may come for that.
    pub(super) fn forget(&mut self, id: &JobId, state: &'static str) {
        self.plans.remove_job(id);
        self.progress_due.remove(id);
        let Some(mut job) = self.jobs.remove(id) else { return };
        self.drop_planner(job.planning.planner.take());
        let mut info = self.job_info(id, &job);
        if job.end.is_none() {
            info.state = state.to_owned();
        }
        self.ended.push_back(info);
        while self.ended.len() > ENDED_JOBS {
            self.ended.pop_front();
        }
        // Clients that came back while it was not known what counts.
        for follower in std::mem::take(&mut job.attaching) {
            job.attach(id, follower);
        }
        self.keep_end(id, &mut job);
    }
}
