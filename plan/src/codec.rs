// SPDX-License-Identifier: Apache-2.0
//! Plans to bytes and back.
//!
//! `datafusion-proto` does the work; [`PlanCodec`] adds our exchange reader and nodes of the application's own codec.
//! What `datafusion-proto` loses is added by [`crate::lost`], where functions come from by [`crate::functions`], and [`crate::convert`] sees to it that depth is no limit.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use ballista_core::StageId;
use ballista_proto as proto;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::equivalence::{EquivalenceClass, EquivalenceGroup};
use datafusion::physical_expr::expressions::{Literal, lit};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{
    AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    DefaultPhysicalExtensionCodec, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode, Schema as ProtoSchema};
use prost::Message;
use prost::bytes::Bytes;

use crate::cached::CachedExec;
use crate::convert::Converter;
use crate::functions;
use crate::lost::restore;
use crate::reader::{ExchangeStatistics, ShuffleReaderExec};
use crate::stage::{OutputPartitioning, StageOutput, StagePlan};
use crate::write::WriteExec;

/// Encodes and decodes plans of a session; `user` handles what only the application knows.
#[derive(Clone)]
pub struct PlanCodec {
    user: Arc<dyn PhysicalExtensionCodec>,
}

impl fmt::Debug for PlanCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanCodec").finish_non_exhaustive()
    }
}

impl Default for PlanCodec {
    fn default() -> Self {
        Self::new(Arc::new(DefaultPhysicalExtensionCodec {}))
    }
}

impl PlanCodec {
    /// A codec that asks `user` for nodes, functions and expressions that DataFusion does not know.
    pub fn new(user: Arc<dyn PhysicalExtensionCodec>) -> Self {
        Self { user }
    }

    /// Encodes a plan; an error names the node that cannot leave the process.
    pub fn encode(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Bytes> {
        let node = Converter::default().execution_plan_to_proto(plan, self)?;
        Ok(node.encode_to_vec().into())
    }

    /// Whether `plan` can be encoded, whatever its inputs are; the error says why not.
    pub fn check_node(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        Converter::check_node(plan, self)
    }

    /// Decodes a plan, finding functions in `context`.
    pub fn decode(&self, bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let node = PhysicalPlanNode::decode(bytes).map_err(|error| corrupt("plan", &error))?;
        Converter::default().proto_to_execution_plan(&node, &PhysicalPlanDecodeContext::new(context, self))
    }

    /// Encodes a stage.
    pub fn encode_stage(&self, stage: &StagePlan) -> Result<Bytes> {
        use proto::stage_plan::Output;
        let (output, sample) = match &stage.output {
            StageOutput::Result { ordered } => {
                (Output::Result(proto::ResultOutput { scalar: false, ordered: *ordered }), vec![])
            }
            StageOutput::Scalar => (Output::Result(proto::ResultOutput { scalar: true, ordered: false }), vec![]),
            StageOutput::Exchange { partitioning, sample } => {
                let buckets = partitioning.buckets() as u32;
                let output = match partitioning {
                    OutputPartitioning::Hash { keys, .. } => {
                        Output::Hash(proto::HashPartitioning { keys: self.encode_exprs(keys)?, buckets })
                    }
                    OutputPartitioning::RoundRobin { .. } => {
                        Output::RoundRobin(proto::RoundRobinPartitioning { buckets })
                    }
                    OutputPartitioning::Single => Output::Single(proto::SinglePartitioning {}),
                    OutputPartitioning::Passthrough { .. } => {
                        Output::Passthrough(proto::PassthroughPartitioning { buckets })
                    }
                    OutputPartitioning::Range { keys, bounds, .. } => Output::Range(proto::RangePartitioning {
                        keys: self.encode_sort_keys(keys)?,
                        bounds: encode_columns(bounds)?,
                        buckets,
                    }),
                };
                (output, self.encode_sort_keys(sample)?)
            }
        };
        let message = proto::StagePlan { plan: self.encode(&stage.plan)?, output: Some(output), sample };
        Ok(message.encode_to_vec().into())
    }

    /// Decodes a stage.
    pub fn decode_stage(&self, bytes: Bytes, context: &TaskContext) -> Result<StagePlan> {
        use proto::stage_plan::Output;
        let message = proto::StagePlan::decode(bytes).map_err(|error| corrupt("stage", &error))?;
        let plan = self.decode(&message.plan, context)?;
        let schema = plan.schema();
        let exchange = |partitioning| -> Result<StageOutput> {
            let sample = self.decode_sort_keys(&message.sample, &schema, context)?;
            Ok(StageOutput::Exchange { partitioning, sample })
        };
        let output = match message.output.ok_or_else(|| missing("stage output"))? {
            Output::Result(result) if result.scalar => StageOutput::Scalar,
            Output::Result(result) => StageOutput::Result { ordered: result.ordered },
            Output::Hash(hash) => exchange(OutputPartitioning::Hash {
                keys: self.decode_exprs(&hash.keys, &schema, context)?,
                buckets: hash.buckets as usize,
            })?,
            Output::RoundRobin(round_robin) => {
                exchange(OutputPartitioning::RoundRobin { buckets: round_robin.buckets as usize })?
            }
            Output::Single(_) => exchange(OutputPartitioning::Single)?,
            Output::Passthrough(passthrough) => {
                exchange(OutputPartitioning::Passthrough { buckets: passthrough.buckets as usize })?
            }
            Output::Range(range) => exchange(OutputPartitioning::Range {
                keys: LexOrdering::new(self.decode_sort_keys(&range.keys, &schema, context)?)
                    .ok_or_else(|| missing("range keys"))?,
                bounds: decode_columns(&range.bounds)?,
                buckets: range.buckets as usize,
            })?,
        };
        Ok(StagePlan { plan, output })
    }

    fn encode_expr(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Bytes> {
        Ok(Converter::default().physical_expr_to_proto(expr, self)?.encode_to_vec().into())
    }

    fn encode_exprs(&self, exprs: &[Arc<dyn PhysicalExpr>]) -> Result<Vec<Bytes>> {
        exprs.iter().map(|expr| self.encode_expr(expr)).collect()
    }

    fn encode_sort_keys<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a PhysicalSortExpr>,
    ) -> Result<Vec<proto::SortKey>> {
        let encode = |key: &PhysicalSortExpr| {
            Ok(proto::SortKey {
                expr: self.encode_expr(&key.expr)?,
                descending: key.options.descending,
                nulls_first: key.options.nulls_first,
            })
        };
        keys.into_iter().map(encode).collect()
    }

    fn decode_expr(&self, bytes: &[u8], schema: &Schema, context: &TaskContext) -> Result<Arc<dyn PhysicalExpr>> {
        let node = PhysicalExprNode::decode(bytes).map_err(|error| corrupt("expression", &error))?;
        Converter::default().proto_to_physical_expr(&node, schema, &PhysicalPlanDecodeContext::new(context, self))
    }

    fn decode_exprs(
        &self,
        exprs: &[Bytes],
        schema: &Schema,
        context: &TaskContext,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        exprs.iter().map(|expr| self.decode_expr(expr, schema, context)).collect()
    }

    fn decode_sort_keys(
        &self,
        keys: &[proto::SortKey],
        schema: &Schema,
        context: &TaskContext,
    ) -> Result<Vec<PhysicalSortExpr>> {
        let decode = |key: &proto::SortKey| {
            let options = arrow::compute::SortOptions { descending: key.descending, nulls_first: key.nulls_first };
            Ok(PhysicalSortExpr::new(self.decode_expr(&key.expr, schema, context)?, options))
        };
        keys.iter().map(decode).collect()
    }

    fn encode_reader(&self, reader: &ShuffleReaderExec) -> Result<proto::ShuffleReaderNode> {
        let schema: ProtoSchema = reader.schema().as_ref().try_into()?;
        let statistics = reader.statistics();
        let ordering = match reader.properties().output_ordering() {
            // The rows are in that order all the same; who reads them asked for it when the stage was planned.
            Some(ordering) if !ordering.iter().any(|key| reads_subquery(&key.expr)) => {
                self.encode_sort_keys(ordering)?
            }
            _ => vec![],
        };
        Ok(proto::ShuffleReaderNode {
            stage: reader.stage().0,
            schema: schema.encode_to_vec().into(),
            ranges: reader.ranges().iter().map(|r| proto::BucketRange { start: r.start, end: r.end }).collect(),
            broadcast: reader.is_broadcast(),
            ordering,
            hash_keys: self.encode_exprs(reader.hash_keys())?,
            rows: statistics.rows.map(|rows| rows as u64),
            bytes: statistics.bytes.map(|bytes| bytes as u64),
            exact: statistics.exact,
            equivalences: self.encode_equivalences(reader.properties().equivalence_properties())?,
        })
    }

    fn encode_equivalences(&self, equivalences: &EquivalenceProperties) -> Result<Vec<proto::EquivalenceClass>> {
        let constants = equivalences.constants();
        let encode = |class: &EquivalenceClass| {
            let constant = constants.iter().find(|constant| class.contains(&constant.expr));
            let value = match constant.map(|constant| &constant.across_partitions) {
                Some(AcrossPartitions::Uniform(Some(value))) => self.encode_expr(&lit(value.clone()))?,
                _ => Bytes::new(),
            };
            let exprs = class.iter().filter(|expr| !reads_subquery(expr));
            let exprs = exprs.map(|expr| self.encode_expr(expr)).collect::<Result<_>>()?;
            Ok(proto::EquivalenceClass { exprs, constant: constant.is_some(), value })
        };
        equivalences.eq_group().iter().map(encode).collect()
    }

    fn decode_equivalences(
        &self,
        classes: &[proto::EquivalenceClass],
        schema: &Arc<Schema>,
        context: &TaskContext,
    ) -> Result<EquivalenceProperties> {
        let mut equivalences = EquivalenceProperties::new(Arc::clone(schema));
        for class in classes {
            let exprs = self.decode_exprs(&class.exprs, schema, context)?;
            if class.constant {
                let value = (!class.value.is_empty()).then(|| self.decode_expr(&class.value, schema, context));
                let value = value.transpose()?;
                let value = value.and_then(|value| Some(value.downcast_ref::<Literal>()?.value().clone()));
                let constant = |expr| ConstExpr::new(Arc::clone(expr), AcrossPartitions::Uniform(value.clone()));
                equivalences.add_constants(exprs.iter().map(constant))?;
            }
            equivalences.add_equivalence_group(EquivalenceGroup::new([EquivalenceClass::new(exprs)]))?;
        }
        Ok(equivalences)
    }

    fn decode_reader(&self, node: &proto::ShuffleReaderNode, context: &TaskContext) -> Result<ShuffleReaderExec> {
        let schema = ProtoSchema::decode(node.schema.clone()).map_err(|error| corrupt("schema", &error))?;
        let schema: Schema = (&schema).try_into()?;
        let schema = Arc::new(schema);
        let ranges = node.ranges.iter().map(|range| range.start..range.end).collect();
        let statistics = ExchangeStatistics {
            rows: node.rows.map(|rows| rows as usize),
            bytes: node.bytes.map(|bytes| bytes as usize),
            exact: node.exact,
        };
        let equivalences = self.decode_equivalences(&node.equivalences, &schema, context)?;
        let mut reader = ShuffleReaderExec::new(StageId(node.stage), Arc::clone(&schema), ranges, statistics)
            .with_equivalences(equivalences);
        if node.broadcast {
            return Ok(reader.with_broadcast());
        }
        if let Some(ordering) = LexOrdering::new(self.decode_sort_keys(&node.ordering, &schema, context)?) {
            reader = reader.with_ordering(ordering);
        }
        if !node.hash_keys.is_empty() {
            reader = reader.with_hash_keys(self.decode_exprs(&node.hash_keys, &schema, context)?);
        }
        Ok(reader)
    }
}

impl PhysicalExtensionCodec for PlanCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        use proto::plan_node::Node;
        let message = proto::PlanNode::decode(buf).map_err(|error| corrupt("plan node", &error))?;
        match message.node.ok_or_else(|| missing("plan node"))? {
            Node::Reader(reader) => Ok(Arc::new(self.decode_reader(&reader, ctx)?)),
            lost @ (Node::FileScan(_) | Node::NoColumns(_) | Node::Limit(_) | Node::Window(_) | Node::Sink(_)) => {
                restore(&lost, inputs)
            }
            Node::Write(write) => {
                let input = inputs.first().ok_or_else(|| missing("input of a write"))?;
                let template = PhysicalPlanNode::decode(write.sink).map_err(|error| corrupt("sink", &error))?;
                let context = PhysicalPlanDecodeContext::new(ctx, self);
                let template = converter.proto_to_execution_plan(&template, &context)?;
                Ok(Arc::new(WriteExec::try_new(template, Arc::clone(input))?))
            }
            Node::Cached(cached) => {
                let schema = ProtoSchema::decode(cached.schema).map_err(|error| corrupt("schema", &error))?;
                let schema: Schema = (&schema).try_into()?;
                Ok(Arc::new(CachedExec::new(cached.job, Arc::new(schema), cached.rows, cached.partition_bytes)))
            }
            Node::Nested(_) => Err(missing("plan around a nested one")),
            Node::User(bytes) => self.user.try_decode(&bytes, inputs, ctx, converter),
        }
    }

    fn try_encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        use proto::plan_node::Node;
        let node = if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>() {
            Node::Reader(self.encode_reader(reader)?)
        } else if let Some(write) = plan.downcast_ref::<WriteExec>() {
            let sink = converter.execution_plan_to_proto(write.template(), self)?;
            Node::Write(proto::WriteNode { sink: sink.encode_to_vec().into() })
        } else if let Some(cached) = plan.downcast_ref::<CachedExec>() {
            let schema: ProtoSchema = cached.schema().as_ref().try_into()?;
            Node::Cached(proto::CachedNode {
                job: cached.job().to_owned(),
                schema: schema.encode_to_vec().into(),
                rows: cached.rows(),
                partition_bytes: cached.partition_bytes().to_vec(),
            })
        } else {
            let mut bytes = Vec::new();
            self.user.try_encode(plan, &mut bytes, converter)?;
            Node::User(bytes.into())
        };
        proto::PlanNode { node: Some(node) }
            .encode(buf)
            .map_err(|error| DataFusionError::Internal(format!("encoding a plan node: {error}")))
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        functions::decode(buf, |buf| self.user.try_decode_udf(name, buf))
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        functions::encode(node, buf, |buf| self.user.try_encode_udf(node, buf))
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        functions::decode(buf, |buf| self.user.try_decode_udaf(name, buf))
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        functions::encode(node, buf, |buf| self.user.try_encode_udaf(node, buf))
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        functions::decode(buf, |buf| self.user.try_decode_udwf(name, buf))
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        functions::encode(node, buf, |buf| self.user.try_encode_udwf(node, buf))
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        self.user.try_decode_higher_order_function(name, buf)
    }

    fn try_encode_higher_order_function(&self, node: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.user.try_encode_higher_order_function(node, buf)
    }

    fn try_decode_expr(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn PhysicalExpr>],
        ctx: &datafusion::physical_expr_common::physical_expr::proto_decode::PhysicalExprDecodeCtx<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let message = proto::ExprNode::decode(buf).map_err(|error| corrupt("expression", &error))?;
        match message.expr {
            Some(proto::expr_node::Expr::User(bytes)) => self.user.try_decode_expr(&bytes, inputs, ctx),
            _ => Err(missing("expression")),
        }
    }

    fn try_encode_expr(
        &self,
        node: &Arc<dyn PhysicalExpr>,
        buf: &mut Vec<u8>,
        ctx: &datafusion::physical_expr_common::physical_expr::proto_encode::PhysicalExprEncodeCtx<'_>,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        self.user.try_encode_expr(node, &mut bytes, ctx)?;
        proto::ExprNode { expr: Some(proto::expr_node::Expr::User(bytes.into())) }
            .encode(buf)
            .map_err(|error| DataFusionError::Internal(format!("encoding an expression: {error}")))
    }
}

/// Whether `expr` can be decoded only inside of the `ScalarSubqueryExec` that holds its value.
fn reads_subquery(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.exists(|part| Ok(part.is::<ScalarSubqueryExpr>())).unwrap_or(true)
}

/// Encodes columns of equal length as an Arrow IPC stream with one batch.
pub fn encode_columns(columns: &[arrow::array::ArrayRef]) -> Result<Bytes> {
    let named = columns.iter().enumerate().map(|(i, column)| (i.to_string(), Arc::clone(column), true));
    let batch = RecordBatch::try_from_iter_with_nullable(named)?;
    encode_batches(&batch.schema(), &[batch])
}

/// Decodes what [`encode_columns`] made.
pub fn decode_columns(bytes: &[u8]) -> Result<Vec<arrow::array::ArrayRef>> {
    let batches = decode_batches(bytes)?;
    Ok(batches.first().ok_or_else(|| missing("batch"))?.columns().to_vec())
}

/// Encodes batches as an Arrow IPC stream.
pub fn encode_batches(schema: &Schema, batches: &[RecordBatch]) -> Result<Bytes> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?.into())
}

/// Decodes an Arrow IPC stream.
pub fn decode_batches(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    let reader = arrow::ipc::reader::StreamReader::try_new(bytes, None)?;
    reader.map(|batch| batch.map_err(DataFusionError::from)).collect()
}

pub(crate) fn corrupt(what: &str, error: &prost::DecodeError) -> DataFusionError {
    DataFusionError::Internal(format!("decoding a {what}: {error}"))
}

fn missing(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("decoding: {what} is missing or of an unknown kind"))
}
