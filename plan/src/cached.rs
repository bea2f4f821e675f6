// SPDX-License-Identifier: Apache-2.0
//! The leaf that stands for rows that another job has left in the executors.
//!
//! ```text
//!   DataFrame::cache ─▶ a job whose rows stay ─▶ CachedExec in later plans ─▶ ShuffleReaderExec, made by the scheduler
//! ```

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};

/// More rows than there can be.
const NOT_KNOWN: u64 = u64::MAX;

/// Reads cached rows where no scheduler has put a reader in the place of the leaf: in a plan that a client runs itself.
pub trait CachedRows: fmt::Debug + Send + Sync {
    /// One partition of the rows. All partitions together have each row once; which has which is left open.
    fn read(self: Arc<Self>, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream>;
}

/// The rows that a job has kept. While a client's plan lives, it keeps the rows.
#[derive(Debug, Clone)]
pub struct CachedExec {
    job: String,
    rows: u64,
    partition_bytes: Vec<u64>,
    source: Option<Arc<dyn CachedRows>>,
    properties: Arc<PlanProperties>,
}

impl CachedExec {
    /// The rows of `job`, `rows` in number, in as many partitions as `partition_bytes` has sizes in bytes.
    pub fn new(job: String, schema: SchemaRef, rows: u64, partition_bytes: Vec<u64>) -> Self {
        let partitioning = Partitioning::UnknownPartitioning(partition_bytes.len());
        let equivalences = EquivalenceProperties::new(schema);
        let properties =
            PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded)
                .with_scheduling_type(SchedulingType::Cooperative);
        Self { job, rows, partition_bytes, source: None, properties: Arc::new(properties) }
    }

    /// Stands for rows that are not there yet: what a plan shows of them before it runs. `name`: for people.
    pub fn pending(name: String, schema: SchemaRef) -> Self {
        Self::new(name, schema, NOT_KNOWN, vec![0])
    }

    /// Whether it stands for rows that are not there yet, of which nothing is known.
    pub fn is_pending(&self) -> bool {
        self.rows == NOT_KNOWN
    }

    /// The same, to be read from `source` if need be.
    pub fn with_source(self, source: Arc<dyn CachedRows>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The job that keeps the rows.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// How many there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes in memory of each partition.
    pub fn partition_bytes(&self) -> &[u64] {
        &self.partition_bytes
    }

    /// What keeps the rows: only in a client's plan.
    pub fn source(&self) -> Option<&Arc<dyn CachedRows>> {
        self.source.as_ref()
    }
}

impl DisplayAs for CachedExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let partitions = self.partition_bytes.len();
        if self.is_pending() {
            let line_end = if format == DisplayFormatType::TreeRender { "\n" } else { "" };
            return write!(f, "CachedExec: {}{line_end}", self.job);
        }
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "partitions={partitions}\nrows={}", self.rows),
            _ => write!(f, "CachedExec: job={}, partitions={partitions}, rows={}", self.job, self.rows),
        }
    }
}

impl ExecutionPlan for CachedExec {
    fn name(&self) -> &str {
        "CachedExec"
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
        match &self.source {
            Some(source) => Arc::clone(source).read(partition, context),
            None => Err(DataFusionError::Internal(format!("the cached rows of job {} are not located", self.job))),
        }
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let columns = vec![ColumnStatistics::new_unknown(); self.schema().fields().len()];
        if args.partition().is_some() || self.is_pending() {
            return Ok(Arc::new(Statistics { column_statistics: columns, ..Statistics::default() }));
        }
        Ok(Arc::new(Statistics {
            num_rows: Precision::Exact(self.rows as usize),
            total_byte_size: Precision::Exact(self.partition_bytes.iter().sum::<u64>() as usize),
            column_statistics: columns,
        }))
    }
}
