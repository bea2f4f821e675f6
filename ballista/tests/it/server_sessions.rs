// SPDX-License-Identifier: Apache-2.0
//! Sessions that live on the scheduler: what they keep, what they give, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use ballista::prelude::*;
use ballista::{ClassifiedError, ErrorClass, ExecutorHandle, SchedulerHandle};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::physical_plan::common::collect;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::common::{config, lines};
use crate::pair::Pair;

const NO_SETTINGS: [(&str, &str); 0] = [];

/// Settings with which everything that can be distributed is.
const DISTRIBUTED: [(&str, &str); 1] = [("ballista.planner.single_task_bytes", "0")];

async fn serve(builder: SchedulerBuilder) -> (SchedulerHandle, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("df://{}", listener.local_addr().unwrap());
    (builder.build().unwrap().serve(listener).unwrap(), url)
}

async fn executor(url: &str) -> ExecutorHandle {
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let executor = ExecutorBuilder::new().with_slots(2).with_scheduler("127.0.0.1", port).start().await.unwrap();
    executor.registered().await.unwrap();
    executor
}

async fn run(session: &ServerSession, sql: &str) -> Result<Vec<RecordBatch>> {
    collect(session.sql(sql).await?).await
}

async fn check(session: &ServerSession, plain: &SessionContext, sql: &str, ordered: bool) {
    let expected = plain.sql(sql).await.unwrap().collect().await.unwrap();
    let received = run(session, sql).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
    assert_eq!(lines(&received, ordered), lines(&expected, ordered), "{sql}");
}

fn class(error: &DataFusionError) -> Option<ErrorClass> {
    let DataFusionError::External(inner) = error else { return None };
    inner.downcast_ref::<ClassifiedError>().map(|error| error.class)
}

#[tokio::test]
async fn what_a_session_creates_and_sets_is_its_own() {
    let cluster = Pair::with_sessions([]).await;
    cluster.parquet("t", "SELECT x, x % 7 AS k FROM generate_series(1, 1000) AS g(x)", 4).await;
    let table = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'", cluster.path("t").display());
    let first = ServerSession::open(&cluster.url(), DISTRIBUTED).await.unwrap();
    let second = ServerSession::open(&cluster.url(), NO_SETTINGS).await.unwrap();
    for sql in [&table, "CREATE VIEW v AS SELECT k, count(*) AS c, sum(x) AS s FROM t GROUP BY k"] {
        assert!(run(&first, sql).await.unwrap().is_empty(), "{sql}");
        cluster.plain.sql(sql).await.ok();
    }
    run(&first, "SET datafusion.execution.batch_size = 10").await.unwrap();
    let sql = "SELECT * FROM v ORDER BY k";
    check(&first, &cluster.plain, sql, true).await;
    let error = run(&second, sql).await.unwrap_err();
    assert!(
        matches!(&error, DataFusionError::Plan(text) if text.contains("'datafusion.public.v' not found")),
        "{error}"
    );
    let shown = "SELECT name, value FROM information_schema.df_settings WHERE name IN \
                 ('datafusion.execution.batch_size', 'ballista.planner.single_task_bytes') ORDER BY name";
    let text = |rows: Vec<RecordBatch>| crate::pair::text(&rows, true).join(" ");
    let settings = text(run(&first, shown).await.unwrap());
    assert!(settings.contains("single_task_bytes | 0 |") && settings.contains("batch_size | 10 |"), "{settings}");
    assert!(!text(run(&second, shown).await.unwrap()).contains("| 10 |"));
    // The first one's table is not in the way.
    run(&second, "CREATE VIEW v AS SELECT 1 AS a").await.unwrap();
    run(&second, "DROP VIEW v").await.unwrap();
    check(&first, &cluster.plain, sql, true).await;
    for session in [first, second] {
        session.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_gives_the_rows_of_datafusion_wherever_it_runs() {
    let cluster = Pair::with_sessions([]).await;
    cluster.parquet("t", "SELECT x, x % 7 AS k, 'n' || x AS n FROM generate_series(1, 1000) AS g(x)", 4).await;
    let session = ServerSession::open(&cluster.url(), DISTRIBUTED).await.unwrap();
    let table = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'", cluster.path("t").display());
    run(&session, &table).await.unwrap();
    for sql in
        ["CREATE TABLE names AS SELECT k, max(n) AS n FROM t GROUP BY k", "CREATE TABLE empty (a BIGINT, b VARCHAR)"]
    {
        run(&session, sql).await.unwrap();
        cluster.plain.sql(sql).await.unwrap().collect().await.unwrap();
    }
    for sql in [
        "SELECT t.k, names.n, count(*), sum(x) FROM t JOIN names ON t.k = names.k GROUP BY t.k, names.n",
        "SELECT a.x, b.x FROM t a JOIN t b ON a.x = b.x + 500 WHERE a.k = 3",
        "SELECT k, x, row_number() OVER (PARTITION BY k ORDER BY x DESC) AS r FROM t",
        "SELECT * FROM empty",
        // In the scheduler itself.
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 100) SELECT count(*), sum(n) FROM r",
        "DESCRIBE t",
        "SHOW TABLES",
    ] {
        check(&session, &cluster.plain, sql, false).await;
    }
    for sql in ["SELECT x, n FROM t ORDER BY k, x DESC", "SELECT x FROM t ORDER BY x DESC LIMIT 7"] {
        check(&session, &cluster.plain, sql, true).await;
    }
    let file = format!("SELECT count(*) FROM '{}/000.parquet'", cluster.path("t").display());
    assert_eq!(run(&session, &file).await.unwrap()[0].num_rows(), 1);
    // Written by executors, counted by the scheduler.
    let copy = format!("COPY (SELECT * FROM t) TO '{}/' STORED AS PARQUET", cluster.path("copy").display());
    let counted = lines(&run(&session, &copy).await.unwrap(), true);
    assert!(counted.iter().any(|line| line.contains("1000")), "{counted:?}");
    run(&session, &table.replace("TABLE t", "TABLE copied").replace("/t/", "/copy/")).await.unwrap();
    let copied = run(&session, "SELECT count(*) AS c, sum(x) AS s FROM copied").await.unwrap();
    let expected =
        cluster.plain.sql("SELECT count(*) AS c, sum(x) AS s FROM t").await.unwrap().collect().await.unwrap();
    assert_eq!(lines(&copied, true), lines(&expected, true));
    let explained = lines(&run(&session, "EXPLAIN SELECT k, count(*) FROM t GROUP BY k").await.unwrap(), true);
    assert!(explained.iter().any(|line| line.contains("stage 1")), "{explained:#?}");
    let analyzed = lines(&run(&session, "EXPLAIN ANALYZE SELECT k, count(*) FROM t GROUP BY k").await.unwrap(), true);
    assert!(analyzed.iter().any(|line| line.contains("stage 1")), "{analyzed:#?}");
}

#[tokio::test]
async fn a_large_result_and_many_statements_at_once() {
    let cluster = Pair::with_sessions([]).await;
    let session = ServerSession::open(&cluster.url(), DISTRIBUTED).await.unwrap();
    let sql = "SELECT x, repeat('x', 20) AS t FROM generate_series(1, 300000) AS t(x) ORDER BY x * 7919 % 300007";
    check(&session, &cluster.plain, sql, true).await;
    let sql = "SELECT x % 5 AS k, count(*), sum(x) FROM generate_series(1, 100000) AS t(x) GROUP BY k ORDER BY k";
    let expected = lines(&cluster.plain.sql(sql).await.unwrap().collect().await.unwrap(), true);
    let many = futures::future::join_all((0..30).map(|_| run(&session, sql))).await;
    assert!(many.into_iter().all(|rows| lines(&rows.unwrap(), true) == expected));
}

#[tokio::test]
async fn errors_keep_their_class_and_leave_the_session_as_it_was() {
    let cluster = Pair::with_sessions([]).await;
    let session = ServerSession::open(&cluster.url(), DISTRIBUTED).await.unwrap();
    let plain = SessionContext::new_with_config(config());
    for sql in
        ["SELECT * FROM nowhere", "SELECT 10 / (x - 5) FROM generate_series(1, 10) AS t(x)", "SET ballista.no.such = 1"]
    {
        let expected = match plain.sql(sql).await {
            Ok(frame) => frame.collect().await.unwrap_err(),
            Err(error) => error,
        };
        let error = run(&session, sql).await.unwrap_err();
        assert!(class(&error).is_none(), "{error}");
        if !sql.starts_with("SET") {
            assert_eq!(error.strip_backtrace(), expected.strip_backtrace(), "{sql}");
        }
    }
    for sql in ["SELECT nope", "SELECT FROM WHERE"] {
        let error = run(&session, sql).await.unwrap_err();
        assert!(matches!(error, DataFusionError::Plan(_)), "{error:?}");
    }
    let error = session.substrait(b"no plan at all".as_slice()).await.err().unwrap();
    assert!(matches!(error, DataFusionError::Substrait(_)), "{error:?}");
    assert_eq!(run(&session, "SELECT 1").await.unwrap()[0].num_rows(), 1);
    for setting in ["ballista.no.such", "datafusion.no.such", "nothing"] {
        let error = ServerSession::open(&cluster.url(), [(setting, "1")]).await.unwrap_err();
        assert!(matches!(&error, DataFusionError::Configuration(text) if text.contains(setting)), "{error:?}");
    }
}

#[tokio::test]
async fn sessions_are_bounded_and_end_when_they_are_closed_or_idle() {
    let idle = Duration::from_millis(400);
    let (_scheduler, url) = serve(SchedulerBuilder::new().max_sessions(2).session_idle(idle)).await;
    let first = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    assert_eq!(first.idle_limit(), idle);
    let second = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    let error = ServerSession::open(&url, NO_SETTINGS).await.unwrap_err();
    assert_eq!(class(&error), Some(ErrorClass::Resource), "{error}");
    second.close().await.unwrap();
    let third = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    // Used all the time, the third one stays.
    for _ in 0..8 {
        run(&third, "SHOW TABLES").await.unwrap();
        tokio::time::sleep(idle / 4).await;
    }
    let error = run(&first, "SHOW TABLES").await.unwrap_err();
    assert_eq!(class(&error), Some(ErrorClass::Fenced), "{error}");
    // Its place is free; dropping a session closes it.
    drop(ServerSession::open(&url, NO_SETTINGS).await.unwrap());
    let start = Instant::now();
    while ServerSession::open(&url, NO_SETTINGS).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
        run(&third, "SHOW TABLES").await.unwrap();
    }
}

#[tokio::test]
async fn a_scheduler_can_be_told_to_take_no_sql() {
    let (_scheduler, url) = serve(SchedulerBuilder::new().sql_sessions(false)).await;
    let error = ServerSession::open(&url, NO_SETTINGS).await.unwrap_err();
    assert!(error.to_string().contains("--no-sql-sessions"), "{error}");
    let standalone = crate::common::standalone(config()).await;
    let state = standalone.state();
    let planner: &dyn std::any::Any = state.query_planner().as_ref();
    let cluster = planner.downcast_ref::<ballista::BallistaQueryPlanner>().unwrap().cluster();
    assert!(ServerSession::open_on(Arc::clone(cluster), NO_SETTINGS).await.is_err());
}

/// A scheduler whose sessions have a function `tick` that counts its rows, and a view.
async fn ticking() -> (SchedulerHandle, String, Arc<AtomicUsize>) {
    let ticks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ticks);
    let tick = move |arguments: &[ColumnarValue]| {
        let rows = match &arguments[0] {
            ColumnarValue::Array(array) => array.len(),
            ColumnarValue::Scalar(_) => 1,
        };
        counted.fetch_add(rows, Ordering::Relaxed);
        Ok(arguments[0].clone())
    };
    let context = SessionContext::new_with_state(SessionStateBuilder::new_with_default_features().build());
    let text = DataType::Utf8;
    context.register_udf(create_udf("tick", vec![text.clone()], text, Volatility::Volatile, Arc::new(tick)));
    context.sql("CREATE VIEW everybodys AS SELECT 42 AS answer").await.unwrap();
    let (scheduler, url) = serve(SchedulerBuilder::new().session_state(context.state())).await;
    (scheduler, url, ticks)
}

/// Runs in the scheduler, row by row if batches have one, each of a megabyte.
const WIDE: &str = "SELECT tick(repeat('x', 1000000) || a.name) AS w FROM information_schema.df_settings a \
                    JOIN information_schema.df_settings b ON a.name < b.name";

/// The number of rows, once there are no more.
async fn settled(ticks: &AtomicUsize) -> usize {
    let start = Instant::now();
    let mut seen = ticks.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match ticks.load(Ordering::Relaxed) {
            now if now == seen => return now,
            now => seen = now,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{seen} rows, and no end");
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_makes_the_scheduler_wait() {
    let (_scheduler, url, ticks) = ticking().await;
    let session = ServerSession::open(&url, [("datafusion.execution.batch_size", "1")]).await.unwrap();
    let mut rows = session.sql(&format!("{WIDE} LIMIT 200")).await.unwrap();
    let mut received = 0;
    // Each look at the stream is an occasion to take more than was asked for.
    for _ in 0..12 {
        received += rows.next().await.unwrap().unwrap().num_rows();
        settled(&ticks).await;
    }
    let ahead = settled(&ticks).await;
    assert!(ahead < 60, "{ahead} megabytes for a client that read {received}");
    while let Some(batch) = rows.next().await {
        received += batch.unwrap().num_rows();
    }
    assert_eq!(received, 200);
}

#[tokio::test]
async fn a_dropped_stream_cancels_what_runs_in_the_scheduler_and_in_executors() {
    let (_scheduler, url, ticks) = ticking().await;
    let _executor = executor(&url).await;
    let session = ServerSession::open(&url, [("datafusion.execution.batch_size", "1")]).await.unwrap();
    let mut rows = session.sql(WIDE).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    drop(rows);
    let seen = settled(&ticks).await;
    assert!(seen < 1000, "{seen} rows for nobody");
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) AS t(x) WHERE x % 7 = 3";
    let rows = session.sql(endless).await.unwrap();
    let states = || async {
        session.cluster().overview().await.unwrap().jobs.into_iter().map(|job| job.state).collect::<Vec<_>>()
    };
    while !states().await.contains(&"running".to_owned()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(rows);
    let start = Instant::now();
    while states().await.contains(&"running".to_owned()) {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn tables_and_functions_of_the_schedulers_state_are_there_and_stay() {
    let (_scheduler, url, ticks) = ticking().await;
    let session = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    let other = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    let _executor = executor(&url).await;
    assert_eq!(run(&session, "SELECT answer FROM everybodys").await.unwrap()[0].num_rows(), 1);
    run(&session, "SELECT tick(table_name) FROM information_schema.tables LIMIT 1").await.unwrap();
    assert!(ticks.load(Ordering::Relaxed) > 0);
    run(&session, "DROP VIEW everybodys").await.unwrap();
    assert!(run(&session, "SELECT answer FROM everybodys").await.is_err());
    assert_eq!(run(&other, "SELECT answer FROM everybodys").await.unwrap()[0].num_rows(), 1);
}

#[tokio::test]
async fn a_scheduler_that_stops_fails_the_statements_that_it_runs_itself() {
    let (scheduler, url, _ticks) = ticking().await;
    let session = ServerSession::open(&url, [("datafusion.execution.batch_size", "1")]).await.unwrap();
    let mut rows = session.sql(WIDE).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    scheduler.shutdown().await.unwrap();
    let end = async {
        loop {
            match rows.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(20), end).await.unwrap();
    assert!(matches!(end, Some(Err(_))), "cut short without an error");
}

/// Whatever a session calls its own default catalog and schema, others see nothing of what it does.
#[tokio::test]
async fn no_session_changes_what_another_one_starts_with() {
    let (_scheduler, url) = serve(SchedulerBuilder::new()).await;
    let _executor = executor(&url).await;
    let settings = [("datafusion.catalog.default_catalog", "own"), ("datafusion.catalog.default_schema", "mine")];
    let one = ServerSession::open(&url, settings).await.unwrap();
    run(&one, "CREATE VIEW here AS SELECT 1 AS a").await.unwrap();
    for (name, sql) in [("orders", "CREATE VIEW datafusion.public.orders AS SELECT 13 AS a"), ("s", "CREATE SCHEMA s")]
    {
        // Refused or without effect on others, either is fine.
        let _ = run(&one, sql).await;
        let other = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
        assert!(run(&other, &format!("SELECT * FROM {name}")).await.is_err(), "{sql}");
    }
    run(&one, "SELECT * FROM own.mine.here").await.unwrap();
}

/// Listings are kept by name and path; those of another session may be of another time, or of another store.
#[tokio::test]
async fn no_session_reads_listings_of_another_one() {
    let (_scheduler, url) = serve(SchedulerBuilder::new()).await;
    let _executor = executor(&url).await;
    let folder = tempfile::tempdir().unwrap();
    let create = format!("CREATE EXTERNAL TABLE t (a BIGINT) STORED AS CSV LOCATION '{}/'", folder.path().display());
    for files in 1..=3 {
        std::fs::write(folder.path().join(format!("{files}.csv")), "a\n1\n").unwrap();
        let session = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
        run(&session, &create).await.unwrap();
        let counted = run(&session, "SELECT count(*) AS n FROM t").await.unwrap();
        assert!(lines(&counted, true).iter().any(|line| line.contains(&format!("| {files} |"))), "{counted:?}");
    }
}

#[tokio::test]
async fn a_statement_that_is_too_long_is_refused_and_the_scheduler_goes_on() {
    let (_scheduler, url) = serve(SchedulerBuilder::new()).await;
    let _executor = executor(&url).await;
    let session = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    let long = format!("SELECT {}", vec!["1"; 200_000].join("+"));
    let error = run(&session, &long).await.unwrap_err();
    assert!(error.to_string().contains("takes up to 128 KiB"), "{error}");
    let other = ServerSession::open(&url, NO_SETTINGS).await.unwrap();
    assert_eq!(run(&other, "SELECT 1 AS a").await.unwrap()[0].num_rows(), 1);
}
