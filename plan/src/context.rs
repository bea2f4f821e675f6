// SPDX-License-Identifier: Apache-2.0
//! What a running task offers the plan nodes that read exchanges.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::{JobId, StageId};
use ballista_exchange::StageInputs;
use ballista_exchange::client::{ExchangeClient, FetchOptions};

/// Carried as an extension of the task's `SessionConfig`; [`crate::reader::ShuffleReaderExec`] finds its data here.
#[derive(Debug)]
pub struct TaskExchange {
    /// The task's job.
    pub job: JobId,
    /// The executor's one client for its own and others' shuffle output.
    pub client: ExchangeClient,
    /// Where the output of each input stage lies.
    pub inputs: BTreeMap<StageId, Arc<StageInputs>>,
    /// How to fetch, and where it is counted.
    pub options: FetchOptions,
}
