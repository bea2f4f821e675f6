// SPDX-License-Identifier: Apache-2.0
//! Range partitioning on Arrow's row format.
//!
//! Keys are converted to rows: byte strings whose `memcmp` order is the sort order asked for, nulls, descending keys
//! and NaN included. `n - 1` sorted bounds cut that order into `n` buckets, each closed above:
//!
//! ```text
//!            bound 0        bound 1
//!   ─────────────┤──────────────┤─────────────▶ sort order
//!    bucket 0    │   bucket 1   │   bucket 2
//!    row ≤ b0    │ b0 < row ≤ b1│   b1 < row
//! ```
//!
//! All rows equal to a bound land in the bucket below it, so equal rows are never separated, and reading the buckets
//! in order, each sorted, gives the total order.
//!
//! Dictionaries are compared by value: name such a key by its value type in the [`SortField`] (see
//! [`wire_type`](crate::wire_type)); key, bound and sample arrays may be dictionaries or plain.

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, Rows, SortField};

use crate::dictionary::hydrate;
use crate::error::{ArrowContext, Result, ShuffleError};
use crate::partition::{Partitioner, check_keys};

/// Bucket by comparison with sorted bounds; see the module's documentation.
#[derive(Debug)]
pub struct RangePartitioner {
    converter: RowConverter,
    bounds: Rows,
    rows: Rows,
}

impl RangePartitioner {
    /// `fields`: type and order of each key. `bounds`: one array per key, all of the same length `n - 1`, rows in
    /// strictly ascending order of `fields`. Makes `n` buckets.
    pub fn try_new(fields: Vec<SortField>, bounds: &[ArrayRef]) -> Result<Self> {
        let converter = RowConverter::new(fields).context("set up range partitioning")?;
        let mut bound_rows = converter.empty_rows(0, 0);
        append_values(&converter, &mut bound_rows, bounds)?;
        for i in 1..bound_rows.num_rows() {
            if bound_rows.row(i - 1) >= bound_rows.row(i) {
                return Err(ShuffleError::Invalid(format!("range bound {i} is not above its predecessor")));
            }
        }
        let rows = converter.empty_rows(0, 0);
        Ok(Self { converter, bounds: bound_rows, rows })
    }
}

impl Partitioner for RangePartitioner {
    fn num_partitions(&self) -> usize {
        self.bounds.num_rows() + 1
    }

    fn partition(&mut self, keys: &[ArrayRef], num_rows: usize, ids: &mut Vec<u32>) -> Result<()> {
        check_keys(keys, num_rows)?;
        ids.clear();
        if self.bounds.num_rows() == 0 {
            ids.resize(num_rows, 0);
            return Ok(());
        }
        self.rows.clear();
        append_values(&self.converter, &mut self.rows, keys)?;
        let bounds = &self.bounds;
        ids.extend(self.rows.iter().map(|row| {
            let (mut low, mut high) = (0, bounds.num_rows());
            while low < high {
                let middle = low + (high - low) / 2;
                if bounds.row(middle) < row {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low as u32
        }));
        Ok(())
    }
}

/// Bounds for `partitions` buckets of about equal weight, from sampled key rows.
///
/// `samples` holds one entry per producer: its sampled rows, one array per key. `weights[i]` is what the sample `i`
/// stands for, in rows or bytes of that producer; each of its rows carries an equal share. The result has one array
/// per key and at most `partitions - 1` rows, strictly ascending; fewer when heavy values swallow whole buckets, so
/// the number of buckets is the number of bounds plus one. Dictionary keys come back as their value type.
pub fn range_bounds(
    fields: Vec<SortField>,
    samples: &[Vec<ArrayRef>],
    weights: &[f64],
    partitions: usize,
) -> Result<Vec<ArrayRef>> {
    if samples.len() != weights.len() {
        let (samples, weights) = (samples.len(), weights.len());
        return Err(ShuffleError::Invalid(format!("{samples} samples come with {weights} weights")));
    }
    let converter = RowConverter::new(fields).context("set up range partitioning")?;
    let mut rows = converter.empty_rows(0, 0);
    let mut row_weights: Vec<f64> = Vec::new();
    for (sample, &weight) in samples.iter().zip(weights) {
        let sample_rows = sample.first().map_or(0, |column| column.len());
        if sample_rows == 0 || !weight.is_finite() || weight <= 0.0 {
            continue;
        }
        append_values(&converter, &mut rows, sample)?;
        row_weights.resize(rows.num_rows(), weight / sample_rows as f64);
    }

    let mut order: Vec<usize> = (0..rows.num_rows()).collect();
    order.sort_unstable_by(|&a, &b| rows.row(a).cmp(&rows.row(b)));
    let total: f64 = row_weights.iter().sum();
    let mut chosen: Vec<usize> = Vec::new();
    let mut cumulative = 0.0;
    let mut next_quantile = 1;
    for &row in &order {
        cumulative += row_weights[row];
        let reached = (cumulative / total * partitions as f64 + 1e-9) as usize;
        if reached < next_quantile {
            continue;
        }
        // The row with which a quantile is reached closes a bucket. A heavy value may reach several at once: one
        // bound stands for all of them.
        next_quantile = reached + 1;
        let repeats_last = chosen.last().is_some_and(|&last| rows.row(last) == rows.row(row));
        if reached < partitions && !repeats_last {
            chosen.push(row);
        }
    }
    converter.convert_rows(chosen.iter().map(|&row| rows.row(row))).context("convert bounds from rows")
}

fn append_values(converter: &RowConverter, rows: &mut Rows, columns: &[ArrayRef]) -> Result<()> {
    let values = columns.iter().map(hydrate).collect::<Result<Vec<_>>>()?;
    converter.append(rows, &values).context("convert keys to rows")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray};
    use arrow::compute::SortOptions;
    use arrow::datatypes::{DataType, Int64Type};

    use super::*;

    fn ints(values: Vec<Option<i64>>) -> ArrayRef {
        Arc::new(Int64Array::from(values))
    }

    fn buckets(partitioner: &mut RangePartitioner, keys: &[ArrayRef]) -> Vec<u32> {
        let mut ids = Vec::new();
        partitioner.partition(keys, keys[0].len(), &mut ids).unwrap();
        ids
    }

    #[test]
    fn rows_equal_to_a_bound_go_below_it() {
        let bounds = [ints(vec![Some(10), Some(20)])];
        let mut partitioner = RangePartitioner::try_new(vec![SortField::new(DataType::Int64)], &bounds).unwrap();
        assert_eq!(partitioner.num_partitions(), 3);
        let keys = [ints(vec![None, Some(-5), Some(10), Some(11), Some(20), Some(21), Some(10)])];
        assert_eq!(buckets(&mut partitioner, &keys), [0, 0, 0, 1, 1, 2, 0]);
    }

    #[test]
    fn descending_nulls_last_and_second_keys_are_honoured() {
        let options = SortOptions { descending: true, nulls_first: false };
        let fields = vec![
            SortField::new_with_options(DataType::Int64, options),
            SortField::new_with_options(DataType::Utf8, SortOptions::default()),
        ];
        let bounds = [ints(vec![Some(5), Some(5)]), Arc::new(StringArray::from(vec!["b", "m"])) as ArrayRef];
        let mut partitioner = RangePartitioner::try_new(fields, &bounds).unwrap();
        let keys = [
            ints(vec![Some(9), Some(5), Some(5), Some(5), Some(1), None]),
            Arc::new(StringArray::from(vec!["z", "a", "c", "n", "a", "a"])) as ArrayRef,
        ];
        assert_eq!(buckets(&mut partitioner, &keys), [0, 0, 1, 2, 2, 2]);
    }

    #[test]
    fn unsorted_bounds_are_refused() {
        for bad in [vec![Some(2), Some(1)], vec![Some(1), Some(1)]] {
            assert!(RangePartitioner::try_new(vec![SortField::new(DataType::Int64)], &[ints(bad)]).is_err());
        }
    }

    #[test]
    fn bounds_are_weighted_quantiles() {
        // 100 rows stand for themselves, 100 others for ten times as much.
        let samples = [vec![ints((0..100).map(Some).collect())], vec![ints((100..200).map(Some).collect())]];
        let fields = vec![SortField::new(DataType::Int64)];
        let bounds = range_bounds(fields.clone(), &samples, &[100.0, 1000.0], 4).unwrap();
        assert_eq!(bounds[0].as_primitive::<Int64Type>().values(), &[117, 144, 172]);
        let even = range_bounds(fields.clone(), &samples, &[100.0, 100.0], 4).unwrap();
        assert_eq!(even[0].as_primitive::<Int64Type>().values(), &[49, 99, 149]);
        assert_eq!(range_bounds(fields.clone(), &samples, &[1.0, 1.0], 1).unwrap()[0].len(), 0);
        assert_eq!(range_bounds(fields, &[], &[], 8).unwrap()[0].len(), 0);
    }

    #[test]
    fn heavy_values_give_fewer_bounds() {
        let mut values = vec![Some(7); 90];
        values.extend((0..10).map(|i| Some(100 + i)));
        let fields = vec![SortField::new(DataType::Int64)];
        let bounds = range_bounds(fields.clone(), &[vec![ints(values)]], &[1.0], 10).unwrap();
        assert_eq!(bounds[0].as_primitive::<Int64Type>().values(), &[7]);
        RangePartitioner::try_new(fields, &bounds).unwrap();
    }

    #[test]
    fn nan_and_infinities_have_their_place() {
        let fields = vec![SortField::new(DataType::Float64)];
        let bounds: [ArrayRef; 1] = [Arc::new(Float64Array::from(vec![0.0, f64::INFINITY]))];
        let mut partitioner = RangePartitioner::try_new(fields, &bounds).unwrap();
        let keys: [ArrayRef; 1] = [Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, 1.0, f64::INFINITY, f64::NAN]))];
        assert_eq!(buckets(&mut partitioner, &keys), [0, 1, 1, 2]);
    }
}
