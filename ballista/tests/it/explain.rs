// SPDX-License-Identifier: Apache-2.0
//! `EXPLAIN` shows what the cluster would do.

use arrow::array::AsArray;
use datafusion::prelude::SessionContext;

use crate::common::Sessions;

const JOIN: &str = "SELECT p.city, count(*) AS n, sum(o.amount) FROM orders o JOIN people p ON o.person = p.id \
                    GROUP BY p.city ORDER BY p.city";

async fn sessions() -> Sessions {
    let sessions = Sessions::new().await;
    sessions.csv("people", &["id,city\n1,berlin\n2,paris\n", "id,city\n3,rome\n4,paris\n"]).await;
    let orders = "SELECT x AS id, x % 5 AS person, x * 1.5 AS amount FROM generate_series(1, 200) AS t(x)";
    sessions.parquet("orders", orders, 4).await;
    sessions
}

/// Kind and text of each row.
pub async fn explain(context: &SessionContext, sql: &str) -> Vec<(String, String)> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = vec![];
    for batch in &batches {
        let (kinds, texts) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        rows.extend(kinds.iter().zip(texts.iter()).map(|(kind, text)| (kind.unwrap().into(), text.unwrap().into())));
    }
    rows
}

fn kinds(rows: &[(String, String)]) -> Vec<&str> {
    rows.iter().map(|(kind, _)| kind.as_str()).collect()
}

/// The text of the one row of a kind.
pub fn row<'a>(rows: &'a [(String, String)], kind: &str) -> &'a str {
    let found: Vec<_> = rows.iter().filter(|(k, _)| k == kind).collect();
    assert_eq!(found.len(), 1, "{kind} in {rows:#?}");
    &found[0].1
}

#[tokio::test]
async fn explain_shows_stages_and_exchanges() {
    let sessions = sessions().await;
    let (_, cluster) = &sessions.clusters[1];
    let rows = explain(cluster, &format!("EXPLAIN {JOIN}")).await;
    assert_eq!(kinds(&rows), ["logical_plan", "physical_plan", "distributed_plan"]);
    assert!(row(&rows, "logical_plan").contains("Inner Join"));
    assert!(row(&rows, "physical_plan").starts_with("DistributedQueryExec: cluster=standalone"));
    let plan = row(&rows, "distributed_plan");
    assert!(plan.starts_with("1 executor with 4 slots; reads files of "), "{plan}");
    for part in [
        "\nstage 0: ",
        "; hash by [",
        ", after stage",
        "HashJoinExec",
        "ShuffleReaderExec: stage=0",
        "result for the client",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    // Nothing ran, and the query still can.
    sessions.check_ordered(JOIN).await;
    let verbose = explain(cluster, &format!("EXPLAIN VERBOSE {JOIN}")).await;
    assert!(kinds(&verbose).contains(&"initial_physical_plan"), "{:?}", kinds(&verbose));
    assert!(row(&verbose, "distributed_plan").contains("stage 0: "));
}

#[tokio::test]
async fn a_query_of_one_task_says_why() {
    let sessions = sessions().await;
    let (_, cluster) = &sessions.clusters[0];
    let rows = explain(cluster, &format!("EXPLAIN {JOIN}")).await;
    let plan = row(&rows, "distributed_plan");
    assert!(plan.contains("one task, because that is at most ballista.planner.single_task_bytes="), "{plan}");
    assert!(plan.contains("RepartitionExec"), "{plan}");
}

#[tokio::test]
async fn trees_and_graphs_show_stages() {
    let sessions = sessions().await;
    let (_, cluster) = &sessions.clusters[1];
    let tree = explain(cluster, &format!("EXPLAIN FORMAT TREE {JOIN}")).await;
    assert!(row(&tree, "physical_plan").contains("DistributedQueryExec"));
    let plan = row(&tree, "distributed_plan");
    assert!(plan.contains("stage 0: ") && plan.contains("┌──") && plan.contains("ShuffleReaderExec"), "{plan}");
    let graph = explain(cluster, &format!("EXPLAIN FORMAT GRAPHVIZ {JOIN}")).await;
    let plan = row(&graph, "distributed_plan");
    assert!(plan.contains("digraph {") && plan.contains("subgraph cluster_stage_0 {"), "{plan}");
    let json = explain(cluster, &format!("EXPLAIN FORMAT PGJSON {JOIN}")).await;
    assert_eq!(kinds(&json), ["logical_plan"]);
}

#[tokio::test]
async fn what_runs_in_the_client_says_so() {
    let sessions = sessions().await;
    let (_, cluster) = &sessions.clusters[1];
    let recursive = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT sum(i) FROM n";
    let rows = explain(cluster, &format!("EXPLAIN {recursive}")).await;
    assert!(row(&rows, "physical_plan").contains("RecursiveQueryExec"));
    let plan = row(&rows, "distributed_plan");
    assert!(plan.starts_with("runs in the client: ") && plan.contains("RecursiveQueryExec"), "{plan}");
    let rows = explain(cluster, "EXPLAIN SELECT table_name FROM information_schema.tables").await;
    assert_eq!(row(&rows, "distributed_plan"), "runs in the client: it reads nothing but information_schema");
    let plain = explain(&sessions.plain, &format!("EXPLAIN {JOIN}")).await;
    assert_eq!(kinds(&plain), ["logical_plan", "physical_plan"]);
}
