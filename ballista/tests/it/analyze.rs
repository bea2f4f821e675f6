// SPDX-License-Identifier: Apache-2.0
//! `EXPLAIN ANALYZE` shows what the cluster did, on two executors.

use datafusion::prelude::SessionContext;

use crate::common::Sessions;
use crate::explain::{explain, row};
use crate::pair::{Pair, broadcasting, run, shuffling};

/// Rows of `orders`, of which every fifth belongs to nobody.
const ORDERS: u64 = 400;

/// CSV files, of whose rows and bytes nothing is known before they are read: 400 orders in 8 files of 50, and people.
async fn pair() -> Pair {
    let pair = Pair::with_sessions([("broadcasting", broadcasting()), ("shuffling", shuffling())]).await;
    let orders = (0..8).map(|file| (0..50).map(|row| file * 50 + row).collect::<Vec<u64>>());
    let orders = orders.map(|ids| ids.iter().map(|id| format!("{id},{},{}.5\n", id % 5, id * 3)).collect::<String>());
    csv(&pair, "orders", "id BIGINT, person BIGINT, amount DOUBLE", orders.collect()).await;
    let people = vec!["1,berlin\n2,paris\n".to_owned(), "3,rome\n4,paris\n".to_owned()];
    csv(&pair, "people", "id BIGINT, city VARCHAR", people).await;
    csv(&pair, "nobody", "id BIGINT, city VARCHAR", vec!["1,berlin\n".to_owned()]).await;
    pair
}

async fn csv(pair: &Pair, table: &str, columns: &str, files: Vec<String>) {
    let folder = pair.path(table);
    std::fs::create_dir(&folder).unwrap();
    for (number, text) in files.into_iter().enumerate() {
        std::fs::write(folder.join(format!("{number}.csv")), text).unwrap();
    }
    let location = folder.display();
    pair.run(&format!(
        "CREATE EXTERNAL TABLE {table} ({columns}) STORED AS CSV LOCATION '{location}/' \
         OPTIONS ('format.has_header' 'false')"
    ))
    .await;
}

async fn analyze(context: &SessionContext, sql: &str) -> String {
    let rows = explain(context, &format!("EXPLAIN ANALYZE {sql}")).await;
    row(&rows, "Plan with Metrics").to_owned()
}

/// The sums of a metric over the operators whose line contains `operator`.
fn sums(text: &str, operator: &str, metric: &str) -> Vec<u64> {
    let lines = text.lines().filter(|line| line.contains(operator));
    let value = |line: &str| {
        let rest = line.split(&format!("{metric}=")).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    lines.filter_map(value).collect()
}

const JOIN: &str = "SELECT p.city, count(*) AS n, sum(o.amount) FROM people p JOIN orders o ON o.person = p.id \
                    GROUP BY p.city ORDER BY p.city";

#[tokio::test]
async fn every_stage_shows_the_rows_that_it_had() {
    let pair = pair().await;
    for (name, context) in &pair.sessions {
        let text = analyze(context, JOIN).await;
        assert!(text.starts_with("DistributedQueryExec: cluster=df://127.0.0.1:"), "{name}\n{text}");
        let scanned: u64 = sums(&text, "DataSourceExec", "output_rows").iter().sum();
        assert_eq!(scanned, ORDERS + 4, "{name}\n{text}");
        assert_eq!(sums(&text, "HashJoinExec", "output_rows"), [320], "{name}\n{text}");
        assert!(text.contains("result for the client: 3 rows, "), "{name}\n{text}");
        // 400 rows of orders in 8 files: as many on each of the two executors, by one task or two.
        let shared = text.lines().find(|line| line.contains("DataSourceExec") && line.contains("output_rows=400"));
        let shared = shared.unwrap_or_else(|| panic!("{name}\n{text}"));
        let rows = if *name == "broadcasting" { 200 } else { 100 };
        let even = format!("output_rows=400 (min {rows}, median {rows}, max {rows})");
        assert!(shared.contains(&even), "{name}\n{text}");
        assert!(shared.contains("elapsed_compute=") && shared.contains("output_bytes="), "{name}\n{text}");
        assert!(text.contains(&format!(": {} tasks on 2 executors, ", 400 / rows)), "{name}\n{text}");
        assert!(text.contains("    per task: rows min "), "{name}\n{text}");
    }
    // As many rows as the query has.
    let rows = explain(&pair.sessions[0].1, &format!("EXPLAIN ANALYZE VERBOSE {JOIN}")).await;
    assert_eq!(row(&rows, "Output Rows"), "3");
    let full = row(&rows, "Plan with Full Metrics");
    assert!(full.contains("task 1 on executor ") && full.contains("rows="), "{full}");
    assert!(!row(&rows, "Plan with Metrics").contains("task 1 on executor "));
}

#[tokio::test]
async fn what_adaptivity_changed_is_said() {
    let pair = pair().await;
    let (broadcasting, shuffling) = (&pair.sessions[0].1, &pair.sessions[1].1);
    let text = analyze(broadcasting, JOIN).await;
    let note = text.lines().skip_while(|line| *line != "  adaptivity:").nth(1).unwrap_or_else(|| panic!("{text}"));
    assert!(note.starts_with("    after stage 0: Inner join on id@0 = person@0: stage 0 is broadcast"), "{text}");
    assert!(note.contains("at most 64.0 MiB is allowed; the other side stays in place"), "{text}");
    assert!(text.contains("ShuffleReaderExec: stage=0, partitions=1, broadcast, metrics=[output_rows="), "{text}");
    // The larger side is on the left.
    let sql = "SELECT count(*) FROM orders o JOIN people p ON o.person = p.id";
    let text = analyze(shuffling, sql).await;
    assert!(text.contains("Inner join on person@0 = id@0: sides swapped, because stage "), "{text}");
    let sql = "SELECT count(*) FROM (SELECT * FROM nobody WHERE id > 7) n JOIN orders o ON o.person = n.id";
    let text = analyze(shuffling, sql).await;
    assert!(text.contains("HashJoinExec is left out, because stage "), "{text}");
    let text = analyze(shuffling, "SELECT id FROM orders ORDER BY amount").await;
    assert!(text.contains(" sorted ranges"), "{text}");
}

#[tokio::test]
async fn only_what_is_asked_for_is_shown() {
    let pair = pair().await;
    let context = &pair.sessions[0].1;
    let text = analyze(context, JOIN).await;
    assert!(text.contains("elapsed_compute") && text.contains("files_"), "{text}");
    run(context, "SET datafusion.explain.analyze_categories = 'rows'").await.unwrap();
    let rows = analyze(context, JOIN).await;
    assert!(rows.contains("output_rows") && !rows.contains("elapsed_compute") && !rows.contains(" ms"), "{rows}");
    run(context, "SET datafusion.explain.analyze_categories = 'all'").await.unwrap();
    run(context, "SET datafusion.explain.analyze_level = 'summary'").await.unwrap();
    let summary = analyze(context, JOIN).await;
    assert!(summary.contains("output_rows") && summary.len() < text.len(), "{summary}");
}

#[tokio::test]
async fn one_task_is_analysed_too() {
    let sessions = Sessions::new().await;
    sessions.csv("people", &["id,city\n1,berlin\n2,paris\n", "id,city\n3,rome\n4,paris\n"]).await;
    for (name, context) in &sessions.clusters {
        let text = analyze(context, "SELECT city, count(*) FROM people GROUP BY city").await;
        assert_eq!(sums(&text, "DataSourceExec", "output_rows"), [4], "{name}\n{text}");
        assert!(text.contains("result for the client: 3 rows, "), "{name}\n{text}");
    }
    let folder = sessions.path("copied");
    let copy = format!("COPY people TO '{}/' STORED AS PARQUET", folder.display());
    let text = analyze(&sessions.clusters[0].1, &copy).await;
    assert_eq!(sums(&text, "DataSourceExec", "output_rows").last(), Some(&4), "{text}");
    // What DataFusion alone can show stays as it was.
    let json = explain(&sessions.clusters[0].1, "EXPLAIN (ANALYZE, FORMAT pgjson) SELECT * FROM people").await;
    assert!(json[0].1.contains("DistributedQueryExec"), "{json:?}");
}
