// SPDX-License-Identifier: Apache-2.0
//! Prints the rows of a statement as they come, and what is to be said about them.
//!
//! * [`table`]: drawn tables, which show the first rows only if there is a limit. [`expanded`]: a line per value.
//! * [`rows`]: csv, tsv and json.
//! * [`destination`]: standard output, or a file.
//!
//! *Invariant:* no format holds more than a bounded number of rows.

mod destination;
mod expanded;
mod rows;
mod table;

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::config::FormatOptions as FormatSettings;
use datafusion::error::Result;

use crate::args::Format;
pub(crate) use destination::Destination;
use expanded::Expanded;
use rows::Rows;
use table::{Limits, Table};

/// Rows of a table on a terminal unless something else is asked for.
const TERMINAL_ROWS: usize = 40;

/// How rows are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    /// Most rows of a table; 0 for all, `None` for what suits the place.
    pub(crate) max_rows: Option<usize>,
    /// A table has a line per value.
    pub(crate) expanded: bool,
    /// Rows only.
    pub(crate) quiet: bool,
    /// Times are told, unless quiet.
    pub(crate) timing: bool,
}

/// Prints results, one at a time.
pub(crate) struct Printer {
    pub(crate) settings: Settings,
    standard: Destination,
    /// Where rows go instead.
    file: Option<Destination>,
}

impl Printer {
    pub(crate) fn new(standard: Destination, settings: Settings) -> Self {
        Self { settings, standard, file: None }
    }

    /// Rows go to this file from now on, or to where they went at first.
    pub(crate) fn redirect(&mut self, path: Option<&Path>) -> io::Result<()> {
        self.file = path.map(Destination::file).transpose()?;
        Ok(())
    }

    /// Whether the reader of standard output is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.standard.is_closed()
    }

    /// Whether rows are printed on a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.rows_go_to().is_terminal()
    }

    /// Prints a line that is no row.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        writeln!(self.standard, "{text}")?;
        Ok(self.standard.flush()?)
    }

    /// Hands on what was printed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.iter_mut().try_for_each(Destination::flush)?;
        self.standard.flush()
    }

    /// Prints rows that are all there, uncut: who wants to cancel a job needs its whole id.
    pub(crate) fn print(&mut self, rows: &RecordBatch, start: Instant) -> Result<()> {
        let limits = Limits { rows: None, width: None };
        let mut result = self.start_within(limits, rows.schema(), FormatSettings::default());
        result.add(rows)?;
        result.finish(start.elapsed())
    }

    /// Begins the rows of a statement.
    pub(crate) fn start(&mut self, schema: SchemaRef, texts: FormatSettings) -> ResultPrinter<'_> {
        self.start_within(self.limits(&schema), schema, texts)
    }

    fn start_within(&mut self, limits: Limits, schema: SchemaRef, texts: FormatSettings) -> ResultPrinter<'_> {
        let format = self.format();
        let Self { settings, standard, file } = self;
        let (out, said) = match file {
            Some(file) => (file, Some(standard)),
            None => (standard, None),
        };
        let body = match format {
            _ if schema.fields().is_empty() => Body::Nothing,
            Format::Table if settings.expanded => Body::Expanded(Expanded::new(&schema, limits.rows)),
            Format::Table => Body::Table(Table::new(&schema, limits)),
            format => Body::Rows(Rows::new(format, schema)),
        };
        ResultPrinter { body, out, said, texts, settings, rows: 0 }
    }

    /// The format of rows, known.
    pub(crate) fn format(&self) -> Format {
        match self.settings.format {
            Format::Automatic if self.is_terminal() => Format::Table,
            Format::Automatic => Format::Csv,
            format => format,
        }
    }

    fn limits(&self, schema: &SchemaRef) -> Limits {
        let rows = match self.settings.max_rows {
            Some(0) => None,
            Some(rows) => Some(rows),
            None => self.is_terminal().then_some(TERMINAL_ROWS),
        };
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        // The lines of a plan are read as a whole.
        let is_plan = names == ["plan_type", "plan"];
        Limits { rows: rows.filter(|_| !is_plan), width: self.rows_go_to().width().filter(|_| !is_plan) }
    }

    fn rows_go_to(&self) -> &Destination {
        self.file.as_ref().unwrap_or(&self.standard)
    }
}

enum Body {
    /// The statement has no columns.
    Nothing,
    Table(Table),
    Expanded(Expanded),
    Rows(Rows),
}

/// Prints the rows of one statement.
pub(crate) struct ResultPrinter<'a> {
    body: Body,
    out: &'a mut Destination,
    /// Where the rest is said, if that is somewhere else.
    said: Option<&'a mut Destination>,
    texts: FormatSettings,
    settings: &'a Settings,
    rows: usize,
}

impl ResultPrinter<'_> {
    /// Prints rows.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        match &mut self.body {
            Body::Nothing => {}
            Body::Table(table) => table.add(batch, &texts(&self.texts)?, self.out)?,
            Body::Expanded(expanded) => expanded.add(batch, &texts(&self.texts)?, self.out)?,
            Body::Rows(rows) => rows.add(batch, &texts(&self.texts)?, self.out)?,
        }
        if self.out.is_terminal() {
            self.out.flush()?;
        }
        Ok(())
    }

    /// Rows that have come.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the rows that come now are shown; otherwise they are only counted.
    pub(crate) fn shows_more(&self) -> bool {
        match &self.body {
            Body::Nothing => false,
            Body::Table(table) => table.shows_more(),
            Body::Expanded(expanded) => expanded.shows_more(),
            Body::Rows(_) => true,
        }
    }

    /// Ends the rows, and tells their number and how long they took.
    pub(crate) fn finish(self, elapsed: Duration) -> Result<()> {
        let notes = match self.body {
            Body::Nothing => vec![],
            Body::Table(table) => table.finish(self.out)?,
            Body::Expanded(expanded) => expanded.finish(self.out)?,
            Body::Rows(rows) => {
                rows.finish(self.out)?;
                vec![]
            }
        };
        self.out.flush()?;
        let out = self.said.unwrap_or(self.out);
        for note in notes {
            writeln!(out, "({note})")?;
        }
        if !self.settings.quiet {
            writeln!(out, "{} row(s) fetched.", self.rows)?;
            if self.settings.timing {
                writeln!(out, "Elapsed {:.3} seconds.", elapsed.as_secs_f64())?;
            }
            writeln!(out)?;
        }
        Ok(out.flush()?)
    }
}

fn texts(settings: &FormatSettings) -> Result<FormatOptions<'_>> {
    settings.try_into()
}

/// The values of a batch as texts without control characters other than line breaks.
fn cells(batch: &RecordBatch, texts: &FormatOptions, first: usize, rows: usize) -> Result<Vec<Vec<String>>> {
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), texts));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    let row = |row| columns.iter().map(|column| printable(&column.value(row).to_string())).collect();
    Ok((first..first + rows).map(row).collect())
}

fn printable(text: &str) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(c),
            '\t' => shown.push_str("    "),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// What is said about rows that a table left out.
fn rows_note(shown: usize, rows: usize) -> Option<String> {
    (shown < rows).then(|| {
        format!(
            "the first {shown} of {rows} rows are shown, {} are not; all: --max-rows 0, \\pset maxrows 0",
            rows - shown
        )
    })
}

#[cfg(test)]
pub(crate) mod tests;
