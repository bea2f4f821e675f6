// SPDX-License-Identifier: Apache-2.0
//! The shuffle store: what the tasks of one executor have written for other tasks to read.
//!
//! An output starts as Arrow batches in memory and moves to one indexed file when memory gets tight:
//!
//! ```text
//!   OutputWriter ──finish──▶ memory tier ──eviction──▶ file tier
//!        │ no memory, nothing to evict                    ▲
//!        └──▶ spilled segments ──finish: merge────────────┘
//! ```
//!
//! **Memory.** Every batch is reserved in the executor's one pool before it is kept. The pool's `try_grow` cannot wait
//! for an eviction, so:
//! * above the *low watermark* finished outputs are evicted in the background, largest first, until the store is
//!   below it again, so that operators hardly ever see a full pool because of the store;
//! * above the *high watermark*, or when the pool refuses, an append waits for an eviction under way. As long as one
//!   is, a bounded *overdraft* lets it go on at once;
//! * released outputs, which are kept only in case others are lost, are the first to go, and are dropped;
//! * when nothing can be evicted, the writer spills its own buckets to a segment file and goes on.
//!
//! So an append always ends: with the batch kept, or with the error of the disk, which is full when it is, or when files
//! take as much as they may.
//!
//! **Reads.** [`ShuffleStore::get`] gives an [`Output`]; its readers take an `Arc` snapshot of the tier, which an
//! eviction replaces but never changes. The batches' memory goes when the last reader's snapshot does.
//!
//! **Failure modes.** A file that cannot be written keeps its output in memory and takes it out of the eviction; a
//! segment that cannot be written fails the task with the disk's error. Everything that a task wrote goes with its
//! writer unless it was finished. After `free_stage` and `free_job` unfinished writers of that stage or job are
//! fenced: they fail instead of leaving outputs that nobody will ever free.

mod accounting;
mod blocks;
mod cursor;
mod evict;
mod file;
mod output;
mod sink;
mod work_dir;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arrow::datatypes::SchemaRef;
use ballista_core::units::Bytes;
use ballista_core::{Incarnation, JobId, StageId, TaskKey};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{ExchangeError, Result};
use crate::memory::{Relief, register_relief};
use accounting::{Counters, Disk};
pub use work_dir::prepare_work_dir;
use work_dir::{WorkDir, off_reactor};

pub(crate) use cursor::{Position, StoreCursor, StoredBlock};
pub use output::{MemoryTier, Output, Tier};
pub use sink::TaskSink;
pub use writer::{OutputOptions, OutputSummary, OutputWriter};

/// How a store is set up.
#[derive(Debug)]
pub struct StoreConfig {
    /// Directory for files; may be shared with other executors, must be empty or Ballista's.
    pub work_dir: PathBuf,
    /// This life of the executor.
    pub incarnation: Incarnation,
    /// The executor's one memory pool.
    pub pool: Arc<dyn MemoryPool>,
    /// Bytes in memory above which appends wait.
    pub high_watermark: usize,
    /// Bytes in memory above which finished outputs are evicted.
    pub low_watermark: usize,
    /// Bytes that files may take, those of unfinished outputs included.
    pub disk_limit: u64,
    /// Bytes by which appends may exceed the pool or the high watermark while an eviction is under way.
    pub overdraft: usize,
}

/// What a store holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in memory, unfinished outputs included.
    pub memory_bytes: usize,
    /// Bytes in files, spilled segments included.
    pub disk_bytes: u64,
    /// Finished outputs that somebody is expected to read.
    pub outputs: usize,
    /// Finished outputs that are kept for recovery only.
    pub released: usize,
}

/// The shuffle outputs of one executor; see the module's documentation.
#[derive(Debug)]
pub struct ShuffleStore {
    me: Weak<Self>,
    incarnation: Incarnation,
    pool: Arc<dyn MemoryPool>,
    pool_limit: Option<usize>,
    high_watermark: usize,
    low_watermark: usize,
    overdraft: usize,
    disk_limit: u64,
    counters: Arc<Counters>,
    catalog: Mutex<Catalog>,
    next_writer: AtomicU64,
    eviction: evict::Eviction,
    runtime: Option<Handle>,
    // Dropped last: it removes the directory.
    work_dir: Arc<WorkDir>,
}

#[derive(Debug, Default)]
struct Catalog {
    outputs: HashMap<TaskKey, Arc<Output>>,
    /// Unfinished writers, and how to stop them.
    writers: HashMap<u64, (TaskKey, Arc<AtomicBool>)>,
}

impl ShuffleStore {
    /// Opens the work directory and removes what dead executors left there. Blocks shortly. Called within a runtime,
    /// the store evicts on that runtime's blocking threads.
    pub fn try_new(config: StoreConfig) -> Result<Arc<Self>> {
        let work_dir = Arc::new(WorkDir::open(&config.work_dir, config.incarnation)?);
        let pool_limit = match config.pool.memory_limit() {
            MemoryLimit::Finite(limit) => Some(limit),
            MemoryLimit::Infinite | MemoryLimit::Unknown => None,
        };
        let store = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            incarnation: config.incarnation,
            pool: config.pool,
            pool_limit,
            high_watermark: config.high_watermark,
            low_watermark: config.low_watermark.min(config.high_watermark),
            overdraft: config.overdraft,
            disk_limit: config.disk_limit,
            counters: Arc::default(),
            catalog: Mutex::default(),
            next_writer: AtomicU64::new(0),
            eviction: evict::Eviction::default(),
            runtime: Handle::try_current().ok(),
            work_dir,
        });
        let relief: Weak<dyn Relief> = store.me.clone();
        register_relief(&store.pool, relief);
        Ok(store)
    }

    /// This life of the executor.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The executor's memory pool.
    pub fn pool(&self) -> &Arc<dyn MemoryPool> {
        &self.pool
    }

    /// Starts an output of `buckets` buckets.
    pub fn create(
        self: &Arc<Self>,
        key: TaskKey,
        schema: SchemaRef,
        buckets: usize,
        options: OutputOptions,
    ) -> OutputWriter {
        let id = self.next_writer.fetch_add(1, Ordering::Relaxed);
        let fenced = Arc::new(AtomicBool::new(false));
        self.catalog.lock().writers.insert(id, (key.clone(), Arc::clone(&fenced)));
        OutputWriter::new(Arc::clone(self), id, key, schema, buckets, options, fenced)
    }

    /// A finished output.
    pub fn get(&self, key: &TaskKey) -> Option<Arc<Output>> {
        self.catalog.lock().outputs.get(key).cloned()
    }

    /// Forgets an attempt of a stage, and earlier ones. Files and memory go in the background, once their readers are
    /// done.
    pub fn free_stage(&self, job: &JobId, stage: StageId, last_attempt: u32) {
        let removed = self.remove(|key| key.stage == stage && key.stage_attempt <= last_attempt && key.job == *job);
        let (work_dir, job) = (Arc::clone(&self.work_dir), job.clone());
        off_reactor(move || {
            drop(removed);
            work_dir.remove_stage(&job, stage, last_attempt);
        });
    }

    /// Forgets one attempt of a task.
    pub fn free_output(&self, key: &TaskKey) {
        let removed = self.remove(|other| other == key);
        off_reactor(move || drop(removed));
    }

    /// Keeps the outputs of a stage for recovery only: those in memory are dropped, and not written to disk, when room is
    /// short.
    pub fn release_stage(&self, job: &JobId, stage: StageId) {
        let catalog = self.catalog.lock();
        for (key, output) in &catalog.outputs {
            if key.stage == stage && key.job == *job {
                output.release();
            }
        }
    }

    /// Forgets a job. Files and memory go in the background, once their readers are done.
    pub fn free_job(&self, job: &JobId) {
        let removed = self.remove(|key| key.job == *job);
        let (work_dir, job) = (Arc::clone(&self.work_dir), job.clone());
        off_reactor(move || {
            drop(removed);
            work_dir.remove_job(&job);
        });
    }

    fn remove(&self, matches: impl Fn(&TaskKey) -> bool) -> Vec<Arc<Output>> {
        let mut catalog = self.catalog.lock();
        for (key, fenced) in catalog.writers.values() {
            if matches(key) {
                fenced.store(true, Ordering::Release);
            }
        }
        // Writers may wait for memory, and learn that they are fenced only when they wake.
        self.counters.freed.notify_waiters();
        catalog.outputs.extract_if(|key, _| matches(key)).map(|(_, output)| output).collect()
    }

    /// Space on disk for about `bytes`; an error if there is not so much.
    fn reserve_disk(&self, bytes: u64) -> Result<Disk> {
        let limit = self.disk_limit;
        Disk::reserve(&self.counters, bytes, limit).ok_or_else(|| {
            ExchangeError::Resource(format!(
                "shuffle files take {} on the disk of this executor and may take {}; {} more are needed",
                Bytes(self.counters.disk()),
                Bytes(limit),
                Bytes(bytes),
            ))
        })
    }

    /// What the store holds.
    pub fn stats(&self) -> StoreStats {
        let (outputs, released) = {
            let catalog = self.catalog.lock();
            (catalog.outputs.len(), catalog.outputs.values().filter(|output| output.is_released()).count())
        };
        StoreStats {
            memory_bytes: self.counters.memory(),
            disk_bytes: self.counters.disk(),
            outputs: outputs - released,
            released,
        }
    }

    /// Every key of a finished output, for reconciliation with the scheduler.
    pub fn keys(&self) -> Vec<TaskKey> {
        self.catalog.lock().outputs.keys().cloned().collect()
    }

    /// Whether `bytes` more fit below the high watermark.
    fn has_room(&self, bytes: usize) -> bool {
        self.counters.memory() + bytes <= self.high_watermark
    }

    /// Whether `bytes` more fit into the overdraft.
    fn has_overdraft(&self, bytes: usize) -> bool {
        let below_watermark = self.counters.memory() + bytes <= self.high_watermark + self.overdraft;
        let below_limit = self.pool_limit.is_none_or(|limit| self.pool.reserved() + bytes <= limit + self.overdraft);
        below_watermark && below_limit
    }
}

impl Relief for ShuffleStore {
    fn evictable(&self) -> usize {
        self.counters.sealed()
    }

    fn relieve(&self, bytes: usize) {
        self.evict(bytes);
    }
}

/// The level down to which an eviction goes; shared with the module that evicts.
type Level = AtomicUsize;
