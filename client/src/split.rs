// SPDX-License-Identifier: Apache-2.0
//! Which nodes of an initial plan stay in the client, and what the client may rely on of the rest.

use std::sync::Arc;

use ballista_plan::write::WriteExec;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// Plans deeper than this are worked on with a stack of their own.
const DEEP: usize = 64;
const DEEP_STACK_BYTES: usize = 256 << 20;

/// The nodes at the top of a plan that write its rows somewhere: they run in the client.
pub(crate) struct Sink {
    /// From the root to the sink.
    nodes: Vec<Arc<dyn ExecutionPlan>>,
    input: Arc<dyn ExecutionPlan>,
}

impl Sink {
    /// The sink of `plan`: down to a `DataSinkExec`, or the root alone if `writes` and the root is of another kind.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>, writes: bool) -> Result<Option<Self>> {
        let plan = below_subqueries(plan)?;
        let mut nodes = vec![];
        let mut node = plan.clone();
        while let [child] = node.children().as_slice() {
            let child = Arc::clone(child);
            let is_sink = node.downcast_ref::<DataSinkExec>().is_some();
            nodes.push(node);
            if is_sink {
                return Ok(Some(Self { nodes, input: child }));
            }
            node = child;
        }
        if !writes {
            return Ok(None);
        }
        let input = plan.children().first().map(|child| Arc::clone(child));
        Ok(input.filter(|_| plan.children().len() == 1).map(|input| Self { nodes: vec![plan], input }))
    }

    /// What the sink reads.
    pub(crate) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// The sink reading `input`.
    pub(crate) fn over(self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.nodes.into_iter().rev().try_fold(input, |input, node| with_children(node, vec![input]))
    }
}

/// `plan` as a write by the cluster's tasks, if its sink is one that they know.
pub(crate) fn cluster_write(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let write = WriteExec::of(&below_subqueries(plan)?)?;
    Ok(write.map(|write| Arc::new(write) as _))
}

/// Scalar subqueries are planned at the root; if that is above a sink, they belong below it, to the rows' query.
fn below_subqueries(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(subqueries) = plan.downcast_ref::<ScalarSubqueryExec>() else { return Ok(Arc::clone(plan)) };
    let sink = subqueries.input();
    if sink.downcast_ref::<DataSinkExec>().is_none() {
        return Ok(Arc::clone(plan));
    }
    let rows = sink.children().into_iter().map(|input| {
        let (links, results) = (subqueries.subqueries().to_vec(), subqueries.results().clone());
        Arc::new(ScalarSubqueryExec::new(Arc::clone(input), links, results)) as _
    });
    with_children(Arc::clone(sink), rows.collect())
}

/// `plan` with other `children`.
pub(crate) fn with_children(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The order in which `plan` was asked to return its rows. An order that it merely happens to have is not kept by the
/// cluster.
pub(crate) fn global_ordering(plan: &Arc<dyn ExecutionPlan>) -> Option<LexOrdering> {
    if plan.output_partitioning().partition_count() != 1 {
        return None;
    }
    let mut node = plan;
    loop {
        if let Some(subqueries) = node.downcast_ref::<ScalarSubqueryExec>() {
            node = subqueries.input();
        }
        if node.downcast_ref::<SortExec>().is_some() || node.downcast_ref::<SortPreservingMergeExec>().is_some() {
            return plan.output_ordering().cloned();
        }
        let children = node.children();
        if children.len() != 1 || node.maintains_input_order() != [true] {
            return None;
        }
        node = children[0];
    }
}

/// Runs `work`, which recurses over `plan`, with enough stack for the plan's depth.
pub(crate) fn stack_for<T>(plan: &Arc<dyn ExecutionPlan>, work: impl FnOnce() -> T) -> T {
    if depth(plan) <= DEEP { work() } else { stacker::grow(DEEP_STACK_BYTES, work) }
}

fn depth(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let mut deepest = 0;
    let mut nodes = vec![(plan, 1)];
    while let Some((node, depth)) = nodes.pop() {
        deepest = deepest.max(depth);
        nodes.extend(node.children().into_iter().map(|child| (child, depth + 1)));
    }
    deepest
}
