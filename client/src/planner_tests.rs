// SPDX-License-Identifier: Apache-2.0
//! What the planner ships and what it keeps, without a cluster: plans are made and never run.

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use ballista_exchange::LocalConnector;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{TableFunctionImpl, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use tonic::transport::Endpoint;

use crate::cluster::Cluster;
use crate::endpoint::client_over;
use crate::exec::DistributedQueryExec;
use crate::state::distributed_state;

async fn context(config: SessionConfig) -> Result<SessionContext> {
    let plain = SessionContext::new_with_config(config);
    let column = Arc::new(Int32Array::from(vec![1, 2, 3]));
    plain.register_batch("t", RecordBatch::try_from_iter([("a", column as _)])?)?;
    // Never called: nothing is executed.
    let scheduler = client_over(Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
    let cluster = Arc::new(Cluster::new("test", scheduler, Arc::new(LocalConnector::new())));
    Ok(SessionContext::new_with_state(distributed_state(plain.state(), cluster)))
}

async fn plan(sql: &str) -> Arc<dyn ExecutionPlan> {
    plan_with(SessionConfig::new().with_target_partitions(4), sql).await
}

async fn plan_with(config: SessionConfig, sql: &str) -> Arc<dyn ExecutionPlan> {
    let context = context(config).await.unwrap();
    let frame = context.sql(sql).await.unwrap();
    frame.create_physical_plan().await.unwrap()
}

fn is_shipped(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<DistributedQueryExec>().is_some()
}

fn text(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

#[tokio::test]
async fn queries_are_shipped_whole() {
    for sql in [
        "SELECT 1",
        "VALUES (1, 'x'), (2, NULL)",
        "SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1 ORDER BY a LIMIT 3 OFFSET 1",
        "SELECT * FROM t JOIN t u USING (a) LEFT JOIN t v ON t.a < v.a",
        "SELECT a FROM t WHERE a NOT IN (SELECT a FROM t) OR a > (SELECT avg(a) FROM t)",
        "SELECT a FROM t UNION ALL SELECT a + 1 FROM t EXCEPT SELECT 2",
        "SELECT a, sum(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT a, grouping(a) FROM t GROUP BY CUBE (a)",
        "SELECT unnest(make_array(a, a)) FROM t",
    ] {
        let plan = plan(sql).await;
        assert!(is_shipped(&plan), "{sql}\n{}", text(&plan));
    }
}

#[tokio::test]
async fn a_client_with_one_core_ships_the_same_plan() {
    let sql = "SELECT t.a, count(*) FROM t JOIN t u ON t.a = u.a GROUP BY t.a";
    for prefer_hash_join in ["true", "false"] {
        for partitions in [1, 8] {
            let config = SessionConfig::new()
                .with_target_partitions(partitions)
                .set_str("datafusion.optimizer.prefer_hash_join", prefer_hash_join);
            assert!(is_shipped(&plan_with(config, sql).await));
        }
    }
}

#[tokio::test]
async fn statements_about_the_client_stay_here() {
    let information = SessionConfig::new().with_information_schema(true);
    for sql in ["EXPLAIN SELECT * FROM t", "DESCRIBE t", "SHOW TABLES", "SELECT * FROM information_schema.columns"] {
        let plan = plan_with(information.clone(), sql).await;
        assert!(!text(&plan).contains("DistributedQueryExec"), "{sql}\n{}", text(&plan));
    }
}

#[tokio::test]
async fn what_cannot_be_encoded_runs_here() {
    let sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n";
    let plan = plan(sql).await;
    assert!(!text(&plan).contains("DistributedQueryExec"), "{}", text(&plan));
}

/// The nodes that run in the client, but for those that only pass rows on.
async fn placed(sql: &str) -> String {
    let context = context(SessionConfig::new().with_target_partitions(4)).await.unwrap();
    let column = Arc::new(Int32Array::from_iter_values(0..3_000_000));
    context.register_batch("large", RecordBatch::try_from_iter([("a", column as _)]).unwrap()).unwrap();
    context.register_udtf("local", Arc::new(LocalRows));
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let mut words = vec![];
    describe(&plan, &mut words);
    words.join(" ")
}

fn describe(plan: &Arc<dyn ExecutionPlan>, words: &mut Vec<String>) {
    let name = plan.name().trim_end_matches("Exec");
    match name {
        "Cooperative" | "CoalescePartitions" | "Repartition" | "Projection" | "CoalesceBatches" => {}
        _ => words.push(name.to_owned()),
    }
    plan.children().into_iter().for_each(|child| describe(child, words));
}

#[derive(Debug)]
struct LocalRows;

impl TableFunctionImpl for LocalRows {
    fn call(&self, _: &[Expr]) -> Result<Arc<dyn TableProvider>> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
        Ok(Arc::new(StreamingTable::try_new(schema, vec![])?))
    }
}

#[tokio::test]
async fn what_is_worth_it_is_uploaded() {
    for (sql, expected) in [
        // A large table, if something is computed of it.
        ("SELECT a % 5 AS k, count(*) FROM large GROUP BY k", "DistributedQuery DataSource"),
        ("SELECT l.a FROM large l JOIN t ON l.a = t.a", "DistributedQuery DataSource"),
        ("SELECT a FROM large WHERE a > (SELECT avg(a) FROM t) ORDER BY a", "DistributedQuery DataSource"),
        ("SELECT a FROM large WHERE a > 7 LIMIT 3", "Filter DataSource"),
        // Of rows of the client, if they meet some of the cluster.
        (
            "SELECT count(*) FROM local() l JOIN generate_series(1, 9) g(x) ON l.a = g.x",
            "DistributedQuery StreamingTable",
        ),
        (
            "SELECT x FROM generate_series(1, 9) g(x) WHERE x > (SELECT max(a) FROM local())",
            "DistributedQuery StreamingTable",
        ),
        ("SELECT a FROM local() UNION ALL SELECT x FROM generate_series(1, 9) g(x)", "Union StreamingTable LazyMemory"),
        (
            "SELECT a FROM local() UNION ALL SELECT count(*) FROM generate_series(1, 9) g(x)",
            "Union StreamingTable DistributedQuery",
        ),
        (
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) \
             SELECT sum(i) FROM n JOIN generate_series(1, 9) g(x) ON i = x",
            "DistributedQuery RecursiveQuery PlaceholderRow Filter WorkTable",
        ),
    ] {
        assert_eq!(placed(sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn explain_analyze_stays_on_top_and_writes_are_shipped() {
    let analyzed = plan("EXPLAIN ANALYZE SELECT a FROM t ORDER BY a").await;
    assert!(text(&analyzed).starts_with("DistributedAnalyzeExec"), "{}", text(&analyzed));
    assert!(is_shipped(analyzed.children()[0]));

    let folder = std::env::temp_dir().join("never-written.parquet");
    let copy = format!("COPY (SELECT a FROM t WHERE a > (SELECT min(a) FROM t) ORDER BY a) TO '{}'", folder.display());
    let copied = plan(&copy).await;
    // Rows that are counted here, task by task.
    assert!(is_shipped(&copied), "{}", text(&copied));

    // A table of this session's memory is filled here.
    let inserted = plan("INSERT INTO t SELECT a + 1 FROM t").await;
    assert!(is_shipped(inserted.children()[0]), "{}", text(&inserted));
}

#[tokio::test]
async fn only_an_order_that_was_asked_for_is_claimed() {
    let ordered = plan("SELECT a FROM t ORDER BY a LIMIT 2").await;
    assert!(ordered.properties().output_ordering().is_some());
    let grouped = plan("SELECT a FROM (SELECT a FROM t ORDER BY a) GROUP BY a").await;
    assert!(grouped.properties().output_ordering().is_none());
}

#[tokio::test]
async fn deep_plans_are_encoded() {
    let unions = vec!["SELECT a FROM t"; 300].join(" UNION ALL ");
    assert!(is_shipped(&plan(&unions).await));
    let mut nested = "SELECT a FROM t".to_owned();
    for _ in 0..40 {
        nested = format!("SELECT a + 1 AS a FROM ({nested}) GROUP BY a");
    }
    let config = SessionConfig::new().set_usize("datafusion.sql_parser.recursion_limit", 500);
    assert!(is_shipped(&plan_with(config, &nested).await));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn time_to_plan() {
    let context = context(SessionConfig::new()).await.unwrap();
    for sql in ["SELECT 1", "SELECT a, count(*) FROM t GROUP BY a"] {
        let frame = context.sql(sql).await.unwrap();
        let (state, logical) = frame.into_parts();
        let logical = state.optimize(&logical).unwrap();
        let planner = state.query_planner();
        let rounds = 1000;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            planner.create_physical_plan(&logical, &state).await.unwrap();
        }
        println!("{sql}: {:?} per plan", start.elapsed() / rounds);
    }
}
