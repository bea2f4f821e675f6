// SPDX-License-Identifier: Apache-2.0
//! Rows that can be compared: the exact columns as bytes in arrow's row format, the floating-point columns apart.
//!
//! Rows with equal bytes form a group. Inside a group, rows are paired by their floats: first in sorted order, which
//! nearly always works, and if that fails by an augmenting-path matching, because "equal within a tolerance" is not
//! an order and two sortings of nearly equal numbers may disagree.

use std::collections::HashMap;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::arrow::util::display::array_value_to_string;

use super::Answer;

/// Floating-point values may differ by this much, absolute or relative.
const TOLERANCE: f64 = 1e-9;

/// Largest group (rows on one side times rows on the other) that is matched by augmenting paths.
const MATCHING_LIMIT: usize = 4_000_000;

/// An answer laid out for comparison with another one of the same types.
pub(super) struct Table {
    batch: RecordBatch,
    /// `None` if every column is floating-point.
    exact: Option<Rows>,
    floats: Vec<Vec<Option<f64>>>,
}

impl Table {
    /// Lays out two answers of the same column types.
    pub(super) fn pair(expected: &Answer, actual: &Answer) -> Result<(Self, Self), String> {
        let (floats, exact): (Vec<usize>, Vec<usize>) =
            (0..expected.schema.fields().len()).partition(|i| expected.schema.field(*i).data_type().is_floating());
        let fields = exact.iter().map(|i| SortField::new(expected.schema.field(*i).data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(|error| format!("rows cannot be compared: {error}"))?;
        let table = |answer| {
            Self::new(answer, &converter, &exact, &floats).map_err(|error| format!("rows cannot be compared: {error}"))
        };
        Ok((table(expected)?, table(actual)?))
    }

    fn new(answer: &Answer, converter: &RowConverter, exact: &[usize], floats: &[usize]) -> Result<Self, ArrowError> {
        let batch = concat_batches(&answer.schema, &answer.batches)?;
        let column = |index: &usize| batch.column(*index).clone();
        let exact: Vec<ArrayRef> = exact.iter().map(column).collect();
        let exact = if exact.is_empty() { None } else { Some(converter.convert_columns(&exact)?) };
        let floats = floats
            .iter()
            .map(|index| {
                let doubles = cast(batch.column(*index), &DataType::Float64)?;
                Ok(doubles.as_primitive::<Float64Type>().iter().collect())
            })
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self { batch, exact, floats })
    }

    pub(super) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    fn key(&self, row: usize) -> &[u8] {
        self.exact.as_ref().map_or(&[], |rows| rows.row(row).data())
    }

    fn same_floats(&self, row: usize, other: &Self, other_row: usize) -> bool {
        self.floats.iter().zip(&other.floats).all(|(mine, theirs)| same_float(mine[row], theirs[other_row]))
    }

    /// Orders rows by their floats, NULL first.
    fn sort_by_floats(&self, rows: &mut [usize]) {
        rows.sort_by(|a, b| {
            self.floats
                .iter()
                .map(|column| match (column[*a], column[*b]) {
                    (Some(a), Some(b)) => a.total_cmp(&b),
                    (a, b) => a.is_some().cmp(&b.is_some()),
                })
                .find(|ordering| ordering.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        });
    }

    /// The row as `name=value, …`.
    fn describe(&self, row: usize) -> String {
        let schema = self.batch.schema();
        let values = schema.fields().iter().zip(self.batch.columns()).map(|(field, column)| {
            let value = if column.is_null(row) {
                "NULL".to_owned()
            } else {
                array_value_to_string(column, row).unwrap_or_else(|error| format!("<{error}>"))
            };
            format!("{}={value}", field.name())
        });
        values.collect::<Vec<_>>().join(", ")
    }
}

fn same_float(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.is_finite() && b.is_finite() => {
            let difference = (a - b).abs();
            difference <= TOLERANCE || difference <= TOLERANCE * a.abs().max(b.abs())
        }
        (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
        _ => false,
    }
}

/// The same rows in the same places.
pub(super) fn same_places(expected: &Table, actual: &Table) -> Result<(), String> {
    let differs = |row: &usize| expected.key(*row) != actual.key(*row) || !expected.same_floats(*row, actual, *row);
    match (0..expected.len()).find(differs) {
        None => Ok(()),
        Some(row) => {
            Err(format!("row {row} differs: expected {}, got {}", expected.describe(row), actual.describe(row)))
        }
    }
}

/// The same rows in any order, for tables of the same length.
pub(super) fn same_multiset(expected: &Table, actual: &Table) -> Result<(), String> {
    let Some(unexpected) = first_unpaired(actual, expected)? else { return Ok(()) };
    let missing = first_unpaired(expected, actual)?
        .map(|row| format!("; missing row: {}", expected.describe(row)))
        .unwrap_or_default();
    Err(format!("unexpected row: {}{missing}", actual.describe(unexpected)))
}

/// Each row of `part` has a row of `whole` of its own.
pub(super) fn contained(part: &Table, whole: &Table) -> Result<(), String> {
    match first_unpaired(part, whole)? {
        None => Ok(()),
        Some(row) => Err(format!("row is not among the rows of the query without its limit: {}", part.describe(row))),
    }
}

/// The first row of `part` that gets no row of `whole` of its own, if there is one.
fn first_unpaired(part: &Table, whole: &Table) -> Result<Option<usize>, String> {
    let mut groups: HashMap<&[u8], (Vec<usize>, Vec<usize>)> = HashMap::with_capacity(part.len());
    for row in 0..part.len() {
        groups.entry(part.key(row)).or_default().0.push(row);
    }
    for row in 0..whole.len() {
        if let Some((_, candidates)) = groups.get_mut(whole.key(row)) {
            candidates.push(row);
        }
    }
    let mut first = None;
    for (mut rows, mut candidates) in groups.into_values() {
        let unpaired = unpaired_in_group(part, &mut rows, whole, &mut candidates)?;
        first = [first, unpaired].into_iter().flatten().min();
    }
    Ok(first)
}

/// The same inside a group, where all exact columns are equal.
fn unpaired_in_group(
    part: &Table,
    rows: &mut [usize],
    whole: &Table,
    candidates: &mut [usize],
) -> Result<Option<usize>, String> {
    if part.floats.is_empty() {
        return Ok(rows.get(candidates.len()).copied());
    }
    part.sort_by_floats(rows);
    whole.sort_by_floats(candidates);
    let same = |a: usize, b: usize| part.same_floats(a, whole, b);
    if rows.len() == candidates.len() && rows.iter().zip(&*candidates).all(|(a, b)| same(*a, *b)) {
        return Ok(None);
    }
    if rows.len() * candidates.len() > MATCHING_LIMIT {
        return Err(format!(
            "{} rows differ in their floating-point columns, or are too many to be paired",
            rows.len()
        ));
    }
    let mut owners = vec![None; candidates.len()];
    for (index, row) in rows.iter().enumerate() {
        let mut seen = vec![false; candidates.len()];
        if !augment(index, &mut owners, &mut seen, &|a, b| same(rows[a], candidates[b])) {
            return Ok(Some(*row));
        }
    }
    Ok(None)
}

/// Kuhn's step of bipartite matching: finds `row` a candidate, moving other rows to other candidates where needed.
/// Iterative, as a path may be as long as the group.
fn augment(row: usize, owners: &mut [Option<usize>], seen: &mut [bool], same: &dyn Fn(usize, usize) -> bool) -> bool {
    // Each entry: a row that looks for a candidate, and the candidate that it holds now (none for the first).
    let mut path: Vec<(usize, Option<usize>)> = vec![(row, None)];
    while let Some((seeker, _)) = path.last().copied() {
        let next = (0..owners.len()).find(|candidate| !seen[*candidate] && same(seeker, *candidate));
        let Some(candidate) = next else {
            path.pop();
            continue;
        };
        seen[candidate] = true;
        if let Some(owner) = owners[candidate] {
            path.push((owner, Some(candidate)));
            continue;
        }
        let mut free = candidate;
        while let Some((seeker, held)) = path.pop() {
            owners[free] = Some(seeker);
            match held {
                Some(held) => free = held,
                None => return true,
            }
        }
    }
    false
}
