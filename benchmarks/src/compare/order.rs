// SPDX-License-Identifier: Apache-2.0
//! The `ORDER BY` and `LIMIT` with which a plan ends, and whether an answer obeys them.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, LogicalPlan, SortExpr};
use datafusion::prelude::SessionContext;

use super::Answer;

/// How a plan's last operators order and limit its rows.
pub(super) struct Order {
    /// The leading sort keys that can be computed from the plan's output columns.
    keys: Vec<SortExpr>,
    /// Whether the plan ends in a `LIMIT` or `OFFSET`.
    pub(super) limited: bool,
}

impl Order {
    /// Reads the end of an unoptimised plan: limits, projections and aliases above one sort.
    pub(super) fn of(plan: &LogicalPlan) -> Self {
        let mut limited = false;
        let mut above = Vec::new();
        let mut node = plan;
        let sort = loop {
            match node {
                LogicalPlan::Limit(limit) => {
                    limited = true;
                    node = &limit.input;
                }
                LogicalPlan::Projection(projection) => {
                    above.push(node);
                    node = &projection.input;
                }
                LogicalPlan::SubqueryAlias(alias) => {
                    above.push(node);
                    node = &alias.input;
                }
                LogicalPlan::Sort(sort) => break Some(sort),
                _ => break None,
            }
        };
        let Some(sort) = sort else { return Self { keys: Vec::new(), limited } };
        limited |= sort.fetch.is_some();
        let lift = |key: &SortExpr| {
            let expr = above.iter().rev().try_fold(key.expr.clone(), |expr, node| lift(expr, node))?;
            Some(SortExpr { expr, ..key.clone() })
        };
        Self { keys: sort.expr.iter().map_while(lift).collect(), limited }
    }

    /// The keys' values for each row of an answer. Keys from the first one on that cannot be computed are left out.
    pub(super) fn keys(&self, context: &SessionContext, schema: &DFSchema, answer: &Answer) -> DfResult<Answer> {
        let exprs: Vec<_> =
            self.keys.iter().map_while(|key| context.create_physical_expr(key.expr.clone(), schema).ok()).collect();
        let mut fields = Vec::with_capacity(exprs.len());
        for expr in &exprs {
            fields.push(Field::new(expr.to_string(), expr.data_type(&answer.schema)?, true));
        }
        let key_schema = Arc::new(Schema::new(fields));
        let mut batches = Vec::with_capacity(answer.batches.len());
        for batch in &answer.batches {
            let rows = batch.num_rows();
            let columns =
                exprs.iter().map(|expr| expr.evaluate(batch)?.into_array(rows)).collect::<DfResult<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            batches.push(RecordBatch::try_new_with_options(key_schema.clone(), columns, &options)?);
        }
        Ok(Answer { schema: key_schema, batches })
    }
}

/// Rewrites `expr` over the input of `node`, a projection or alias, to one over its output; `None` if the output
/// lacks a column that the expression needs.
fn lift(expr: Expr, node: &LogicalPlan) -> Option<Expr> {
    let inputs: Vec<Option<Column>> = match node {
        LogicalPlan::Projection(projection) => projection
            .expr
            .iter()
            .map(|output| match output.clone().unalias() {
                Expr::Column(column) => Some(column),
                _ => None,
            })
            .collect(),
        LogicalPlan::SubqueryAlias(alias) => alias.input.schema().columns().into_iter().map(Some).collect(),
        _ => return None,
    };
    let outputs = node.schema().columns();
    let mut complete = true;
    let lifted = expr.transform(|part| {
        let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
        match inputs.iter().position(|input| input.as_ref() == Some(column)) {
            Some(index) => Ok(Transformed::yes(Expr::Column(outputs[index].clone()))),
            None => {
                complete = false;
                Ok(Transformed::no(part))
            }
        }
    });
    lifted.ok().filter(|_| complete).map(|lifted| lifted.data)
}

/// The plan without the limits at its end.
pub(super) fn without_limit(plan: &LogicalPlan) -> DfResult<LogicalPlan> {
    match plan {
        LogicalPlan::Limit(limit) => without_limit(&limit.input),
        LogicalPlan::Sort(sort) => {
            let mut sort = sort.clone();
            sort.fetch = None;
            Ok(LogicalPlan::Sort(sort))
        }
        LogicalPlan::Projection(projection) => {
            plan.with_new_exprs(projection.expr.clone(), vec![without_limit(&projection.input)?])
        }
        LogicalPlan::SubqueryAlias(alias) => plan.with_new_exprs(Vec::new(), vec![without_limit(&alias.input)?]),
        _ => Ok(plan.clone()),
    }
}

/// Whether the rows of `keys` (from [`Order::keys`]) stand in the order that the plan demands.
pub(super) fn check_sorted(order: &Order, keys: &Answer) -> Result<(), String> {
    let fields: Vec<SortField> = order
        .keys
        .iter()
        .zip(keys.schema.fields())
        .map(|(key, field)| {
            let options = SortOptions { descending: !key.asc, nulls_first: key.nulls_first };
            SortField::new_with_options(field.data_type().clone(), options)
        })
        .collect();
    if fields.is_empty() {
        return Ok(());
    }
    let unreadable = |error| format!("sort keys cannot be compared: {error}");
    let converter = RowConverter::new(fields).map_err(unreadable)?;
    let mut last: Option<Vec<u8>> = None;
    let mut place = 0;
    for batch in &keys.batches {
        let rows = converter.convert_columns(batch.columns()).map_err(unreadable)?;
        for row in &rows {
            if last.as_deref().is_some_and(|last| last > row.data()) {
                return Err(format!("row {place} is out of the order that the query asks for"));
            }
            last = Some(row.data().to_vec());
            place += 1;
        }
    }
    Ok(())
}
