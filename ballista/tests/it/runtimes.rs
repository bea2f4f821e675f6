// SPDX-License-Identifier: Apache-2.0
//! An in-process cluster works in every kind of runtime, and goes away with its last user.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista::BallistaQueryPlanner;
use ballista::prelude::*;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};

use crate::common::{config, distributed, rows, standalone};

const QUERY: &str = "SELECT x % 7 AS k, sum(x) FROM generate_series(1, 100000) AS t(x) GROUP BY k ORDER BY k";

#[test]
fn any_runtime_and_several_of_them() {
    let single = || Builder::new_current_thread().enable_all().build().unwrap();
    let context = single().block_on(standalone(distributed(config())));
    let first = single().block_on(rows(&context, QUERY)).unwrap();
    assert_eq!(first.len(), 7 + 4);
    let second = Runtime::new().unwrap().block_on(rows(&context, QUERY)).unwrap();
    assert_eq!(first, second);
    // Dropped outside of any runtime.
    drop(context);
}

#[tokio::test(flavor = "current_thread")]
async fn queries_side_by_side_on_one_thread() {
    let context = standalone(distributed(config())).await;
    let queries = (0..20).map(|_| rows(&context, QUERY));
    let results = futures::future::join_all(queries).await;
    let first = results[0].as_ref().unwrap();
    assert!(results.iter().all(|result| result.as_ref().unwrap() == first));
}

#[tokio::test]
async fn a_large_result_streams_and_may_be_abandoned() {
    let context = SessionContext::standalone().await.unwrap();
    let sql = "SELECT x, repeat('text', 10) AS t FROM generate_series(1, 2000000) AS t(x)";
    let mut stream = context.sql(sql).await.unwrap().execute_stream().await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.num_rows() > 0);
    drop(stream);
    // The slots are free again.
    let count = tokio::time::timeout(Duration::from_secs(20), rows(&context, "SELECT 1")).await;
    assert!(count.unwrap().is_ok());
    let mut rows = 0;
    let mut stream = context.sql(sql).await.unwrap().execute_stream().await.unwrap();
    while let Some(batch) = stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 2_000_000);
}

#[tokio::test]
async fn the_cluster_ends_with_its_last_user() {
    let context = standalone(config()).await;
    let state = context.state();
    let planner: &dyn Any = state.query_planner().as_ref();
    let cluster = Arc::downgrade(planner.downcast_ref::<BallistaQueryPlanner>().unwrap().cluster());
    drop(state);
    let clone = context.clone();
    drop(context);
    assert!(rows(&clone, "SELECT 1").await.is_ok());
    let frame = clone.sql("SELECT 2").await.unwrap();
    drop(clone);
    // The frame has the session's planner, and with it the cluster.
    frame.collect().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while cluster.upgrade().is_some() {
        // The scheduler forgets the session when it forgets the job.
        assert!(Instant::now() < deadline, "the cluster lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn time_of_select_1() {
    let context = SessionContext::standalone().await.unwrap();
    let mut times = vec![];
    for _ in 0..200 {
        let start = Instant::now();
        rows(&context, "SELECT 1").await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("SELECT 1: median {:?}, p95 {:?}", times[100], times[190]);
}
