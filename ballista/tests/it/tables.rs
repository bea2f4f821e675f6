// SPDX-License-Identifier: Apache-2.0
//! Tables of every kind: in memory, views, compressed and partitioned files, and tables that are written to.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions};

use crate::common::{Sessions, rows, write_parquet};

fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
    let names: StringArray = ids.clone().map(|id| (id % 4 != 0).then(|| format!("name {id}"))).collect();
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new(ids.collect::<Int64Array>()), false), ("name", Arc::new(names), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test]
async fn tables_in_memory() {
    let sessions = Sessions::new().await;
    for context in sessions.all() {
        let partitions = vec![vec![batch(0..10), batch(10..11)], vec![], vec![batch(20..40)]];
        let table = MemTable::try_new(batch(0..1).schema(), partitions).unwrap();
        context.register_table("m", Arc::new(table)).unwrap();
        let empty = MemTable::try_new(batch(0..1).schema(), vec![vec![]]).unwrap();
        context.register_table("empty", Arc::new(empty)).unwrap();
    }
    for sql in [
        "SELECT * FROM m",
        "SELECT name, count(*), sum(id) FROM m GROUP BY name",
        "SELECT a.id, b.name FROM m a LEFT JOIN m b ON a.id = b.id - 1",
        "SELECT * FROM empty",
        "SELECT count(*) FROM m FULL JOIN empty ON m.id = empty.id",
    ] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn views_and_tables_made_by_queries() {
    let sessions = Sessions::new().await;
    sessions.csv("t", &["a,b\n1,2\n3,4\n", "a,b\n1,5\n"]).await;
    sessions.run("CREATE VIEW v AS SELECT a, sum(b) AS s FROM t GROUP BY a").await;
    sessions.run("CREATE TABLE made AS SELECT v.a, v.s, t.b FROM v JOIN t ON v.a = t.a").await;
    for context in sessions.all() {
        let frame = context.sql("SELECT a, b FROM t WHERE b > 2").await.unwrap();
        context.register_table("frame", frame.into_view()).unwrap();
    }
    for sql in ["SELECT * FROM v", "SELECT * FROM made", "SELECT v.s, frame.b FROM v JOIN frame ON v.a = frame.a"] {
        sessions.check(sql).await;
    }
}

#[tokio::test]
async fn files_with_options_that_must_not_get_lost() {
    let sessions = Sessions::new().await;
    let gzip = sessions.path("rows.tbl.gz");
    // What `gzip` makes of the text, which DataFusion would otherwise read as if it were plain.
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("printf '1|x;y|\\n2|\"p|q\"|3\\n# no row\\n' | gzip > {}", gzip.display()))
        .status()
        .unwrap();
    assert!(status.success());
    let json = sessions.path("rows.json");
    File::create(&json).unwrap().write_all(b"{\"a\":1,\"b\":[1,2]}\n{\"a\":null,\"b\":[]}\n{\"b\":null}\n").unwrap();
    for context in sessions.all() {
        let options = CsvReadOptions::new()
            .has_header(false)
            .delimiter(b'|')
            .comment(b'#')
            .file_extension(".tbl.gz")
            .file_compression_type(FileCompressionType::GZIP);
        context.register_csv("zipped", gzip.to_str().unwrap(), options).await.unwrap();
        context.register_json("json", json.to_str().unwrap(), JsonReadOptions::default()).await.unwrap();
    }
    sessions.check("SELECT * FROM zipped").await;
    sessions.check("SELECT column_1, count(*) FROM zipped GROUP BY column_1").await;
    sessions.check("SELECT a, b, b[1] FROM json").await;
}

#[tokio::test]
async fn partitioned_folders() {
    let sessions = Sessions::new().await;
    let folder = sessions.path("parts");
    for (year, ids) in [(2023, 0..5), (2024, 5..30), (2025, 30..31)] {
        let part = folder.join(format!("year={year}"));
        std::fs::create_dir_all(&part).unwrap();
        write_parquet(&part.join("rows.parquet"), &batch(ids));
    }
    let location = folder.display();
    sessions
        .run(&format!("CREATE EXTERNAL TABLE parts STORED AS PARQUET PARTITIONED BY (year) LOCATION '{location}/'"))
        .await;
    sessions.check("SELECT year, count(*), max(id) FROM parts GROUP BY year").await;
    sessions.check("SELECT id, name FROM parts WHERE year = '2024' AND id > 20").await;
}

#[tokio::test]
async fn rows_are_written_to_tables_and_files() {
    let sessions = Sessions::new().await;
    sessions.csv("t", &["a,b\n1,x\n3,y\n", "a,b\n2,z\n"]).await;
    sessions.run("CREATE TABLE target (a BIGINT, b VARCHAR)").await;
    sessions.run("INSERT INTO target SELECT a, b FROM t WHERE a <= (SELECT max(a) FROM t)").await;
    sessions.run("INSERT INTO target VALUES (9, NULL)").await;
    sessions.check("SELECT * FROM target").await;
    for (number, context) in sessions.all().enumerate() {
        let folder = sessions.path(&format!("copy{number}"));
        let copy = format!("COPY (SELECT a, b FROM t ORDER BY a DESC) TO '{}/out.csv'", folder.display());
        let written = rows(context, &copy).await.unwrap();
        assert!(written.iter().any(|line| line.contains('3')), "{written:?}");
        let text = std::fs::read_to_string(folder.join("out.csv")).unwrap();
        assert_eq!(text, "a,b\n3,y\n2,z\n1,x\n");
    }
}
