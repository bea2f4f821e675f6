// SPDX-License-Identifier: Apache-2.0
//! What is known to be equal, or constant, in the rows that go through an exchange.
//!
//! DataFusion's rules plan with it: a sort key that is constant, or equal to an earlier one, is left out. The reader of
//! the exchange must claim it as well, or the operators above it are not in order any more when a task builds them
//! again.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr::equivalence::{EquivalenceClass, EquivalenceGroup};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{AcrossPartitions, ConstExpr, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// What holds for the rows of `input` wherever they are moved to: no ordering.
///
/// # Errors
/// If DataFusion finds an expression that does not fit the rows.
pub fn across_exchange(input: &Arc<dyn ExecutionPlan>) -> Result<EquivalenceProperties> {
    let mut lasting = EquivalenceProperties::new(input.schema());
    if has_grouping_sets(input) {
        return Ok(lasting);
    }
    let source = input.equivalence_properties();
    let classes = source.eq_group().iter().map(|class| class.iter().filter(|expr| can_travel(expr)).cloned());
    let classes = classes.map(EquivalenceClass::new).filter(|class| class.len() > 1);
    lasting.add_equivalence_group(EquivalenceGroup::new(classes))?;
    let one_partition = input.output_partitioning().partition_count() == 1;
    let constants = source.constants().into_iter().filter(|constant| can_travel(&constant.expr));
    let constants = constants.filter_map(|constant| match constant.across_partitions {
        AcrossPartitions::Uniform(_) => Some(constant),
        AcrossPartitions::Heterogeneous if one_partition => {
            Some(ConstExpr::new(constant.expr, AcrossPartitions::Uniform(None)))
        }
        AcrossPartitions::Heterogeneous => None,
    });
    lasting.add_constants(constants)?;
    Ok(lasting)
}

/// An aggregate over grouping sets claims of its keys what its input does, though they are NULL in the rows of other
/// sets (DataFusion 55).
fn has_grouping_sets(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let here = plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().has_grouping_set());
    here || plan.children().into_iter().any(has_grouping_sets)
}

/// The value of a scalar subquery is known inside of its plan level only.
fn can_travel(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<ScalarSubqueryExpr>().is_none() && expr.children().into_iter().all(can_travel)
}
