// SPDX-License-Identifier: Apache-2.0
//! The executor's one memory pool, shared by the operators of all tasks and by the shuffle store.
//!
//! **Why not `FairSpillPool` as it is.** It gives every spilling operator the share
//! `(limit - unspillable) / spillers`, whether the others use theirs or not, and counts whatever the shuffle store
//! holds as unspillable. A store at half of the pool would halve every operator's share: sorts and joins would spill
//! to disk *before* the store evicts one byte, although evicting a finished output costs one sequential write while a
//! spilled join costs a second pass. So the rule here is FairSpillPool's with three changes:
//!
//! 1. *Idle shares are lent.* An operator may go past its fair share as long as it stays below
//!    [`IDLE_FACTOR`] × the memory that is still free afterwards. This is the dynamic threshold of shared-buffer
//!    switches (Choudhury and Hahne, 1998): however many operators borrow, a rest stays free for a newcomer.
//! 2. *The store gives way.* An operator that would be refused because of the store is granted its memory at once,
//!    as a bounded overdraft, if eviction of sealed outputs pays it back; the store is told to evict. `try_grow` is
//!    synchronous and cannot wait for the eviction itself.
//! 3. *A newcomer within its share* is let in even if borrowers fill the pool, up to the same overdraft, because some
//!    operators fail instead of spilling when they get no memory at all.
//!
//! The store's watermarks do the rest: it starts to evict in the background at its low watermark and lets appends
//! wait at its high one (see [`crate::store`]), so that overdrafts stay the exception.
//!
//! **Invariant:** `reserved() <= limit + overdraft`, except for `grow`, which DataFusion documents as infallible.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool, human_readable_size,
};
use parking_lot::{Mutex, RwLock};

/// Name of the consumer under which a shuffle store reserves its memory.
pub(crate) const STORE_CONSUMER: &str = "ballista shuffle store";

/// An operator may hold this many times the free memory beyond its fair share.
const IDLE_FACTOR: usize = 2;

/// The overdraft is this fraction of the limit.
const OVERDRAFT_DIVISOR: usize = 16;

/// How many of the largest consumers an out-of-memory error names.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(5).expect("five is not zero");

/// The memory pool of one executor, limited to `bytes`.
///
/// Give it to the `RuntimeEnv` of every task and to the [`ShuffleStore`](crate::store::ShuffleStore); the store
/// registers itself for the pool's calls for help.
pub fn executor_pool(bytes: usize) -> Arc<dyn MemoryPool> {
    Arc::new(TrackConsumersPool::new(ExecutorPool::new(bytes), NAMED_CONSUMERS))
}

/// Somebody who can free memory on request; implemented by the shuffle store.
pub(crate) trait Relief: Send + Sync {
    /// Bytes that could be freed by eviction.
    fn evictable(&self) -> usize;
    /// Start to free at least `bytes` in the background.
    fn relieve(&self, bytes: usize);
}

/// Makes `relief` the one whom the pool asks for memory, if it is a pool of [`executor_pool`].
pub(crate) fn register_relief(pool: &Arc<dyn MemoryPool>, relief: Weak<dyn Relief>) {
    if let Some(tracked) = pool.downcast_ref::<TrackConsumersPool<ExecutorPool>>() {
        *tracked.inner().relief.write() = Some(relief);
    }
}

/// The pool's rule; see the module's documentation.
pub struct ExecutorPool {
    limit: usize,
    overdraft: usize,
    state: Mutex<State>,
    relief: RwLock<Option<Weak<dyn Relief>>>,
}

#[derive(Debug, Default)]
struct State {
    spillers: usize,
    spillable: usize,
    unspillable: usize,
    store: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Spillable,
    Unspillable,
    Store,
}

fn kind(consumer: &MemoryConsumer) -> Kind {
    if consumer.name() == STORE_CONSUMER {
        Kind::Store
    } else if consumer.can_spill() {
        Kind::Spillable
    } else {
        Kind::Unspillable
    }
}

impl State {
    fn total(&self) -> usize {
        self.spillable + self.unspillable + self.store
    }

    fn slot(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Spillable => &mut self.spillable,
            Kind::Unspillable => &mut self.unspillable,
            Kind::Store => &mut self.store,
        }
    }
}

impl ExecutorPool {
    fn new(limit: usize) -> Self {
        Self { limit, overdraft: limit / OVERDRAFT_DIVISOR, state: Mutex::default(), relief: RwLock::default() }
    }

    /// Whether an operator that holds `size` may have `additional` bytes while the store counts as `store` bytes.
    fn admits(&self, state: &State, kind: Kind, size: usize, additional: usize, store: usize) -> bool {
        let wanted = state.spillable + state.unspillable + store + additional;
        if kind != Kind::Spillable {
            return wanted <= self.limit;
        }
        let share = self.limit.saturating_sub(state.unspillable + store) / state.spillers.max(1);
        let free = self.limit.saturating_sub(wanted);
        let within_share = size + additional <= share && wanted <= self.limit + self.overdraft;
        let borrowed = wanted <= self.limit && size + additional <= free.saturating_mul(IDLE_FACTOR);
        within_share || borrowed
    }

    fn relief(&self) -> Option<Arc<dyn Relief>> {
        self.relief.read().as_ref().and_then(Weak::upgrade)
    }
}

impl MemoryPool for ExecutorPool {
    fn name(&self) -> &str {
        "executor"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if kind(consumer) == Kind::Spillable {
            self.state.lock().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if kind(consumer) == Kind::Spillable {
            let mut state = self.state.lock();
            state.spillers = state.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.state.lock().slot(kind(reservation.consumer())) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state.lock();
        let slot = state.slot(kind(reservation.consumer()));
        *slot = slot.saturating_sub(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let kind = kind(reservation.consumer());
        let size = reservation.size();
        {
            let mut state = self.state.lock();
            let store = state.store;
            if self.admits(&state, kind, size, additional, store) {
                *state.slot(kind) += additional;
                return Ok(());
            }
        }
        if kind != Kind::Store
            && let Some(relief) = self.relief()
        {
            let evictable = relief.evictable();
            let mut state = self.state.lock();
            let after_eviction = state.store.saturating_sub(evictable);
            let overdrawn = (state.total() + additional).saturating_sub(self.limit);
            if overdrawn <= self.overdraft && self.admits(&state, kind, size, additional, after_eviction) {
                *state.slot(kind) += additional;
                drop(state);
                relief.relieve(overdrawn.max(additional));
                return Ok(());
            }
        }
        let reserved = self.reserved();
        Err(resources_datafusion_err!(
            "failed to allocate {} for {} which holds {}; {} of {} are reserved",
            human_readable_size(additional),
            reservation.consumer().name(),
            human_readable_size(size),
            human_readable_size(reserved),
            human_readable_size(self.limit)
        ))
    }

    fn reserved(&self) -> usize {
        self.state.lock().total()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Debug for ExecutorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorPool").field("limit", &self.limit).field("state", &self.state).finish()
    }
}

impl fmt::Display for ExecutorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "executor(limit: {})", human_readable_size(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MIB: usize = 1 << 20;

    fn spiller(pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        MemoryConsumer::new("sort").with_can_spill(true).register(pool)
    }

    #[test]
    fn an_idle_share_is_lent_and_a_rest_stays_free() {
        let pool = executor_pool(90 * MIB);
        let (busy, idle) = (spiller(&pool), spiller(&pool));
        while busy.try_grow(MIB).is_ok() {}
        assert_eq!(busy.size(), 60 * MIB, "two thirds: twice what stays free");
        while idle.try_grow(MIB).is_ok() {}
        assert!(idle.size() >= 30 * MIB);
        assert!(pool.reserved() <= 96 * MIB);
        busy.free();
        idle.free();
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_lone_operator_may_have_everything() {
        let pool = executor_pool(64 * MIB);
        spiller(&pool).try_grow(64 * MIB).unwrap();
        let whole = MemoryConsumer::new("join").register(&pool);
        whole.try_grow(64 * MIB).unwrap();
        assert!(whole.try_grow(1).is_err());
    }

    struct Full(AtomicUsize);

    impl Relief for Full {
        fn evictable(&self) -> usize {
            64 * MIB
        }
        fn relieve(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_store_gives_way_before_an_operator_is_refused() {
        let pool = executor_pool(64 * MIB);
        let relief: Arc<Full> = Arc::new(Full(AtomicUsize::new(0)));
        let weak: Weak<dyn Relief> = Arc::downgrade(&(Arc::clone(&relief) as Arc<dyn Relief>));
        register_relief(&pool, weak);
        let store = MemoryConsumer::new(STORE_CONSUMER).register(&pool);
        store.try_grow(63 * MIB).unwrap();
        let join = MemoryConsumer::new("join").register(&pool);
        join.try_grow(3 * MIB).unwrap();
        assert!(relief.0.load(Ordering::Relaxed) >= 2 * MIB, "the store was asked to evict");
        assert!(join.try_grow(8 * MIB).is_err(), "the overdraft is bounded");
        store.shrink(60 * MIB);
        join.try_grow(8 * MIB).unwrap();
    }
}
