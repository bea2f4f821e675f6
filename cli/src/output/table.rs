// SPDX-License-Identifier: Apache-2.0
//! [`Table`]: rows as a drawn table.
//!
//! ```text
//! +------+-------+
//! | name | count |   numbers are at the right
//! +------+-------+
//! | abc… |    12 |   cut, as a line below says
//! +------+-------+
//! ```
//!
//! The widths are those of the first [`PREVIEW`] rows; wider values of later rows stand out. So a table of any number
//! of rows needs the memory of that many.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use datafusion::error::Result;

use super::{Destination, cells, printable, rows_note};

/// Rows that the widths of columns are taken from.
const PREVIEW: usize = 4096;

/// A column that has to be cut keeps at least this width.
const LEAST_WIDTH: usize = 6;

/// What stands for the rest of a value, and for columns that are left out.
const CUT: &str = "…";

/// How much of a result is shown; `None` is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Rows.
    pub(super) rows: Option<usize>,
    /// Width of a line.
    pub(super) width: Option<usize>,
}

/// Draws one result.
pub(super) struct Table {
    names: Vec<String>,
    numeric: Vec<bool>,
    limits: Limits,
    /// Rows that are not drawn yet.
    waiting: Vec<Vec<String>>,
    layout: Option<Layout>,
    rows: usize,
    taken: usize,
}

/// The columns that are shown.
struct Layout {
    widths: Vec<usize>,
    /// Columns at the right are left out.
    columns_left_out: usize,
    /// Values are cut to the widths.
    cuts: bool,
}

impl Table {
    pub(super) fn new(schema: &SchemaRef, limits: Limits) -> Self {
        let fields = schema.fields();
        Self {
            names: fields.iter().map(|field| printable(field.name())).collect(),
            numeric: fields.iter().map(|field| field.data_type().is_numeric()).collect(),
            limits,
            waiting: Vec::new(),
            layout: None,
            rows: 0,
            taken: 0,
        }
    }

    pub(super) fn shows_more(&self) -> bool {
        self.limits.rows.is_none_or(|limit| self.taken < limit)
    }

    pub(super) fn add(&mut self, batch: &RecordBatch, texts: &FormatOptions, out: &mut Destination) -> Result<()> {
        self.rows += batch.num_rows();
        let mut first = 0;
        while first < batch.num_rows() && self.shows_more() {
            let left = self.limits.rows.map_or(usize::MAX, |limit| limit - self.taken);
            let count = left.min(batch.num_rows() - first).min(PREVIEW);
            self.waiting.extend(cells(batch, texts, first, count)?);
            self.taken += count;
            first += count;
            if self.layout.is_some() || self.waiting.len() >= PREVIEW || !self.shows_more() {
                self.draw(out)?;
            }
        }
        Ok(())
    }

    /// Returns what is to be said about the rows.
    pub(super) fn finish(mut self, out: &mut Destination) -> Result<Vec<String>> {
        // A table that is full was drawn to its end.
        if self.shows_more() {
            if self.layout.is_none() {
                self.draw(out)?;
            }
            self.rule(out)?;
        }
        let mut notes: Vec<String> = rows_note(self.taken, self.rows).into_iter().collect();
        match self.layout {
            Some(Layout { columns_left_out: 0, cuts: false, .. }) | None => {}
            Some(Layout { columns_left_out: 0, .. }) => {
                notes.push("values are cut to the width of the terminal; whole: \\x".to_owned());
            }
            Some(layout) => notes.push(format!(
                "the first {} of {} columns are shown, as the terminal is narrow; all: \\x",
                layout.widths.len(),
                self.names.len()
            )),
        }
        Ok(notes)
    }

    /// Draws the rows that wait, below the header if they are the first, and the end if the table is full.
    fn draw(&mut self, out: &mut Destination) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        if self.layout.is_none() {
            self.layout = Some(Layout::new(&self.names, &rows, self.limits.width));
            self.rule(out)?;
            self.row(&self.names, false, out)?;
            self.rule(out)?;
        }
        for row in &rows {
            self.row(row, true, out)?;
        }
        if self.shows_more() { Ok(()) } else { self.rule(out) }
    }

    fn rule(&self, out: &mut Destination) -> Result<()> {
        let Some(layout) = &self.layout else { return Ok(()) };
        let mut line = String::from("+");
        for width in &layout.widths {
            line.push_str(&"-".repeat(width + 2));
            line.push('+');
        }
        if layout.columns_left_out > 0 {
            line.push_str("---+");
        }
        Ok(writeln!(out, "{line}")?)
    }

    fn row(&self, row: &[String], is_value: bool, out: &mut Destination) -> Result<()> {
        let Some(layout) = &self.layout else { return Ok(()) };
        let height = row.iter().take(layout.widths.len()).map(|cell| cell.split('\n').count()).max().unwrap_or(1);
        for number in 0..height {
            let mut line = String::from("|");
            for (column, (cell, width)) in row.iter().zip(&layout.widths).enumerate() {
                let text = cell.split('\n').nth(number).unwrap_or_default();
                let text = if layout.cuts { console::truncate_str(text, *width, CUT) } else { text.into() };
                let gap = " ".repeat(width.saturating_sub(console::measure_text_width(&text)));
                line.push(' ');
                if is_value && self.numeric[column] {
                    line.push_str(&gap);
                    line.push_str(&text);
                } else {
                    line.push_str(&text);
                    line.push_str(&gap);
                }
                line.push_str(" |");
            }
            if layout.columns_left_out > 0 {
                line.push_str(" … |");
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

impl Layout {
    fn new(names: &[String], rows: &[Vec<String>], limit: Option<usize>) -> Self {
        let width = |cell: &String| cell.split('\n').map(console::measure_text_width).max().unwrap_or(0);
        let mut widths: Vec<usize> = names.iter().map(width).collect();
        for row in rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let Some(limit) = limit.filter(|limit| drawn(&widths) > *limit) else {
            return Self { widths, columns_left_out: 0, cuts: false };
        };
        let columns = widths.len();
        let least: Vec<_> = widths.iter().map(|width| (*width).min(LEAST_WIDTH)).collect();
        let mut room = limit;
        if drawn(&least) > limit {
            // One more column says that there are more.
            room = limit.saturating_sub(4);
            let fits = (1..=columns).take_while(|count| drawn(&least[..*count]) <= room).count();
            widths.truncate(fits.max(1));
        }
        let cap = (LEAST_WIDTH..=room).rev().find(|cap| drawn(&capped(&widths, *cap)) <= room).unwrap_or(LEAST_WIDTH);
        Self { columns_left_out: columns - widths.len(), widths: capped(&widths, cap), cuts: true }
    }
}

fn capped(widths: &[usize], cap: usize) -> Vec<usize> {
    widths.iter().map(|width| (*width).min(cap)).collect()
}

/// Width of a line.
fn drawn(widths: &[usize]) -> usize {
    widths.iter().map(|width| width + 3).sum::<usize>() + 1
}
