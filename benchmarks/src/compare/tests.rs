// SPDX-License-Identifier: Apache-2.0
//! What counts as equal, and that each kind of difference is seen.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn ints(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn sample() -> RecordBatch {
    batch(vec![("a", ints(&[Some(1), None, Some(3)])), ("b", texts(&["x", "", "z"]))])
}

fn differs(expected: &[RecordBatch], actual: &[RecordBatch], part: &str) {
    let difference = compare_batches(expected, actual, false).expect_err("answers counted as equal");
    assert!(difference.contains(part), "\"{difference}\" lacks \"{part}\"");
}

#[test]
fn batch_boundaries_and_order_do_not_matter_to_multisets() {
    let whole = sample();
    let parts = [whole.slice(2, 1), whole.slice(0, 2)];
    assert_same_rows(std::slice::from_ref(&whole), &parts);
    let difference = compare_batches(std::slice::from_ref(&whole), &parts, true).unwrap_err();
    assert!(difference.starts_with("row 0 differs: expected a=1, b=x, got a=3, b=z"), "{difference}");
    assert!(compare_batches(std::slice::from_ref(&whole), &[whole.slice(0, 1), whole.slice(1, 2)], true).is_ok());
}

#[test]
fn no_batches_equal_no_rows_but_not_some_rows() {
    let whole = sample();
    assert_same_rows(&[], &[whole.slice(0, 0)]);
    assert_same_rows(&[], &[]);
    differs(&[whole], &[], "row count differs: expected 3, got 0");
}

#[test]
fn a_missing_row_and_an_extra_copy_are_seen() {
    let expected = batch(vec![("a", ints(&[Some(1), Some(1), Some(2)]))]);
    let actual = batch(vec![("a", ints(&[Some(1), Some(2), Some(2)]))]);
    differs(std::slice::from_ref(&expected), std::slice::from_ref(&actual), "unexpected row: a=2; missing row: a=1");
    differs(std::slice::from_ref(&expected), &[expected.slice(0, 2)], "row count differs: expected 3, got 2");
}

#[test]
fn null_is_neither_zero_nor_empty() {
    let null = batch(vec![("a", ints(&[None]))]);
    differs(&[null], &[batch(vec![("a", ints(&[Some(0)]))])], "missing row: a=NULL");
    let nothing: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    differs(&[batch(vec![("b", nothing)])], &[batch(vec![("b", texts(&[""]))])], "missing row: b=NULL");
    let unknown: ArrayRef = Arc::new(Float64Array::from(vec![None]));
    differs(&[batch(vec![("f", unknown)])], &[batch(vec![("f", floats(&[0.0]))])], "missing row: f=NULL");
}

#[test]
fn names_types_and_column_counts_must_match() {
    let expected = batch(vec![("a", ints(&[Some(1)]))]);
    let expected = std::slice::from_ref(&expected);
    let long: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    differs(expected, &[batch(vec![("a", long)])], "type of column \"a\" differs: expected Int32, got Int64");
    differs(expected, &[batch(vec![("b", ints(&[Some(1)]))])], "name of column 0 differs");
    differs(expected, &[sample()], "column count differs: expected 1, got 2");
    let view: ArrayRef = Arc::new(StringViewArray::from(vec!["x"]));
    differs(&[batch(vec![("b", texts(&["x"]))])], &[batch(vec![("b", view)])], "expected Utf8, got Utf8View");
}

#[test]
fn floats_are_equal_within_the_tolerance_only() {
    let expected = batch(vec![("f", floats(&[1e12, 0.0, f64::NAN, f64::INFINITY]))]);
    let near = batch(vec![("f", floats(&[f64::NAN, 1e12 + 100.0, f64::INFINITY, 1e-10]))]);
    assert_same_rows(std::slice::from_ref(&expected), &[near]);
    for wrong in [
        [1.00001e12, 0.0, f64::NAN, f64::INFINITY],
        [1e12, 1e-8, f64::NAN, f64::INFINITY],
        [1e12, 0.0, 0.0, f64::INFINITY],
        [1e12, 0.0, f64::NAN, f64::MAX],
    ] {
        let wrong = batch(vec![("f", floats(&wrong))]);
        differs(std::slice::from_ref(&expected), &[wrong], "unexpected row");
    }
}

#[test]
fn nearly_equal_floats_that_sort_differently_are_still_paired() {
    let expected = batch(vec![("f", floats(&[1.0, 1.0 + 1e-12])), ("g", floats(&[10.0, 20.0]))]);
    let actual = batch(vec![("f", floats(&[1.0, 1.0 + 1e-12])), ("g", floats(&[20.0, 10.0]))]);
    assert_same_rows(std::slice::from_ref(&expected), &[actual]);
    let wrong = batch(vec![("f", floats(&[1.0, 1.0 + 1e-12])), ("g", floats(&[20.0, 20.0]))]);
    differs(&[expected], &[wrong], "missing row: f=1.0, g=10.0");
}

/// Answers of bare DataFusion to `sql`, over a table `t(k, v)` with ties in `k`.
async fn reference(sql: &str) -> (SessionContext, LogicalPlan, Answer) {
    let context = SessionContext::new();
    let table = batch(vec![
        ("k", ints(&[Some(1), Some(2), Some(2), Some(2), Some(3)])),
        ("v", texts(&["a", "b", "c", "d", "e"])),
    ]);
    context.register_batch("t", table).unwrap();
    let frame = context.sql(sql).await.unwrap();
    let plan = frame.logical_plan().clone();
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let answer = Answer { schema, batches: frame.collect().await.unwrap() };
    (context, plan, answer)
}

fn rows(expected: &Answer, keys: &[Option<i32>], values: &[&str]) -> Answer {
    let columns: Vec<ArrayRef> = expected
        .schema
        .fields()
        .iter()
        .map(|field| if field.name() == "k" { ints(keys) } else { texts(values) })
        .collect();
    let batch = RecordBatch::try_new(expected.schema.clone(), columns).unwrap();
    assert_eq!(batch.column(0).len(), values.len());
    Answer { schema: expected.schema.clone(), batches: vec![batch] }
}

#[tokio::test]
async fn an_ordered_answer_must_be_sorted_but_ties_may_swap() {
    let (context, plan, expected) = reference("select k, v from t order by k desc").await;
    let keys = [Some(3), Some(2), Some(2), Some(2), Some(1)];
    let swapped = rows(&expected, &keys, &["e", "d", "b", "c", "a"]);
    assert_eq!(verify(&context, &plan, &expected, &swapped).await, Ok(()));
    let unsorted = rows(&expected, &[Some(2), Some(3), Some(2), Some(2), Some(1)], &["b", "e", "c", "d", "a"]);
    let difference = verify(&context, &plan, &expected, &unsorted).await.unwrap_err();
    assert!(difference.contains("row 1 is out of the order"), "{difference}");
}

#[tokio::test]
async fn computed_keys_and_keys_under_a_projection_are_checked() {
    for sql in ["select v, k from t order by 0 - k", "select v, k as k from t order by k desc, v || 'x', v limit 5"] {
        let (context, plan, expected) = reference(sql).await;
        let wrong = rows(&expected, &[Some(1), Some(2), Some(2), Some(2), Some(3)], &["a", "b", "c", "d", "e"]);
        let difference = verify(&context, &plan, &expected, &wrong).await.expect_err(sql);
        assert!(difference.contains("out of the order"), "{sql}: {difference}");
        assert_eq!(verify(&context, &plan, &expected, &expected).await, Ok(()), "{sql}");
    }
}

#[tokio::test]
async fn a_limit_may_keep_any_of_the_tied_rows() {
    let (context, plan, expected) = reference("select k, v from t order by k limit 2").await;
    for tied in ["b", "c", "d"] {
        let actual = rows(&expected, &[Some(1), Some(2)], &["a", tied]);
        assert_eq!(verify(&context, &plan, &expected, &actual).await, Ok(()), "{tied}");
    }
    for (keys, values) in [
        ([Some(1), Some(3)], ["a", "e"]),
        ([Some(1), Some(2)], ["a", "x"]),
        ([Some(2), Some(2)], ["b", "c"]),
        ([Some(2), Some(1)], ["c", "a"]),
    ] {
        let actual = rows(&expected, &keys, &values);
        let difference = verify(&context, &plan, &expected, &actual).await.unwrap_err();
        assert!(difference.contains("ties at the limit do not explain it"), "{difference}");
    }
    let short = rows(&expected, &[Some(1)], &["a"]);
    let difference = verify(&context, &plan, &expected, &short).await.unwrap_err();
    assert_eq!(difference, "row count differs: expected 2, got 1");
}

#[tokio::test]
async fn a_limit_without_an_order_takes_any_rows_once() {
    let (context, plan, expected) = reference("select k, v from t limit 2").await;
    let other = rows(&expected, &[Some(3), Some(2)], &["e", "c"]);
    assert_eq!(verify(&context, &plan, &expected, &other).await, Ok(()));
    let twice = rows(&expected, &[Some(3), Some(3)], &["e", "e"]);
    assert!(verify(&context, &plan, &expected, &twice).await.is_err());
}
