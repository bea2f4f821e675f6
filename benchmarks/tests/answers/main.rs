// SPDX-License-Identifier: Apache-2.0
//! TPC-H and TPC-DS through clusters of several shapes, equal to bare DataFusion.
//!
//! `BALLISTA_TEST_QUERIES=1,5` restricts the queries, for work on one of them.

#![allow(clippy::unwrap_used)]

mod cluster;
mod random;

use std::time::Duration;

use ballista_benchmarks::compare::verify;
use ballista_benchmarks::data::{tpcds_dir, tpch_dir};
use ballista_benchmarks::engine::{Engine, EngineKind, SessionOptions};
use ballista_benchmarks::queries::Suite;
use cluster::TestCluster;

/// A query that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);
const MEMORY: u64 = 2 << 30;
/// Queries that bare DataFusion may refuse.
const MOST_SKIPPED: usize = 1;

fn options(url: Option<&str>, settings: &[&str]) -> SessionOptions {
    SessionOptions {
        scheduler: url.map(str::to_owned),
        partitions: 2,
        settings: settings.iter().map(|setting| setting.parse().expect("KEY=VALUE")).collect(),
    }
}

fn numbers(suite: Suite) -> Vec<u32> {
    let wanted = std::env::var("BALLISTA_TEST_QUERIES").ok();
    let wanted: Option<Vec<u32>> =
        wanted.map(|text| text.split(',').filter_map(|number| number.parse().ok()).collect());
    suite.numbers().filter(|number| wanted.as_ref().is_none_or(|wanted| wanted.contains(number))).collect()
}

/// Runs every query of `suite` on bare DataFusion and on `cluster`; panics with all differences.
async fn check(suite: Suite, cluster: &TestCluster, settings: &[&str], min_exchanged: u64) {
    check_at(0.01, suite, Some(cluster), settings, min_exchanged).await;
}

/// The same at another scale, and without a cluster in this process alone.
async fn check_at(scale: f64, suite: Suite, cluster: Option<&TestCluster>, settings: &[&str], min_exchanged: u64) {
    let data = match suite {
        Suite::Tpch => tpch_dir(scale),
        Suite::Tpcds => tpcds_dir(scale),
    }
    .expect("test data");
    let oracle = Engine::connect(EngineKind::Datafusion, &options(None, &[]), suite, &data).await.expect("oracle");
    let kind = if cluster.is_some() { EngineKind::Remote } else { EngineKind::Standalone };
    let session = options(cluster.map(|cluster| cluster.url.as_str()), settings);
    let engine = Engine::connect(kind, &session, suite, &data).await.expect("a session");
    let mut failures = Vec::new();
    let (mut exchanged, mut skipped) = (0, 0);
    for number in numbers(suite) {
        let text = suite.query(number).expect("a query");
        let Ok(expected) = oracle.run(text, true).await else {
            // What bare DataFusion does not run is not asked of the cluster.
            skipped += 1;
            continue;
        };
        match tokio::time::timeout(HANGS, engine.run(text, true)).await {
            Err(_) => failures.push(format!("q{number}: no answer within {HANGS:?}")),
            Ok(Err(error)) => failures.push(format!("q{number}: {error}")),
            Ok(Ok(actual)) => {
                exchanged += actual.work.bytes_exchanged;
                for ((plan, expected), (_, actual)) in expected.answers.iter().zip(&actual.answers) {
                    if let Err(difference) = verify(oracle.context(), plan, expected, actual).await {
                        failures.push(format!("q{number}: {difference}"));
                    }
                }
            }
        }
    }
    assert!(skipped <= MOST_SKIPPED, "bare DataFusion does not run {skipped} of {suite}");
    assert!(failures.is_empty(), "{} of {suite} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(exchanged >= min_exchanged, "only {exchanged} bytes went through exchanges");
}

const DISTRIBUTED: &str = "ballista.planner.single_task_bytes=0";
const NO_BROADCAST: &str = "ballista.planner.broadcast_bytes=0";
const MANY_BUCKETS: &str = "ballista.shuffle.bucket_bytes=200000";
const ON_DISK: &str = "ballista.shuffle.memory_tier=false";
const NOT_ADAPTIVE: &str = "ballista.planner.adaptive=false";
const RANGE_SORT: &str = "ballista.planner.range_sort_bytes=0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpch_on_two_executors_equals_datafusion() {
    let cluster = TestCluster::start(2, 1, MEMORY).await;
    check(Suite::Tpch, &cluster, &[DISTRIBUTED], 1).await;
    check(Suite::Tpch, &cluster, &[DISTRIBUTED, NO_BROADCAST, MANY_BUCKETS, RANGE_SORT], 1).await;
    check(Suite::Tpch, &cluster, &[DISTRIBUTED, NO_BROADCAST, NOT_ADAPTIVE], 1).await;
    check(Suite::Tpch, &cluster, &[DISTRIBUTED, NO_BROADCAST, ON_DISK], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpch_in_slices_of_several_partitions_equals_datafusion() {
    let cluster = TestCluster::start(2, 3, MEMORY).await;
    check(Suite::Tpch, &cluster, &[DISTRIBUTED, NO_BROADCAST, MANY_BUCKETS, "ballista.shuffle.read_bytes=10000"], 1)
        .await;
    check(Suite::Tpch, &cluster, &[], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpcds_on_two_executors_equals_datafusion() {
    let cluster = TestCluster::start(2, 2, MEMORY).await;
    check(Suite::Tpcds, &cluster, &[DISTRIBUTED, NO_BROADCAST, MANY_BUCKETS], 1).await;
    check(Suite::Tpcds, &cluster, &[DISTRIBUTED], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpch_in_one_process_equals_datafusion() {
    check_at(0.01, Suite::Tpch, None, &[], 0).await;
    check_at(0.01, Suite::Tpch, None, &[DISTRIBUTED], 1).await;
}

/// Minutes; see `cargo xtask test --full`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_factor_1_equals_datafusion() {
    if std::env::var_os("BALLISTA_FULL_TESTS").is_none() {
        return;
    }
    let cluster = TestCluster::start(2, 1, MEMORY).await;
    for suite in [Suite::Tpch, Suite::Tpcds] {
        check_at(1.0, suite, None, &[], 0).await;
        check_at(1.0, suite, Some(&cluster), &[DISTRIBUTED], 1 << 30).await;
        check_at(1.0, suite, Some(&cluster), &[DISTRIBUTED, ON_DISK], 1 << 30).await;
    }
}
