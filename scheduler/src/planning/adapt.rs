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
use datafusion::physical_plan::ExecutionPlan;

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

/// `plan` with decisions made again, and whether any changed.
pub fn adapt(plan: Arc<dyn ExecutionPlan>, broadcast_bytes: usize) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
    let joins = plan.transform_up(|node| choose_join(node, broadcast_bytes))?;
    let empties = joins.data.transform_up(remove_empty)?;
    Ok((empties.data, joins.transformed || empties.transformed))
}

fn choose_join(node: Arc<dyn ExecutionPlan>, broadcast_bytes: usize) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
    if *join.partition_mode() != PartitionMode::Partitioned || join.null_aware {
        return Ok(Transformed::no(node));
    }
    let (left, right) = (finished(join.left()), finished(join.right()));
    let swappable = join.join_type().supports_swap();
    match (left, right) {
        (Some(build), None) if bytes_of(build) <= broadcast_bytes && probe_decides(*join.join_type()) => {
            let Some(probe) = moved_input(join.right()) else { return Ok(Transformed::no(node)) };
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
            if swappable && bytes_of(build) <= broadcast_bytes && probe_decides(join.join_type().swap()) =>
        {
            let Some(probe) = moved_input(join.left()) else { return Ok(Transformed::no(node)) };
            let build = Arc::new(build.clone().with_broadcast());
            let unswapped = join.builder().with_new_children(vec![probe, build])?.recompute_properties().build()?;
            Ok(Transformed::yes(unswapped.swap_inputs(PartitionMode::CollectLeft)?))
        }
        (Some(build), Some(probe)) if swappable && bytes_of(build) > bytes_of(probe) => {
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

fn bytes_of(reader: &ShuffleReaderExec) -> usize {
    reader.statistics().bytes.unwrap_or(usize::MAX)
}

/// The input of an exchange that has not been made yet.
fn moved_input(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    plan.downcast_ref::<RepartitionExec>().map(|repartition| Arc::clone(repartition.input()))
}

fn remove_empty(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
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
    let empty_exchange = plan.downcast_ref::<ShuffleReaderExec>().is_some_and(|reader| {
        let statistics = reader.statistics();
        statistics.exact && statistics.rows == Some(0)
    });
    empty_exchange || plan.is::<EmptyExec>()
}
