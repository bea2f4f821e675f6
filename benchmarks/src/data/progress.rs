// SPDX-License-Identifier: Apache-2.0
//! Shows how far the generator is: a bar on a terminal, a line per file otherwise, nothing in tests.
//!
//! Everything goes to standard error, so that `datagen`'s standard output is the data's path and nothing else.

use std::io::IsTerminal;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::Dataset;

/// Where progress is shown.
pub struct Progress(Mode);

enum Mode {
    Silent,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    /// Shows nothing.
    pub fn silent() -> Self {
        Self(Mode::Silent)
    }

    /// Shows a bar if standard error is a terminal, lines if not.
    pub fn on_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(Mode::Lines);
        }
        let template = "{msg} [{bar:40}] {human_pos}/{human_len} rows, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(Mode::Bar(ProgressBar::new(0).with_style(style)))
    }

    /// `dataset` of about `rows` rows is being made now.
    pub(super) fn start(&self, dataset: &Dataset, rows: u64) {
        match &self.0 {
            Mode::Silent => {}
            Mode::Lines => eprintln!("making {dataset}: about {} rows", HumanCount(rows)),
            Mode::Bar(bar) => {
                bar.set_message(format!("making {dataset}"));
                bar.set_length(rows);
            }
        }
    }

    /// Somebody else makes data sets in the same directory; this process waits for them.
    pub(super) fn waiting(&self, dataset: &Dataset) {
        match &self.0 {
            Mode::Silent => {}
            Mode::Lines => eprintln!("{dataset}: waiting for another process that makes data here"),
            Mode::Bar(bar) => bar.set_message(format!("{dataset}: waiting for another process that makes data here")),
        }
    }

    /// `rows` more rows were written.
    pub(super) fn rows(&self, rows: u64) {
        if let Mode::Bar(bar) = &self.0 {
            bar.inc(rows);
        }
    }

    /// A file of `table` with `rows` rows is complete.
    pub(super) fn file_done(&self, table: &str, rows: u64) {
        if matches!(self.0, Mode::Lines) {
            eprintln!("  {table}: {} rows", HumanCount(rows));
        }
    }

    /// Nothing more will come.
    pub(super) fn finish(&self) {
        if let Mode::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
