// SPDX-License-Identifier: Apache-2.0
//! Keys of records. Numbers are padded, so that records come in order.

use ballista_core::{ExecutorId, JobId, StageId, TaskId};

pub(crate) const CLUSTER: &str = "cluster";
pub(crate) const EXECUTORS: &str = "executor/";
pub(crate) const JOBS: &str = "job/";

pub(crate) fn executor(executor: &ExecutorId) -> String {
    format!("{EXECUTORS}{executor}")
}

/// Prefix of all records of a job.
pub(crate) fn job(job: &JobId) -> String {
    format!("{JOBS}{job}/")
}

pub(crate) fn request(job: &JobId) -> String {
    format!("{JOBS}{job}/request")
}

pub(crate) fn starts(job: &JobId) -> String {
    format!("{JOBS}{job}/starts")
}

pub(crate) fn step(job: &JobId, number: u32) -> String {
    format!("{JOBS}{job}/step/{number:010}")
}

pub(crate) fn stage(job: &JobId, stage: StageId) -> String {
    format!("{JOBS}{job}/stage/{:010}", stage.0)
}

pub(crate) fn commit(job: &JobId, task: TaskId) -> String {
    format!("{JOBS}{job}/commit/{:010}", task.0)
}

pub(crate) fn end(job: &JobId) -> String {
    format!("{JOBS}{job}/end")
}
