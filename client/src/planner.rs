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
//! Physical optimisation happens on the scheduler, which knows the cluster. What cannot be encoded is run here.

use std::sync::Arc;

use async_trait::async_trait;
use ballista_plan::cached::{CachedExec, CachedRows};
use ballista_plan::config::settings_of;
use ballista_plan::write::WriteExec;
use ballista_proto as proto;
use bytes::Bytes;
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
use crate::initial::{PlanningSession, initial_plan};
use crate::split::{Sink, cluster_write, culprit, global_ordering, stack_for};

/// A session's planner: distributes what can be, leaves the rest to the planner that the session had before.
#[derive(Debug)]
pub struct BallistaQueryPlanner {
    cluster: Arc<Cluster>,
    inner: Arc<dyn QueryPlanner + Send + Sync>,
    settings: Mutex<Option<Settings>>,
}

/// The settings as sent with every query, made again only when the session's options are others.
#[derive(Debug)]
struct Settings {
    options: Arc<ConfigOptions>,
    list: Arc<[proto::Setting]>,
}

/// Why a query is run in the client.
struct Unshippable {
    /// The node that cannot leave.
    node: String,
    reason: String,
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
        Self { cluster, inner, settings: Mutex::default() }
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
        if let Some(write) = cluster_write(&plan)? {
            return Ok(self.ship(&write, session));
        }
        match Sink::of(&plan, matches!(logical, LogicalPlan::Dml(_) | LogicalPlan::Copy(_)))? {
            None => Ok(self.ship(&plan, session)),
            Some(sink) => match self.ship(sink.input(), session) {
                Ok(input) => Ok(Ok(optimize(sink.over(input)?, session)?)),
                Err(unshippable) => Ok(Err(unshippable)),
            },
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

    fn ship(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, Unshippable> {
        let codec = plan_codec(session.config());
        let bytes: Bytes = stack_for(plan, || codec.encode(plan)).map_err(|error| Unshippable {
            node: stack_for(plan, || culprit(plan, &|plan| codec.encode(plan).map(drop))),
            reason: shortened(error.strip_backtrace()),
        })?;
        if bytes.len() > PLAN_BYTES {
            let reason = format!("the plan with its in-memory tables takes {} MiB", bytes.len() >> 20);
            return Err(Unshippable { node: plan.name().to_owned(), reason });
        }
        let (session_id, lease) = self.cluster.observe(session);
        let query = Query {
            plan: bytes,
            settings: self.settings(session),
            schema: plan.schema(),
            ordering: global_ordering(plan),
            counts_writes: WriteExec::is_in(plan),
            session_id,
            session: lease,
            cached: cached_rows(plan),
        };
        Ok(Arc::new(DistributedQueryExec::new(Arc::clone(&self.cluster), query)))
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

/// DataFusion quotes whole plans in its errors.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What is left to run here gets all of the session's rules.
fn optimize(mut plan: Arc<dyn ExecutionPlan>, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
    for rule in session.physical_optimizers() {
        plan = rule
            .optimize(plan, session.config_options())
            .map_err(|error| DataFusionError::Context(rule.name().to_owned(), Box::new(error)))?;
    }
    Ok(plan)
}
