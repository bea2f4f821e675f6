// SPDX-License-Identifier: Apache-2.0
//! Spark's functions: where DataFusion has one of the same name, a session gets those that it asked for, and so do the
//! executors that work for it, whatever they know themselves.

use ballista::prelude::*;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::common::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_spark::SessionStateBuilderSpark;

use crate::common::{config, distributed, lines, rows, standalone};
use crate::pair::{Pair, broadcasting, on_disk};

const TABLE: &str = "SELECT x, x % 5 AS k, 'a%20' || x AS t, CAST(x AS DOUBLE) / 3 AS d \
                     FROM generate_series(-100, 100) AS g(x)";

/// Each gives other rows, or none, with DataFusion's own functions.
const QUERIES: [&str; 7] = [
    // Half up, and 0.0 for what is rounded away; the type is another one, too.
    "SELECT k, ceil(d) AS c, floor(d) AS f FROM t",
    "SELECT k, concat(t, CAST(NULL AS VARCHAR), 'x') AS c FROM t",
    "SELECT url_decode(t) AS u, hex(x) AS h FROM t",
    "SELECT k, avg(x) AS a, try_sum(x) AS s FROM t GROUP BY k",
    "SELECT x, mod(x, 7) AS m, pmod(x, 7) AS p FROM t WHERE pmod(x, 7) > 3",
    "SELECT k, count(*) AS c, max(length(t)) AS l FROM t WHERE luhn_check(t) = false GROUP BY k",
    "SELECT x, sum(x) OVER (PARTITION BY bit_count(x) ORDER BY x) AS s FROM t",
];

fn spark(config: SessionConfig) -> SessionConfig {
    config.with_ballista_setting(|settings| settings.spark_functions = true)
}

/// Plain DataFusion with Spark's functions.
fn plain() -> SessionContext {
    let builder = SessionStateBuilder::new().with_config(config()).with_default_features();
    SessionContext::new_with_state(builder.with_spark_features().build())
}

async fn sorted(context: &SessionContext, sql: &str) -> Result<Vec<String>> {
    Ok(lines(&context.sql(sql).await?.collect().await?, false))
}

/// Creates the table, in files that everybody reads.
async fn create_table(context: &SessionContext, location: &std::path::Path) {
    let sql = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'", location.display());
    context.sql(&sql).await.unwrap();
}

#[tokio::test]
async fn executors_run_the_functions_that_the_session_meant() {
    let sessions = [("spark", spark(broadcasting())), ("spark, on disk", spark(on_disk())), ("own", broadcasting())];
    let cluster = Pair::with_sessions(sessions).await;
    cluster.parquet("t", TABLE, 4).await;
    let spark_plain = plain();
    create_table(&spark_plain, &cluster.path("t")).await;
    let in_process = standalone(spark(distributed(config()))).await;
    create_table(&in_process, &cluster.path("t")).await;
    let settings = [("ballista.functions.spark", "true"), ("ballista.planner.single_task_bytes", "0")];
    let server = ServerSession::open(&cluster.url(), settings).await.unwrap();
    let sql = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'", cluster.path("t").display());
    server.sql(&sql).await.unwrap();
    let [(_, memory), (_, disk), (_, own)] = cluster.sessions.as_slice() else { panic!() };
    for sql in QUERIES {
        let expected = sorted(&spark_plain, sql).await.unwrap();
        for (name, context) in [("memory", memory), ("disk", disk), ("in process", &in_process)] {
            let received = sorted(context, sql).await.unwrap_or_else(|error| panic!("{name}: {sql}\n{error}"));
            assert_eq!(received, expected, "{name}: {sql}");
        }
        let received = collect(server.sql(sql).await.unwrap()).await.unwrap();
        assert_eq!(lines(&received, false), expected, "on the scheduler: {sql}");
        // The same cluster, without the setting.
        match sorted(&cluster.plain, sql).await {
            Ok(plain) => {
                let received = sorted(own, sql).await.unwrap();
                assert_eq!(received, plain, "{sql}");
            }
            Err(_) => assert!(own.sql(sql).await.is_err(), "{sql}"),
        }
    }
    // They do differ.
    let sql = "SELECT concat('a', CAST(NULL AS VARCHAR)) AS c, ceil(CAST(0.5 AS DOUBLE)) AS d";
    assert_ne!(rows(memory, sql).await.unwrap(), rows(own, sql).await.unwrap());
}

#[tokio::test]
async fn a_function_of_datafusion_stays_one_in_a_session_with_sparks() {
    use datafusion::functions::expr_fn::ceil;
    use datafusion::prelude::col;
    let cluster = Pair::with_sessions([("spark", spark(broadcasting()))]).await;
    cluster.parquet("t", TABLE, 4).await;
    let in_process = standalone(spark(distributed(config()))).await;
    create_table(&in_process, &cluster.path("t")).await;
    let query = |context: &SessionContext| {
        let context = context.clone();
        async move {
            // Spark's gives whole numbers.
            let frame = context.table("t").await.unwrap().select(vec![col("x"), ceil(col("d")).alias("c")]).unwrap();
            lines(&frame.collect().await.unwrap(), false)
        }
    };
    let expected = query(&cluster.plain).await;
    assert!(expected.iter().any(|line| line.contains("-33.0")), "{expected:?}");
    assert_eq!(query(&cluster.sessions[0].1).await, expected);
    assert_eq!(query(&in_process).await, expected);
}

#[tokio::test]
async fn the_setting_must_be_made_with_the_session() {
    let context = standalone(config()).await;
    let refused = |error: DataFusionError| {
        let text = error.to_string();
        assert!(text.contains("ballista.functions.spark must be set when the session is made"), "{text}");
    };
    context.sql("SET ballista.functions.spark = true").await.unwrap();
    refused(rows(&context, "SELECT 1").await.unwrap_err());
    context.sql("SET ballista.functions.spark = false").await.unwrap();
    assert!(rows(&context, "SELECT 1").await.is_ok());
    let context = standalone(spark(config())).await;
    assert!(rows(&context, "SELECT url_decode('a%20b')").await.is_ok());
    // What makes a session anew, in whatever order it registers functions, keeps them.
    let context = context.enable_url_table();
    for sql in [
        "SELECT length('abc')",
        "SELECT date_trunc('YEAR', TIMESTAMP '2020-05-05 10:00:00')",
        "SELECT array_repeat(1, 2)",
    ] {
        assert_eq!(rows(&context, sql).await.unwrap(), rows(&plain(), sql).await.unwrap());
    }
    context.sql("SET ballista.functions.spark = false").await.unwrap();
    refused(rows(&context, "SELECT 1").await.unwrap_err());
}
