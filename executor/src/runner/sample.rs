// SPDX-License-Identifier: Apache-2.0
//! Samples of key rows, from which the bounds of a range exchange are computed.
//!
//! Every partition keeps each `stride`-th of its rows and doubles the stride when it has too many, so that all rows of
//! a partition are represented alike. Merging brings all partitions to one stride, so that those of a task are, too.
//! There is no randomness: a retried task that reads the same rows in the same order reports the same sample.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use ballista_exchange::ExchangeError;
use ballista_shuffle::compact;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::evaluate;

/// Rows of a merged sample at most; it has more than half of that if there are as many.
const MAX_ROWS: usize = 1024;

/// The sample of one partition.
#[derive(Debug)]
pub(crate) struct Sampler {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    stride: u64,
    /// Rows seen.
    seen: u64,
    /// Row `i` of all kept together was row `i * stride` of the partition.
    kept: Vec<RecordBatch>,
    kept_rows: usize,
}

impl Sampler {
    pub(crate) fn new(keys: impl IntoIterator<Item = Arc<dyn PhysicalExpr>>) -> Self {
        Self { keys: keys.into_iter().collect(), stride: 1, seen: 0, kept: Vec::new(), kept_rows: 0 }
    }

    /// Takes what is due of the next rows of the partition.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows() as u64;
        let first = self.seen.next_multiple_of(self.stride) - self.seen;
        let due: UInt64Array = (first..rows).step_by(self.stride as usize).collect::<Vec<_>>().into();
        self.seen += rows;
        if due.is_empty() {
            return Ok(());
        }
        // Keys only: nothing is asked of the other columns, some of whose types Arrow cannot take rows of.
        let keys = take_record_batch(&key_batch(evaluate(&self.keys, batch)?, batch.num_rows())?, &due)?;
        self.kept_rows += keys.num_rows();
        self.kept.push(owned(keys)?);
        while self.kept_rows > MAX_ROWS {
            self.thin()?;
        }
        Ok(())
    }

    /// Keeps every second row.
    fn thin(&mut self) -> Result<()> {
        self.stride *= 2;
        let Some(first) = self.kept.first() else { return Ok(()) };
        let all = concat_batches(&first.schema(), &self.kept)?;
        let even: UInt64Array = (0..all.num_rows() as u64).step_by(2).collect::<Vec<_>>().into();
        let thinned = take_record_batch(&all, &even)?;
        self.kept_rows = thinned.num_rows();
        self.kept = vec![owned(thinned)?];
        Ok(())
    }
}

/// One sample of all partitions of a task, each represented by as many rows as it has: one array per key.
pub(crate) fn merge(mut samplers: Vec<Sampler>) -> Result<Vec<ArrayRef>> {
    let mut stride = samplers.iter().map(|sampler| sampler.stride).max().unwrap_or(1);
    loop {
        for sampler in &mut samplers {
            while sampler.stride < stride {
                sampler.thin()?;
            }
        }
        if samplers.iter().map(|sampler| sampler.kept_rows).sum::<usize>() <= MAX_ROWS.max(samplers.len()) {
            break;
        }
        stride *= 2;
    }
    let kept: Vec<RecordBatch> = samplers.into_iter().flat_map(|sampler| sampler.kept).collect();
    match kept.first() {
        Some(first) => Ok(concat_batches(&first.schema(), &kept)?.columns().to_vec()),
        None => Ok(vec![]),
    }
}

fn key_batch(keys: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let field = |(index, key): (usize, &ArrayRef)| Field::new(index.to_string(), key.data_type().clone(), true);
    let fields: Vec<Field> = keys.iter().enumerate().map(field).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, keys, &options)?)
}

/// A few sampled views must not keep whole batches alive.
fn owned(batch: RecordBatch) -> Result<RecordBatch> {
    let context = "cannot compact a sample".to_owned();
    compact(batch).map_err(|source| ExchangeError::Shuffle { context, source }.into())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::physical_expr::expressions::col;

    use super::*;

    fn sample(start: i64, rows: i64, batch_rows: usize) -> Sampler {
        let schema = Arc::new(Schema::new(vec![Field::new("a", arrow::datatypes::DataType::Int64, false)]));
        let mut sampler = Sampler::new([col("a", &schema).unwrap()]);
        let values: Vec<i64> = (start..start + rows).collect();
        for chunk in values.chunks(batch_rows) {
            let column: ArrayRef = Arc::new(Int64Array::from(chunk.to_vec()));
            sampler.add(&RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap()).unwrap();
        }
        sampler
    }

    fn values(columns: &[ArrayRef]) -> Vec<i64> {
        columns[0].as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn few_rows_are_all_kept() {
        let merged = merge(vec![sample(0, 3, 2), sample(10, 2, 8)]).unwrap();
        assert_eq!(values(&merged), [0, 1, 2, 10, 11]);
        assert!(merge(vec![sample(0, 0, 1)]).unwrap().is_empty());
    }

    #[test]
    fn a_sample_is_evenly_spread_whatever_the_batches() {
        let fine = values(&merge(vec![sample(0, 1_000_000, 17)]).unwrap());
        let coarse = values(&merge(vec![sample(0, 1_000_000, 8192)]).unwrap());
        assert_eq!(fine, coarse);
        assert!((MAX_ROWS / 2..=MAX_ROWS).contains(&fine.len()), "{}", fine.len());
        let step = fine[1] - fine[0];
        assert!(fine.windows(2).all(|pair| pair[1] - pair[0] == step));
    }

    #[test]
    fn partitions_are_represented_by_their_size() {
        let merged = values(&merge(vec![sample(0, 90_000, 1000), sample(1_000_000, 10_000, 1000)]).unwrap());
        assert!(merged.len() <= MAX_ROWS);
        let large = merged.iter().filter(|value| **value < 1_000_000).count();
        let share = large as f64 / merged.len() as f64;
        assert!((0.88..0.92).contains(&share), "{share}");
    }
}
