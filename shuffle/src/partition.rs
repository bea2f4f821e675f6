// SPDX-License-Identifier: Apache-2.0
//! Which bucket a row belongs to.
//!
//! A [`Partitioner`] looks at the key columns of a batch and writes one bucket number per row. It neither moves nor
//! copies rows; that is [`BatchPartitioner`](crate::BatchPartitioner)'s work.
//!
//! ```text
//!   keys (one array per key)      ids (one u32 per row, each < num_partitions)
//!   ┌────┬─────┐
//!   │ 17 │ "a" │  ── partition ──▶  3
//!   │  4 │ "b" │                    0
//!   │ 17 │ "a" │                    3      equal keys, equal bucket
//!   └────┴─────┘
//! ```
//!
//! Invariants: after success `ids.len() == num_rows` and every id is below `num_partitions()`; the result depends on
//! nothing but the constructor's arguments and the batches seen so far, so that a retried task that reads the same
//! input writes the same buckets. On failure the contents of `ids` are unspecified.

use arrow::array::{Array, ArrayRef};

use crate::error::{Result, ShuffleError};

/// Assigns rows to buckets.
pub trait Partitioner: Send {
    /// Number of buckets, at least 1.
    fn num_partitions(&self) -> usize;

    /// Clears `ids` and fills it with one bucket per row.
    ///
    /// `keys` holds one array of `num_rows` values per key; partitioners without keys ignore it.
    fn partition(&mut self, keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()>;
}

impl<P: Partitioner + ?Sized> Partitioner for Box<P> {
    fn num_partitions(&self) -> usize {
        (**self).num_partitions()
    }

    fn partition(&mut self, keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()> {
        (**self).partition(keys, num_rows, ids)
    }
}

/// Bucket = hash of the keys modulo the number of buckets.
///
/// The hash function comes from the caller, which thereby decides what the buckets agree with: DataFusion's
/// in-process repartitioning, or Spark's Murmur3.
#[derive(Debug)]
pub struct HashPartitioner<H> {
    num_partitions: u32,
    hash: H,
    hashes: Vec<u64>,
}

impl<H> HashPartitioner<H>
where
    H: FnMut(&[ArrayRef], &mut Vec<u64>) -> Result<()> + Send,
{
    /// `hash` gets the keys and a vector of one zero per row, and overwrites each with the row's hash.
    /// A `num_partitions` of 0 counts as 1.
    pub fn new(num_partitions: usize, hash: H) -> Self {
        Self { num_partitions: at_least_one(num_partitions), hash, hashes: Vec::new() }
    }
}

impl<H> Partitioner for HashPartitioner<H>
where
    H: FnMut(&[ArrayRef], &mut Vec<u64>) -> Result<()> + Send,
{
    fn num_partitions(&self) -> usize {
        self.num_partitions as usize
    }

    fn partition(&mut self, keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()> {
        check_keys(keys, num_rows)?;
        ids.clear();
        if self.num_partitions == 1 {
            ids.resize(num_rows, 0);
            return Ok(());
        }
        self.hashes.clear();
        self.hashes.resize(num_rows, 0);
        (self.hash)(keys, &mut self.hashes)?;
        if self.hashes.len() != num_rows {
            let got = self.hashes.len();
            return Err(ShuffleError::Invalid(format!("hash function gave {got} hashes for {num_rows} rows")));
        }
        let modulus = u64::from(self.num_partitions);
        if modulus.is_power_of_two() {
            let mask = modulus - 1;
            ids.extend(self.hashes.iter().map(|hash| (hash & mask) as u32));
        } else {
            ids.extend(self.hashes.iter().map(|hash| (hash % modulus) as u32));
        }
        Ok(())
    }
}

/// Deals rows out in turn: row `i` of the stream goes to bucket `(start + i) % n`.
///
/// The position carries on from batch to batch, so the cut of the input into batches does not matter. A retry agrees
/// with the first attempt as far as both read their input in the same order.
#[derive(Debug, Clone)]
pub struct RoundRobinPartitioner {
    num_partitions: u32,
    next: u32,
}

impl RoundRobinPartitioner {
    /// `start` is the bucket of the first row; give each task its own, or all short tasks fill the first buckets only.
    /// A `num_partitions` of 0 counts as 1.
    pub fn new(num_partitions: usize, start: usize) -> Self {
        let num_partitions = at_least_one(num_partitions);
        Self { num_partitions, next: (start % num_partitions as usize) as u32 }
    }
}

impl Partitioner for RoundRobinPartitioner {
    fn num_partitions(&self) -> usize {
        self.num_partitions as usize
    }

    fn partition(&mut self, _keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()> {
        ids.clear();
        ids.reserve(num_rows);
        for _ in 0..num_rows {
            ids.push(self.next);
            self.next += 1;
            if self.next == self.num_partitions {
                self.next = 0;
            }
        }
        Ok(())
    }
}

/// One bucket for everything: gathering results, broadcasting.
#[derive(Debug, Clone, Copy, Default)]
pub struct SinglePartitioner;

impl Partitioner for SinglePartitioner {
    fn num_partitions(&self) -> usize {
        1
    }

    fn partition(&mut self, _keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()> {
        ids.clear();
        ids.resize(num_rows, 0);
        Ok(())
    }
}

/// Bucket counts are `u32` on the wire; nothing near that limit is ever planned.
fn at_least_one(num_partitions: usize) -> u32 {
    u32::try_from(num_partitions).unwrap_or(u32::MAX).max(1)
}

pub(crate) fn check_keys(keys: &[ArrayRef], num_rows: usize) -> Result<()> {
    match keys.iter().find(|key| key.len() != num_rows) {
        None => Ok(()),
        Some(key) => Err(ShuffleError::Invalid(format!("a key column has {} rows, its batch {num_rows}", key.len()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn identity_hash(keys: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<()> {
        for (hash, value) in hashes.iter_mut().zip(keys[0].as_primitive::<Int64Type>().values()) {
            *hash = *value as u64;
        }
        Ok(())
    }

    #[test]
    fn hash_buckets_are_the_hash_modulo_the_count() {
        let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![0, 1, 7, 8, 9, -1]))];
        for n in [1, 2, 3, 7, 8, 200] {
            let mut ids = vec![99];
            let mut partitioner = HashPartitioner::new(n, identity_hash);
            partitioner.partition(&keys, 6, &mut ids).unwrap();
            let expected: Vec<u32> = [0u64, 1, 7, 8, 9, u64::MAX].iter().map(|hash| (hash % n as u64) as u32).collect();
            assert_eq!(ids, expected, "{n} buckets");
        }
    }

    #[test]
    fn round_robin_does_not_depend_on_the_cut_into_batches() {
        let mut whole = Vec::new();
        RoundRobinPartitioner::new(3, 5).partition(&[], 10, &mut whole).unwrap();
        assert_eq!(whole, [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
        let mut pieces = RoundRobinPartitioner::new(3, 5);
        let (mut all, mut ids) = (Vec::new(), Vec::new());
        for rows in [1, 4, 0, 5] {
            pieces.partition(&[], rows, &mut ids).unwrap();
            all.extend_from_slice(&ids);
        }
        assert_eq!(all, whole);
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2]))];
        let error = HashPartitioner::new(2, identity_hash).partition(&keys, 3, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, ShuffleError::Invalid(_)), "{error}");
    }
}
