// SPDX-License-Identifier: Apache-2.0
//! Results on their way to the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ballista_core::ErrorClass;
use ballista_plan::stage::StageOutput;
use ballista_proto::task_status::Status as TaskStatus;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use futures::TryStreamExt;

use crate::cluster::{Cluster, collect, inline};
use crate::plans::{COUNTED, call, ids, scan, schema, sorted};

const UNORDERED: StageOutput = StageOutput::Result { ordered: false };
const ORDERED: StageOutput = StageOutput::Result { ordered: true };

async fn streaming(cluster: &mut Cluster, key: &ballista_core::TaskKey) {
    assert!(matches!(cluster.status("e1", key).await.1, TaskStatus::Streaming(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_result_travels_in_the_status() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..10, 10..20], 3), UNORDERED);
    let done = cluster.run("e1", 0, 0, &[0, 1], &[]).await;
    assert_eq!(done.output.rows, 20);
    assert_eq!(sorted(ids(&inline(&done))), (0..20).collect::<Vec<_>>());
    // Nothing at all is a result as well.
    cluster.plan(1, scan(&[0..0], 3), UNORDERED);
    let empty = cluster.run("e1", 1, 0, &[0], &[]).await;
    assert!(empty.output.is_inline && empty.output.rows == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_streamed_completely() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, scan(&[0..50_000, 50_000..90_000], 8192), UNORDERED);
    let key = cluster.launch("e1", 0, 0, &[0, 1], &[]);
    streaming(&mut cluster, &key).await;
    let rows = collect(cluster.read("e1", &key, schema()).await).await.unwrap();
    assert_eq!(sorted(ids(&rows)), (0..90_000).collect::<Vec<_>>());
    let done = cluster.finished("e1", &key).await;
    assert_eq!(done.output.rows, 90_000);
    assert!(!done.output.is_inline);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_result_comes_partition_by_partition() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.set("ballista.client.inline_result_bytes", "0");
    // The first partition is much slower than the others.
    let plan = scan(&[0..3000, 3000..3010, 3010..9000], 100);
    cluster.plan(0, call("slow", plan), ORDERED);
    let key = cluster.launch("e1", 0, 0, &[0, 1, 2], &[]);
    streaming(&mut cluster, &key).await;
    let rows = collect(cluster.read("e1", &key, schema()).await).await.unwrap();
    assert_eq!(ids(&rows), (0..9000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_query_streams_its_first_rows_before_it_ends() {
    let mut cluster = Cluster::start(&["e1"]).await;
    // 400 rows in 8 seconds: far less than the inline limit.
    cluster.plan(0, call("slow", scan(&[0..400], 1)), UNORDERED);
    let key = cluster.launch("e1", 0, 0, &[0], &[]);
    streaming(&mut cluster, &key).await;
    let mut rows = cluster.read("e1", &key, schema()).await;
    let first = rows.try_next().await.unwrap().unwrap();
    assert!(first.num_rows() > 0);
    drop(rows);
    let (class, _) = cluster.failed("e1", &key).await;
    assert_eq!(class, ErrorClass::Infra);
}

/// 16 million rows of `counted(id), name`.
fn endless() -> Arc<dyn ExecutionPlan> {
    let join = Arc::new(CrossJoinExec::new(scan(&[0..4000], 8192), scan(&[0..4000], 8192)));
    let columns = ["id", "name"]
        .into_iter()
        .enumerate()
        .map(|(index, name)| ProjectionExpr { expr: Arc::new(Column::new(name, index)), alias: name.to_owned() });
    call("counted", Arc::new(ProjectionExec::try_new(columns, join).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_query_back_and_one_that_leaves_ends_it() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.plan(0, endless(), UNORDERED);
    let key = cluster.launch("e1", 0, 0, &[0], &[]);
    streaming(&mut cluster, &key).await;
    let mut rows = cluster.read("e1", &key, schema()).await;
    rows.try_next().await.unwrap().unwrap();
    // Windows and buffers fill, then nothing is computed any more.
    let mut before = COUNTED.load(Ordering::Relaxed);
    let mut quiet = 0;
    while quiet < 5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = COUNTED.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    assert!(before < 8_000_000, "{before} rows were computed for a client that does not read");
    drop(rows);
    let (class, message) = cluster.failed("e1", &key).await;
    assert_eq!(class, ErrorClass::Infra, "{message}");
    cluster.holds_nothing("e1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_after_the_first_rows_reaches_the_client() {
    let mut cluster = Cluster::start(&["e1"]).await;
    cluster.set("ballista.client.inline_result_bytes", "0");
    let slow = call("slow", scan(&[0..2000], 100));
    let boom = call("boom", call("slow", scan(&[0..1], 1)));
    let union = datafusion::physical_plan::union::UnionExec::try_new(vec![slow, boom]).unwrap();
    cluster.plan(0, union, ORDERED);
    let key = cluster.launch("e1", 0, 0, &[0, 1], &[]);
    let read = match cluster.status("e1", &key).await.1 {
        TaskStatus::Streaming(_) => collect(cluster.read("e1", &key, schema()).await).await,
        // The panic came before the first rows.
        other => {
            assert!(matches!(other, TaskStatus::Failed(_)), "{other:?}");
            return;
        }
    };
    let error = read.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Deterministic, "{error}");
    let (class, message) = cluster.failed("e1", &key).await;
    assert_eq!(class, ErrorClass::Deterministic);
    assert!(message.contains("boom"), "{message}");
}
