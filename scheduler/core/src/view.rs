// SPDX-License-Identifier: Apache-2.0
//! Read-only snapshots: what a client, a command line or a user interface shows.

use ballista_core::{ClassifiedError, ExecutorId, Incarnation, JobId, StageId, TaskKey};

use crate::event::{Instant64, OutputStats};
use crate::executors::{Executor, Pool};
use crate::job::Job;
use crate::stage::{Phase, Stage};
use crate::state::State;

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Nothing is planned yet.
    Planning,
    /// Stages are planned; it runs, or waits for slots or for the planner.
    Running,
    /// The results are complete.
    Finished,
    /// It ended with an error.
    Failed(ClassifiedError),
    /// It was cancelled.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// Where a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageState {
    /// Its inputs are not finished.
    Blocked,
    /// No task of it runs, partitions wait for slots.
    Waiting,
    /// Tasks run.
    Running,
    /// All needed outputs were there.
    Finished,
}

/// Counts of parts of some whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// All that are known so far.
    pub total: u64,
    /// Running now.
    pub running: u64,
    /// Successful.
    pub done: u64,
}

impl Progress {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.running += other.running;
        self.done += other.done;
    }
}

/// A job, running or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Where it is.
    pub state: JobState,
    /// Its weight.
    pub weight: u32,
    /// Whether it may use the reserve.
    pub small: bool,
    /// When it was submitted.
    pub submitted: Instant64,
    /// When its results were complete or it ended otherwise.
    pub ended: Option<Instant64>,
    /// Slots it holds.
    pub slots: u64,
    /// Its planned stages by id.
    pub stages: Vec<StageView>,
    /// Partitions of the planned stages: the measure of progress.
    pub partitions: Progress,
    /// Tasks launched so far. Partitions become tasks only when they are launched, so `total` grows.
    pub tasks: Progress,
    /// Rows of the result so far.
    pub rows: u64,
    /// Bytes of the result so far.
    pub bytes: u64,
}

/// A stage of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageView {
    /// The stage.
    pub stage: StageId,
    /// Where it is.
    pub state: StageState,
    /// How often it was started before.
    pub attempt: u32,
    /// Whether its output is the result.
    pub is_final: bool,
    /// The stages it reads.
    pub inputs: Vec<StageId>,
    /// Its partitions.
    pub partitions: Progress,
    /// Its tasks launched so far.
    pub tasks: Progress,
    /// What its successful tasks produced.
    pub output: OutputStats,
}

/// A connected executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorView {
    /// The executor.
    pub executor: ExecutorId,
    /// Its life.
    pub incarnation: Incarnation,
    /// It takes no new tasks. It may leave when neither tasks nor jobs are left.
    pub draining: bool,
    /// It takes no new tasks for some time, because too much failed there.
    pub on_probation: bool,
    /// When it last sent a heartbeat.
    pub last_seen: Instant64,
    /// Regular slots.
    pub slots: u32,
    /// Regular slots held, by cancelled tasks too until they end.
    pub slots_used: u32,
    /// Slots for small jobs on top.
    pub reserve: u32,
    /// Those held.
    pub reserve_used: u32,
    /// Tasks that hold slots, cancelled ones included.
    pub tasks: usize,
    /// Jobs that run a task here or need an output from here: its loss delays them.
    pub jobs: usize,
}

/// How many records of each kind the state holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Connected executors.
    pub executors: usize,
    /// Jobs not ended.
    pub jobs: usize,
    /// Stages of these.
    pub stages: usize,
    /// Waiting partitions and their locality entries.
    pub pending: usize,
    /// Tasks that run or are being cancelled.
    pub running: usize,
    /// Outputs that are still needed.
    pub outputs: usize,
    /// Partition numbers in tasks and outputs, and executors noted per stage and job.
    pub links: usize,
    /// Summaries of ended jobs.
    pub ended: usize,
}

impl JobView {
    pub(crate) fn of(job: &Job) -> Self {
        let state = match (job.finished, job.stages.is_empty()) {
            (Some(_), _) => JobState::Finished,
            (None, true) => JobState::Planning,
            (None, false) => JobState::Running,
        };
        let stages: Vec<_> = job.stages.values().map(StageView::of).collect();
        let (mut partitions, mut tasks) = (Progress::default(), Progress::default());
        for stage in &stages {
            partitions.add(stage.partitions);
            tasks.add(stage.tasks);
        }
        let result = job.final_stage.and_then(|stage| job.stages.get(&stage)).map(|stage| stage.stats);
        let result = result.unwrap_or_default();
        Self {
            job: job.id.clone(),
            state,
            weight: job.weight,
            small: job.small,
            submitted: job.submitted,
            ended: job.finished,
            slots: job.slots,
            stages,
            partitions,
            tasks,
            rows: result.rows,
            bytes: result.bytes,
        }
    }
}

impl StageView {
    fn of(stage: &Stage) -> Self {
        let state = match stage.phase {
            Phase::Finished => StageState::Finished,
            Phase::Open if stage.blocked_by > 0 => StageState::Blocked,
            Phase::Open if stage.running.is_empty() => StageState::Waiting,
            Phase::Open => StageState::Running,
        };
        let of_task = |(task, _): &(ballista_core::TaskId, u32)| stage.partitions_of(*task).len() as u64;
        let running = stage.running.keys().map(of_task).sum();
        Self {
            stage: stage.id,
            state,
            attempt: stage.attempt,
            is_final: stage.is_final,
            inputs: stage.inputs.iter().copied().collect(),
            partitions: Progress {
                total: u64::from(stage.partitions),
                running,
                done: u64::from(stage.partitions_done),
            },
            tasks: Progress {
                total: stage.tasks.len() as u64,
                running: stage.running.len() as u64,
                done: stage.outputs.len() as u64,
            },
            output: stage.stats,
        }
    }
}

impl ExecutorView {
    fn of(executor: &Executor) -> Self {
        Self {
            executor: executor.id.clone(),
            incarnation: executor.incarnation,
            draining: executor.draining,
            on_probation: executor.probation.is_some(),
            last_seen: executor.last_seen,
            slots: executor.total[Pool::Regular as usize],
            slots_used: executor.used[Pool::Regular as usize],
            reserve: executor.total[Pool::Reserve as usize],
            reserve_used: executor.used[Pool::Reserve as usize],
            tasks: executor.running.len(),
            jobs: executor.needed.len(),
        }
    }
}

impl State {
    /// The ended jobs still remembered, oldest first, then all others by submission.
    pub fn jobs(&self) -> impl Iterator<Item = JobView> + '_ {
        self.ended.iter().cloned().chain(self.jobs.values().map(JobView::of))
    }

    /// A job, if it is not ended or still remembered.
    pub fn job(&self, id: &JobId) -> Option<JobView> {
        let live = self.by_id.get(id).and_then(|seq| self.jobs.get(seq)).map(JobView::of);
        live.or_else(|| self.ended.iter().find(|ended| ended.job == *id).cloned())
    }

    /// The connected executors in the order of joining.
    pub fn executors(&self) -> impl Iterator<Item = ExecutorView> + '_ {
        self.executors.iter().map(|(_, executor)| ExecutorView::of(executor))
    }

    /// Whether a job is not ended: it runs, or its results are kept for the client.
    pub fn is_live(&self, id: &JobId) -> bool {
        self.by_id.contains_key(id)
    }

    /// The partitions of a task; none if it is not known.
    pub fn partitions(&self, task: &TaskKey) -> Vec<u32> {
        let stage = self.by_id.get(&task.job).and_then(|seq| self.jobs.get(seq)?.stages.get(&task.stage));
        stage.map_or(Vec::new(), |stage| stage.partitions_of(task.task).to_vec())
    }

    /// Counts the records of each kind; costs a walk over all of them.
    pub fn footprint(&self) -> Footprint {
        let mut sum = Footprint { jobs: self.jobs.len(), ended: self.ended.len(), ..Footprint::default() };
        for (_, executor) in self.executors.iter() {
            sum.executors += 1;
            sum.running += executor.running.len();
            sum.links += executor.needed.len();
        }
        for job in self.jobs.values() {
            sum.links += job.touched.len();
            for stage in job.stages.values() {
                sum.stages += 1;
                sum.pending +=
                    stage.pending.entries() + stage.skipped.entries() + stage.retries.len() + stage.delayed.len();
                sum.outputs += stage.outputs.len();
                sum.links += stage.touched.len() + stage.inputs.len() + stage.consumers.len();
                sum.links += stage.tasks.values().map(|task| task.partitions.len()).sum::<usize>();
            }
        }
        sum
    }
}
