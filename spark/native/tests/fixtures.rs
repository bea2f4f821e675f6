// SPDX-License-Identifier: Apache-2.0
//! Rows and hashes that Spark made, against ours. `fixtures/README.md` tells the formats.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use arrow_ipc::reader::StreamReader;
use ballista_spark::block::{BlockWriter, Codec, read_all};
use ballista_spark::row::{RowConverter, UnsafeRow};
use ballista_spark::{config, ffi, murmur3};

const TABLES: [&str; 3] = ["types", "wide", "invalid_utf8"];

/// A table as Spark has it: rows in its layout, and as the batch that its own `ArrowWriter` makes of them.
struct Fixture {
    schema: SchemaRef,
    rows: Vec<Vec<u8>>,
    batch: RecordBatch,
}

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(folder.join(name)).unwrap()
}

impl Fixture {
    fn load(name: &str) -> Self {
        let schema = config::schema(&file(&format!("{name}.schema"))).unwrap();
        let bytes = file(&format!("{name}.rows"));
        let mut rest = bytes.as_slice();
        let mut rows = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (row, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            rows.push(row.to_vec());
            rest = tail;
        }
        let stream = file(&format!("{name}.arrow"));
        let batch = StreamReader::try_new(stream.as_slice(), None).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.num_rows(), rows.len());
        Self { schema, rows, batch }
    }

    fn converted(&self) -> RecordBatch {
        let mut converter = RowConverter::try_new(&self.schema).unwrap();
        // Copies that end where the row ends, and start as rows do in Spark's pages.
        let aligned: Vec<Vec<u64>> = self.rows.iter().map(|row| words(row)).collect();
        let views: Vec<UnsafeRow<'_>> = aligned
            .iter()
            .zip(&self.rows)
            .map(|(words, row)| {
                let address = words.as_ptr().expose_provenance() as u64;
                // SAFETY: `aligned` outlives the views.
                unsafe { UnsafeRow::from_address(address, row.len() as u32, converter.num_fields()) }.unwrap()
            })
            .collect();
        converter.convert(&views).unwrap()
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, rest) = bytes.as_chunks();
    assert!(rest.is_empty(), "rows are whole words");
    words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

/// What the JVM sees of `batch`, whose schema it declares to be `schema`.
fn exported(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let mut array = FFI_ArrowArray::empty();
    // SAFETY: the struct is there and empty; the types differ from the batch's in nothing but names.
    let data = unsafe {
        ffi::export_batch(batch, (&raw mut array).expose_provenance() as u64).unwrap();
        from_ffi_and_data_type(array, DataType::Struct(schema.fields().clone())).unwrap()
    };
    let columns = arrow::array::make_array(data).as_struct().columns().to_vec();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

#[test]
fn rows_become_the_columns_that_spark_makes_of_them() {
    for name in TABLES {
        let fixture = Fixture::load(name);
        let ours = exported(&fixture.converted(), &fixture.schema);
        assert!(ours.num_columns() > 0);
        for (column, field) in fixture.schema.fields().iter().enumerate() {
            let (ours, sparks) = (ours.column(column), fixture.batch.column(column));
            for row in 0..sparks.len() {
                let (ours, sparks) = (ours.slice(row, 1), sparks.slice(row, 1));
                assert_eq!(ours.to_data(), sparks.to_data(), "{name}, {field}, row {row}");
            }
        }
    }
}

#[test]
fn rows_come_back_from_blocks() {
    for name in TABLES {
        let fixture = Fixture::load(name);
        let batch = fixture.converted();
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Snappy] {
            let mut bytes = Vec::new();
            BlockWriter::try_new(&batch.schema(), codec).unwrap().write(&batch, 1 << 20, &mut bytes).unwrap();
            let back = read_all(&batch.schema(), &bytes).unwrap();
            assert_eq!(back, std::slice::from_ref(&batch), "{name}, {codec:?}");
        }
    }
}

#[test]
fn hashes_are_sparks() {
    for name in TABLES {
        let fixture = Fixture::load(name);
        let carried = fixture.converted();
        let text = String::from_utf8(file(&format!("{name}.hashes"))).unwrap();
        let mut checked = 0;
        for line in text.lines().skip(1) {
            let parts: Vec<&str> = line.split('\t').collect();
            let [column, row, _, _, seed, expected] = parts.as_slice() else { panic!("{line}") };
            let row: usize = row.parse().unwrap();
            let seed: i32 = seed.parse().unwrap();
            // As Spark's own writer lays it out, and as it is carried through shuffles.
            for batch in [&fixture.batch, &carried] {
                let columns: Vec<ArrayRef> = match *column {
                    "*" => batch.columns().iter().map(|column| column.slice(row, 1)).collect(),
                    index => vec![batch.column(index.parse().unwrap()).slice(row, 1)],
                };
                let mut hashes = [seed as u32];
                murmur3::hash_columns(&columns, &mut hashes).unwrap();
                assert_eq!(hashes[0] as i32, expected.parse::<i32>().unwrap(), "{name}: {line}");
            }
            checked += 1;
        }
        assert!(checked > 10, "{checked} hashes in {name}");
    }
}
