// SPDX-License-Identifier: Apache-2.0
//! Says whether two answers to one query are equal, as far as SQL promises equality.
//!
//! * Names and types of the columns, the number of rows, and NULLs must match exactly.
//! * Rows are compared as a multiset: without `ORDER BY` their order means nothing, and with it ties may come in any
//!   order. [`verify`] checks sortedness on the query's own keys besides.
//! * Floating-point columns may differ by 1e-9, absolute or relative, because sums depend on the order of addition;
//!   NaN equals NaN. Everything else is exact, decimals and floats inside nested types included.
//! * A `LIMIT` that cuts through a tie may keep any of the tied rows: see [`verify`].
//!
//! A mismatch is told in words, with the first row that is missing or unexpected.

mod order;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

use self::rows::Table;

/// What a statement answered: batches with their schema, which counts even if there is no batch.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Schema of the result stream.
    pub schema: SchemaRef,
    /// The rows, in the order in which they came.
    pub batches: Vec<RecordBatch>,
}

impl Answer {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Compares two answers; `ordered` asks for the same rows in the same places, otherwise they are multisets.
///
/// # Errors
/// What differs, in words.
pub fn compare_answers(expected: &Answer, actual: &Answer, ordered: bool) -> Result<(), String> {
    compare_schemas(&expected.schema, &actual.schema)?;
    let (expected, actual) = Table::pair(expected, actual)?;
    if expected.len() != actual.len() {
        return Err(format!("row count differs: expected {}, got {}", expected.len(), actual.len()));
    }
    if ordered { rows::same_places(&expected, &actual) } else { rows::same_multiset(&expected, &actual) }
}

/// [`compare_answers`] for bare batches. A side without batches has no schema and equals a side without rows.
///
/// # Errors
/// What differs, in words.
pub fn compare_batches(expected: &[RecordBatch], actual: &[RecordBatch], ordered: bool) -> Result<(), String> {
    let schema_of = |batches: &[RecordBatch]| batches.first().map(RecordBatch::schema);
    let Some(schema) = schema_of(expected).or_else(|| schema_of(actual)) else { return Ok(()) };
    let answer = |batches: &[RecordBatch]| Answer {
        schema: schema_of(batches).unwrap_or_else(|| schema.clone()),
        batches: batches.to_vec(),
    };
    compare_answers(&answer(expected), &answer(actual), ordered)
}

/// For tests: [`compare_batches`] as multisets.
///
/// # Panics
/// If the rows differ, with what differs.
#[track_caller]
pub fn assert_same_rows(expected: &[RecordBatch], actual: &[RecordBatch]) {
    if let Err(difference) = compare_batches(expected, actual, false) {
        panic!("answers differ: {difference}");
    }
}

/// Checks `actual` against `expected`, the answer of the single-process `reference` to the (unoptimised) `plan`.
///
/// Equal multisets are right if `actual` is also sorted by the keys of the plan's `ORDER BY`. Keys that the query
/// does not output cannot be checked; those before them are. If the multisets differ and the plan ends in a `LIMIT`,
/// the query runs once more on `reference` without it: `actual` is right if its keys are those of `expected`, place
/// by place, and its rows are among those of the unlimited answer.
///
/// # Errors
/// What differs, or why `reference` could not tell, in words.
pub async fn verify(
    reference: &SessionContext,
    plan: &LogicalPlan,
    expected: &Answer,
    actual: &Answer,
) -> Result<(), String> {
    let order = order::Order::of(plan);
    let keys = |answer: &Answer| {
        order.keys(reference, plan.schema(), answer).map_err(|error| format!("sort keys cannot be computed: {error}"))
    };
    let Err(difference) = compare_answers(expected, actual, false) else {
        return order::check_sorted(&order, &keys(actual)?);
    };
    if !order.limited || expected.rows() != actual.rows() || compare_schemas(&expected.schema, &actual.schema).is_err()
    {
        return Err(difference);
    }
    let full = unlimited(reference, plan)
        .await
        .map_err(|error| format!("{difference}; running the query without its limit failed: {error}"))?;
    order::check_sorted(&order, &keys(actual)?)
        .and_then(|()| compare_answers(&keys(expected)?, &keys(actual)?, true))
        .and_then(|()| {
            let (full, actual) = Table::pair(&full, actual)?;
            rows::contained(&actual, &full)
        })
        .map_err(|reason| format!("{difference}; ties at the limit do not explain it: {reason}"))
}

async fn unlimited(reference: &SessionContext, plan: &LogicalPlan) -> datafusion::error::Result<Answer> {
    let frame = reference.execute_logical_plan(order::without_limit(plan)?).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    Ok(Answer { schema, batches: frame.collect().await? })
}

fn compare_schemas(expected: &Schema, actual: &Schema) -> Result<(), String> {
    if expected.fields().len() != actual.fields().len() {
        return Err(format!(
            "column count differs: expected {}, got {}",
            expected.fields().len(),
            actual.fields().len()
        ));
    }
    for (index, (expected, actual)) in expected.fields().iter().zip(actual.fields()).enumerate() {
        if expected.name() != actual.name() {
            return Err(format!(
                "name of column {index} differs: expected \"{}\", got \"{}\"",
                expected.name(),
                actual.name()
            ));
        }
        if expected.data_type() != actual.data_type() {
            return Err(format!(
                "type of column \"{}\" differs: expected {}, got {}",
                expected.name(),
                expected.data_type(),
                actual.data_type()
            ));
        }
    }
    Ok(())
}
