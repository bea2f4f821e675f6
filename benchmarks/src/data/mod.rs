// SPDX-License-Identifier: Apache-2.0
//! The tables of both suites as Parquet files, made once and shared by tests and benchmarks.
//!
//! A data set is a directory with `<table>.parquet` for each small table, `<table>/part-0000.parquet`, … for each
//! large one (about [`ROWS_PER_FILE`] rows a file), and a marker that names generator, suite and scale factor.
//! It appears complete or not at all: see [`publish`].
//!
//! Data sets of tests live in [`cache_dir`] under the name `<suite>-sf<scale factor>`, such as `tpch-sf0.01`.
//!
//! * [`tpch`], [`tpcds`]: what the tables consist of, from the crates `tpchgen` and `tpcdsgen`.
//! * [`write`]: writes them in parallel with bounded memory: one row group per thread.

pub mod progress;
pub mod publish;
pub mod tpcds;
pub mod tpch;
pub mod write;

use std::fmt;
use std::path::{Path, PathBuf};

use datafusion::arrow::record_batch::RecordBatchReader;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use self::progress::Progress;
use crate::queries::Suite;

/// A table of more rows than this is split into several files of about this size.
pub const ROWS_PER_FILE: u64 = 6_000_000;

/// A suite at a scale factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dataset {
    /// Which tables.
    pub suite: Suite,
    /// How large: 1 is about 1 GB of text.
    pub scale_factor: f64,
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-sf{}", self.suite, self.scale_factor)
    }
}

impl Dataset {
    /// Where this data set is cached.
    pub fn default_dir(&self) -> PathBuf {
        cache_dir().join(self.to_string())
    }

    /// The files to write.
    ///
    /// # Errors
    /// If the generator does not know the scale factor.
    pub fn parts(&self) -> Result<Vec<Part>> {
        if !self.scale_factor.is_finite() || self.scale_factor <= 0.0 {
            return Err(DataFusionError::Configuration(format!(
                "invalid scale factor {}: expected a number above 0, such as 0.01, 1 or 10",
                self.scale_factor
            )));
        }
        match self.suite {
            Suite::Tpch => Ok(tpch::parts(self.scale_factor)),
            Suite::Tpcds => tpcds::parts(self.scale_factor),
        }
    }
}

/// A file of a table that is yet to be written.
pub struct Part {
    /// The table.
    pub table: &'static str,
    /// Which file of the table, from 0; `None` if the table is one file.
    pub number: Option<u32>,
    /// Roughly how many rows it will have.
    pub estimated_rows: u64,
    /// Makes the rows.
    pub open: Box<dyn FnOnce() -> Box<dyn RecordBatchReader> + Send>,
}

impl Part {
    /// Path of the file in the data set's directory.
    pub fn path(&self) -> PathBuf {
        match self.number {
            None => PathBuf::from(format!("{}.parquet", self.table)),
            Some(number) => Path::new(self.table).join(format!("part-{number:04}.parquet")),
        }
    }
}

/// Directory of all cached data sets: `$BALLISTA_DATA`, or else `ballista/data` in the user's cache directory.
pub fn cache_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("BALLISTA_DATA") {
        return dir;
    }
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    caches.map_or_else(|| std::env::temp_dir().join("ballista-data"), |dir| dir.join("ballista/data"))
}

/// Directory of TPC-H data at `scale_factor`, made now if it is missing. Blocks meanwhile: 0.01 takes a few seconds.
///
/// # Errors
/// If the data cannot be written.
pub fn tpch_dir(scale_factor: f64) -> Result<PathBuf> {
    cached(Dataset { suite: Suite::Tpch, scale_factor })
}

/// Directory of TPC-DS data at `scale_factor`, made now if it is missing. Blocks meanwhile: 0.01 takes a few seconds.
///
/// # Errors
/// If the data cannot be written.
pub fn tpcds_dir(scale_factor: f64) -> Result<PathBuf> {
    cached(Dataset { suite: Suite::Tpcds, scale_factor })
}

fn cached(dataset: Dataset) -> Result<PathBuf> {
    let dir = dataset.default_dir();
    publish::publish(&dataset, &dir, write::default_threads(), &Progress::silent())?;
    Ok(dir)
}

/// Registers every table of `suite` found in `dir` as a Parquet listing table.
///
/// # Errors
/// If a table is missing or unreadable.
pub async fn register_tables(context: &SessionContext, suite: Suite, dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().map_err(|error| {
        DataFusionError::Configuration(format!("data directory {} cannot be opened: {error}", dir.display()))
    })?;
    for table in suite.tables() {
        let file = dir.join(format!("{table}.parquet"));
        let location = if file.is_file() { file } else { dir.join(table) };
        if !location.exists() {
            return Err(DataFusionError::Configuration(format!(
                "table \"{table}\" is missing: neither {table}.parquet nor {table}/ is in {}; make the data with \
                 `datagen {suite} --output DIR`",
                dir.display()
            )));
        }
        let separator = if location.is_dir() { "/" } else { "" };
        let url = format!("{}{separator}", location.display());
        context.register_parquet(*table, url, ParquetReadOptions::default()).await?;
    }
    Ok(())
}

/// The error of a failed file operation, which says what was to be done with which path.
pub(crate) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> DataFusionError {
    DataFusionError::Execution(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_data_sets_carry_the_scale_factor() {
        let name = |scale_factor| Dataset { suite: Suite::Tpch, scale_factor }.to_string();
        assert_eq!([name(0.01), name(1.0), name(10.0)], ["tpch-sf0.01", "tpch-sf1", "tpch-sf10"]);
    }

    #[test]
    fn every_table_has_its_parts_and_large_ones_have_several() {
        for (suite, large) in [(Suite::Tpch, "lineitem"), (Suite::Tpcds, "inventory")] {
            let parts = Dataset { suite, scale_factor: 10.0 }.parts().unwrap();
            for table in suite.tables() {
                let numbers: Vec<_> = parts.iter().filter(|part| part.table == *table).map(|p| p.number).collect();
                assert!(!numbers.is_empty(), "{table}");
                assert_eq!(numbers.len() > 1, numbers[0].is_some(), "{table}: {numbers:?}");
            }
            assert!(parts.iter().filter(|part| part.table == large).count() >= 10);
        }
    }

    #[test]
    fn senseless_scale_factors_are_refused() {
        for scale_factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Dataset { suite: Suite::Tpch, scale_factor }.parts().is_err());
        }
    }

    #[tokio::test]
    async fn tiny_data_has_every_table_and_answers_queries() {
        for (suite, dir) in [(Suite::Tpch, tpch_dir(0.01).unwrap()), (Suite::Tpcds, tpcds_dir(0.01).unwrap())] {
            let context = SessionContext::new();
            register_tables(&context, suite, &dir).await.unwrap();
            for table in suite.tables() {
                let rows = context.table(*table).await.unwrap().count().await.unwrap();
                assert!(rows > 0, "{suite} {table} is empty");
            }
        }
    }

    #[tokio::test]
    async fn a_missing_table_is_named() {
        let error = register_tables(&SessionContext::new(), Suite::Tpch, &std::env::temp_dir()).await.unwrap_err();
        assert!(error.to_string().contains("table \"region\" is missing"), "{error}");
    }
}
