// SPDX-License-Identifier: Apache-2.0
//! [`DistributedAnalyzeExec`]: `EXPLAIN ANALYZE` of a query that a cluster computes.
//!
//! Runs the query, discards its rows, and shows what runs in the client with its metrics, and below it the stages that
//! ran in the cluster with theirs. Only such a query asks executors for the metrics of their operators.
//!
//! * `render`: the stages as text.

mod render;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::format::{ExplainFormat, MetricCategory};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;

use crate::exec::DistributedQueryExec;
use crate::explain::{find_queries, nth_query, text_rows};
use render::{Shown, stages};

/// What analyses `input` as `analyze` would, with what happens in the cluster. Formats that only DataFusion has stay
/// with it.
pub(crate) fn analyzed(analyze: &AnalyzeExec, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if *analyze.format() != ExplainFormat::Indent {
        let same = AnalyzeExec::builder(analyze.verbose(), analyze.show_statistics(), input, analyze.schema())
            .with_metric_categories(analyze.metric_categories().map(<[_]>::to_vec))
            .with_format(analyze.format().clone());
        return Ok(Arc::new(same.build()));
    }
    let observed = input.transform_up(|node| match node.downcast_ref::<DistributedQueryExec>() {
        Some(query) => Ok(Transformed::yes(Arc::new(query.observed()) as Arc<dyn ExecutionPlan>)),
        None => Ok(Transformed::no(node)),
    });
    let style =
        Style { verbose: analyze.verbose(), categories: analyze.metric_categories().map(<[MetricCategory]>::to_vec) };
    Ok(Arc::new(DistributedAnalyzeExec::new(observed.data()?, analyze.schema(), style)))
}

/// What of it is shown.
#[derive(Debug, Clone)]
struct Style {
    verbose: bool,
    /// All of them, if `None`.
    categories: Option<Vec<MetricCategory>>,
}

/// Runs a distributed query and shows how it ran.
#[derive(Debug)]
pub struct DistributedAnalyzeExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    style: Style,
    properties: Arc<PlanProperties>,
}

impl DistributedAnalyzeExec {
    fn new(input: Arc<dyn ExecutionPlan>, schema: SchemaRef, style: Style) -> Self {
        let equivalences = EquivalenceProperties::new(Arc::clone(&schema));
        let one = Partitioning::UnknownPartitioning(1);
        let properties = PlanProperties::new(equivalences, one, EmissionType::Final, Boundedness::Bounded);
        Self { input, schema, style, properties: Arc::new(properties) }
    }
}

/// The rows of the answer, after `input` has run.
fn answer(
    input: &dyn ExecutionPlan,
    schema: &SchemaRef,
    style: &Style,
    rows: usize,
    start: Instant,
) -> Result<RecordBatch> {
    let duration = start.elapsed();
    let categories = style.categories.clone();
    let local = |shown: DisplayableExecutionPlan<'_>| {
        shown.set_metric_categories(categories.clone()).indent(style.verbose).to_string()
    };
    let queries = find_queries(input);
    let cluster = |tasks: bool| {
        let shown = Shown { categories: categories.as_deref(), tasks };
        let mut text = String::new();
        for (number, query) in queries.iter().enumerate() {
            if queries.len() > 1 {
                text.push_str(&format!("{}\n", nth_query(number)));
            }
            text.push_str(&stages(&query.analysis().unwrap_or_default(), &shown));
        }
        text
    };
    let plan = local(DisplayableExecutionPlan::with_metrics(input)) + &cluster(false);
    let mut answer = vec![("Plan with Metrics", plan)];
    if style.verbose {
        answer.push((
            "Plan with Full Metrics",
            local(DisplayableExecutionPlan::with_full_metrics(input)) + &cluster(true),
        ));
        answer.push(("Output Rows", rows.to_string()));
        answer.push(("Duration", format!("{duration:?}")));
    }
    text_rows(schema, &answer)
}

impl DisplayAs for DistributedAnalyzeExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match format {
            DisplayFormatType::TreeRender => Ok(()),
            _ => write!(f, "DistributedAnalyzeExec: verbose={}", self.style.verbose),
        }
    }
}

impl ExecutionPlan for DistributedAnalyzeExec {
    fn name(&self) -> &str {
        "DistributedAnalyzeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), Arc::clone(&self.schema), self.style.clone())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("EXPLAIN ANALYZE has no partition {partition}")));
        }
        let start = Instant::now();
        let partitions = 0..self.input.output_partitioning().partition_count();
        let streams = partitions.map(|partition| self.input.execute(partition, Arc::clone(&context)));
        let mut rows_of = futures::stream::select_all(streams.collect::<Result<Vec<_>>>()?);
        let (input, schema, style) = (Arc::clone(&self.input), Arc::clone(&self.schema), self.style.clone());
        let shown = futures::stream::once(async move {
            let mut rows = 0;
            while let Some(batch) = rows_of.next().await {
                rows += batch?.num_rows();
            }
            drop(rows_of);
            answer(input.as_ref(), &schema, &style, rows, start)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), shown)))
    }
}
