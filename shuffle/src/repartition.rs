// SPDX-License-Identifier: Apache-2.0
//! Moving rows into their buckets.
//!
//! A [`BatchPartitioner`] buffers batches with the bucket of each row, up to a number of bytes, then hands every
//! bucket its rows as compact, owned batches. Buffering matters: cutting each batch of 8,192 rows into 200 buckets at
//! once would make batches of 41 rows, whose fixed costs (allocations, headers, dispatch) exceed their data.
//!
//! ```text
//!   push(batch, ids) ─┐                     counting sort of row numbers by bucket
//!   push(batch, ids) ─┼─▶ concat ──▶ [0: 3,9,17 …][1: 0,4 …] … ──▶ gather per bucket and column ──▶ sink
//!   push(batch, ids) ─┘   columns
//! ```
//!
//! Batches are concatenated first, a plain memory copy, so that the gather loop runs over one array with 32-bit row
//! numbers instead of choosing among arrays for each value.
//!
//! Invariants: the rows of a bucket keep the order in which they were pushed; an emitted batch shares no buffer with
//! its input or with other emitted batches, and has at most [`MAX_OUT_ROWS`] rows; nothing is emitted for an empty
//! bucket. With one partition batches pass through, compacted, without waiting.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};

use crate::compact::{compact, used_bytes};
use crate::dictionary::contains_narrow_dictionary;
use crate::error::{ArrowContext, Result, ShuffleError};
use crate::gather::gather;

/// Rows of an emitted batch at most; a bucket with more is cut into even pieces of more than half of this.
pub const MAX_OUT_ROWS: usize = 16 * 1024;

/// Bytes after which a buffer is emptied before the next batch, so that 32-bit offsets cannot overflow.
const MAX_BUFFER_BYTES: usize = 1 << 30;

/// Rows after which a buffer is emptied, for batches that have hardly any bytes.
const MAX_BUFFER_ROWS: usize = 1 << 24;

/// Takes the batches of a bucket, in order.
pub trait PartitionSink {
    /// Appends `batch`, which is owned and compact, to bucket `partition`.
    fn append(&mut self, partition: usize, batch: RecordBatch) -> Result<()>;
}

impl<F: FnMut(usize, RecordBatch) -> Result<()>> PartitionSink for F {
    fn append(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        self(partition, batch)
    }
}

/// Buffers batches and scatters their rows over buckets; see the module's documentation.
#[derive(Debug)]
pub struct BatchPartitioner {
    schema: SchemaRef,
    num_partitions: usize,
    target_bytes: usize,
    /// Columns with dictionaries of 8- or 16-bit keys, which limit what can be concatenated.
    narrow_dictionaries: Vec<usize>,
    batches: Vec<RecordBatch>,
    ids: Vec<u32>,
    bytes: usize,
}

impl BatchPartitioner {
    /// Scatters batches of `schema` over `num_partitions` buckets (0 counts as 1). The buffer is emptied once it holds
    /// `target_bytes_per_buffer` bytes. Measured best: 32 KiB per bucket, but between 16 and 64 MiB. Less makes batches
    /// that are all overhead, more makes every gathered value a cache miss.
    pub fn new(schema: SchemaRef, num_partitions: usize, target_bytes_per_buffer: usize) -> Self {
        let fields = schema.fields().iter().enumerate();
        let narrow_dictionaries =
            fields.filter(|(_, field)| contains_narrow_dictionary(field.data_type())).map(|(index, _)| index).collect();
        Self {
            narrow_dictionaries,
            schema,
            num_partitions: num_partitions.max(1),
            target_bytes: target_bytes_per_buffer.min(MAX_BUFFER_BYTES),
            batches: Vec::new(),
            ids: Vec::new(),
            bytes: 0,
        }
    }

    /// Number of buckets.
    pub fn num_partitions(&self) -> usize {
        self.num_partitions
    }

    /// Bytes used by the rows that wait in the buffer. Emptying it needs about as much again, for a moment.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Adds `batch`, whose row `i` belongs to bucket `ids[i]`, and empties the buffer into `out` when it is full.
    ///
    /// Errors if `ids` has another length than the batch, a bucket does not exist or the columns are not those of the
    /// schema; nothing was added then. After an error from `out` or from Arrow the buffered rows are lost, and the
    /// task has failed.
    pub fn push(&mut self, batch: RecordBatch, ids: &[u32], out: &mut dyn PartitionSink) -> Result<()> {
        self.check(&batch, ids)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.num_partitions == 1 {
            return out.append(0, compact(batch)?);
        }
        let bytes = used_bytes(&batch);
        if self.bytes.saturating_add(bytes) > MAX_BUFFER_BYTES || self.ids.len() + ids.len() > MAX_BUFFER_ROWS {
            self.flush(out)?;
        }
        self.bytes += bytes;
        self.ids.extend_from_slice(ids);
        self.batches.push(batch);
        if self.bytes >= self.target_bytes || self.ids.len() >= MAX_BUFFER_ROWS {
            self.flush(out)?;
        }
        Ok(())
    }

    /// Empties the buffer into `out`, buckets in ascending order.
    pub fn flush(&mut self, out: &mut dyn PartitionSink) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        let mut ids = std::mem::take(&mut self.ids);
        self.bytes = 0;
        let result = self.scatter(&batches, &ids, out);
        ids.clear();
        self.ids = ids;
        result
    }

    fn check(&self, batch: &RecordBatch, ids: &[u32]) -> Result<()> {
        if ids.len() != batch.num_rows() {
            return Err(ShuffleError::Invalid(format!("{} rows come with {} ids", batch.num_rows(), ids.len())));
        }
        if let Some(id) = ids.iter().max().filter(|id| **id as usize >= self.num_partitions) {
            return Err(ShuffleError::Invalid(format!("bucket {id} of {} does not exist", self.num_partitions)));
        }
        let fields = self.schema.fields();
        if batch.num_columns() != fields.len() {
            let columns = batch.num_columns();
            return Err(ShuffleError::Invalid(format!("{columns} columns for a schema of {}", fields.len())));
        }
        match batch.columns().iter().zip(fields).find(|(column, field)| column.data_type() != field.data_type()) {
            None => Ok(()),
            Some((column, field)) => {
                let (got, name, expected) = (column.data_type(), field.name(), field.data_type());
                Err(ShuffleError::Invalid(format!("column {name} is {got}, expected {expected}")))
            }
        }
    }

    fn scatter(&self, batches: &[RecordBatch], ids: &[u32], out: &mut dyn PartitionSink) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        if !self.concatenable(batches) {
            let (left, right) = batches.split_at(batches.len() / 2);
            let left_rows: usize = left.iter().map(RecordBatch::num_rows).sum();
            self.scatter(left, &ids[..left_rows], out)?;
            return self.scatter(right, &ids[left_rows..], out);
        }
        let columns = concat_columns(batches)?;
        let (order, ends) = sort_by_bucket(ids, self.num_partitions);
        let mut start = 0;
        for (partition, end) in ends.into_iter().enumerate() {
            let rows = end - start;
            let pieces = rows.div_ceil(MAX_OUT_ROWS);
            for piece in 0..pieces {
                let (from, to) = (start + rows * piece / pieces, start + rows * (piece + 1) / pieces);
                let indices = UInt32Array::new(order.slice(from, to - from), None);
                out.append(partition, self.gather_batch(&columns, &indices)?)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Whether the dictionaries of `batches`, put behind each other, keep within the range of their keys. Arrow panics
    /// where they do not.
    fn concatenable(&self, batches: &[RecordBatch]) -> bool {
        batches.len() == 1
            || self.narrow_dictionaries.iter().all(|&index| {
                let columns = batches.iter().map(|batch| batch.column(index));
                let Some(width) = narrow_key_width(self.schema.field(index).data_type()) else { return false };
                let values: usize = columns.map(|column| column.as_any_dictionary().values().len()).sum();
                values < 1 << (8 * width - 1)
            })
    }

    fn gather_batch(&self, columns: &[ArrayRef], indices: &UInt32Array) -> Result<RecordBatch> {
        let gathered = columns.iter().map(|column| gather(column, indices)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), gathered, &options).context("gather rows")
    }
}

/// Bytes of the keys of a dictionary column whose values hold no further narrow dictionary.
fn narrow_key_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Dictionary(keys, values) if !contains_narrow_dictionary(values) => keys.primitive_width(),
        _ => None,
    }
}

fn concat_columns(batches: &[RecordBatch]) -> Result<Vec<ArrayRef>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    (0..first.num_columns())
        .map(|index| {
            let pieces: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
            concat(&pieces).context("concatenate buffered batches")
        })
        .collect()
}

/// Counting sort: row numbers in order of bucket, then of arrival; and where each bucket ends.
fn sort_by_bucket(ids: &[u32], num_partitions: usize) -> (ScalarBuffer<u32>, Vec<usize>) {
    let mut ends = vec![0usize; num_partitions];
    for &id in ids {
        ends[id as usize] += 1;
    }
    let mut next = Vec::with_capacity(num_partitions);
    let mut total = 0;
    for end in &mut ends {
        next.push(total);
        total += *end;
        *end = total;
    }
    let mut order = vec![0u32; ids.len()];
    for (row, &id) in ids.iter().enumerate() {
        let place = &mut next[id as usize];
        // Row numbers fit: a buffer holds at most MAX_BUFFER_ROWS rows, or one batch.
        order[*place] = row as u32;
        *place += 1;
    }
    (ScalarBuffer::from(order), ends)
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Int8Type, Schema};

    use super::*;

    fn collect(out: &mut Vec<(usize, RecordBatch)>) -> impl PartitionSink {
        |partition, batch| {
            out.push((partition, batch));
            Ok(())
        }
    }

    #[test]
    fn rows_keep_their_order_within_a_bucket() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let mut partitioner = BatchPartitioner::new(Arc::clone(&schema), 3, 1 << 20);
        let mut out = Vec::new();
        for start in [0i64, 10] {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + 5));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
            partitioner.push(batch, &[2, 0, 2, 0, 2], &mut collect(&mut out)).unwrap();
        }
        assert!(partitioner.buffered_bytes() >= 80);
        assert!(out.is_empty());
        partitioner.flush(&mut collect(&mut out)).unwrap();
        assert_eq!(partitioner.buffered_bytes(), 0);
        let seen: Vec<(usize, Vec<i64>)> = out
            .iter()
            .map(|(partition, batch)| {
                let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
                (*partition, column.values().to_vec())
            })
            .collect();
        assert_eq!(seen, [(0, vec![1, 3, 11, 13]), (2, vec![0, 2, 4, 10, 12, 14])]);
    }

    #[test]
    fn wrong_ids_and_columns_are_refused() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef]);
        let batch = batch.unwrap();
        let mut sink = |_: usize, _: RecordBatch| Ok(());
        let mut partitioner = BatchPartitioner::new(schema, 2, 1 << 20);
        assert!(partitioner.push(batch.clone(), &[0], &mut sink).is_err());
        assert!(partitioner.push(batch.clone(), &[0, 2], &mut sink).is_err());
        let other = RecordBatch::try_from_iter([("a", Arc::new(StringViewArray::from(vec!["x"])) as ArrayRef)]);
        assert!(partitioner.push(other.unwrap(), &[0], &mut sink).is_err());
        assert_eq!(partitioner.buffered_bytes(), 0);
    }

    #[test]
    fn dictionaries_that_do_not_fit_into_one_are_scattered_apart() {
        let data_type = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let schema = Arc::new(Schema::new(vec![Field::new("d", data_type, false)]));
        let mut partitioner = BatchPartitioner::new(Arc::clone(&schema), 2, 1 << 20);
        let mut out = Vec::new();
        for start in [0, 100, 200] {
            let values: Vec<String> = (start..start + 100).map(|i| format!("value {i}")).collect();
            let column: DictionaryArray<Int8Type> = values.iter().map(String::as_str).collect();
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column) as ArrayRef]).unwrap();
            let ids: Vec<u32> = (0..100).map(|i| i % 2).collect();
            partitioner.push(batch, &ids, &mut collect(&mut out)).unwrap();
        }
        partitioner.flush(&mut collect(&mut out)).unwrap();
        let rows: usize = out.iter().map(|(_, batch)| batch.num_rows()).sum();
        assert_eq!(rows, 300);
    }
}
