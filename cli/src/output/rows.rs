// SPDX-License-Identifier: Apache-2.0
//! Rows for other programs: csv, tsv, json, nd-json. Every batch is written when it comes.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::WriterBuilder as JsonBuilder;
use arrow::json::writer::LineDelimited;
use arrow::json::{LineDelimitedWriter, Writer as JsonWriter};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result;

use super::Destination;
use crate::args::Format;

/// Writes one result.
pub(super) struct Rows {
    format: Format,
    schema: SchemaRef,
    /// Something was written: a header or the start of an array.
    started: bool,
}

impl Rows {
    pub(super) fn new(format: Format, schema: SchemaRef) -> Self {
        Self { format, schema, started: false }
    }

    pub(super) fn add(&mut self, batch: &RecordBatch, texts: &FormatOptions, out: &mut Destination) -> Result<()> {
        match self.format {
            Format::Json => self.objects(batch, out)?,
            Format::NdJson => lines(out).write(batch)?,
            Format::Tsv => self.delimited(&flat(batch, texts)?, b'\t', out)?,
            _ => self.delimited(&flat(batch, texts)?, b',', out)?,
        }
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut Destination) -> Result<()> {
        match self.format {
            Format::Json => {
                out.write_all(if self.started { b"]\n" } else { b"[]\n" })?;
            }
            Format::NdJson => {}
            // An empty result has a header too.
            _ if !self.started => {
                let empty = RecordBatch::new_empty(Arc::clone(&self.schema));
                self.add(&empty, &FormatOptions::default(), out)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn delimited(&mut self, batch: &RecordBatch, delimiter: u8, out: &mut Destination) -> Result<()> {
        let header = !std::mem::replace(&mut self.started, true);
        let builder = csv::WriterBuilder::new().with_header(header).with_delimiter(delimiter);
        Ok(builder.build(out).write(batch)?)
    }

    /// One object at a time, so that nothing has to live from batch to batch.
    fn objects(&mut self, batch: &RecordBatch, out: &mut Destination) -> Result<()> {
        let mut text = Vec::new();
        lines(&mut text).write(batch)?;
        // A line break within a value is escaped.
        for object in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            out.write_all(if std::mem::replace(&mut self.started, true) { b"," } else { b"[" })?;
            out.write_all(object)?;
        }
        Ok(())
    }
}

fn lines<W: Write>(out: W) -> LineDelimitedWriter<W> {
    let writer: JsonWriter<W, LineDelimited> = JsonBuilder::new().with_explicit_nulls(true).build(out);
    writer
}

/// Delimited text has no nesting: lists, structs and maps become their display text.
fn flat(batch: &RecordBatch, texts: &FormatOptions) -> Result<RecordBatch> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            let formatter = ArrayFormatter::try_new(column, texts)?;
            let text = |row: usize| column.is_valid(row).then(|| formatter.value(row).to_string());
            columns.push(Arc::new((0..column.len()).map(text).collect::<StringArray>()));
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        } else {
            columns.push(Arc::clone(column));
            fields.push(Arc::clone(field));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::ListArray;
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn nested_values_become_text() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap();
        let flat = flat(&batch, &FormatOptions::default()).unwrap();
        let texts = flat.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), [Some("[1, ]"), None]);
    }
}
