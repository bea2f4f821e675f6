// SPDX-License-Identifier: Apache-2.0
//! Batches for tests, plain and random.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int8Array,
    Int32Array, Int64Array, LargeStringArray, ListArray, NullArray, RecordBatch, StringArray, StringViewArray,
    StructArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Rows `start..start + rows` of a table with a number and a text.
pub fn numbered(start: usize, rows: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((start..start + rows).map(|row| row as i64)));
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values(
        (start..start + rows).map(|row| format!("row {row} of a table with somewhat longer texts")),
    ));
    RecordBatch::try_from_iter([("number", numbers), ("text", texts)]).unwrap()
}

/// Cuts `total` numbered rows into batches.
pub fn numbered_batches(total: usize, rows_per_batch: usize) -> Vec<RecordBatch> {
    (0..total).step_by(rows_per_batch).map(|start| numbered(start, rows_per_batch.min(total - start))).collect()
}

pub fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    batches.iter().flat_map(column).collect()
}

pub fn sorted_numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let mut numbers = numbers(batches);
    numbers.sort_unstable();
    numbers
}

/// The rows as sortable bytes, sorted: equal exactly if the multisets of rows are.
pub fn multiset(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<Vec<u8>> {
    let all = concat_batches(schema, batches).unwrap();
    if all.num_columns() == 0 {
        return vec![Vec::new(); all.num_rows()];
    }
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let rows = RowConverter::new(fields).unwrap().convert_columns(all.columns()).unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| row.data().to_vec()).collect();
    rows.sort();
    rows
}

pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

fn types() -> Vec<DataType> {
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    vec![
        DataType::Int8,
        DataType::Int64,
        DataType::Float64,
        DataType::Boolean,
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::BinaryView,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal128(20, 3),
        DataType::Null,
        DataType::List(item),
        DataType::Struct(vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)].into()),
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
    ]
}

pub fn random_schema(rng: &mut SmallRng) -> SchemaRef {
    let types = types();
    let columns = rng.random_range(1..8);
    let field = |index| Field::new(format!("c{index}"), types[rng.random_range(0..types.len())].clone(), true);
    Arc::new(Schema::new((0..columns).map(field).collect::<Vec<_>>()))
}

pub fn random_batch(rng: &mut SmallRng, schema: &SchemaRef, rows: usize) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| random_array(rng, field.data_type(), rows)).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

fn some<T>(rng: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    rng.random_bool(0.9).then(|| value(rng))
}

fn text(rng: &mut SmallRng) -> String {
    let length = if rng.random_bool(0.02) { 2000 } else { rng.random_range(0..40) };
    (0..length).map(|_| rng.random_range('a'..='ö')).collect()
}

fn random_array(rng: &mut SmallRng, data_type: &DataType, rows: usize) -> ArrayRef {
    macro_rules! array {
        ($array:ty, $value:expr) => {
            Arc::new((0..rows).map(|_| some(rng, $value)).collect::<$array>())
        };
    }
    match data_type {
        DataType::Int8 => array!(Int8Array, |rng| rng.random()),
        DataType::Int32 => array!(Int32Array, |rng| rng.random()),
        DataType::Int64 => array!(Int64Array, |rng| rng.random()),
        DataType::Float64 => array!(Float64Array, |rng| rng.random()),
        DataType::Boolean => array!(BooleanArray, |rng| rng.random()),
        DataType::Utf8 => array!(StringArray, text),
        DataType::LargeUtf8 => array!(LargeStringArray, text),
        DataType::Utf8View => array!(StringViewArray, text),
        DataType::BinaryView => array!(BinaryViewArray, |rng| text(rng).into_bytes()),
        DataType::Date32 => array!(Date32Array, |rng| rng.random()),
        DataType::Timestamp(_, _) => array!(TimestampMicrosecondArray, |rng| rng.random()),
        DataType::Decimal128(precision, scale) => {
            let values = (0..rows).map(|_| some(rng, |rng| i128::from(rng.random::<i32>())));
            let values = values.collect::<Decimal128Array>();
            Arc::new(values.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Null => Arc::new(NullArray::new(rows)),
        DataType::List(_) => {
            let list = |rng: &mut SmallRng| {
                let length = rng.random_range(0..5);
                (0..length).map(|_| some(rng, |rng| rng.random::<i32>())).collect::<Vec<_>>()
            };
            let lists: Vec<_> = (0..rows).map(|_| some(rng, list)).collect();
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| random_array(rng, field.data_type(), rows)).collect();
            Arc::new(StructArray::try_new(fields.clone(), columns, None).unwrap())
        }
        DataType::Dictionary(key, _) => {
            let values: Vec<_> = (0..rows).map(|_| some(rng, |rng| format!("v{}", rng.random_range(0..50)))).collect();
            let values = values.iter().map(Option::as_deref);
            match **key {
                DataType::Int8 => Arc::new(values.collect::<DictionaryArray<Int8Type>>()),
                _ => Arc::new(values.collect::<DictionaryArray<Int32Type>>()),
            }
        }
        other => panic!("no random values of {other}"),
    }
}
