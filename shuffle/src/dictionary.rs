// SPDX-License-Identifier: Apache-2.0
//! Dictionaries do not cross an exchange: they are hydrated on the way out and rebuilt on the way in.
//!
//! In the Arrow IPC format a dictionary is a message of its own, before the batches that use it. A served run would
//! have to lead with it, a bucket of 80 rows would pay for thousands of values, and each producer has its own. A block
//! that stands alone is worth more, and body compression finds the repetitions that the dictionary had taken out.
//!
//! ```text
//!   schema          Dictionary(Int32, Utf8)   List<Dictionary(Int8, Utf8)>
//!   wire_schema     Utf8                      List<Utf8>
//! ```
//!
//! Names, nullability and metadata of fields and schema are kept. The rebuilt dictionary holds each value once, in
//! order of appearance; a null value of the old dictionary is a null key of the new one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, PrimitiveArray, RecordBatch, RecordBatchOptions, UInt64Array, make_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{ArrowNativeType, DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type, UnionFields};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};

use crate::error::{ArrowContext, Result, ShuffleError};

/// The schema of the blocks that carry batches of `schema`: the same, with every dictionary replaced by its values.
pub fn wire_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(wire_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The type of the values of `data_type` on the wire.
pub fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::List(field) => DataType::List(wire_field(field)),
        DataType::LargeList(field) => DataType::LargeList(wire_field(field)),
        DataType::ListView(field) => DataType::ListView(wire_field(field)),
        DataType::LargeListView(field) => DataType::LargeListView(wire_field(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(wire_field(field), *size),
        DataType::Map(field, sorted) => DataType::Map(wire_field(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect()),
        DataType::Union(fields, mode) => {
            DataType::Union(fields.iter().map(|(id, field)| (id, wire_field(field))).collect::<UnionFields>(), *mode)
        }
        DataType::RunEndEncoded(run_ends, values) => DataType::RunEndEncoded(Arc::clone(run_ends), wire_field(values)),
        other => other.clone(),
    }
}

fn wire_field(field: &FieldRef) -> FieldRef {
    if !contains_dictionary(field.data_type()) {
        return Arc::clone(field);
    }
    let wire = Field::new(field.name(), wire_type(field.data_type()), field.is_nullable());
    Arc::new(wire.with_metadata(field.metadata().clone()))
}

/// Whether a dictionary occurs anywhere in `data_type`.
pub(crate) fn contains_dictionary(data_type: &DataType) -> bool {
    any_type(data_type, &|inner| matches!(inner, DataType::Dictionary(_, _)))
}

/// Whether rebuilt dictionaries of this type could run out of keys when batches are put together.
pub(crate) fn contains_narrow_dictionary(data_type: &DataType) -> bool {
    any_type(data_type, &|inner| match inner {
        DataType::Dictionary(keys, _) => keys.primitive_width().is_some_and(|width| width <= 2),
        _ => false,
    })
}

/// Whether `predicate` holds for `data_type` or any type within it.
pub(crate) fn any_type(data_type: &DataType, predicate: &dyn Fn(&DataType) -> bool) -> bool {
    let any = |field: &FieldRef| any_type(field.data_type(), predicate);
    predicate(data_type)
        || match data_type {
            DataType::Dictionary(_, values) => any_type(values, predicate),
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => any(field),
            DataType::Struct(fields) => fields.iter().any(any),
            DataType::Union(fields, _) => fields.iter().any(|(_, field)| any(field)),
            DataType::RunEndEncoded(_, values) => any(values),
            _ => false,
        }
}

/// Replaces every dictionary in `array` by its values.
pub(crate) fn hydrate(array: &ArrayRef) -> Result<ArrayRef> {
    if !contains_dictionary(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    if let DataType::Dictionary(_, _) = array.data_type() {
        let dictionary = array.as_any_dictionary();
        let values = take(dictionary.values().as_ref(), dictionary.keys(), None).context("hydrate a dictionary")?;
        return hydrate(&values);
    }
    let target = wire_type(array.data_type());
    replace_children(array.to_data(), target, |child, _| Ok(hydrate(&make_array(child))?.to_data()))
}

/// The inverse of [`hydrate`]: makes an array of type `target` from one of type `wire_type(target)`.
pub(crate) fn dehydrate(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    if !contains_dictionary(target) {
        return Ok(Arc::clone(array));
    }
    if let DataType::Dictionary(keys, values) = target {
        return encode_dictionary(&dehydrate(array, values)?, keys, target);
    }
    replace_children(array.to_data(), target.clone(), |child, child_type| {
        Ok(dehydrate(&make_array(child), child_type)?.to_data())
    })
}

/// Replaces every dictionary in `batch`; `wire` is the [`wire_schema`] of its schema.
pub(crate) fn hydrate_batch(batch: &RecordBatch, wire: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(hydrate).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wire), columns, &options).context("hydrate a batch")
}

/// Gives every child of a nested array to `convert` and puts the results under `target`. Children keep their length,
/// so offsets, sizes, validity and type ids stay as they are.
fn replace_children(
    data: ArrayData,
    target: DataType,
    mut convert: impl FnMut(ArrayData, &DataType) -> Result<ArrayData>,
) -> Result<ArrayRef> {
    let child_types: Vec<DataType> = match &target {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field.data_type().clone()],
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type().clone()).collect(),
        DataType::Union(fields, _) => fields.iter().map(|(_, field)| field.data_type().clone()).collect(),
        DataType::RunEndEncoded(run_ends, values) => vec![run_ends.data_type().clone(), values.data_type().clone()],
        other => return Err(ShuffleError::Invalid(format!("type {other} has no children to convert"))),
    };
    let children = data
        .child_data()
        .iter()
        .zip(&child_types)
        .map(|(child, child_type)| convert(child.clone(), child_type))
        .collect::<Result<Vec<_>>>()?;
    let rebuilt =
        data.into_builder().data_type(target).child_data(children).build().context("convert a nested array")?;
    Ok(make_array(rebuilt))
}

/// A dictionary array of type `target` with the values of `array`.
fn encode_dictionary(array: &ArrayRef, keys: &DataType, target: &DataType) -> Result<ArrayRef> {
    const ACTION: &str = "rebuild a dictionary";
    let options = CastOptions { safe: false, ..CastOptions::default() };
    if castable(array.data_type()) {
        return cast_with_options(array, target, &options).context(ACTION);
    }
    // Any other value type: find equal values through the row format.
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())]).context(ACTION)?;
    let rows = converter.convert_columns(std::slice::from_ref(array)).context(ACTION)?;
    let mut seen: HashMap<OwnedRow, u64> = HashMap::new();
    let mut first_rows: Vec<u64> = Vec::new();
    let indices: PrimitiveArray<UInt64Type> = (0..array.len())
        .map(|row| {
            array.is_valid(row).then(|| {
                *seen.entry(rows.row(row).owned()).or_insert_with(|| {
                    first_rows.push(row as u64);
                    first_rows.len() as u64 - 1
                })
            })
        })
        .collect();
    let values = take(array.as_ref(), &UInt64Array::from(first_rows), None).context(ACTION)?;
    let keys = cast_with_options(&indices, keys, &options).context(ACTION)?;
    let data = keys.to_data().into_builder().data_type(target.clone()).add_child_data(values.to_data());
    Ok(make_array(data.build().context(ACTION)?))
}

/// Value types whose cast to a dictionary in Arrow keeps every value.
fn castable(values: &DataType) -> bool {
    matches!(
        values,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Binary
            | DataType::LargeBinary
    )
}

/// Drops the values that no key refers to, and copies the rest. Cost is O(rows log rows) at most, however large the
/// dictionary.
pub(crate) fn collect_dictionary(array: &ArrayRef) -> Result<ArrayRef> {
    const ACTION: &str = "compact a dictionary";
    let DataType::Dictionary(key_type, _) = array.data_type() else {
        return Err(ShuffleError::Invalid(format!("type {} is not a dictionary", array.data_type())));
    };
    let dictionary = array.as_any_dictionary();
    let (values, rows) = (dictionary.values(), array.len());
    if values.is_empty() {
        return Ok(Arc::clone(array));
    }
    let old_keys = dictionary.normalized_keys();
    let is_valid = |row: usize| dictionary.keys().is_valid(row);
    let mut used: Vec<usize> = (0..rows).filter(|&row| is_valid(row)).map(|row| old_keys[row]).collect();
    used.sort_unstable();
    used.dedup();
    let new_keys: PrimitiveArray<UInt64Type> = (0..rows)
        .map(|row| {
            // Every valid key is in `used`, which was made from them.
            is_valid(row).then(|| used.partition_point(|&key| key < old_keys[row]) as u64)
        })
        .collect();
    let used: UInt64Array = used.into_iter().map(u64::from_usize).collect();
    let new_values = take(values.as_ref(), &used, None).context(ACTION)?;
    let keys = cast_with_options(&new_keys, key_type, &CastOptions { safe: false, ..CastOptions::default() })
        .context(ACTION)?;
    let data = keys.to_data().into_builder().data_type(array.data_type().clone()).add_child_data(new_values.to_data());
    data.build().map(make_array).map_err(|source: ArrowError| ShuffleError::Arrow { action: ACTION, source })
}
