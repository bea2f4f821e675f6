// SPDX-License-Identifier: Apache-2.0
//! Throughput of a whole fetch, in bytes of Arrow batches per second: all buckets of four outputs, read by two
//! partitions at a time as a stage with two slots would.
//!
//! * `local`: batches in the store's memory, handed over.
//! * `local file`: LZ4 blocks of a file, read and decoded.
//! * `loopback`: memory outputs encoded, sent over TCP on the same host without compression, decoded.
//! * `loopback file`: LZ4 blocks of a file, sent as they are, decoded.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use ballista_core::config::Compression;
use ballista_core::{ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey};
use ballista_exchange::{
    ExchangeClient, ExchangeServer, ExecutorAddress, FetchConfig, FetchOptions, InputSource, OutputOptions,
    ResultStreams, ShuffleStore, StageInputs, StoreConfig, TaskSink, TcpConnector, TicketKey, executor_pool, tune,
};
use ballista_shuffle::RoundRobinPartitioner;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// As in the executor's daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TASKS: u32 = 4;
const BATCHES_PER_TASK: usize = 120;
const ROWS: usize = 8192;

fn batch(seed: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| (seed * ROWS + row * 7) as i64)));
    let prices: ArrayRef =
        Arc::new(Float64Array::from_iter_values((0..ROWS).map(|row| (seed + row) as f64 * 0.37 + 1.0)));
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values(
        (0..ROWS).map(|row| format!("customer comment number {}", row * seed)),
    ));
    RecordBatch::try_from_iter([("number", numbers), ("price", prices), ("text", texts)]).unwrap()
}

struct Executor {
    address: ExecutorAddress,
    store: Arc<ShuffleStore>,
    client: ExchangeClient,
    _dir: TempDir,
}

async fn executor(name: &str, key: &TicketKey) -> Executor {
    let dir = tempfile::tempdir().unwrap();
    let incarnation = Incarnation::random();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = ShuffleStore::try_new(StoreConfig {
        work_dir: dir.path().to_owned(),
        incarnation,
        pool: executor_pool(4 << 30),
        high_watermark: 3 << 30,
        low_watermark: 3 << 30,
        overdraft: 64 << 20,
        disk_limit: u64::MAX,
    })
    .unwrap();
    let address = ExecutorAddress {
        executor: ExecutorId::new(name).unwrap(),
        incarnation,
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    let server = ExchangeServer::new(Arc::clone(&store), ResultStreams::new(), key.clone()).into_service();
    tokio::spawn(tune(Server::builder()).add_service(server).serve_with_incoming(TcpListenerStream::new(listener)));
    let client = ExchangeClient::new(
        address.clone(),
        Some(Arc::clone(&store)),
        key.clone(),
        Arc::new(TcpConnector),
        FetchConfig::default(),
    );
    Executor { address, store, client, _dir: dir }
}

async fn write(executor: &Executor, buckets: usize, memory_tier: bool) -> (StageInputs, u64) {
    let mut source =
        InputSource { address: executor.address.clone(), outputs: Vec::new(), bucket_rows: vec![0; buckets] };
    let mut bytes = 0;
    for task in 0..TASKS {
        let key = TaskKey {
            job: JobId::new(format!("job-{buckets}-{memory_tier}")).unwrap(),
            stage: StageId(1),
            stage_attempt: 0,
            task: TaskId(task),
            attempt: 0,
        };
        let options = OutputOptions { compression: Compression::Lz4, memory_tier };
        let writer = Arc::new(executor.store.create(key.clone(), batch(0).schema(), buckets, options));
        let mut sink = TaskSink::new(Box::new(RoundRobinPartitioner::new(buckets, 0)), Arc::clone(&writer));
        for index in 0..BATCHES_PER_TASK {
            sink.push(batch(index), &[]).await.unwrap();
        }
        sink.finish().await.unwrap();
        let summary = Arc::into_inner(writer).unwrap().finish().await.unwrap();
        bytes += summary.bytes;
        for (total, rows) in source.bucket_rows.iter_mut().zip(summary.bucket_rows) {
            *total += rows;
        }
        source.outputs.push(key);
    }
    (StageInputs { stage: StageId(1), sources: vec![source] }, bytes)
}

async fn read(client: &ExchangeClient, inputs: &StageInputs, buckets: usize) -> usize {
    // Partitions of about 1/16 of the buckets, two at a time.
    let step = buckets.div_ceil(16) as u32;
    let schema = batch(0).schema();
    let one = |parity: u32| {
        let (client, inputs, schema) = (client.clone(), inputs.clone(), Arc::clone(&schema));
        tokio::spawn(async move {
            let mut rows = 0;
            for start in (parity * step..buckets as u32).step_by(2 * step as usize) {
                let range = start..(start + step).min(buckets as u32);
                let mut stream = client.fetch(&inputs, range, Arc::clone(&schema), &FetchOptions::default());
                while let Some(batch) = stream.try_next().await.unwrap() {
                    rows += black_box(batch).num_rows();
                }
            }
            rows
        })
    };
    let (even, odd) = tokio::join!(one(0), one(1));
    even.unwrap() + odd.unwrap()
}

fn fetch(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let key = TicketKey::random();
    let mut group = criterion.benchmark_group("fetch");
    group.sample_size(10);
    for buckets in [16, 200, 2000] {
        let (producer, consumer) = runtime.block_on(async { (executor("a", &key).await, executor("b", &key).await) });
        for (memory_tier, names) in [(true, ["local", "loopback"]), (false, ["local file", "loopback file"])] {
            let (inputs, bytes) = runtime.block_on(write(&producer, buckets, memory_tier));
            group.throughput(Throughput::Bytes(bytes));
            for (name, reader) in names.into_iter().zip([&producer.client, &consumer.client]) {
                group.bench_function(BenchmarkId::new(name, buckets), |bencher| {
                    bencher.iter(|| {
                        let rows = runtime.block_on(read(reader, &inputs, buckets));
                        assert_eq!(rows, TASKS as usize * BATCHES_PER_TASK * ROWS);
                    });
                });
            }
            producer.store.free_job(&inputs.sources[0].outputs[0].job);
        }
    }
    group.finish();
}

criterion_group!(benches, fetch);
criterion_main!(benches);
