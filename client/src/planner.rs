// SPDX-License-Identifier: Apache-2.0
//! [`BallistaQueryPlanner`]: plans a query in the client and puts the cluster in the place of everything that can
//! leave it.
//!
//! ```text
//!   logical plan ── the session's own planner ──► initial physical plan
//!                                                   │ encode
//!        other sinks, EXPLAIN ANALYZE               ▼
//!                └──────────────────────► DistributedQueryExec
//! ```
//!
//! Tables are listed and in-memory data is read here, so that only physical nodes have to be known to the cluster.
//! Physical optimisation happens on the scheduler, which knows the cluster. What cannot be encoded is run here; see
//! `place`.

use std::sync::Arc;

use async_trait::async_trait;
use ballista_plan::cached::{CachedExec, CachedRows};
use ballista_plan::codec::PlanCodec;
use ballista_plan::config::settings_of;
use ballista_plan::write::WriteExec;
use ballista_proto as proto;
use datafusion::catalog::Session;
use datafusion::common::format::ExplainFormat;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Explain, LogicalPlan, WriteOp};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::analyze::AnalyzeExec;
use parking_lot::Mutex;

use crate::analyze::analyzed;
use crate::cluster::Cluster;
use crate::config::plan_codec;
use crate::endpoint::PLAN_BYTES;
use crate::exec::{DistributedQueryExec, Query};
use crate::explain::{Distributed, explained};
use crate::functions::check_functions;
use crate::initial::{PlanningSession, initial_plan};
use crate::place::{Placed, Ship, Unshippable, has_large_tables, place};
use crate::split::{Sink, cluster_write, global_ordering, stack_for};
use crate::stores::{Target, stores_in, target_of};
use crate::upload::Uploads;

/// A session's planner: distributes what can be, leaves the rest to the planner that the session had before.
#[derive(Debug)]
pub struct BallistaQueryPlanner {
    cluster: Arc<Cluster>,
    inner: Arc<dyn QueryPlanner + Send + Sync>,
    settings: Mutex<Option<Settings>>,
    /// The session has Spark's functions.
    has_spark: bool,
}

/// The settings as sent with every query, made again only when the session's options are others.
#[derive(Debug)]
struct Settings {
    options: Arc<ConfigOptions>,
    list: Arc<[proto::Setting]>,
}

impl BallistaQueryPlanner {
    /// Plans for `cluster` with `inner`, usually the session's present planner.
    pub fn new(cluster: Arc<Cluster>, inner: Arc<dyn QueryPlanner + Send + Sync>) -> Self {
        let any: &dyn std::any::Any = inner.as_ref();
        // A session that moves to another cluster must not plan for both.
        let inner = match any.downcast_ref::<Self>() {
            Some(ballista) => Arc::clone(&ballista.inner),
            None => inner,
        };
        Self { cluster, inner, settings: Mutex::default(), has_spark: false }
    }

    /// The same for a session that has Spark's functions.
    pub(crate) fn with_spark_functions(self, has_spark: bool) -> Self {
        Self { has_spark, ..self }
    }

    /// The cluster that queries go to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    fn settings(&self, session: &dyn Session) -> Arc<[proto::Setting]> {
        let options = session.config().options();
        let mut cached = self.settings.lock();
        if let Some(settings) = cached.as_ref().filter(|settings| Arc::ptr_eq(&settings.options, options)) {
            return Arc::clone(&settings.list);
        }
        let settings = settings_of(session.config());
        let list: Arc<[_]> = settings.into_iter().map(|(key, value)| proto::Setting { key, value }).collect();
        *cached = Some(Settings { options: Arc::clone(options), list: Arc::clone(&list) });
        list
    }

    /// Replaces what can leave the client of `planned`, whose initial plan is at the root or just below.
    fn distribute(
        &self,
        planned: Arc<dyn ExecutionPlan>,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Result<Arc<dyn ExecutionPlan>, Unshippable>> {
        if let Some(analyze) = planned.downcast_ref::<AnalyzeExec>() {
            let analyzed_logical = logical.inputs().first().copied().unwrap_or(logical);
            return match self.distribute(Arc::clone(analyze.input()), analyzed_logical, session)? {
                Ok(input) => Ok(Ok(analyzed(analyze, input)?)),
                Err(unshippable) => Ok(Err(unshippable)),
            };
        }
        let plan = initial_plan(&planned).cloned().unwrap_or(planned);
        // Only tasks of the cluster can write in its way.
        if let Some(write) = cluster_write(&plan)?
            && let Ok(query) = self.divide(&write, session)
            && query.is::<DistributedQueryExec>()
        {
            return Ok(Ok(optimize(query, session)?));
        }
        let divided = match Sink::of(&plan, matches!(logical, LogicalPlan::Dml(_) | LogicalPlan::Copy(_)))? {
            None => self.divide(&plan, session),
            Some(sink) => match self.divide(sink.input(), session) {
                Ok(input) => Ok(sink.over(input)?),
                Err(unshippable) => Err(unshippable),
            },
        };
        match divided {
            Ok(plan) => Ok(Ok(optimize(plan, session)?)),
            Err(unshippable) => Ok(Err(unshippable)),
        }
    }

    /// The initial plan `plan` with as much of it as possible, and worth it, in the cluster.
    fn divide(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        let shipping = Shipping { planner: self, session, codec: plan_codec(session.config()) };
        let whole = || shipping.ship(plan, vec![]);
        let has_large_tables = stack_for(plan, || has_large_tables(plan));
        if !has_large_tables && let Ok(query) = whole() {
            return Ok(query);
        }
        match stack_for(plan, || place(plan, &shipping.codec, &shipping)) {
            Ok(Placed::Plan(plan)) => Ok(plan),
            Ok(Placed::Here(reason)) => Err(reason),
            Err(_) if has_large_tables => whole(),
            Err(reason) => Err(reason),
        }
    }

    /// What an `EXPLAIN` shows beside DataFusion's rows; nothing if it asks for none of it, or cannot be planned.
    async fn distributed_plan(&self, explain: &Explain, session: &dyn Session) -> Result<Option<Distributed>> {
        if explain.explain_format == ExplainFormat::PostgresJSON
            || !explain.logical_optimization_succeeded
            || session.config_options().explain.logical_plan_only
        {
            return Ok(None);
        }
        if let Some(reason) = stays_here(&explain.plan)? {
            return Ok(Some(Distributed::Nothing { reason: reason.to_owned() }));
        }
        let planning = PlanningSession::new(session, Arc::clone(&self.inner));
        // DataFusion's own rows say what is wrong.
        let Ok(planned) = planning.plan(&explain.plan).await else { return Ok(None) };
        Ok(Some(match self.distribute(planned, &explain.plan, session)? {
            Ok(plan) => Distributed::Plan(plan),
            Err(Unshippable { node, reason }) => Distributed::Nothing { reason: format!("{node}: {reason}") },
        }))
    }
}

/// Makes the queries of one plan.
struct Shipping<'a> {
    planner: &'a BallistaQueryPlanner,
    session: &'a dyn Session,
    codec: PlanCodec,
}

impl Ship for Shipping<'_> {
    fn ship(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        uploads: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        let encoded = stack_for(plan, || self.codec.encode(plan));
        let bytes = encoded.map_err(|error| Unshippable::new(plan.name(), &error))?;
        if bytes.len() > PLAN_BYTES {
            let reason = format!("the plan with its in-memory tables takes {} MiB", bytes.len() >> 20);
            return Err(Unshippable { node: plan.name().to_owned(), reason });
        }
        let cluster = &self.planner.cluster;
        let (session_id, lease) = cluster.observe(self.session);
        let codec = self.codec.clone();
        let query = Query {
            plan: bytes,
            uploads: (!uploads.is_empty()).then(|| Uploads { plans: uploads, region: Arc::clone(plan), codec }),
            settings: self.planner.settings(self.session),
            schema: plan.schema(),
            ordering: global_ordering(plan),
            counts_writes: WriteExec::is_in(plan),
            session_id,
            session: lease,
            cached: cached_rows(plan),
            stores: stores_in(plan, self.session.config_options()),
        };
        Ok(Arc::new(DistributedQueryExec::new(Arc::clone(cluster), query)))
    }
}

/// The cached rows that `plan` reads.
fn cached_rows(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn CachedRows>> {
    let here = plan.downcast_ref::<CachedExec>().and_then(CachedExec::source).map(Arc::clone);
    here.into_iter().chain(plan.children().into_iter().flat_map(cached_rows)).collect()
}

#[async_trait]
impl QueryPlanner for BallistaQueryPlanner {
    async fn create_physical_plan(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check_functions(session, self.has_spark)?;
        let Some(Target { plan: logical, store }) = target_of(logical, session.config_options())? else {
            return self.plan(logical, session).await;
        };
        let plan = self.plan(&logical, session).await?;
        // A write in the cluster takes the store's options along; one from here will ask the session for the store.
        if let (Some(store), LogicalPlan::Copy(_)) = (store, &logical)
            && !plan.is::<DistributedQueryExec>()
        {
            store.keep();
        }
        Ok(plan)
    }
}

impl BallistaQueryPlanner {
    async fn plan(&self, logical: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        if let LogicalPlan::Explain(explain) = logical {
            let local = self.inner.create_physical_plan(logical, session).await?;
            return match self.distributed_plan(explain, session).await? {
                Some(distributed) => Ok(explained(explain, local, distributed)),
                None => Ok(local),
            };
        }
        if stays_here(logical)?.is_some() {
            return self.inner.create_physical_plan(logical, session).await;
        }
        let planned = PlanningSession::new(session, Arc::clone(&self.inner)).plan(logical).await?;
        match self.distribute(planned, logical, session)? {
            Ok(plan) => Ok(plan),
            Err(Unshippable { node, reason }) => {
                let cluster = self.cluster.name();
                tracing::info!(cluster, node, reason, "running a query in this process: its plan cannot be sent");
                self.inner.create_physical_plan(logical, session).await
            }
        }
    }
}

/// Why a statement concerns the client itself, if it does: its catalog, its tables' metadata, the plan of a query.
fn stays_here(logical: &LogicalPlan) -> Result<Option<&'static str>> {
    Ok(match logical {
        LogicalPlan::Explain(_) | LogicalPlan::DescribeTable(_) | LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
            Some("it concerns the session itself")
        }
        LogicalPlan::Dml(dml) if matches!(dml.op, WriteOp::Delete | WriteOp::Update | WriteOp::Truncate) => {
            Some("the table's own provider does all the work")
        }
        _ => reads_only_information_schema(logical)?.then_some("it reads nothing but information_schema"),
    })
}

fn reads_only_information_schema(logical: &LogicalPlan) -> Result<bool> {
    let mut tables = 0;
    let mut others = 0;
    logical.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables += 1;
            others += usize::from(scan.table_name.schema() != Some("information_schema"));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(tables > 0 && others == 0)
}

/// What is left to run here gets all of the session's rules.
fn optimize(mut plan: Arc<dyn ExecutionPlan>, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.is::<DistributedQueryExec>() && plan.children().is_empty() {
        return Ok(plan);
    }
    for rule in session.physical_optimizers() {
        plan = rule
            .optimize(plan, session.config_options())
            .map_err(|error| DataFusionError::Context(rule.name().to_owned(), Box::new(error)))?;
    }
    Ok(plan)
}
