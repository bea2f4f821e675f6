// SPDX-License-Identifier: Apache-2.0
//! Random schemas and batches, reproducible from a seed, and a way to compare rows.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use ballista_core::{JobId, StageId, TaskId, TaskKey};
use ballista_shuffle::FileIdentity;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn identity(partitions: usize) -> FileIdentity {
    let task =
        TaskKey { job: JobId::new("job-7").unwrap(), stage: StageId(1), stage_attempt: 0, task: TaskId(4), attempt: 2 };
    FileIdentity { task, partitions: partitions as u32 }
}

fn flat_type(rng: &mut StdRng) -> DataType {
    let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    match rng.random_range(0..30) {
        0 => DataType::Null,
        1 => DataType::Boolean,
        2 => DataType::Int8,
        3 => DataType::Int16,
        4 => DataType::Int32,
        5 => DataType::UInt64,
        6 => DataType::Float32,
        7 => DataType::Float64,
        8 => DataType::Float16,
        9 => DataType::Date32,
        10 => DataType::Date64,
        11 => DataType::Time32(TimeUnit::Millisecond),
        12 => DataType::Time64(TimeUnit::Nanosecond),
        13 => DataType::Timestamp(units[rng.random_range(0..4)], None),
        14 => DataType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into())),
        15 => DataType::Duration(units[rng.random_range(0..4)]),
        16 => DataType::Interval(IntervalUnit::YearMonth),
        17 => DataType::Interval(IntervalUnit::DayTime),
        18 => DataType::Interval(IntervalUnit::MonthDayNano),
        19 => DataType::Decimal128(20, 3),
        20 => DataType::Decimal256(60, 5),
        21 => DataType::Decimal32(7, 2),
        22 => DataType::Decimal64(12, 2),
        23 => DataType::FixedSizeBinary(rng.random_range(1..20)),
        24 => DataType::Utf8,
        25 => DataType::LargeUtf8,
        26 => DataType::Binary,
        27 => DataType::LargeBinary,
        28 => DataType::BinaryView,
        _ => DataType::Utf8View,
    }
}

/// A random type, nested at most `depth` deep.
pub fn random_type(rng: &mut StdRng, depth: usize) -> DataType {
    if depth == 0 || rng.random_bool(0.5) {
        return match rng.random_range(0..6) {
            0 => DataType::Utf8View,
            1 => {
                let keys = [DataType::Int8, DataType::UInt16, DataType::Int32, DataType::UInt64];
                let values = [
                    DataType::Utf8,
                    DataType::Utf8View,
                    DataType::Int64,
                    DataType::Float64,
                    DataType::Decimal128(9, 2),
                ];
                let (key, value) = (keys[rng.random_range(0..4)].clone(), values[rng.random_range(0..5)].clone());
                DataType::Dictionary(Box::new(key), Box::new(value))
            }
            _ => flat_type(rng),
        };
    }
    let mut field = |name: &str| Arc::new(Field::new(name, random_type(rng, depth - 1), true));
    let item = field("item");
    match rng.random_range(0..9) {
        0 => DataType::List(item),
        1 => DataType::LargeList(item),
        2 => DataType::FixedSizeList(item, rng.random_range(0..4)),
        3 => {
            let value = Field::new("values", random_type(rng, depth - 1), true);
            let entries = Fields::from(vec![Field::new("keys", DataType::Utf8, false), value]);
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
        }
        4 => DataType::ListView(item),
        5 => {
            let fields = vec![
                Field::new("a", random_type(rng, depth - 1), true),
                Field::new("b", random_type(rng, depth - 1), true),
            ];
            let mode = if rng.random_bool(0.5) { UnionMode::Dense } else { UnionMode::Sparse };
            DataType::Union(UnionFields::try_new(vec![3, 7], fields).unwrap(), mode)
        }
        6 => {
            let run_ends = Arc::new(Field::new("run_ends", DataType::Int32, false));
            DataType::RunEndEncoded(run_ends, Arc::new(Field::new("values", flat_type(rng), true)))
        }
        _ => {
            let count = rng.random_range(1..4);
            let fields: Fields = (0..count)
                .map(|i| {
                    let field = Field::new(format!("s{i}"), random_type(rng, depth - 1), true);
                    field.with_metadata([("unit".to_owned(), format!("m{i}"))].into())
                })
                .collect();
            DataType::Struct(fields)
        }
    }
}

/// A random schema of up to six columns, perhaps none. With `key`, column 0 is a nullable `Int64` named `key`.
pub fn random_schema(rng: &mut StdRng, key: bool) -> SchemaRef {
    let mut fields = Vec::new();
    if key {
        fields.push(Field::new("key", DataType::Int64, true));
    }
    for i in 0..rng.random_range(0..6) {
        let metadata = [("comment".to_owned(), format!("column {i}"))].into();
        fields.push(Field::new(format!("c{i}"), random_type(rng, 3), true).with_metadata(metadata));
    }
    Arc::new(Schema::new_with_metadata(fields, [("origin".to_owned(), "test".to_owned())].into()))
}

fn nulls(rng: &mut StdRng, len: usize) -> Option<NullBuffer> {
    match rng.random_range(0..3) {
        0 => None,
        1 => Some((0..len).map(|_| rng.random_bool(0.8)).collect()),
        _ => Some((0..len).map(|_| rng.random_bool(0.3)).collect()),
    }
}

fn text(rng: &mut StdRng) -> String {
    let len = if rng.random_bool(0.5) { rng.random_range(0..13) } else { rng.random_range(13..60) };
    (0..len).map(|_| ['a', 'b', 'é', 'z', '0', '漢'][rng.random_range(0..6)]).collect()
}

fn fixed<T: ArrowPrimitiveType>(
    rng: &mut StdRng,
    len: usize,
    data_type: &DataType,
    value: impl Fn(i64) -> T::Native,
) -> ArrayRef {
    let values: Vec<T::Native> = (0..len).map(|_| value(rng.random_range(0..50))).collect();
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls(rng, len)).with_data_type(data_type.clone()))
}

/// A random array; sometimes a slice of a longer one.
pub fn random_array(rng: &mut StdRng, data_type: &DataType, len: usize) -> ArrayRef {
    if rng.random_bool(0.3) {
        let (before, after) = (rng.random_range(0..20), rng.random_range(0..20));
        return whole_array(rng, data_type, before + len + after).slice(before, len);
    }
    whole_array(rng, data_type, len)
}

fn whole_array(rng: &mut StdRng, data_type: &DataType, len: usize) -> ArrayRef {
    macro_rules! strings {
        ($array:ty) => {{
            let values: Vec<Option<String>> = (0..len).map(|_| rng.random_bool(0.8).then(|| text(rng))).collect();
            Arc::new(values.iter().map(|v| v.as_deref()).collect::<$array>()) as ArrayRef
        }};
    }
    macro_rules! binaries {
        ($array:ty) => {{
            let values: Vec<Option<String>> = (0..len).map(|_| rng.random_bool(0.8).then(|| text(rng))).collect();
            Arc::new(values.iter().map(|v| v.as_ref().map(|v| v.as_bytes())).collect::<$array>()) as ArrayRef
        }};
    }
    let t = data_type;
    match t {
        DataType::Null => new_null_array(t, len),
        DataType::Boolean => {
            let values = (0..len).map(|_| rng.random_bool(0.5)).collect();
            Arc::new(BooleanArray::new(values, nulls(rng, len)))
        }
        DataType::Int8 => fixed::<Int8Type>(rng, len, t, |v| v as i8),
        DataType::Int16 => fixed::<Int16Type>(rng, len, t, |v| v as i16),
        DataType::Int32 => fixed::<Int32Type>(rng, len, t, |v| v as i32),
        DataType::Int64 => fixed::<Int64Type>(rng, len, t, |v| v - 20),
        DataType::UInt64 => fixed::<UInt64Type>(rng, len, t, |v| v as u64),
        DataType::Float16 => fixed::<Float16Type>(rng, len, t, |_| Default::default()),
        DataType::Float32 => fixed::<Float32Type>(rng, len, t, |v| 1.0 / v as f32),
        DataType::Float64 => fixed::<Float64Type>(rng, len, t, |v| if v == 0 { f64::NAN } else { -1.0 / v as f64 }),
        DataType::Date32 => fixed::<Date32Type>(rng, len, t, |v| v as i32),
        DataType::Date64 => fixed::<Date64Type>(rng, len, t, |v| v * 86_400_000),
        DataType::Time32(_) => fixed::<Time32MillisecondType>(rng, len, t, |v| v as i32),
        DataType::Time64(_) => fixed::<Time64NanosecondType>(rng, len, t, |v| v),
        DataType::Timestamp(TimeUnit::Second, _) => fixed::<TimestampSecondType>(rng, len, t, |v| v),
        DataType::Timestamp(TimeUnit::Millisecond, _) => fixed::<TimestampMillisecondType>(rng, len, t, |v| v),
        DataType::Timestamp(TimeUnit::Microsecond, _) => fixed::<TimestampMicrosecondType>(rng, len, t, |v| v),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => fixed::<TimestampNanosecondType>(rng, len, t, |v| v),
        DataType::Duration(TimeUnit::Second) => fixed::<DurationSecondType>(rng, len, t, |v| v),
        DataType::Duration(TimeUnit::Millisecond) => fixed::<DurationMillisecondType>(rng, len, t, |v| v),
        DataType::Duration(TimeUnit::Microsecond) => fixed::<DurationMicrosecondType>(rng, len, t, |v| v),
        DataType::Duration(TimeUnit::Nanosecond) => fixed::<DurationNanosecondType>(rng, len, t, |v| v),
        DataType::Interval(IntervalUnit::YearMonth) => fixed::<IntervalYearMonthType>(rng, len, t, |v| v as i32),
        DataType::Interval(IntervalUnit::DayTime) => {
            fixed::<IntervalDayTimeType>(rng, len, t, |v| IntervalDayTime::new(v as i32, 1))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            fixed::<IntervalMonthDayNanoType>(rng, len, t, |v| IntervalMonthDayNano::new(v as i32, 1, 2))
        }
        DataType::Decimal32(_, _) => fixed::<Decimal32Type>(rng, len, t, |v| v as i32),
        DataType::Decimal64(_, _) => fixed::<Decimal64Type>(rng, len, t, |v| v),
        DataType::Decimal128(_, _) => fixed::<Decimal128Type>(rng, len, t, i128::from),
        DataType::Decimal256(_, _) => fixed::<Decimal256Type>(rng, len, t, |v| i256::from_i128(i128::from(v))),
        DataType::FixedSizeBinary(size) => {
            let values: Vec<u8> = (0..len * *size as usize).map(|_| rng.random_range(0..9)).collect();
            Arc::new(FixedSizeBinaryArray::new(*size, values.into(), nulls(rng, len)))
        }
        DataType::Utf8 => strings!(StringArray),
        DataType::LargeUtf8 => strings!(LargeStringArray),
        DataType::Utf8View => strings!(StringViewArray),
        DataType::Binary => binaries!(BinaryArray),
        DataType::LargeBinary => binaries!(LargeBinaryArray),
        DataType::BinaryView => binaries!(BinaryViewArray),
        DataType::Dictionary(keys, values) => {
            let count = rng.random_range(1..40);
            let values = whole_array(rng, values, count);
            let indices = PrimitiveArray::<UInt8Type>::new(
                (0..len).map(|_| rng.random_range(0..count) as u8).collect(),
                nulls(rng, len),
            );
            let keys = arrow::compute::cast(&indices, keys).unwrap();
            let data = keys.to_data().into_builder().data_type(t.clone()).add_child_data(values.to_data());
            make_array(data.build().unwrap())
        }
        DataType::List(field) => {
            let offsets = OffsetBuffer::<i32>::from_lengths((0..len).map(|_| rng.random_range(0..4)));
            let child = random_array(rng, field.data_type(), *offsets.last().unwrap() as usize);
            Arc::new(ListArray::new(Arc::clone(field), offsets, child, nulls(rng, len)))
        }
        DataType::LargeList(field) => {
            let offsets = OffsetBuffer::<i64>::from_lengths((0..len).map(|_| rng.random_range(0..4)));
            let child = random_array(rng, field.data_type(), *offsets.last().unwrap() as usize);
            Arc::new(LargeListArray::new(Arc::clone(field), offsets, child, nulls(rng, len)))
        }
        DataType::ListView(field) => {
            let child_len = rng.random_range(4..50);
            let child = random_array(rng, field.data_type(), child_len);
            let sizes: Vec<i32> = (0..len).map(|_| rng.random_range(0..4)).collect();
            let offsets: Vec<i32> = sizes.iter().map(|size| rng.random_range(0..=child_len as i32 - size)).collect();
            let nulls = nulls(rng, len);
            Arc::new(ListViewArray::new(Arc::clone(field), offsets.into(), sizes.into(), child, nulls))
        }
        DataType::FixedSizeList(field, size) => {
            let child = random_array(rng, field.data_type(), len * *size as usize);
            let nulls = nulls(rng, len);
            Arc::new(FixedSizeListArray::try_new_with_length(Arc::clone(field), *size, child, nulls, len).unwrap())
        }
        DataType::Struct(fields) => {
            let children = fields.iter().map(|field| random_array(rng, field.data_type(), len)).collect();
            Arc::new(StructArray::new(fields.clone(), children, nulls(rng, len)))
        }
        DataType::Map(field, sorted) => {
            let offsets = OffsetBuffer::<i32>::from_lengths((0..len).map(|_| rng.random_range(0..4)));
            let entries = *offsets.last().unwrap() as usize;
            let DataType::Struct(fields) = field.data_type() else { unreachable!() };
            let keys: StringArray = (0..entries).map(|i| Some(format!("k{i}"))).collect();
            let values = random_array(rng, fields[1].data_type(), entries);
            let entries = StructArray::new(fields.clone(), vec![Arc::new(keys), values], None);
            Arc::new(MapArray::new(Arc::clone(field), offsets, entries, nulls(rng, len), *sorted))
        }
        DataType::Union(fields, mode) => {
            let type_ids: ScalarBuffer<i8> = (0..len).map(|_| if rng.random_bool(0.5) { 3 } else { 7 }).collect();
            let offsets: Option<ScalarBuffer<i32>> =
                (*mode == UnionMode::Dense).then(|| (0..len).map(|i| i as i32).collect());
            let children = fields.iter().map(|(_, field)| random_array(rng, field.data_type(), len)).collect();
            Arc::new(UnionArray::try_new(fields.clone(), type_ids, offsets, children).unwrap())
        }
        DataType::RunEndEncoded(_, values) => {
            let mut run_ends: Vec<i32> = Vec::new();
            while (run_ends.last().copied().unwrap_or(0) as usize) < len {
                let last = run_ends.last().copied().unwrap_or(0);
                run_ends.push((last + rng.random_range(1..5)).min(len as i32));
            }
            let values = random_array(rng, values.data_type(), run_ends.len());
            let run_array = RunArray::<Int32Type>::try_new(&Int32Array::from(run_ends), values.as_ref()).unwrap();
            Arc::new(run_array)
        }
        other => panic!("no generator for {other}"),
    }
}

pub fn random_batch(rng: &mut StdRng, schema: &SchemaRef, rows: usize) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| random_array(rng, field.data_type(), rows)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).unwrap()
}

/// One line of text per row, nulls told from empty values.
pub fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("∅").with_display_error(false);
    let formatters: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    (0..batch.num_rows())
        .map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" | "))
        .collect()
}
