// SPDX-License-Identifier: Apache-2.0
//! What happens while a query runs: enough rows end it, a big one does not starve a small one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use ballista::prelude::*;
use ballista::{ExecutorHandle, SchedulerHandle};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::common::{config, write_parquet};
use crate::pair::run;

/// Rows that `slowly` has seen.
type Seen = Arc<AtomicUsize>;

/// Its argument, after a millisecond per row.
fn slowly(seen: &Seen) -> ScalarUDF {
    let seen = Arc::clone(seen);
    let body = move |arguments: &[ColumnarValue]| {
        let rows = match &arguments[0] {
            ColumnarValue::Array(array) => array.len(),
            ColumnarValue::Scalar(_) => 1,
        };
        seen.fetch_add(rows, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(rows as u64));
        Ok(arguments[0].clone())
    };
    create_udf("slowly", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(body))
}

struct Slow {
    context: SessionContext,
    seen: Seen,
    _folder: tempfile::TempDir,
    _scheduler: SchedulerHandle,
    _executors: Vec<ExecutorHandle>,
}

/// Two executors of one slot; a table `t` of 40 files of 250 rows each.
async fn slow_cluster(settings: SessionConfig) -> Slow {
    let seen = Seen::default();
    let state = |config: SessionConfig| -> SessionState {
        let mut builder = SessionStateBuilder::new().with_config(config).with_default_features();
        builder.scalar_functions().get_or_insert_default().push(Arc::new(slowly(&seen)));
        builder.build()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scheduler = SchedulerBuilder::new().session_state(state(config())).build().unwrap().serve(listener).unwrap();
    let mut executors = vec![];
    for _ in 0..2 {
        let builder = ExecutorBuilder::new().with_slots(1).with_scheduler("127.0.0.1", port);
        let executor = builder.with_session_state(state(config())).start().await.unwrap();
        executor.registered().await.unwrap();
        executors.push(executor);
    }
    let context = SessionContext::remote_with_state(&format!("df://127.0.0.1:{port}"), state(settings)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rows = SessionContext::new().sql("SELECT x AS id FROM generate_series(1, 250) AS t(x)").await.unwrap();
    let rows = rows.collect().await.unwrap();
    for number in 0..40 {
        write_parquet(&folder.path().join(format!("{number:02}.parquet")), &rows[0]);
    }
    let location = format!("{}/", folder.path().display());
    context.register_parquet("t", &location, ParquetReadOptions::new()).await.unwrap();
    Slow { context, seen, _folder: folder, _scheduler: scheduler, _executors: executors }
}

/// A partition per file, so that a stage is many tasks.
fn settings() -> SessionConfig {
    config().with_target_partitions(40).with_batch_size(10).with_ballista_setting(|settings| {
        settings.single_task_bytes = 0;
        settings.bucket_bytes = 1;
        settings.read_bytes = 1;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_stops_the_stages_below_it() {
    let slow = slow_cluster(settings()).await;
    // All of it would take 5 s on two slots.
    for sql in [
        "SELECT slowly(id) FROM t LIMIT 20",
        "SELECT id FROM t WHERE slowly(id) > 0 LIMIT 20",
        "SELECT id FROM (SELECT id FROM t WHERE slowly(id) > 0 LIMIT 20) ORDER BY id",
        "SELECT count(*) FROM (SELECT slowly(id) AS id FROM t LIMIT 30) WHERE id < 10000",
    ] {
        slow.seen.store(0, Ordering::Relaxed);
        let (rows, summary) = run(&slow.context, sql).await.unwrap();
        assert!(rows.iter().any(|batch| batch.num_rows() > 0));
        let seen = slow.seen.load(Ordering::Relaxed);
        assert!(seen < 2500, "{sql}: {seen} of 10000 rows were computed, {summary:?}");
        assert!(summary.is_some());
    }
    // What was cancelled does not go on.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = slow.seen.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(slow.seen.load(Ordering::Relaxed), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_enough_stops_the_query() {
    let slow = slow_cluster(settings()).await;
    let mut stream = slow.context.sql("SELECT slowly(id) FROM t").await.unwrap().execute_stream().await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = slow.seen.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(slow.seen.load(Ordering::Relaxed), before, "it goes on");
    assert!(before < 5000, "{before} rows for a client that left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_query_does_not_starve_a_small_one() {
    let slow = slow_cluster(settings()).await;
    let big = slow.context.sql("SELECT sum(slowly(id)) FROM t").await.unwrap();
    let big = tokio::spawn(big.collect());
    while slow.seen.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Every slot is taken, and many more tasks of the big query wait. The small one exchanges rows, too.
    let start = Instant::now();
    for _ in 0..3 {
        let sql = "SELECT id % 3, count(*) FROM t GROUP BY id % 3";
        let (rows, summary) = run(&slow.context, sql).await.unwrap();
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
        assert!(summary.unwrap().stages >= 2);
    }
    let small = start.elapsed();
    assert!(!big.is_finished(), "the big query was done after {small:?}, and proves nothing");
    assert_eq!(big.await.unwrap().unwrap()[0].num_rows(), 1);
}
