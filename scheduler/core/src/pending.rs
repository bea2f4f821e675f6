// SPDX-License-Identifier: Apache-2.0
//! The partitions of a stage that wait for a slot, and where their input is.

use std::collections::{BTreeMap, BTreeSet};

use crate::executors::Life;

/// One executor's interest in one partition, ordered so that the most wanted comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Local {
    /// Nobody holds more of the partition's input.
    primary: bool,
    bytes: u64,
    /// Reversed: of equals, the lowest partition is taken first.
    partition: std::cmp::Reverse<u32>,
}

/// Waiting partitions. **Invariants**: `plain` and `wanted` are disjoint; lists in `local` may still name partitions
/// that are gone, and are cleaned when they are read or when nothing waits.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Nobody holds input of these.
    plain: BTreeSet<u32>,
    /// Some executor would rather run these.
    wanted: BTreeSet<u32>,
    local: BTreeMap<Life, Vec<Local>>,
}

impl Pending {
    /// All partitions of a stage; `preferred` gives holders with bytes per partition.
    pub(crate) fn new(partitions: u32, preferred: &[Vec<(Life, u64)>]) -> Self {
        let mut pending = Self::default();
        for partition in 0..partitions {
            let holders = preferred.get(partition as usize).map_or(&[][..], Vec::as_slice);
            let most = holders.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
            if most == 0 {
                pending.plain.insert(partition);
                continue;
            }
            pending.wanted.insert(partition);
            for (life, bytes) in holders.iter().filter(|(_, bytes)| *bytes > 0) {
                let interest =
                    Local { primary: *bytes == most, bytes: *bytes, partition: std::cmp::Reverse(partition) };
                pending.local.entry(*life).or_default().push(interest);
            }
        }
        pending.local.values_mut().for_each(|list| list.sort_unstable());
        pending
    }

    /// How many partitions wait.
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.wanted.len()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.wanted.is_empty()
    }

    /// Whether some partition may have input on an executor.
    pub(crate) fn has_local(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The waiting partitions, ascending within each of two runs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.plain.iter().chain(&self.wanted).copied()
    }

    /// Takes up to `count` partitions whose input `life` holds, most bytes first; with `primary`, only those of which
    /// nobody holds more.
    pub(crate) fn take_local(&mut self, life: Life, count: usize, primary: bool) -> Vec<u32> {
        let mut taken = Vec::new();
        let Some(list) = self.local.get_mut(&life) else { return taken };
        while taken.len() < count {
            let Some(interest) = list.last().filter(|interest| interest.primary || !primary) else { break };
            let partition = interest.partition.0;
            list.pop();
            if self.wanted.remove(&partition) {
                taken.push(partition);
            }
        }
        if list.is_empty() {
            self.local.remove(&life);
        }
        self.forget_if_empty();
        taken
    }

    /// Takes up to `count` partitions, those that nobody would rather run first.
    pub(crate) fn take_any(&mut self, count: usize) -> Vec<u32> {
        let plain = std::iter::from_fn(|| self.plain.pop_first());
        let wanted = std::iter::from_fn(|| self.wanted.pop_first());
        let taken = plain.chain(wanted).take(count).collect();
        self.forget_if_empty();
        taken
    }

    /// Takes exactly these partitions; `false`, and nothing taken, unless all of them wait.
    pub(crate) fn take_exactly(&mut self, partitions: &[u32]) -> bool {
        let mut known = BTreeSet::new();
        let waits = |partition: &u32| {
            (self.plain.contains(partition) || self.wanted.contains(partition)) && known.insert(*partition)
        };
        if !partitions.iter().all(waits) {
            return false;
        }
        for partition in partitions {
            self.plain.remove(partition);
            self.wanted.remove(partition);
        }
        self.forget_if_empty();
        true
    }

    /// Locality is of no use once nothing waits.
    fn forget_if_empty(&mut self) {
        if self.is_empty() {
            self.local.clear();
        }
    }

    /// Bytes of input per executor, over all waiting partitions.
    pub(crate) fn bytes_by_holder(&self) -> BTreeMap<Life, u64> {
        let sum = |list: &Vec<Local>| list.iter().fold(0, |sum: u64, interest| sum.saturating_add(interest.bytes));
        self.local.iter().map(|(life, list)| (*life, sum(list))).collect()
    }

    /// How many entries are kept, for the memory test.
    pub(crate) fn entries(&self) -> usize {
        self.len() + self.local.values().map(Vec::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Life = Life(1);
    const B: Life = Life(2);

    #[test]
    fn most_local_bytes_go_first_and_strangers_take_what_nobody_wants() {
        let mut pending = Pending::new(4, &[vec![(A, 5)], vec![(A, 9), (B, 10)], vec![(A, 7)]]);
        assert_eq!(pending.take_local(A, 9, true), [2, 0]);
        assert_eq!(pending.take_any(1), [3]);
        assert_eq!(pending.take_local(A, 9, false), [1]);
        assert_eq!(pending.take_local(B, 9, true), [0; 0]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_partition_is_handed_out_once() {
        let mut pending = Pending::new(3, &[vec![(A, 1), (B, 1)], vec![(A, 0)]]);
        assert_eq!(pending.len(), 3);
        assert_eq!(pending.take_any(9), [1, 2, 0]);
        assert_eq!(pending.take_local(A, 9, false), [0; 0]);
        assert_eq!(pending.take_local(B, 9, false), [0; 0]);
    }
}
