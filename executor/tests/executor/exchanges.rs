// SPDX-License-Identifier: Apache-2.0
//! Rows through exchanges between executors.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use ballista_plan::codec::decode_columns;
use ballista_plan::stage::{OutputPartitioning, StageOutput};
use datafusion::common::hash_utils::create_hashes;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use crate::cluster::{Cluster, Done, inline, inputs};
use crate::plans::{by_id, call, exchange, hash, ids, reader, scan, sorted};

const RESULT: StageOutput = StageOutput::Result { ordered: false };

/// Runs stage 0, one partition per executor.
async fn produce(cluster: &mut Cluster, plan: Arc<dyn ExecutionPlan>, output: StageOutput) -> Vec<Done> {
    cluster.plan(0, plan, output);
    let first = cluster.launch("e1", 0, 0, &[0], &[]);
    let second = cluster.launch("e2", 0, 1, &[1], &[]);
    vec![cluster.finished("e1", &first).await, cluster.finished("e2", &second).await]
}

fn bucket_of(id: i64, buckets: u64) -> u64 {
    let key: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    let mut hashes = [0];
    create_hashes([&key], REPARTITION_RANDOM_STATE.random_state(), &mut hashes).unwrap();
    hashes[0] % buckets
}

async fn hash_exchange(memory_tier: bool) {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    cluster.set("ballista.shuffle.memory_tier", if memory_tier { "true" } else { "false" });
    let done = produce(&mut cluster, scan(&[0..3000, 3000..5000], 700), hash(3)).await;
    assert_eq!(done.iter().map(|done| done.output.rows).collect::<Vec<_>>(), [3000, 2000]);
    assert!(done.iter().all(|done| done.output.bucket_rows.len() == 3 && done.output.bytes > 0));

    cluster.plan(1, Arc::new(reader(0, &[0..1, 1..2, 2..3])), RESULT);
    let inputs = [inputs(0, &done)];
    let mut all = Vec::new();
    for (executor, task, partitions) in [("e1", 0, vec![0, 2]), ("e2", 1, vec![1])] {
        let read = cluster.run(executor, 1, task, &partitions, &inputs).await;
        let rows = ids(&inline(&read));
        for id in &rows {
            assert!(partitions.contains(&(bucket_of(*id, 3) as u32)), "{id} in {partitions:?}");
        }
        assert_eq!(read.output.read_local_bytes > 0, memory_tier, "local bytes");
        assert!(read.output.read_remote_bytes > 0);
        all.extend(rows);
    }
    assert_eq!(sorted(all), (0..5000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_exchange_between_two_executors_keeps_every_row_in_its_bucket() {
    hash_exchange(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_memory_tier_the_same_rows_go_through_files_and_flight() {
    hash_exchange(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passthrough_exchange_keeps_the_order_that_a_merge_relies_on() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    let through = exchange(OutputPartitioning::Passthrough { buckets: 2 });
    let done = produce(&mut cluster, scan(&[0..2000, 500..1500], 300), through).await;
    assert_eq!(done[0].output.bucket_rows, [2000, 0]);
    assert_eq!(done[1].output.bucket_rows, [0, 1000]);

    let runs = Arc::new(reader(0, &[0..1, 1..2]).with_ordering(by_id()));
    cluster.plan(1, Arc::new(SortPreservingMergeExec::new(by_id(), runs)), StageOutput::Result { ordered: true });
    let merged = cluster.run("e2", 1, 0, &[0], &[inputs(0, &done)]).await;
    let expected = sorted((0..2000).chain(500..1500).collect());
    assert_eq!(ids(&inline(&merged)), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_exchange_follows_its_bounds_and_reports_samples() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    let keys = by_id();
    let bounds: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![99, 4000]))];
    let partitioning = OutputPartitioning::Range { keys: keys.clone(), bounds, buckets: 3 };
    let output = StageOutput::Exchange { partitioning, sample: keys.to_vec() };
    let done = produce(&mut cluster, scan(&[0..3000, 3000..5000], 700), output).await;
    assert_eq!(done[0].output.bucket_rows, [100, 2900, 0]);
    assert_eq!(done[1].output.bucket_rows, [0, 1001, 999]);
    let sample = decode_columns(&done[0].output.sample).unwrap();
    assert!((500..=1100).contains(&sample[0].len()), "{} rows sampled", sample[0].len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_spreads_rows_evenly_and_single_gathers_them() {
    let mut cluster = Cluster::start(&["e1", "e2"]).await;
    let plan = scan(&[0..7, 7..10], 2);
    let done = produce(&mut cluster, Arc::clone(&plan), exchange(OutputPartitioning::RoundRobin { buckets: 3 })).await;
    // Partition 0 starts at bucket 0, partition 1 at bucket 1.
    assert_eq!(done[0].output.bucket_rows, [3, 2, 2]);
    assert_eq!(done[1].output.bucket_rows, [1, 1, 1]);

    cluster.plan(5, plan, exchange(OutputPartitioning::Single));
    let single = cluster.run("e1", 5, 0, &[0, 1], &[]).await;
    assert_eq!(single.output.bucket_rows, [10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_one_stage_share_one_request_for_its_plan() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, call("slow", scan(&[0..10, 10..20, 20..30], 5)), hash(2));
    let keys: Vec<_> = (0..3).map(|task| cluster.launch("e1", 0, task, &[task], &[])).collect();
    let mut rows = 0;
    let mut left = keys.len();
    while left > 0 {
        rows += cluster
            .hear("e1", |heard| match heard {
                crate::scheduler::Heard::Status(status) => match status.status.unwrap() {
                    ballista_proto::task_status::Status::Finished(output) => Some(output.rows),
                    other => panic!("{other:?}"),
                },
                _ => None,
            })
            .await;
        left -= 1;
    }
    assert_eq!(rows, 30);
    assert_eq!(cluster.plan_requests(), 1);
}
