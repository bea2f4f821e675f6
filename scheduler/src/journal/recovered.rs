// SPDX-License-Identifier: Apache-2.0
//! What a journal says when it is opened.

use std::collections::BTreeMap;

use ballista_core::{ExecutorId, JobId, StageId};
use ballista_proto::journal as record;

use super::{Op, decode, keys};

/// All records, in order.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) cluster: Option<record::Cluster>,
    pub(crate) executors: Vec<(ExecutorId, record::Executor)>,
    pub(crate) jobs: BTreeMap<JobId, RecoveredJob>,
}

/// The records of one job.
#[derive(Debug, Default)]
pub(crate) struct RecoveredJob {
    pub(crate) job: Option<record::Job>,
    /// Schedulers that have begun to plan it since one of them came to an end with that.
    pub(crate) starts: u32,
    pub(crate) steps: Vec<record::Step>,
    pub(crate) stages: BTreeMap<StageId, record::Stage>,
    pub(crate) commits: Vec<record::Task>,
    pub(crate) end: Option<record::End>,
}

impl Recovered {
    /// Makes sense of the records, which come in the order of their keys. An error names one that makes none.
    pub(crate) fn new(records: BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let mut recovered = Self::default();
        for (key, value) in records {
            if key == keys::CLUSTER {
                recovered.cluster = Some(decode(&key, &value)?);
            } else if let Some(executor) = key.strip_prefix(keys::EXECUTORS) {
                let record: record::Executor = decode(&key, &value)?;
                let executor = ExecutorId::new(executor).map_err(|error| format!("record {key}: {error}"))?;
                recovered.executors.push((executor, record));
            } else if let Some((job, kind)) = key.strip_prefix(keys::JOBS).and_then(|rest| rest.split_once('/')) {
                let id = JobId::new(job).map_err(|error| format!("record {key}: {error}"))?;
                let job = recovered.jobs.entry(id).or_default();
                job.take(&key, kind, &value)?;
            } else {
                return Err(format!("record {key} is of a later version"));
            }
        }
        Ok(recovered)
    }
}

impl Recovered {
    /// A scheduler has been started on this: counts that for each job that it plans at once, as it was planned before. To
    /// be made durable before that.
    pub(crate) fn count_start(&mut self) -> Vec<Op> {
        let jobs = self.jobs.iter_mut().filter(|(_, job)| job.end.is_none() && !job.steps.is_empty());
        let count = |(id, job): (&JobId, &mut RecoveredJob)| {
            job.starts += 1;
            Op::put(keys::starts(id), &record::Starts { count: job.starts })
        };
        jobs.map(count).collect()
    }
}

impl RecoveredJob {
    /// Schedulers that died while they planned it, one after the other.
    pub(crate) fn deaths(&self) -> u32 {
        // That of now plans it at once and is counted already.
        let counted = u32::from(!self.steps.is_empty());
        self.starts.saturating_sub(counted)
    }

    fn take(&mut self, key: &str, kind: &str, value: &[u8]) -> Result<(), String> {
        let (kind, number) = kind.split_once('/').unwrap_or((kind, ""));
        match kind {
            "request" => self.job = Some(decode(key, value)?),
            "starts" => self.starts = decode::<record::Starts>(key, value)?.count,
            "step" => self.steps.push(decode(key, value)?),
            "stage" => {
                let number = number.parse().map_err(|_| format!("record {key} names no stage"))?;
                self.stages.insert(StageId(number), decode(key, value)?);
            }
            "commit" => self.commits.push(decode(key, value)?),
            "end" => self.end = Some(decode(key, value)?),
            _ => return Err(format!("record {key} is of a later version")),
        }
        Ok(())
    }
}
