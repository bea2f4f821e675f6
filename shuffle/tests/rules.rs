// SPDX-License-Identifier: Apache-2.0
//! The rules that the crate's documentation states, one by one.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow::datatypes::{Int64Type, Schema};
use ballista_core::config::Compression;
use ballista_core::{ErrorClass, TaskId};
use ballista_shuffle::*;
use bytes::Bytes;
use common::*;
use rand::RngExt;

fn numbers(rows: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef)]).unwrap()
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_dropped_writer_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.arrow");
    let batch = numbers(100_000);
    let mut writer = ShuffleFileWriter::create(&path, batch.schema(), identity(2), Compression::None).unwrap();
    writer.write(0, &batch).unwrap();
    assert_eq!(files_in(directory.path()), 1);
    drop(writer);
    assert_eq!(files_in(directory.path()), 0);

    let writer = ShuffleFileWriter::create(&path, batch.schema(), identity(2), Compression::None).unwrap();
    writer.finish().unwrap();
    assert_eq!(files_in(directory.path()), 1);
    assert_eq!(ShuffleFile::open(&path, &identity(2)).unwrap().rows(1), 0);
}

#[test]
fn partitions_are_written_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.arrow");
    let batch = numbers(3);
    let mut writer = ShuffleFileWriter::create(&path, batch.schema(), identity(4), Compression::Lz4).unwrap();
    writer.write(2, &batch).unwrap();
    writer.write(2, &batch).unwrap();
    assert!(matches!(writer.write(1, &batch), Err(ShuffleError::Invalid(_))));
    assert!(matches!(writer.write(4, &batch), Err(ShuffleError::Invalid(_))));
    assert!(writer.write(3, &random_batch(&mut rng(1), &random_schema(&mut rng(1), true), 1)).is_err());
}

#[test]
fn the_output_of_another_attempt_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.arrow");
    ShuffleFileWriter::create(&path, numbers(1).schema(), identity(2), Compression::Lz4).unwrap().finish().unwrap();
    for change in [
        |i: &mut FileIdentity| i.task.attempt += 1,
        |i: &mut FileIdentity| i.task.stage_attempt += 1,
        |i: &mut FileIdentity| i.task.task = TaskId(99),
        |i: &mut FileIdentity| i.partitions += 1,
    ] {
        let mut other = identity(2);
        change(&mut other);
        let error = ShuffleFile::open(&path, &other).unwrap_err();
        assert!(matches!(error, ShuffleError::IdentityMismatch { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Fetch);
    }
    let error = ShuffleFile::open(&directory.path().join("none"), &identity(2)).unwrap_err();
    assert!(matches!(error, ShuffleError::Missing { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Fetch);
}

#[test]
fn a_file_read_with_another_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.arrow");
    ShuffleFileWriter::create(&path, numbers(1).schema(), identity(2), Compression::Lz4).unwrap().finish().unwrap();
    let file = ShuffleFile::open(&path, &identity(2)).unwrap();
    assert!(matches!(file.read(0, Arc::new(Schema::empty())), Err(ShuffleError::Invalid(_))));
    assert!(matches!(file.read(2, numbers(1).schema()), Err(ShuffleError::Invalid(_))));
}

#[test]
fn small_batches_become_one_block_and_large_ones_several() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.arrow");
    let large = numbers(1 << 20);
    let mut writer = ShuffleFileWriter::create(&path, large.schema(), identity(2), Compression::None).unwrap();
    for start in 0..1000 {
        writer.write(0, &large.slice(start * 10, 10)).unwrap();
    }
    writer.write(1, &large).unwrap();
    let index = writer.finish().unwrap();
    assert_eq!(index.blocks(0).len(), 1);
    assert_eq!(index.blocks(1).len(), 8);
    assert!(index.blocks(1).iter().all(|block| block.body_len == 1 << 20));
    let file = ShuffleFile::open(&path, &identity(2)).unwrap();
    let all: Vec<(usize, Block)> = file.blocks(0..2).map(|block| block.unwrap()).collect();
    assert_eq!(all.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [0, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert!(all.iter().all(|(_, block)| block_crc(&block.header, &block.body) == block.crc));
    assert_eq!(file.blocks(1..2).count(), 8);
}

#[test]
fn uncompressed_blocks_are_decoded_without_a_copy() {
    let batch = numbers(10_000);
    let block = BlockEncoder::try_new(&batch.schema(), Compression::None).unwrap().encode(&batch).unwrap();
    let decoded = BlockDecoder::try_new(batch.schema()).unwrap().decode_block(&block).unwrap();
    let values = decoded.column(0).as_primitive::<Int64Type>().values().as_ptr() as usize;
    let body = block.body.as_ptr() as usize;
    assert!((body..body + block.body.len()).contains(&values));
    assert!(batch_bytes(&decoded) < 85_000);
}

#[test]
fn misaligned_bodies_are_decoded_too() {
    let mut rng = rng(3);
    for _ in 0..50 {
        let schema = random_schema(&mut rng, true);
        let batch = random_batch(&mut rng, &schema, 50);
        let block = BlockEncoder::try_new(&schema, Compression::None).unwrap().encode(&batch).unwrap();
        let shifted = Bytes::from([&[0][..], &block.body].concat()).slice(1..);
        let decoded = BlockDecoder::try_new(schema).unwrap().decode(&block.header, &shifted, block.crc, block.rows);
        assert_eq!(lines(&decoded.unwrap()), lines(&batch));
    }
}

#[test]
fn batches_without_columns_keep_their_rows() {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(1000));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
    let mut encoder = BlockEncoder::try_new(&schema, Compression::Lz4).unwrap();
    let block = encoder.encode(&batch).unwrap();
    assert_eq!((block.rows, block.body.len()), (1000, 0));
    assert_eq!(BlockDecoder::try_new(Arc::clone(&schema)).unwrap().decode_block(&block).unwrap().num_rows(), 1000);
    let mut mover = BatchPartitioner::new(schema, 3, 1 << 20);
    let mut rows = [0; 3];
    let ids: Vec<u32> = (0..1000).map(|row| row % 3).collect();
    let mut sink = |partition: usize, batch: RecordBatch| {
        rows[partition] += batch.num_rows();
        Ok(())
    };
    mover.push(batch, &ids, &mut sink).unwrap();
    mover.flush(&mut sink).unwrap();
    assert_eq!(rows, [334, 333, 333]);
}

#[test]
fn emitted_batches_own_their_memory() {
    let mut rng = rng(5);
    for round in 0..100 {
        let schema = random_schema(&mut rng, true);
        let partitions = if round % 10 == 0 { 1 } else { 20 };
        let parent = random_batch(&mut rng, &schema, 3000);
        let mut mover = BatchPartitioner::new(Arc::clone(&schema), partitions, 1 << 30);
        let mut out: Vec<RecordBatch> = Vec::new();
        let mut sink = |_: usize, batch: RecordBatch| {
            out.push(batch);
            Ok(())
        };
        for start in (0..3000).step_by(500) {
            let ids: Vec<u32> = (0..500).map(|_| rng.random_range(0..partitions as u32)).collect();
            mover.push(parent.slice(start, 500), &ids, &mut sink).unwrap();
        }
        mover.flush(&mut sink).unwrap();
        for batch in &out {
            let (kept, used) = (batch_bytes(batch), used_bytes(batch));
            let allowed = used + used / 2 + 2048 * (1 + batch.num_columns()) * 4;
            assert!(kept <= allowed, "{kept} bytes kept, {used} used, schema {schema}");
        }
        assert_eq!(out.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3000);
    }
}

#[test]
fn a_slice_of_views_does_not_carry_the_text_of_others() {
    let texts = StringViewArray::from_iter_values((0..100_000).map(|i| format!("a text that is not inlined {i}")));
    let batch = RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).unwrap();
    let slice = batch.slice(500, 10);
    assert!(batch_bytes(&slice) > 4_000_000);
    let owned = compact(slice.clone()).unwrap();
    assert!(batch_bytes(&owned) < 2000);
    assert_eq!(lines(&owned), lines(&slice));
    let block = BlockEncoder::try_new(&batch.schema(), Compression::None).unwrap().encode(&slice).unwrap();
    assert!(block.body.len() < 2000);
    // A compact batch is returned as it is.
    let again = compact(owned.clone()).unwrap();
    assert!(again.column(0).as_string_view().views().as_ptr() == owned.column(0).as_string_view().views().as_ptr());
}
