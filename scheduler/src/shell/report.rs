// SPDX-License-Identifier: Apache-2.0
//! Progress for clients, and the cluster as people see it.

use ballista_core::JobId;
use ballista_proto as proto;
use ballista_scheduler_core::{JobView, StageState};

use super::Shell;
use super::job::Job;

/// Least time between two reports of a job's progress, in milliseconds. A shorter job has none.
const INTERVAL: u64 = 200;

impl Shell {
    /// Something of a job changed: its client shall hear of it, soon.
    pub(super) fn report_later(&mut self, id: &JobId) {
        if !self.progress_due.contains(id) && self.jobs.contains_key(id) {
            self.progress_due.insert(id.clone());
        }
    }

    /// Sends the progress that is due.
    pub(super) fn report_due(&mut self) {
        let now = self.now();
        let jobs = &mut self.jobs;
        let state = &self.state;
        self.progress_due.retain(|id| {
            let Some(job) = jobs.get_mut(id).filter(|job| job.end.is_none()) else { return false };
            let wait = now.0.saturating_sub(job.progress_sent.0) < INTERVAL;
            if !wait && let Some(view) = state.job(id) {
                job.clients.set_progress(progress(job, &view));
                job.progress_sent = now;
            }
            wait
        });
    }

    /// Executors and jobs: those that ended, then those that live.
    pub(crate) fn cluster(&self) -> proto::GetClusterResponse {
        let executors = self.state.executors().map(|view| {
            let executor = self.executors.get(&(view.executor.clone(), view.incarnation));
            let usage = executor.map(|executor| executor.usage).unwrap_or_default();
            proto::ExecutorInfo {
                address: executor.map(|executor| executor.address.to_proto()),
                slots: view.slots,
                slots_used: view.slots_used,
                memory_used: usage.memory_used,
                memory_limit: executor.map_or(0, |executor| executor.memory_bytes),
                disk_used: usage.disk_used,
                disk_limit: usage.disk_limit,
            }
        });
        let mut live: Vec<_> = self.jobs.iter().collect();
        live.sort_by(|(a, job_a), (b, job_b)| (job_a.submitted, *a).cmp(&(job_b.submitted, *b)));
        let live = live.into_iter().map(|(id, job)| self.job_info(id, job));
        proto::GetClusterResponse {
            executors: executors.collect(),
            jobs: self.ended.iter().cloned().chain(live).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// How many records of jobs there are, here and in the core.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> usize {
        let core = self.state.footprint();
        let in_core = core.jobs + core.stages + core.pending + core.running + core.outputs + core.links;
        in_core + self.jobs.len() + self.plans.len() + self.progress_due.len() + self.events.len()
    }

    pub(super) fn job_info(&self, id: &JobId, job: &Job) -> proto::JobInfo {
        let view = self.state.job(id);
        proto::JobInfo {
            job: id.to_string(),
            name: job.name.clone(),
            state: job.state(view.as_ref()).to_owned(),
            progress: view.map(|view| progress(job, &view)),
        }
    }
}

fn progress(job: &Job, view: &JobView) -> proto::JobProgress {
    let clamp = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let stages_done = view.stages.iter().filter(|stage| stage.state == StageState::Finished).count();
    proto::JobProgress {
        stages_done: clamp(stages_done as u64),
        stages_planned: clamp(view.stages.len() as u64),
        tasks_done: clamp(view.partitions.done),
        tasks_running: clamp(view.partitions.running),
        tasks_planned: clamp(view.partitions.total),
        rows: view.rows,
        bytes: job.bytes_exchanged,
    }
}
