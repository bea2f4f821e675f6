// SPDX-License-Identifier: Apache-2.0
//! The same session three times over: plain DataFusion, a cluster as it comes, and clusters that are made to exchange.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use ballista::prelude::*;
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::{collect, displayable};
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionConfig, SessionContext};

/// A plain session, and sessions on clusters with the same tables.
pub struct Sessions {
    pub plain: SessionContext,
    pub clusters: Vec<(&'static str, SessionContext)>,
    folder: tempfile::TempDir,
}

pub fn config() -> SessionConfig {
    SessionConfig::new().with_target_partitions(4).with_information_schema(true)
}

/// Every query that can be distributed is, and batches are small.
pub fn distributed(config: SessionConfig) -> SessionConfig {
    config.with_batch_size(16).with_ballista_setting(|settings| settings.single_task_bytes = 0)
}

pub async fn standalone(config: SessionConfig) -> SessionContext {
    let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    SessionContext::standalone_with_state(state).await.unwrap()
}

impl Sessions {
    pub async fn new() -> Self {
        let on_disk = distributed(config()).with_ballista_setting(|settings| settings.memory_tier = false);
        let clusters = vec![
            ("as it comes", standalone(config()).await),
            ("distributed", standalone(distributed(config())).await),
            ("distributed, on disk", standalone(on_disk).await),
        ];
        let plain = SessionContext::new_with_config(config());
        Self { plain, clusters, folder: tempfile::tempdir().unwrap() }
    }

    pub fn all(&self) -> impl Iterator<Item = &SessionContext> {
        std::iter::once(&self.plain).chain(self.clusters.iter().map(|(_, context)| context))
    }

    /// Runs a statement that changes the sessions.
    pub async fn run(&self, sql: &str) {
        for context in self.all() {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Registers CSV files, one per text.
    pub async fn csv(&self, table: &str, files: &[&str]) {
        let folder = self.path(table);
        std::fs::create_dir(&folder).unwrap();
        for (number, text) in files.iter().enumerate() {
            File::create(folder.join(format!("{number}.csv"))).unwrap().write_all(text.as_bytes()).unwrap();
        }
        let location = format!("{}/", folder.display());
        for context in self.all() {
            context.register_csv(table, &location, CsvReadOptions::new()).await.unwrap();
        }
    }

    /// Registers the rows of a query as Parquet files of a few rows each.
    pub async fn parquet(&self, table: &str, sql: &str, files: usize) {
        let frame = self.plain.sql(sql).await.unwrap();
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let rows = frame.collect().await.unwrap();
        let rows = arrow::compute::concat_batches(&schema, &rows).unwrap();
        let folder = self.path(table);
        std::fs::create_dir(&folder).unwrap();
        let chunk = rows.num_rows().div_ceil(files).max(1);
        for number in 0..files {
            let start = (number * chunk).min(rows.num_rows());
            let slice = rows.slice(start, chunk.min(rows.num_rows() - start));
            write_parquet(&folder.join(format!("{number}.parquet")), &slice);
        }
        let location = format!("{}/", folder.display());
        for context in self.all() {
            context.register_parquet(table, &location, ParquetReadOptions::new()).await.unwrap();
        }
    }

    /// The clusters give the rows of plain DataFusion, in any order, and have computed them.
    pub async fn check(&self, sql: &str) {
        self.compare(sql, false, true).await;
    }

    /// The same, in the same order.
    pub async fn check_ordered(&self, sql: &str) {
        self.compare(sql, true, true).await;
    }

    /// The same for what runs in the client.
    pub async fn check_local(&self, sql: &str) {
        self.compare(sql, false, false).await;
    }

    async fn compare(&self, sql: &str, ordered: bool, on_cluster: bool) {
        let expected = lines(&self.plain.sql(sql).await.unwrap().collect().await.unwrap(), ordered);
        for (name, context) in &self.clusters {
            let frame = context.sql(sql).await.unwrap();
            let task = frame.task_ctx();
            let plan = frame.create_physical_plan().await.unwrap();
            let rows = collect(Arc::clone(&plan), Arc::new(task)).await;
            let rows = rows.unwrap_or_else(|error| panic!("{name}: {sql}\n{error}"));
            assert_eq!(lines(&rows, ordered), expected, "{name}: {sql}");
            let summary = job_summary(plan.as_ref());
            let shown = displayable(plan.as_ref()).indent(true);
            assert_eq!(summary.is_some(), on_cluster, "{name}: {sql}\n{shown}");
            if let Some(summary) = summary {
                assert!(summary.stages >= 1 && summary.tasks >= 1, "{summary:?}");
            }
        }
    }
}

/// Rows as text, sorted unless their order matters.
pub fn lines(rows: &[RecordBatch], ordered: bool) -> Vec<String> {
    let text = pretty_format_batches(rows).unwrap().to_string();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    if !ordered {
        lines.sort();
    }
    lines
}

pub async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<String>> {
    Ok(lines(&context.sql(sql).await?.collect().await?, true))
}

pub fn write_parquet(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}
