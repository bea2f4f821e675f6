// SPDX-License-Identifier: Apache-2.0
//! Queries of which only a part can leave the client: its rows are uploaded, or the rest of the plan reads the cluster's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray, UnionArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UnionFields};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;

use crate::common::{lines, standalone};
use crate::explain::{explain, row};
use crate::pair::{Pair, broadcasting, run};

/// A partition of a table that only the client can read: no codec knows its scan.
struct Local {
    schema: SchemaRef,
    rows: Box<dyn Fn() -> BoxStream<'static, Result<RecordBatch>> + Send + Sync>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl PartitionStream for Local {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), (self.rows)()))
    }
}

fn numbers(ids: impl Iterator<Item = i64> + Clone) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let name: ArrayRef =
        Arc::new(StringViewArray::from_iter_values(ids.map(|id| format!("a name for the number {id}"))));
    RecordBatch::try_from_iter([("id", id), ("name", name)]).unwrap()
}

fn register_partitions(context: &SessionContext, name: &str, schema: &SchemaRef, partitions: Vec<Local>) {
    let partitions = partitions.into_iter().map(|local| Arc::new(local) as _).collect();
    let table = StreamingTable::try_new(Arc::clone(schema), partitions).unwrap();
    context.register_table(name, Arc::new(table)).unwrap();
}

/// A table that only the client can read, with a partition for each list of batches.
fn register_local(context: &SessionContext, name: &str, schema: &SchemaRef, partitions: &[Vec<RecordBatch>]) {
    let local = |batches: &Vec<RecordBatch>| {
        let batches = batches.clone();
        let rows = move || futures::stream::iter(batches.clone().into_iter().map(Ok)).boxed();
        Local { schema: Arc::clone(schema), rows: Box::new(rows) }
    };
    register_partitions(context, name, schema, partitions.iter().map(local).collect());
}

/// Two executors without any codec, and a cluster in this process; `t` in files, `mine` only in the client.
async fn pair() -> Pair {
    let mut pair = Pair::new().await;
    pair.sessions.push(("standalone", standalone(broadcasting()).await));
    let rows = "SELECT x AS id, x % 7 AS k, x * 3 AS v, 'name ' || x AS name FROM generate_series(1, 2000) AS t(x)";
    pair.parquet("t", rows, 4).await;
    let partitions =
        [vec![numbers(1..300), numbers(300..301)], vec![], vec![numbers(0..0), numbers((500..4000).step_by(3))]];
    for context in pair.all() {
        register_local(context, "mine", &numbers(0..0).schema(), &partitions);
        register_local(context, "nothing", &numbers(0..0).schema(), &[vec![], vec![numbers(0..0)]]);
        register_local(context, "no_partition", &numbers(0..0).schema(), &[]);
    }
    pair
}

async fn ran_here(pair: &Pair, sql: &str) {
    let expected = lines(&pair.plain.sql(sql).await.unwrap().collect().await.unwrap(), false);
    for (name, context) in &pair.sessions {
        let (rows, summary) = run(context, sql).await.unwrap();
        assert_eq!(lines(&rows, false), expected, "{name}: {sql}");
        assert_eq!(summary, None, "{name}: {sql}");
    }
}

#[tokio::test]
async fn tables_of_the_client_are_joined_with_files_in_the_cluster() {
    let pair = pair().await;
    for sql in [
        "SELECT t.k, count(*), sum(t.v), min(mine.name) FROM t JOIN mine ON t.id = mine.id GROUP BY t.k",
        "SELECT t.id, mine.name FROM t LEFT JOIN mine ON t.id = mine.id AND mine.id > 100 WHERE t.k < 2",
        "SELECT t.id, mine.id FROM mine FULL JOIN t ON t.id = mine.id - 7",
        "SELECT count(*), sum(v) FROM t WHERE id IN (SELECT id FROM mine)",
        "SELECT count(*), sum(v) FROM t WHERE id NOT IN (SELECT id FROM mine WHERE id > 20)",
        "SELECT count(*) FROM t CROSS JOIN mine",
        "SELECT count(*) FROM t JOIN mine ON t.id < mine.id AND t.k = 3 AND mine.id < 50",
        "SELECT a.name, t.k FROM mine a JOIN mine b ON a.id = b.id + 3 JOIN t ON t.id = b.id",
        "SELECT k, count(*) FROM (SELECT id % 5 AS k FROM t UNION ALL SELECT id % 5 FROM mine) GROUP BY k",
        "SELECT id FROM t INTERSECT SELECT id FROM mine",
        "SELECT count(*), max(id) FROM t WHERE id > (SELECT avg(id) FROM mine)",
        "SELECT count(*), max(id) FROM t WHERE EXISTS (SELECT 1 FROM mine WHERE mine.id = t.id + 1)",
        "SELECT t.id FROM t JOIN nothing ON t.id = nothing.id",
        "SELECT t.id, nothing.name FROM t LEFT JOIN nothing ON t.id = nothing.id WHERE t.k = 1",
        "SELECT t.id, no_partition.name FROM t LEFT JOIN no_partition ON t.id = no_partition.id WHERE t.k = 1",
        "SELECT count(*) FROM t CROSS JOIN nothing",
    ] {
        pair.check(sql).await;
    }
    let sql = "SELECT t.id, mine.name, row_number() OVER (PARTITION BY t.k ORDER BY t.id DESC) AS n FROM t JOIN mine \
               USING (id) ORDER BY n DESC, t.id LIMIT 20";
    pair.check_ordered(sql).await;
    let summaries = pair.check("SELECT t.k, count(*) FROM t JOIN mine ON t.id = mine.id GROUP BY t.k").await;
    assert!(summaries.iter().all(|summary| summary.stages > 1), "{summaries:?}");
    // The files are read by both executors; in this process there is but one.
    assert!(summaries[..3].iter().all(|summary| summary.tasks > summary.stages), "{summaries:?}");
}

#[tokio::test]
async fn what_is_not_worth_a_job_runs_in_the_client() {
    let pair = pair().await;
    for sql in [
        "SELECT * FROM mine WHERE id > 7",
        "SELECT id % 3 AS k, count(*) FROM mine GROUP BY k",
        "SELECT count(*) FROM mine a JOIN mine b ON a.id = b.id",
        "SELECT count(*) FROM mine JOIN (VALUES (1), (2)) AS v(id) USING (id)",
        "SELECT id FROM t UNION ALL SELECT id FROM mine",
    ] {
        ran_here(&pair, sql).await;
    }
    // The part that is, is: the rows of the client do not travel for it.
    let summaries = pair.check("SELECT k, count(*) FROM t GROUP BY k UNION ALL SELECT id, 1 FROM mine").await;
    assert!(summaries.iter().all(|summary| summary.rows == 7), "{summaries:?}");
}

/// Of which one is in the client and the other in the cluster, or neither can be parted from the other.
#[tokio::test]
async fn scalar_subqueries_and_their_readers() {
    let pair = pair().await;
    for sql in [
        "SELECT name FROM mine WHERE id > (SELECT avg(id) FROM t)",
        "SELECT count(*), max(name) FROM t WHERE id > (SELECT avg(id) FROM mine)",
        "SELECT count(*) FROM mine JOIN t USING (id) WHERE t.v > (SELECT avg(id) FROM mine WHERE id > (SELECT min(k) FROM t))",
    ] {
        pair.check(sql).await;
    }
    let sql = "SELECT max(c) FROM (SELECT count(*) FILTER (WHERE id > (SELECT avg(id) FROM t)) OVER (PARTITION BY k) AS c \
               FROM t) w JOIN t ON t.id = w.c";
    let expected = lines(&pair.plain.sql(sql).await.unwrap().collect().await.unwrap(), false);
    for (name, context) in &pair.sessions {
        assert_eq!(lines(&run(context, sql).await.unwrap().0, false), expected, "{name}");
    }
}

#[tokio::test]
async fn recursive_queries_are_joined_with_files_in_the_cluster() {
    let pair = pair().await;
    for sql in [
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i * 2 FROM n WHERE i < 1000) \
         SELECT t.k, count(*), min(n.i) FROM n JOIN t ON n.i = t.id GROUP BY t.k",
        "WITH RECURSIVE n AS (SELECT min(id) AS i FROM t UNION ALL SELECT t.v FROM n JOIN t ON n.i = t.id) \
         SELECT t.id, t.name FROM n JOIN t ON n.i = t.id",
    ] {
        pair.check(sql).await;
    }
}

/// The cluster computes what is below the window, and joins what is above it.
#[tokio::test]
async fn windows_with_a_filter_run_between_two_queries_of_the_cluster() {
    let pair = pair().await;
    let window = "SELECT k, count(*) FILTER (WHERE id % 3 = 0) OVER (PARTITION BY k ORDER BY id) AS c \
                  FROM (SELECT k, max(id) AS id FROM t WHERE id > 40 GROUP BY k, id % 50)";
    pair.check(&format!("SELECT k, max(c) FROM ({window}) GROUP BY k")).await;
    let sql = format!("SELECT w.c, count(*), sum(t.v) FROM ({window}) w JOIN t ON t.id = w.c GROUP BY w.c");
    pair.check(&sql).await;
    for (name, context) in &pair.sessions {
        let plan = explain(context, &format!("EXPLAIN {sql}")).await;
        let lines: Vec<_> = row(&plan, "physical_plan").lines().collect();
        assert_eq!(lines.iter().filter(|line| line.contains("DistributedQueryExec")).count(), 2, "{name}: {lines:?}");
        assert!(
            lines[0].starts_with("DistributedQueryExec") && lines.iter().any(|line| line.contains("WindowAggExec"))
        );
        let stages = row(&plan, "distributed_plan");
        assert!(stages.contains("DistributedQueryExec 2:") && stages.contains("HashJoinExec"), "{name}: {stages}");
    }
}

#[tokio::test]
async fn a_table_larger_than_any_plan_is_aggregated_in_the_cluster() {
    let pair = pair().await;
    let rows = 1 << 20;
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|x| x * 7919 % 1_000_003)));
    let names = (0..10).map(|number| format!("c{number}"));
    let batch = RecordBatch::try_from_iter(names.map(|name| (name, Arc::clone(&column)))).unwrap();
    // 336 MiB, of which a fifth is needed, in batches of all sizes.
    let partitions = vec![vec![batch.clone()], vec![batch.clone(), batch.slice(5, 1000)], vec![batch.clone(), batch]];
    for context in pair.all() {
        let table = MemTable::try_new(partitions[0][0].schema(), partitions.clone()).unwrap();
        context.register_table("large", Arc::new(table)).unwrap();
    }
    let summaries = pair.check("SELECT c0 % 10 AS k, count(*), sum(c1) FROM large GROUP BY k").await;
    assert!(summaries.iter().all(|summary| summary.stages > 1), "{summaries:?}");
    pair.check("SELECT count(*) FROM large WHERE c3 > 10").await;
    pair.check("SELECT count(*) FROM large CROSS JOIN (VALUES (1), (2)) AS v(x)").await;
    ran_here(&pair, "SELECT c5 FROM large WHERE c4 = 77").await;
}

/// Arrow's IPC writer would write other rows.
#[tokio::test]
async fn slices_of_unions_are_uploaded_as_they_are() {
    let pair = pair().await;
    let fields = UnionFields::from_fields(vec![Field::new("i", DataType::Int32, true)]);
    let ids: Vec<i32> = (0..40).collect();
    let union =
        UnionArray::try_new(fields, vec![0_i8; 40].into(), None, vec![Arc::new(Int32Array::from(ids))]).unwrap();
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
    let batch = RecordBatch::try_from_iter([("id", id), ("u", Arc::new(union) as ArrayRef)]).unwrap();
    for context in pair.all() {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.slice(10, 20)]]).unwrap();
        context.register_table("unions", Arc::new(table)).unwrap();
    }
    pair.check("SELECT unions.id, unions.u, t.k FROM unions JOIN t ON unions.id = t.id").await;
}

#[tokio::test]
async fn plans_with_uploads_are_explained_kept_and_written() {
    let pair = pair().await;
    let sql = "SELECT t.k, count(*) AS n FROM t JOIN mine ON t.id = mine.id GROUP BY t.k";
    for (number, (name, context)) in pair.sessions.iter().enumerate() {
        let plan = explain(context, &format!("EXPLAIN {sql}")).await;
        let physical = row(&plan, "physical_plan");
        assert!(
            physical.starts_with("DistributedQueryExec") && physical.contains("\n  StreamingTableExec"),
            "{physical}"
        );
        let stages = row(&plan, "distributed_plan");
        assert!(stages.contains("HashJoinExec"), "{name}: {stages}");
        for format in ["TREE", "GRAPHVIZ"] {
            assert!(explain(context, &format!("EXPLAIN FORMAT {format} {sql}")).await.len() > 1, "{name}");
        }
        let analyzed = explain(context, &format!("EXPLAIN ANALYZE {sql}")).await;
        let analyzed = row(&analyzed, "Plan with Metrics");
        assert!(analyzed.contains("uploaded_rows=1.47 K") && analyzed.contains("\n  stage "), "{name}: {analyzed}");

        let expected = lines(&pair.plain.sql(sql).await.unwrap().collect().await.unwrap(), false);
        let kept = context.sql(sql).await.unwrap().cache().await.unwrap();
        for _ in 0..2 {
            assert_eq!(lines(&kept.clone().collect().await.unwrap(), false), expected, "{name}");
        }
        let target = pair.path(&format!("written-{number}.parquet"));
        let (_, summary) = run(context, &format!("COPY ({sql}) TO '{}'", target.display())).await.unwrap();
        assert!(summary.is_some(), "{name}");
        let written = format!("SELECT * FROM '{}'", target.display());
        let written = SessionContext::new().enable_url_table().sql(&written).await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&written, false), expected, "{name}");
    }
}

/// A table that yields more than a chunk, waits to be told, and then ends as `last` says. `gone` when it is dropped.
fn register_slow(context: &SessionContext, go_on: &Arc<Notify>, gone: &Arc<AtomicBool>, last: fn() -> DataFusionError) {
    struct Gone(Arc<AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let batch = numbers(0..500_000);
    let schema = batch.schema();
    let (go_on, gone) = (Arc::clone(go_on), Arc::clone(gone));
    let rows = move || {
        let (go_on, gone) = (Arc::clone(&go_on), Gone(Arc::clone(&gone)));
        let failure = async move {
            go_on.notified().await;
            drop(gone);
            Err(last())
        };
        futures::stream::iter([Ok(batch.clone()), Ok(batch.clone())]).chain(failure.into_stream()).boxed()
    };
    let slow = Local { schema: Arc::clone(&schema), rows: Box::new(rows) };
    let other = Local { schema: Arc::clone(&schema), rows: Box::new(|| futures::stream::empty().boxed()) };
    register_partitions(context, "slow", &schema, vec![slow, other]);
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const SLOW: &str = "SELECT t.k, count(*), min(slow.name) FROM t JOIN slow ON t.id = slow.id GROUP BY t.k";

/// With rows in files, which can be seen.
fn on_disk(pair: &Pair) -> &SessionContext {
    let found = pair.sessions.iter().find(|(name, _)| *name == "on disk");
    &found.unwrap().1
}

#[tokio::test]
async fn a_failure_in_the_client_is_the_querys_and_frees_what_was_uploaded() {
    let pair = pair().await;
    let (go_on, gone) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let context = on_disk(&pair);
    register_slow(context, &go_on, &gone, || DataFusionError::ResourcesExhausted("the shelf is empty".to_owned()));
    let query = tokio::spawn(context.sql(SLOW).await.unwrap().collect());
    wait_until("a chunk is uploaded", || pair.shuffled_bytes() > 0).await;
    go_on.notify_one();
    let error = query.await.unwrap().unwrap_err();
    let DataFusionError::ResourcesExhausted(text) = error.find_root() else { panic!("{error:?}") };
    assert_eq!(text, "the shelf is empty");
    wait_until("nothing is kept", || pair.shuffled_bytes() == 0).await;
}

#[tokio::test]
async fn a_cancelled_upload_ends_in_the_client_and_frees_what_was_uploaded() {
    let pair = pair().await;
    let (go_on, gone) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let context = on_disk(&pair);
    register_slow(context, &go_on, &gone, || DataFusionError::Internal("was never told to go on".to_owned()));
    let mut rows = context.sql(SLOW).await.unwrap().execute_stream().await.unwrap();
    let uploaded = async { wait_until("a chunk is uploaded", || pair.shuffled_bytes() > 0).await };
    tokio::select! {
        row = rows.next() => panic!("{row:?}"),
        () = uploaded => {}
    }
    assert!(!gone.load(Ordering::Relaxed));
    drop(rows);
    wait_until("the client's part has ended", || gone.load(Ordering::Relaxed)).await;
    wait_until("nothing is kept", || pair.shuffled_bytes() == 0).await;
}

#[tokio::test]
async fn uploaded_rows_go_when_the_query_ends() {
    let pair = pair().await;
    let context = on_disk(&pair);
    let sql = "SELECT t.k, count(*) FROM t JOIN mine ON t.id = mine.id GROUP BY t.k";
    for _ in 0..3 {
        assert_eq!(run(context, sql).await.unwrap().1.unwrap().rows, 7);
    }
    wait_until("nothing is kept", || pair.shuffled_bytes() == 0).await;
}

#[tokio::test]
async fn tables_without_columns_are_counted() {
    let pair = pair().await;
    let none = Arc::new(Schema::empty());
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(30));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&none), vec![], &options).unwrap();
    for context in pair.all() {
        register_local(context, "rows", &none, &[vec![batch.clone(), batch.clone()], vec![batch.clone()]]);
    }
    pair.check("SELECT count(*) FROM t CROSS JOIN rows").await;
    pair.check("SELECT k, count(*) FROM t CROSS JOIN rows GROUP BY k").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn time_of_aggregates_over_tables_in_memory() {
    let rows = 8192;
    let column =
        |prime: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..rows).map(|x| x * prime % 1009))) };
    let batch = RecordBatch::try_from_iter([("k", column(7919)), ("v", column(104_729))]).unwrap();
    let sql = "SELECT k, count(*), sum(v) FROM large GROUP BY k ORDER BY k LIMIT 3";
    let pair = Pair::with_sessions([("two executors", crate::common::config())]).await;
    for mebibytes in [4, 7, 16, 64, 200, 1024] {
        for (name, context) in [
            ("plain", &SessionContext::new_with_config(crate::common::config())),
            ("standalone", &standalone(crate::common::config()).await),
            ("standalone, distributed", &standalone(broadcasting().with_batch_size(8192)).await),
            (pair.sessions[0].0, &pair.sessions[0].1),
        ] {
            let _ = context.deregister_table("large");
            let partitions = vec![vec![batch.clone(); mebibytes * 2]; 4];
            let table = MemTable::try_new(batch.schema(), partitions).unwrap();
            context.register_table("large", Arc::new(table)).unwrap();
            let mut times = vec![];
            for _ in 0..4 {
                let start = Instant::now();
                run(context, sql).await.unwrap();
                times.push(start.elapsed());
            }
            println!("{mebibytes} MiB, {name}: {times:.1?}");
        }
    }
}
