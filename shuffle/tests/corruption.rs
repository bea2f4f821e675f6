// SPDX-License-Identifier: Apache-2.0
//! Damage is found before anything is decoded: any bit flipped, any byte missing.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::SchemaRef;
use ballista_core::ErrorClass;
use ballista_core::config::Compression;
use ballista_shuffle::*;
use common::*;
use rand::RngExt;

const PARTITIONS: usize = 5;

struct Sample {
    _directory: tempfile::TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    schema: SchemaRef,
}

fn sample(compression: Compression) -> Sample {
    let rows = 300;
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 7 != 0).then_some(i * i % 50))));
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter(
        (0..rows).map(|i| (i % 11 != 0).then(|| format!("text number {} of the sample", i % 13))),
    ));
    let batch = RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.arrow");
    let mut writer = ShuffleFileWriter::create(&path, batch.schema(), identity(PARTITIONS), compression).unwrap();
    for partition in [0, 1, 3] {
        let mut encoder = BlockEncoder::try_new(&batch.schema(), compression).unwrap();
        writer.write(partition, &batch.slice(partition * 50, 50)).unwrap();
        writer.write_block(partition, encoder.encode(&batch.slice(partition * 50 + 50, 50)).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    Sample { _directory: directory, path, bytes, schema: batch.schema() }
}

/// Opens and reads everything there is.
fn read_all(path: &Path, schema: &SchemaRef) -> Result<Vec<String>> {
    let file = ShuffleFile::open(path, &identity(PARTITIONS))?;
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        for batch in file.read(partition, Arc::clone(schema))? {
            all.extend(lines(&batch?));
        }
    }
    Ok(all)
}

fn assert_detected(sample: &Sample, damaged: &[u8], what: &str) {
    fs::write(&sample.path, damaged).unwrap();
    match read_all(&sample.path, &sample.schema) {
        Ok(_) => panic!("{what} of {} bytes was not noticed", sample.bytes.len()),
        // An Arrow error would mean that damaged bytes got as far as the decoder.
        Err(error) => assert_eq!(error.class(), ErrorClass::Fetch, "{what}: {error}"),
    }
}

#[test]
fn every_random_bit_flip_is_detected() {
    let mut rng = rng(17);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let sample = sample(compression);
        assert_eq!(read_all(&sample.path, &sample.schema).unwrap().len(), 300);
        for _ in 0..1366 {
            let bit = rng.random_range(0..sample.bytes.len() * 8);
            let mut damaged = sample.bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_detected(&sample, &damaged, &format!("{compression:?}: flip of bit {bit}"));
        }
    }
}

#[test]
fn a_flip_in_every_single_byte_is_detected() {
    let sample = sample(Compression::Lz4);
    for at in 0..sample.bytes.len() {
        let mut damaged = sample.bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_detected(&sample, &damaged, &format!("flip in byte {at}"));
    }
}

#[test]
fn every_truncation_is_detected() {
    let mut rng = rng(18);
    let sample = sample(Compression::Lz4);
    let len = sample.bytes.len();
    let cuts = (0..448).map(|_| rng.random_range(0..len)).chain(0..32).chain(len - 32..len);
    for cut in cuts.collect::<Vec<_>>() {
        assert_detected(&sample, &sample.bytes[..cut], &format!("cut at {cut}"));
    }
}

#[test]
fn missing_and_added_bytes_are_detected() {
    let mut rng = rng(19);
    let sample = sample(Compression::None);
    for _ in 0..200 {
        let at = rng.random_range(0..sample.bytes.len());
        let mut damaged = sample.bytes.clone();
        damaged.remove(at);
        assert_detected(&sample, &damaged, &format!("byte {at} removed"));
        damaged.insert(at, sample.bytes[at]);
        damaged.insert(at, 0);
        assert_detected(&sample, &damaged, &format!("byte inserted at {at}"));
    }
}

#[test]
fn a_missing_or_added_block_is_detected() {
    let sample = sample(Compression::None);
    let index = ShuffleFile::open(&sample.path, &identity(PARTITIONS)).unwrap().index().clone();
    for block in index.all_blocks() {
        let (from, to) = (block.offset as usize, (block.offset + block.stored_len()) as usize);
        let without = [&sample.bytes[..from], &sample.bytes[to..]].concat();
        assert_detected(&sample, &without, &format!("block at {from} removed"));
        let twice = [&sample.bytes[..to], &sample.bytes[from..]].concat();
        assert_detected(&sample, &twice, &format!("block at {from} doubled"));
    }
}

#[test]
fn damage_after_open_is_detected() {
    let sample = sample(Compression::None);
    let file = ShuffleFile::open(&sample.path, &identity(PARTITIONS)).unwrap();
    let entry = file.index().blocks(1)[0];
    for at in [entry.offset, entry.offset + 20, entry.offset + entry.stored_len() - 1] {
        let mut damaged = sample.bytes.clone();
        damaged[at as usize] ^= 4;
        fs::write(&sample.path, &damaged).unwrap();
        let results: Vec<_> = file.read(1, Arc::clone(&sample.schema)).unwrap().collect();
        assert_eq!(results.len(), 1, "the iterator ends at its first error");
        assert_eq!(results[0].as_ref().unwrap_err().class(), ErrorClass::Fetch);
    }
}

#[test]
fn a_damaged_block_is_refused_before_decode() {
    let mut rng = rng(20);
    let schema = random_schema(&mut rng, true);
    let batch = random_batch(&mut rng, &schema, 200);
    let block = BlockEncoder::try_new(&schema, Compression::Lz4).unwrap().encode(&batch).unwrap();
    let mut decoder = BlockDecoder::try_new(Arc::clone(&schema)).unwrap();
    assert_eq!(lines(&decoder.decode_block(&block).unwrap()), lines(&batch));
    for _ in 0..1000 {
        let mut damaged = block.clone();
        let part = if rng.random_bool(0.5) { &mut damaged.header } else { &mut damaged.body };
        let mut bytes = part.to_vec();
        let bit = rng.random_range(0..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        *part = bytes.into();
        assert!(matches!(decoder.decode_block(&damaged), Err(ShuffleError::Corrupt { .. })));
    }
    let error = decoder.decode(&block.header, &block.body, block.crc, block.rows + 1).unwrap_err();
    assert!(matches!(error, ShuffleError::Corrupt { .. }), "{error}");
}
