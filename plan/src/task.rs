// SPDX-License-Identifier: Apache-2.0
//! From the decoded plan of a stage to the plan instance that one task runs.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};

use crate::reader::ShuffleReaderExec;
use crate::slice::restrict;

/// The partitions `parts` of `plan`, with dynamic filters pushed down. `plan` must be fresh from the decoder, and what
/// is returned must be executed once, every partition of it to the end.
///
/// Dynamic filters are made here, after the cut, so that none ever crosses an exchange.
pub fn instance_of(
    plan: &Arc<dyn ExecutionPlan>,
    parts: &[usize],
    options: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let instance = merging_row_by_row(restrict(plan, parts)?)?;
    let mut options = options.clone();
    if reads_by_hash(&instance) && has_partitioned_join(&instance) {
        // Such a join routes its filter by hash modulo its own partition count, which joined buckets and slices do
        // not follow.
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
    }
    FilterPushdown::new_post_optimization().optimize(instance, &options)
}

/// DataFusion's `percentile_cont` merges only the first row of a batch of intermediate states, and in one process there
/// is no other. Exchanges put the states of several tasks into one batch.
fn merging_row_by_row(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let single_rows = |node: Arc<dyn ExecutionPlan>| {
        Ok(match node.downcast_ref::<ShuffleReaderExec>() {
            Some(reader) => Transformed::yes(Arc::new(reader.clone().with_single_rows()) as Arc<dyn ExecutionPlan>),
            None => Transformed::no(node),
        })
    };
    let merges = |node: &Arc<dyn ExecutionPlan>| {
        node.downcast_ref::<AggregateExec>().is_some_and(|aggregate| {
            matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::FinalPartitioned)
                && aggregate.group_expr().is_empty()
                && aggregate.aggr_expr().iter().any(|expr| expr.fun().name() == "percentile_cont")
        })
    };
    plan.transform_down(|node| if merges(&node) { node.transform_down(single_rows) } else { Ok(Transformed::no(node)) })
        .data()
}

fn reads_by_hash(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let here = plan.downcast_ref::<ShuffleReaderExec>().is_some_and(|reader| !reader.hash_keys().is_empty());
    here || plan.children().into_iter().any(reads_by_hash)
}

fn has_partitioned_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let here =
        plan.downcast_ref::<HashJoinExec>().is_some_and(|join| *join.partition_mode() == PartitionMode::Partitioned);
    here || plan.children().into_iter().any(has_partitioned_join)
}
