// SPDX-License-Identifier: Apache-2.0
//! What is lost of sinks of CSV and JSON files.

use std::sync::Arc;

use arrow::csv::WriterBuilder;
use ballista_proto as proto;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::physical_plan::FileSink;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;

use super::unknown;

pub(super) fn lost(plan: &Arc<dyn ExecutionPlan>) -> Option<proto::SinkNode> {
    let sink = plan.downcast_ref::<DataSinkExec>()?.sink();
    if let Some(csv) = sink.downcast_ref::<CsvSink>() {
        let options = csv.writer_options();
        return Some(proto::SinkNode {
            compression_level: options.compression_level,
            csv_timestamp_tz_format: options.writer_options.timestamp_tz_format().map(str::to_owned),
        });
    }
    let options = sink.downcast_ref::<JsonSink>()?.writer_options();
    let compression_level = options.compression_level;
    compression_level.is_some().then_some(proto::SinkNode { compression_level, csv_timestamp_tz_format: None })
}

pub(super) fn restore(plan: &Arc<dyn ExecutionPlan>, lost: &proto::SinkNode) -> Result<Arc<dyn ExecutionPlan>> {
    let exec = plan.downcast_ref::<DataSinkExec>().ok_or_else(|| unknown("sink"))?;
    let sink: Arc<dyn DataSink> = if let Some(csv) = exec.sink().downcast_ref::<CsvSink>() {
        let options = csv.writer_options();
        let mut restored = CsvWriterOptions::new(
            formats(&options.writer_options, lost.csv_timestamp_tz_format.clone()),
            options.compression,
        );
        restored.compression_level = lost.compression_level;
        Arc::new(CsvSink::new(csv.config().clone(), restored))
    } else {
        let json = exec.sink().downcast_ref::<JsonSink>().ok_or_else(|| unknown("sink"))?;
        let mut restored = JsonWriterOptions::new(json.writer_options().compression);
        restored.compression_level = lost.compression_level;
        Arc::new(JsonSink::new(json.config().clone(), restored))
    };
    Ok(Arc::new(DataSinkExec::new(Arc::clone(exec.input()), sink, exec.sort_order().clone())))
}

/// `decoded` without the formats that are empty.
fn formats(decoded: &WriterBuilder, timestamp_tz: Option<String>) -> WriterBuilder {
    let given = |format: Option<&str>| format.filter(|format| !format.is_empty()).map(str::to_owned);
    let mut builder = WriterBuilder::new()
        .with_header(decoded.header())
        .with_delimiter(decoded.delimiter())
        .with_quote(decoded.quote())
        .with_quote_style(decoded.quote_style())
        .with_escape(decoded.escape())
        .with_double_quote(decoded.double_quote())
        .with_null(decoded.null().to_owned())
        .with_ignore_leading_whitespace(decoded.ignore_leading_whitespace())
        .with_ignore_trailing_whitespace(decoded.ignore_trailing_whitespace());
    if let Some(format) = given(decoded.date_format()) {
        builder = builder.with_date_format(format);
    }
    if let Some(format) = given(decoded.datetime_format()) {
        builder = builder.with_datetime_format(format);
    }
    if let Some(format) = given(decoded.timestamp_format()) {
        builder = builder.with_timestamp_format(format);
    }
    if let Some(format) = given(decoded.time_format()) {
        builder = builder.with_time_format(format);
    }
    if let Some(format) = timestamp_tz {
        builder = builder.with_timestamp_tz_format(format);
    }
    builder
}
