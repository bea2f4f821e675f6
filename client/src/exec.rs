// SPDX-License-Identifier: Apache-2.0
//! [`DistributedQueryExec`]: the node of a client's plan whose rows a cluster computes.
//!
//! Every execution submits one job, at the first poll of its stream. Dropping the stream cancels the job. If the cluster
//! cannot make some of the rows that the query reads, these are made here first and uploaded; see `upload`.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use ballista_core::PROTOCOL_VERSION;
use ballista_plan::cached::CachedRows;
use ballista_plan::write::count_batch;
use ballista_proto as proto;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use crate::cluster::{Cluster, SessionLease};
use crate::config::progress_listener;
use crate::job::{Holds, JobContext, OnFinished, submit};
use crate::summary::JobSummary;
use crate::upload::{Uploader, Uploads};

/// Runs a plan on a cluster. One partition; rows in the plan's order, if it has one.
pub struct DistributedQueryExec {
    cluster: Arc<Cluster>,
    plan: Bytes,
    uploads: Option<Uploads>,
    settings: Arc<[proto::Setting]>,
    counts_writes: bool,
    session_id: String,
    session: Option<SessionLease>,
    cached: Vec<Arc<dyn CachedRows>>,
    stores: Vec<proto::ObjectStore>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    summary: Arc<Mutex<Option<JobSummary>>>,
    /// The cluster reports how the job ran.
    observed: bool,
    analysis: Arc<Mutex<Option<proto::JobAnalysis>>>,
}

/// What travels with a query.
pub(crate) struct Query {
    /// The encoded plan; without the rows that are uploaded for it.
    pub(crate) plan: Bytes,
    /// What runs here first, so that the cluster can read its rows.
    pub(crate) uploads: Option<Uploads>,
    pub(crate) settings: Arc<[proto::Setting]>,
    /// Schema of the plan.
    pub(crate) schema: SchemaRef,
    /// Order of its rows.
    pub(crate) ordering: Option<LexOrdering>,
    /// The rows are numbers of rows that tasks have written; their sum is the result.
    pub(crate) counts_writes: bool,
    /// Under which the cluster knows the session.
    pub(crate) session_id: String,
    pub(crate) session: Option<SessionLease>,
    /// The cached rows that it reads.
    pub(crate) cached: Vec<Arc<dyn CachedRows>>,
    /// How to open the object stores that it touches.
    pub(crate) stores: Vec<proto::ObjectStore>,
}

impl DistributedQueryExec {
    pub(crate) fn new(cluster: Arc<Cluster>, query: Query) -> Self {
        let equivalences = EquivalenceProperties::new_with_orderings(query.schema, query.ordering);
        let partitioning = Partitioning::UnknownPartitioning(1);
        let properties =
            PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded)
                .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            cluster,
            plan: query.plan,
            uploads: query.uploads,
            settings: query.settings,
            counts_writes: query.counts_writes,
            session_id: query.session_id,
            session: query.session,
            cached: query.cached,
            stores: query.stores,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            summary: Arc::default(),
            observed: false,
            analysis: Arc::default(),
        }
    }

    /// Figures of the last job that this plan ran as, once it has ended well.
    pub fn summary(&self) -> Option<JobSummary> {
        self.summary.lock().clone()
    }

    /// The same query, with a report of how it ran; see [`analysis`](Self::analysis).
    pub(crate) fn observed(&self) -> Self {
        Self { observed: true, ..self.anew() }
    }

    /// The same query, which has not run.
    fn anew(&self) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            plan: self.plan.clone(),
            uploads: self.uploads.clone(),
            settings: Arc::clone(&self.settings),
            session_id: self.session_id.clone(),
            session: self.session.clone(),
            cached: self.cached.clone(),
            stores: self.stores.clone(),
            counts_writes: self.counts_writes,
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
            summary: Arc::default(),
            observed: self.observed,
            analysis: Arc::default(),
        }
    }

    /// How the last job of an observed query ran, once it has ended well.
    pub(crate) fn analysis(&self) -> Option<proto::JobAnalysis> {
        self.analysis.lock().clone()
    }

    /// Whether parts of the query run here first.
    pub(crate) fn uploads_rows(&self) -> bool {
        self.uploads.is_some() || !self.cached.is_empty()
    }

    /// Whether the rows are numbers of rows that tasks have written.
    pub(crate) fn counts_writes(&self) -> bool {
        self.counts_writes
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// As it is sent; if rows are uploaded for it, with a plan that only shows where they would be read.
    pub(crate) fn request(&self) -> proto::ExecuteRequest {
        proto::ExecuteRequest {
            protocol_version: PROTOCOL_VERSION,
            datafusion_version: datafusion::DATAFUSION_VERSION.to_owned(),
            session_id: self.session_id.clone(),
            plan: self.plan.clone(),
            settings: self.settings.to_vec(),
            analyze: self.observed,
            keep: false,
            stores: self.stores.clone(),
            ..Default::default()
        }
    }

    /// For whoever passes the job's events on instead of reading its rows: the request, and what must live as long as
    /// the job. `None` if the events do not tell the plan's rows, because these are made of them here.
    pub fn submission(
        &self,
        context: Arc<TaskContext>,
    ) -> Option<impl Future<Output = Result<(proto::ExecuteRequest, Holds)>> + Send + use<>> {
        (!self.counts_writes).then(|| self.prepare(context))
    }

    /// What keeps the session findable for as long as somebody asks the cluster about the plan.
    pub(crate) fn lease(&self) -> Option<SessionLease> {
        self.session.clone()
    }

    /// Everything that must live for as long as a job of this plan runs.
    pub(crate) fn holds(&self) -> Holds {
        Holds { _session: self.session.clone(), _cached: self.cached.clone() }
    }

    /// Uploads what the query reads of the client. What to submit then, and what must live for as long as its job.
    pub(crate) fn prepare(
        &self,
        context: Arc<TaskContext>,
    ) -> impl Future<Output = Result<(proto::ExecuteRequest, Holds)>> + Send + use<> {
        let (request, holds) = (self.request(), self.holds());
        let uploads = self.uploads.clone().map(|uploads| {
            let session = Holds { _session: self.session.clone(), _cached: vec![] };
            (uploads, Uploader::new(Arc::clone(&self.cluster), request.clone(), session, &self.metrics))
        });
        async move {
            let Some((uploads, uploader)) = uploads else { return Ok((request, holds)) };
            let (plan, rows) = uploads.run(&uploader, &context).await?;
            let cached = holds._cached.into_iter().chain(rows).collect();
            Ok((proto::ExecuteRequest { plan, ..request }, Holds { _cached: cached, ..holds }))
        }
    }

    fn on_finished(&self) -> OnFinished {
        let metrics = self.metrics.clone();
        let (summary, analysis) = (Arc::clone(&self.summary), Arc::clone(&self.analysis));
        Box::new(move |finished, reported| {
            let count = |name, value| MetricBuilder::new(&metrics).global_counter(name).add(value);
            count("stages", finished.stages as usize);
            count("tasks", finished.tasks as usize);
            count("bytes_exchanged", finished.bytes_exchanged as usize);
            *summary.lock() = Some(finished);
            *analysis.lock() = reported;
        })
    }
}

pub(crate) async fn sum_of_counts(rows: impl Stream<Item = Result<RecordBatch>>) -> Result<RecordBatch> {
    let add = |sum: u64, batch: RecordBatch| async move {
        let counts = batch.column(0).as_primitive::<UInt64Type>();
        Ok(sum + arrow::compute::sum(counts).unwrap_or(0))
    };
    count_batch(rows.try_fold(0, add).await?)
}

impl fmt::Debug for DistributedQueryExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedQueryExec").field("cluster", &self.cluster.name()).finish_non_exhaustive()
    }
}

impl DisplayAs for DistributedQueryExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        if format == DisplayFormatType::TreeRender {
            return writeln!(f, "cluster={}", self.cluster.name());
        }
        write!(f, "DistributedQueryExec: cluster={}", self.cluster.name())?;
        if let Some(ordering) = self.properties.output_ordering() {
            write!(f, ", ordering=[{ordering}]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for DistributedQueryExec {
    fn name(&self) -> &str {
        "DistributedQueryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// What runs here first.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.uploads.iter().flat_map(|uploads| &uploads.plans).collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.children().len()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(uploads) = &self.uploads else { return Ok(self) };
        let uploads = Uploads { plans: children, ..uploads.clone() };
        Ok(Arc::new(Self { uploads: Some(uploads), ..self.anew() }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("a distributed query has no partition {partition}")));
        }
        let schema = self.schema();
        let (cluster, row_schema) = (Arc::clone(&self.cluster), Arc::clone(&schema));
        let (listener, on_finished) = (progress_listener(context.session_config()), self.on_finished());
        let writes = self.counts_writes;
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let prepared = self.prepare(context);
        let rows = async move {
            let (request, holds) = prepared.await?;
            submit(request, JobContext { cluster, schema: row_schema, listener, on_finished, holds, writes }).await
        };
        let rows = rows.into_stream().try_flatten();
        let rows = match self.counts_writes {
            true => futures::stream::once(sum_of_counts(rows)).boxed(),
            false => rows.boxed(),
        };
        let rows = rows.map(move |batch| batch.record_output(&baseline));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
