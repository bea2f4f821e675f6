// SPDX-License-Identifier: Apache-2.0
//! Tables in memory: how large they are, and rows of the client made one.
//!
//! A plan carries its tables in memory with it. Rows that go to the executors ahead of a plan travel in the same way,
//! some of them at a time, as the only node of a plan of their own.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use ballista_shuffle::{ShuffleError, compact};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::ExecutionPlan;

use crate::convert::{has_unions_or_runs, is_slice};
use crate::slice::memory_scan;

/// What a batch costs beside its rows.
const BATCH_BYTES: usize = 512;

/// Whether `plan` is the scan of a table in memory.
pub fn is_memory_scan(plan: &Arc<dyn ExecutionPlan>) -> bool {
    memory_scan(plan).is_some()
}

/// Whether `plan` is the scan of a table in memory of at least so many bytes: of all columns, which is what a plan
/// carries. Does not look further than it must.
pub fn has_bytes(plan: &Arc<dyn ExecutionPlan>, bytes: usize) -> bool {
    let Some(memory) = memory_scan(plan) else { return false };
    let mut seen = 0;
    memory.partitions().iter().flatten().any(|batch| {
        seen += batch_bytes(batch);
        seen >= bytes
    })
}

/// Bytes of `batch` in a plan, about.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    ballista_shuffle::used_bytes(batch) + BATCH_BYTES
}

/// A plan of one partition that yields `batches`, which have `schema`.
pub fn scan_of(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
    let batches = batches.into_iter().map(|batch| compact(whole(batch)?).map_err(shuffle));
    let partition = batches.collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(&[partition], Arc::clone(schema), None)?)
}

/// `batch` without slices of what Arrow's IPC writer cannot slice.
fn whole(batch: RecordBatch) -> Result<RecordBatch> {
    let is_cut = |column: &ArrayRef| has_unions_or_runs(column.data_type()) && is_slice(&column.to_data());
    if !batch.columns().iter().any(is_cut) {
        return Ok(batch);
    }
    let rows = UInt64Array::from_iter_values(0..batch.num_rows() as u64);
    let columns = batch.columns().iter().map(|column| match is_cut(column) {
        true => Ok(take(column, &rows, None)?),
        false => Ok(Arc::clone(column)),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns.collect::<Result<_>>()?, &options)?)
}

fn shuffle(error: ShuffleError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int32Array, ListArray, RunArray, StringViewArray, UnionArray};
    use arrow::buffer::{OffsetBuffer, ScalarBuffer};
    use arrow::datatypes::{DataType, Field, Int32Type, Schema, UnionFields};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::TaskContext;

    use super::*;
    use crate::codec::PlanCodec;

    fn union(mode_is_dense: bool) -> ArrayRef {
        let fields = UnionFields::from_fields(vec![
            Field::new("i", DataType::Int32, true),
            Field::new("s", DataType::Utf8View, true),
        ]);
        let types: ScalarBuffer<i8> = vec![0, 1, 0, 1, 0, 1].into();
        let (numbers, texts, offsets) = if mode_is_dense {
            (vec![1, 3, 5], vec!["b", "d", "f"], Some(vec![0, 0, 1, 1, 2, 2].into()))
        } else {
            (vec![1, 0, 3, 0, 5, 0], vec!["", "b", "", "d", "", "f"], None)
        };
        let children: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(numbers)), Arc::new(StringViewArray::from(texts))];
        Arc::new(UnionArray::try_new(fields, types, offsets, children).unwrap())
    }

    fn runs() -> ArrayRef {
        let runs: RunArray<Int32Type> = ["a", "a", "b", "b", "b", "c"].into_iter().collect();
        Arc::new(runs)
    }

    fn lists(values: ArrayRef) -> ArrayRef {
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let offsets = OffsetBuffer::new(vec![0, 1, 1, 2, 4, 5, 6].into());
        Arc::new(ListArray::new(field, offsets, values, None))
    }

    /// The rows of `plan` after a journey.
    fn sent(plan: &Arc<dyn ExecutionPlan>) -> Vec<RecordBatch> {
        let codec = PlanCodec::default();
        let plan = codec.decode(&codec.encode(plan).unwrap(), &TaskContext::default()).unwrap();
        memory_scan(&plan).unwrap().partitions().iter().flatten().cloned().collect()
    }

    #[test]
    fn slices_of_all_kinds_arrive_as_they_are() {
        for column in [union(true), union(false), runs(), lists(union(true)), lists(runs())] {
            let schema = Arc::new(Schema::new(vec![Field::new("c", column.data_type().clone(), true)]));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
            let slices = vec![batch.slice(1, 2), batch.slice(3, 3), batch.slice(4, 0)];
            let plan = scan_of(&schema, slices.clone()).unwrap();
            let expected = pretty_format_batches(&slices).unwrap().to_string();
            assert_eq!(pretty_format_batches(&sent(&plan)).unwrap().to_string(), expected, "{schema}");
        }
    }

    #[test]
    fn views_leave_behind_what_they_do_not_show() {
        let long = "x".repeat(1 << 20);
        let texts = StringViewArray::from(vec![long.as_str(), "a text of more than twelve bytes"]);
        let batch = RecordBatch::try_from_iter([("c", Arc::new(texts) as ArrayRef)]).unwrap().slice(1, 1);
        let bytes = PlanCodec::default().encode(&scan_of(&batch.schema(), vec![batch.clone()]).unwrap()).unwrap();
        assert!(bytes.len() < 4096 && batch_bytes(&batch) < 4096, "{} {}", bytes.len(), batch_bytes(&batch));
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
        let rows = sent(&scan_of(&schema, vec![batch.clone(), batch]).unwrap());
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 14);
    }

    #[test]
    fn a_table_is_as_large_as_all_of_its_columns() {
        let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&column)), ("b", column)]).unwrap();
        assert_eq!(batch.column(0).as_primitive::<Int32Type>().len(), 1000);
        let plan: Arc<dyn ExecutionPlan> =
            MemorySourceConfig::try_new_exec(&[vec![batch.clone(), batch.clone()]], batch.schema(), Some(vec![0]))
                .unwrap();
        assert!(has_bytes(&plan, 9_000) && !has_bytes(&plan, 18_000));
    }
}
