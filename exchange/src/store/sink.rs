// SPDX-License-Identifier: Apache-2.0
//! From a partition's stream of batches into the task's output.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use ballista_shuffle::{BatchPartitioner, Partitioner};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use super::writer::OutputWriter;
use crate::error::{ExchangeError, Result};

/// Buffered per bucket before rows are scattered; makes emitted batches of about this size.
const BYTES_PER_BUCKET: usize = 100 << 10;

/// Bounds of a sink's buffer, whatever the number of buckets.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = (1 << 20)..=(32 << 20);

/// One partition stream's way into the shared [`OutputWriter`] of its task: partitioner, buffer, accounting.
///
/// The caller evaluates the key expressions and pushes batch by batch, then finishes every sink before it finishes the
/// writer. The buffer is accounted in the executor's pool and is emptied early if the pool refuses.
pub struct TaskSink {
    partitioner: Box<dyn Partitioner>,
    buffer: BatchPartitioner,
    reservation: MemoryReservation,
    writer: Arc<OutputWriter>,
    ids: Vec<u32>,
    emitted: Vec<(usize, RecordBatch)>,
}

impl TaskSink {
    /// A sink of one partition stream into `writer`.
    pub fn new(partitioner: Box<dyn Partitioner>, writer: Arc<OutputWriter>) -> Self {
        let buckets = partitioner.num_partitions();
        let target = (buckets * BYTES_PER_BUCKET).clamp(*BUFFER_BYTES.start(), *BUFFER_BYTES.end());
        let buffer = BatchPartitioner::new(Arc::clone(writer.schema()), buckets, target);
        let reservation = MemoryConsumer::new("ballista shuffle buffer").register(writer.store().pool());
        Self { partitioner, buffer, reservation, writer, ids: Vec::new(), emitted: Vec::new() }
    }

    /// Routes the rows of `batch` by their keys, one array of the batch's length per key.
    pub async fn push(&mut self, batch: RecordBatch, keys: &[ArrayRef]) -> Result<()> {
        let context = "cannot partition a batch";
        self.partitioner.partition(keys, batch.num_rows(), &mut self.ids).map_err(ExchangeError::shuffle(context))?;
        let emitted = &mut self.emitted;
        let mut collect = |bucket, batch| {
            emitted.push((bucket, batch));
            Ok(())
        };
        self.buffer.push(batch, &self.ids, &mut collect).map_err(ExchangeError::shuffle(context))?;
        if self.reservation.try_resize(self.buffer.buffered_bytes()).is_err() {
            self.buffer.flush(&mut collect).map_err(ExchangeError::shuffle(context))?;
            self.reservation.free();
        }
        self.hand_over().await
    }

    /// Empties the buffer. The writer stays open for the other streams.
    pub async fn finish(mut self) -> Result<()> {
        let emitted = &mut self.emitted;
        let mut collect = |bucket, batch| {
            emitted.push((bucket, batch));
            Ok(())
        };
        self.buffer.flush(&mut collect).map_err(ExchangeError::shuffle("cannot partition the last batches"))?;
        self.reservation.free();
        self.hand_over().await
    }

    async fn hand_over(&mut self) -> Result<()> {
        if self.emitted.is_empty() {
            return Ok(());
        }
        self.writer.append_all(std::mem::take(&mut self.emitted)).await
    }
}

impl std::fmt::Debug for TaskSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskSink").field("writer", &self.writer).finish_non_exhaustive()
    }
}
