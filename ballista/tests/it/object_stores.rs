// SPDX-License-Identifier: Apache-2.0
//! Tables in S3 and on the web, read and written by two executors that know nothing of them beforehand.

use std::sync::Arc;

use ballista::{ClientConfigExt as _, prelude::*};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::object_store::DefaultObjectStoreRegistry;
use datafusion::prelude::SessionContext;
use tokio::net::TcpListener;
use url::Url;

use crate::common::{config, distributed, rows, standalone};
use crate::pair::{Pair, broadcasting, on_disk, run};
use crate::s3::{ACCESS_KEY, S3, SECRET};

const SOURCE: &str = "SELECT x AS id, x % 5 AS k, 'row ' || x AS text FROM generate_series(1, 20000) AS t(x)";

async fn cluster() -> Pair {
    Pair::with_sessions([("broadcasting", broadcasting()), ("on disk", on_disk())]).await
}

/// Puts the rows of [`SOURCE`] into a bucket as four Parquet files.
async fn fill(s3: &S3) {
    let plain = SessionContext::new();
    for part in 0..4 {
        let folder = s3.path("source");
        std::fs::create_dir_all(&folder).unwrap();
        let frame = plain.sql(&format!("{SOURCE} WHERE x % 4 = {part}")).await.unwrap();
        let file = folder.join(format!("{part}.parquet"));
        frame.write_parquet(file.to_str().unwrap(), Default::default(), None).await.unwrap();
    }
}

async fn written(context: &SessionContext, sql: &str) -> u64 {
    let (counts, summary) = run(context, sql).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
    assert!(summary.is_some(), "{sql}\nran in the client");
    counts[0].column(0).as_primitive::<UInt64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_opened_by_the_options_of_its_statement() {
    let (s3, cluster) = (S3::start(true).await, cluster().await);
    fill(&s3).await;
    let plain = SessionContext::new();
    plain.register_parquet("t", s3.path("source/").to_str().unwrap(), Default::default()).await.unwrap();
    let query = "SELECT k, count(*), min(text), sum(id) FROM t GROUP BY k ORDER BY k";
    let expected = rows(&plain, query).await.unwrap();
    for (name, context) in &cluster.sessions {
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://data/source/' {}", s3.options());
        context.sql(&create).await.unwrap().collect().await.unwrap();
        let (_, summary) = run(context, query).await.unwrap();
        let summary = summary.unwrap_or_else(|| panic!("{name}: ran in the client"));
        assert!(summary.tasks > summary.stages, "{name}: {summary:?}");
        assert_eq!(rows(context, query).await.unwrap(), expected, "{name}");
    }
    // In a process of its own a cluster has what the session has.
    let context = standalone(distributed(config())).await;
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://data/source/' {}", s3.options());
    context.sql(&create).await.unwrap().collect().await.unwrap();
    assert_eq!(rows(&context, query).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_session_open_files_named_in_a_query() {
    let (s3, cluster) = (S3::start(true).await, cluster().await);
    fill(&s3).await;
    for (name, context) in &cluster.sessions {
        let context = context.clone().enable_url_table();
        for (key, value) in s3.settings() {
            context.sql(&format!("SET {key} = '{value}'")).await.unwrap().collect().await.unwrap();
        }
        let (found, summary) =
            run(&context, "SELECT sum(id) AS s FROM 's3://data/source/1.parquet' WHERE k = 1").await.unwrap();
        assert!(summary.is_some(), "{name}: ran in the client");
        let sum: i64 = (1..=20000).filter(|id| id % 4 == 1 && id % 5 == 1).sum();
        assert!(pretty_format_batches(&found).unwrap().to_string().contains(&format!("| {sum} ")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_write_to_s3_and_only_what_succeeds_can_be_seen() {
    let (s3, cluster) = (S3::start(true).await, cluster().await);
    fill(&s3).await;
    for (name, context) in &cluster.sessions {
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://data/source/' {}", s3.options());
        context.sql(&create).await.unwrap().collect().await.unwrap();
        let target = format!("written-{}", name.replace(' ', "-"));
        // Rows that take several parts of an upload per file: a part has five MiB at least.
        let wide = format!(
            "COPY (SELECT k, id, repeat(md5(CAST(id * 4 + y AS varchar)), 30) AS wide FROM t, generate_series(0, 3) AS \
             s(y)) TO 's3://data/{target}/' STORED AS PARQUET PARTITIONED BY (k) {}",
            s3.options().replace(')', ", 'format.compression' 'uncompressed')")
        );
        assert_eq!(written(context, &wide).await, 80_000, "{name}");
        let objects = s3.objects(&target);
        assert!(objects.iter().any(|object| object.metadata().unwrap().len() > 6 << 20), "{name}: {objects:?}");
        assert!(s3.unfinished().is_empty(), "{name}: {:?}", s3.unfinished());
        let back = format!(
            "CREATE EXTERNAL TABLE back STORED AS PARQUET PARTITIONED BY (k) LOCATION 's3://data/{target}/' {}",
            s3.options()
        );
        context.sql(&back).await.unwrap().collect().await.unwrap();
        let figures = "count(*) AS n, sum(id) AS s, md5(min(wide)) AS w, max(length(wide)) AS l";
        let query = format!("SELECT k, {figures} FROM back GROUP BY k ORDER BY k");
        let source = format!(
            "SELECT CAST(k AS varchar) AS k, {figures} FROM (SELECT k, id, repeat(md5(CAST(id * 4 + y AS varchar)), 30) \
             AS wide FROM t, generate_series(0, 3) AS s(y)) GROUP BY k ORDER BY k"
        );
        assert_eq!(rows(context, &query).await.unwrap(), rows(context, &source).await.unwrap(), "{name}");

        // Fails after many rows have been sent.
        let fails = format!(
            "COPY (SELECT k, repeat(md5(CAST(id AS varchar)), 400) AS wide, 1 / (id - 19999) AS d FROM t) TO \
             's3://data/failed/' STORED AS PARQUET {}",
            s3.options().replace(')', ", 'format.compression' 'uncompressed')")
        );
        let error = run(context, &fails).await.unwrap_err().to_string();
        assert!(error.contains("Divide by zero"), "{name}: {error}");
        assert_eq!(s3.objects("failed"), Vec::<std::path::PathBuf>::new(), "{name}");
        for _ in 0..100 {
            if s3.unfinished().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(s3.unfinished().is_empty(), "{name}: {:?}", s3.unfinished());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_into_s3_appends() {
    let (s3, cluster) = (S3::start(true).await, cluster().await);
    let (_, context) = &cluster.sessions[0];
    let create = format!(
        "CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR) STORED AS CSV LOCATION 's3://data/csv/' {}",
        s3.options()
    );
    context.sql(&create).await.unwrap().collect().await.unwrap();
    for n in [100, 50] {
        let insert = format!("INSERT INTO t SELECT x, 'row ' || x FROM generate_series(1, {n}) AS s(x)");
        assert_eq!(written(context, &insert).await, n);
    }
    let counted = rows(context, "SELECT count(*), sum(a), max(b) FROM t").await.unwrap();
    assert!(counted.iter().any(|row| row.contains("150") && row.contains("6325")), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_web_server_are_tables() {
    let (s3, cluster) = (S3::start(false).await, cluster().await);
    fill(&s3).await;
    for (name, context) in &cluster.sessions {
        let context = context.clone().enable_url_table();
        let sql = format!("SELECT count(*) AS n, max(id) AS m FROM '{}/data/source/0.parquet'", s3.endpoint());
        let (found, summary) = run(&context, &sql).await.unwrap();
        assert!(summary.is_some(), "{name}: ran in the client");
        assert!(pretty_format_batches(&found).unwrap().to_string().contains("| 5000 | 20000 |"), "{name}");
    }
}

/// Nobody but the executors of the job hears of credentials.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_shown_nowhere() {
    let (s3, cluster) = (S3::start(true).await, cluster().await);
    fill(&s3).await;
    let (_, context) = &cluster.sessions[0];
    let options = s3.options();
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://data/source/' {options}");
    context.sql(&create).await.unwrap().collect().await.unwrap();
    context.sql(&format!("SET aws.secret_access_key = '{SECRET}'")).await.unwrap().collect().await.unwrap();
    let mut shown = vec![];
    for sql in [
        "SHOW ALL".to_owned(),
        "SHOW aws.secret_access_key".to_owned(),
        "SELECT * FROM information_schema.df_settings".to_owned(),
        "SELECT * FROM information_schema.views".to_owned(),
        "SELECT * FROM information_schema.tables".to_owned(),
        "SHOW CREATE TABLE t".to_owned(),
        "EXPLAIN VERBOSE SELECT * FROM t".to_owned(),
        "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM t".to_owned(),
        format!("EXPLAIN VERBOSE COPY t TO 's3://data/x/' STORED AS PARQUET {options}"),
        format!("EXPLAIN COPY t TO 's3://data/x/' STORED AS PARQUET {options}"),
        format!("EXPLAIN ANALYZE COPY t TO 's3://data/x/' STORED AS PARQUET {options}"),
    ] {
        let text = match context.sql(&sql).await {
            Ok(frame) => pretty_format_batches(&frame.collect().await.unwrap_or_else(|error| panic!("{sql}\n{error}")))
                .unwrap()
                .to_string(),
            Err(error) => error.to_string(),
        };
        shown.push((sql, text));
    }
    // Errors of the store, and of options that are wrong.
    let wrong = options.replace(SECRET, "another-secret");
    for sql in [
        format!("CREATE EXTERNAL TABLE u STORED AS PARQUET LOCATION 's3://data/source/' {wrong}"),
        create.replace("aws.region", "aws.regoin"),
        format!("COPY t TO 's3://data/x/' STORED AS PARQUET {wrong}"),
    ] {
        let error = match context.sql(&sql).await {
            Ok(frame) => frame.collect().await.unwrap_err(),
            Err(error) => error,
        };
        shown.push((sql, format!("{error}\n{error:?}")));
    }
    // None of these has changed how the table is read.
    run(context, "SELECT count(*) FROM t").await.unwrap();
    shown.push(("state".to_owned(), format!("{:?}", context.state().config_options())));
    shown.push(("registry".to_owned(), format!("{:?}", context.runtime_env().object_store_registry)));
    for (what, text) in shown {
        assert!(!text.is_empty(), "{what}");
        for secret in [SECRET, ACCESS_KEY, "another-secret"] {
            assert!(!text.contains(secret), "{what}:\n{text}");
        }
    }
}

/// A job without credentials gets none of another one's, on the same executors.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_serve_one_job() {
    let s3 = S3::start(true).await;
    fill(&s3).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _scheduler = SchedulerBuilder::new().build().unwrap().serve(listener).unwrap();
    let executor = ExecutorBuilder::new().with_scheduler("127.0.0.1", port).with_slots(2);
    // Opens nothing by itself.
    let executor = executor.with_object_store_registry(Arc::new(DefaultObjectStoreRegistry::new()));
    let executor = executor.start().await.unwrap();
    executor.registered().await.unwrap();
    let session = || async {
        let config = config().with_ballista_setting(|settings| settings.single_task_bytes = 0);
        let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
        SessionContext::remote_with_state(&format!("df://127.0.0.1:{port}"), state).await.unwrap()
    };
    let (one, other) = (session().await, session().await);
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://data/source/' {}", s3.options());
    one.sql(&create).await.unwrap().collect().await.unwrap();
    run(&one, "SELECT k, count(*) FROM t GROUP BY k").await.unwrap();

    // The client of the other session may read, but has no options that could be passed on.
    let url = Url::parse("s3://data").unwrap();
    other.register_object_store(&url, one.runtime_env().object_store(url_of(&url)).unwrap());
    other.register_parquet("t", "s3://data/source/", Default::default()).await.unwrap();
    let error = run(&other, "SELECT k, count(*) FROM t GROUP BY k").await.unwrap_err().to_string();
    assert!(error.contains("object store"), "{error}");
    run(&one, "SELECT k, count(*) FROM t GROUP BY k").await.unwrap();
}

fn url_of(url: &Url) -> datafusion::execution::object_store::ObjectStoreUrl {
    datafusion::execution::object_store::ObjectStoreUrl::parse(url.as_str()).unwrap()
}
