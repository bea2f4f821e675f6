// SPDX-License-Identifier: Apache-2.0
//! Two executors over TCP, tables in files that both read, and every answer compared with plain DataFusion's.
//!
//! On one executor a task runs every partition of its stage, so what is lost by cutting a plan into slices shows on
//! two at the earliest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use ballista::prelude::*;
use ballista::{ExecutorHandle, SchedulerHandle};
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use tokio::net::TcpListener;

use crate::common::{config, write_parquet};

/// A query that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Slots of each of the two executors.
pub const SLOTS: u32 = 2;

/// Plain DataFusion, and sessions on one cluster that are made to distribute in different ways.
pub struct Pair {
    pub plain: SessionContext,
    pub sessions: Vec<(&'static str, SessionContext)>,
    folder: tempfile::TempDir,
    port: u16,
    _scheduler: SchedulerHandle,
    executors: Vec<ExecutorHandle>,
}

/// Whatever can be distributed is; small build sides are broadcast.
pub fn broadcasting() -> SessionConfig {
    config().with_batch_size(64).with_ballista_setting(|settings| settings.single_task_bytes = 0)
}

/// Both sides of every join are moved, into many more buckets than there are slots, each read by a partition of its
/// own: tasks come in waves, and each runs a slice of several partitions. Every global sort goes through ranges.
pub fn shuffling() -> SessionConfig {
    broadcasting().with_ballista_setting(|settings| {
        settings.broadcast_bytes = 0;
        settings.bucket_bytes = 1 << 10;
        settings.read_bytes = 1;
        settings.range_sort_bytes = 0;
    })
}

/// The same through files and Flight, planned without looking at what came out.
pub fn on_disk() -> SessionConfig {
    shuffling().with_ballista_setting(|settings| {
        settings.memory_tier = false;
        settings.adaptive = false;
    })
}

impl Pair {
    pub async fn new() -> Self {
        Self::with_sessions([("broadcasting", broadcasting()), ("shuffling", shuffling()), ("on disk", on_disk())])
            .await
    }

    pub async fn with_sessions(configs: impl IntoIterator<Item = (&'static str, SessionConfig)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheduler = SchedulerBuilder::new().build().unwrap().serve(listener).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut executors = vec![];
        for number in 0..2 {
            executors.push(start_executor(folder.path(), &number.to_string(), port).await);
        }
        let url = format!("df://127.0.0.1:{port}");
        let mut sessions = vec![];
        for (name, config) in configs {
            let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
            sessions.push((name, SessionContext::remote_with_state(&url, state).await.unwrap()));
        }
        let plain = SessionContext::new_with_config(config());
        Self { plain, sessions, folder, port, _scheduler: scheduler, executors }
    }

    /// Where the scheduler is.
    pub fn url(&self) -> String {
        format!("df://127.0.0.1:{}", self.port)
    }

    /// Kills an executor; another one takes its place.
    pub async fn replace_executor(&mut self, number: usize) {
        self.executors[number].kill();
        self.executors[number] = start_executor(self.folder.path(), "successor", self.port).await;
    }

    /// Bytes in the executors' shuffle files.
    pub fn shuffled_bytes(&self) -> u64 {
        fn bytes(folder: &Path) -> u64 {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { bytes(&entry.path()) } else { size(&entry) }).sum()
        }
        fn size(entry: &std::fs::DirEntry) -> u64 {
            // Gone between listing and looking.
            entry.metadata().map_or(0, |metadata| metadata.len())
        }
        bytes(&self.folder.path().join("work"))
    }

    pub fn all(&self) -> impl Iterator<Item = &SessionContext> {
        std::iter::once(&self.plain).chain(self.sessions.iter().map(|(_, context)| context))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a statement that changes the sessions.
    pub async fn run(&self, sql: &str) {
        for context in self.all() {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
    }

    /// Registers the rows of a query as so many Parquet files.
    pub async fn parquet(&self, table: &str, sql: &str, files: usize) {
        let frame = self.plain.sql(sql).await.unwrap();
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let rows = arrow::compute::concat_batches(&schema, &frame.collect().await.unwrap()).unwrap();
        let folder = self.path(table);
        std::fs::create_dir(&folder).unwrap();
        let chunk = rows.num_rows().div_ceil(files).max(1);
        for number in 0..files {
            let start = (number * chunk).min(rows.num_rows());
            let slice = rows.slice(start, chunk.min(rows.num_rows() - start));
            write_parquet(&folder.join(format!("{number:03}.parquet")), &slice);
        }
        let location = format!("{}/", folder.display());
        for context in self.all() {
            context.register_parquet(table, &location, ParquetReadOptions::new()).await.unwrap();
        }
    }

    /// Every session gives the rows of plain DataFusion, in any order; the jobs' figures.
    pub async fn check(&self, sql: &str) -> Vec<JobSummary> {
        self.compare(sql, false).await
    }

    /// The same, in the same order.
    pub async fn check_ordered(&self, sql: &str) -> Vec<JobSummary> {
        self.compare(sql, true).await
    }

    /// As [`check`](Self::check), and in every session some stage ran as tasks on both executors.
    pub async fn check_spread(&self, sql: &str) -> Vec<JobSummary> {
        let summaries = self.check(sql).await;
        for ((name, _), summary) in self.sessions.iter().zip(&summaries) {
            assert!(summary.tasks > summary.stages, "{name}: {sql}\nevery stage was one task: {summary:?}");
        }
        summaries
    }

    async fn compare(&self, sql: &str, ordered: bool) -> Vec<JobSummary> {
        let expected = self.plain.sql(sql).await.unwrap().collect().await;
        let expected = text(&expected.unwrap_or_else(|error| panic!("plain: {sql}\n{error}")), ordered);
        let mut summaries = vec![];
        for (name, context) in &self.sessions {
            let (rows, summary) = run(context, sql).await.unwrap_or_else(|error| panic!("{name}: {sql}\n{error}"));
            let rows = text(&rows, ordered);
            if rows != expected {
                let (first, second) = (rows.len().min(40), expected.len().min(40));
                panic!("{name}: {sql}\n{:#?}\ninstead of\n{:#?}", &rows[..first], &expected[..second]);
            }
            summaries.push(summary.unwrap_or_else(|| panic!("{name}: {sql}\nran in the client")));
        }
        summaries
    }
}

async fn start_executor(folder: &Path, name: &str, port: u16) -> ExecutorHandle {
    let work = folder.join("work").join(name);
    let executor = ExecutorBuilder::new().with_slots(SLOTS).with_scheduler("127.0.0.1", port).with_work_dir(work);
    let executor = executor.start().await.unwrap();
    executor.registered().await.unwrap();
    executor
}

/// The rows of a query that must end, and the figures of its job.
pub async fn run(context: &SessionContext, sql: &str) -> Result<(Vec<RecordBatch>, Option<JobSummary>)> {
    let frame = context.sql(sql).await?;
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let rows = tokio::time::timeout(HANGS, collect(Arc::clone(&plan), task)).await;
    let rows = rows.unwrap_or_else(|_| panic!("no answer within {HANGS:?}: {sql}"))?;
    Ok((rows, job_summary(plan.as_ref())))
}

pub fn text(rows: &[RecordBatch], ordered: bool) -> Vec<String> {
    // Widths of columns, which differ with the rows, are not compared.
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let table = pretty_format_batches(rows).unwrap().to_string();
    let mut lines: Vec<_> = table.lines().filter(|line| !line.starts_with('+')).map(squeeze).collect();
    if !ordered {
        lines.sort();
    }
    lines
}
