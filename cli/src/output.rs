// SPDX-License-Identifier: Apache-2.0
//! Prints the rows of a statement, as they come unless they are drawn as a table.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::error::Result;

use crate::args::Format;

/// Prints to `out`.
pub(crate) struct Printer<W> {
    out: W,
    format: Format,
    quiet: bool,
}

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, format: Format, quiet: bool) -> Self {
        Self { out, format, quiet }
    }

    /// Begins the rows of a statement.
    pub(crate) fn start(&mut self, schema: SchemaRef) -> ResultPrinter<'_, W> {
        let has_columns = !schema.fields().is_empty();
        let delimited = |out, delimiter| {
            let writer = csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter).build(out);
            Writer::Delimited { writer, wrote: false }
        };
        let out = &mut self.out;
        let (writer, footer_only) = match self.format {
            _ if !has_columns => (None, Some(out)),
            Format::Table => (Some(Writer::Table { out, batches: Vec::new() }), None),
            Format::Csv => (Some(delimited(out, b',')), None),
            Format::Tsv => (Some(delimited(out, b'\t')), None),
            Format::Json => {
                (Some(Writer::Array(json::WriterBuilder::new().with_explicit_nulls(true).build(out))), None)
            }
            Format::NdJson => {
                (Some(Writer::Lines(json::WriterBuilder::new().with_explicit_nulls(true).build(out))), None)
            }
        };
        ResultPrinter { writer, footer_only, schema, rows: 0, quiet: self.quiet }
    }
}

// There is one at a time, on the stack.
#[allow(clippy::large_enum_variant)]
enum Writer<'a, W: Write> {
    Table { out: &'a mut W, batches: Vec<RecordBatch> },
    Delimited { writer: csv::Writer<&'a mut W>, wrote: bool },
    Array(json::ArrayWriter<&'a mut W>),
    Lines(json::LineDelimitedWriter<&'a mut W>),
}

/// Prints the rows of one statement.
pub(crate) struct ResultPrinter<'a, W: Write> {
    writer: Option<Writer<'a, W>>,
    footer_only: Option<&'a mut W>,
    schema: SchemaRef,
    rows: usize,
    quiet: bool,
}

impl<W: Write> ResultPrinter<'_, W> {
    /// Prints rows.
    pub(crate) fn add(&mut self, batch: RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        match &mut self.writer {
            None => {}
            Some(Writer::Table { batches, .. }) => batches.push(batch),
            Some(Writer::Delimited { writer, wrote }) => {
                *wrote = true;
                writer.write(&flat(&batch)?)?;
            }
            Some(Writer::Array(writer)) => writer.write(&batch)?,
            Some(Writer::Lines(writer)) => writer.write(&batch)?,
        }
        Ok(())
    }

    /// Ends the rows, and tells their number and the time since `start`.
    pub(crate) fn finish(self, start: Instant) -> Result<()> {
        let out = match (self.writer, self.footer_only) {
            (Some(Writer::Table { out, batches }), _) => {
                let table = table(self.schema, batches)?;
                writeln!(out, "{table}")?;
                Some(out)
            }
            (Some(Writer::Delimited { mut writer, wrote }), _) => {
                if !wrote {
                    writer.write(&flat(&RecordBatch::new_empty(self.schema))?)?;
                }
                Some(writer.into_inner())
            }
            (Some(Writer::Array(mut writer)), _) => {
                writer.finish()?;
                let out = writer.into_inner();
                writeln!(out)?;
                Some(out)
            }
            (Some(Writer::Lines(mut writer)), _) => {
                writer.finish()?;
                Some(writer.into_inner())
            }
            (None, out) => out,
        };
        let Some(out) = out else { return Ok(()) };
        if !self.quiet {
            writeln!(out, "{} row(s) fetched.", self.rows)?;
            writeln!(out, "Elapsed {:.3} seconds.\n", start.elapsed().as_secs_f64())?;
        }
        Ok(out.flush()?)
    }
}

fn table(schema: SchemaRef, mut batches: Vec<RecordBatch>) -> Result<String> {
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    let options = FormatOptions::default().with_display_error(true);
    Ok(pretty_format_batches_with_options(&batches, &options)?.to_string())
}

/// Delimited text has no nesting: lists, structs and maps become their display text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            let formatter = ArrayFormatter::try_new(column, &FormatOptions::default())?;
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
    use super::*;
    use arrow::array::Int64Array;

    fn print(format: Format, quiet: bool, rows: usize) -> String {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, quiet);
        let mut result = printer.start(Arc::clone(&schema));
        for row in 0..rows {
            let column = Int64Array::from(vec![(row > 0).then_some(row as i64)]);
            result.add(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)]).unwrap()).unwrap();
        }
        result.finish(Instant::now()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_format_prints_rows_and_no_rows() {
        assert_eq!(print(Format::Csv, true, 2), "n\n\"\"\n1\n");
        assert_eq!(print(Format::Csv, true, 0), "n\n");
        assert_eq!(print(Format::Json, true, 2), "[{\"n\":null},{\"n\":1}]\n");
        assert_eq!(print(Format::Json, true, 0), "[]\n");
        assert_eq!(print(Format::NdJson, true, 2), "{\"n\":null}\n{\"n\":1}\n");
        assert_eq!(print(Format::NdJson, true, 0), "");
        assert_eq!(print(Format::Table, true, 1), "+---+\n| n |\n+---+\n|   |\n+---+\n");
        assert!(print(Format::Table, true, 0).contains("| n |"));
    }

    #[test]
    fn the_time_is_told_unless_quiet() {
        let text = print(Format::Tsv, false, 2);
        assert!(text.contains("2 row(s) fetched.\nElapsed 0."), "{text}");
        assert!(text.contains(" seconds.\n"));
    }

    #[test]
    fn nested_values_become_text() {
        let list = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
        ]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap();
        let flat = flat(&batch).unwrap();
        let texts = flat.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), [Some("[1, ]"), None]);
    }
}
