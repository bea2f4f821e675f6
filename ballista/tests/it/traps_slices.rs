// SPDX-License-Identifier: Apache-2.0
//! What goes wrong when a plan is cut into stages and stages into slices, each trap named after what falls into it.

use arrow::array::{Int64Array, RecordBatch};
use std::sync::Arc;

use datafusion::prelude::SessionContext;

use crate::pair::{Pair, SLOTS, run};

/// Tables of several files. `few` is small enough to be broadcast; both have keys that the other lacks, keys that come
/// several times, and NULL.
async fn pair() -> Pair {
    let pair = Pair::new().await;
    let many = "SELECT x AS id, CASE WHEN x % 11 = 0 THEN NULL ELSE x % 50 END AS k, 'name ' || (x % 50) AS name, \
                x * 0.5 AS amount FROM generate_series(1, 3000) AS t(x)";
    pair.parquet("many", many, 6).await;
    let few = "SELECT x AS id, CASE WHEN x % 9 = 0 THEN NULL ELSE x + 20 END AS k, 'name ' || x AS name \
               FROM generate_series(1, 60) AS t(x)";
    pair.parquet("few", few, 3).await;
    pair.parquet("nothing", "SELECT 1 AS id, 2 AS k, 'x' AS name WHERE false", 1).await;
    pair
}

/// Files of a `DataSourceExec` lie in a queue that its partitions share: a task that were given the whole node would
/// read all of it, and every row would come once per task.
#[tokio::test]
async fn a_lone_task_does_not_scan_the_whole_table() {
    let pair = pair().await;
    pair.check_spread("SELECT id, k, name FROM many").await;
    pair.check_spread("SELECT count(*), count(k), sum(id), min(name) FROM many").await;
    pair.check_spread("SELECT count(*) FROM many WHERE id % 3 = 1").await;
}

#[tokio::test]
async fn partitions_of_a_union_are_those_of_its_inputs_one_after_another() {
    let pair = pair().await;
    for sql in [
        "SELECT id, name FROM many UNION ALL SELECT id, name FROM few UNION ALL SELECT id, name FROM nothing",
        "SELECT id FROM few UNION ALL SELECT id * 2 FROM many WHERE k > 3 UNION ALL VALUES (1), (2)",
        "SELECT k, count(*) FROM (SELECT k FROM few UNION ALL (SELECT k FROM many UNION ALL SELECT id FROM few)) \
         GROUP BY k",
        "SELECT u.k, m.id FROM (SELECT k FROM few UNION ALL SELECT id FROM few) u JOIN many m ON u.k = m.k",
        // Inputs that are partitioned alike are interleaved instead.
        "SELECT k, sum(n) FROM (SELECT k, count(*) AS n FROM many GROUP BY k UNION ALL \
         SELECT k, count(*) AS n FROM few GROUP BY k) GROUP BY k",
        "SELECT k FROM many UNION SELECT k FROM few",
    ] {
        pair.check_spread(sql).await;
    }
}

/// A partitioned join that waits for a filter from another stage would wait for ever.
#[tokio::test]
async fn no_task_waits_for_a_dynamic_filter_of_another_stage() {
    let pair = pair().await;
    for sql in [
        "SELECT m.id, f.id FROM many m JOIN few f ON m.k = f.k WHERE f.id < 20",
        "SELECT count(*) FROM many a JOIN many b ON a.k = b.id JOIN few f ON f.k = b.k WHERE f.id = 3",
        "SELECT f.name, sum(m.amount) FROM few f JOIN many m ON m.name = f.name AND m.k = f.k GROUP BY f.name",
        "SELECT m.k FROM many m JOIN (SELECT max(k) AS k FROM few GROUP BY id % 7) f ON m.k = f.k",
    ] {
        pair.check_spread(sql).await;
    }
    pair.check_ordered("SELECT id, k FROM many WHERE k IN (SELECT k FROM few) ORDER BY id DESC LIMIT 5").await;
}

#[tokio::test]
async fn the_value_of_a_scalar_subquery_reaches_every_stage_that_reads_it() {
    let pair = pair().await;
    for sql in [
        "SELECT id FROM many WHERE amount > (SELECT avg(amount) FROM many)",
        // In the stage below the exchange, in the one above it, and in both.
        "SELECT k, count(*) FROM many WHERE id > (SELECT max(id) FROM few) GROUP BY k \
         HAVING count(*) > (SELECT min(id) FROM few) + (SELECT count(*) FROM nothing)",
        "SELECT m.id, (SELECT max(k) FROM few) FROM many m JOIN few f ON m.k = f.k + (SELECT min(id) FROM few) - 1",
        // One in another.
        "SELECT count(*) FROM many WHERE k < (SELECT max(k) FROM few WHERE id < (SELECT avg(id) FROM few))",
        // No row is NULL.
        "SELECT id FROM many WHERE k IS NULL OR k > (SELECT id FROM nothing)",
        // One below a sorted exchange.
        "SELECT id FROM few WHERE id <> (SELECT max(id + 1) FROM many) UNION ALL SELECT (SELECT min(k + 1) FROM many)",
    ] {
        // A stage for the value, beside those of the query.
        for summary in pair.check(sql).await {
            assert!(summary.stages >= 2, "{sql}\n{summary:?}");
        }
    }
    let error = run(&pair.sessions[0].1, "SELECT id FROM many WHERE id = (SELECT id FROM few)").await.unwrap_err();
    assert!(error.to_string().contains("more than one row"), "{error}");
}

/// `NOT IN` is false or unknown for every row if there is a NULL anywhere, also where another task would look.
#[tokio::test]
async fn not_in_sees_a_null_of_every_file() {
    let pair = pair().await;
    // One NULL, in the last file.
    let last = "SELECT CASE WHEN x = 400 THEN NULL ELSE x END AS v FROM generate_series(1, 400) AS t(x)";
    pair.parquet("one_null", last, 4).await;
    let (name, session) = &pair.sessions[1];
    let (rows, _) = run(session, "SELECT id FROM many WHERE id NOT IN (SELECT v FROM one_null)").await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "{name}");
    for sql in [
        "SELECT id FROM many WHERE id NOT IN (SELECT v FROM one_null)",
        "SELECT id FROM many WHERE id NOT IN (SELECT v FROM one_null WHERE v IS NOT NULL)",
        "SELECT id, k FROM many WHERE k NOT IN (SELECT id FROM few)",
        "SELECT id, k FROM many WHERE k NOT IN (SELECT k FROM few WHERE id % 9 <> 0)",
        "SELECT id, k FROM many WHERE k NOT IN (SELECT k FROM nothing)",
        "SELECT id, k FROM few WHERE k NOT IN (SELECT k FROM many WHERE k > 25)",
        "SELECT count(*) FROM few WHERE k NOT IN (SELECT id FROM many) AND id NOT IN (SELECT k FROM many)",
    ] {
        pair.check(sql).await;
    }
}

/// Every task of the probe side would emit the unmatched rows of a broadcast build side again.
#[tokio::test]
async fn unmatched_rows_come_once_whichever_side_is_small() {
    let pair = pair().await;
    let mut broadcast = 0;
    let joins = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
    for join in joins {
        for (left, right) in [("many", "few"), ("few", "many"), ("nothing", "many"), ("many", "nothing")] {
            let sql = format!("SELECT a.id, a.k, b.id, b.k FROM {left} a {join} {right} b ON a.k = b.k");
            let summaries = pair.check(&sql).await;
            // An empty input ends a join before anything is spread.
            let spread = summaries.iter().all(|summary| summary.tasks > summary.stages);
            assert!(spread || sql.contains("nothing"), "{sql}\n{summaries:?}");
            broadcast += u32::from(summaries[0].bytes_exchanged < summaries[1].bytes_exchanged);
            pair.check(&format!("{sql} AND a.id > b.id")).await;
        }
        pair.check(&format!("SELECT a.id, b.id FROM few a {join} few b ON a.id < b.k")).await;
    }
    for join in ["LEFT SEMI JOIN", "RIGHT SEMI JOIN", "LEFT ANTI JOIN", "RIGHT ANTI JOIN"] {
        for (left, right) in [("many", "few"), ("few", "many"), ("many", "nothing"), ("nothing", "many")] {
            pair.check(&format!("SELECT * FROM {left} a {join} {right} b ON a.k = b.k")).await;
            pair.check(&format!("SELECT * FROM {left} a {join} {right} b ON a.k = b.k AND a.id < b.id")).await;
        }
    }
    pair.check("SELECT id FROM few f WHERE EXISTS (SELECT 1 FROM many m WHERE f.k = m.k) OR f.id = 1").await;
    assert!(broadcast >= 3, "only {broadcast} joins moved less when build sides may be broadcast");
}

/// `IS NOT DISTINCT FROM`, and the joins that set operations become, match NULL with NULL.
#[tokio::test]
async fn null_equals_null_where_the_query_says_so() {
    let pair = pair().await;
    for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "RIGHT ANTI JOIN"] {
        for (left, right) in [("many", "few"), ("few", "many")] {
            let condition = "a.k IS NOT DISTINCT FROM b.k";
            pair.check_spread(&format!("SELECT * FROM {left} a {join} {right} b ON {condition}")).await;
            pair.check(&format!("SELECT * FROM {left} a {join} {right} b ON a.name = b.name AND {condition}")).await;
        }
    }
    for sql in [
        "SELECT k FROM many INTERSECT SELECT k FROM few",
        "SELECT k FROM many EXCEPT SELECT k FROM few WHERE k IS NOT NULL",
        "SELECT k, name FROM few EXCEPT SELECT k, name FROM many",
    ] {
        pair.check(sql).await;
    }
    for context in pair.all() {
        context.sql("SET datafusion.optimizer.prefer_hash_join = false").await.unwrap();
    }
    pair.check("SELECT a.id, b.id FROM many a FULL JOIN few b ON a.k IS NOT DISTINCT FROM b.k").await;
}

/// Hash joins and their filters count the partitions that are polled: an instance of which some partitions are left
/// out, polled one after another, or used again, hangs or loses rows. Here tasks have slices of several partitions and
/// come in several waves.
#[tokio::test]
async fn tasks_in_waves_and_in_slices_lose_nothing() {
    let pair = pair().await;
    for sql in [
        "SELECT a.id, b.id FROM many a JOIN many b ON a.k = b.id",
        "SELECT a.id, b.id FROM many a LEFT JOIN few b ON a.id = b.k",
        "SELECT a.k, count(*) FROM many a FULL JOIN few b ON a.k = b.id GROUP BY a.k",
        "SELECT a.id, f.id, g.id FROM many a JOIN few f ON a.k = f.k JOIN few g ON g.id = a.k AND g.name <> f.name",
        "SELECT a.id FROM many a CROSS JOIN few f WHERE a.id % 100 = f.id",
        "SELECT id, sum(amount) OVER (PARTITION BY k ORDER BY id) FROM many",
    ] {
        let summaries = pair.check_spread(sql).await;
        // "shuffling" reads every bucket by itself: far more partitions than slots.
        assert!(summaries[1].tasks > 2 * summaries[1].stages, "{sql}\n{:?}", summaries[1]);
    }
    // The same plan twice: two jobs, nothing shared.
    let frame = pair.sessions[1].1.sql("SELECT a.id, b.id FROM many a JOIN few b ON a.k = b.k").await.unwrap();
    let first = frame.clone().collect().await.unwrap();
    let second = frame.collect().await.unwrap();
    let count = |rows: &[RecordBatch]| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(count(&first), count(&second));
}

/// What is below a merge, or below anything that wants one partition, is read by one task as a whole.
#[tokio::test]
async fn what_must_be_in_one_partition_is_not_sliced() {
    let pair = pair().await;
    for sql in [
        "SELECT id, row_number() OVER (ORDER BY id), sum(k) OVER (ORDER BY id DESC) FROM many",
        "SELECT count(DISTINCT name), max(amount) FROM many",
        "SELECT x.n, m.id FROM (SELECT count(*) AS n FROM few) x JOIN many m ON m.id = x.n",
        "SELECT id FROM (SELECT id FROM many ORDER BY amount DESC, id LIMIT 10) UNION ALL SELECT id FROM few",
        "SELECT a.id, b.top FROM few a JOIN (SELECT id AS top FROM many ORDER BY id DESC LIMIT 3) b ON a.id < b.top",
    ] {
        pair.check(sql).await;
    }
    pair.check_ordered("SELECT id, name FROM many ORDER BY name, id LIMIT 20 OFFSET 7").await;
    pair.check_ordered("SELECT id FROM (SELECT id FROM many ORDER BY id LIMIT 500) ORDER BY id DESC OFFSET 490").await;
}

/// One run per producer and partition, merged; or ranges, which the client puts one after another.
#[tokio::test]
async fn the_order_of_rows_survives_exchanges() {
    let pair = pair().await;
    for sql in [
        "SELECT id, k, name FROM many ORDER BY k NULLS FIRST, id",
        "SELECT id, k FROM many ORDER BY k DESC NULLS LAST, id DESC",
        "SELECT name, amount FROM many ORDER BY name, amount DESC",
        "SELECT m.id, f.id FROM many m JOIN few f ON m.k = f.k ORDER BY f.id DESC, m.id",
        "SELECT k, count(*) AS n FROM many GROUP BY k ORDER BY n DESC, k",
        "SELECT id FROM few UNION ALL SELECT id FROM many ORDER BY id",
        "SELECT id, rank() OVER (PARTITION BY k ORDER BY amount) AS r FROM many ORDER BY r DESC, id",
        // All rows in one range.
        "SELECT 1 AS one, id FROM many WHERE id < 100 ORDER BY one, id",
        "SELECT id FROM nothing ORDER BY id",
    ] {
        pair.check_ordered(sql).await;
    }
    // Too large to travel in a status: read from the executors, range by range.
    let session = &pair.sessions[1].1;
    session.sql("SET ballista.client.inline_result_bytes = 0").await.unwrap();
    let (rows, summary) = run(session, "SELECT id, name FROM many ORDER BY amount DESC").await.unwrap();
    let ids: Vec<i64> = rows.iter().flat_map(ids_of).collect();
    assert!(ids == (1..=3000).rev().collect::<Vec<_>>());
    // One stage reports samples, one moves rows, and the last one sorts: on both executors.
    let summary = summary.unwrap();
    assert!(summary.stages == 3 && summary.tasks >= 6, "{summary:?}");
}

fn ids_of(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

/// Buckets are made small and many; a small exchange is read by one task all the same.
#[tokio::test]
async fn many_buckets_have_few_readers() {
    let many_buckets = || {
        use ballista::prelude::*;
        crate::pair::shuffling().with_ballista_setting(|settings| settings.read_bytes = 32 << 20)
    };
    let pair =
        Pair::with_sessions([("joined buckets", many_buckets()), ("each bucket", crate::pair::shuffling())]).await;
    pair.parquet("t", "SELECT x AS id, x % 100 AS k FROM generate_series(1, 4000) AS t(x)", 4).await;
    let summaries = pair.check("SELECT k, count(*), sum(id) FROM t GROUP BY k").await;
    // Scans on both executors, then one reader of all buckets.
    assert_eq!((summaries[0].stages, summaries[0].tasks), (2, 3), "{summaries:?}");
    // As many partitions as buckets: more tasks than could run at once, none with more partitions than slots.
    assert!(summaries[1].tasks > 2 + 2 * SLOTS, "{summaries:?}");
    // Both sides of a join are read in the same ranges.
    let summaries = pair.check("SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.k").await;
    assert!(summaries[0].tasks < summaries[1].tasks, "{summaries:?}");
}

/// Rows of a small query do not travel; rows of a large one are spread, unless one executor has all slots.
#[tokio::test]
async fn small_queries_are_one_task_and_large_ones_are_not_on_a_cluster_of_small_executors() {
    use ballista::prelude::*;
    let small = || crate::common::config().with_ballista_setting(|settings| settings.single_task_bytes = 1 << 30);
    let large = || crate::common::config().with_ballista_setting(|settings| settings.single_task_bytes = 1);
    let pair = Pair::with_sessions([("small", small()), ("large", large())]).await;
    pair.parquet("t", "SELECT x AS id, x % 10 AS k FROM generate_series(1, 2000) AS t(x)", 4).await;
    let sql = "SELECT a.k, count(*), sum(b.id) FROM t a JOIN t b ON a.id = b.id GROUP BY a.k";
    let summaries = pair.check(sql).await;
    assert_eq!((summaries[0].stages, summaries[0].tasks, summaries[0].bytes_exchanged), (1, 1, 0));
    assert!(summaries[1].stages > 1 && summaries[1].bytes_exchanged > 0, "{summaries:?}");

    let lone = crate::common::standalone(large()).await;
    let location = format!("{}/", pair.path("t").display());
    for context in [&lone as &SessionContext] {
        context.register_parquet("t", &location, Default::default()).await.unwrap();
    }
    let (_, summary) = run(&lone, sql).await.unwrap();
    let summary = summary.unwrap();
    assert_eq!((summary.stages, summary.tasks, summary.bytes_exchanged), (1, 1, 0), "one executor has all slots");
}

/// A table in memory travels inside the plan, once, and its partitions are handed out like files.
#[tokio::test]
async fn tables_in_memory_are_sliced_too() {
    use datafusion::datasource::MemTable;
    let pair = Pair::new().await;
    let batch = |ids: std::ops::Range<i64>| {
        let keys = ids.clone().map(|id| (id % 6 != 0).then_some(id % 10)).collect::<Int64Array>();
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids.collect::<Int64Array>()) as _, false),
            ("k", Arc::new(keys) as _, true),
        ])
        .unwrap()
    };
    for context in pair.all() {
        let partitions =
            vec![vec![batch(0..100), batch(100..101)], vec![], vec![batch(101..300)], vec![batch(300..301)], vec![]];
        let table = MemTable::try_new(batch(0..1).schema(), partitions).unwrap();
        context.register_table("m", Arc::new(table)).unwrap();
    }
    for sql in [
        "SELECT k, id FROM m",
        "SELECT k, count(*), sum(id) FROM m GROUP BY k",
        "SELECT a.id, b.id FROM m a LEFT JOIN m b ON a.id = b.k",
        "SELECT id FROM m WHERE k = 3 UNION ALL SELECT k FROM m",
    ] {
        pair.check_spread(sql).await;
    }
    pair.check("SELECT count(*) FROM m").await;
    pair.check_ordered("SELECT id FROM m ORDER BY k, id DESC LIMIT 40").await;
}
