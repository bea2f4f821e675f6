// SPDX-License-Identifier: Apache-2.0
//! What is lost of window functions.

use std::sync::Arc;

use ballista_proto as proto;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, StandardWindowFunctionExpr, WindowExpr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr, create_udwf_window_expr};
use datafusion_proto::protobuf::WindowAggExecNode;

use super::unknown;

/// Says in `encoded` where NULLs are ignored, and returns which functions are reversed, if any.
pub(super) fn lost(
    plan: &Arc<dyn ExecutionPlan>,
    encoded: &mut WindowAggExecNode,
) -> Result<Option<proto::WindowNode>> {
    let mut reversed = vec![];
    let exprs = window_exprs(plan).ok_or_else(|| unknown("window"))?;
    for (position, (expr, encoded)) in exprs.iter().zip(&mut encoded.window_expr).enumerate() {
        if is_filtered(expr) {
            let message = format!("the filter of {} cannot be sent to a cluster", expr.name());
            return Err(DataFusionError::NotImplemented(message));
        }
        // Neither can be asked for, but is the end of what such a function prints for debugging.
        let Some(function) = window_function(expr) else { continue };
        let text = format!("{function:?}");
        encoded.ignore_nulls = text.ends_with("ignore_nulls: true }");
        if text.contains("is_reversed: true, ignore_nulls: ") {
            reversed.push(u32::try_from(position).map_err(|_| unknown("window"))?);
        }
    }
    Ok((!reversed.is_empty()).then_some(proto::WindowNode { reversed }))
}

/// The window node with the functions at `reversed` reversed.
pub(super) fn restore(plan: &Arc<dyn ExecutionPlan>, reversed: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut exprs = window_exprs(plan).ok_or_else(|| unknown("window"))?.to_vec();
    for position in reversed {
        let expr = exprs.get_mut(*position as usize).ok_or_else(|| unknown("window function"))?;
        *expr = reverse(expr, plan)?;
    }
    if let Some(bounded) = plan.downcast_ref::<BoundedWindowAggExec>() {
        let (mode, can_repartition) = (bounded.input_order_mode.clone(), !bounded.partition_keys().is_empty());
        let input = Arc::clone(bounded.input());
        return Ok(Arc::new(BoundedWindowAggExec::try_new(exprs, input, mode, can_repartition)?));
    }
    let window = plan.downcast_ref::<WindowAggExec>().ok_or_else(|| unknown("window"))?;
    let can_repartition = !window.partition_keys().is_empty();
    Ok(Arc::new(WindowAggExec::try_new(exprs, Arc::clone(window.input()), can_repartition)?))
}

/// `expr`, which was encoded as if it were not reversed: the reverse of the reverse of its function.
fn reverse(expr: &Arc<dyn WindowExpr>, plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn WindowExpr>> {
    let function = window_function(expr).ok_or_else(|| unknown("window function"))?;
    let ignore_nulls = format!("{function:?}").ends_with("ignore_nulls: true }");
    let there = function.reverse_expr().ok_or_else(|| unknown("reverse function"))?;
    let there = there.as_any().downcast_ref::<WindowUDFExpr>().ok_or_else(|| unknown("reverse function"))?;
    let input = plan.children().first().ok_or_else(|| unknown("input of a window"))?.schema();
    let opposite = create_udwf_window_expr(there.fun(), function.args(), &input, expr.name().to_owned(), ignore_nulls)?;
    let back = opposite.reverse_expr().ok_or_else(|| unknown("reverse function"))?;
    let frame = Arc::clone(expr.get_window_frame());
    Ok(Arc::new(StandardWindowExpr::new(back, expr.partition_by(), expr.order_by(), frame)))
}

fn window_exprs(plan: &Arc<dyn ExecutionPlan>) -> Option<&[Arc<dyn WindowExpr>]> {
    let bounded = plan.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr);
    bounded.or_else(|| plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr))
}

fn window_function(expr: &Arc<dyn WindowExpr>) -> Option<&WindowUDFExpr> {
    let standard = expr.as_any().downcast_ref::<StandardWindowExpr>()?;
    standard.get_standard_func_expr().as_any().downcast_ref()
}

/// Whether an aggregate has a filter, which is the last that it prints for debugging.
fn is_filtered(expr: &Arc<dyn WindowExpr>) -> bool {
    let is_aggregate =
        expr.as_any().is::<PlainAggregateWindowExpr>() || expr.as_any().is::<SlidingAggregateWindowExpr>();
    is_aggregate && !format!("{expr:?}").ends_with("filter: None }")
}
