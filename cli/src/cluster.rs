// SPDX-License-Identifier: Apache-2.0
//! Jobs and executors of a cluster as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use ballista_client::{BallistaQueryPlanner, Cluster, ExecutorOverview, JobOverview};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::progress::bytes;

/// The cluster that a session's queries go to.
pub(crate) fn of_session(context: &SessionContext) -> Option<Arc<Cluster>> {
    let state = context.state();
    let planner: &dyn std::any::Any = state.query_planner().as_ref();
    planner.downcast_ref::<BallistaQueryPlanner>().map(|planner| Arc::clone(planner.cluster()))
}

/// A row per job, with every figure in a column of its own.
pub(crate) fn jobs(jobs: &[JobOverview]) -> Result<RecordBatch> {
    let text = |of: fn(&JobOverview) -> &str| Arc::new(StringArray::from_iter_values(jobs.iter().map(of))) as ArrayRef;
    let small = |of: fn(&JobOverview) -> u32| Arc::new(UInt32Array::from_iter_values(jobs.iter().map(of))) as ArrayRef;
    let large = |of: fn(&JobOverview) -> u64| Arc::new(UInt64Array::from_iter_values(jobs.iter().map(of))) as ArrayRef;
    Ok(RecordBatch::try_from_iter([
        ("job", text(|job| &job.progress.job_id)),
        ("name", text(|job| &job.name)),
        ("state", text(|job| &job.state)),
        ("stages_done", small(|job| job.progress.stages_done)),
        ("stages", small(|job| job.progress.stages_planned)),
        ("tasks_done", small(|job| job.progress.tasks_done)),
        ("tasks_running", small(|job| job.progress.tasks_running)),
        ("tasks", small(|job| job.progress.tasks_planned)),
        ("rows", large(|job| job.progress.rows)),
        ("bytes_exchanged", large(|job| job.progress.bytes)),
    ])?)
}

/// The same for people, in little room.
pub(crate) fn jobs_for_people(jobs: &[JobOverview]) -> Result<RecordBatch> {
    let text =
        |of: fn(&JobOverview) -> String| Arc::new(StringArray::from_iter_values(jobs.iter().map(of))) as ArrayRef;
    Ok(RecordBatch::try_from_iter([
        ("job", text(|job| job.progress.job_id.clone())),
        ("name", text(|job| job.name.clone())),
        ("state", text(|job| job.state.clone())),
        ("stages", text(|job| format!("{}/{}", job.progress.stages_done, job.progress.stages_planned))),
        ("tasks", text(|job| format!("{}/{}", job.progress.tasks_done, job.progress.tasks_planned))),
        ("running", text(|job| job.progress.tasks_running.to_string())),
        ("rows", text(|job| job.progress.rows.to_string())),
        ("exchanged", text(|job| bytes(job.progress.bytes))),
    ])?)
}

/// A row per executor.
pub(crate) fn executors(executors: &[ExecutorOverview]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&ExecutorOverview) -> String| {
        Arc::new(StringArray::from_iter_values(executors.iter().map(of))) as ArrayRef
    };
    let of = |used: u64, all: u64| format!("{} of {}", bytes(used), bytes(all));
    let number = |of: fn(&ExecutorOverview) -> u32| {
        Arc::new(UInt32Array::from_iter_values(executors.iter().map(of))) as ArrayRef
    };
    Ok(RecordBatch::try_from_iter([
        ("executor", text(&|executor| executor.id.clone())),
        ("address", text(&|executor| executor.address.clone())),
        ("slots", number(|executor| executor.slots)),
        ("slots_used", number(|executor| executor.slots_used)),
        ("memory_used", text(&|executor| of(executor.memory_used, executor.memory_limit))),
        ("disk_used", text(&|executor| of(executor.disk_used, executor.disk_limit))),
    ])?)
}
