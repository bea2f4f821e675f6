// SPDX-License-Identifier: Apache-2.0
//! What `datafusion-proto` loses of a node, and how it is put back.
//!
//! A node that has something of it is wrapped in extension nodes, whose only child is the node as `datafusion-proto`
//! encodes it:
//!
//! * Of file scans: compression, order of files, CSV line terminator, JSON in arrays.
//! * Of sinks of CSV and JSON files: that a format was not given, level of compression.
//! * Of windows: that functions look at their rows in reverse, and `IGNORE NULLS`. What nobody can get at is the filter
//!   of a window aggregate: such a plan is refused.
//! * Of limits: what is beyond 32 bits.
//! * Of `generate_series` and `range`: that no column is wanted, as for `count(*)`.

mod sinks;
mod windows;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use ballista_proto as proto;
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig, FileScanConfigBuilder, FileSource, JsonSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{GenerateSeriesNode, PhysicalPlanNode};
use object_store::memory::InMemory;
use proto::plan_node::Node;

use crate::slice::file_scan;

/// What is lost when `plan` is encoded as `encoded`, from the innermost to the outermost wrapper.
pub(crate) fn lost(plan: &Arc<dyn ExecutionPlan>, encoded: &mut PhysicalPlanNode) -> Result<Vec<Node>> {
    let mut lost = vec![];
    if let Some(PhysicalPlanType::GenerateSeries(series)) = &mut encoded.physical_plan_type
        && restore_series_column(series)?
    {
        lost.push(Node::NoColumns(proto::NoColumnsNode {}));
    }
    if let Some(scan) = file_scan(plan) {
        lost.extend(lost_scan_fields(scan)?.map(Node::FileScan));
    }
    lost.extend(lost_limit(plan).map(Node::Limit));
    if let Some(PhysicalPlanType::Window(window)) = &mut encoded.physical_plan_type {
        lost.extend(windows::lost(plan, window)?.map(Node::Window));
    }
    lost.extend(sinks::lost(plan).map(Node::Sink));
    Ok(lost)
}

/// The node that was wrapped.
pub(crate) fn restore(lost: &Node, inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    let [input] = inputs else { return Err(unknown("wrapped node")) };
    match lost {
        Node::FileScan(fields) => restore_scan_fields(file_scan(input).ok_or_else(|| unknown("file scan"))?, fields),
        Node::Limit(limit) => restore_limit(input, limit),
        Node::Window(window) => windows::restore(input, &window.reversed),
        Node::Sink(sink) => sinks::restore(input, sink),
        Node::NoColumns(_) => {
            let none: [(Arc<dyn PhysicalExpr>, String); 0] = [];
            Ok(Arc::new(ProjectionExec::try_new(none, Arc::clone(input))?))
        }
        _ => Err(unknown("wrapper")),
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

fn lost_limit(plan: &Arc<dyn ExecutionPlan>) -> Option<proto::LimitNode> {
    let kept = u32::MAX as usize;
    let skip = plan.downcast_ref::<GlobalLimitExec>().map_or(0, GlobalLimitExec::skip);
    let fetch = plan.fetch();
    let is_lost = skip > kept || fetch.is_some_and(|fetch| fetch > kept);
    is_lost.then(|| proto::LimitNode { skip: skip as u64, fetch: fetch.map(|fetch| fetch as u64) })
}

fn restore_limit(plan: &Arc<dyn ExecutionPlan>, limit: &proto::LimitNode) -> Result<Arc<dyn ExecutionPlan>> {
    let fetch = limit.fetch.map(|fetch| fetch as usize);
    if let Some(global) = plan.downcast_ref::<GlobalLimitExec>() {
        let mut restored = GlobalLimitExec::new(Arc::clone(global.input()), limit.skip as usize, fetch);
        restored.set_required_ordering(global.required_ordering().clone());
        return Ok(Arc::new(restored));
    }
    if let (Some(local), Some(fetch)) = (plan.downcast_ref::<LocalLimitExec>(), fetch) {
        let mut restored = LocalLimitExec::new(Arc::clone(local.input()), fetch);
        restored.set_required_ordering(local.required_ordering().clone());
        return Ok(Arc::new(restored));
    }
    plan.with_fetch(fetch).ok_or_else(|| unknown("limit"))
}

fn source_of<T: FileSource>(scan: &FileScanConfig) -> Option<&T> {
    let source: &dyn std::any::Any = scan.file_source().as_ref();
    source.downcast_ref()
}

fn lost_scan_fields(scan: &FileScanConfig) -> Result<Option<proto::FileScanNode>> {
    let fields = proto::FileScanNode {
        compression: compression_name(scan.file_compression_type).to_owned(),
        preserve_order: scan.preserve_order,
        csv_terminator: source_of::<CsvSource>(scan).and_then(CsvSource::terminator).map(u32::from),
        json_arrays: source_of::<JsonSource>(scan).map_or(Ok(false), |json| reads_arrays(json, scan))?,
    };
    Ok((fields != proto::FileScanNode::default()).then_some(fields))
}

/// Whether `json` reads files that are one array each. It does not tell; but such a file cannot be read in parts, and
/// the attempt is refused before anything is read.
fn reads_arrays(json: &JsonSource, scan: &FileScanConfig) -> Result<bool> {
    let opener = json.with_batch_size(1).create_file_opener(Arc::new(InMemory::new()), scan, 0)?;
    let columns = scan.table_partition_cols().iter();
    let mut part = PartitionedFile::new("", 1).with_range(0, 1);
    part.partition_values = columns.map(|column| ScalarValue::try_from(column.data_type())).collect::<Result<_>>()?;
    Ok(opener.open(part).is_err())
}

fn restore_scan_fields(scan: &FileScanConfig, fields: &proto::FileScanNode) -> Result<Arc<dyn ExecutionPlan>> {
    let mut builder = FileScanConfigBuilder::from(scan.clone())
        .with_preserve_order(fields.preserve_order)
        .with_file_compression_type(compression_of(&fields.compression)?);
    if let (Some(terminator), Some(csv)) = (fields.csv_terminator, source_of::<CsvSource>(scan)) {
        builder = builder.with_source(Arc::new(csv.with_terminator(u8::try_from(terminator).ok())));
    }
    if let (true, Some(json)) = (fields.json_arrays, source_of::<JsonSource>(scan)) {
        builder = builder.with_source(Arc::new(json.clone().with_newline_delimited(false)));
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
    known.map(|(_, compression)| *compression).ok_or_else(|| unknown("file compression"))
}

fn unknown(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("decoding: {what} is missing or of an unknown kind"))
}
