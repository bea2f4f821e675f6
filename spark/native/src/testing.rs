// SPDX-License-Identifier: Apache-2.0
//! Rows as Spark lays them out, for tests. Compared with rows dumped by Spark itself in `tests/fixtures`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};

/// A value of a row, told apart by what it looks like in memory.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int8(i8),
    Int16(i16),
    /// Also dates, floats and year-month intervals.
    Int32(i32),
    /// Also timestamps, times, doubles, day-time intervals and decimals of up to 18 digits.
    Int64(i64),
    /// A decimal of more than 18 digits.
    Wide(i128),
    /// A string or binary.
    Bytes(Vec<u8>),
    Struct(Vec<Value>),
    /// Elements of this many bytes.
    List(usize, Vec<Value>),
    /// Keys and values, each a list.
    Map(Box<Value>, Box<Value>),
}

/// An `UnsafeRow` of these fields.
pub fn row(values: &[Value]) -> Vec<u8> {
    let header = values.len().div_ceil(64) * 8;
    container(Vec::new(), header, 8, values)
}

fn array(width: usize, values: &[Value]) -> Vec<u8> {
    let header = values.len().div_ceil(64) * 8;
    container((values.len() as u64).to_ne_bytes().to_vec(), header, width, values)
}

/// `prefix`, null bits, slots of `width` bytes, and what the slots lead to.
fn container(prefix: Vec<u8>, null_bytes: usize, width: usize, values: &[Value]) -> Vec<u8> {
    let nulls_at = prefix.len();
    let slots_at = nulls_at + null_bytes;
    let mut bytes = prefix;
    bytes.resize(slots_at + (values.len() * width).next_multiple_of(8), 0);
    for (index, value) in values.iter().enumerate() {
        let slot = slots_at + index * width;
        let mut put = |fixed: &[u8]| bytes[slot..slot + fixed.len()].copy_from_slice(fixed);
        match value {
            Value::Null => {
                let word = nulls_at + index / 64 * 8;
                let mut bits = [0; 8];
                bits.copy_from_slice(&bytes[word..word + 8]);
                let bits = u64::from_ne_bytes(bits) | 1 << (index % 64);
                bytes[word..word + 8].copy_from_slice(&bits.to_ne_bytes());
            }
            Value::Bool(value) => put(&[u8::from(*value)]),
            Value::Int8(value) => put(&value.to_ne_bytes()),
            Value::Int16(value) => put(&value.to_ne_bytes()),
            Value::Int32(value) => put(&value.to_ne_bytes()),
            Value::Int64(value) => put(&value.to_ne_bytes()),
            variable => {
                let content = content(variable);
                let packed = (bytes.len() as u64) << 32 | content.len() as u64;
                bytes[slot..slot + 8].copy_from_slice(&packed.to_ne_bytes());
                bytes.extend_from_slice(&content);
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
        }
    }
    bytes
}

fn content(value: &Value) -> Vec<u8> {
    match value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Wide(value) => {
            let bytes = value.to_be_bytes();
            let redundant = |pair: &[u8]| (pair[0] == 0 && pair[1] < 0x80) || (pair[0] == 0xff && pair[1] >= 0x80);
            let start = bytes.windows(2).take_while(|pair| redundant(pair)).count();
            bytes[start..].to_vec()
        }
        Value::Struct(values) => row(values),
        Value::List(width, values) => array(*width, values),
        Value::Map(keys, values) => {
            let (keys, values) = (content(keys), content(values));
            let mut bytes = (keys.len() as u64).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&keys);
            bytes.extend_from_slice(&values);
            bytes
        }
        fixed => unreachable!("{fixed:?} has a fixed width"),
    }
}

/// Every type of a shuffle, some of them nested.
pub fn every_type() -> Vec<DataType> {
    let nested = Fields::from(vec![
        Field::new("i", DataType::Int32, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(30, 3), true),
    ]);
    let entries = Fields::from(vec![
        Field::new("key", DataType::Int32, false),
        Field::new("value", DataType::Struct(nested.clone()), true),
    ]);
    vec![
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(15, 2),
        DataType::Decimal128(38, 18),
        DataType::Utf8,
        DataType::Binary,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Duration(TimeUnit::Microsecond),
        DataType::Interval(IntervalUnit::YearMonth),
        DataType::Struct(nested.clone()),
        DataType::List(Arc::new(Field::new("element", DataType::Boolean, true))),
        DataType::List(Arc::new(Field::new("element", DataType::Struct(nested), true))),
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false),
        DataType::Utf8,
    ]
}

/// A row of [`every_type`], different for each seed; no value of it is null except in a few places within.
pub fn every_value(seed: i64) -> Vec<Value> {
    let text = |n: i64| Value::Bytes(format!("text {}", seed * 31 + n).into_bytes());
    let nested =
        |n: i64| Value::Struct(vec![Value::Int32((seed + n) as i32), text(n), Value::Wide(i128::from(seed + n) << 70)]);
    vec![
        Value::Null,
        Value::Bool(seed % 2 == 0),
        Value::Int8(seed as i8),
        Value::Int16(seed as i16),
        Value::Int32(seed as i32),
        Value::Int64(seed),
        Value::Int32((seed as f32).to_bits() as i32),
        Value::Int64((seed as f64).to_bits() as i64),
        Value::Int64(-seed * 100),
        Value::Wide(i128::from(-seed) << 64),
        text(0),
        Value::Bytes(vec![0xff, seed as u8, 0x80]),
        Value::Int32(seed as i32),
        Value::Int64(seed * 1_000_000),
        Value::Int64(seed * 1_000_000 + 1),
        Value::Int64(seed.rem_euclid(86_400) * 1_000_000_000),
        Value::Int64(seed),
        Value::Int32(seed as i32),
        nested(1),
        Value::List(1, vec![Value::Bool(true), Value::Null, Value::Bool(false)]),
        Value::List(8, vec![nested(2), Value::Null, nested(3)]),
        Value::Map(
            Box::new(Value::List(4, vec![Value::Int32(1), Value::Int32(2)])),
            Box::new(Value::List(8, vec![nested(4), Value::Null])),
        ),
        // Last, so that every byte of it but the padding matters.
        Value::Bytes(vec![b'z'; 16]),
    ]
}
