// SPDX-License-Identifier: Apache-2.0
//! Background eviction: finished outputs move from memory to their files, largest first. Those that are kept for recovery
//! only are dropped before that.
//!
//! At most one eviction runs per store. It is started by whoever finds too little memory, works in parallel on a few
//! blocking threads, and ends when the store is down at the wanted level or nothing is left to evict. Whoever waits
//! for memory is woken after every output and at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::output::{FileTier, Output, Tier};
use super::{Level, ShuffleStore, file};
use crate::error::{ExchangeError, Result};

/// State of a store's eviction.
#[derive(Debug)]
pub(super) struct Eviction {
    running: AtomicBool,
    level: Level,
    parallel: usize,
}

impl Default for Eviction {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self { running: AtomicBool::new(false), level: Level::new(usize::MAX), parallel: (cores / 4).clamp(1, 4) }
    }
}

impl ShuffleStore {
    /// Starts to evict down to the low watermark, and at least `bytes` of what is held now. Returns whether an
    /// eviction is under way; if not, nothing can be evicted.
    pub(super) fn evict(&self, bytes: usize) -> bool {
        let memory = self.counters.memory();
        let level = if bytes == 0 { self.low_watermark } else { self.low_watermark.min(memory.saturating_sub(bytes)) };
        self.eviction.level.fetch_min(level, Ordering::AcqRel);
        if self.eviction.running.load(Ordering::Acquire) {
            return true;
        }
        if self.counters.sealed() == 0 {
            self.eviction.level.store(usize::MAX, Ordering::Release);
            return false;
        }
        let (Some(store), Some(runtime)) = (self.me.upgrade(), self.runtime.clone().or_else(current)) else {
            return false;
        };
        if self.next_victim().is_none() {
            self.eviction.level.store(usize::MAX, Ordering::Release);
            return false;
        }
        if !self.eviction.running.swap(true, Ordering::AcqRel) {
            runtime.spawn(evict_to_level(store));
        }
        true
    }

    /// Moves every finished output that is in memory to its file, for instance before this executor is drained.
    /// Returns how many are in files that were not before.
    pub async fn evict_all(&self) -> usize {
        let in_memory = || -> Vec<_> {
            let catalog = self.catalog.lock();
            catalog.outputs.values().filter(|output| output.memory_bytes() > 0).cloned().collect()
        };
        let before = in_memory();
        loop {
            let mut freed = std::pin::pin!(self.counters.freed.notified());
            freed.as_mut().enable();
            if !self.evict(usize::MAX) {
                break;
            }
            freed.await;
        }
        before.iter().filter(|output| output.memory_bytes() == 0).count()
    }

    /// The output in memory to evict next: released ones first, then the largest, of those that no eviction has taken and
    /// for which there is space on disk.
    fn next_victim(&self) -> Option<Arc<Output>> {
        let space = self.disk_limit.saturating_sub(self.counters.disk());
        let catalog = self.catalog.lock();
        let fits = |output: &Output| output.is_released() || output.memory_bytes() as u64 <= space;
        let victims = catalog.outputs.values().filter(|output| output.is_evictable() && fits(output));
        victims.max_by_key(|output| (output.is_released(), output.memory_bytes())).cloned()
    }

    async fn evict_output(self: Arc<Self>, output: Arc<Output>) {
        if output.is_released() {
            // Whoever wants it after all has it computed again.
            self.free_output(output.key());
            return;
        }
        let Tier::Memory(memory) = output.tier() else { return };
        let (store, victim) = (Arc::clone(&self), Arc::clone(&output));
        let written = tokio::task::spawn_blocking(move || -> Result<FileTier> {
            let path = store.work_dir.output_path(victim.key());
            let mut disk = store.reserve_disk(victim.memory_bytes() as u64)?;
            disk.set(file::write(&path, victim.key(), victim.schema(), victim.compression(), vec![], &memory.buckets)?);
            FileTier::open(disk, path, victim.key(), victim.buckets())
        });
        match written.await.map_err(Into::into).and_then(|result| result) {
            // The snapshot that was written dies here, and with it the memory, unless a reader holds it too.
            Ok(tier) => output.move_to_file(tier),
            Err(error) if self.get(output.key()).is_none() => {
                tracing::debug!(output = %output.key(), error = %error.full_text(), "eviction of a freed output");
            }
            Err(error @ ExchangeError::Resource(_)) => {
                output.unclaim();
                tracing::debug!(output = %output.key(), error = %error.full_text(), "no space for a shuffle output");
            }
            // It stays where it is, and is not tried again.
            Err(error) => {
                tracing::warn!(output = %output.key(), error = %error.full_text(), "cannot evict a shuffle output");
            }
        }
    }
}

fn current() -> Option<Handle> {
    Handle::try_current().ok()
}

async fn evict_to_level(store: Arc<ShuffleStore>) {
    let mut writes = JoinSet::new();
    // What is being written counts as gone.
    let mut under_way = 0;
    loop {
        while writes.len() < store.eviction.parallel
            && store.counters.memory().saturating_sub(under_way) > store.eviction.level.load(Ordering::Acquire)
            && let Some(victim) = store.next_victim()
        {
            let bytes = victim.memory_bytes();
            under_way += bytes;
            victim.claim();
            let write = Arc::clone(&store).evict_output(victim);
            writes.spawn(async move {
                write.await;
                bytes
            });
        }
        match writes.join_next().await {
            Some(written) => under_way -= written.unwrap_or(under_way),
            None => break,
        }
        store.counters.freed.notify_waiters();
    }
    store.eviction.level.store(usize::MAX, Ordering::Release);
    store.eviction.running.store(false, Ordering::Release);
    store.counters.freed.notify_waiters();
}
