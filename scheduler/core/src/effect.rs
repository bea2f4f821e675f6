// SPDX-License-Identifier: Apache-2.0
//! What shall be done: the output of [`State::step`](crate::State::step), to be carried out in order.
//!
//! Every effect is safe to repeat. Effects for an executor are addressed to one incarnation and are dropped by the
//! shell if that one is gone.

use ballista_core::{ClassifiedError, ExecutorId, Incarnation, JobId, StageId, TaskKey};

use crate::event::OutputStats;

/// Something that shall be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Plan what can be planned of the job now, and answer once with `Planned` or `PlanFailed`. After a `Planned` that
    /// was `complete` it only tells the outputs of a stage; an answer is then ignored.
    Plan {
        /// The job.
        job: JobId,
        /// Why now.
        reason: PlanReason,
    },
    /// Start a task.
    Launch {
        /// The task attempt.
        task: TaskKey,
        /// Where.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
        /// The partitions of the stage that it runs, ascending.
        partitions: Vec<u32>,
        /// How many of the executor's slots it holds.
        slots: u32,
    },
    /// A task attempt that an executor brought along counts: it runs there, or has its output there.
    Adopted {
        /// The task attempt.
        task: TaskKey,
        /// Where.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
        /// The partitions of the stage that it runs, ascending.
        partitions: Vec<u32>,
    },
    /// Stop a task and discard its output, also if it has ended meanwhile. Its slots stay held until the executor
    /// reports that it ended.
    CancelTask {
        /// The task attempt.
        task: TaskKey,
        /// Where it runs.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
    },
    /// Tell the client to read the result of a final-stage task: once per attempt, at its first rows or its end. A
    /// later attempt of a task takes the place of an earlier one.
    StreamReady {
        /// The task attempt.
        task: TaskKey,
        /// Where it runs.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
    },
    /// Every task of the final stage is finished: publish what this one wrote, and answer with `TaskCommitted` or
    /// `CommitFailed`. What a task wrote and was not told to publish is thrown away with its job.
    Commit {
        /// The task attempt.
        task: TaskKey,
        /// Where it ran.
        executor: ExecutorId,
        /// The executor's life.
        incarnation: Incarnation,
    },
    /// All known consumers of the stage are finished. Its outputs are wanted again only if others are lost: they may go
    /// when room is short.
    ReleaseStage {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// Who may hold something of it.
        executors: Vec<(ExecutorId, Incarnation)>,
    },
    /// All outputs of this attempt of the stage are void, and whatever its tasks still write: it runs again as a whole,
    /// or never.
    ResetStage {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// The attempt of the whole stage that is over.
        attempt: u32,
        /// It will not run again.
        for_good: bool,
        /// Who may hold something of it.
        executors: Vec<(ExecutorId, Incarnation)>,
    },
    /// The outputs of the stage on this executor do not count any more, because the executor or the outputs are gone.
    OutputsLost {
        /// The job.
        job: JobId,
        /// The stage.
        stage: StageId,
        /// Who held them.
        executor: ExecutorId,
        /// The holder's life.
        incarnation: Incarnation,
    },
    /// A stage of which outputs were lost is complete again. The planner knows it already; whoever reads it from now on
    /// finds the outputs here.
    OutputsMoved {
        /// The job.
        job: JobId,
        /// The stage, and where its outputs are.
        finished: StageFinished,
    },
    /// Parts of the results were lost after `JobFinished`: the job runs again to replace them.
    JobResumed {
        /// The job.
        job: JobId,
    },
    /// The job is over for everybody: all that is held for it may go, here and on these executors. Comes again for one
    /// executor if a task that was being cancelled ended with an output after all.
    FreeJob {
        /// The job.
        job: JobId,
        /// Who may hold something of it.
        executors: Vec<(ExecutorId, Incarnation)>,
    },
    /// The results are complete and stay readable until `ClientDone`.
    JobFinished {
        /// The job.
        job: JobId,
    },
    /// The job ended without results, or results the client may not have read are lost.
    JobFailed {
        /// The job.
        job: JobId,
        /// Why.
        error: ClassifiedError,
    },
    /// The job was cancelled.
    JobCancelled {
        /// The job.
        job: JobId,
    },
    /// This incarnation is not, or no longer, part of the cluster: nothing it says counts, and it must end its tasks
    /// and come back as a new one.
    FenceExecutor {
        /// The executor.
        executor: ExecutorId,
        /// The life that is over.
        incarnation: Incarnation,
    },
}

/// Why something can be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanReason {
    /// The job is new.
    Submitted,
    /// A stage has finished. Comes once for every stage but the final one, however often it has to run again.
    Finished(StageFinished),
    /// The job was planned as one task, which ran out of memory: forget that plan, and spread the work. Comes at most
    /// once. New stages need new numbers.
    OutOfMemory,
}

/// A finished stage and where its outputs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageFinished {
    /// The stage.
    pub stage: StageId,
    /// One output per successful task, ordered by task.
    pub outputs: Vec<TaskOutput>,
}

/// The output of a successful task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskOutput {
    /// The task attempt, which is the identity of the output.
    pub task: TaskKey,
    /// Who holds it.
    pub executor: ExecutorId,
    /// The holder's life.
    pub incarnation: Incarnation,
    /// The partitions of the stage that the task ran, ascending.
    pub partitions: Vec<u32>,
    /// Its size.
    pub stats: OutputStats,
}
