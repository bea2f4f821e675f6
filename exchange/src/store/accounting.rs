// SPDX-License-Identifier: Apache-2.0
//! What the store holds, counted twice: in the executor's memory pool and in the store's own counters.
//!
//! **Invariant:** the counters change only through [`Held`] and [`Disk`], which take back on drop what they added. So
//! nothing leaks on any path, cancelled and failed ones included.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use tokio::sync::Notify;

use crate::memory::STORE_CONSUMER;

/// The store's counters, and the bell that rings when memory was given back.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    memory: AtomicUsize,
    sealed: AtomicUsize,
    disk: AtomicU64,
    pub(crate) freed: Notify,
}

impl Counters {
    /// Bytes in memory, of finished and unfinished outputs.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Bytes of finished outputs in memory: what eviction can free.
    pub(crate) fn sealed(&self) -> usize {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Bytes in files.
    pub(crate) fn disk(&self) -> u64 {
        self.disk.load(Ordering::Relaxed)
    }
}

/// Memory of one output.
#[derive(Debug)]
pub(crate) struct Held {
    counters: Arc<Counters>,
    reservation: MemoryReservation,
    sealed: bool,
}

impl Held {
    /// Nothing yet, reserved in `pool`.
    pub(crate) fn new(counters: &Arc<Counters>, pool: &Arc<dyn MemoryPool>) -> Self {
        let reservation = MemoryConsumer::new(STORE_CONSUMER).register(pool);
        Self { counters: Arc::clone(counters), reservation, sealed: false }
    }

    pub(crate) fn size(&self) -> usize {
        self.reservation.size()
    }

    /// Adds `bytes` if the pool has them.
    pub(crate) fn try_grow(&self, bytes: usize) -> bool {
        let granted = self.reservation.try_grow(bytes).is_ok();
        if granted {
            self.counters.memory.fetch_add(bytes, Ordering::Relaxed);
        }
        granted
    }

    /// Adds `bytes` whether the pool has them or not.
    pub(crate) fn grow(&self, bytes: usize) {
        self.reservation.grow(bytes);
        self.counters.memory.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives `bytes` back.
    pub(crate) fn shrink(&self, bytes: usize) {
        self.reservation.shrink(bytes);
        self.counters.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Everything held so far; nothing stays here.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            counters: Arc::clone(&self.counters),
            reservation: self.reservation.take(),
            sealed: std::mem::take(&mut self.sealed),
        }
    }

    /// Counts as evictable from now on.
    pub(crate) fn seal(mut self) -> Self {
        self.counters.sealed.fetch_add(self.size(), Ordering::Relaxed);
        self.sealed = true;
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.reservation.free();
        if bytes == 0 {
            return;
        }
        if self.sealed {
            self.counters.sealed.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.counters.memory.fetch_sub(bytes, Ordering::Relaxed);
        self.counters.freed.notify_waiters();
    }
}

/// Disk space of one file.
#[derive(Debug)]
pub(crate) struct Disk {
    counters: Arc<Counters>,
    bytes: u64,
}

impl Disk {
    /// Space for a file of about `bytes`, unless all files would take more than `limit` then.
    pub(crate) fn reserve(counters: &Arc<Counters>, bytes: u64, limit: u64) -> Option<Self> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        counters.disk.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Self { counters: Arc::clone(counters), bytes })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file is written: this is what it takes.
    pub(crate) fn set(&mut self, bytes: u64) {
        self.counters.disk.fetch_add(bytes, Ordering::Relaxed);
        self.counters.disk.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.counters.disk.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
