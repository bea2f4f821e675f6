// SPDX-License-Identifier: Apache-2.0
//! The cluster as people see it: its executors, its jobs, and the end of one of them.

use ballista_proto as proto;

use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::summary::JobProgress;

/// What a cluster has and does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterOverview {
    /// Version of the scheduler.
    pub version: String,
    /// Executors in the order of joining.
    pub executors: Vec<ExecutorOverview>,
    /// Jobs that ended and are remembered, then those that live, by the time of submission.
    pub jobs: Vec<JobOverview>,
}

/// A connected executor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutorOverview {
    /// Its id.
    pub id: String,
    /// Where its data is fetched, as `host:port`.
    pub address: String,
    /// How many partitions it runs at once.
    pub slots: u32,
    /// Slots that tasks hold now.
    pub slots_used: u32,
    /// Bytes of its memory pool that are taken, as it last said, and all there are.
    pub memory_used: u64,
    /// See `memory_used`.
    pub memory_limit: u64,
    /// Bytes of shuffle and spill files, as it last said, and how many they may take.
    pub disk_used: u64,
    /// See `disk_used`.
    pub disk_limit: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobOverview {
    /// Its name (`ballista.job.name`), mostly empty.
    pub name: String,
    /// In one word: queued, planning, running, finished, failed or cancelled.
    pub state: String,
    /// The job's id, and how far it is.
    pub progress: JobProgress,
}

impl Cluster {
    /// Asks the scheduler what the cluster has and does.
    pub async fn overview(&self) -> Result<ClusterOverview, ClientError> {
        let answer = self.scheduler().get_cluster(proto::GetClusterRequest {}).await;
        let answer = answer.map_err(|status| ClientError::of_call(self.name(), &status))?.into_inner();
        Ok(ClusterOverview {
            version: answer.version,
            executors: answer.executors.into_iter().map(executor).collect(),
            jobs: answer.jobs.into_iter().map(job).collect(),
        })
    }

    /// Cancels a job of any client. `false` if none of that id lives.
    pub async fn cancel_job(&self, job: &str) -> Result<bool, ClientError> {
        let answer = self.scheduler().cancel_job(proto::CancelJobRequest { job: job.to_owned() }).await;
        Ok(answer.map_err(|status| ClientError::of_call(self.name(), &status))?.into_inner().found)
    }
}

fn executor(info: proto::ExecutorInfo) -> ExecutorOverview {
    let address = info.address.unwrap_or_default();
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host };
    ExecutorOverview {
        id: address.executor,
        address: format!("{host}:{}", address.port),
        slots: info.slots,
        slots_used: info.slots_used,
        memory_used: info.memory_used,
        memory_limit: info.memory_limit,
        disk_used: info.disk_used,
        disk_limit: info.disk_limit,
    }
}

fn job(info: proto::JobInfo) -> JobOverview {
    let progress = JobProgress::new(&info.job, &info.progress.unwrap_or_default());
    JobOverview { name: info.name, state: info.state, progress }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scheduler_leaves_out_is_nothing() {
        let shown = job(proto::JobInfo { job: "j1".into(), state: "queued".into(), ..Default::default() });
        assert_eq!((shown.progress.job_id.as_str(), shown.state.as_str()), ("j1", "queued"));
        assert_eq!(shown.progress.tasks_planned, 0);
        let address = proto::ExecutorAddress { host: "::1".into(), port: 7, ..Default::default() };
        let shown =
            executor(proto::ExecutorInfo { address: Some(address), slots: 4, slots_used: 1, ..Default::default() });
        assert_eq!((shown.address.as_str(), shown.slots, shown.slots_used), ("[::1]:7", 4, 1));
    }
}
