// SPDX-License-Identifier: Apache-2.0
//! What a job reports about itself: progress while it runs, a summary at its end.

use std::sync::Arc;

use ballista_proto as proto;
use datafusion::physical_plan::ExecutionPlan;

use crate::exec::DistributedQueryExec;

/// Figures of a job that ended well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobSummary {
    /// The job's id.
    pub job_id: String,
    /// Stages that ran.
    pub stages: u32,
    /// Tasks that ran.
    pub tasks: u32,
    /// Bytes that went through exchanges.
    pub bytes_exchanged: u64,
    /// Rows of the result.
    pub rows: u64,
}

/// How far a running job is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobProgress {
    /// The job's id.
    pub job_id: String,
    /// Stages that are done.
    pub stages_done: u32,
    /// Stages known so far; grows while the job is being planned.
    pub stages_planned: u32,
    /// Tasks that are done.
    pub tasks_done: u32,
    /// Tasks that run now.
    pub tasks_running: u32,
    /// Tasks known so far.
    pub tasks_planned: u32,
    /// Rows that finished tasks produced.
    pub rows: u64,
    /// Bytes that finished tasks produced.
    pub bytes: u64,
}

impl JobProgress {
    pub(crate) fn new(job: &str, progress: &proto::JobProgress) -> Self {
        Self {
            job_id: job.to_owned(),
            stages_done: progress.stages_done,
            stages_planned: progress.stages_planned,
            tasks_done: progress.tasks_done,
            tasks_running: progress.tasks_running,
            tasks_planned: progress.tasks_planned,
            rows: progress.rows,
            bytes: progress.bytes,
        }
    }
}

/// Hears of the progress of a session's jobs. Called from the task that reads the result: return quickly.
pub trait ProgressListener: Send + Sync {
    /// A job went on.
    fn progress(&self, progress: &JobProgress);
}

impl<F: Fn(&JobProgress) + Send + Sync> ProgressListener for F {
    fn progress(&self, progress: &JobProgress) {
        self(progress);
    }
}

/// The summary of the job that `plan` ran as, or of the last of them if it ran several; `None` before its end, and if
/// no part of `plan` was distributed.
pub fn job_summary(plan: &dyn ExecutionPlan) -> Option<JobSummary> {
    if let Some(query) = plan.downcast_ref::<DistributedQueryExec>() {
        return query.summary();
    }
    plan.children().into_iter().map(Arc::as_ref).find_map(job_summary)
}
