// SPDX-License-Identifier: Apache-2.0
//! Random rows of every type through the tasks of real executors and out again over Flight: whatever the partitioning
//! and wherever the outputs lie, no row is lost, none is changed, and each is in the bucket where it belongs.

#[path = "../../../shuffle/tests/common/mod.rs"]
mod common;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, Int64Array, MutableArrayData, RecordBatch, RecordBatchOptions, StringArray, UInt64Array,
    make_array, make_comparator,
};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ballista_core::{ExecutorId, Incarnation, TaskKey};
use ballista_exchange::wire::task_key_to_proto;
use ballista_exchange::{ExchangeClient, ExecutorAddress, FetchConfig, FetchOptions, TcpConnector};
use ballista_executor::Size;
use ballista_plan::stage::OutputPartitioning;
use ballista_proto::task_status::Status;
use datafusion::common::hash_utils::create_hashes;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::physical_plan::{ExecutionPlan, common::collect as collect_stream};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;
use tempfile::TempDir;

use crate::cluster::{Cluster, Done, collect, inputs};
use crate::plans::exchange;
use crate::scheduler::Heard;
use common::{lines, random_batch, random_schema, random_type, rng};

/// The least memory an executor may have; its store evicts from 40 % of that on.
const LITTLE: u64 = 16 << 20;

/// Bytes of rows that are too many for an executor with so little.
const TOO_MUCH: usize = 14 << 20;

/// Bytes of the text that makes rows large.
const PAD: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Hash,
    RoundRobin,
    Single,
    Passthrough,
    Range,
}

const KINDS: [Kind; 5] = [Kind::Hash, Kind::RoundRobin, Kind::Single, Kind::Passthrough, Kind::Range];

/// Where outputs lie when they are fetched.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Memory,
    /// Written to files when their task ends.
    Files,
    /// Evicted and spilled, because there is too little memory.
    Squeezed,
}

const PLACES: [Place; 3] = [Place::Memory, Place::Files, Place::Squeezed];

fn cases() -> u32 {
    if std::env::var_os("BALLISTA_FULL_TESTS").is_some() { 500 } else { 24 }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn every_row_arrives_once_and_in_its_bucket(seed: u64, kind in proptest::sample::select(&KINDS[..])) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for place in PLACES {
            runtime.block_on(round_trip(seed, kind, place));
        }
    }
}

/// `SEED=… KIND=Hash cargo test --workspace --test executor -- --ignored round_trip` repeats a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for replaying a seed"]
async fn replay() {
    let seed = std::env::var("SEED").unwrap().parse().unwrap();
    let name = std::env::var("KIND").unwrap();
    let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == name).unwrap();
    for place in PLACES {
        round_trip(seed, kind, place).await;
    }
}

async fn round_trip(seed: u64, kind: Kind, place: Place) {
    let rng = &mut rng(seed);
    let table = Table::random(rng, kind);
    let rows: usize = table.partitions.iter().flatten().map(RecordBatch::num_rows).sum();
    let plan = if place == Place::Squeezed { widened(table.scan(), rows) } else { table.scan() };
    let schema = plan.schema();

    let mut read = Vec::new();
    for partition in 0..table.partitions.len() {
        let stream = plan.execute(partition, Arc::new(TaskContext::default())).unwrap();
        read.push(collect_stream(stream).await.unwrap());
    }
    let partitioning = random_partitioning(rng, kind, &plan, &read);
    let buckets = partitioning.buckets();
    let mut expected = vec![Vec::new(); buckets];
    for (partition, batches) in read.iter().enumerate() {
        let ids = bucket_ids(&partitioning, partition, batches);
        for (line, id) in batches.iter().flat_map(lines).zip(ids) {
            expected[id].push(line);
        }
    }
    let context = format!("{kind:?} into {buckets}, {place:?}, seed {seed}, schema {schema}");

    let names: &[&str] = if place == Place::Squeezed || rng.random() { &["e1"] } else { &["e1", "e2"] };
    let (mut cluster, dirs) = start(names, if place == Place::Squeezed { LITTLE } else { 256 << 20 }).await;
    cluster.set("ballista.shuffle.memory_tier", if place == Place::Files { "false" } else { "true" });
    cluster.set("ballista.shuffle.compression", ["none", "lz4", "zstd"][rng.random_range(0..3)]);
    cluster.plan(0, plan, exchange(partitioning));
    let done = run(&mut cluster, rng, names, table.partitions.len()).await;
    let reported = |bucket: usize| done.iter().map(|done| done.output.bucket_rows[bucket]).sum::<u64>();
    for (bucket, lines) in expected.iter().enumerate() {
        assert_eq!(reported(bucket), lines.len() as u64, "rows reported of bucket {bucket}; {context}");
    }
    let bytes: u64 = done.iter().map(|done| done.output.bytes).sum();
    match place {
        Place::Memory => assert!(!has_files(&dirs), "{context}"),
        Place::Files => assert_eq!(has_files(&dirs), rows > 0, "{context}"),
        // What is left above the watermark goes in the background.
        Place::Squeezed if bytes >= LITTLE / 2 => wait_for_files(&dirs, &context).await,
        Place::Squeezed => {}
    }

    let client = client(rng, &cluster);
    let inputs = inputs(0, &done);
    let mut fetched = Vec::new();
    for bucket in 0..buckets as u32 {
        let (range, options) = (bucket..bucket + 1, FetchOptions::default());
        let in_order = kind == Kind::Passthrough || rng.random();
        let streams = match in_order {
            true => client.fetch_runs(&inputs, range, Arc::clone(&schema), &options),
            false => vec![client.fetch(&inputs, range, Arc::clone(&schema), &options)],
        };
        let mut batches = Vec::new();
        for stream in streams {
            batches.extend(collect(stream).await.unwrap_or_else(|error| panic!("{error}; {context}")));
        }
        assert!(batches.iter().all(|batch| batch.schema() == schema), "another schema; {context}");
        fetched.push(batches.iter().flat_map(lines).collect::<Vec<_>>());
    }
    if kind == Kind::Passthrough {
        assert!(fetched == expected, "other rows or another order; {context}");
    }
    assert!(sorted(fetched.concat()) == sorted(expected.concat()), "other rows; {context}");
    for (bucket, (fetched, expected)) in fetched.into_iter().zip(expected).enumerate() {
        assert!(sorted(fetched) == sorted(expected), "rows of others in bucket {bucket}; {context}");
    }
}

/// A table in memory. Its first columns `k0` and `k1` can be keys of the kind it is made for.
struct Table {
    schema: SchemaRef,
    partitions: Vec<Vec<RecordBatch>>,
}

impl Table {
    fn random(rng: &mut StdRng, kind: Kind) -> Self {
        let mut fields: Vec<Arc<Field>> = Vec::new();
        let keys = if matches!(kind, Kind::Hash | Kind::Range) { rng.random_range(1..=2) } else { 0 };
        for index in 0..keys {
            let data_type = if kind == Kind::Hash { random_type(rng, 2) } else { sortable_type(rng) };
            fields.push(Arc::new(Field::new(format!("k{index}"), data_type, true)));
        }
        let others = random_schema(rng, false);
        fields.extend(others.fields().iter().cloned());
        let schema = Arc::new(Schema::new_with_metadata(fields, others.metadata().clone()));
        let batches = |rng: &mut StdRng| {
            let count = rng.random_range(0..5);
            let batch = |_| {
                let rows = rng.random_range(0..150);
                whole(random_batch(rng, &schema, rows))
            };
            (0..count).map(batch).collect()
        };
        let partitions = (0..rng.random_range(1..5)).map(|_| batches(rng)).collect();
        Self { schema, partitions }
    }

    fn scan(&self) -> Arc<dyn ExecutionPlan> {
        MemorySourceConfig::try_new_exec(&self.partitions, Arc::clone(&self.schema), None).unwrap()
    }
}

/// The same rows in arrays of their own. Arrow IPC, as which the plan carries them, loses track of slices of unions and
/// of run-end encoded arrays.
fn whole(batch: RecordBatch) -> RecordBatch {
    let copy = |array: &ArrayRef| {
        let data = array.to_data();
        let mut copy = MutableArrayData::new(vec![&data], false, array.len());
        copy.try_extend(0, 0, array.len()).unwrap();
        make_array(copy.freeze())
    };
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), batch.columns().iter().map(copy).collect(), &options).unwrap()
}

fn sortable_type(rng: &mut StdRng) -> DataType {
    loop {
        match random_type(rng, 0) {
            DataType::Null => {}
            data_type => return data_type,
        }
    }
}

/// The `rows` rows of `plan`, each so many times with a long text that [`LITTLE`] memory does not hold them.
fn widened(plan: Arc<dyn ExecutionPlan>, rows: usize) -> Arc<dyn ExecutionPlan> {
    // Few enough that the join can hold the texts.
    let times = (TOO_MUCH / PAD / rows.max(1)).clamp(1, 400);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..times as i64));
    let pads = (0..times).map(|number| format!("{number:x}").repeat(PAD)[..PAD].to_owned());
    let pads: ArrayRef = Arc::new(StringArray::from_iter_values(pads));
    let batch = RecordBatch::try_from_iter([("number", numbers), ("pad", pads)]).unwrap();
    let texts = MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None).unwrap();
    Arc::new(CrossJoinExec::new(texts, plan))
}

fn random_partitioning(
    rng: &mut StdRng,
    kind: Kind,
    plan: &Arc<dyn ExecutionPlan>,
    read: &[Vec<RecordBatch>],
) -> OutputPartitioning {
    let schema = plan.schema();
    let keys: Vec<Arc<dyn PhysicalExpr>> = ["k0", "k1"].iter().filter_map(|name| col(name, &schema).ok()).collect();
    let buckets = rng.random_range(1..9);
    match kind {
        Kind::Hash => OutputPartitioning::Hash { keys, buckets },
        Kind::RoundRobin => OutputPartitioning::RoundRobin { buckets },
        Kind::Single => OutputPartitioning::Single,
        Kind::Passthrough => OutputPartitioning::Passthrough { buckets: read.len() },
        Kind::Range => {
            let mut sort_key = |expr: &Arc<dyn PhysicalExpr>| {
                let options = SortOptions { descending: rng.random(), nulls_first: rng.random() };
                PhysicalSortExpr::new(Arc::clone(expr), options)
            };
            let keys = LexOrdering::new(keys.iter().map(&mut sort_key).collect::<Vec<_>>()).unwrap();
            let bounds = random_bounds(rng, &keys, &schema, read, buckets - 1);
            OutputPartitioning::Range { keys, bounds, buckets }
        }
    }
}

/// At most `count` bounds: key rows of the table, each above the one before.
fn random_bounds(
    rng: &mut StdRng,
    keys: &LexOrdering,
    schema: &SchemaRef,
    read: &[Vec<RecordBatch>],
    count: usize,
) -> Vec<ArrayRef> {
    let all = |key: &PhysicalSortExpr| -> ArrayRef {
        let none = RecordBatch::new_empty(Arc::clone(schema));
        let values: Vec<ArrayRef> =
            read.iter().flatten().chain([&none]).map(|batch| values(&key.expr, batch)).collect();
        concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()
    };
    let all: Vec<ArrayRef> = keys.iter().map(all).collect();
    let rows = all[0].len();
    let mut picked: Vec<usize> = (0..count.min(rows)).map(|_| rng.random_range(0..rows)).collect();
    let compare = comparator(keys, &all, &all);
    picked.sort_by(|a, b| compare(*a, *b));
    picked.dedup_by(|a, b| compare(*a, *b).is_eq());
    let picked: UInt64Array = picked.into_iter().map(|row| row as u64).collect::<Vec<_>>().into();
    all.iter().map(|key| take(key, &picked, None).unwrap()).collect()
}

/// The bucket of each row of a partition, from what the kinds of partitioning promise.
fn bucket_ids(partitioning: &OutputPartitioning, partition: usize, batches: &[RecordBatch]) -> Vec<usize> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    match partitioning {
        OutputPartitioning::Single => vec![0; rows],
        OutputPartitioning::Passthrough { .. } => vec![partition; rows],
        // In turn, and partitions do not all start at the first bucket.
        OutputPartitioning::RoundRobin { buckets } => (0..rows).map(|row| (partition + row) % buckets).collect(),
        OutputPartitioning::Hash { keys, buckets } => {
            let ids = |batch: &RecordBatch| {
                let rows = batch.num_rows();
                let evaluate = |key: &Arc<dyn PhysicalExpr>| key.evaluate(batch).unwrap().into_array(rows).unwrap();
                let keys: Vec<ArrayRef> = keys.iter().map(evaluate).collect();
                let mut hashes = vec![0; rows];
                create_hashes(&keys, REPARTITION_RANDOM_STATE.random_state(), &mut hashes).unwrap();
                hashes.into_iter().map(|hash| (hash % *buckets as u64) as usize).collect::<Vec<_>>()
            };
            batches.iter().flat_map(ids).collect()
        }
        OutputPartitioning::Range { keys, bounds, .. } => {
            let ids = |batch: &RecordBatch| {
                let rows: Vec<ArrayRef> = keys.iter().map(|key| values(&key.expr, batch)).collect();
                let compare = comparator(keys, bounds, &rows);
                let below = |row: usize| (0..bounds[0].len()).filter(|bound| compare(*bound, row).is_lt()).count();
                (0..batch.num_rows()).map(below).collect::<Vec<_>>()
            };
            batches.iter().flat_map(ids).collect()
        }
    }
}

/// The values of a key, those of a dictionary one by one.
fn values(key: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> ArrayRef {
    let array = key.evaluate(batch).unwrap().into_array(batch.num_rows()).unwrap();
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(&array, values).unwrap(),
        _ => array,
    }
}

/// Compares a row of `left` with one of `right` in the order of `keys`.
fn comparator(keys: &LexOrdering, left: &[ArrayRef], right: &[ArrayRef]) -> impl Fn(usize, usize) -> Ordering {
    let arrays = left.iter().zip(right);
    let columns = keys.iter().zip(arrays).map(|(key, (left, right))| make_comparator(left, right, key.options));
    let columns: Vec<_> = columns.collect::<Result<_, _>>().unwrap();
    move |a, b| columns.iter().map(|compare| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// Executors on loopback ports, and their work directories.
async fn start(names: &[&str], memory: u64) -> (Cluster, Vec<TempDir>) {
    let (mut cluster, mut dirs) = (Cluster::empty().await, Vec::new());
    for name in names {
        let dir = tempfile::tempdir().unwrap();
        let builder = cluster.builder(name).await.with_bind_address("127.0.0.1", 0);
        let handle = builder.with_memory(Size::Bytes(memory)).with_work_dir(dir.path()).start().await.unwrap();
        handle.registered().await.unwrap();
        cluster.executors.insert((*name).to_owned(), handle);
        dirs.push(dir);
    }
    (cluster, dirs)
}

/// Runs stage 0 in up to three tasks, wherever they happen to go.
async fn run(cluster: &mut Cluster, rng: &mut StdRng, names: &[&str], partitions: usize) -> Vec<Done> {
    let mut tasks = vec![Vec::new(); rng.random_range(1..=3)];
    for partition in 0..partitions as u32 {
        let task = rng.random_range(0..tasks.len());
        tasks[task].push(partition);
    }
    tasks.retain(|partitions| !partitions.is_empty());
    let mut running: BTreeMap<&str, Vec<TaskKey>> = BTreeMap::new();
    for (task, partitions) in tasks.iter().enumerate() {
        let name = names[rng.random_range(0..names.len())];
        let key = cluster.launch(name, 0, task as u32, partitions, &[]);
        running.entry(name).or_default().push(key);
    }
    let mut done = Vec::new();
    for (name, mut keys) in running {
        let address = cluster.executors[name].address();
        while !keys.is_empty() {
            // They end in any order.
            let heard = cluster.hear(name, |heard| match heard {
                Heard::Status(status) => Some(status),
                _ => None,
            });
            let status = heard.await;
            let output = match status.status.unwrap() {
                Status::Finished(output) => output,
                other => panic!("expected a task to finish, got {other:?}"),
            };
            let ended = keys.iter().position(|key| status.task.as_ref() == Some(&task_key_to_proto(key))).unwrap();
            done.push(Done { address: address.clone(), key: keys.remove(ended), output });
        }
    }
    done
}

/// Somebody else on this host, who gets everything over TCP.
fn client(rng: &mut StdRng, cluster: &Cluster) -> ExchangeClient {
    let address = ExecutorAddress {
        executor: ExecutorId::new("reader").unwrap(),
        incarnation: Incarnation::random(),
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    let chunk_bytes = rng.random_range(1..200_000);
    let config = FetchConfig { bytes_in_flight: 100_000, chunk_bytes, run_chunk_bytes: chunk_bytes };
    ExchangeClient::new(address, None, cluster.scheduler.key.clone(), Arc::new(TcpConnector), config)
}

/// Whether there are shuffle files below the work directories.
fn has_files(dirs: &[TempDir]) -> bool {
    fn any(dir: &Path) -> bool {
        std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|extension| extension == "arrow") || path.is_dir() && any(&path)
        })
    }
    dirs.iter().any(|dir| any(dir.path()))
}

async fn wait_for_files(dirs: &[TempDir], context: &str) {
    for _ in 0..500 {
        if has_files(dirs) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was evicted; {context}");
}
