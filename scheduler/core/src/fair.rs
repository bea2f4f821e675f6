// SPDX-License-Identifier: Apache-2.0
//! Jobs by share: who gets the next free slots, and how many.
//!
//! A job's share is the slots it holds divided by its weight. The job with the smallest share that has a partition
//! waiting goes first, ties by submission. It gets as many slots as take it to the level that all waiting jobs would
//! have if slots could be dealt anew among them: with one job waiting all that is free, with several their part.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::executors::Pool;
use crate::job::JobSeq;

/// Slots held per weight, compared as fractions.
#[derive(Debug, Clone, Copy)]
struct Share {
    slots: u64,
    weight: u32,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.slots) * u128::from(other.weight);
        let right = u128::from(other.slots) * u128::from(self.weight);
        left.cmp(&right)
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

/// What decides a waiting job's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The slots it holds now.
    pub(crate) slots: u64,
    /// Its weight, at least 1.
    pub(crate) weight: u32,
    /// It may use the reserve.
    pub(crate) small: bool,
}

/// Jobs in the order of their turns, with the sums that the level is computed from.
#[derive(Debug, Default)]
struct Line {
    order: BTreeSet<(Share, JobSeq)>,
    weight: u64,
    slots: u64,
}

impl Line {
    fn insert(&mut self, job: JobSeq, waiting: Waiting) {
        self.order.insert((Share { slots: waiting.slots, weight: waiting.weight }, job));
        self.weight += u64::from(waiting.weight);
        self.slots += waiting.slots;
    }

    fn remove(&mut self, job: JobSeq, waiting: Waiting) {
        self.order.remove(&(Share { slots: waiting.slots, weight: waiting.weight }, job));
        self.weight -= u64::from(waiting.weight);
        self.slots -= waiting.slots;
    }
}

/// The jobs that have a partition waiting for a slot. **Invariant**: both lines hold what `waiting` says, the second
/// only small jobs.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    waiting: BTreeMap<JobSeq, Waiting>,
    all: Line,
    small: Line,
}

impl FairQueue {
    /// Records how a job waits now, or with `None` that it does not.
    pub(crate) fn set(&mut self, job: JobSeq, now: Option<Waiting>) {
        let before = self.waiting.get(&job).copied();
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.waiting.remove(&job);
            self.all.remove(job, before);
            if before.small {
                self.small.remove(job, before);
            }
        }
        if let Some(now) = now {
            self.waiting.insert(job, now);
            self.all.insert(job, now);
            if now.small {
                self.small.insert(job, now);
            }
        }
    }

    /// How a job waits.
    pub(crate) fn get(&self, job: JobSeq) -> Option<Waiting> {
        self.waiting.get(&job).copied()
    }

    /// How many jobs wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a job waits that may use this pool.
    pub(crate) fn is_waiting_for(&self, pool: Pool) -> bool {
        !self.line(pool).order.is_empty()
    }

    /// The job whose turn it is to use `free` slots of `pool`, and how many of them, at least 1.
    pub(crate) fn next(&self, pool: Pool, free: u64) -> Option<(JobSeq, u64)> {
        let line = self.line(pool);
        let (share, job) = line.order.first()?;
        let level = u128::from(line.slots + free) * u128::from(share.weight) / u128::from(line.weight.max(1));
        let level = u64::try_from(level).unwrap_or(u64::MAX);
        let grant = level.saturating_sub(share.slots).clamp(1, free.max(1));
        Some((*job, grant))
    }

    fn line(&self, pool: Pool) -> &Line {
        match pool {
            Pool::Regular => &self.all,
            Pool::Reserve => &self.small,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn queue(jobs: &[(u64, u32)]) -> FairQueue {
        let mut queue = FairQueue::default();
        for (job, (slots, weight)) in jobs.iter().enumerate() {
            queue.set(JobSeq(job as u64), Some(Waiting { slots: *slots, weight: *weight, small: false }));
        }
        queue
    }

    #[test]
    fn a_lone_job_gets_all_that_is_free() {
        assert_eq!(queue(&[(7, 3)]).next(Pool::Regular, 9), Some((JobSeq(0), 9)));
    }

    #[test]
    fn the_smallest_share_goes_first_and_ties_go_by_submission() {
        assert_eq!(queue(&[(4, 1), (4, 2), (2, 1)]).next(Pool::Regular, 1).unwrap().0, JobSeq(1));
        assert_eq!(queue(&[(4, 1), (0, 1), (0, 7)]).next(Pool::Regular, 1).unwrap().0, JobSeq(1));
    }

    #[test]
    fn free_slots_are_dealt_by_weight() {
        assert_eq!(queue(&[(0, 1), (0, 3)]).next(Pool::Regular, 16), Some((JobSeq(0), 4)));
        // What others hold already counts: the second job catches up in one go.
        assert_eq!(queue(&[(16, 1), (0, 1)]).next(Pool::Regular, 16), Some((JobSeq(1), 16)));
        assert_eq!(queue(&[(0, 1), (0, 1_000)]).next(Pool::Regular, 16), Some((JobSeq(0), 1)));
    }

    #[test]
    fn only_small_jobs_are_offered_the_reserve() {
        let mut queue = queue(&[(0, 1), (5, 1)]);
        assert_eq!(queue.next(Pool::Reserve, 4), None);
        queue.set(JobSeq(1), Some(Waiting { slots: 5, weight: 1, small: true }));
        assert_eq!(queue.next(Pool::Reserve, 4), Some((JobSeq(1), 4)));
        queue.set(JobSeq(1), None);
        assert_eq!(queue.next(Pool::Reserve, 4), None);
    }
}
