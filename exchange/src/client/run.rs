// SPDX-License-Identifier: Apache-2.0
//! One run: the rows of some outputs of one producer, in order, chunk by chunk.
//!
//! While the consumer works on one chunk, the next one is fetched by a task of its own on the runtime for I/O; there
//! are never more than these two. Blocks are decoded in the consumer's poll, one at a time: the consumer is an operator
//! on a thread for CPU work, where decoding belongs, and each partition decodes its own blocks in parallel to the
//! others. Nothing is requested before the first poll; dropping the run aborts what is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_shuffle::BlockDecoder;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::FetchMetrics;
use super::chunk::{Chunk, Origin, as_fetch};
use super::credit::CreditGroup;
use crate::error::{ExchangeError, Result};
use crate::store::Position;
use crate::wire::ExecutorAddress;

/// What a run needs besides its origin.
#[derive(Debug, Clone)]
pub(super) struct RunContext {
    pub(super) runtime: Handle,
    pub(super) group: Arc<CreditGroup>,
    pub(super) chunk_bytes: usize,
    pub(super) metrics: Arc<FetchMetrics>,
    pub(super) schema: SchemaRef,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Run {
    context: RunContext,
    address: Arc<ExecutorAddress>,
    origin: Arc<Origin>,
    decoder: Option<BlockDecoder>,
    /// Where the chunk after the last requested one starts.
    next: Option<Position>,
    requested: Option<Requested>,
    arrived: Option<Chunk>,
    fetched_again: bool,
}

/// A request under way; aborted when dropped.
#[derive(Debug)]
struct Requested(JoinHandle<Result<Chunk>>);

impl Drop for Requested {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Run {
    pub(super) fn new(context: RunContext, address: Arc<ExecutorAddress>, origin: Origin) -> Self {
        Self {
            context,
            address,
            origin: Arc::new(origin),
            decoder: None,
            next: Some(Position::default()),
            requested: None,
            arrived: None,
            fetched_again: false,
        }
    }

    /// The next batch, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.decode_next()? {
                return Ok(Some(batch));
            }
            if self.arrived.take().is_none() && self.requested.is_none() && self.next.is_none() {
                return Ok(None);
            }
            self.request_next();
            let Some(requested) = &mut self.requested else { continue };
            let chunk = (&mut requested.0).await;
            self.requested = None;
            let chunk = chunk??;
            self.next = chunk.next;
            self.arrived = Some(chunk);
            self.request_next();
        }
    }

    /// Starts to fetch the next chunk, unless that is under way or there is none.
    fn request_next(&mut self) {
        if self.requested.is_some() {
            return;
        }
        let Some(from) = self.next.take() else { return };
        let (origin, address) = (Arc::clone(&self.origin), Arc::clone(&self.address));
        let (group, bytes) = (Arc::clone(&self.context.group), self.context.chunk_bytes);
        self.requested = Some(Requested(self.context.runtime.spawn(async move {
            let mut credit = group.acquire(bytes).await;
            let mut chunk = origin.fetch(&address, from, bytes).await?;
            credit.settle(chunk.bytes());
            chunk.credit = Some(credit);
            Ok(chunk)
        })));
    }

    fn decode_next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(fetched) = self.arrived.as_mut().and_then(|chunk| chunk.blocks.pop_front()) else {
            return Ok(None);
        };
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            empty => {
                let decoder = BlockDecoder::try_new(Arc::clone(&self.context.schema));
                empty.insert(decoder.map_err(ExchangeError::shuffle("cannot decode shuffle data"))?)
            }
        };
        match decoder.decode_block(&fetched.block) {
            Ok(batch) => {
                let bytes = fetched.block.bytes() as u64;
                self.context.metrics.count(matches!(*self.origin, Origin::Remote { .. }), bytes, &batch);
                Ok(Some(batch))
            }
            Err(error) if !self.fetched_again => {
                // It may have been damaged on the way. A second failure means that it is damaged where it lies.
                tracing::warn!(producer = %self.address, %error, "fetching a damaged block again");
                self.fetched_again = true;
                self.requested = None;
                self.arrived = None;
                self.next = Some(fetched.position);
                Ok(None)
            }
            Err(error) => {
                let error = ExchangeError::shuffle("a shuffle block cannot be decoded")(error);
                Err(as_fetch(&self.address, error))
            }
        }
    }
}

/// Compares the rows that came of one source with what its executor has reported.
#[derive(Debug)]
pub(super) struct RowCheck {
    address: Arc<ExecutorAddress>,
    expected: Option<u64>,
    received: AtomicU64,
    open_runs: AtomicUsize,
}

impl RowCheck {
    /// `runs` streams share the source.
    pub(super) fn new(address: &Arc<ExecutorAddress>, expected: Option<u64>, runs: usize) -> Arc<Self> {
        Arc::new(Self {
            address: Arc::clone(address),
            expected,
            received: AtomicU64::new(0),
            open_runs: AtomicUsize::new(runs),
        })
    }

    pub(super) fn count(&self, batch: &RecordBatch) {
        self.received.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }

    /// Called at the end of each run; the last one compares.
    pub(super) fn end_of_run(&self) -> Result<()> {
        if self.open_runs.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let received = self.received.load(Ordering::Acquire);
        match self.expected {
            Some(expected) if expected != received => {
                Err(ExchangeError::gone(&self.address, format!("{received} rows received, {expected} expected")))
            }
            _ => Ok(()),
        }
    }
}
