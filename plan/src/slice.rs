// SPDX-License-Identifier: Apache-2.0
//! Restricts a stage's plan to the partitions that one task runs, and coalesces its leaves.
//!
//! A task polls every partition of its plan instance to the end, so the instance must have exactly the partitions of
//! the slice: leaves are cut down and everything above recomputes its properties. Which child partitions a slice needs
//! depends on the operator:
//!
//! ```text
//! same    projection, filter, aggregate, sort, window, …: child partition i feeds partition i
//! whole   build side of a collected join, subqueries: every task reads all of it
//! offset  union: its partitions are those of its children, one after another
//! ```
//!
//! An operator that is not known here is never cut: [`can_slice`] is false and the stage runs as one task.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::async_func::AsyncFuncExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::reader::ShuffleReaderExec;
use crate::write::WriteExec;

/// What a slice of an operator needs of one of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildSlice {
    /// The same partitions.
    Same,
    /// Everything.
    Whole,
}

/// Whether tasks on different executors may each run some of the partitions of `plan`.
pub fn can_slice(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if partitions(plan) == 1 {
        return true;
    }
    if is_leaf(plan) {
        return is_known_leaf(plan);
    }
    if plan.is::<UnionExec>() {
        return plan.children().into_iter().all(can_slice);
    }
    let Some(slices) = child_slices(plan) else { return false };
    plan.children().into_iter().zip(slices).all(|(child, slice)| slice == ChildSlice::Whole || can_slice(child))
}

/// What a slice of `plan` needs of its children; `None` if it must run as a whole. Not for leaves and unions.
pub fn child_slices(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<ChildSlice>> {
    use ChildSlice::{Same, Whole};
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return match join.partition_mode() {
            PartitionMode::Partitioned => Some(vec![Same, Same]),
            PartitionMode::CollectLeft if probe_decides(*join.join_type()) => Some(vec![Whole, Same]),
            PartitionMode::CollectLeft | PartitionMode::Auto => None,
        };
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return probe_decides(*join.join_type()).then(|| vec![Whole, Same]);
    }
    if plan.is::<CrossJoinExec>() {
        return Some(vec![Whole, Same]);
    }
    if plan.is::<SortMergeJoinExec>() || plan.is::<SymmetricHashJoinExec>() {
        return Some(vec![Same, Same]);
    }
    if plan.is::<InterleaveExec>() {
        return Some(vec![Same; plan.children().len()]);
    }
    if plan.is::<ScalarSubqueryExec>() {
        let mut slices = vec![Whole; plan.children().len()];
        slices[0] = Same;
        return Some(slices);
    }
    let row_wise = plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>()
        || plan.is::<AggregateExec>()
        || plan.is::<SortExec>()
        || plan.is::<WindowAggExec>()
        || plan.is::<BoundedWindowAggExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<WriteExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<BufferExec>()
        || plan.is::<AsyncFuncExec>();
    let keeps_count = plan.children().first().is_some_and(|child| partitions(child) == partitions(plan));
    (row_wise && keeps_count).then(|| vec![Same])
}

/// Whether each probe row alone decides what it contributes to the result, so that tasks which see only a part of the
/// probe side are right. False where unmatched or once-only rows of the collected side are emitted.
pub fn probe_decides(join_type: JoinType) -> bool {
    matches!(
        join_type,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    )
}

/// `plan` with only the partitions `parts`, ascending.
pub fn restrict(plan: &Arc<dyn ExecutionPlan>, parts: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    let count = partitions(plan);
    if let Some(bad) = parts.iter().find(|part| **part >= count) {
        return Err(DataFusionError::Internal(format!("partition {bad} of {count} asked of {}", plan.name())));
    }
    if parts.len() == count {
        return Ok(Arc::clone(plan));
    }
    if is_leaf(plan) {
        return restrict_leaf(plan, parts);
    }
    if plan.is::<UnionExec>() {
        return restrict_union(plan, parts);
    }
    let slices = child_slices(plan).ok_or_else(|| cannot_slice(plan))?;
    let children = plan.children().into_iter().zip(slices).map(|(child, slice)| match slice {
        ChildSlice::Same => restrict(child, parts),
        ChildSlice::Whole => Ok(Arc::clone(child)),
    });
    replace(plan, children.collect::<Result<_>>()?)
}

fn restrict_union(plan: &Arc<dyn ExecutionPlan>, parts: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut children: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    let mut offset = 0;
    for child in plan.children() {
        let end = offset + partitions(child);
        let local: Vec<usize> = parts.iter().filter(|part| (offset..end).contains(*part)).map(|p| p - offset).collect();
        children.push(match local.as_slice() {
            // Keeps the number of inputs, and the schema that follows from all of them, but adds no partition.
            [] => Arc::new(EmptyExec::new(child.schema()).with_partitions(0)),
            local => restrict(child, local)?,
        });
        offset = end;
    }
    replace(plan, children)
}

fn restrict_leaf(plan: &Arc<dyn ExecutionPlan>, parts: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>() {
        return Ok(Arc::new(reader.sliced(parts)));
    }
    if plan.is::<EmptyExec>() {
        return Ok(Arc::new(EmptyExec::new(plan.schema()).with_partitions(parts.len())));
    }
    if plan.is::<PlaceholderRowExec>() {
        return Ok(Arc::new(PlaceholderRowExec::new(plan.schema()).with_partitions(parts.len())));
    }
    if let Some(scan) = file_scan(plan) {
        let groups = parts.iter().map(|part| scan.file_groups[*part].clone()).collect();
        return Ok(with_file_groups(scan, groups));
    }
    if let Some(memory) = memory_scan(plan) {
        let picked: Vec<_> = parts.iter().map(|part| memory.partitions()[*part].clone()).collect();
        let source = MemorySourceConfig::try_new(&picked, memory.original_schema(), memory.projection().clone())?
            .try_with_sort_information(original_orderings(memory)?)?
            .with_limit(DataSource::fetch(memory));
        return Ok(DataSourceExec::from_data_source(source));
    }
    Err(cannot_slice(plan))
}

/// `plan` whose file scans have at most `target` partitions, each a run of neighbours, and whose readers of
/// hash-partitioned exchanges all read `hash_ranges`, so that joins stay co-partitioned. Ordered leaves keep their
/// partitions.
pub fn coalesce_leaves(
    plan: &Arc<dyn ExecutionPlan>,
    target: usize,
    hash_ranges: Option<&[std::ops::Range<u32>]>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>() {
        let coalesced = match hash_ranges {
            Some(ranges) if !reader.is_broadcast() && !reader.hash_keys().is_empty() => {
                reader.clone().with_ranges(ranges.to_vec())
            }
            _ => return Ok(Arc::clone(plan)),
        };
        return Ok(Arc::new(coalesced));
    }
    if let Some(scan) = file_scan(plan) {
        let ordered = !scan.output_ordering.is_empty() || scan.preserve_order || scan.output_partitioning.is_some();
        if ordered || scan.file_groups.len() <= target {
            return Ok(Arc::clone(plan));
        }
        return Ok(with_file_groups(scan, join_groups(&scan.file_groups, target)));
    }
    if is_leaf(plan) {
        return Ok(Arc::clone(plan));
    }
    let children = plan.children().into_iter().map(|child| coalesce_leaves(child, target, hash_ranges));
    replace(plan, children.collect::<Result<_>>()?)
}

/// Joins neighbouring file groups into `target` groups of about equal size.
fn join_groups(groups: &[FileGroup], target: usize) -> Vec<FileGroup> {
    let per_group = groups.len().div_ceil(target.max(1));
    groups
        .chunks(per_group)
        .map(|chunk| FileGroup::new(chunk.iter().flat_map(|group| group.files().to_vec()).collect()))
        .collect()
}

/// The file scan that `plan` is, if it is one.
pub fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source: &dyn std::any::Any = plan.downcast_ref::<DataSourceExec>()?.data_source().as_ref();
    source.downcast_ref::<FileScanConfig>()
}

/// The scan of a table in memory that `plan` is, if it is one.
pub(crate) fn memory_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&MemorySourceConfig> {
    let source: &dyn std::any::Any = plan.downcast_ref::<DataSourceExec>()?.data_source().as_ref();
    source.downcast_ref::<MemorySourceConfig>()
}

/// The orders of a table in memory, as [`MemorySourceConfig::try_with_sort_information`] wants them: in columns of the
/// table, although the source keeps them in columns of its projection.
pub(crate) fn original_orderings(memory: &MemorySourceConfig) -> Result<Vec<LexOrdering>> {
    let Some(projection) = memory.projection() else { return Ok(memory.sort_information().to_vec()) };
    let original = |expr: Arc<dyn PhysicalExpr>| match expr.downcast_ref::<Column>() {
        Some(column) => Ok(Transformed::yes(Arc::new(Column::new(column.name(), projection[column.index()])) as _)),
        None => Ok(Transformed::no(expr)),
    };
    let key = |key: &PhysicalSortExpr| {
        Ok(PhysicalSortExpr::new(Arc::clone(&key.expr).transform_up(original)?.data, key.options))
    };
    let orderings =
        memory.sort_information().iter().map(|ordering| ordering.iter().map(key).collect::<Result<Vec<_>>>());
    Ok(orderings.collect::<Result<Vec<_>>>()?.into_iter().filter_map(LexOrdering::new).collect())
}

/// `scan` over other file groups; claims no partitioning by values any more.
pub fn with_file_groups(scan: &FileScanConfig, groups: Vec<FileGroup>) -> Arc<dyn ExecutionPlan> {
    let config =
        FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).with_output_partitioning(None).build();
    DataSourceExec::from_data_source(config)
}

fn replace(plan: &Arc<dyn ExecutionPlan>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

fn is_leaf(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.children().is_empty()
}

fn is_known_leaf(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<ShuffleReaderExec>()
        || plan.is::<EmptyExec>()
        || plan.is::<PlaceholderRowExec>()
        || file_scan(plan).is_some()
        || memory_scan(plan).is_some()
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.output_partitioning().partition_count()
}

fn cannot_slice(plan: &Arc<dyn ExecutionPlan>) -> DataFusionError {
    DataFusionError::Internal(format!("{} must run as a whole, but a task was given a part of it", plan.name()))
}
