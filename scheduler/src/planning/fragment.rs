// SPDX-License-Identifier: Apache-2.0
//! How many partitions a stage has.
//!
//! Exchanges are written in many buckets. Once they are complete, neighbouring buckets are joined to partitions of
//! about `ballista.shuffle.read_bytes`, the same ones for every hash exchange that a stage reads, so that joins stay
//! co-partitioned. File scans are joined likewise where a task would otherwise build the same hash table again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ballista_core::StageId;
use ballista_plan::reader::ShuffleReaderExec;
use ballista_plan::slice::{coalesce_leaves, file_scan};
use ballista_plan::write::WriteExec;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

/// Less than this is not worth a partition of its own.
const MIN_PARTITION_BYTES: u64 = 1 << 20;

/// Scans that write files are not divided into smaller partitions than this, but for having one for every slot.
const MIN_WRITE_BYTES: u64 = 1 << 30;

/// What parallelism depends on.
#[derive(Debug, Clone, Copy)]
pub struct Parallelism {
    /// Slots of the whole cluster.
    pub slots: usize,
    /// Bytes of exchanges that a partition should read.
    pub read_bytes: u64,
    /// Bytes of files that a partition should read.
    pub scan_bytes: u64,
}

/// `plan` with its leaves joined to as many partitions as its input deserves. `bucket_bytes`: of finished exchanges.
pub fn set_parallelism(
    plan: &Arc<dyn ExecutionPlan>,
    bucket_bytes: &BTreeMap<StageId, Vec<u64>>,
    parallelism: &Parallelism,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut sums: Vec<u64> = Vec::new();
    add_hash_buckets(plan, bucket_bytes, &mut sums);
    let ranges = (!sums.is_empty()).then(|| ranges_of(&sums, parallelism));
    let target = if builds_tables(plan) {
        parallelism.slots
    } else {
        // Every partition writes files of its own, so partitions that write are larger.
        let least = if WriteExec::is_in(plan) { MIN_WRITE_BYTES } else { 1 };
        let wanted = scanned_bytes(plan).div_ceil(parallelism.scan_bytes.max(least)) as usize;
        wanted.next_multiple_of(parallelism.slots.max(1)).max(parallelism.slots)
    };
    coalesce_leaves(plan, target, ranges.as_deref())
}

fn add_hash_buckets(plan: &Arc<dyn ExecutionPlan>, bucket_bytes: &BTreeMap<StageId, Vec<u64>>, sums: &mut Vec<u64>) {
    if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>()
        && !reader.is_broadcast()
        && !reader.hash_keys().is_empty()
    {
        let sizes = bucket_bytes.get(&reader.stage()).map_or(&[][..], Vec::as_slice);
        sums.resize(sums.len().max(reader.ranges().len()), 0);
        for (sum, size) in sums.iter_mut().zip(sizes) {
            *sum += size;
        }
    }
    for child in plan.children() {
        add_hash_buckets(child, bucket_bytes, sums);
    }
}

/// Runs of neighbouring buckets of about equal size.
fn ranges_of(sizes: &[u64], parallelism: &Parallelism) -> Vec<Range<u32>> {
    let total: u64 = sizes.iter().sum();
    let by_size = total.div_ceil(parallelism.read_bytes.max(1)) as usize;
    let worthwhile = total.div_ceil(MIN_PARTITION_BYTES) as usize;
    let count = by_size.max(parallelism.slots.min(worthwhile)).clamp(1, sizes.len());
    let share = total.div_ceil(count as u64).max(1);
    let mut ranges = Vec::with_capacity(count);
    let mut start = 0;
    let mut seen = 0;
    for (bucket, size) in sizes.iter().enumerate() {
        seen += size;
        let last = bucket + 1 == sizes.len();
        let filled = seen >= share * (ranges.len() as u64 + 1);
        // Enough buckets must stay for the partitions that are still to come.
        let must_close = sizes.len() - (bucket + 1) < count - ranges.len();
        if last || ((filled || must_close) && ranges.len() + 1 < count) {
            ranges.push(start as u32..bucket as u32 + 1);
            start = bucket + 1;
        }
    }
    ranges
}

/// Whether every task of `plan` builds a hash table of its own over the same rows.
fn builds_tables(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let here = plan.downcast_ref::<HashJoinExec>().is_some_and(|j| *j.partition_mode() == PartitionMode::CollectLeft)
        || plan.is::<CrossJoinExec>()
        || plan.is::<NestedLoopJoinExec>();
    here || plan.children().into_iter().any(builds_tables)
}

/// Bytes of the files that `plan` scans.
pub fn scanned_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    if let Some(scan) = file_scan(plan) {
        let size = |file: &datafusion::datasource::listing::PartitionedFile| match &file.range {
            Some(range) => (range.end - range.start).max(0) as u64,
            None => file.object_meta.size,
        };
        return scan.file_groups.iter().flat_map(|group| group.files()).map(size).sum();
    }
    plan.children().into_iter().map(scanned_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parallelism(slots: usize, read_bytes: u64) -> Parallelism {
        Parallelism { slots, read_bytes, scan_bytes: 1 << 30 }
    }

    fn check_cover(ranges: &[Range<u32>], buckets: u32) {
        let mut next = 0;
        for range in ranges {
            assert_eq!(range.start, next);
            assert!(range.end > range.start);
            next = range.end;
        }
        assert_eq!(next, buckets);
    }

    #[test]
    fn small_exchanges_are_read_by_one_partition() {
        let ranges = ranges_of(&[10; 8], &parallelism(4, 1 << 25));
        assert_eq!(ranges, vec![0..8]);
    }

    #[test]
    fn large_exchanges_keep_every_slot_busy_and_partitions_bounded() {
        let ranges = ranges_of(&[16 << 20; 16], &parallelism(4, 64 << 20));
        check_cover(&ranges, 16);
        assert_eq!(ranges.len(), 4);
        let ranges = ranges_of(&[16 << 20; 16], &parallelism(2, 32 << 20));
        check_cover(&ranges, 16);
        assert_eq!(ranges.len(), 8);
    }

    #[test]
    fn a_heavy_bucket_does_not_swallow_the_others() {
        let mut sizes = vec![1 << 20; 8];
        sizes[2] = 500 << 20;
        let ranges = ranges_of(&sizes, &parallelism(4, 1 << 30));
        check_cover(&ranges, 8);
        assert_eq!(ranges.len(), 4);
    }
}
