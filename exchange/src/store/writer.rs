// SPDX-License-Identifier: Apache-2.0
//! Writing one output: accounting, back-pressure and spilling.
//!
//! Several partition streams of a task append to one writer at the same time; its lock is held for moments and never
//! across an await. Batches of a bucket keep the order in which one stream appends them, also through spills: segments
//! are numbered under the lock in which they take the batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::TaskKey;
use ballista_core::config::Compression;
use ballista_shuffle::batch_bytes;
use parking_lot::Mutex;

use super::ShuffleStore;
use super::accounting::Held;
use super::file::{self, Segment};
use super::output::{FileTier, MemoryTier, Output, Tier};
use crate::error::{ExchangeError, Result};

/// A writer with less in memory rather takes from the overdraft than to spill: segments of a few KiB per bucket make
/// bad blocks.
const MIN_SEGMENT_BYTES: usize = 8 << 20;

/// How an output is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutputOptions {
    /// Compression of blocks in files and between hosts.
    pub compression: Compression,
    /// Keep the output in memory while it fits; otherwise it is written to its file in any case.
    pub memory_tier: bool,
}

/// What a finished output holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputSummary {
    /// Rows per bucket.
    pub bucket_rows: Vec<u64>,
    /// Bytes per bucket, as Arrow batches in memory.
    pub bucket_bytes: Vec<u64>,
    /// Rows in all.
    pub rows: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// An unfinished output. Dropping it removes everything it has written.
#[derive(Debug)]
pub struct OutputWriter {
    store: Arc<ShuffleStore>,
    id: u64,
    key: TaskKey,
    schema: SchemaRef,
    options: OutputOptions,
    fenced: Arc<AtomicBool>,
    state: Mutex<State>,
    /// One spill at a time; whoever waited for it looks for memory again before it spills, too.
    spill_gate: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    buckets: Vec<Vec<RecordBatch>>,
    held: Held,
    summary: OutputSummary,
    segments: Vec<Segment>,
    next_segment: usize,
    /// Spills that have taken batches and not brought their segment; nonzero after a spill failed or was cancelled.
    spills_open: usize,
}

impl State {
    fn push(&mut self, batches: Vec<(usize, RecordBatch, usize)>) {
        for (bucket, batch, bytes) in batches {
            self.summary.bucket_rows[bucket] += batch.num_rows() as u64;
            self.summary.bucket_bytes[bucket] += bytes as u64;
            self.buckets[bucket].push(batch);
        }
    }
}

impl OutputWriter {
    pub(super) fn new(
        store: Arc<ShuffleStore>,
        id: u64,
        key: TaskKey,
        schema: SchemaRef,
        buckets: usize,
        options: OutputOptions,
        fenced: Arc<AtomicBool>,
    ) -> Self {
        let state = State {
            buckets: vec![Vec::new(); buckets],
            held: Held::new(&store.counters, &store.pool),
            summary: OutputSummary {
                bucket_rows: vec![0; buckets],
                bucket_bytes: vec![0; buckets],
                ..OutputSummary::default()
            },
            segments: Vec::new(),
            next_segment: 0,
            spills_open: 0,
        };
        Self { store, id, key, schema, options, fenced, state: Mutex::new(state), spill_gate: Default::default() }
    }

    /// Whose output this will be.
    pub fn key(&self) -> &TaskKey {
        &self.key
    }

    /// Schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The executor's memory pool.
    pub(crate) fn store(&self) -> &Arc<ShuffleStore> {
        &self.store
    }

    /// Appends a batch, which owns its memory and is compact, to a bucket. Waits for memory if need be.
    pub async fn append(&self, bucket: usize, batch: RecordBatch) -> Result<()> {
        self.append_all(vec![(bucket, batch)]).await
    }

    /// Appends batches to their buckets, in order, with one round of accounting.
    pub async fn append_all(&self, batches: Vec<(usize, RecordBatch)>) -> Result<()> {
        let count = self.state.lock().buckets.len();
        let mut measured = Vec::with_capacity(batches.len());
        let mut bytes = 0;
        for (bucket, batch) in batches {
            if bucket >= count {
                return Err(ExchangeError::Protocol(format!("bucket {bucket} of an output with {count}")));
            }
            if batch.num_rows() > 0 {
                let size = batch_bytes(&batch);
                bytes += size;
                measured.push((bucket, batch, size));
            }
        }
        loop {
            self.check_fence()?;
            let mut freed = std::pin::pin!(self.store.counters.freed.notified());
            if self.store.has_room(bytes) {
                let mut state = self.state.lock();
                if state.held.try_grow(bytes) {
                    state.push(measured);
                    break;
                }
            }
            // From here on the bell must not be missed.
            freed.as_mut().enable();
            let eviction_under_way = self.store.evict(bytes);
            let mine = self.state.lock().held.size();
            if self.store.has_overdraft(bytes) && (eviction_under_way || mine < MIN_SEGMENT_BYTES) {
                self.force(bytes, measured);
                break;
            }
            if eviction_under_way {
                freed.await;
            } else if !self.spill(bytes).await? {
                // Nothing left to spill: what a writer appends at once is let in, or it could never go on.
                self.force(bytes, measured);
                break;
            }
        }
        if self.store.counters.memory() > self.store.low_watermark {
            self.store.evict(0);
        }
        Ok(())
    }

    fn force(&self, bytes: usize, batches: Vec<(usize, RecordBatch, usize)>) {
        let mut state = self.state.lock();
        state.held.grow(bytes);
        state.push(batches);
    }

    /// Writes what is in memory to a segment. Returns false if nothing is in memory.
    async fn spill(&self, wanted: usize) -> Result<bool> {
        let _one_at_a_time = self.spill_gate.lock().await;
        let (buckets, held, index) = {
            let mut state = self.state.lock();
            if state.held.size() == 0 {
                return Ok(false);
            }
            if self.store.has_room(wanted) && state.held.try_grow(wanted) {
                // Another stream's spill has made room meanwhile. The room is only probed here; the caller takes it.
                state.held.shrink(wanted);
                return Ok(true);
            }
            let empty = vec![Vec::new(); state.buckets.len()];
            let buckets = std::mem::replace(&mut state.buckets, empty);
            state.next_segment += 1;
            state.spills_open += 1;
            (buckets, state.held.take(), state.next_segment)
        };
        let path = self.store.work_dir.segment_path(&self.key, index);
        let (store, key, schema) = (Arc::clone(&self.store), self.key.clone(), Arc::clone(&self.schema));
        let compression = self.options.compression;
        let segment = tokio::task::spawn_blocking(move || {
            let segment = store
                .reserve_disk(held.size() as u64)
                .and_then(|disk| Segment::write(index, path, &key, &schema, compression, &buckets, disk));
            drop(buckets);
            drop(held);
            segment
        });
        let segment = segment.await??;
        tracing::debug!(output = %self.key, index, "spilled a segment of an unfinished output");
        let mut state = self.state.lock();
        state.segments.push(segment);
        state.spills_open -= 1;
        Ok(true)
    }

    /// Seals the output and makes it readable.
    pub async fn finish(self) -> Result<OutputSummary> {
        self.check_fence()?;
        let (buckets, held, mut segments, mut summary) = {
            let mut state = self.state.lock();
            if state.spills_open > 0 {
                return Err(ExchangeError::Protocol("output finished after an append had failed".into()));
            }
            let state = &mut *state;
            let buckets = std::mem::take(&mut state.buckets);
            (buckets, state.held.take(), std::mem::take(&mut state.segments), std::mem::take(&mut state.summary))
        };
        summary.rows = summary.bucket_rows.iter().sum();
        summary.bytes = summary.bucket_bytes.iter().sum();
        let stays_in_memory = summary.rows == 0 || (self.options.memory_tier && segments.is_empty());
        let tier = if stays_in_memory {
            Tier::Memory(Arc::new(MemoryTier::new(buckets, summary.bucket_bytes.clone(), held)))
        } else {
            segments.sort_by_key(Segment::index);
            let (store, key, schema) = (Arc::clone(&self.store), self.key.clone(), Arc::clone(&self.schema));
            let compression = self.options.compression;
            let file = tokio::task::spawn_blocking(move || -> Result<FileTier> {
                let path = store.work_dir.output_path(&key);
                let count = buckets.len();
                let spilled: u64 = segments.iter().map(Segment::bytes).sum();
                let mut disk = store.reserve_disk(held.size() as u64 + spilled)?;
                disk.set(file::write(&path, &key, &schema, compression, segments, &buckets)?);
                drop(buckets);
                drop(held);
                FileTier::open(disk, path, &key, count)
            });
            Tier::File(Arc::new(file.await??))
        };
        let rows = summary.bucket_rows.clone();
        let output = Output::new(self.key.clone(), Arc::clone(&self.schema), self.options.compression, rows, tier);
        {
            let mut catalog = self.store.catalog.lock();
            // Under the lock that `free_job` takes, so that either it sees the output or we see the fence.
            self.check_fence()?;
            catalog.outputs.insert(self.key.clone(), Arc::new(output));
        }
        if self.store.counters.memory() > self.store.low_watermark {
            self.store.evict(0);
        }
        Ok(summary)
    }

    fn check_fence(&self) -> Result<()> {
        if self.fenced.load(Ordering::Acquire) {
            return Err(ExchangeError::Fenced(format!("output {} was freed while it was written", self.key)));
        }
        Ok(())
    }
}

impl Drop for OutputWriter {
    fn drop(&mut self) {
        self.store.catalog.lock().writers.remove(&self.id);
    }
}
