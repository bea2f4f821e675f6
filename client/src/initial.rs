// SPDX-License-Identifier: Apache-2.0
//! The physical plan before any physical optimizer rule: what DataFusion's planner makes of a logical plan.
//!
//! A query planner optimises what it has planned and checks that the outcome can be executed, which an initial plan
//! cannot. So it is shown a session whose only rule puts the initial plan into an [`InitialPlanExec`] and thereby ends
//! the matter. Planners of the application's own nodes take part without knowing.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProviderList, Session};
use datafusion::common::DFSchema;
use datafusion::common::config::TableOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::context::{ExecutionProps, QueryPlanner};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::registry::ExtensionTypeRegistryRef;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::operator_statistics::StatisticsRegistry;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use datafusion::prelude::SessionConfig;

/// DataFusion's planner prepares for parallel aggregates and joins only if it may use this many partitions; how many
/// there really are is the scheduler's decision.
const LEAST_PARTITIONS: usize = 2;

static RULES: LazyLock<[Arc<dyn PhysicalOptimizerRule + Send + Sync>; 1]> = LazyLock::new(|| [Arc::new(KeepInitial)]);

/// A session as [`QueryPlanner`]s see it while an initial plan is made.
pub(crate) struct PlanningSession<'a> {
    session: &'a dyn Session,
    planner: Arc<dyn QueryPlanner + Send + Sync>,
    /// Only where it differs from the session's.
    config: Option<SessionConfig>,
    table_options: Option<TableOptions>,
}

impl<'a> PlanningSession<'a> {
    /// `session`, planning with `planner`.
    pub(crate) fn new(session: &'a dyn Session, planner: Arc<dyn QueryPlanner + Send + Sync>) -> Self {
        let config = session.config();
        let config = (config.target_partitions() < LEAST_PARTITIONS)
            .then(|| config.clone().with_target_partitions(LEAST_PARTITIONS));
        Self { session, planner, config, table_options: None }
    }

    /// What the planner makes of an optimised `logical` plan. Its initial plan is either the root or below nodes that
    /// the planner put on top (`EXPLAIN ANALYZE` does).
    pub(crate) async fn plan(&self, logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        self.planner.create_physical_plan(logical, self).await
    }
}

/// The initial plan that `plan` stands for, if it does.
pub(crate) fn initial_plan(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    plan.downcast_ref::<InitialPlanExec>().map(|initial| &initial.plan)
}

#[async_trait]
impl Session for PlanningSession<'_> {
    fn session_id(&self) -> &str {
        self.session.session_id()
    }

    fn config(&self) -> &SessionConfig {
        self.config.as_ref().unwrap_or_else(|| self.session.config())
    }

    fn catalog_list(&self) -> Arc<dyn CatalogProviderList> {
        self.session.catalog_list()
    }

    fn query_planner(&self) -> Arc<dyn QueryPlanner + Send + Sync> {
        Arc::clone(&self.planner)
    }

    fn optimize(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        self.session.optimize(plan)
    }

    fn physical_optimizers(&self) -> &[Arc<dyn PhysicalOptimizerRule + Send + Sync>] {
        RULES.as_slice()
    }

    fn statistics_registry(&self) -> Option<&StatisticsRegistry> {
        self.session.statistics_registry()
    }

    /// Table providers that stand for a query (a `DataFrame` made a table) call this; their part of the plan is to be
    /// as initial as the rest.
    async fn create_physical_plan(&self, logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let optimized = self.session.optimize(logical)?;
        let plan = self.plan(&optimized).await?;
        Ok(initial_plan(&plan).cloned().unwrap_or(plan))
    }

    fn create_physical_expr(&self, expr: Expr, df_schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        self.session.create_physical_expr(expr, df_schema)
    }

    fn scalar_functions(&self) -> &HashMap<String, Arc<ScalarUDF>> {
        self.session.scalar_functions()
    }

    fn higher_order_functions(&self) -> &HashMap<String, Arc<HigherOrderUDF>> {
        self.session.higher_order_functions()
    }

    fn aggregate_functions(&self) -> &HashMap<String, Arc<AggregateUDF>> {
        self.session.aggregate_functions()
    }

    fn window_functions(&self) -> &HashMap<String, Arc<WindowUDF>> {
        self.session.window_functions()
    }

    fn extension_type_registry(&self) -> &ExtensionTypeRegistryRef {
        self.session.extension_type_registry()
    }

    fn runtime_env(&self) -> &Arc<RuntimeEnv> {
        self.session.runtime_env()
    }

    fn execution_props(&self) -> &ExecutionProps {
        self.session.execution_props()
    }

    /// The session itself: providers look for a `SessionState` here.
    fn as_any(&self) -> &dyn Any {
        self.session.as_any()
    }

    fn table_options(&self) -> &TableOptions {
        self.table_options.as_ref().unwrap_or_else(|| self.session.table_options())
    }

    fn table_options_mut(&mut self) -> &mut TableOptions {
        self.table_options.get_or_insert_with(|| self.session.table_options().clone())
    }

    fn task_ctx(&self) -> Arc<TaskContext> {
        self.session.task_ctx()
    }
}

/// The only rule of a [`PlanningSession`].
#[derive(Debug)]
struct KeepInitial;

impl PhysicalOptimizerRule for KeepInitial {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(InitialPlanExec { plan }))
    }

    fn name(&self) -> &str {
        "KeepInitial"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Hides an initial plan from checks that are not meant for it. Never executed.
#[derive(Debug)]
struct InitialPlanExec {
    plan: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for InitialPlanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("InitialPlanExec")
    }
}

impl ExecutionPlan for InitialPlanExec {
    fn name(&self) -> &str {
        "InitialPlanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal("an initial plan was executed".into()))
    }
}
