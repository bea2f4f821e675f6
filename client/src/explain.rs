// SPDX-License-Identifier: Apache-2.0
//! [`DistributedExplainExec`]: `EXPLAIN` of a query that a cluster would compute.
//!
//! ```text
//! logical_plan       DataFusion's rows, as ever
//! physical_plan      what runs in the client
//! distributed_plan   the stages and exchanges that the scheduler plans first; or why there are none
//! ```
//!
//! The scheduler is asked when the rows are read. It plans the query for the executors of that moment; nothing runs.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use ballista_exchange::status::from_status;
use ballista_proto as proto;
use datafusion::common::display::{PlanType, StringifiedPlan};
use datafusion::common::format::ExplainFormat;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Explain;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream, displayable,
};
use futures::StreamExt;

use crate::error::root_cause;
use crate::exec::DistributedQueryExec;

/// What a cluster has to do with an explained query.
pub(crate) enum Distributed {
    /// This plan would be executed in the client.
    Plan(Arc<dyn ExecutionPlan>),
    /// Nothing: the query runs in the client as DataFusion runs it.
    Nothing {
        /// Why.
        reason: String,
    },
}

/// `local`, which is what DataFusion made of `explain`, with what is `distributed`.
pub(crate) fn explained(
    explain: &Explain,
    local: Arc<dyn ExecutionPlan>,
    distributed: Distributed,
) -> Arc<dyn ExecutionPlan> {
    let Some(rows) = local.downcast_ref::<ExplainExec>() else { return local };
    let (rows, source) = match distributed {
        Distributed::Nothing { reason } => (rows.clone(), Source::Nothing { reason }),
        Distributed::Plan(plan) => (in_client(rows, &plan, &explain.explain_format), Source::Scheduler(plan)),
    };
    Arc::new(DistributedExplainExec {
        properties: Arc::clone(local.properties()),
        rows: Arc::new(rows),
        format: explain.explain_format.clone(),
        verbose: explain.verbose,
        source,
    })
}

/// `rows` with the plan that the client executes in place of the one it would have executed by itself.
fn in_client(rows: &ExplainExec, plan: &Arc<dyn ExecutionPlan>, format: &ExplainFormat) -> ExplainExec {
    let shown = displayable(plan.as_ref());
    let text = match format {
        ExplainFormat::Tree => shown.tree_render().to_string(),
        _ => shown.indent(rows.verbose()).to_string(),
    };
    let replaced = rows.stringified_plans().iter().map(|row| match row.plan_type {
        PlanType::FinalPhysicalPlan => StringifiedPlan::new(PlanType::FinalPhysicalPlan, text.as_str()),
        _ => row.clone(),
    });
    ExplainExec::new(rows.schema(), replaced.collect(), rows.verbose())
}

/// DataFusion's rows of an `EXPLAIN`, and one with what the scheduler plans.
pub struct DistributedExplainExec {
    rows: Arc<ExplainExec>,
    format: ExplainFormat,
    verbose: bool,
    source: Source,
    properties: Arc<PlanProperties>,
}

/// Where the row comes from.
#[derive(Clone)]
enum Source {
    Scheduler(Arc<dyn ExecutionPlan>),
    Nothing { reason: String },
}

impl Source {
    /// The kind of the row, and its text.
    async fn row(&self, format: &ExplainFormat, verbose: bool) -> (&'static str, String) {
        let plan = match self {
            Self::Scheduler(plan) => plan,
            Self::Nothing { reason } => return ("distributed_plan", format!("runs in the client: {reason}")),
        };
        let queries = find_queries(plan.as_ref());
        if queries.is_empty() {
            return ("distributed_plan", "nothing of it leaves the client".to_owned());
        }
        let mut texts = vec![];
        for (number, query) in queries.iter().enumerate() {
            match ask(query, format, verbose).await {
                Ok(text) if queries.len() > 1 => texts.push(format!("{}\n{text}", nth_query(number))),
                Ok(text) => texts.push(text),
                Err(problem) => return ("distributed_plan_error", problem),
            }
        }
        ("distributed_plan", texts.join("\n"))
    }
}

async fn ask(query: &DistributedQueryExec, format: &ExplainFormat, verbose: bool) -> Result<String, String> {
    let _session = query.lease();
    let format = match format {
        ExplainFormat::Tree => proto::ExplainFormat::Tree,
        ExplainFormat::Graphviz => proto::ExplainFormat::Graphviz,
        ExplainFormat::Indent | ExplainFormat::PostgresJSON => proto::ExplainFormat::Indent,
    };
    let request = proto::ExplainPlanRequest { query: Some(query.request()), format: format.into(), verbose };
    let answer = query.cluster().scheduler().explain_plan(request).await;
    answer.map(|response| response.into_inner().plan).map_err(|status| match from_status(&status) {
        Some(failure) => failure.message,
        None => format!("the scheduler {} does not answer: {}", query.cluster().name(), root_cause(&status)),
    })
}

/// The first part of `plan` that a cluster computes.
pub(crate) fn find_query(plan: &dyn ExecutionPlan) -> Option<&DistributedQueryExec> {
    match plan.downcast_ref::<DistributedQueryExec>() {
        Some(query) => Some(query),
        None => plan.children().into_iter().find_map(|child| find_query(child.as_ref())),
    }
}

/// All parts of `plan` that a cluster computes, from the top down; what is uploaded for a part comes after it.
pub(crate) fn find_queries(plan: &dyn ExecutionPlan) -> Vec<&DistributedQueryExec> {
    let here = plan.downcast_ref::<DistributedQueryExec>();
    here.into_iter().chain(plan.children().into_iter().flat_map(|child| find_queries(child.as_ref()))).collect()
}

/// The title of one of several queries, in the order in which a plan shows them.
pub(crate) fn nth_query(number: usize) -> String {
    format!("DistributedQueryExec {}:", number + 1)
}

/// Rows of an answer to `EXPLAIN`.
pub(crate) fn text_rows(schema: &SchemaRef, rows: &[(&str, String)]) -> Result<RecordBatch> {
    let kinds: StringArray = rows.iter().map(|(kind, _)| Some(*kind)).collect();
    let texts: StringArray = rows.iter().map(|(_, text)| Some(text.as_str())).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(kinds), Arc::new(texts)];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

impl fmt::Debug for DistributedExplainExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedExplainExec").finish_non_exhaustive()
    }
}

impl DisplayAs for DistributedExplainExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        if format == DisplayFormatType::TreeRender { Ok(()) } else { f.write_str("DistributedExplainExec") }
    }
}

impl ExecutionPlan for DistributedExplainExec {
    fn name(&self) -> &str {
        "DistributedExplainExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("EXPLAIN has no partition {partition}")));
        }
        let schema = self.schema();
        let local = self.rows.execute(0, context)?;
        let (source, format, verbose) = (self.source.clone(), self.format.clone(), self.verbose);
        let row_schema = Arc::clone(&schema);
        let asked = futures::stream::once(async move {
            let row = source.row(&format, verbose).await;
            text_rows(&row_schema, &[row])
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, local.chain(asked))))
    }
}
