// SPDX-License-Identifier: Apache-2.0
//! Plans to bytes and back.
//!
//! `datafusion-proto` does the work; [`PlanCodec`] adds our exchange reader, nodes of the application's own codec, and
//! what `datafusion-proto` loses: a leaf that has something of it is wrapped in an extension node that puts it back.
//!
//! * Of file scans: compression, order of files, CSV line terminator.
//! * Of `generate_series` and `range`: that no column is wanted, as for `count(*)`.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use ballista_core::StageId;
use ballista_proto as proto;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr_with_converter;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    DefaultPhysicalExtensionCodec, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{GenerateSeriesNode, PhysicalExprNode, PhysicalPlanNode, Schema as ProtoSchema};
use prost::Message;
use prost::bytes::Bytes;

use crate::reader::{ExchangeStatistics, ShuffleReaderExec};
use crate::slice::file_scan;
use crate::stage::{OutputPartitioning, StageOutput, StagePlan};

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
        let node = Converter.execution_plan_to_proto(plan, self)?;
        Ok(node.encode_to_vec().into())
    }

    /// Decodes a plan, finding functions in `context`.
    pub fn decode(&self, bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let node = PhysicalPlanNode::decode(bytes).map_err(|error| corrupt("plan", &error))?;
        Converter.proto_to_execution_plan(&node, &PhysicalPlanDecodeContext::new(context, self))
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
        Ok(serialize_physical_expr_with_converter(expr, self, &Converter)?.encode_to_vec().into())
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
        parse_physical_expr_with_converter(&node, schema, &PhysicalPlanDecodeContext::new(context, self), &Converter)
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
            Some(ordering) => self.encode_sort_keys(ordering)?,
            None => vec![],
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
        })
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
        let mut reader = ShuffleReaderExec::new(StageId(node.stage), Arc::clone(&schema), ranges, statistics);
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
            Node::FileScan(fields) => {
                let scan = inputs.first().and_then(file_scan).ok_or_else(|| missing("file scan"))?;
                restore_scan_fields(scan, &fields)
            }
            Node::NoColumns(_) => {
                let series = inputs.first().ok_or_else(|| missing("series"))?;
                let none: [(Arc<dyn PhysicalExpr>, String); 0] = [];
                Ok(Arc::new(ProjectionExec::try_new(none, Arc::clone(series))?))
            }
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
        self.user.try_decode_udf(name, buf)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.user.try_encode_udf(node, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.user.try_decode_udaf(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.user.try_encode_udaf(node, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        self.user.try_decode_udwf(name, buf)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.user.try_encode_udwf(node, buf)
    }

    fn try_decode_expr(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn PhysicalExpr>],
        ctx: &datafusion::physical_expr_common::physical_expr::proto_decode::PhysicalExprDecodeCtx<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.user.try_decode_expr(buf, inputs, ctx)
    }

    fn try_encode_expr(
        &self,
        node: &Arc<dyn PhysicalExpr>,
        buf: &mut Vec<u8>,
        ctx: &datafusion::physical_expr_common::physical_expr::proto_encode::PhysicalExprEncodeCtx<'_>,
    ) -> Result<()> {
        self.user.try_encode_expr(node, buf, ctx)
    }
}

/// Wraps the scans that `datafusion-proto` would encode incompletely.
struct Converter;

impl PhysicalProtoConverterExtension for Converter {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        proto.try_into_physical_plan_with_context(ctx, self)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        use datafusion_proto::protobuf::PhysicalExtensionNode;
        use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
        use proto::plan_node::Node;
        let mut inner = PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), codec, self)?;
        let lost = if let Some(PhysicalPlanType::GenerateSeries(series)) = &mut inner.physical_plan_type {
            restore_series_column(series)?.then_some(Node::NoColumns(proto::NoColumnsNode {}))
        } else {
            file_scan(plan).and_then(lost_scan_fields).map(Node::FileScan)
        };
        let Some(lost) = lost else { return Ok(inner) };
        let node = proto::PlanNode { node: Some(lost) };
        Ok(PhysicalPlanNode {
            physical_plan_type: Some(PhysicalPlanType::Extension(PhysicalExtensionNode {
                node: node.encode_to_vec(),
                inputs: vec![inner],
            })),
        })
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        input_schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        parse_physical_expr_with_converter(proto, input_schema, ctx, self)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        serialize_physical_expr_with_converter(expr, codec, self)
    }
}

/// A series without columns gets the one back that it is made of. Whether it had none.
fn restore_series_column(series: &mut GenerateSeriesNode) -> Result<bool> {
    use datafusion_proto::protobuf::generate_series_node::Args;
    if series.schema.as_ref().is_none_or(|schema| !schema.columns.is_empty()) {
        return Ok(false);
    }
    let data_type = match &series.args {
        Some(Args::TimestampArgs(args)) => DataType::Timestamp(TimeUnit::Nanosecond, args.tz.as_deref().map(Arc::from)),
        Some(Args::DateArgs(_)) => DataType::Timestamp(TimeUnit::Nanosecond, None),
        Some(Args::Int64Args(_) | Args::ContainsNull(_)) | None => DataType::Int64,
    };
    series.schema = Some((&Schema::new(vec![Field::new("value", data_type, true)])).try_into()?);
    Ok(true)
}

fn csv_source(scan: &FileScanConfig) -> Option<&CsvSource> {
    let source: &dyn std::any::Any = scan.file_source().as_ref();
    source.downcast_ref::<CsvSource>()
}

fn lost_scan_fields(scan: &FileScanConfig) -> Option<proto::FileScanNode> {
    let fields = proto::FileScanNode {
        compression: compression_name(scan.file_compression_type).to_owned(),
        preserve_order: scan.preserve_order,
        csv_terminator: csv_source(scan).and_then(CsvSource::terminator).map(u32::from),
    };
    let is_default = fields.compression.is_empty() && !fields.preserve_order && fields.csv_terminator.is_none();
    (!is_default).then_some(fields)
}

fn restore_scan_fields(scan: &FileScanConfig, fields: &proto::FileScanNode) -> Result<Arc<dyn ExecutionPlan>> {
    let mut builder = FileScanConfigBuilder::from(scan.clone())
        .with_preserve_order(fields.preserve_order)
        .with_file_compression_type(compression_of(&fields.compression)?);
    if let (Some(terminator), Some(csv)) = (fields.csv_terminator, csv_source(scan)) {
        builder = builder.with_source(Arc::new(csv.with_terminator(u8::try_from(terminator).ok())));
    }
    Ok(DataSourceExec::from_data_source(builder.build()))
}

const COMPRESSIONS: [(&str, FileCompressionType); 5] = [
    ("", FileCompressionType::UNCOMPRESSED),
    ("gzip", FileCompressionType::GZIP),
    ("bzip2", FileCompressionType::BZIP2),
    ("xz", FileCompressionType::XZ),
    ("zstd", FileCompressionType::ZSTD),
];

fn compression_name(compression: FileCompressionType) -> &'static str {
    COMPRESSIONS.iter().find(|(_, known)| *known == compression).map_or("", |(name, _)| name)
}

fn compression_of(name: &str) -> Result<FileCompressionType> {
    let known = COMPRESSIONS.iter().find(|(known, _)| *known == name);
    known.map(|(_, compression)| *compression).ok_or_else(|| missing("file compression"))
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

fn corrupt(what: &str, error: &prost::DecodeError) -> DataFusionError {
    DataFusionError::Internal(format!("decoding a {what}: {error}"))
}

fn missing(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("decoding: {what} is missing or of an unknown kind"))
}
