// SPDX-License-Identifier: Apache-2.0
//! What the shell keeps of a job that the core does not: the client's queue, the planner, plans, outputs.
//!
//! A record lives from the submission until the core says `FreeJob`, and everything of the job goes with it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ballista_core::{ClassifiedError, ErrorClass, JobId, StageId, TaskId, TaskKey};
use ballista_exchange::wire::failure_to_proto;
use ballista_proto as proto;
use ballista_scheduler_core::{Instant64, JobState, JobView, OutputStats, StageFinished, TaskOutput};
use prost::bytes::Bytes;
use proto::job_event::Event as ToClient;

use super::analysis::Analysis;
use super::client::Clients;
use super::executors::{Executors, Life};
use super::message::{Follower, Terms};
use super::outgoing::EncodedInput;
use super::outputs::StageOutputs;
use crate::planner::{PlanRequest, Planner};
use crate::planning::job::{PlannedStage, StageResult};

/// A job of a client.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) weight: u32,
    /// As they go to executors with each task.
    pub(crate) settings: Vec<proto::Setting>,
    /// Likewise.
    pub(crate) stores: Vec<proto::ObjectStore>,
    pub(crate) session_id: String,
    pub(crate) clients: Clients,
    pub(crate) terms: Terms,
    /// Its records are in the journal.
    pub(crate) is_journalled: bool,
    /// It is of before a restart, and what counts of its result is not known yet; clients that wait for that.
    pub(crate) is_restoring: bool,
    pub(crate) attaching: Vec<Follower>,
    /// Its client wants nothing more of it.
    pub(crate) is_closed: bool,
    /// Clients were told that it is accepted.
    pub(crate) accepted: bool,
    /// Since when nobody follows it.
    pub(crate) left: Option<Instant64>,
    /// When its results were complete.
    pub(crate) finished_at: Option<Instant64>,
    /// Some of what it writes may be published.
    pub(crate) publishing: bool,
    pub(crate) planning: Planning,
    pub(crate) stages: BTreeMap<StageId, Stage>,
    pub(crate) submitted: Instant64,
    /// The core knows of it; until an executor is there, it does not.
    pub(crate) in_core: bool,
    /// What the client was told of its end.
    pub(crate) end: Option<End>,
    /// Why it is being cancelled, for the client.
    pub(crate) cancel_reason: Option<String>,
    /// What clients were told of the result, by task.
    pub(crate) parts: BTreeMap<TaskId, proto::ResultPart>,
    /// What they were told at its end, for those that come later.
    pub(crate) last_events: Vec<ToClient>,
    /// Bytes that stages wrote for other stages.
    pub(crate) bytes_exchanged: u64,
    /// Its rows stay in the executors until the client leaves.
    pub(crate) keeps_rows: bool,
    /// Where they are, once it is finished.
    pub(crate) kept: Option<Kept>,
    /// If the client wants to know how it ran.
    pub(crate) analysis: Option<Box<Analysis>>,
    /// When progress was last sent.
    pub(crate) progress_sent: Instant64,
}

/// Rows that a finished job has left in the executors.
pub(crate) struct Kept {
    pub(crate) located: proto::StageInput,
    pub(crate) outputs: StageOutputs,
}

/// How a job ended, as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Failed(ErrorClass),
    Cancelled,
}

/// The planner of a job: at home, or out on a planning thread.
#[derive(Default)]
pub(crate) struct Planning {
    /// Until the planner is made.
    pub(crate) request: Option<PlanRequest>,
    pub(crate) planner: Option<Box<dyn Planner>>,
    /// It is on a planning thread.
    pub(crate) is_out: bool,
    /// Finished stages that it was not told of yet.
    pub(crate) due: VecDeque<(StageId, StageResult)>,
    /// Nothing is left to plan.
    pub(crate) complete: bool,
    /// Steps in the journal.
    pub(crate) steps: u32,
    /// Of a job of before a restart that was not planned yet: how many schedulers have begun to.
    pub(crate) starts: Option<u32>,
    /// This one is among them.
    pub(crate) is_counted: bool,
}

/// A planned stage.
pub(crate) struct Stage {
    pub(crate) is_final: bool,
    /// How often the whole stage was started before.
    pub(crate) attempt: u32,
    /// It stands for the rows that another job has kept, and the core knows nothing of it.
    pub(crate) is_import: bool,
    pub(crate) ordered: bool,
    pub(crate) inputs: Vec<StageId>,
    pub(crate) tasks: HashMap<(TaskId, u32), Task>,
    pub(crate) outputs: StageOutputs,
    /// Where its outputs are, once it is finished.
    pub(crate) located: Option<EncodedInput>,
}

impl Stage {
    /// What an executor held of it is gone.
    pub(crate) fn lose(&mut self, life: &Life) {
        self.located = None;
        self.outputs.lose(life);
        for task in self.tasks.values_mut().filter(|task| task.life == *life && task.inline.is_none()) {
            task.phase = TaskPhase::Cancelled;
        }
    }
}

/// A task attempt that was launched.
pub(crate) struct Task {
    pub(crate) life: Life,
    pub(crate) stage_attempt: u32,
    pub(crate) first_partition: u32,
    pub(crate) phase: TaskPhase,
    /// Rows of the result that came with its status.
    pub(crate) inline: Option<Bytes>,
}

/// Where a task attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskPhase {
    Running,
    Cancelled,
    Finished,
}

impl Job {
    pub(crate) fn new(request: PlanRequest, terms: Terms, submitted: Instant64) -> Self {
        let setting = |wanted: &str| {
            request.settings.iter().rev().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
        };
        let to_proto = |(key, value): &(String, String)| proto::Setting { key: key.clone(), value: value.clone() };
        Self {
            name: setting("ballista.job.name").unwrap_or_default().to_owned(),
            // A weight that is no number fails the job when it is planned.
            weight: setting("ballista.job.weight").and_then(|weight| weight.parse().ok()).unwrap_or(1),
            settings: request.settings.iter().map(to_proto).collect(),
            stores: request.stores.clone(),
            session_id: request.session_id.clone(),
            clients: Clients::default(),
            terms,
            is_journalled: false,
            is_restoring: false,
            attaching: Vec::new(),
            is_closed: false,
            accepted: false,
            left: None,
            finished_at: None,
            publishing: false,
            analysis: request.analyze.then(Box::default),
            keeps_rows: request.keep,
            kept: None,
            planning: Planning { request: Some(request), ..Planning::default() },
            stages: BTreeMap::new(),
            submitted,
            in_core: false,
            end: None,
            cancel_reason: None,
            parts: BTreeMap::new(),
            last_events: Vec::new(),
            bytes_exchanged: 0,
            progress_sent: submitted,
        }
    }

    /// Tells clients that the job is accepted, unless they know.
    pub(crate) fn accept(&mut self, id: &JobId) {
        if !std::mem::replace(&mut self.accepted, true) {
            self.clients.send(ToClient::Accepted(proto::JobAccepted { job: id.to_string(), ..Default::default() }));
        }
    }

    /// Whether nothing has to be written down first: the end of a detached job must not come before its being accepted.
    pub(crate) fn may_start(&self) -> bool {
        self.accepted || !self.terms.detached
    }

    /// A client follows the job from now on, which others may have followed before.
    pub(crate) fn attach(&mut self, id: &JobId, follower: Follower) {
        let tasks = self.parts.keys().map(|task| task.0).collect();
        if self.terms.detached {
            follower.queue.send(ToClient::Schema(self.terms.schema.clone()));
        }
        follower.queue.send(ToClient::Accepted(proto::JobAccepted { job: id.to_string(), resumed: true, tasks }));
        for part in self.parts.values() {
            follower.queue.send(ToClient::Result(part.clone()));
        }
        self.last_events.iter().for_each(|event| follower.queue.send(event.clone()));
        self.clients.add(follower);
        self.left = None;
    }

    /// Whether rows of the result have to be fetched.
    pub(crate) fn has_remote_parts(&self) -> bool {
        self.parts.values().any(|part| part.location.is_some())
    }

    /// Tells clients something that others hear too when they come later.
    pub(crate) fn send_last(&mut self, id: &JobId, event: ToClient) {
        self.accept(id);
        self.last_events.push(event.clone());
        self.clients.send(event);
    }

    /// Adds a stage; its plan is kept elsewhere.
    pub(crate) fn add_stage(&mut self, planned: &PlannedStage, attempt: u32) {
        if let Some(analysis) = &mut self.analysis {
            analysis.add_stage(planned);
        }
        let stage = Stage {
            is_final: planned.is_final,
            attempt,
            is_import: false,
            ordered: planned.ordered,
            inputs: planned.inputs.clone(),
            tasks: HashMap::new(),
            outputs: StageOutputs::default(),
            located: None,
        };
        self.stages.insert(planned.stage, stage);
    }

    /// Adds a finished stage that stands for the rows that another job has kept.
    pub(crate) fn add_import(&mut self, id: StageId, kept: &Kept) {
        let located = proto::StageInput { stage: id.0, ..kept.located.clone() };
        let stage = Stage {
            is_final: false,
            attempt: 0,
            is_import: true,
            ordered: false,
            inputs: Vec::new(),
            tasks: HashMap::new(),
            outputs: kept.outputs.clone(),
            located: Some(EncodedInput::new(&located)),
        };
        self.stages.insert(id, stage);
    }

    /// The job is finished: remembers where the rows are that it keeps. Their bytes by bucket.
    pub(crate) fn keep_rows(&mut self, id: &JobId, executors: &Executors) -> Result<Vec<u64>, String> {
        let (number, stage) =
            self.stages.iter_mut().find(|(_, stage)| stage.is_final).ok_or("its final stage is unknown")?;
        let finished = stage.tasks.iter().filter(|(_, task)| task.phase == TaskPhase::Finished);
        let mut outputs: Vec<_> = finished
            .map(|((task, attempt), record)| TaskOutput {
                task: TaskKey {
                    job: id.clone(),
                    stage: *number,
                    stage_attempt: record.stage_attempt,
                    task: *task,
                    attempt: *attempt,
                },
                executor: record.life.0.clone(),
                incarnation: record.life.1,
                partitions: Vec::new(),
                stats: OutputStats::default(),
            })
            .collect();
        outputs.sort_by_key(|output| output.task.task);
        let outputs_of_stage = std::mem::take(&mut stage.outputs);
        let located = outputs_of_stage.locate(&StageFinished { stage: *number, outputs }, executors)?;
        let bytes = outputs_of_stage.bucket_bytes();
        self.kept = Some(Kept { located, outputs: outputs_of_stage });
        Ok(bytes)
    }

    /// The launched task of exactly this attempt.
    pub(crate) fn task(&mut self, key: &TaskKey) -> Option<&mut Task> {
        self.stages.get_mut(&key.stage)?.tasks.get_mut(&(key.task, key.attempt))
    }

    /// Takes in the output of a task that finished. `Ok` if it does not count, either: a duplicate, a late or a
    /// cancelled one. An error says what is wrong with the output.
    pub(crate) fn take_output(
        &mut self,
        key: &TaskKey,
        life: &Life,
        mut output: proto::TaskOutput,
    ) -> Result<(), String> {
        let Some(stage) = self.stages.get_mut(&key.stage) else { return Ok(()) };
        let Some(task) = stage.tasks.get_mut(&(key.task, key.attempt)) else { return Ok(()) };
        if task.life != *life || task.phase != TaskPhase::Running {
            return Ok(());
        }
        task.phase = TaskPhase::Finished;
        if let Some(analysis) = &mut self.analysis {
            analysis.finished(key, life, &mut output);
        }
        if stage.is_final && self.keeps_rows {
            return stage.outputs.add(life, output);
        }
        if stage.is_final {
            task.inline = output.is_inline.then_some(output.inline);
            return Ok(());
        }
        self.bytes_exchanged = self.bytes_exchanged.saturating_add(output.bytes);
        stage.outputs.add(life, output)
    }

    /// An executor is gone, and its tasks with it.
    pub(crate) fn lose_tasks(&mut self, life: &Life) {
        for task in self.stages.values_mut().flat_map(|stage| stage.tasks.values_mut()) {
            if task.life == *life && task.phase == TaskPhase::Running {
                task.phase = TaskPhase::Cancelled;
            }
        }
    }

    /// Whether any of its tasks runs.
    pub(crate) fn runs_tasks(&self) -> bool {
        let mut tasks = self.stages.values().flat_map(|stage| stage.tasks.values());
        tasks.any(|task| task.phase == TaskPhase::Running)
    }

    /// Where the inputs of a stage are. `None` if one is not finished, which the core rules out for a launch.
    pub(crate) fn inputs_of(&self, stage: &Stage) -> Option<Vec<EncodedInput>> {
        stage.inputs.iter().map(|input| self.stages.get(input)?.located.clone()).collect()
    }

    /// Bytes of finished and unfinished inputs by executor.
    pub(crate) fn input_bytes(&self, inputs: &[StageId]) -> BTreeMap<Life, u64> {
        let mut bytes = BTreeMap::new();
        for stage in inputs.iter().filter_map(|input| self.stages.get(input)) {
            for (life, held) in stage.outputs.bytes_by_holder() {
                *bytes.entry(life.clone()).or_insert(0) += held;
            }
        }
        bytes
    }

    /// Tells the client that the job failed, unless it heard so before.
    pub(crate) fn fail(&mut self, id: &JobId, error: &ClassifiedError) {
        if !matches!(self.end, Some(End::Failed(_) | End::Cancelled)) {
            self.end = Some(End::Failed(error.class));
            self.last_events.clear();
            self.send_last(id, ToClient::Failed(failure_to_proto(error)));
        }
    }

    /// Tells the client that the job was cancelled, unless it heard of an end before.
    pub(crate) fn cancelled(&mut self, id: &JobId) {
        if self.end.is_none() {
            let reason = self.cancel_reason.as_deref().unwrap_or("it was asked to end");
            let error = ClassifiedError::new(ErrorClass::Infra, format!("the job was cancelled: {reason}"));
            self.send_last(id, ToClient::Failed(failure_to_proto(&error)));
            self.end = Some(End::Cancelled);
        }
    }

    /// The job in one word.
    pub(crate) fn state(&self, view: Option<&JobView>) -> &'static str {
        match (&self.end, view.map(|view| &view.state)) {
            (Some(End::Finished), _) => "finished",
            (Some(End::Failed(_)), _) => "failed",
            (Some(End::Cancelled), _) => "cancelled",
            (None, None) => "queued",
            (None, Some(JobState::Planning)) => "planning",
            (None, Some(JobState::Running)) => "running",
            (None, Some(JobState::Finished)) => "finished",
            (None, Some(JobState::Failed(_))) => "failed",
            (None, Some(JobState::Cancelled { .. })) => "cancelled",
        }
    }
}
