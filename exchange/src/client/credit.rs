// SPDX-License-Identifier: Apache-2.0
//! The governor: how many fetched bytes an executor holds that nobody has consumed yet.
//!
//! Before a chunk is requested, credit for its size is taken from the executor's budget; what the chunk turns out not
//! to need is given back on arrival, the rest when its last block was consumed. A requested chunk is always drained
//! from the socket into memory, whatever its consumer does, so no connection is ever blocked by one slow consumer.
//!
//! **No deadlock.** A merge reads run A until it needs a row of run B. If A's chunks have used up the budget and B had
//! to wait for it, nobody would ever go on. So a [`CreditGroup`] that has no chunk outstanding gets one *without*
//! budget. A run of an ordered fetch is a group of its own; all sources of an unordered fetch form one group, because
//! their consumer takes what comes first. Hence the bound on memory is budget + one chunk per group.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this many bytes, because a semaphore counts in `u32`.
const UNIT: usize = 1 << 10;

/// The budget of one executor.
#[derive(Debug)]
pub(crate) struct Governor {
    budget: Arc<Semaphore>,
    units: u32,
}

impl Governor {
    /// A budget of `bytes`.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Arc::new(Self { budget: Arc::new(Semaphore::new(units as usize)), units })
    }

    /// A group of fetches of which any may go on for the consumer to go on.
    pub(crate) fn group(self: &Arc<Self>) -> Arc<CreditGroup> {
        Arc::new(CreditGroup { governor: Arc::clone(self), outstanding: AtomicUsize::new(0), idle: Notify::new() })
    }

    #[cfg(test)]
    fn available(&self) -> usize {
        self.budget.available_permits() * UNIT
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct CreditGroup {
    governor: Arc<Governor>,
    outstanding: AtomicUsize,
    idle: Notify,
}

/// The right to hold one chunk; given back when dropped.
#[derive(Debug)]
pub(crate) struct Credit {
    group: Arc<CreditGroup>,
    permit: Option<OwnedSemaphorePermit>,
}

impl CreditGroup {
    /// Waits for `bytes` of the budget, or for the group to have no chunk outstanding.
    pub(crate) async fn acquire(self: &Arc<Self>, bytes: usize) -> Credit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.governor.units);
        let budget = &self.governor.budget;
        if let Ok(permit) = Arc::clone(budget).try_acquire_many_owned(units) {
            return self.credit(Some(permit));
        }
        let mut permit = std::pin::pin!(Arc::clone(budget).acquire_many_owned(units));
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.outstanding.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Credit { group: Arc::clone(self), permit: None };
            }
            tokio::select! {
                // The semaphore is never closed, so an error cannot happen; it would mean no credit at all.
                permit = &mut permit => return self.credit(permit.ok()),
                () = idle => {}
            }
        }
    }

    fn credit(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Credit {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        Credit { group: Arc::clone(self), permit }
    }
}

impl Credit {
    /// Gives back what the chunk does not need now that its size is known.
    pub(crate) fn settle(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let excess = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
            drop(permit.split(excess));
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.permit = None;
        if self.group.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.group.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn a_group_without_a_chunk_always_gets_one() {
        let governor = Governor::new(8 * MIB);
        let (a, b) = (governor.group(), governor.group());
        let _all = a.acquire(8 * MIB).await;
        let first_of_b = b.acquire(8 * MIB).await;
        let mut second_of_b = std::pin::pin!(b.acquire(8 * MIB));
        assert!(timeout(Duration::from_millis(20), &mut second_of_b).await.is_err());
        drop(first_of_b);
        timeout(Duration::from_secs(5), second_of_b).await.expect("the group has become idle");
    }

    #[tokio::test]
    async fn everything_comes_back() {
        let governor = Governor::new(8 * MIB);
        let group = governor.group();
        let mut credit = group.acquire(8 * MIB).await;
        credit.settle(MIB);
        assert_eq!(governor.available(), 7 * MIB);
        drop(credit);
        assert_eq!(governor.available(), 8 * MIB);
        assert_eq!(group.outstanding.load(Ordering::Relaxed), 0);
    }
}
