// SPDX-License-Identifier: Apache-2.0
//! `DataFrame::cache`: rows stay in the executors for as long as somebody can read them.

use std::time::{Duration, Instant};

use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{DataFrame, SessionContext};

use crate::pair::Pair;

async fn rows(frame: DataFrame) -> Vec<String> {
    let text = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
    let mut rows: Vec<_> = text.lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

async fn pair() -> Pair {
    let pair = Pair::new().await;
    pair.parquet("t", "SELECT x AS id, x % 7 AS k, 'name ' || x AS name FROM generate_series(1, 5000) AS t(x)", 4)
        .await;
    pair
}

const SLOW: &str = "SELECT id, k, name FROM t WHERE id % 3 = 0";

async fn cached(context: &SessionContext, sql: &str) -> DataFrame {
    context.sql(sql).await.unwrap().cache().await.unwrap()
}

#[tokio::test]
async fn cached_rows_are_read_again_and_again() {
    let pair = pair().await;
    for (name, context) in &pair.sessions {
        let frame = cached(context, SLOW).await;
        let plain = pair.plain.sql(SLOW).await.unwrap();
        assert_eq!(rows(frame.clone()).await, rows(plain.clone()).await, "{name}");
        // As a table: aggregated, joined with itself and with a file, with a projection.
        context.register_table("kept", frame.clone().into_view()).unwrap();
        pair.plain.register_table("kept", plain.into_view()).unwrap();
        for sql in [
            "SELECT k, count(*), min(name) FROM kept GROUP BY k",
            "SELECT count(*) FROM kept a JOIN kept b ON a.id = b.id + 3",
            "SELECT kept.name, t.k FROM kept JOIN t ON kept.id = t.id + 1 WHERE t.k < 3",
            "SELECT name FROM kept ORDER BY id DESC LIMIT 3",
            "SELECT count(*) FROM kept",
            // Only the join leaves the client.
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 9) \
             SELECT n.i, kept.name FROM n JOIN kept ON n.i = kept.id",
        ] {
            let (ours, theirs) = (context.sql(sql).await.unwrap(), pair.plain.sql(sql).await.unwrap());
            assert_eq!(rows(ours).await, rows(theirs).await, "{name}: {sql}");
        }
        pair.plain.deregister_table("kept").unwrap();
        context.deregister_table("kept").unwrap();
    }
}

#[tokio::test]
async fn the_query_is_not_computed_again() {
    let pair = pair().await;
    let context = &pair.sessions[0].1;
    let file = pair.path("t").join("000.parquet");
    let frame = cached(context, SLOW).await;
    let before = rows(frame.clone()).await;
    std::fs::remove_file(file).unwrap();
    assert_eq!(rows(frame).await, before);
}

/// Of jobs with several stages, and of several jobs in one plan.
#[tokio::test]
async fn cached_aggregates_are_read_together() {
    let pair = pair().await;
    for context in pair.all() {
        for (table, sql) in [
            ("sums", "SELECT k, count(*) AS n, sum(id) AS s FROM t GROUP BY k"),
            ("names", "SELECT k, min(name) AS name FROM t GROUP BY k ORDER BY k"),
        ] {
            context.register_table(table, cached(context, sql).await.into_view()).unwrap();
        }
    }
    pair.check("SELECT names.name, n, s, t.id FROM sums JOIN names USING (k) JOIN t ON t.id = n").await;
}

#[tokio::test]
async fn empty_and_failing_queries() {
    let pair = pair().await;
    for (name, context) in &pair.sessions {
        let empty = cached(context, "SELECT id FROM t WHERE id < 0").await;
        assert_eq!(empty.clone().count().await.unwrap(), 0, "{name}");
        assert_eq!(
            rows(empty).await.len(),
            rows(pair.plain.sql("SELECT id FROM t LIMIT 0").await.unwrap()).await.len()
        );
        let failing = cached(context, "SELECT 1 / (id - id) FROM t").await;
        let error = failing.collect().await.unwrap_err().to_string();
        assert!(error.contains("ivide by zero"), "{name}: {error}");
    }
}

#[tokio::test]
async fn rows_go_with_the_last_frame() {
    let pair = pair().await;
    // With rows in files, which can be seen.
    let context = &pair.sessions[2].1;
    let frame = cached(context, SLOW).await;
    let other = frame.clone().select_columns(&["id"]).unwrap();
    assert_eq!(frame.clone().count().await.unwrap(), 1666);
    assert!(pair.shuffled_bytes() > 0);
    drop(frame);
    assert_eq!(other.clone().count().await.unwrap(), 1666);
    drop(other);
    let start = Instant::now();
    while pair.shuffled_bytes() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "rows stay though nobody can read them");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn rows_that_are_lost_are_computed_again() {
    let mut pair = pair().await;
    let frame = cached(&pair.sessions[0].1, SLOW).await;
    let before = rows(frame.clone()).await;
    // Its successor takes the place of the executor, not its rows.
    pair.replace_executor(0).await;
    let start = Instant::now();
    loop {
        match frame.clone().collect().await {
            Ok(_) => break,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rows(frame).await, before);
}
