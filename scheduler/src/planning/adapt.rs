// SPDX-License-Identifier: Apache-2.0
//! Decisions that exact statistics of finished exchanges change.
//!
//! * A join whose build side turned out small: the build side is broadcast, and the probe side stays where it is.
//! * A join between two finished exchanges: the smaller one becomes the build side.
//! * Operators that cannot yield a row because an input is empty go away, with whatever they would have read.

use std::sync::Arc;

use ballista_core::StageId;
use ballista_plan::reader::{ExchangeStatistics, ShuffleReaderExec};
use ballista_plan::slice::probe_decides;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::union::InterleaveExec;

use super::notes;

/// Rows and bytes that `plan` yields, as far as anybody knows.
pub fn estimate(plan: &Arc<dyn ExecutionPlan>) -> ExchangeStatistics {
    match StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new()) {
        Ok(statistics) => ExchangeStatistics {
            rows: statistics.num_rows.get_value().copied(),
            bytes: statistics.total_byte_size.get_value().copied(),
            exact: false,
        },
        Err(_) => ExchangeStatistics { rows: None, bytes: None, exact: false },
    }
}

/// `plan` with the exact figures of the finished stage `stage`.
pub fn with_exact_statistics(
    plan: Arc<dyn ExecutionPlan>,
    stage: StageId,
    rows: u64,
    bytes: u64,
) -> Result<Arc<dyn ExecutionPlan>> {
    let exact = ExchangeStatistics { rows: Some(rows as usize), bytes: Some(bytes as usize), exact: true };
    let changed = plan.transform_up(|node| match node.downcast_ref::<ShuffleReaderExec>() {
        Some(reader) if reader.stage() == stage => {
            Ok(Transformed::yes(Arc::new(reader.clone().with_statistics(exact)) as Arc<dyn ExecutionPlan>))
        }
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(changed.data)
}

/// When a build side is broadcast.
#[derive(Debug, Clone, Copy)]
pub struct BroadcastLimit {
    /// Build sides up to this many bytes are.
    pub bytes: usize,
    /// Every executor gets the build side.
    pub executors: usize,
    /// Memory of the smallest executor; zero if unknown.
    pub memory: usize,
}

impl BroadcastLimit {
    /// A probe side that is larger than all copies of the build side by this factor is worth a larger build side.
    const FAR_LARGER: usize = 8;
    /// How much larger.
    const STRETCH: usize = 4;
    /// What one build side may take of an executor's memory: its rows, and its hash table beside them.
    const MEMORY_SHARE: usize = 8;

    /// The most bytes of a build side against this probe side.
    pub fn against(&self, probe: &Arc<dyn ExecutionPlan>, build_bytes: usize) -> usize {
        let copies = build_bytes.saturating_mul(self.executors.max(1));
        let far_larger = estimate(probe).bytes.is_some_and(|bytes| bytes / Self::FAR_LARGER >= copies);
        let wanted = if far_larger { self.bytes.saturating_mul(Self::STRETCH) } else { self.bytes };
        self.in_memory(wanted)
    }

    /// The most bytes of a build side against a probe side of no particular size.
    pub fn usual(&self) -> usize {
        self.in_memory(self.bytes)
    }

    /// The most bytes that any build side may have.
    pub fn most(&self) -> usize {
        self.in_memory(self.bytes.saturating_mul(Self::STRETCH))
    }

    fn in_memory(&self, bytes: usize) -> usize {
        if self.memory == 0 { bytes } else { bytes.min(self.memory / Self::MEMORY_SHARE) }
    }
}

/// `plan` with decisions made again, and whether any changed. `changes`: which, and why, for people.
pub fn adapt(
    plan: Arc<dyn ExecutionPlan>,
    broadcast: &BroadcastLimit,
    changes: &mut Vec<String>,
) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
    let joins = plan.transform_up(|node| choose_join(node, broadcast, changes))?;
    // An interleave takes only inputs that are partitioned alike, which nothing at all is not.
    if contains_interleave(&joins.data) {
        return Ok((joins.data, joins.transformed));
    }
    let empties = joins.data.transform_up(|node| remove_empty(node, changes))?;
    Ok((empties.data, joins.transformed || empties.transformed))
}

fn contains_interleave(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<InterleaveExec>() || plan.children().into_iter().any(contains_interleave)
}

fn choose_join(
    node: Arc<dyn ExecutionPlan>,
    broadcast: &BroadcastLimit,
    changes: &mut Vec<String>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
    if *join.partition_mode() != PartitionMode::Partitioned || join.null_aware {
        return Ok(Transformed::no(node));
    }
    let (left, right) = (finished(join.left()), finished(join.right()));
    let swappable = join.join_type().supports_swap();
    match (left, right) {
        (Some(build), None) if fits(build, join.right(), broadcast) && probe_decides(*join.join_type()) => {
            let Some(probe) = moved_input(join.right()) else { return Ok(Transformed::no(node)) };
            changes.push(notes::broadcast(join, build, broadcast.against(join.right(), bytes_of(build)), false));
            let build = Arc::new(build.clone().with_broadcast());
            let collected = join
                .builder()
                .with_partition_mode(PartitionMode::CollectLeft)
                .with_new_children(vec![build, probe])?
                .recompute_properties()
                .build()?;
            Ok(Transformed::yes(Arc::new(collected)))
        }
        (None, Some(build))
            if swappable && fits(build, join.left(), broadcast) && probe_decides(join.join_type().swap()) =>
        {
            let Some(probe) = moved_input(join.left()) else { return Ok(Transformed::no(node)) };
            changes.push(notes::broadcast(join, build, broadcast.against(join.left(), bytes_of(build)), true));
            let build = Arc::new(build.clone().with_broadcast());
            let unswapped = join.builder().with_new_children(vec![probe, build])?.recompute_properties().build()?;
            Ok(Transformed::yes(unswapped.swap_inputs(PartitionMode::CollectLeft)?))
        }
        (Some(build), Some(probe)) if swappable && bytes_of(build) > bytes_of(probe) => {
            changes.push(notes::swapped(join, build, probe));
            Ok(Transformed::yes(join.swap_inputs(PartitionMode::Partitioned)?))
        }
        _ => Ok(Transformed::no(node)),
    }
}

/// The finished exchange that `plan` reads by hash.
fn finished(plan: &Arc<dyn ExecutionPlan>) -> Option<&ShuffleReaderExec> {
    let reader = plan.downcast_ref::<ShuffleReaderExec>()?;
    (reader.statistics().exact && !reader.is_broadcast()).then_some(reader)
}

fn fits(build: &ShuffleReaderExec, probe: &Arc<dyn ExecutionPlan>, broadcast: &BroadcastLimit) -> bool {
    bytes_of(build) <= broadcast.against(probe, bytes_of(build))
}

fn bytes_of(reader: &ShuffleReaderExec) -> usize {
    reader.statistics().bytes.unwrap_or(usize::MAX)
}

/// The input of an exchange that has not been made yet.
fn moved_input(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    plan.downcast_ref::<RepartitionExec>().map(|repartition| Arc::clone(repartition.input()))
}

fn remove_empty(
    node: Arc<dyn ExecutionPlan>,
    changes: &mut Vec<String>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let is_empty = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        join_is_empty(*join.join_type(), yields_nothing(join.left()), yields_nothing(join.right()))
    } else if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
        yields_nothing(join.left()) || yields_nothing(join.right())
    } else if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let grouped = !aggregate.group_expr().is_empty() && !aggregate.group_expr().has_grouping_set();
        grouped && yields_nothing(aggregate.input())
    } else {
        let passes_rows_on = node.is::<FilterExec>()
            || node.is::<ProjectionExec>()
            || node.is::<RepartitionExec>()
            || node.is::<CoalescePartitionsExec>()
            || node.is::<SortExec>()
            || node.is::<SortPreservingMergeExec>()
            || node.is::<LocalLimitExec>()
            || node.is::<GlobalLimitExec>();
        passes_rows_on && node.children()[0].is::<EmptyExec>()
    };
    if is_empty {
        changes.extend(notes::removed(&node, is_empty_exchange));
        return Ok(Transformed::yes(Arc::new(EmptyExec::new(node.schema()))));
    }
    Ok(Transformed::no(node))
}

fn join_is_empty(join_type: JoinType, left_empty: bool, right_empty: bool) -> bool {
    match join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => left_empty || right_empty,
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => left_empty,
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => right_empty,
        JoinType::Full => left_empty && right_empty,
    }
}

fn yields_nothing(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<ShuffleReaderExec>().is_some_and(is_empty_exchange) || plan.is::<EmptyExec>()
}

fn is_empty_exchange(reader: &ShuffleReaderExec) -> bool {
    let statistics = reader.statistics();
    statistics.exact && statistics.rows == Some(0)
}
