// SPDX-License-Identifier: Apache-2.0
//! Reading outputs of the own executor: batches in memory are handed over as they are; files are read in chunks on
//! blocking threads, with the same credit, checks and decoding as remote blocks.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use ballista_core::TaskKey;

use super::chunk::Origin;
use super::run::{Run, RunContext};
use crate::error::{ExchangeError, Result};
use crate::store::{MemoryTier, ShuffleStore, Tier};
use crate::wire::ExecutorAddress;

/// The rows of some local outputs, output by output, bucket by bucket.
#[derive(Debug)]
pub(super) struct LocalRun {
    context: RunContext,
    address: Arc<ExecutorAddress>,
    store: Arc<ShuffleStore>,
    outputs: std::vec::IntoIter<TaskKey>,
    buckets: Range<u32>,
    current: Current,
}

#[derive(Debug)]
enum Current {
    None,
    Memory { tier: Arc<MemoryTier>, bucket: usize, end: usize, batch: usize },
    File(Box<Run>),
}

impl LocalRun {
    pub(super) fn new(
        context: RunContext,
        address: Arc<ExecutorAddress>,
        store: Arc<ShuffleStore>,
        outputs: Vec<TaskKey>,
        buckets: Range<u32>,
    ) -> Self {
        Self { context, address, store, outputs: outputs.into_iter(), buckets, current: Current::None }
    }

    /// The next batch, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match &mut self.current {
                Current::Memory { tier, bucket, end, batch } => {
                    while *bucket < *end {
                        if let Some(next) = tier.bucket(*bucket).get(*batch) {
                            // Measuring a batch costs more than handing it over; the bucket was measured when written.
                            let bytes = if *batch == 0 { tier.bucket_bytes(*bucket) } else { 0 };
                            *batch += 1;
                            self.context.metrics.count(false, bytes, next);
                            return Ok(Some(next.clone()));
                        }
                        *bucket += 1;
                        *batch = 0;
                    }
                    self.current = Current::None;
                }
                Current::File(run) => match run.next().await? {
                    Some(batch) => return Ok(Some(batch)),
                    None => self.current = Current::None,
                },
                Current::None => match self.outputs.next() {
                    Some(key) => self.open(&key)?,
                    None => return Ok(None),
                },
            }
        }
    }

    fn open(&mut self, key: &TaskKey) -> Result<()> {
        let output = self.store.get(key).ok_or_else(|| {
            ExchangeError::gone(&self.address, format!("output {key} is not held by this executor any longer"))
                .of_stage(key)
        })?;
        self.current = match output.tier() {
            Tier::Memory(tier) => {
                let end = (self.buckets.end as usize).min(output.buckets());
                Current::Memory { tier, bucket: self.buckets.start as usize, end, batch: 0 }
            }
            Tier::File(_) => {
                let origin = Origin::File { output, buckets: self.buckets.clone() };
                Current::File(Box::new(Run::new(self.context.clone(), Arc::clone(&self.address), origin)))
            }
        };
        Ok(())
    }
}
