// SPDX-License-Identifier: Apache-2.0
//! Writing query results to files from many tasks at once.
//!
//! ```text
//!   COPY, INSERT ─▶ DataSinkExec ─▶ WriteExec: every partition writes files of its own ─▶ one row count each
//!                                      │
//!                                   staging: uploads that are complete but for their last step
//!                                      └─ published when every task of the job has succeeded, or thrown away
//! ```
//!
//! *Invariant:* nothing that a task writes can be seen before [`staging::Staged::publish`].

pub mod staging;

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::ParquetSink;
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, OrderingRequirements, Partitioning, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, EvaluationType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    SendableRecordBatchStream,
};

use staging::TaskWrites;
use url::Url;

/// Writes every partition of its input to files. Each partition yields one row with the number of rows it wrote.
#[derive(Clone)]
pub struct WriteExec {
    /// The sink, over an empty input.
    template: Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl WriteExec {
    /// `plan` as a write by many tasks, if it is a sink that can be one: of Parquet, CSV or JSON files.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Self>> {
        let Some(sink) = plan.downcast_ref::<DataSinkExec>() else { return Ok(None) };
        if file_sink(sink.sink()).is_none() {
            return Ok(None);
        }
        let input = Arc::clone(sink.input());
        let nothing: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(input.schema()));
        let replace = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        let template = Arc::clone(plan).replace_children(vec![nothing], replace)?;
        Self::try_new(template, input).map(Some)
    }

    /// A write of `input` by the sink of `template`, a [`DataSinkExec`].
    pub fn try_new(template: Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        sink_config(&template)?;
        let equivalences = EquivalenceProperties::new(count_schema());
        let partitioning = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
        let properties =
            PlanProperties::new(equivalences, partitioning, input.pipeline_behavior(), input.boundedness())
                .with_scheduling_type(SchedulingType::Cooperative)
                .with_evaluation_type(EvaluationType::Eager);
        Ok(Self { template, input, properties: Arc::new(properties) })
    }

    /// A [`DataSinkExec`] with the sink, over an empty input.
    pub fn template(&self) -> &Arc<dyn ExecutionPlan> {
        &self.template
    }

    /// Whether `plan` writes.
    pub fn is_in(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.is::<Self>() || plan.children().into_iter().any(Self::is_in)
    }

    /// The object store that it writes to.
    pub fn target(&self) -> Option<&Url> {
        sink_config(&self.template).ok().map(|config| config.object_store_url.as_ref())
    }

    fn sink(&self) -> Option<&DataSinkExec> {
        self.template.downcast_ref::<DataSinkExec>()
    }

    /// Everything goes into the one file that the statement names.
    pub fn is_single_file(&self) -> bool {
        sink_config(&self.template).is_ok_and(is_single_file)
    }
}

fn is_single_file(config: &FileSinkConfig) -> bool {
    let location = config.table_paths.first();
    config.table_partition_cols.is_empty()
        && location.is_some_and(|location| config.file_output_mode.single_file_output(location))
}

fn sink_config(template: &Arc<dyn ExecutionPlan>) -> Result<&FileSinkConfig> {
    let sink = template.downcast_ref::<DataSinkExec>().and_then(|exec| file_sink(exec.sink()));
    sink.ok_or_else(|| DataFusionError::Internal(format!("{} is no sink of files", template.name())))
}

fn file_sink(sink: &dyn DataSink) -> Option<&FileSinkConfig> {
    if let Some(sink) = sink.downcast_ref::<ParquetSink>() {
        Some(sink.config())
    } else if let Some(sink) = sink.downcast_ref::<CsvSink>() {
        Some(sink.config())
    } else {
        sink.downcast_ref::<JsonSink>().map(FileSink::config)
    }
}

/// Of the row counts, the same as DataFusion's sinks have.
pub fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]))
}

/// A row count as a batch.
pub fn count_batch(count: u64) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(count_schema(), vec![Arc::new(UInt64Array::from(vec![count]))])?)
}

impl fmt::Debug for WriteExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteExec").finish_non_exhaustive()
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        if !matches!(format, DisplayFormatType::TreeRender) {
            f.write_str("WriteExec: sink=")?;
        }
        match self.sink() {
            Some(sink) => sink.sink().fmt_as(format, f),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        "WriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        match self.is_single_file() {
            true => vec![Distribution::SinglePartition],
            false => vec![Distribution::UnspecifiedDistribution],
        }
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let order = self.sink().and_then(|sink| sink.sort_order().clone());
        vec![order.map(Into::into)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        // In the files.
        vec![true]
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
        let input = children.pop().ok_or_else(|| DataFusionError::Internal("a write of nothing".into()))?;
        Ok(Arc::new(Self::try_new(Arc::clone(&self.template), input)?))
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| DataFusionError::Internal("a write of nothing".into()))?;
        Ok(Arc::new(Self::try_new(Arc::clone(&self.template), input)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(writes) = context.session_config().get_extension::<TaskWrites>() else {
            return Err(DataFusionError::Internal("files are written by tasks of a cluster only".into()));
        };
        let rows = self.input.execute(partition, Arc::clone(&context))?;
        let context = writes.context_of(partition, &context, !self.is_single_file())?;
        let template = Arc::clone(&self.template);
        let count = async move {
            let Some(sink) = template.downcast_ref::<DataSinkExec>() else { return count_batch(0) };
            let count = sink.sink().write_all(rows, &context).await?;
            count_batch(count)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(count_schema(), futures::stream::once(count))))
    }
}
