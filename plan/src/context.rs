// SPDX-License-Identifier: Apache-2.0
//! What a running task offers the plan nodes that read exchanges.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::{JobId, StageId};
use ballista_exchange::client::{ExchangeClient, FetchMetrics, StageInputs};

/// Carried as an extension of the task's `SessionConfig`; [`crate::reader::ShuffleReaderExec`] finds its data here.
#[derive(Debug)]
pub struct TaskExchange {
    /// The job that the task belongs to.
    pub job: JobId,
    /// The executor's one client for its own and others' shuffle output.
    pub client: Arc<ExchangeClient>,
    /// Where the output of each input stage lies.
    pub inputs: BTreeMap<StageId, Arc<StageInputs>>,
    /// Bytes and rows read, for the task's status.
    pub metrics: Arc<FetchMetrics>,
    /// `ballista.shuffle.memory_tier`: local outputs in memory are handed over as they are.
    pub memory_tier: bool,
}
