// SPDX-License-Identifier: Apache-2.0
//! Encoded stage plans, where executors fetch them without passing through the shell's queue.

use std::collections::HashMap;

use ballista_core::{JobId, StageId};
use parking_lot::RwLock;
use prost::bytes::Bytes;

/// The plans of all stages that tasks may still be launched of. Locked for the time of a map access only.
#[derive(Default)]
pub(crate) struct PlanStore {
    jobs: RwLock<HashMap<JobId, HashMap<StageId, Bytes>>>,
}

impl PlanStore {
    pub(crate) fn insert(&self, job: &JobId, stage: StageId, plan: Bytes) {
        self.jobs.write().entry(job.clone()).or_default().insert(stage, plan);
    }

    pub(crate) fn get(&self, job: &JobId, stage: StageId) -> Option<Bytes> {
        self.jobs.read().get(job)?.get(&stage).cloned()
    }

    pub(crate) fn remove_stage(&self, job: &JobId, stage: StageId) {
        if let Some(stages) = self.jobs.write().get_mut(job) {
            stages.remove(&stage);
        }
    }

    pub(crate) fn remove_job(&self, job: &JobId) {
        self.jobs.write().remove(job);
    }

    /// How many plans are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.jobs.read().values().map(HashMap::len).sum()
    }
}
