// SPDX-License-Identifier: Apache-2.0
//! [`Expanded`]: every row as a list of names and values, for rows that are too wide to be a table.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use datafusion::error::Result;

use super::{Destination, cells, printable, rows_note};

/// Width of the line above a row.
const RULE: usize = 40;

/// Draws one result.
pub(super) struct Expanded {
    names: Vec<String>,
    names_width: usize,
    limit: Option<usize>,
    rows: usize,
    shown: usize,
}

impl Expanded {
    pub(super) fn new(schema: &SchemaRef, limit: Option<usize>) -> Self {
        let names: Vec<_> = schema.fields().iter().map(|field| printable(field.name()).replace('\n', " ")).collect();
        let names_width = names.iter().map(|name| console::measure_text_width(name)).max().unwrap_or(0);
        Self { names, names_width, limit, rows: 0, shown: 0 }
    }

    pub(super) fn add(&mut self, batch: &RecordBatch, texts: &FormatOptions, out: &mut Destination) -> Result<()> {
        let wanted = self.limit.map_or(usize::MAX, |limit| limit - self.shown).min(batch.num_rows());
        self.rows += batch.num_rows();
        for row in cells(batch, texts, 0, wanted)? {
            self.shown += 1;
            let title = format!("-[ row {} ]", self.shown);
            writeln!(out, "{title}{}", "-".repeat(RULE.saturating_sub(title.len())))?;
            for (name, value) in self.names.iter().zip(row) {
                self.value(name, &value, out)?;
            }
        }
        Ok(())
    }

    fn value(&self, name: &str, value: &str, out: &mut Destination) -> Result<()> {
        let mut name = name;
        for line in value.split('\n') {
            let gap = " ".repeat(self.names_width - console::measure_text_width(name));
            writeln!(out, "{}", format!("{name}{gap} | {line}").trim_end())?;
            name = "";
        }
        Ok(())
    }

    pub(super) fn shows_more(&self) -> bool {
        self.limit.is_none_or(|limit| self.shown < limit)
    }

    /// Returns what is to be said about the rows.
    pub(super) fn finish(self, _: &mut Destination) -> Result<Vec<String>> {
        Ok(rows_note(self.shown, self.rows).into_iter().collect())
    }
}
