// SPDX-License-Identifier: Apache-2.0
//! `COPY`, `INSERT` and `write_*`: written by the cluster's tasks, visible all at once or not at all.

use std::path::{Path, PathBuf};

use ballista::prelude::*;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::prelude::{DataFrame, SessionContext};

use crate::common::{config, distributed, lines, rows, standalone};

const ROWS: &str = "SELECT x AS id, x % 7 AS k, 'row ' || x AS text, CASE WHEN x % 11 = 0 THEN NULL ELSE x * 0.5 END \
                    AS half FROM generate_series(1, 5000) AS t(x)";

/// A distributed session with a table `source` of several files, and a folder to write to.
struct Writer {
    context: SessionContext,
    folder: tempfile::TempDir,
}

impl Writer {
    async fn new() -> Self {
        let context = standalone(distributed(config())).await;
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let plain = SessionContext::new();
        for part in 0..6 {
            let sql = format!("{ROWS} WHERE x % 6 = {part}");
            let frame = plain.sql(&sql).await.unwrap();
            let path = source.join(format!("{part}.parquet"));
            frame.write_parquet(path.to_str().unwrap(), Default::default(), None).await.unwrap();
        }
        let location = format!("{}/", source.display());
        context.register_parquet("source", &location, Default::default()).await.unwrap();
        Self { context, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a statement on the cluster; its row count.
    async fn write(&self, sql: &str) -> u64 {
        let frame = self.context.sql(sql).await.unwrap();
        let (count, summary) = collect(frame).await;
        assert!(summary.is_some_and(|summary| summary.rows >= 1), "{sql} did not run on the cluster");
        count
    }

    async fn check(&self, sql: &str, expected: &str) {
        let expected = rows(&self.context, expected).await.unwrap();
        assert_eq!(rows(&self.context, sql).await.unwrap(), expected, "{sql}");
    }
}

async fn collect(frame: DataFrame) -> (u64, Option<JobSummary>) {
    let task = std::sync::Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.unwrap();
    let batches: Vec<RecordBatch> =
        datafusion::physical_plan::collect(std::sync::Arc::clone(&plan), task).await.unwrap();
    assert_eq!(lines(&batches, true).len(), 5, "one row");
    (batches[0].column(0).as_primitive::<UInt64Type>().value(0), job_summary(plan.as_ref()))
}

/// All files below `folder`, uncompleted ones included.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut found = vec![];
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_written_by_tasks_and_reads_back() {
    let writer = Writer::new().await;
    for format in ["parquet", "csv", "json"] {
        let folder = writer.path(format);
        let count = writer.write(&format!("COPY source TO '{folder}/' STORED AS {format}")).await;
        assert_eq!(count, 5000);
        let written = files(Path::new(&folder));
        assert!(written.len() > 1, "one task wrote everything: {written:?}");
        let named = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with("part-0000");
        assert!(written.iter().all(named), "{written:?}");
        let table = format!("CREATE EXTERNAL TABLE {format}_copy STORED AS {format} LOCATION '{folder}/'");
        writer.context.sql(&table).await.unwrap().collect().await.unwrap();
        let query = |table: &str| format!("SELECT id, k, text, half FROM {table} ORDER BY id");
        writer.check(&query(&format!("{format}_copy")), &query("source")).await;
    }
}

/// An attempt that repeats one which published a part of its files has to write files of the same names.
#[tokio::test(flavor = "multi_thread")]
async fn every_partition_writes_its_own_rows_though_a_task_has_several() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let plain = SessionContext::new();
    // The first file takes long, while one partition could read all others. (Rows in order would forbid that.)
    for part in 0..8 {
        let rows = if part == 0 { 2_000_000 } else { 10 };
        let sql = format!("SELECT {part} AS part, x * 7919 % 1000003 AS x FROM generate_series(1, {rows}) AS t(x)");
        let path = source.join(format!("{part}.parquet"));
        plain.sql(&sql).await.unwrap().write_parquet(path.to_str().unwrap(), Default::default(), None).await.unwrap();
    }
    let context = standalone(config().with_target_partitions(2)).await;
    let location = format!("{}/", source.display());
    // As in a directory of many files of different sizes.
    context.sql("SET datafusion.optimizer.repartition_file_scans = false").await.unwrap();
    context.register_parquet("source", &location, Default::default()).await.unwrap();
    let target = folder.path().join("target");
    let copy = format!("COPY source TO '{}/' STORED AS PARQUET PARTITIONED BY (part)", target.display());
    let (count, summary) = collect(context.sql(&copy).await.unwrap()).await;
    assert_eq!((count, summary.map(|summary| summary.tasks)), (2_000_070, Some(1)));
    for part in 0..8 {
        let written = files(&target.join(format!("part={part}")));
        let expected = format!("part-{:05}-", part / 4);
        let named = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(&expected);
        assert!(written.len() == 1 && named(&written[0]), "{written:?}, not {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_one_file_in_its_order() {
    let writer = Writer::new().await;
    let file = writer.path("all.csv");
    let count = writer.write(&format!("COPY (SELECT id FROM source ORDER BY id DESC) TO '{file}'")).await;
    assert_eq!(count, 5000);
    let text = std::fs::read_to_string(&file).unwrap();
    let expected: Vec<_> = std::iter::once("id".to_owned()).chain((1..=5000).rev().map(|id| id.to_string())).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_write_to_a_directory_is_sorted_by_many_tasks() {
    let writer = Writer::new().await;
    writer.context.sql("SET ballista.planner.range_sort_bytes = 0").await.unwrap().collect().await.unwrap();
    let folder = writer.path("sorted");
    assert_eq!(
        writer.write(&format!("COPY (SELECT id FROM source ORDER BY id) TO '{folder}/' STORED AS CSV")).await,
        5000
    );
    let files = files(Path::new(&folder));
    assert!(files.len() > 1, "{files:?}");
    let lines = |file: &PathBuf| -> Vec<String> {
        std::fs::read_to_string(file).unwrap().lines().skip(1).map(str::to_owned).collect()
    };
    let written: Vec<_> = files.iter().flat_map(lines).collect();
    assert_eq!(written, (1..=5000).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_and_empty_writes() {
    let writer = Writer::new().await;
    let folder = writer.path("by_k");
    let copy = format!("COPY source TO '{folder}/' STORED AS PARQUET PARTITIONED BY (k)");
    assert_eq!(writer.write(&copy).await, 5000);
    for k in 0..7 {
        assert!(!files(&Path::new(&folder).join(format!("k={k}"))).is_empty());
    }
    let table = "CREATE EXTERNAL TABLE by_k STORED AS PARQUET PARTITIONED BY (k) LOCATION";
    writer.context.sql(&format!("{table} '{folder}/'")).await.unwrap().collect().await.unwrap();
    let query = |table: &str| format!("SELECT id, text, half, CAST(k AS BIGINT) AS k FROM {table} ORDER BY id");
    writer.check(&query("by_k"), &query("source")).await;
    let empty = writer.path("empty");
    assert_eq!(writer.write(&format!("COPY (SELECT * FROM source WHERE id < 0) TO '{empty}/' STORED AS CSV")).await, 0);
    assert_eq!(files(Path::new(&empty)), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn inserts_append_and_are_seen_at_once() {
    let writer = Writer::new().await;
    let folder = writer.path("target");
    std::fs::create_dir(&folder).unwrap();
    let table = format!("CREATE EXTERNAL TABLE target (id BIGINT, k BIGINT) STORED AS PARQUET LOCATION '{folder}/'");
    writer.context.sql(&table).await.unwrap().collect().await.unwrap();
    for times in 1..=3 {
        assert_eq!(writer.write("INSERT INTO target SELECT id, k FROM source").await, 5000);
        writer.check("SELECT count(*) FROM target", &format!("SELECT {times} * 5000 AS \"count(*)\"")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_or_is_cancelled_leaves_nothing() {
    let writer = Writer::new().await;
    let folder = writer.path("broken");
    let failing = "SELECT id, 1 / (id - 4999) AS x FROM source";
    let copy = format!("COPY ({failing}) TO '{folder}/' STORED AS PARQUET");
    let error = writer.context.sql(&copy).await.unwrap().collect().await.unwrap_err();
    assert!(error.to_string().contains("Divide by zero"), "{error}");
    nothing_stays(&folder).await;

    let folder = writer.path("cancelled");
    let endless = "SELECT a.id, b.text FROM source a, source b, source c";
    let copy = format!("COPY ({endless}) TO '{folder}/' STORED AS CSV");
    let frame = writer.context.sql(&copy).await.unwrap();
    let running = tokio::spawn(frame.collect());
    // It is writing already.
    for _ in 0..200 {
        if !files(Path::new(&folder)).is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!files(Path::new(&folder)).is_empty(), "it never wrote");
    running.abort();
    nothing_stays(&folder).await;
}

/// Uploads are thrown away in the background.
async fn nothing_stays(folder: &str) {
    for _ in 0..200 {
        if files(Path::new(folder)).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("left behind: {:?}", files(Path::new(folder)));
}
