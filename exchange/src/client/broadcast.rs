// SPDX-License-Identifier: Apache-2.0
//! Broadcast inputs: fetched and decoded once per executor, shared by all tasks that read them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use ballista_core::{JobId, StageId};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// The broadcast inputs that an executor holds.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    inputs: Mutex<HashMap<(JobId, StageId, u32), Cell>>,
}

/// Filled by the first reader.
type Cell = Arc<OnceCell<Broadcast>>;

/// A complete input, and the memory it is accounted for.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) batches: Arc<Vec<RecordBatch>>,
    pub(super) _reservation: Option<MemoryReservation>,
}

impl Broadcasts {
    /// The cell of an attempt of an input; whoever comes first fills it. If that fails or is cancelled, the next one tries.
    pub(super) fn cell(&self, job: &JobId, stage: StageId, attempt: u32) -> Cell {
        Arc::clone(self.inputs.lock().entry((job.clone(), stage, attempt)).or_default())
    }

    pub(super) fn free_stage(&self, job: &JobId, stage: StageId) {
        self.inputs.lock().retain(|(of, other, _), _| of != job || *other != stage);
    }

    pub(super) fn free_job(&self, job: &JobId) {
        self.inputs.lock().retain(|(of, _, _), _| of != job);
    }
}

/// Under which a broadcast input is accounted.
pub(super) fn consumer() -> MemoryConsumer {
    MemoryConsumer::new("ballista broadcast input")
}
