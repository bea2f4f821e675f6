// SPDX-License-Identifier: Apache-2.0
//! A finished output, in memory or in its file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use ballista_core::TaskKey;
use ballista_core::config::Compression;
use ballista_shuffle::ShuffleFile;
use parking_lot::RwLock;

use super::accounting::{Disk, Held};
use super::blocks::{self, Piece};
use super::file;
use super::work_dir::OwnedFile;
use crate::error::Result;

/// What one task wrote, sealed. Its rows never change; where they are may.
#[derive(Debug)]
pub struct Output {
    key: TaskKey,
    schema: SchemaRef,
    compression: Compression,
    bucket_rows: Vec<u64>,
    tier: RwLock<Tier>,
    /// An eviction has taken it, or has failed to write it.
    claimed: AtomicBool,
    /// It is kept for recovery only.
    released: AtomicBool,
}

/// Where an output's rows are. Cloning is cheap and takes a snapshot that an eviction does not touch.
#[derive(Debug, Clone)]
pub enum Tier {
    /// As batches, per bucket.
    Memory(Arc<MemoryTier>),
    /// In an indexed file.
    File(Arc<FileTier>),
}

/// The batches of an output, and the memory they are accounted for.
#[derive(Debug)]
pub struct MemoryTier {
    pub(crate) buckets: Vec<Vec<RecordBatch>>,
    bucket_bytes: Vec<u64>,
    /// How each bucket is cut into blocks, once somebody has asked.
    pieces: Vec<OnceLock<Vec<Piece>>>,
    held: Held,
}

impl MemoryTier {
    pub(super) fn new(buckets: Vec<Vec<RecordBatch>>, bucket_bytes: Vec<u64>, held: Held) -> Self {
        let pieces = buckets.iter().map(|_| OnceLock::new()).collect();
        Self { buckets, bucket_bytes, pieces, held: held.seal() }
    }

    /// Bytes of a bucket's batches.
    pub fn bucket_bytes(&self, bucket: usize) -> u64 {
        self.bucket_bytes.get(bucket).copied().unwrap_or(0)
    }

    /// The blocks of a bucket.
    pub(super) fn pieces(&self, bucket: usize) -> &[Piece] {
        self.pieces.get(bucket).map_or(&[], |pieces| pieces.get_or_init(|| blocks::cut(&self.buckets[bucket])))
    }

    /// The batches of a bucket; none for a bucket that does not exist.
    pub fn bucket(&self, bucket: usize) -> &[RecordBatch] {
        self.buckets.get(bucket).map_or(&[], Vec::as_slice)
    }
}

/// The file of an output, removed when nobody needs it any longer.
#[derive(Debug)]
pub struct FileTier {
    pub(crate) file: ShuffleFile,
    _owned: OwnedFile,
    _disk: Disk,
}

impl FileTier {
    /// Opens a file just written, which takes `disk`.
    pub(super) fn open(disk: Disk, path: PathBuf, key: &TaskKey, buckets: usize) -> Result<Self> {
        let owned = OwnedFile(path);
        let file = file::open(&owned.0, key, buckets)?;
        Ok(Self { file, _owned: owned, _disk: disk })
    }
}

impl Output {
    pub(super) fn new(
        key: TaskKey,
        schema: SchemaRef,
        compression: Compression,
        bucket_rows: Vec<u64>,
        tier: Tier,
    ) -> Self {
        let (claimed, released) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { key, schema, compression, bucket_rows, tier: RwLock::new(tier), claimed, released }
    }

    /// Whose output this is.
    pub fn key(&self) -> &TaskKey {
        &self.key
    }

    /// Schema of the rows as they were written.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Compression of the blocks in the file and between hosts.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Number of buckets.
    pub fn buckets(&self) -> usize {
        self.bucket_rows.len()
    }

    /// Rows per bucket.
    pub fn bucket_rows(&self) -> &[u64] {
        &self.bucket_rows
    }

    /// A snapshot of where the rows are.
    pub fn tier(&self) -> Tier {
        self.tier.read().clone()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        match &*self.tier.read() {
            Tier::Memory(memory) => memory.held.size(),
            Tier::File(_) => 0,
        }
    }

    /// Whether it is kept for recovery only.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    pub(super) fn is_evictable(&self) -> bool {
        !self.claimed.load(Ordering::Acquire) && self.memory_bytes() > 0
    }

    /// Takes the output out of the choice for eviction.
    pub(super) fn claim(&self) {
        self.claimed.store(true, Ordering::Release);
    }

    /// There was no space for its file just now.
    pub(super) fn unclaim(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    pub(super) fn move_to_file(&self, file: FileTier) {
        let memory = std::mem::replace(&mut *self.tier.write(), Tier::File(Arc::new(file)));
        drop(memory);
    }
}
