// SPDX-License-Identifier: Apache-2.0
//! Values of every type, each made from a small whole number, so that a literal meets the values of a column.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, StructArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int32Type, TimeUnit};
use rand::RngExt;
use rand::rngs::StdRng;

/// Types whose values may be mixed in one expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Float,
    Decimal,
    Text,
    Bytes,
    Bool,
    Date,
    Time,
    Zoned,
    List,
    Struct,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Int,
        Self::Float,
        Self::Decimal,
        Self::Text,
        Self::Bytes,
        Self::Bool,
        Self::Date,
        Self::Time,
        Self::Zoned,
        Self::List,
        Self::Struct,
    ];

    pub fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Decimal)
    }

    pub fn is_nested(self) -> bool {
        matches!(self, Self::List | Self::Struct)
    }
}

const SECONDS_2020: i64 = 1_577_836_800;
const DAYS_2020: i64 = 18_262;
const ZONES: [&str; 3] = ["UTC", "+05:30", "Europe/Berlin"];

/// Any type of `kind`.
pub fn data_type(kind: Kind, rng: &mut StdRng) -> DataType {
    let unit = match rng.random_range(0..4) {
        0 => TimeUnit::Second,
        1 => TimeUnit::Millisecond,
        2 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    };
    let one_of = |rng: &mut StdRng, types: &[DataType]| types[rng.random_range(0..types.len())].clone();
    match kind {
        Kind::Int => one_of(
            rng,
            &[
                DataType::Int8,
                DataType::Int16,
                DataType::Int32,
                DataType::Int64,
                DataType::UInt8,
                DataType::UInt16,
                DataType::UInt32,
                DataType::UInt64,
            ],
        ),
        Kind::Float => DataType::Float64,
        Kind::Decimal => one_of(rng, &[DataType::Decimal128(10, 2), DataType::Decimal128(30, 4)]),
        Kind::Text => {
            let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            one_of(rng, &[DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8, dictionary])
        }
        Kind::Bytes => one_of(rng, &[DataType::Binary, DataType::BinaryView]),
        Kind::Bool => DataType::Boolean,
        Kind::Date => DataType::Date32,
        Kind::Time => DataType::Timestamp(unit, None),
        Kind::Zoned => DataType::Timestamp(unit, Some(ZONES[rng.random_range(0..ZONES.len())].into())),
        Kind::List => DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true))),
        Kind::Struct => DataType::Struct(struct_fields()),
    }
}

/// Whether arrow's CSV reader reads `data_type` back as it was written.
pub fn fits_csv(data_type: &DataType) -> bool {
    !matches!(
        data_type,
        DataType::List(_)
            | DataType::Struct(_)
            | DataType::Binary
            | DataType::BinaryView
            | DataType::Dictionary(_, _)
            | DataType::LargeUtf8
            | DataType::Timestamp(_, Some(_))
    )
}

fn struct_fields() -> Fields {
    vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)].into()
}

fn text(value: i64) -> String {
    let prefix = ["", "k", "Größe ", "a text too long to be kept inline, "][value.rem_euclid(4) as usize];
    if value == 0 { String::new() } else { format!("{prefix}{value}") }
}

/// A column of `data_type`. Numbers outside of the type's range are wrapped.
pub fn array(data_type: &DataType, values: &[Option<i64>]) -> ArrayRef {
    let ints = |of: &dyn Fn(i64) -> i64| Int64Array::from_iter(values.iter().map(|value| value.map(of)));
    let made: ArrayRef = match data_type {
        DataType::Int8 => Arc::new(ints(&|v| i64::from(v as i8))),
        DataType::Int16 => Arc::new(ints(&|v| i64::from(v as i16))),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Arc::new(ints(&|v| v.abs() % 256)),
        DataType::Float64 => Arc::new(Float64Array::from_iter(values.iter().map(|value| value.map(float)))),
        DataType::Decimal128(precision, scale) => {
            let unit = 10_i128.pow(u32::from(scale.unsigned_abs())) / 4;
            let decimals = Decimal128Array::from_iter(values.iter().map(|value| value.map(|v| i128::from(v) * unit)));
            Arc::new(decimals.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(_, _) => {
            Arc::new(StringArray::from_iter(values.iter().map(|value| value.map(text))))
        }
        DataType::Binary | DataType::BinaryView => {
            Arc::new(BinaryArray::from_iter(values.iter().map(|value| value.map(text))))
        }
        DataType::Boolean => Arc::new(BooleanArray::from_iter(values.iter().map(|value| value.map(|v| v % 2 == 0)))),
        DataType::Date32 => {
            Arc::new(Int32Array::from_iter(values.iter().map(|value| value.map(|v| (DAYS_2020 + v) as i32))))
        }
        DataType::Timestamp(unit, zone) => {
            let seconds = ints(&seconds);
            let seconds = cast(&seconds, &DataType::Timestamp(TimeUnit::Second, zone.clone())).unwrap();
            cast(&seconds, &DataType::Timestamp(*unit, zone.clone())).unwrap()
        }
        DataType::List(_) => Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(values.iter().map(|value| {
            value.map(|v| (0..v.rem_euclid(4)).map(move |i| (i != 2).then_some((v + i) as i32)).collect::<Vec<_>>())
        }))),
        DataType::Struct(fields) => {
            let a = array(&DataType::Int32, values);
            let b = array(&DataType::Utf8, values);
            let nulls = a.nulls().cloned();
            Arc::new(StructArray::try_new(fields.clone(), vec![a, b], nulls).unwrap())
        }
        _ => Arc::new(ints(&|v| v)),
    };
    cast(&made, data_type).unwrap()
}

/// Quarters, which add up exactly in any order.
fn float(value: i64) -> f64 {
    value as f64 / 4.0
}

fn seconds(value: i64) -> i64 {
    SECONDS_2020 + value * 7_201
}

/// An expression for the value that [`array`] makes of `value`.
pub fn literal(kind: Kind, value: i64) -> String {
    match kind {
        Kind::Int => format!("({value})"),
        Kind::Float => format!("CAST({} AS DOUBLE)", float(value)),
        Kind::Decimal => format!("CAST('{}' AS DECIMAL(10, 2))", float(value)),
        Kind::Text => format!("'{}'", text(value)),
        Kind::Bytes => {
            let digits: String = text(value).bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("X'{digits}'")
        }
        Kind::Bool => (value % 2 == 0).to_string(),
        Kind::Date => format!("(DATE '2020-01-01' + INTERVAL '{value} days')"),
        Kind::Time => format!("arrow_cast({}, 'Timestamp(Second, None)')", seconds(value)),
        Kind::Zoned => format!("arrow_cast({}, 'Timestamp(Second, Some(\"UTC\"))')", seconds(value)),
        Kind::List => format!("make_array(CAST({value} AS INT), NULL)"),
        Kind::Struct => format!("named_struct('a', {value}, 'b', '{}')", text(value)),
    }
}

/// Floats that sort, hash and add in their own ways.
pub fn special_floats(values: &[Option<i64>]) -> ArrayRef {
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
    let value = |v: i64| special.get(v.rem_euclid(9) as usize).copied().unwrap_or_else(|| float(v));
    Arc::new(Float64Array::from_iter(values.iter().map(|v| v.map(value))))
}

/// Whole numbers up to the ends of the type's range.
pub fn wide_ints(data_type: &DataType, values: &[Option<i64>]) -> ArrayRef {
    let bits = data_type.primitive_width().unwrap_or(8) as u32 * 8;
    let (low, high) = if data_type.is_unsigned_integer() {
        (0, i128::from(u64::MAX >> (64 - bits)))
    } else {
        (i128::from(i64::MIN >> (64 - bits)), i128::from(i64::MAX >> (64 - bits)))
    };
    let value = |v: i64| match v.rem_euclid(5) {
        0 => low,
        1 => high,
        _ => i128::from(v.rem_euclid(100)),
    };
    let decimals = Decimal128Array::from_iter(values.iter().map(|v| v.map(value)));
    cast(&decimals.with_precision_and_scale(38, 0).unwrap(), data_type).unwrap()
}
