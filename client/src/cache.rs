// SPDX-License-Identifier: Apache-2.0
//! `DataFrame::cache`: rows that stay in the executors, in memory first and then on disk.
//!
//! Caching a query makes a table of it. A job computes the rows at once, in the background, and leaves them where they
//! are; the call that submitted it stays open for as long as anybody can read them. Rows that are lost with an executor
//! are computed anew when they are read next.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use ballista_core::{ClassifiedError, ErrorClass};
use ballista_exchange::status::from_status;
use ballista_plan::cached::{CachedExec, CachedRows};
use ballista_plan::codec::PlanCodec;
use ballista_proto as proto;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::{CacheFactory, SessionState};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType, UNNAMED_TABLE};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{
    EmptyRecordBatchStream, ExecutionPlan, SendableRecordBatchStream, collect_partitioned,
};
use futures::StreamExt;
use proto::job_event::Event;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::error::{ClientError, error_of_call, of_job, root_cause};
use crate::exec::{DistributedQueryExec, Query};
use crate::job::Holds;

/// Caches queries of a session in its cluster.
#[derive(Debug)]
pub(crate) struct ClusterCache;

impl CacheFactory for ClusterCache {
    fn create(&self, plan: LogicalPlan, session: &SessionState) -> Result<LogicalPlan> {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        let table = Arc::new(CachedTable { schema, plan, rows: Mutex::default() });
        if let Ok(runtime) = Handle::try_current() {
            let (table, session) = (Arc::clone(&table), session.clone());
            // Whoever reads the rows waits for them, and hears of an error by trying again.
            runtime.spawn(async move { table.rows(&session).await.map(drop) });
        }
        LogicalPlanBuilder::scan(UNNAMED_TABLE, provider_as_source(table), None)?.build()
    }
}

/// A query whose rows are kept.
#[derive(Debug)]
struct CachedTable {
    schema: SchemaRef,
    plan: LogicalPlan,
    rows: Mutex<Option<Rows>>,
}

/// Where cached rows are.
#[derive(Debug, Clone)]
enum Rows {
    InCluster(Arc<ClusterRows>),
    /// Of a query that cannot leave the client.
    Here(Arc<MemTable>),
}

impl CachedTable {
    /// The rows, computed if they are not there.
    async fn rows(&self, session: &SessionState) -> Result<Rows> {
        let mut rows = self.rows.lock().await;
        match rows.as_ref() {
            Some(Rows::InCluster(kept)) if kept.is_lost() => {}
            Some(rows) => return Ok(rows.clone()),
            None => {}
        }
        let plan = session.create_physical_plan(&self.plan).await?;
        let computed = match plan.downcast_ref::<DistributedQueryExec>() {
            Some(query) => Rows::InCluster(Arc::new(ClusterRows::compute(query, session.task_ctx()).await?)),
            None => {
                let partitions = collect_partitioned(Arc::clone(&plan), session.task_ctx()).await?;
                Rows::Here(Arc::new(MemTable::try_new(plan.schema(), partitions)?))
            }
        };
        *rows = Some(computed.clone());
        Ok(computed)
    }
}

#[async_trait]
impl TableProvider for CachedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let state = session.as_any().downcast_ref::<SessionState>().ok_or_else(|| {
            DataFusionError::NotImplemented("cached rows are read by sessions of DataFusion only".to_owned())
        })?;
        let kept = match self.rows(state).await? {
            Rows::Here(table) => return table.scan(session, projection, filters, limit).await,
            Rows::InCluster(kept) => kept,
        };
        let plan: Arc<dyn ExecutionPlan> = Arc::new(kept.leaf().with_source(kept));
        let Some(projection) = projection else { return Ok(plan) };
        let schema = plan.schema();
        let columns = projection.iter().map(|index| {
            let name = schema.field(*index).name();
            ProjectionExpr::new(Arc::new(Column::new(name, *index)), name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

/// Rows that a job has left in the executors. They go when this is dropped.
pub(crate) struct ClusterRows {
    cluster: Arc<Cluster>,
    job: String,
    schema: SchemaRef,
    rows: u64,
    partition_bytes: Vec<u64>,
    lost: Arc<AtomicBool>,
    /// To read the rows in a plan that the client runs itself: the same request without its plan.
    request: proto::ExecuteRequest,
    /// Holds the call open.
    watcher: JoinHandle<()>,
}

impl fmt::Debug for ClusterRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterRows").field("job", &self.job).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Drop for ClusterRows {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl ClusterRows {
    /// Runs `query`, and leaves its rows in the cluster.
    async fn compute(query: &DistributedQueryExec, context: Arc<TaskContext>) -> Result<Self> {
        let (request, holds) = query.prepare(context).await?;
        let request = proto::ExecuteRequest { keep: true, ..request };
        Self::keep(Arc::clone(query.cluster()), request, query.schema(), holds).await
    }

    /// Submits `request`, which asks for that, and leaves the rows in the cluster.
    pub(crate) async fn keep(
        cluster: Arc<Cluster>,
        mut request: proto::ExecuteRequest,
        schema: SchemaRef,
        holds: Holds,
    ) -> Result<Self> {
        let plan = std::mem::take(&mut request.plan);
        let call = cluster.scheduler().execute(proto::ExecuteRequest { plan, ..request.clone() }).await;
        let mut events = call.map_err(|status| error_of_call(cluster.name(), &status))?.into_inner();
        let mut job = String::new();
        let lost = |job: &str, reason: String| {
            let (scheduler, job) = (cluster.name().to_owned(), job.to_owned());
            DataFusionError::from(ClientError::Lost { scheduler, job, reason })
        };
        let finished = loop {
            let event = match events.next().await {
                Some(Ok(event)) => event.event,
                Some(Err(status)) => {
                    let failure = from_status(&status).map(of_job);
                    return Err(failure.unwrap_or_else(|| lost(&job, root_cause(&status))));
                }
                None => return Err(lost(&job, "the stream of its events ended".to_owned())),
            };
            match event {
                Some(Event::Accepted(accepted)) => job = accepted.job,
                Some(Event::Finished(finished)) => break finished,
                Some(Event::Failed(failure)) => {
                    return Err(of_job(ClassifiedError::new(ErrorClass::from_code(failure.class), failure.message)));
                }
                _ => {}
            }
        };
        tracing::debug!(job, rows = finished.rows, "rows cached");
        let lost = Arc::new(AtomicBool::new(false));
        let watcher = tokio::spawn({
            let lost = Arc::clone(&lost);
            async move {
                // Nothing comes any more, unless the rows are lost.
                let _ = events.next().await;
                lost.store(true, Ordering::Relaxed);
                drop((events, holds));
            }
        });
        Ok(Self {
            cluster,
            job,
            schema,
            rows: finished.rows,
            partition_bytes: finished.kept_bytes,
            lost,
            request,
            watcher,
        })
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// What reads them in the plan of another job.
    pub(crate) fn leaf(&self) -> CachedExec {
        CachedExec::new(self.job.clone(), Arc::clone(&self.schema), self.rows, self.partition_bytes.clone())
    }
}

impl CachedRows for ClusterRows {
    /// All rows as one partition, which a job fetches.
    fn read(self: Arc<Self>, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition > 0 {
            return Ok(Box::pin(EmptyRecordBatchStream::new(Arc::clone(&self.schema))));
        }
        let leaf: Arc<dyn ExecutionPlan> = Arc::new(self.leaf());
        let query = Query {
            plan: PlanCodec::default().encode(&leaf)?,
            uploads: None,
            settings: self.request.settings.clone().into(),
            schema: Arc::clone(&self.schema),
            ordering: None,
            counts_writes: false,
            session_id: self.request.session_id.clone(),
            session: None,
            cached: vec![Arc::clone(&self) as _],
            stores: vec![],
        };
        DistributedQueryExec::new(Arc::clone(&self.cluster), query).execute(0, context)
    }
}
