// SPDX-License-Identifier: Apache-2.0
//! What became of the queries of a scenario, and how long they took to get over its faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Tally {
    /// Ended well, with the right answer.
    pub right: AtomicU64,
    /// With a wrong one.
    pub wrong: AtomicU64,
    /// With an error.
    pub failed: AtomicU64,
    /// Not within [`HUNG`](super::load::HUNG).
    pub hung: AtomicU64,
    /// Longest of the right ones, in milliseconds.
    pub longest_millis: AtomicU64,
    /// When each query began and ended, whatever came of it.
    spans: Mutex<Vec<(Instant, Instant)>>,
    /// When faults happened.
    faults: Mutex<Vec<Instant>>,
}

/// The figures of a [`Tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Right answers.
    pub right: u64,
    /// Wrong ones.
    pub wrong: u64,
    /// Errors.
    pub failed: u64,
    /// Queries that took too long.
    pub hung: u64,
}

impl Tally {
    /// The figures so far.
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            right: count(&self.right),
            wrong: count(&self.wrong),
            failed: count(&self.failed),
            hung: count(&self.hung),
        }
    }

    /// A query that began at `start` has ended.
    pub fn ended(&self, start: Instant) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push((start, Instant::now()));
    }

    /// A fault happened at `moment`.
    pub fn fault(&self, moment: Instant) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    }

    /// The longest time from a fault to the end of a query that ran when it happened. `None` if none ran at any.
    pub fn recovery(&self) -> Option<Duration> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = faults.iter().flat_map(|fault| {
            let hit = spans.iter().filter(move |(start, end)| start <= fault && fault <= end);
            hit.map(move |(_, end)| end.duration_since(*fault))
        });
        ends.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_of_the_queries_that_ran_when_the_fault_happened() {
        let tally = Tally::default();
        tally.fault(Instant::now());
        std::thread::sleep(Duration::from_millis(1));
        tally.ended(Instant::now());
        assert_eq!(tally.recovery(), None);
        let start = Instant::now();
        let fault = start + Duration::from_millis(1);
        std::thread::sleep(Duration::from_millis(5));
        tally.fault(fault);
        tally.ended(start);
        assert!(tally.recovery().unwrap() >= Duration::from_millis(4));
    }
}
