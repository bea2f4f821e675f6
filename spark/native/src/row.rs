// SPDX-License-Identifier: Apache-2.0
//! Spark's unsafe rows: reading them, and turning many of them into Arrow columns.
//!
//! ```text
//!   UnsafeRow of n fields
//!     ┌ null bits ──────────┬ n slots of 8 bytes ───────────┬ variable part, multiples of 8 bytes ┐
//!     │ ⌈n/64⌉ words        │ value │ value │ offset|length │ …                                   │
//!     └─────────────────────┴───────┴───────┴──────┬────────┴──▲──────────────────────────────────┘
//!                                                  └───────────┘ offset from the start of the row
//!   UnsafeArrayData
//!     ┌ count, 8 bytes ┬ null bits, ⌈count/64⌉ words ┬ elements of the type's width ┬ variable part ┐
//!   UnsafeMapData
//!     ┌ bytes of keys, 8 bytes ┬ keys: an array ┬ values: an array ┐
//! ```
//!
//! * A slot or element holds a fixed-width value in its first bytes, or `offset << 32 | length` of a value in the
//!   variable part, counted from the start of the row or array that the slot belongs to.
//! * Decimals of up to 18 digits are the unscaled long in the slot; wider ones are big-endian two's complement bytes
//!   in the variable part. Their slot may have any content when they are null, so null bits are looked at first.
//! * Everything is in the machine's byte order; nothing needs to be aligned.
//!
//! Strings become [`DataType::Binary`]: Spark lets invalid UTF-8 pass, so must a shuffle. [`carrier_schema`] is what
//! rows are turned into; the declared type returns at the other end, where the column is exported (the layouts of both
//! are the same) or cast for native consumers.
//!
//! Invariants: a row is a borrowed slice of bytes. Whatever these bytes are, reading them gives a value or an error
//! and touches no byte outside the slice. All that is `unsafe` is [`UnsafeRow::from_address`]. Values are appended
//! column by column, so that a type is looked up once per batch and column, at every depth.

mod column;
mod layout;
mod slots;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};

use column::{Column, append_rows};
pub use layout::UnsafeRow;

use crate::error::{ArrowContext, Result, SparkError};

/// Types nested deeper than this are refused, so that reading them cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// Bytes of rows that are read column by column, before the next ones are: they stay in the processor's second cache.
const CHUNK_BYTES: usize = 128 << 10;

/// The schema of the batches that rows of `schema` become: as declared, but strings are binary, and everything may be
/// null (Spark's word for the contrary cannot be trusted), except what Arrow demands of maps.
///
/// Errors for types that a row cannot hold or that are not Spark's, and for nesting deeper than [`MAX_DEPTH`].
pub fn carrier_schema(schema: &Schema) -> Result<SchemaRef> {
    let fields = schema.fields().iter().map(|field| carrier_field(field, true, 0)).collect::<Result<Fields>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

fn carrier_field(field: &FieldRef, nullable: bool, depth: usize) -> Result<FieldRef> {
    Ok(Arc::new(Field::new(field.name(), carrier_type(field.data_type(), depth + 1)?, nullable)))
}

fn carrier_type(data_type: &DataType, depth: usize) -> Result<DataType> {
    if depth > MAX_DEPTH {
        return Err(SparkError::Unsupported(format!("a type nested more than {MAX_DEPTH} deep")));
    }
    Ok(match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, _)
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond, _)
        | DataType::Time64(TimeUnit::Nanosecond)
        | DataType::Duration(TimeUnit::Microsecond)
        | DataType::Interval(IntervalUnit::YearMonth) => data_type.clone(),
        DataType::Utf8 => DataType::Binary,
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| carrier_field(field, true, depth));
            DataType::Struct(fields.collect::<Result<Fields>>()?)
        }
        DataType::List(item) => DataType::List(carrier_field(item, true, depth)?),
        DataType::Map(entries, sorted) => {
            let (key, value) = entry_fields(entries)?;
            let fields = Fields::from(vec![carrier_field(key, false, depth)?, carrier_field(value, true, depth)?]);
            DataType::Map(Arc::new(Field::new(entries.name(), DataType::Struct(fields), false)), *sorted)
        }
        other => return Err(SparkError::Unsupported(format!("rows with type {other}"))),
    })
}

fn entry_fields(entries: &Field) -> Result<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok((&fields[0], &fields[1])),
        other => Err(SparkError::Unsupported(format!("a map with entries of type {other}"))),
    }
}

/// Turns rows into batches, again and again.
#[derive(Debug)]
pub struct RowConverter {
    carrier: SchemaRef,
    columns: Vec<Column>,
    /// See [`Self::expanded_width`].
    expanded_width: usize,
}

impl RowConverter {
    /// A converter of rows of `schema`, Spark's declaration. Errors as [`carrier_schema`].
    pub fn try_new(schema: &Schema) -> Result<Self> {
        let carrier = carrier_schema(schema)?;
        let columns =
            carrier.fields().iter().map(|field| Column::try_new(field.data_type())).collect::<Result<Vec<_>>>()?;
        let expanded_width = columns.iter().map(Column::expanded_width).sum();
        Ok(Self { carrier, columns, expanded_width })
    }

    /// Bytes that a row takes in a batch for fields of structs, also where the struct is null, which is one bit of the row. Not
    /// of structs in arrays and maps: the type does not say how many there are.
    pub fn expanded_width(&self) -> usize {
        self.expanded_width
    }

    /// The schema of the batches.
    pub fn carrier(&self) -> &SchemaRef {
        &self.carrier
    }

    /// Number of top-level fields.
    pub fn num_fields(&self) -> usize {
        self.columns.len()
    }

    /// A batch of these rows. After an error the converter is as new.
    ///
    /// The rows together should stay well below 2 GiB, the limit of Arrow's offsets; beyond it is an error.
    pub fn convert(&mut self, rows: &[UnsafeRow<'_>]) -> Result<RecordBatch> {
        if let Some(row) = rows.iter().find(|row| row.slots.len() != self.columns.len()) {
            let (got, expected) = (row.slots.len(), self.columns.len());
            return Err(SparkError::Invalid(format!("a row of {got} fields for a schema of {expected}")));
        }
        let arrays = match self.fill(rows) {
            Ok(arrays) => arrays,
            Err(error) => {
                self.reset()?;
                return Err(error);
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.carrier), arrays, &options).context("make a batch of rows")
    }

    fn fill(&mut self, rows: &[UnsafeRow<'_>]) -> Result<Vec<ArrayRef>> {
        self.columns.iter_mut().for_each(|column| column.reserve(rows.len()));
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |row: &&UnsafeRow<'_>| {
                bytes += row.bytes.len();
                bytes <= CHUNK_BYTES
            };
            let (chunk, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            append_rows(&mut self.columns, chunk)?;
        }
        self.columns.iter_mut().map(Column::finish).collect()
    }

    fn reset(&mut self) -> Result<()> {
        for (column, field) in self.columns.iter_mut().zip(self.carrier.fields()) {
            *column = Column::try_new(field.data_type())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Value, every_type, every_value, row};

    fn schema_of(types: &[DataType]) -> Schema {
        let fields = types.iter().enumerate();
        Schema::new(
            fields.map(|(i, data_type)| Field::new(format!("c{i}"), data_type.clone(), true)).collect::<Fields>(),
        )
    }

    fn convert(schema: &Schema, rows: &[Vec<u8>]) -> Result<RecordBatch> {
        let mut converter = RowConverter::try_new(schema)?;
        let fields = converter.num_fields();
        // As the writers do: by address. No byte behind a row is ours, so that a memory checker sees one that is read too many.
        let rows: Vec<Box<[u8]>> = rows.iter().map(|row| row.clone().into_boxed_slice()).collect();
        let read = |row: &[u8]| {
            let address = row.as_ptr().expose_provenance() as u64;
            // SAFETY: the rows live until the end of this function, their readers only within it.
            unsafe { UnsafeRow::from_address(address, row.len() as u32, fields) }
        };
        converter.convert(&rows.iter().map(|row| read(row)).collect::<Result<Vec<_>>>()?)
    }

    fn one(data_type: DataType, values: Vec<Value>) -> ArrayRef {
        let rows: Vec<Vec<u8>> = values.into_iter().map(|value| row(&[value])).collect();
        Arc::clone(convert(&schema_of(&[data_type]), &rows).unwrap().column(0))
    }

    #[test]
    fn fixed_widths_are_read_from_their_slots() {
        let bools = one(DataType::Boolean, vec![Value::Bool(true), Value::Null, Value::Bool(false)]);
        assert_eq!(bools.as_boolean().iter().collect::<Vec<_>>(), [Some(true), None, Some(false)]);
        let bytes = one(DataType::Int8, vec![Value::Int8(-1), Value::Null, Value::Int8(127)]);
        assert_eq!(bytes.as_primitive::<Int8Type>().iter().collect::<Vec<_>>(), [Some(-1), None, Some(127)]);
        let shorts = one(DataType::Int16, vec![Value::Int16(i16::MIN)]);
        assert_eq!(shorts.as_primitive::<Int16Type>().value(0), i16::MIN);
        let ints = one(DataType::Int32, vec![Value::Int32(-7), Value::Null]);
        assert_eq!(ints.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(-7), None]);
        let doubles = one(DataType::Float64, vec![Value::Int64((-0.0f64).to_bits() as i64)]);
        assert!(doubles.as_primitive::<Float64Type>().value(0).is_sign_negative());
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(one(zoned.clone(), vec![Value::Int64(5)]).data_type(), &zoned);
    }

    #[test]
    fn decimals_of_both_widths() {
        let narrow = one(DataType::Decimal128(18, 2), vec![Value::Int64(-12_345), Value::Null]);
        assert_eq!(narrow.as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>(), [Some(-12_345), None]);
        let values = [0, 1, -1, 127, 128, -128, -129, 10i128.pow(37), -(10i128.pow(38) - 1), i128::MIN];
        let wide = one(DataType::Decimal128(38, 10), values.iter().map(|value| Value::Wide(*value)).collect());
        assert_eq!(wide.as_primitive::<Decimal128Type>().values(), &values);
        for bad in [vec![], vec![0; 17]] {
            let rows = [row(&[Value::Bytes(bad)])];
            let error = convert(&schema_of(&[DataType::Decimal128(38, 10)]), &rows).unwrap_err();
            assert!(matches!(error, SparkError::MalformedRow(_)), "{error}");
        }
    }

    #[test]
    fn strings_keep_bytes_that_are_no_utf8() {
        let texts: Vec<&[u8]> = vec![b"", b"a", b"12345678", b"\xff\xfe\x80", "天地".as_bytes()];
        let column = one(DataType::Utf8, texts.iter().map(|text| Value::Bytes(text.to_vec())).collect());
        assert_eq!(column.as_binary::<i32>().iter().flatten().collect::<Vec<_>>(), texts);
    }

    #[test]
    fn nested_columns() {
        let item = Arc::new(Field::new("element", DataType::Int16, true));
        let list = one(
            DataType::List(item),
            vec![
                Value::List(2, vec![Value::Int16(1), Value::Null, Value::Int16(3)]),
                Value::Null,
                Value::List(2, vec![]),
                Value::List(2, (0..130).map(Value::Int16).collect()),
            ],
        );
        let list = list.as_list::<i32>();
        assert_eq!(list.value_offsets(), [0, 3, 3, 3, 133]);
        assert!(list.is_null(1) && list.is_valid(2));
        assert_eq!(list.value(0).as_primitive::<Int16Type>().iter().collect::<Vec<_>>(), [Some(1), None, Some(3)]);
        assert_eq!(list.value(3).as_primitive::<Int16Type>().value(129), 129);

        let entries =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)]);
        let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
        let map = one(
            DataType::Map(entries, false),
            vec![
                Value::Map(
                    Box::new(Value::List(8, vec![Value::Bytes(b"k".to_vec()), Value::Bytes(b"long key".to_vec())])),
                    Box::new(Value::List(8, vec![Value::Int64(4), Value::Null])),
                ),
                Value::Null,
            ],
        );
        let map = map.as_map();
        assert_eq!(map.value_offsets(), [0, 2, 2]);
        assert_eq!(map.keys().as_binary::<i32>().value(1), b"long key");
        assert_eq!(map.values().as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(4), None]);

        let fields = Fields::from(vec![
            Field::new("a", DataType::Int32, false),
            Field::new("b", DataType::Struct(vec![Field::new("c", DataType::Utf8, true)].into()), true),
        ]);
        let inner = |text: &[u8]| Value::Struct(vec![Value::Bytes(text.to_vec())]);
        let nested = one(
            DataType::Struct(fields),
            vec![
                Value::Struct(vec![Value::Int32(1), inner(b"x")]),
                Value::Null,
                Value::Struct(vec![Value::Int32(2), Value::Null]),
            ],
        );
        let nested = nested.as_struct();
        assert!(nested.is_null(1));
        assert_eq!(nested.column(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None, Some(2)]);
        assert!(nested.column(1).as_struct().is_null(2));
        assert_eq!(nested.column(1).as_struct().column(0).as_binary::<i32>().value(0), b"x");
    }

    #[test]
    fn rows_of_a_hundred_fields_have_two_words_of_null_bits() {
        let types = vec![DataType::Int64; 100];
        let values: Vec<Value> = (0..100).map(|i| if i % 3 == 0 { Value::Null } else { Value::Int64(i) }).collect();
        let batch = convert(&schema_of(&types), &[row(&values)]).unwrap();
        for (i, column) in batch.columns().iter().enumerate() {
            assert_eq!(column.is_null(0), i % 3 == 0, "field {i}");
            assert!(column.is_null(0) || column.as_primitive::<Int64Type>().value(0) == i as i64);
        }
    }

    #[test]
    fn rows_without_fields_and_batches_without_rows() {
        let batch = convert(&Schema::empty(), &[vec![], vec![], vec![]]).unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (3, 0));
        let batch = convert(&schema_of(&every_type()), &[]).unwrap();
        assert_eq!(batch.num_rows(), 0);
    }

    #[test]
    fn a_converter_is_as_new_after_each_batch_and_each_error() {
        let schema = schema_of(&every_type());
        let fields = schema.fields().len();
        let mut converter = RowConverter::try_new(&schema).unwrap();
        let good = row(&every_value(1));
        let first = converter.convert(&[UnsafeRow::try_new(&good, fields).unwrap()]).unwrap();
        let cut = &good[..good.len() - 8];
        let both = [UnsafeRow::try_new(&good, fields).unwrap(), UnsafeRow::try_new(cut, fields).unwrap()];
        assert!(matches!(converter.convert(&both), Err(SparkError::MalformedRow(_))));
        let again = converter.convert(&[UnsafeRow::try_new(&good, fields).unwrap()]).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn a_row_cut_anywhere_is_an_error() {
        let schema = schema_of(&every_type());
        let whole = row(&every_value(7));
        convert(&schema, std::slice::from_ref(&whole)).unwrap();
        for length in 0..whole.len() {
            let error = convert(&schema, &[whole[..length].to_vec()]).unwrap_err();
            assert!(matches!(error, SparkError::MalformedRow(_)), "{length} bytes: {error}");
        }
    }

    #[test]
    fn addresses_are_read_and_null_refused() {
        let bytes = row(&[Value::Int64(3)]);
        let address = bytes.as_ptr().expose_provenance() as u64;
        // SAFETY: `bytes` outlives the row.
        let read = unsafe { UnsafeRow::from_address(address, bytes.len() as u32, 1) }.unwrap();
        let mut converter = RowConverter::try_new(&schema_of(&[DataType::Int64])).unwrap();
        assert_eq!(converter.convert(&[read]).unwrap().column(0).as_primitive::<Int64Type>().value(0), 3);
        // SAFETY: address 0 is refused, and no byte of an empty row is read.
        unsafe {
            assert!(UnsafeRow::from_address(0, 16, 1).is_err());
            assert!(UnsafeRow::from_address(0, 0, 0).is_ok());
        }
    }

    #[test]
    fn types_that_are_not_sparks_are_refused() {
        for data_type in [DataType::UInt32, DataType::Timestamp(TimeUnit::Second, None), DataType::LargeUtf8] {
            assert!(matches!(carrier_schema(&schema_of(&[data_type])), Err(SparkError::Unsupported(_))));
        }
        let mut deep = DataType::Int32;
        for _ in 0..100 {
            deep = DataType::List(Arc::new(Field::new("element", deep, true)));
        }
        assert!(matches!(carrier_schema(&schema_of(&[deep])), Err(SparkError::Unsupported(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Under Miri or `cargo xtask memcheck` this is the proof that no byte outside the row is touched.
        #[test]
        fn whatever_the_bytes_are_reading_ends_well(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
            let mut bytes = row(&every_value(3));
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = convert(&schema_of(&every_type()), &[bytes]);
        }

        #[test]
        fn so_it_does_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let _ = convert(&schema_of(&every_type()), &[bytes]);
        }
    }
}
