// SPDX-License-Identifier: Apache-2.0
//! What a run of the benchmark says: a table that grows query by query, and one JSON object per counted run.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use datafusion::error::{DataFusionError, Result};
use indicatif::{HumanBytes, HumanCount};
use serde::{Deserialize, Serialize};

use crate::data::io_error;
use crate::engine::{EngineKind, Work};

/// A line of the output file: one counted run, or a warm-up run that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `tpch` or `tpcds`.
    pub suite: String,
    /// `datafusion`, `standalone` or `remote`.
    pub engine: String,
    /// Number of the query.
    pub query: u32,
    /// Counted runs of this query on this engine, from 1; 0 for a warm-up run, which is recorded only if it failed.
    pub iteration: u32,
    /// From planning to the last row; `null` if the run failed.
    pub seconds: Option<f64>,
    /// Rows of the answer; `null` if the run failed.
    pub rows: Option<u64>,
    /// Bytes that went through Ballista's exchanges; 0 for bare DataFusion.
    pub bytes_exchanged: u64,
    /// Stages of Ballista's jobs; 0 for bare DataFusion.
    pub stages: u32,
    /// Tasks of Ballista's jobs; 0 for bare DataFusion.
    pub tasks: u32,
    /// Why the run failed or its answer was wrong; absent if neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Writes [`Record`]s, each at once, so that an aborted benchmark keeps what it measured.
pub struct JsonLines(Option<File>);

impl JsonLines {
    /// Creates the file, if there is to be one.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| File::create(path).map_err(|error| io_error("create", path, &error));
        path.map(create).transpose().map(Self)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let mut line = serde_json::to_vec(record).map_err(|error| DataFusionError::External(error.into()))?;
        line.push(b'\n');
        Ok(file.write_all(&line)?)
    }
}

/// What one engine did with one query.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Seconds of the counted runs.
    pub seconds: Vec<f64>,
    /// Rows of the last run.
    pub rows: Option<u64>,
    /// Work of the last run.
    pub work: Work,
    /// Why there are no more runs.
    pub failure: Option<String>,
}

impl Cell {
    /// Median of the runs, if there was one and none failed.
    pub fn median(&self) -> Option<f64> {
        if self.failure.is_some() { None } else { median(&self.seconds) }
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// One query on all engines.
#[derive(Debug, Clone)]
pub struct Row {
    /// Number of the query.
    pub query: u32,
    /// As many as there are engines, in their order.
    pub cells: Vec<Cell>,
}

/// The table of medians.
pub struct Report {
    engines: Vec<EngineKind>,
    rows: Vec<Row>,
}

impl Report {
    /// An empty table for these engines.
    pub fn new(engines: Vec<EngineKind>) -> Self {
        Self { engines, rows: Vec::new() }
    }

    /// Takes a query's results.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The failures, as `q5 remote: reason`.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for row in &self.rows {
            for (engine, cell) in self.engines.iter().zip(&row.cells) {
                if let Some(reason) = &cell.failure {
                    failures.push(format!("q{} {engine}: {reason}", row.query));
                }
            }
        }
        failures
    }

    /// The line of column names.
    pub fn header(&self) -> String {
        let mut line = format!("{:>6} {:>11}", "query", "rows");
        for engine in &self.engines {
            let _ = write!(line, "  {:>14}", format!("{engine} [s]"));
            if self.has_ratio(*engine) {
                let _ = write!(line, " {:>6}", "ratio");
            }
            if engine.is_ballista() {
                let _ = write!(line, " {:>6} {:>11}", "stages", "exchanged");
            }
        }
        line
    }

    /// The line of a query.
    pub fn line(&self, row: &Row) -> String {
        let rows = row.cells.iter().find_map(|cell| cell.rows).map(|rows| HumanCount(rows).to_string());
        let mut line = format!("{:>6} {:>11}", format!("q{}", row.query), rows.unwrap_or_default());
        let base = self.base().and_then(|base| row.cells[base].median());
        for (engine, cell) in self.engines.iter().zip(&row.cells) {
            let median = cell.median();
            let seconds = median.map_or_else(|| "failed".to_owned(), |seconds| format!("{seconds:.3}"));
            let _ = write!(line, "  {seconds:>14}");
            if self.has_ratio(*engine) {
                let ratio = median.zip(base).map(|(mine, base)| format!("{:.2}", mine / base));
                let _ = write!(line, " {:>6}", ratio.unwrap_or_default());
            }
            if engine.is_ballista() {
                let bytes = HumanBytes(cell.work.bytes_exchanged).to_string();
                let _ = write!(line, " {:>6} {bytes:>11}", cell.work.stages);
            }
        }
        line
    }

    /// The line of sums, over the queries that succeeded on all engines.
    pub fn totals(&self) -> String {
        let complete: Vec<&Row> =
            self.rows.iter().filter(|row| row.cells.iter().all(|cell| cell.median().is_some())).collect();
        let mut cells = vec![Cell::default(); self.engines.len()];
        for (index, total) in cells.iter_mut().enumerate() {
            total.seconds = vec![complete.iter().filter_map(|row| row.cells[index].median()).sum()];
            for row in &complete {
                let work = row.cells[index].work;
                total.rows = Some(total.rows.unwrap_or(0) + row.cells[index].rows.unwrap_or(0));
                total.work.stages += work.stages;
                total.work.bytes_exchanged += work.bytes_exchanged;
            }
        }
        let line = self.line(&Row { query: 0, cells });
        let label = if complete.len() == self.rows.len() {
            format!("{:>6}", "total")
        } else {
            format!("{:>6}", format!("{}/{}", complete.len(), self.rows.len()))
        };
        format!("{label}{}", &line[6..])
    }

    fn base(&self) -> Option<usize> {
        self.engines.iter().position(|engine| *engine == EngineKind::Datafusion)
    }

    fn has_ratio(&self, engine: EngineKind) -> bool {
        engine.is_ballista() && self.base().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(seconds: &[f64], bytes_exchanged: u64) -> Cell {
        let work = Work { stages: 3, tasks: 6, bytes_exchanged };
        Cell { seconds: seconds.to_vec(), rows: Some(1000), work, failure: None }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn the_median_of_an_even_number_is_the_middle_of_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_record_is_one_json_object_with_the_promised_fields() {
        let record = Record {
            suite: "tpch".to_owned(),
            engine: "remote".to_owned(),
            query: 5,
            iteration: 2,
            seconds: Some(1.5),
            rows: Some(5),
            bytes_exchanged: 1024,
            stages: 4,
            tasks: 8,
            error: None,
        };
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(
            line,
            r#"{"suite":"tpch","engine":"remote","query":5,"iteration":2,"seconds":1.5,"rows":5,"bytes_exchanged":1024,"stages":4,"tasks":8}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        let failed = Record { seconds: None, rows: None, error: Some("lost\nit".to_owned()), ..record };
        let line = serde_json::to_string(&failed).unwrap();
        assert!(line.contains(r#""seconds":null"#) && line.contains(r#""error":"lost\nit""#), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn records_reach_the_file_line_by_line() {
        let path = std::env::temp_dir().join(format!("ballista-records-{}.json", std::process::id()));
        let mut lines = JsonLines::create(Some(&path)).unwrap();
        let record: Record = serde_json::from_str(
            r#"{"suite":"tpch","engine":"datafusion","query":1,"iteration":1,"seconds":1,"rows":4,"bytes_exchanged":0,"stages":0,"tasks":0}"#,
        )
        .unwrap();
        lines.write(&record).unwrap();
        lines.write(&record).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        JsonLines::create(None).unwrap().write(&record).unwrap();
    }

    #[test]
    fn ratios_are_medians_over_medians_and_totals_skip_failed_queries() {
        let mut report = Report::new(vec![EngineKind::Datafusion, EngineKind::Remote]);
        let good = Row { query: 1, cells: vec![cell(&[1.0, 9.0, 1.0], 0), cell(&[1.5], 2048)] };
        let mut bad = Row { query: 2, cells: vec![cell(&[1.0], 0), cell(&[1.0], 0)] };
        bad.cells[1].failure = Some("wrong answer".to_owned());
        assert_eq!(words(&report.header()), words("query rows datafusion [s] remote [s] ratio stages exchanged"));
        assert_eq!(words(&report.line(&good)), words("q1 1,000 1.000 1.500 1.50 3 2.00 KiB"));
        assert_eq!(words(&report.line(&bad)), words("q2 1,000 1.000 failed 3 0 B"));
        report.push(good);
        assert_eq!(words(&report.totals())[0], "total");
        report.push(bad);
        assert_eq!(words(&report.totals()), words("1/2 1,000 1.000 1.500 1.50 3 2.00 KiB"));
        assert_eq!(report.failures(), ["q2 remote: wrong answer"]);
    }

    #[test]
    fn without_datafusion_there_are_no_ratios() {
        let report = Report::new(vec![EngineKind::Remote]);
        assert_eq!(words(&report.header()), words("query rows remote [s] stages exchanged"));
        let row = Row { query: 3, cells: vec![cell(&[0.25], 0)] };
        assert_eq!(words(&report.line(&row)), words("q3 1,000 0.250 3 0 B"));
    }
}
