// SPDX-License-Identifier: Apache-2.0
//! What can happen: the input of [`State::step`](crate::State::step).
//!
//! An event is taken as it comes, in any order and any number of times: whatever does not fit the state changes
//! nothing. Only [`Event::Planned`] and [`Event::PlanFailed`] carry no number of their own, so the shell answers each
//! [`Effect::Plan`](crate::Effect::Plan) exactly once.

use ballista_core::{ClassifiedError, ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey};

/// A point of monotonic time in milliseconds since some origin of the shell's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant64(pub u64);

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What a journal says of a cluster whose scheduler has died. Counts as the first event of a state only. Nothing is
    /// launched until all of `executors` have joined, or [`Limits::restore_millis`](crate::Limits::restore_millis) are
    /// over: what they hold is taken over as they come, and only what nobody brings is computed again.
    Restored {
        /// Who was connected.
        executors: Vec<(ExecutorId, Incarnation)>,
        /// The jobs that had not ended, in the order of their submission.
        jobs: Vec<RestoredJob>,
        /// Stages that are planned from now on start with this attempt, which no stage of before has reached: what
        /// executors still have of a plan that was forgotten is not taken for theirs.
        first_attempt: u32,
    },
    /// An executor registered. A known incarnation is back after its connection broke; another one replaces the former,
    /// which is lost; one that was lost before is refused for good.
    ExecutorJoined {
        /// The executor.
        executor: ExecutorId,
        /// Its life.
        incarnation: Incarnation,
        /// How many partitions it runs at once; 0 for an executor that only serves what it holds.
        slots: u32,
        /// All that it runs and all outputs that it holds. What is not known here is thrown away there, and what is
        /// missing there runs again.
        held: Vec<HeldTask>,
    },
    /// The connection of an executor broke, and its process may live: it gets no tasks until it joins again or its lease
    /// is over.
    ExecutorAway {
        /// The executor.
        executor: ExecutorId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// An executor is alive: renews its lease.
    ExecutorHeartbeat {
        /// The executor.
        executor: ExecutorId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// An executor is gone for good: its stream closed or its lease expired. This incarnation may never come back. Its
    /// tasks run again elsewhere, and so do those whose outputs it held, as far as they are still wanted.
    ExecutorLost {
        /// The executor.
        executor: ExecutorId,
        /// Its life.
        incarnation: Incarnation,
        /// Why it counts as lost, for the error of the jobs that it takes along.
        reason: String,
    },
    /// An executor takes no new tasks; it ends the running ones and serves its outputs.
    ExecutorDraining {
        /// The executor.
        executor: ExecutorId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A client submitted a job. A job that is known already is not submitted again.
    JobSubmitted {
        /// The job.
        job: JobId,
        /// Its weight in sharing slots; 0 counts as 1.
        weight: u32,
    },
    /// The answer to one [`Effect::Plan`](crate::Effect::Plan); ignored if none is outstanding or the job is over.
    Planned {
        /// The job.
        job: JobId,
        /// The stages that can be run now, or wait only for stages named in their inputs. May be empty.
        stages: Vec<StageSpec>,
        /// The job is expected to be short and may use the reserved slots.
        small: bool,
        /// No more planning will come: the final stage is among those planned.
        complete: bool,
    },
    /// The other answer to one [`Effect::Plan`](crate::Effect::Plan): ends the job.
    PlanFailed {
        /// The job.
        job: JobId,
        /// Why.
        error: ClassifiedError,
    },
    /// A task ended and its output is complete.
    TaskFinished {
        /// The task attempt.
        task: TaskKey,
        /// Where it ran.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
        /// What it produced.
        output: OutputStats,
        /// All of it came with the status: the executor need not be there for it. Counts for results only.
        delivered: bool,
    },
    /// A task ended without an output; also the confirmation of a cancelled task.
    TaskFailed {
        /// The task attempt.
        task: TaskKey,
        /// Where it ran.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
        /// Why.
        error: ClassifiedError,
    },
    /// A task of the final stage has rows ready: the client may connect. Ignored for other stages.
    TaskStreaming {
        /// The task attempt.
        task: TaskKey,
        /// Where it runs.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
    },
    /// The client has read the result of a task of the final stage to its end: the executor need not be there for it.
    ResultRead {
        /// The task attempt.
        task: TaskKey,
    },
    /// The client cannot read the result of a task of the final stage: it runs again.
    ResultUnread {
        /// The task attempt.
        task: TaskKey,
        /// Why, for the error if that happens too often.
        reason: String,
    },
    /// What a task wrote is published: the answer to [`Effect::Commit`](crate::Effect::Commit).
    TaskCommitted {
        /// The task attempt.
        task: TaskKey,
        /// Where it ran.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
    },
    /// The other answer: some of it could not be published. Ends the job.
    CommitFailed {
        /// The task attempt.
        task: TaskKey,
        /// Where it ran.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
        /// Why.
        error: ClassifiedError,
    },
    /// The job shall end: asked for by a user, or its client broke off. A finished job is only freed; one that is
    /// publishing what it wrote finishes that.
    JobCancelled {
        /// The job.
        job: JobId,
        /// Why, for the job's summary.
        reason: String,
    },
    /// The client has all it wants of the results: free what is left. If the job still runs, it counts as finished
    /// when every partition of its final stage was streaming, and as cancelled otherwise.
    ClientDone {
        /// The job.
        job: JobId,
    },
    /// Time passes: executors whose lease expired are lost, tasks that waited for their time run again, late ones get a
    /// second attempt.
    Tick,
}

/// A task attempt that an executor brings along when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTask {
    /// The task attempt.
    pub task: TaskKey,
    /// The partitions of the stage that it runs or ran, ascending.
    pub partitions: Vec<u32>,
    /// How many slots it holds while it runs.
    pub slots: u32,
    /// How far it is.
    pub state: HeldState,
}

/// How far a task is that an executor brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// It runs.
    Running {
        /// It has rows for the client.
        streaming: bool,
    },
    /// Its output is complete.
    Finished {
        /// What it produced.
        output: OutputStats,
        /// As in [`Event::TaskFinished`].
        delivered: bool,
    },
}

/// A job as a journal knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredJob {
    /// The job.
    pub job: JobId,
    /// Its weight in sharing slots.
    pub weight: u32,
    /// As the last plan said.
    pub small: bool,
    /// No more planning will come.
    pub complete: bool,
    /// Its one task ran out of memory before.
    pub planned_again: bool,
    /// The tasks that were told to publish what they wrote. Empty before that.
    pub publishing: Vec<RestoredTask>,
    /// What is planned; empty if nothing is, so that it is planned from the start.
    pub stages: Vec<RestoredStage>,
}

/// A planned stage as a journal knows it. What became of its tasks, the executors know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredStage {
    /// As it was planned.
    pub spec: StageSpec,
    /// How often the whole stage was started before.
    pub attempt: u32,
    /// The planner knows that it is finished, with the outputs of these tasks; no others may take their place.
    pub announced: Option<Vec<RestoredTask>>,
    /// Number of the first task, and of the first attempt of each, that is new from now on: no earlier one has it.
    pub first_new: u32,
}

/// A task that has succeeded, as a journal knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredTask {
    /// The task.
    pub task: TaskId,
    /// The attempt that counts.
    pub attempt: u32,
    /// The partitions of the stage that it ran, ascending.
    pub partitions: Vec<u32>,
}

/// A stage as the planner hands it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSpec {
    /// The stage; new in its job and larger than each of its inputs.
    pub stage: StageId,
    /// How many partitions it has; with 0 it is finished at once.
    pub partitions: u32,
    /// How partitions become tasks.
    pub slicing: Slicing,
    /// The stages whose outputs it reads; it starts when all of them are finished.
    pub inputs: Vec<StageId>,
    /// As soon as successful tasks have produced that many rows, the rest of the stage is not needed. Means nothing for a
    /// stage that commits.
    pub row_limit: Option<u64>,
    /// Its output is the result of the job. Exactly one stage of a job is final.
    pub is_final: bool,
    /// Its tasks wrote something that is published when all of them are finished. Final stages only.
    pub commits: bool,
    /// Its outputs are kept for other jobs after this one has finished; if they are lost then, the job fails. Final
    /// stages only.
    pub is_kept: bool,
    /// A task that runs again gives the same rows in the same buckets. Otherwise outputs of two attempts are never
    /// mixed: if some are lost after somebody read others, the whole stage runs again, and its readers with it.
    pub deterministic: bool,
    /// For each partition the executors that hold input of it, with bytes. May be empty or shorter than the stage;
    /// keep it to the few largest holders per partition.
    pub preferred: Vec<Vec<(ExecutorId, u64)>>,
}

/// How the partitions of a stage become tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slicing {
    /// A task takes as many partitions as it gets slots.
    PerSlot {
        /// At most this many partitions per task; 0 counts as 1.
        max_partitions: u32,
    },
    /// One task runs all partitions.
    Whole {
        /// As many slots as it can use; it starts as soon as one is free and takes up to this many.
        slots: u32,
    },
}

/// The size of a task's output; per-bucket detail stays in the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputStats {
    /// Rows in all buckets.
    pub rows: u64,
    /// Bytes in all buckets.
    pub bytes: u64,
}
