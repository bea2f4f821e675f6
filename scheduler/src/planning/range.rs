// SPDX-License-Identifier: Apache-2.0
//! A global `ORDER BY` over many rows: sorted in parallel, range by range, and concatenated in order by the client.
//!
//! ```text
//! input stage      rows stay where they are, each task reports a sample of its sort keys
//! exchange stage   bounds from the samples; every row moves to its range
//! final stage      each partition sorts its range; the client reads partition after partition
//! ```

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema};
use arrow::row::SortField;
use ballista_plan::codec::decode_columns;
use ballista_plan::write::WriteExec;
use ballista_shuffle::wire_type;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};

use super::adapt::estimate;
use super::cut::{partitions, replace};

/// Stands for a global sort while the scheduler waits for its input; never executed.
#[derive(Debug)]
pub struct RangeSortExec {
    input: Arc<dyn ExecutionPlan>,
    ordering: LexOrdering,
}

impl RangeSortExec {
    /// A global sort of `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>, ordering: LexOrdering) -> Self {
        Self { input, ordering }
    }

    /// The unsorted rows.
    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// The sort keys.
    pub fn ordering(&self) -> &LexOrdering {
        &self.ordering
    }

    /// The same sort by one merging task.
    pub fn merged(&self) -> Arc<dyn ExecutionPlan> {
        let sorted = SortExec::new(self.ordering.clone(), Arc::clone(&self.input)).with_preserve_partitioning(true);
        Arc::new(SortPreservingMergeExec::new(self.ordering.clone(), Arc::new(sorted)))
    }
}

impl DisplayAs for RangeSortExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RangeSortExec: ordering=[{}]", self.ordering)
    }
}

impl ExecutionPlan for RangeSortExec {
    fn name(&self) -> &str {
        "RangeSortExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for key in &self.ordering {
            f(&key.expr)?;
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.ordering.clone())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal("RangeSortExec left the planner".to_owned()))
    }
}

/// Whether the order of `plan`'s partitions, and of the rows in them, is that of its input: a projection, or a write to
/// a directory, whose files are named by partition.
fn keeps_ranges(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<ProjectionExec>() || plan.downcast_ref::<WriteExec>().is_some_and(|write| !write.is_single_file())
}

/// `plan` with a global sort at its root, below what keeps the order at most, replaced by a [`RangeSortExec`] if it is
/// estimated to sort more than `min_bytes`, or if nobody knows.
pub fn mark_range_sort(plan: &Arc<dyn ExecutionPlan>, min_bytes: usize) -> Result<Arc<dyn ExecutionPlan>> {
    if keeps_ranges(plan) {
        return replace(plan, vec![mark_range_sort(plan.children()[0], min_bytes)?]);
    }
    let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() else { return Ok(Arc::clone(plan)) };
    let Some(sort) = merge.input().downcast_ref::<SortExec>() else { return Ok(Arc::clone(plan)) };
    let many = estimate(sort.input()).bytes.is_none_or(|bytes| bytes > min_bytes);
    if merge.fetch().is_some() || sort.fetch().is_some() || partitions(sort.input()) == 1 || !many {
        return Ok(Arc::clone(plan));
    }
    if sort.expr().iter().any(|key| has_few_keys(&key.expr, &sort.input().schema())) {
        return Ok(Arc::clone(plan));
    }
    Ok(Arc::new(RangeSortExec::new(Arc::clone(sort.input()), sort.expr().clone())))
}

/// Whether `key` is a dictionary that may be too small for the values of a sample of all rows.
fn has_few_keys(key: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    use DataType::{Dictionary, Int8, Int16, UInt8, UInt16};
    let data_type = key.data_type(schema);
    matches!(data_type, Ok(Dictionary(keys, _)) if matches!(*keys, Int8 | Int16 | UInt8 | UInt16))
}

/// The range sort at the root of `plan`, below what keeps the order at most.
pub fn find_range_sort(plan: &Arc<dyn ExecutionPlan>) -> Option<&RangeSortExec> {
    if keeps_ranges(plan) {
        return find_range_sort(plan.children()[0]);
    }
    plan.downcast_ref::<RangeSortExec>()
}

/// `plan` with `new` in place of the range sort at its root.
pub fn replace_range_sort(
    plan: &Arc<dyn ExecutionPlan>,
    new: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.is::<RangeSortExec>() {
        return Ok(new);
    }
    replace(plan, vec![replace_range_sort(plan.children()[0], new)?])
}

/// Bounds that divide the rows into `buckets` ranges of about equal size, fewer where keys repeat. Each sample comes
/// with the number of rows it stands for.
pub fn bounds_of(
    ordering: &LexOrdering,
    schema: &arrow::datatypes::Schema,
    samples: &[(u64, bytes::Bytes)],
    buckets: usize,
) -> Result<Vec<ArrayRef>> {
    let field = |key: &datafusion::physical_expr::PhysicalSortExpr| {
        let options = SortOptions { descending: key.options.descending, nulls_first: key.options.nulls_first };
        Ok(SortField::new_with_options(wire_type(&key.expr.data_type(schema)?), options))
    };
    let fields = ordering.iter().map(field).collect::<Result<Vec<_>>>()?;
    let decoded = samples.iter().map(|(_, sample)| decode_columns(sample)).collect::<Result<Vec<_>>>()?;
    let weights: Vec<f64> = samples.iter().map(|(rows, _)| *rows as f64).collect();
    ballista_shuffle::range_bounds(fields, &decoded, &weights, buckets)
        .map_err(|error| DataFusionError::External(Box::new(error)))
}
