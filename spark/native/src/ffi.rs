// SPDX-License-Identifier: Apache-2.0
//! Arrow's C interfaces, in both directions.
//!
//! | direction    | interface | unit                                   | who frees                                        |
//! |--------------|-----------|----------------------------------------|--------------------------------------------------|
//! | JVM → native | C Stream  | one stream per partition and input     | dropping the reader closes the Java side; dropping the last array of a batch frees its buffers |
//! | native → JVM | C Data    | one struct array per batch, the schema once per iterator | the JVM frees the structs it allocated; closing its vectors calls back and frees our buffers |
//!
//! What is exported is plain: no dictionaries, no views, no offsets other than 0, because Spark's `ArrowColumnVector`
//! knows neither of the first two and Arrow's Java importer is wrong about the third.
//!
//! Strings are exported with the declared type even where the array is [`DataType::Binary`]: both have the same
//! buffers, Java checks nothing, and bytes that are no UTF-8 stay what they were in Spark. They are never a string on
//! the Rust side.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, StructArray, make_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};

use crate::error::{ArrowContext, Result, SparkError};

/// Takes over the stream whose struct is at `address`.
///
/// # Safety
///
/// At `address` is an initialised `ArrowArrayStream`, aligned to 8, that nobody else uses any more. Its memory may be
/// freed as soon as this returns.
pub unsafe fn import_stream(address: u64) -> Result<ArrowArrayStreamReader> {
    let stream = pointer::<FFI_ArrowArrayStream>(address)?;
    // SAFETY: the caller's promise. Later calls go to the callbacks of the copy that is made here.
    unsafe { ArrowArrayStreamReader::from_raw(stream) }.context("import a stream")
}

/// Writes `schema`, as the type of one struct, to the `ArrowSchema` at `address`.
///
/// # Safety
///
/// The memory of an `ArrowSchema` at `address` is writable; what it held is overwritten without being released.
pub unsafe fn export_schema(schema: &Schema, address: u64) -> Result<()> {
    let target = pointer::<FFI_ArrowSchema>(address)?;
    let exported = FFI_ArrowSchema::try_from(plain_schema(schema).as_ref()).context("export a schema")?;
    // SAFETY: the caller's promise. The reader of the struct releases it.
    unsafe { target.write_unaligned(exported) };
    Ok(())
}

/// Writes the columns of `batch`, as one struct array, to the `ArrowArray` at `address`.
///
/// # Safety
///
/// The memory of an `ArrowArray` at `address` is writable; what it held is overwritten without being released.
pub unsafe fn export_batch(batch: &RecordBatch, address: u64) -> Result<()> {
    let target = pointer::<FFI_ArrowArray>(address)?;
    let columns = batch.columns().iter().map(|column| at_offset_zero(&plain(column)?)).collect::<Result<Vec<_>>>()?;
    let fields: Fields = plain_schema(&batch.schema()).fields().clone();
    let whole = StructArray::try_new_with_length(fields, columns, None, batch.num_rows()).context("export a batch")?;
    let exported = FFI_ArrowArray::new(&whole.to_data());
    // SAFETY: the caller's promise. The reader of the struct releases it.
    unsafe { target.write_unaligned(exported) };
    Ok(())
}

fn pointer<T>(address: u64) -> Result<*mut T> {
    match usize::try_from(address) {
        Ok(0) | Err(_) => Err(SparkError::Invalid(format!("address {address:#x} of a C struct"))),
        Ok(address) => Ok(std::ptr::with_exposed_provenance_mut(address)),
    }
}

/// The schema of what [`export_batch`] exports: without dictionaries and views.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(plain_field).collect::<Fields>()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type()), field.is_nullable()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

fn plain(column: &ArrayRef) -> Result<ArrayRef> {
    let wanted = plain_type(column.data_type());
    if wanted == *column.data_type() {
        return Ok(Arc::clone(column));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, &wanted, &strict).context("unpack a column")
}

/// The same values in arrays that start at the start of their buffers, at every depth.
fn at_offset_zero(column: &ArrayRef) -> Result<ArrayRef> {
    fn has_offset(data: &ArrayData) -> bool {
        // Offsets of null bits alone are taken care of by the export itself.
        data.offset() != 0 || data.child_data().iter().any(has_offset)
    }
    let data = column.to_data();
    if !has_offset(&data) {
        return Ok(Arc::clone(column));
    }
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len()).context("copy a slice")?;
    Ok(make_array(copy.freeze()))
}

/// `batch` with the types of `schema`, cast where they differ; names and nullability are those of `schema`.
///
/// Errors if the number of columns differs, or a value cannot be cast.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        let (got, expected) = (batch.num_columns(), schema.fields().len());
        return Err(SparkError::Invalid(format!("a batch of {got} columns, {expected} were declared")));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &strict).context("cast a column to its declared type")
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).context("conform a batch")
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, BinaryArray, DictionaryArray, Int32Array, RecordBatchIterator, StringViewArray};
    use arrow::datatypes::{Int8Type, Int32Type};
    use arrow::ffi::from_ffi;

    use super::*;

    fn address<T>(target: &mut T) -> u64 {
        std::ptr::from_mut(target).expose_provenance() as u64
    }

    fn round_trip(batch: &RecordBatch, declared: &Schema) -> StructArray {
        let (mut array, mut schema) = (FFI_ArrowArray::empty(), FFI_ArrowSchema::empty());
        // SAFETY: both structs are there, and empty.
        let data = unsafe {
            export_batch(batch, address(&mut array)).unwrap();
            export_schema(declared, address(&mut schema)).unwrap();
            from_ffi(array, &schema).unwrap()
        };
        StructArray::from(data)
    }

    #[test]
    fn slices_dictionaries_and_views_are_exported_plain() {
        let dictionary: DictionaryArray<Int8Type> = ["x", "a", "b", "a"].into_iter().collect();
        let views = StringViewArray::from(vec![Some("x"), None, Some("a text of more than 12 bytes"), Some("")]);
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int32Array::from(vec![Some(0), Some(1), None, Some(3)])) as ArrayRef),
            ("d", Arc::new(dictionary) as ArrayRef),
            ("v", Arc::new(views) as ArrayRef),
        ])
        .unwrap()
        .slice(1, 3);
        let back = round_trip(&batch, &batch.schema());
        assert_eq!(back.len(), 3);
        assert_eq!(back.column(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None, Some(3)]);
        assert_eq!(back.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b", "a"]);
        assert_eq!(back.column(2).as_string::<i32>().value(1), "a text of more than 12 bytes");
        assert!(back.columns().iter().all(|column| column.offset() == 0));
    }

    #[test]
    fn bytes_can_be_exported_as_a_string() {
        let batch =
            RecordBatch::try_from_iter([("s", Arc::new(BinaryArray::from(vec![&b"abc"[..], b""])) as ArrayRef)]);
        let declared = Schema::new(vec![Field::new("s", DataType::Utf8, true)]);
        assert_eq!(round_trip(&batch.unwrap(), &declared).column(0).as_string::<i32>().value(0), "abc");
    }

    #[test]
    fn batches_without_columns_keep_their_rows() {
        let options = RecordBatchOptions::new().with_row_count(Some(9));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        assert_eq!(round_trip(&batch, &Schema::empty()).len(), 9);
    }

    #[test]
    fn streams_come_in_and_null_is_refused() {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
        let schema = batch.schema();
        let batches = vec![Ok(batch.clone()), Ok(batch.clone())];
        let mut stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches, schema)));
        // SAFETY: the struct is there; it is empty afterwards. Address 0 is refused.
        let reader = unsafe {
            assert!(import_stream(0).is_err());
            import_stream(address(&mut stream)).unwrap()
        };
        assert!(stream.release.is_none());
        assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), [batch.clone(), batch]);
    }

    #[test]
    fn drifted_types_are_cast_back() {
        let batch = RecordBatch::try_from_iter([("x", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
        let declared = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        assert_eq!(conform(&batch, &declared).unwrap().schema(), declared);
        assert!(conform(&batch, &Arc::new(Schema::empty())).is_err());
    }
}
