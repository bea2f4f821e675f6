// SPDX-License-Identifier: Apache-2.0
//! Executors by free slots: an ordered index, so that placement never scans executors that have none.

use std::collections::{BTreeMap, BTreeSet};

use crate::executors::Life;

/// The executors that have free slots of one pool. **Invariant**: no bucket is empty, none is for 0 slots, and `total`
/// is the sum over all.
#[derive(Debug, Default)]
pub(crate) struct FreeIndex {
    by_free: BTreeMap<u32, BTreeSet<Life>>,
    total: u64,
}

impl FreeIndex {
    /// All free slots.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Moves an executor from `old` to `new` free slots.
    pub(crate) fn set(&mut self, life: Life, old: u32, new: u32) {
        if old == new {
            return;
        }
        if old > 0 {
            if let Some(bucket) = self.by_free.get_mut(&old) {
                bucket.remove(&life);
                if bucket.is_empty() {
                    self.by_free.remove(&old);
                }
            }
            self.total -= u64::from(old);
        }
        if new > 0 {
            self.by_free.entry(new).or_default().insert(life);
            self.total += u64::from(new);
        }
    }

    /// All executors with free slots and how many, most first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Life, u32)> + '_ {
        self.by_free.iter().rev().flat_map(|(free, bucket)| bucket.iter().map(move |life| (*life, *free)))
    }

    /// Spreads `wanted` slots so that what stays free is as even as possible: whoever has most free slots gives first.
    ///
    /// ```text
    ///  free before   ████████ ████ ██        wanted: 6
    ///  free after    ███      ███  ██        taken: 5, 1, 0
    /// ```
    ///
    /// Costs the number of executors it names plus the number of distinct counts of free slots.
    pub(crate) fn spread(&self, wanted: u64) -> Vec<(Life, u32)> {
        let mut left = wanted.min(self.total);
        // The water level: every executor counted so far has been taken down to `level` free slots.
        let (mut level, mut counted) = (0_u32, 0_u64);
        let mut buckets = self.by_free.iter().rev().peekable();
        while let Some((free, bucket)) = buckets.next() {
            level = *free;
            counted += bucket.len() as u64;
            let next = buckets.peek().map_or(0, |(free, _)| **free);
            let step = counted * u64::from(level - next);
            if left <= step {
                break;
            }
            left -= step;
        }
        if counted == 0 {
            return Vec::new();
        }
        let (each, extra) = (left / counted, left % counted);
        self.iter()
            .take(usize::try_from(counted).unwrap_or(usize::MAX))
            .enumerate()
            .map(|(position, (life, free))| {
                let below = each + u64::from((position as u64) < extra);
                (life, free - level + u32::try_from(below).unwrap_or(u32::MAX))
            })
            .take_while(|(_, taken)| *taken > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(free: &[u32]) -> FreeIndex {
        let mut index = FreeIndex::default();
        for (life, free) in free.iter().enumerate() {
            index.set(Life(life as u64), 0, *free);
        }
        index
    }

    fn spread(free: &[u32], wanted: u64) -> Vec<u32> {
        let mut taken = vec![0; free.len()];
        for (life, slots) in index(free).spread(wanted) {
            taken[life.0 as usize] = slots;
        }
        taken
    }

    #[test]
    fn spreading_levels_what_stays_free() {
        assert_eq!(spread(&[8, 4, 2], 6), [5, 1, 0]);
        assert_eq!(spread(&[4, 4], 4), [2, 2]);
        assert_eq!(spread(&[4, 4, 4], 2), [1, 1, 0]);
        assert_eq!(spread(&[1, 3], 4), [1, 3]);
        assert_eq!(spread(&[1, 3], 100), [1, 3]);
        assert_eq!(spread(&[5, 2, 5], 7), [4, 0, 3]);
        assert_eq!(spread(&[], 7), [0; 0]);
    }

    #[test]
    fn spreading_takes_all_that_is_wanted_and_no_more_than_is_free() {
        for wanted in 0..=20 {
            let free = [7, 1, 4, 4, 0, 2];
            let taken = spread(&free, wanted);
            assert_eq!(u64::from(taken.iter().sum::<u32>()), wanted.min(18));
            assert!(taken.iter().zip(free).all(|(taken, free)| *taken <= free));
        }
    }
}
