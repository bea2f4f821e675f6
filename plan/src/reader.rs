// SPDX-License-Identifier: Apache-2.0
//! The leaf that stands for an exchange in the plan of the stage that reads it.
//!
//! Its partition i reads a range of neighbouring buckets. The reader claims the partitioning and the exact statistics
//! of the exchange, so that DataFusion's rules see them. Rows of one key are in one partition; but which one does not
//! follow from the hash modulo the number of partitions, once buckets were joined or a slice was taken. So no dynamic
//! filter may route rows to partitions of a stage by hash, which [`crate::task`] takes care of.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use ballista_core::StageId;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};

use crate::context::TaskExchange;

/// What a reader knows about the rows of its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeStatistics {
    /// Rows, if known or estimated.
    pub rows: Option<usize>,
    /// Bytes in memory, if known or estimated.
    pub bytes: Option<usize>,
    /// The stage has finished, and these are its figures.
    pub exact: bool,
}

impl ExchangeStatistics {
    fn precision(&self, value: Option<usize>) -> Precision<usize> {
        match value {
            Some(value) if self.exact => Precision::Exact(value),
            Some(value) => Precision::Inexact(value),
            None => Precision::Absent,
        }
    }
}

/// Reads the output of another stage.
#[derive(Debug, Clone)]
pub struct ShuffleReaderExec {
    stage: StageId,
    ranges: Vec<Range<u32>>,
    broadcast: bool,
    single_rows: bool,
    statistics: ExchangeStatistics,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ShuffleReaderExec {
    /// A reader whose partition i reads the buckets `ranges[i]` of `stage`, and claims no partitioning.
    pub fn new(stage: StageId, schema: SchemaRef, ranges: Vec<Range<u32>>, statistics: ExchangeStatistics) -> Self {
        let partitioning = Partitioning::UnknownPartitioning(ranges.len());
        let properties = properties(EquivalenceProperties::new(schema), partitioning);
        let metrics = ExecutionPlanMetricsSet::new();
        Self { stage, ranges, broadcast: false, single_rows: false, statistics, properties, metrics }
    }

    /// Claims that rows are partitioned by the hash of `keys`.
    pub fn with_hash_keys(self, keys: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        let partitioning = Partitioning::Hash(keys, self.ranges.len());
        let equivalences = self.properties.equivalence_properties().clone();
        Self { properties: properties(equivalences, partitioning), ..self }
    }

    /// Claims what is equal or constant in all rows (see [`crate::equivalences`]); to be called before other claims.
    pub fn with_equivalences(self, equivalences: EquivalenceProperties) -> Self {
        let partitioning = self.properties.output_partitioning().clone();
        Self { properties: properties(equivalences, partitioning), ..self }
    }

    /// Claims that every partition is one run sorted by `ordering`.
    pub fn with_ordering(self, ordering: LexOrdering) -> Self {
        let mut equivalences = self.properties.equivalence_properties().clone();
        equivalences.add_ordering(ordering);
        let partitioning = self.properties.output_partitioning().clone();
        Self { properties: properties(equivalences, partitioning), ..self }
    }

    /// The one partition holds everything, and is fetched and decoded once per executor.
    pub fn with_broadcast(self) -> Self {
        let all = self.all_buckets();
        let mut equivalences = self.properties.equivalence_properties().clone();
        equivalences.clear_orderings();
        let properties = properties(equivalences, Partitioning::UnknownPartitioning(1));
        Self { broadcast: true, ranges: vec![all], properties, ..self }
    }

    /// Yields batches of one row each.
    pub(crate) fn with_single_rows(self) -> Self {
        Self { single_rows: true, ..self }
    }

    /// The same exchange with other figures.
    pub fn with_statistics(self, statistics: ExchangeStatistics) -> Self {
        Self { statistics, ..self }
    }

    /// The same exchange read in other ranges. Hash keys stay claimed, an ordering only if no two buckets are joined.
    pub fn with_ranges(self, ranges: Vec<Range<u32>>) -> Self {
        let joins_buckets = ranges.iter().any(|range| range.len() > 1);
        let mut equivalences = self.properties.equivalence_properties().clone();
        if joins_buckets {
            equivalences.clear_orderings();
        }
        let partitioning = match self.properties.output_partitioning() {
            Partitioning::Hash(keys, _) => Partitioning::Hash(keys.clone(), ranges.len()),
            _ => Partitioning::UnknownPartitioning(ranges.len()),
        };
        Self { ranges, properties: properties(equivalences, partitioning), ..self }
    }

    /// The partitions `parts` only, for a task. Hash keys stay claimed, because operators that put partitions of several
    /// inputs together ask for them; a slice must not be used to route rows by hash (see [`crate::task::instance_of`]).
    pub fn sliced(&self, parts: &[usize]) -> Self {
        let ranges = parts.iter().map(|part| self.ranges[*part].clone()).collect();
        self.clone().with_ranges(ranges)
    }

    /// The stage that is read.
    pub fn stage(&self) -> StageId {
        self.stage
    }

    /// Buckets per partition.
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.ranges
    }

    /// Whether the one partition is shared by all tasks of an executor.
    pub fn is_broadcast(&self) -> bool {
        self.broadcast
    }

    /// Figures of the exchange.
    pub fn statistics(&self) -> ExchangeStatistics {
        self.statistics
    }

    /// Keys whose hash the buckets are partitioned by; empty if they are not.
    pub fn hash_keys(&self) -> &[Arc<dyn PhysicalExpr>] {
        match self.properties.output_partitioning() {
            Partitioning::Hash(keys, _) => keys,
            _ => &[],
        }
    }

    fn all_buckets(&self) -> Range<u32> {
        let end = self.ranges.iter().map(|range| range.end).max().unwrap_or(0);
        0..end
    }
}

fn properties(equivalences: EquivalenceProperties, partitioning: Partitioning) -> Arc<PlanProperties> {
    Arc::new(
        PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded)
            .with_scheduling_type(SchedulingType::Cooperative),
    )
}

impl DisplayAs for ShuffleReaderExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        if format == DisplayFormatType::TreeRender {
            writeln!(f, "stage={}\npartitions={}", self.stage, self.ranges.len())?;
            return if self.broadcast { writeln!(f, "broadcast") } else { Ok(()) };
        }
        write!(f, "ShuffleReaderExec: stage={}, partitions={}", self.stage, self.ranges.len())?;
        if self.broadcast {
            write!(f, ", broadcast")?;
        }
        if !self.hash_keys().is_empty() {
            let keys: Vec<_> = self.hash_keys().iter().map(|key| key.to_string()).collect();
            write!(f, ", hash=[{}]", keys.join(", "))?;
        }
        if let Some(ordering) = self.properties.output_ordering() {
            write!(f, ", ordering=[{ordering}]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for ShuffleReaderExec {
    fn name(&self) -> &str {
        "ShuffleReaderExec"
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

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let exchange = context
            .session_config()
            .get_extension::<TaskExchange>()
            .ok_or_else(|| DataFusionError::Internal(format!("stage {} is read outside of a task", self.stage)))?;
        let inputs = exchange.inputs.get(&self.stage).cloned().ok_or_else(|| {
            DataFusionError::Internal(format!("the task was not told where the output of stage {} lies", self.stage))
        })?;
        let range = self
            .ranges
            .get(partition)
            .cloned()
            .ok_or_else(|| DataFusionError::Internal(format!("no partition {partition} in {self:?}")))?;
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let stream = if self.broadcast {
            let broadcast_schema = Arc::clone(&schema);
            futures::stream::once(async move {
                let batches = exchange
                    .client
                    .fetch_broadcast(&exchange.job, &inputs, broadcast_schema, &exchange.options)
                    .await?;
                Ok::<_, DataFusionError>(futures::stream::iter((0..batches.len()).map(move |i| Ok(batches[i].clone()))))
            })
            .try_flatten()
            .boxed()
        } else {
            exchange
                .client
                .fetch(&inputs, range, Arc::clone(&schema), &exchange.options)
                .map_err(DataFusionError::from)
                .boxed()
        };
        let recorded = stream.map_ok(move |batch| batch.record_output(&metrics));
        if self.single_rows {
            let rows = recorded
                .map_ok(|batch| futures::stream::iter((0..batch.num_rows()).map(move |row| Ok(batch.slice(row, 1)))));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.try_flatten())));
        }
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, recorded)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let columns = vec![ColumnStatistics::new_unknown(); self.schema().fields().len()];
        if args.partition().is_some() {
            let unknown = Statistics { column_statistics: columns, ..Statistics::default() };
            return Ok(Arc::new(unknown));
        }
        Ok(Arc::new(Statistics {
            num_rows: self.statistics.precision(self.statistics.rows),
            total_byte_size: self.statistics.precision(self.statistics.bytes),
            column_statistics: columns,
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_expr::expressions::col;

    use super::*;

    fn reader(buckets: u32) -> ShuffleReaderExec {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let statistics = ExchangeStatistics { rows: Some(10), bytes: Some(100), exact: true };
        let key = col("a", &schema).unwrap();
        let ranges = (0..buckets).map(|i| i..i + 1).collect();
        ShuffleReaderExec::new(StageId(1), schema, ranges, statistics).with_hash_keys(vec![key])
    }

    #[test]
    fn a_slice_reads_its_buckets_and_keeps_the_keys() {
        let whole = reader(4);
        assert!(matches!(whole.properties().output_partitioning(), Partitioning::Hash(_, 4)));
        let slice = whole.sliced(&[1, 3]);
        assert!(matches!(slice.properties().output_partitioning(), Partitioning::Hash(_, 2)));
        assert_eq!(slice.ranges(), &[1..2, 3..4]);
    }

    #[test]
    fn a_broadcast_reads_every_bucket_in_one_partition() {
        let broadcast = reader(4).with_broadcast();
        assert_eq!(broadcast.ranges().to_vec(), Vec::from_iter(std::iter::once(0..4)));
        assert!(matches!(broadcast.properties().output_partitioning(), Partitioning::UnknownPartitioning(1)));
    }
}
