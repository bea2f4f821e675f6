// SPDX-License-Identifier: Apache-2.0
//! Columns that are filled with the values of rows, batch by batch.

use std::sync::Arc;

use arrow::array::builder::{BooleanBufferBuilder, NullBufferBuilder};
use arrow::array::{
    ArrayData, ArrayRef, BinaryArray, BooleanArray, ListArray, MapArray, NullArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit, TimeUnit};

use super::entry_fields;
use super::layout::{UnsafeArray, UnsafeRow, WORD, is_set, malformed, split_map, wide_decimal};
use super::slots::{ElementSlots, RowSlots, Slots, StructSlots};
use crate::error::{ArrowContext, Result, SparkError};

/// Decimals of up to this precision are longs.
const MAX_LONG_DIGITS: u8 = 18;

/// Bytes of an element of this type in an array.
fn element_width(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean | DataType::Int8 => 1,
        DataType::Int16 => 2,
        DataType::Int32 | DataType::Float32 | DataType::Date32 | DataType::Interval(IntervalUnit::YearMonth) => 4,
        _ => WORD,
    }
}

/// A column that is being filled.
#[derive(Debug)]
pub(super) struct Column {
    data_type: DataType,
    nulls: NullBufferBuilder,
    values: Values,
}

/// The values of a column, by what has to be done to append one. Types of one width share a variant.
#[derive(Debug)]
enum Values {
    Null(usize),
    Boolean(BooleanBufferBuilder),
    Bits8(Vec<u8>),
    Bits16(Vec<u16>),
    Bits32(Vec<u32>),
    Bits64(Vec<u64>),
    NarrowDecimal(Vec<i128>),
    WideDecimal(Vec<i128>),
    /// `last`: bytes of the last batch, as a guess at those of the next.
    Bytes {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
        last: usize,
    },
    Struct(Vec<Column>),
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Box<Column>,
        values: Box<Column>,
    },
}

impl Column {
    /// An empty column of a type of a carrier schema.
    pub(super) fn try_new(data_type: &DataType) -> Result<Self> {
        let values = match data_type {
            DataType::Null => Values::Null(0),
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Values::Bits8(Vec::new()),
            DataType::Int16 => Values::Bits16(Vec::new()),
            DataType::Int32 | DataType::Float32 | DataType::Date32 | DataType::Interval(IntervalUnit::YearMonth) => {
                Values::Bits32(Vec::new())
            }
            DataType::Int64
            | DataType::Float64
            | DataType::Timestamp(TimeUnit::Microsecond, _)
            | DataType::Time64(TimeUnit::Nanosecond)
            | DataType::Duration(TimeUnit::Microsecond) => Values::Bits64(Vec::new()),
            DataType::Decimal128(precision, _) if *precision <= MAX_LONG_DIGITS => Values::NarrowDecimal(Vec::new()),
            DataType::Decimal128(_, _) => Values::WideDecimal(Vec::new()),
            DataType::Binary => Values::Bytes { offsets: vec![0], bytes: Vec::new(), last: 0 },
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|field| Self::try_new(field.data_type()));
                Values::Struct(columns.collect::<Result<_>>()?)
            }
            DataType::List(item) => {
                Values::List { offsets: vec![0], items: Box::new(Self::try_new(item.data_type())?) }
            }
            DataType::Map(entries, _) => {
                let (key, value) = entry_fields(entries)?;
                let keys = Box::new(Self::try_new(key.data_type())?);
                Values::Map { offsets: vec![0], keys, values: Box::new(Self::try_new(value.data_type())?) }
            }
            other => return Err(SparkError::Unsupported(format!("rows with type {other}"))),
        };
        Ok(Self { data_type: data_type.clone(), nulls: NullBufferBuilder::new(0), values })
    }

    /// Bytes of the fields of structs, a value of each.
    pub(super) fn expanded_width(&self) -> usize {
        let field = |column: &Self| match &column.values {
            Values::Struct(_) => column.expanded_width(),
            Values::Null(_) | Values::Boolean(_) => 0,
            Values::Bits8(_) => 1,
            Values::Bits16(_) => 2,
            Values::Bits32(_) | Values::Bytes { .. } | Values::List { .. } | Values::Map { .. } => 4,
            Values::Bits64(_) => 8,
            Values::NarrowDecimal(_) | Values::WideDecimal(_) => 16,
        };
        match &self.values {
            Values::Struct(columns) => columns.iter().map(field).sum(),
            _ => 0,
        }
    }

    /// Makes room for `rows` more values, as far as their size is known.
    pub(super) fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Null(_) | Values::Struct(_) => {}
            Values::Boolean(values) => values.reserve(rows),
            Values::Bits8(values) => values.reserve(rows),
            Values::Bits16(values) => values.reserve(rows),
            Values::Bits32(values) => values.reserve(rows),
            Values::Bits64(values) => values.reserve(rows),
            Values::NarrowDecimal(values) | Values::WideDecimal(values) => values.reserve(rows),
            Values::Bytes { offsets, bytes, last } => {
                offsets.reserve(rows);
                bytes.reserve(*last);
            }
            Values::List { offsets, .. } | Values::Map { offsets, .. } => offsets.reserve(rows),
        }
    }

    /// Appends the values of `slots`.
    fn append<'a>(&mut self, slots: &impl Slots<'a>) -> Result<()> {
        let nulls = &mut self.nulls;
        match &mut self.values {
            Values::Null(count) => {
                *count += slots.count();
                Ok(())
            }
            Values::Boolean(values) => {
                values.reserve(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    values.append(match slot {
                        Some(slot) => slot.fixed::<1>()? != [0],
                        None => false,
                    });
                    Ok(())
                })
            }
            Values::Bits8(values) => slots.append_to(nulls, values, u8::from_ne_bytes),
            Values::Bits16(values) => slots.append_to(nulls, values, u16::from_ne_bytes),
            Values::Bits32(values) => slots.append_to(nulls, values, u32::from_ne_bytes),
            Values::Bits64(values) => slots.append_to(nulls, values, u64::from_ne_bytes),
            Values::NarrowDecimal(values) => {
                slots.append_to(nulls, values, |bytes: [u8; 8]| i128::from(i64::from_ne_bytes(bytes)))
            }
            Values::WideDecimal(values) => {
                values.reserve(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    values.push(match slot {
                        Some(slot) => wide_decimal(slot.variable()?)?,
                        None => 0,
                    });
                    Ok(())
                })
            }
            Values::Bytes { offsets, bytes, .. } => {
                offsets.reserve(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    if let Some(slot) = slot {
                        bytes.extend_from_slice(slot.variable()?);
                    }
                    offsets.push(offset(bytes.len())?);
                    Ok(())
                })
            }
            Values::Struct(columns) => {
                let width = columns.len();
                let mut rows: Vec<Option<UnsafeRow<'a>>> = Vec::with_capacity(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    rows.push(match slot {
                        Some(slot) => Some(UnsafeRow::try_new(slot.variable()?, width)?),
                        None => None,
                    });
                    Ok(())
                })?;
                if let Some(rows) = rows.iter().copied().collect::<Option<Vec<_>>>() {
                    return append_rows(columns, &rows);
                }
                for (field, column) in columns.iter_mut().enumerate() {
                    column.append(&StructSlots { rows: &rows, field })?;
                }
                Ok(())
            }
            Values::List { offsets, items } => {
                let width = element_width(&items.data_type);
                let mut arrays: Vec<UnsafeArray<'a>> = Vec::with_capacity(slots.count());
                offsets.reserve(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    let mut end = last(offsets);
                    if let Some(slot) = slot {
                        let array = UnsafeArray::try_new(slot.variable()?, width)?;
                        end += array.count;
                        arrays.push(array);
                    }
                    offsets.push(offset(end)?);
                    Ok(())
                })?;
                items.append(&ElementSlots { arrays: &arrays, width })
            }
            Values::Map { offsets, keys, values } => {
                let (key_width, value_width) = (element_width(&keys.data_type), element_width(&values.data_type));
                let mut key_arrays: Vec<UnsafeArray<'a>> = Vec::with_capacity(slots.count());
                let mut value_arrays: Vec<UnsafeArray<'a>> = Vec::with_capacity(slots.count());
                offsets.reserve(slots.count());
                slots.each(&mut |slot| {
                    nulls.append(slot.is_some());
                    let mut end = last(offsets);
                    if let Some(slot) = slot {
                        let (key_bytes, value_bytes) = split_map(slot.variable()?)?;
                        let key_array = UnsafeArray::try_new(key_bytes, key_width)?;
                        let value_array = UnsafeArray::try_new(value_bytes, value_width)?;
                        if key_array.count != value_array.count {
                            let (keys, values) = (key_array.count, value_array.count);
                            return Err(malformed(format!("a map of {keys} keys and {values} values")));
                        }
                        end += key_array.count;
                        key_arrays.push(key_array);
                        value_arrays.push(value_array);
                    }
                    offsets.push(offset(end)?);
                    Ok(())
                })?;
                keys.append(&ElementSlots { arrays: &key_arrays, width: key_width })?;
                values.append(&ElementSlots { arrays: &value_arrays, width: value_width })
            }
        }
    }

    /// The column as an array; an empty one remains.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        const ACTION: &str = "make a column of rows";
        let length = self.nulls.len();
        let nulls = self.nulls.finish();
        let data_type = &self.data_type;
        Ok(match &mut self.values {
            Values::Null(count) => Arc::new(NullArray::new(std::mem::take(count))),
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Bits8(values) => fixed_array(data_type, values, nulls)?,
            Values::Bits16(values) => fixed_array(data_type, values, nulls)?,
            Values::Bits32(values) => fixed_array(data_type, values, nulls)?,
            Values::Bits64(values) => fixed_array(data_type, values, nulls)?,
            Values::NarrowDecimal(values) | Values::WideDecimal(values) => fixed_array(data_type, values, nulls)?,
            Values::Bytes { offsets, bytes, last } => {
                *last = bytes.len();
                let bytes = Buffer::from_vec(std::mem::take(bytes));
                Arc::new(BinaryArray::try_new(take_offsets(offsets), bytes, nulls).context(ACTION)?)
            }
            Values::Struct(columns) => {
                let DataType::Struct(fields) = data_type else { return Err(changed(data_type)) };
                let arrays = columns.iter_mut().map(Self::finish).collect::<Result<_>>()?;
                let fields = fields.clone();
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, length).context(ACTION)?)
            }
            Values::List { offsets, items } => {
                let DataType::List(item) = data_type else { return Err(changed(data_type)) };
                let items = items.finish()?;
                Arc::new(ListArray::try_new(Arc::clone(item), take_offsets(offsets), items, nulls).context(ACTION)?)
            }
            Values::Map { offsets, keys, values } => {
                let DataType::Map(entries, sorted) = data_type else { return Err(changed(data_type)) };
                let DataType::Struct(fields) = entries.data_type() else { return Err(changed(data_type)) };
                let arrays = vec![keys.finish()?, values.finish()?];
                let pairs = StructArray::try_new(fields.clone(), arrays, None).context(ACTION)?;
                let offsets = take_offsets(offsets);
                Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *sorted).context(ACTION)?)
            }
        })
    }
}

/// Appends rows that have a field for each column.
pub(super) fn append_rows(columns: &mut [Column], rows: &[UnsafeRow<'_>]) -> Result<()> {
    let mut null_words = vec![0; columns.len().div_ceil(64)];
    for row in rows {
        for (any, word) in null_words.iter_mut().zip(row.null_words) {
            *any |= u64::from_ne_bytes(*word);
        }
    }
    for (field, column) in columns.iter_mut().enumerate() {
        let has_nulls = is_set(null_words[field / 64], field % 64);
        column.append(&RowSlots { rows, field, has_nulls })?;
    }
    Ok(())
}

fn fixed_array<T: ArrowNativeType>(
    data_type: &DataType,
    values: &mut Vec<T>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let values = std::mem::take(values);
    let data = ArrayData::builder(data_type.clone())
        .len(values.len())
        .add_buffer(Buffer::from_vec(values))
        .nulls(nulls)
        .build();
    Ok(make_array(data.context("make a column of rows")?))
}

fn last(offsets: &[i32]) -> usize {
    // Offsets start with 0 and never fall.
    offsets.last().map_or(0, |offset| *offset as usize)
}

fn offset(position: usize) -> Result<i32> {
    i32::try_from(position).map_err(|_| malformed("the rows of a batch have more than 2 GiB in one column"))
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    // Starts with 0 and never falls, as `OffsetBuffer` demands.
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

fn changed(data_type: &DataType) -> SparkError {
    SparkError::Invalid(format!("a column of type {data_type} is filled as another"))
}
