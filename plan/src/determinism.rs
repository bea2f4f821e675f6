// SPDX-License-Identifier: Apache-2.0
//! Whether a stage gives the same rows, in the same buckets, whenever its tasks run.
//!
//! If it does, tasks whose outputs were lost run again by themselves. If it does not, readers of old and new outputs would
//! see rows twice or not at all, so the whole stage has to run again, and its readers with it. Rows of an exchange come
//! in any order, so whatever depends on the order of its input counts as giving other rows:
//!
//! * volatile functions;
//! * limits, also those of a sort, whose ties fall either way;
//! * window functions, whose ties do too;
//! * aggregates, but for a few that are known not to depend on the order; sums of floats differ in their last bits;
//! * round-robin partitioning: into buckets, or between the operators of a stage whose partitions matter.
//!
//! Operators of an application are trusted to depend on their rows only.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr_common::physical_expr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::partitioned_topk::PartitionedTopKExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use crate::stage::{OutputPartitioning, StageOutput, keeps_partitions};

/// Whether tasks of a stage that run again give the same rows in the same buckets.
pub fn is_deterministic(plan: &Arc<dyn ExecutionPlan>, output: &StageOutput) -> bool {
    let turns = matches!(
        output,
        StageOutput::Exchange { partitioning: OutputPartitioning::RoundRobin { buckets }, .. } if *buckets > 1
    );
    let deals = keeps_partitions(plan, output) && deals_out(plan);
    !turns && !deals && gives_same_rows(plan)
}

/// Whether partitions get rows by turns.
fn deals_out(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let turns = |repartition: &RepartitionExec| matches!(repartition.partitioning(), Partitioning::RoundRobinBatch(_));
    plan.downcast_ref().is_some_and(turns) || plan.children().into_iter().any(deals_out)
}

fn gives_same_rows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let limits = plan.fetch().is_some()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<PartitionedTopKExec>()
        || plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.limit_options().is_some());
    let windows = plan.is::<WindowAggExec>() || plan.is::<BoundedWindowAggExec>();
    let aggregates = plan.downcast_ref::<AggregateExec>().map_or(&[][..], |aggregate| aggregate.aggr_expr());
    !limits
        && !windows
        && aggregates.iter().all(|aggregate| ignores_order(aggregate))
        && !is_volatile(plan)
        && plan.children().into_iter().all(gives_same_rows)
}

fn ignores_order(aggregate: &AggregateFunctionExpr) -> bool {
    match aggregate.fun().name() {
        "count" | "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" | "grouping" => true,
        "sum" | "avg" => !aggregate.field().data_type().is_floating(),
        _ => false,
    }
}

/// Whether an expression of this node gives another value each time.
pub fn is_volatile(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut volatile = false;
    let visited = plan.apply_expressions(&mut |expr| {
        volatile |= physical_expr::is_volatile(expr);
        Ok(if volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    volatile || visited.is_err()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    #[test]
    fn dealt_rows_matter_only_where_partitions_do() {
        let rows = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let dealt: Arc<dyn ExecutionPlan> =
            Arc::new(RepartitionExec::try_new(rows, Partitioning::RoundRobinBatch(2)).unwrap());
        let exchange = |partitioning| StageOutput::Exchange { partitioning, sample: vec![] };
        assert!(is_deterministic(&dealt, &exchange(OutputPartitioning::Single)));
        assert!(is_deterministic(&dealt, &StageOutput::Result { ordered: false }));
        assert!(!is_deterministic(&dealt, &exchange(OutputPartitioning::Passthrough { buckets: 2 })));
        assert!(!is_deterministic(&dealt, &StageOutput::Result { ordered: true }));
        assert!(!is_deterministic(&dealt, &exchange(OutputPartitioning::RoundRobin { buckets: 2 })));
    }
}
