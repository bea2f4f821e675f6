// SPDX-License-Identifier: Apache-2.0
//! Substrait plans give what plain DataFusion gives for the SQL that they were made of.

use ballista::prelude::*;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::common::collect;
use datafusion::prelude::SessionContext;
use datafusion_substrait::serializer::serialize_bytes;

use crate::common::{Sessions, lines};
use crate::pair::Pair;

const NUMBERS: &str = "SELECT x, x % 7 AS k, 'n' || x AS n FROM generate_series(1, 1000) AS g(x)";
const NAMES: &str = "SELECT k, 'name of ' || k AS name FROM generate_series(0, 4) AS g(k)";

/// Queries, and whether the order of their rows matters.
const QUERIES: [(&str, bool); 6] = [
    ("SELECT t.x, names.name FROM t JOIN names ON t.k = names.k WHERE t.x > 100", false),
    ("SELECT k, count(*) AS c, sum(x) AS s, min(n) AS m FROM t GROUP BY k", false),
    ("SELECT names.name, avg(t.x) AS a FROM t LEFT JOIN names ON t.k = names.k GROUP BY names.name", false),
    ("SELECT k, x, row_number() OVER (PARTITION BY k ORDER BY x DESC) AS r FROM t", false),
    ("SELECT x, n FROM t ORDER BY k, x DESC LIMIT 20", true),
    ("SELECT DISTINCT k FROM t WHERE k IN (1, 2, 3) AND n LIKE 'n1%'", false),
];

#[tokio::test]
async fn an_in_process_cluster_runs_substrait_plans() {
    let sessions = Sessions::new().await;
    sessions.parquet("t", NUMBERS, 4).await;
    sessions.parquet("names", NAMES, 2).await;
    for (sql, ordered) in QUERIES {
        let plan = serialize_bytes(sql, &sessions.plain).await.unwrap();
        let expected = lines(&sessions.plain.sql(sql).await.unwrap().collect().await.unwrap(), ordered);
        for (name, context) in &sessions.clusters {
            let rows = context.substrait(&plan).await.unwrap().collect().await.unwrap();
            assert_eq!(lines(&rows, ordered), expected, "{name}: {sql}");
        }
    }
}

#[tokio::test]
async fn a_remote_cluster_and_a_session_on_its_scheduler_run_substrait_plans() {
    let cluster = Pair::new().await;
    cluster.parquet("t", NUMBERS, 4).await;
    cluster.parquet("names", NAMES, 2).await;
    let server = ServerSession::open(&cluster.url(), [("ballista.planner.single_task_bytes", "0")]).await.unwrap();
    for table in ["t", "names"] {
        let location = cluster.path(table);
        let sql = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", location.display());
        server.sql(&sql).await.unwrap();
    }
    for (sql, ordered) in QUERIES {
        let plan = serialize_bytes(sql, &cluster.plain).await.unwrap();
        let expected = lines(&cluster.plain.sql(sql).await.unwrap().collect().await.unwrap(), ordered);
        for (name, context) in &cluster.sessions {
            let rows = context.substrait(&plan).await.unwrap().collect().await.unwrap();
            assert_eq!(lines(&rows, ordered), expected, "{name}: {sql}");
        }
        let rows = collect(server.substrait(plan).await.unwrap()).await.unwrap();
        assert_eq!(lines(&rows, ordered), expected, "on the scheduler: {sql}");
    }
}

#[tokio::test]
async fn what_is_no_plan_is_the_users_error() {
    let context = SessionContext::new();
    for bytes in [b"garbage".as_slice(), &[0xff; 64]] {
        let error = context.substrait(bytes).await.unwrap_err();
        assert!(matches!(&error, DataFusionError::Substrait(_)), "{error:?}");
    }
    let plain = Sessions::new().await;
    plain.parquet("t", NUMBERS, 1).await;
    let plan = serialize_bytes("SELECT x FROM t", &plain.plain).await.unwrap();
    // A table that this session does not have.
    let error = context.substrait(&plan).await.unwrap_err().to_string();
    assert!(error.contains('t'), "{error}");
    // No relation at all.
    assert!(context.substrait(&[]).await.is_err());
}
