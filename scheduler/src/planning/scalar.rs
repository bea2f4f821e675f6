// SPDX-License-Identifier: Apache-2.0
//! Scalar subqueries: each runs as a stage of its own, and its value travels with the stages that use it.
//!
//! DataFusion's `ScalarSubqueryExec` runs the subqueries of a plan level before its input, whose expressions read the
//! values from a shared container. A stage cut out below it is wrapped in a `ScalarSubqueryExec` of its own, whose
//! subqueries are literals by then.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};

/// The scalar subqueries of one plan level.
#[derive(Debug)]
pub struct SubqueryScope {
    results: ScalarSubqueryResults,
    plans: Vec<(SubqueryIndex, Arc<dyn ExecutionPlan>)>,
    resolved: bool,
}

impl SubqueryScope {
    /// `resolved`: every plan of `plans` is a literal.
    pub fn new(
        results: ScalarSubqueryResults,
        plans: Vec<(SubqueryIndex, Arc<dyn ExecutionPlan>)>,
        resolved: bool,
    ) -> Self {
        Self { results, plans, resolved }
    }
}

/// Whether an expression of `node` itself needs a value that is not known yet.
pub fn references_unresolved(node: &Arc<dyn ExecutionPlan>, scopes: &[SubqueryScope]) -> Result<bool> {
    match scopes.last() {
        Some(scope) if !scope.resolved => references_subquery(node),
        _ => Ok(false),
    }
}

/// `plan` with the values that it reads, if it reads any.
pub fn resolved_scope(plan: Arc<dyn ExecutionPlan>, scopes: &[SubqueryScope]) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(scope) = scopes.last() else { return Ok(plan) };
    if !tree_references_subquery(&plan)? {
        return Ok(plan);
    }
    let links = scope.plans.iter().map(|(index, plan)| ScalarSubqueryLink { plan: Arc::clone(plan), index: *index });
    Ok(Arc::new(ScalarSubqueryExec::new(plan, links.collect(), scope.results.clone())))
}

/// A plan that yields `value` as the one row of the one column of `schema`.
pub fn value_plan(schema: &SchemaRef, value: &ScalarValue) -> Result<Arc<dyn ExecutionPlan>> {
    let row = Arc::new(PlaceholderRowExec::new(Arc::new(arrow::datatypes::Schema::empty())));
    let column = ProjectionExpr { expr: lit(value.clone()), alias: schema.field(0).name().clone() };
    Ok(Arc::new(ProjectionExec::try_new([column], row)?))
}

fn tree_references_subquery(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    // A nested level brings its own values.
    if plan.is::<ScalarSubqueryExec>() {
        return Ok(false);
    }
    if references_subquery(plan)? {
        return Ok(true);
    }
    for child in plan.children() {
        if tree_references_subquery(child)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn references_subquery(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        expr.apply(|part| {
            found |= part.downcast_ref::<ScalarSubqueryExpr>().is_some();
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    Ok(found)
}
