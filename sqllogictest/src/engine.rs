// SPDX-License-Identifier: Apache-2.0
//! The engines: bare DataFusion, and sessions on a scheduler and two executors of this process, over loopback TCP.
//!
//! All sessions have the same settings but for `ballista.*`: few rows per batch, small files split, and on a cluster
//! every query that can be distributed is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use ballista::prelude::*;
use ballista::{ExecutorHandle, SchedulerHandle};
use clap::ValueEnum;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use sqllogictest::{AsyncDB, DBOutput};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::cells::{Column, rows};

const EXECUTORS: usize = 2;
const SLOTS: u32 = 2;
/// As many as there are slots.
const PARTITIONS: usize = 4;
/// A statement that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Stands for the file's own folder in SQL and in results.
const SCRATCH: &str = "$SCRATCH";

/// On what a file is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineKind {
    /// Without Ballista
    Datafusion,
    /// Exchanges in memory where they can be
    Cluster,
    /// Exchanges by files and Flight
    ClusterDisk,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Datafusion => "datafusion",
            Self::Cluster => "cluster",
            Self::ClusterDisk => "cluster-disk",
        })
    }
}

/// Scheduler and executors.
pub(crate) struct Servers {
    scheduler: SchedulerHandle,
    executors: Vec<ExecutorHandle>,
    url: String,
}

impl Servers {
    /// Starts them, as their daemons do.
    pub(crate) async fn start() -> Result<Self> {
        let external = |error| DataFusionError::External(error);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let scheduler = SchedulerBuilder::new().build().map_err(|error| external(error.into()))?;
        let scheduler = scheduler.serve(listener).map_err(|error| external(error.into()))?;
        let mut executors = Vec::with_capacity(EXECUTORS);
        for _ in 0..EXECUTORS {
            let executor = ExecutorBuilder::new().with_slots(SLOTS).with_scheduler("127.0.0.1", port);
            let executor = executor.start().await.map_err(|error| external(error.into()))?;
            executor.registered().await.map_err(|error| external(error.into()))?;
            executors.push(executor);
        }
        Ok(Self { scheduler, executors, url: format!("df://127.0.0.1:{port}") })
    }

    /// Stops them.
    pub(crate) async fn shutdown(self) {
        // The process ends anyway.
        for executor in self.executors {
            let _ = executor.shutdown().await;
        }
        let _ = self.scheduler.shutdown().await;
    }
}

/// What the statements of a session were.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Queries that a cluster computed.
    pub(crate) distributed: AtomicU64,
    /// Of these, those with more than one stage.
    pub(crate) exchanging: AtomicU64,
    /// Tasks of all.
    pub(crate) tasks: AtomicU64,
}

/// A session with a folder of its own, for one file.
#[derive(Clone)]
pub(crate) struct Engine {
    kind: EngineKind,
    context: SessionContext,
    scratch: Arc<TempDir>,
    counts: Arc<Counts>,
}

impl Engine {
    /// A fresh session.
    pub(crate) async fn new(kind: EngineKind, servers: &Servers) -> Result<Self> {
        let state = SessionStateBuilder::new().with_config(config(kind)).with_default_features().build();
        let context = match kind {
            EngineKind::Datafusion => SessionContext::new_with_state(state),
            EngineKind::Cluster | EngineKind::ClusterDisk => {
                SessionContext::remote_with_state(&servers.url, state).await?
            }
        };
        let scratch = Arc::new(tempfile::tempdir()?);
        Ok(Self { kind, context: context.enable_url_table(), scratch, counts: Arc::default() })
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn execute(&self, sql: &str) -> Result<DBOutput<Column>> {
        let frame = self.context.sql(sql).await?;
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        // Not the frame's schema: DataFusion coerces the columns of a UNION later.
        let declared = plan.schema();
        let batches = collect(Arc::clone(&plan), task).await?;
        if let Some(summary) = job_summary(plan.as_ref()) {
            self.counts.distributed.fetch_add(1, Ordering::Relaxed);
            self.counts.exchanging.fetch_add(u64::from(summary.stages > 1), Ordering::Relaxed);
            self.counts.tasks.fetch_add(summary.tasks.into(), Ordering::Relaxed);
        }
        for batch in &batches {
            check_schema(&declared, &batch.schema())?;
        }
        if declared.fields().is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let types = declared.fields().iter().map(|field| Column::of(field.data_type())).collect();
        Ok(DBOutput::Rows { types, rows: rows(&batches)? })
    }
}

fn config(kind: EngineKind) -> SessionConfig {
    let mut config =
        SessionConfig::new().with_target_partitions(PARTITIONS).with_batch_size(16).with_information_schema(true);
    config.options_mut().optimizer.repartition_file_min_size = 1024;
    match kind {
        EngineKind::Datafusion => config,
        EngineKind::Cluster => config.with_ballista_setting(|settings| settings.single_task_bytes = 0),
        EngineKind::ClusterDisk => config.with_ballista_setting(|settings| {
            settings.single_task_bytes = 0;
            settings.memory_tier = false;
            settings.inline_result_bytes = 0;
        }),
    }
}

/// What arrives has the columns that were promised.
fn check_schema(declared: &Schema, received: &Schema) -> Result<()> {
    let columns = |schema: &Schema| -> Vec<(String, DataType)> {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let (declared, received) = (columns(declared), columns(received));
    if declared == received {
        return Ok(());
    }
    Err(DataFusionError::Internal(format!("declared columns {declared:?}, received {received:?}")))
}

#[async_trait]
impl AsyncDB for Engine {
    type Error = DataFusionError;
    type ColumnType = Column;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Column>> {
        let scratch = self.scratch.path().display().to_string();
        let result = tokio::time::timeout(TIMEOUT, self.execute(&sql.replace(SCRATCH, &scratch))).await;
        let mut output = result
            .unwrap_or_else(|_| Err(DataFusionError::Execution(format!("no end after {} s", TIMEOUT.as_secs()))))?;
        if let DBOutput::Rows { rows, .. } = &mut output {
            let names = [&scratch[..], scratch.trim_start_matches('/')];
            for cell in rows.iter_mut().flatten().filter(|cell| names.iter().any(|name| cell.contains(name))) {
                *cell = cell.replace(names[0], SCRATCH).replace(names[1], SCRATCH);
            }
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {}

    /// What `skipif` names.
    fn engine_name(&self) -> &str {
        match self.kind {
            EngineKind::Datafusion => "datafusion",
            EngineKind::Cluster | EngineKind::ClusterDisk => "cluster",
        }
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
