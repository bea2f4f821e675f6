// SPDX-License-Identifier: Apache-2.0
//! Throughput of the shuffle core on rows like those of TPC-H `lineitem`, in bytes of Arrow data per second and core.
//!
//! `cargo bench -p ballista-shuffle`. Targets: partition and append ≥ 1 GB/s, encode with LZ4 ≥ 500 MB/s.
#![allow(missing_docs, clippy::unwrap_used, clippy::ptr_arg)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
};
use arrow::datatypes::Int64Type;
use ballista_core::config::Compression;
use ballista_shuffle::{
    BatchPartitioner, Block, BlockDecoder, BlockEncoder, HashPartitioner, Partitioner, TARGET_BLOCK_BYTES, used_bytes,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// As in the executor; small buckets are mostly a matter of the allocator.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 1 << 20;
const BATCH_ROWS: usize = 8192;
const BUCKETS: [usize; 3] = [16, 200, 2000];

fn lineitem(rng: &mut StdRng, start: usize, rows: usize) -> RecordBatch {
    const WORDS: [&str; 8] = ["carefully", "final", "deposits", "sleep", "furiously", "ironic", "packages", "along"];
    const MODES: [&str; 7] = ["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"];
    const INSTRUCTIONS: [&str; 4] = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"];
    let mut ints =
        |max: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..rows).map(|_| rng.random_range(1..max)))) };
    let (part, supplier) = (ints(2_000_000), ints(100_000));
    let order: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|i| ((start + i) / 4 * 8) as i64)));
    let line: ArrayRef = Arc::new(Int32Array::from_iter_values((0..rows).map(|i| (i % 4) as i32)));
    let mut decimals = |max: i128| -> ArrayRef {
        let values = Decimal128Array::from_iter_values((0..rows).map(|_| rng.random_range(0..max)));
        Arc::new(values.with_precision_and_scale(15, 2).unwrap())
    };
    let (quantity, price, discount, tax) = (decimals(5000), decimals(10_000_000), decimals(11), decimals(9));
    let mut dates =
        || -> ArrayRef { Arc::new(Date32Array::from_iter_values((0..rows).map(|_| rng.random_range(8000..10_600)))) };
    let (ship, commit, receipt) = (dates(), dates(), dates());
    let mut pick = |of: &[&str]| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values((0..rows).map(|_| of[rng.random_range(0..of.len())])))
    };
    let (flag, status) = (pick(&["A", "N", "R"]), pick(&["O", "F"]));
    let (instruction, mode) = (pick(&INSTRUCTIONS), pick(&MODES));
    let comments = (0..rows).map(|_| {
        let words: Vec<&str> = (0..rng.random_range(2..6)).map(|_| WORDS[rng.random_range(0..8)]).collect();
        words.join(" ")
    });
    let comment: ArrayRef = Arc::new(StringViewArray::from_iter_values(comments));
    RecordBatch::try_from_iter([
        ("l_orderkey", order),
        ("l_partkey", part),
        ("l_suppkey", supplier),
        ("l_linenumber", line),
        ("l_quantity", quantity),
        ("l_extendedprice", price),
        ("l_discount", discount),
        ("l_tax", tax),
        ("l_returnflag", flag),
        ("l_linestatus", status),
        ("l_shipdate", ship),
        ("l_commitdate", commit),
        ("l_receiptdate", receipt),
        ("l_shipinstruct", instruction),
        ("l_shipmode", mode),
        ("l_comment", comment),
    ])
    .unwrap()
}

fn hash(keys: &[ArrayRef], hashes: &mut Vec<u64>) -> ballista_shuffle::Result<()> {
    for (hash, key) in hashes.iter_mut().zip(keys[0].as_primitive::<Int64Type>().values()) {
        *hash = (*key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(29);
    }
    Ok(())
}

/// The sizes that `BatchPartitioner::new` recommends.
fn buffer_bytes(buckets: usize) -> usize {
    (buckets * (32 << 10)).clamp(16 << 20, 64 << 20)
}

fn partition(input: &[RecordBatch], buckets: usize, out: &mut dyn FnMut(usize, RecordBatch)) {
    let mut partitioner = HashPartitioner::new(buckets, hash);
    let mut mover = BatchPartitioner::new(input[0].schema(), buckets, buffer_bytes(buckets));
    let mut ids = Vec::new();
    let mut sink = |partition: usize, batch: RecordBatch| {
        out(partition, batch);
        Ok(())
    };
    for batch in input {
        partitioner.partition(&[Arc::clone(batch.column(1))], batch.num_rows(), &mut ids).unwrap();
        mover.push(batch.clone(), &ids, &mut sink).unwrap();
    }
    mover.flush(&mut sink).unwrap();
}

fn benches(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let input: Vec<RecordBatch> =
        (0..ROWS).step_by(BATCH_ROWS).map(|start| lineitem(&mut rng, start, BATCH_ROWS)).collect();
    let bytes: usize = input.iter().map(used_bytes).sum();
    println!("{ROWS} rows, {} MB, {} bytes per row", bytes / 1_000_000, bytes / ROWS);

    let mut group = criterion.benchmark_group("partition+append");
    group.throughput(Throughput::Bytes(bytes as u64));
    for buckets in BUCKETS {
        group.bench_function(BenchmarkId::from_parameter(buckets), |bencher| {
            bencher.iter(|| {
                let mut out: Vec<Vec<RecordBatch>> = vec![Vec::new(); buckets];
                partition(&input, buckets, &mut |partition, batch| out[partition].push(batch));
                black_box(out)
            });
        });
    }
    group.finish();

    for buckets in BUCKETS {
        let mut batches = Vec::new();
        partition(&input, buckets, &mut |_, batch| batches.push(batch));
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let encode = |out: &mut Vec<Block>| {
                let mut encoder = BlockEncoder::try_new(&input[0].schema(), compression).unwrap();
                for batch in &batches {
                    let mut sink = |block| {
                        out.push(block);
                        Ok(())
                    };
                    encoder.encode_all(batch, TARGET_BLOCK_BYTES, &mut sink).unwrap();
                }
            };
            let mut blocks = Vec::new();
            encode(&mut blocks);
            let stored: usize = blocks.iter().map(Block::bytes).sum();
            let count = blocks.len();
            println!("{buckets} buckets, {compression:?}: {count} blocks, {} MB", stored / 1_000_000);

            let mut group = criterion.benchmark_group(format!("encode/{compression:?}"));
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(buckets), |bencher| {
                bencher.iter(|| {
                    let mut out = Vec::with_capacity(count);
                    encode(&mut out);
                    black_box(out)
                });
            });
            group.finish();

            let mut group = criterion.benchmark_group(format!("decode/{compression:?}"));
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(buckets), |bencher| {
                bencher.iter(|| {
                    let mut decoder = BlockDecoder::try_new(input[0].schema()).unwrap();
                    for block in &blocks {
                        black_box(decoder.decode_block(block).unwrap());
                    }
                });
            });
            group.finish();
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
}

criterion_group! { name = shuffle; config = config(); targets = benches }
criterion_main!(shuffle);
