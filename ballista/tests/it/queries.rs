// SPDX-License-Identifier: Apache-2.0
//! Queries of every kind over a few rows in several files, each a trap of its own when a plan is cut.

use crate::common::Sessions;

async fn sessions() -> Sessions {
    let sessions = Sessions::new().await;
    let people = [
        "id,name,city,age\n1,ann,berlin,30\n2,bob,paris,\n3,cid,,41\n",
        "id,name,city,age\n4,dee,rome,30\n5,eve,paris,22\n6,fay,berlin,\n",
        "id,name,city,age\n",
    ];
    sessions.csv("people", &people).await;
    let orders = "SELECT x AS id, CASE WHEN x % 7 = 0 THEN NULL ELSE x % 5 END AS person, \
                  x * 1.5 AS amount, 'k' || (x % 3) AS kind FROM generate_series(1, 200) AS t(x)";
    sessions.parquet("orders", orders, 5).await;
    sessions.parquet("nothing", "SELECT 1 AS id, 2 AS person WHERE false", 1).await;
    sessions
}

#[tokio::test]
async fn rows_without_tables() {
    let sessions = Sessions::new().await;
    for sql in [
        "SELECT 1",
        "SELECT 'a' AS text, NULL AS nothing, make_array(1, NULL) AS list, named_struct('x', 1) AS record",
        "VALUES (1, 'x'), (2, NULL), (NULL, 'z')",
        "SELECT 1 WHERE false",
        "SELECT count(*), sum(x) FROM generate_series(1, 10000) AS t(x)",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn series_of_which_only_the_number_of_rows_counts() {
    let sessions = sessions().await;
    sessions.check("SELECT count(*) FROM generate_series(1, 100000)").await;
    sessions.check("SELECT count(*) FROM range(0, 10), generate_series(1, 3)").await;
    sessions.check("SELECT 'x' FROM generate_series(1, NULL)").await;
    let dates = "DATE '2020-01-01', DATE '2021-01-01', INTERVAL '1' MONTH";
    sessions.check(&format!("SELECT count(*) FROM generate_series({dates})")).await;
    sessions.check(&format!("SELECT max(value) FROM generate_series({dates})")).await;
    let hours = "TIMESTAMP '2020-01-01T00:00:00', TIMESTAMP '2020-01-02T00:00:00', INTERVAL '1' HOUR";
    sessions.check(&format!("SELECT count(*) FROM range({hours})")).await;
    sessions.check(&format!("SELECT min(value), max(value) FROM range({hours})")).await;
}

#[tokio::test]
async fn aggregates() {
    let sessions = sessions().await;
    for sql in [
        "SELECT count(*), count(person), sum(amount), min(kind), max(id) FROM orders",
        "SELECT person, count(*), avg(amount) FROM orders GROUP BY person",
        "SELECT kind, count(DISTINCT person) FROM orders GROUP BY kind HAVING count(*) > 3",
        "SELECT person, kind, sum(amount), grouping(kind) FROM orders GROUP BY ROLLUP (person, kind)",
        "SELECT person, kind, sum(id) FROM orders GROUP BY GROUPING SETS ((person), (kind), (person, kind), ())",
        "SELECT person, kind, count(*) FROM orders GROUP BY CUBE (person, kind)",
        "SELECT DISTINCT city FROM people",
        "SELECT count(*) FROM nothing",
        "SELECT person, count(*) FROM nothing GROUP BY person",
        "SELECT kind, sum(amount) FILTER (WHERE id > 50) FROM orders GROUP BY kind",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn joins_of_every_type() {
    let sessions = sessions().await;
    for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
        for condition in ["p.id = o.person", "p.id = o.person AND o.amount > 50", "p.id = o.person AND p.age < o.id"] {
            sessions.check(&format!("SELECT p.id, p.name, o.id FROM people p {join} orders o ON {condition}")).await;
            sessions.check(&format!("SELECT p.id, o.id FROM orders o {join} people p ON {condition}")).await;
        }
        sessions.check(&format!("SELECT p.id, n.id FROM people p {join} nothing n ON p.id = n.id")).await;
        sessions.check(&format!("SELECT p.id, o.id FROM people p {join} orders o ON p.age < o.id")).await;
    }
    for join in ["LEFT SEMI JOIN", "RIGHT SEMI JOIN", "LEFT ANTI JOIN", "RIGHT ANTI JOIN"] {
        sessions.check(&format!("SELECT * FROM people p {join} orders o ON p.id = o.person")).await;
        sessions.check(&format!("SELECT * FROM orders o {join} people p ON p.id = o.person AND p.age > o.id")).await;
    }
    sessions.check("SELECT a.id, b.id FROM people a CROSS JOIN people b").await;
    sessions.check("SELECT * FROM people a JOIN people b USING (id) JOIN orders o ON o.person = a.id").await;
    sessions.check("SELECT a.id FROM people a JOIN people b ON a.city IS NOT DISTINCT FROM b.city").await;
    sessions.run("SET datafusion.optimizer.prefer_hash_join = 'false'").await;
    sessions.check("SELECT p.id, o.id FROM people p FULL JOIN orders o ON p.id = o.person").await;
}

#[tokio::test]
async fn subqueries() {
    let sessions = sessions().await;
    for sql in [
        "SELECT id FROM people WHERE id NOT IN (SELECT person FROM orders)",
        "SELECT id FROM people WHERE id NOT IN (SELECT person FROM orders WHERE person IS NOT NULL)",
        "SELECT id FROM people WHERE age NOT IN (SELECT id FROM nothing)",
        "SELECT id FROM people WHERE age IN (SELECT person + 20 FROM orders)",
        "SELECT id FROM orders WHERE amount > (SELECT avg(amount) FROM orders)",
        "SELECT id, (SELECT max(id) FROM people) AS most FROM orders WHERE person = (SELECT min(id) FROM people)",
        "SELECT id FROM people p WHERE EXISTS (SELECT 1 FROM orders o WHERE o.person = p.id AND o.amount > 280)",
        "SELECT id, (SELECT count(*) FROM orders o WHERE o.person = p.id) AS orders FROM people p",
        "SELECT id FROM people WHERE age > (SELECT max(id) FROM nothing) OR id = (SELECT 1)",
        "WITH big AS (SELECT * FROM orders WHERE amount > 100) SELECT a.id FROM big a JOIN big b ON a.id = b.id + 1",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn sets() {
    let sessions = sessions().await;
    for sql in [
        "SELECT id FROM people UNION ALL SELECT id FROM orders UNION ALL VALUES (7), (8)",
        "SELECT id FROM people UNION SELECT person FROM orders",
        "SELECT person FROM orders INTERSECT SELECT id FROM people",
        "SELECT id FROM people EXCEPT SELECT person FROM orders",
        "SELECT sum(id) FROM (SELECT id FROM people UNION ALL SELECT id FROM nothing UNION ALL SELECT id FROM orders)",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn orders_and_limits() {
    let sessions = sessions().await;
    for sql in [
        "SELECT id, person FROM orders ORDER BY person NULLS FIRST, id DESC",
        "SELECT id FROM orders ORDER BY amount DESC LIMIT 7",
        "SELECT id FROM orders ORDER BY id LIMIT 5 OFFSET 17",
        "SELECT id FROM orders ORDER BY id OFFSET 195",
        "SELECT id FROM orders ORDER BY id LIMIT 0",
        "SELECT id + 1 AS next FROM (SELECT id FROM orders ORDER BY kind, id LIMIT 10) ORDER BY next",
        "SELECT kind, count(*) AS n FROM orders GROUP BY kind ORDER BY n DESC, kind",
        "SELECT id FROM people UNION ALL SELECT id FROM orders ORDER BY id",
        "SELECT id FROM orders WHERE amount > (SELECT avg(amount) FROM orders) ORDER BY id DESC",
    ] {
        sessions.check_ordered(sql).await;
    }
    // Ties come in any order, but the keys do not.
    sessions.check_ordered("SELECT kind FROM orders ORDER BY kind").await;
    // Any rows will do, but so many.
    for (sql, expected) in [
        ("SELECT id FROM orders LIMIT 9", 9),
        ("SELECT id FROM orders LIMIT 1000", 200),
        ("SELECT id FROM orders OFFSET 150", 50),
        ("SELECT o.id FROM orders o JOIN people p ON p.id = o.person LIMIT 3", 3),
    ] {
        for context in sessions.all() {
            let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
            assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn windows() {
    let sessions = sessions().await;
    for sql in [
        "SELECT id, row_number() OVER (ORDER BY id) FROM orders",
        "SELECT id, sum(amount) OVER (PARTITION BY person ORDER BY id) FROM orders",
        "SELECT id, rank() OVER (PARTITION BY kind ORDER BY person), lag(id, 2) OVER (ORDER BY id) FROM orders",
        "SELECT id, avg(id) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) FROM people",
        "SELECT kind, count(*), sum(count(*)) OVER () FROM orders GROUP BY kind",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn what_stays_in_the_client() {
    let sessions = sessions().await;
    sessions
        .check_local(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) \
             SELECT sum(i), count(i) FROM n",
        )
        .await;
    sessions.check_local("SELECT table_name FROM information_schema.tables WHERE table_name IN ('people')").await;
    sessions.check_local("DESCRIBE orders").await;
}
