// SPDX-License-Identifier: Apache-2.0
//! The command line of `tpch` and `tpcds`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use datafusion::error::{DataFusionError, Result};

use crate::engine::{EngineKind, SessionOptions, Setting};
use crate::queries::Suite;

/// What to run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Directory with the tables, as <table>.parquet files or <table>/ directories; `datagen` makes one
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Engines to run side by side; ratios are to datafusion
    #[arg(long, value_enum, value_delimiter = ',', default_value = "datafusion")]
    pub engine: Vec<EngineKind>,

    /// Address of the scheduler for engine remote, such as df://localhost:50050
    #[arg(long, value_name = "URL", env = "BALLISTA_SCHEDULER")]
    pub scheduler: Option<String>,

    /// Queries to run: numbers, ranges or all
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "1,5,7-9")]
    pub query: Vec<Selection>,

    /// Counted runs of each query on each engine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,

    /// Runs before those, not counted
    #[arg(long, default_value_t = 1)]
    pub warmup: u32,

    /// Partitions (threads) of bare DataFusion; Ballista uses its slots
    #[arg(long, default_value_t = 2, value_parser = partitions)]
    pub partitions: usize,

    /// Session setting: ballista.* keys reach the Ballista engines, datafusion.* keys all engines; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<Setting>,

    /// Compare every answer with the one of bare DataFusion
    #[arg(long)]
    pub verify: bool,

    /// Write one JSON object per counted run to this file, and one with iteration 0 per failed warm-up run
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Give up a run after this many seconds and count it as failed
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub timeout: u64,
}

fn partitions(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// An item of `--query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Every query of the suite.
    All,
    /// From one number to another, both included; those the suite lacks in between are skipped.
    Range(u32, u32),
    /// One query, which the suite must have.
    One(u32),
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |text: &str| {
            let digits = text.strip_prefix('q').unwrap_or(text);
            digits.parse::<u32>().map_err(|_| format!("\"{text}\" is not a query: expected a number, a range or all"))
        };
        match text.split_once('-') {
            _ if text == "all" => Ok(Self::All),
            Some((first, last)) => Ok(Self::Range(number(first)?, number(last)?)),
            None => Ok(Self::One(number(text)?)),
        }
    }
}

impl Options {
    /// The selected queries of `suite`, each once, ascending.
    ///
    /// # Errors
    /// If nothing is selected, or a single number that the suite does not have.
    pub fn queries(&self, suite: Suite) -> Result<BTreeSet<u32>> {
        let mut selected = BTreeSet::new();
        for selection in &self.query {
            match *selection {
                Selection::All => selected.extend(suite.numbers()),
                Selection::Range(first, last) => {
                    selected.extend(suite.numbers().filter(|number| (first..=last).contains(number)));
                }
                Selection::One(number) if suite.query(number).is_some() => {
                    selected.insert(number);
                }
                Selection::One(number) => {
                    return Err(DataFusionError::Configuration(format!("{suite} has no query {number} here")));
                }
            }
        }
        if selected.is_empty() {
            return Err(DataFusionError::Configuration(format!("no query of {suite} is selected")));
        }
        Ok(selected)
    }

    /// The engines, each once, in the order given.
    pub fn engines(&self) -> Vec<EngineKind> {
        let mut engines = Vec::new();
        for engine in &self.engine {
            if !engines.contains(engine) {
                engines.push(*engine);
            }
        }
        engines
    }

    /// What the engines' sessions are made from.
    pub fn session(&self) -> SessionOptions {
        SessionOptions {
            scheduler: self.scheduler.clone(),
            partitions: self.partitions,
            settings: self.settings.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    /// The options of a command line.
    pub(crate) fn parse(arguments: &str) -> Options {
        let arguments = std::iter::once("tpch").chain(arguments.split_whitespace());
        Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).options
    }

    #[test]
    fn numbers_ranges_and_all_select_queries() {
        let selected = |list: &str, suite| {
            let options = parse(&format!("--data . --query {list}"));
            options.queries(suite).unwrap().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(selected("5,1,q5", Suite::Tpch), [1, 5]);
        assert_eq!(selected("20-99,2", Suite::Tpch), [2, 20, 21, 22]);
        assert_eq!(selected("1-6", Suite::Tpcds), [1, 3, 5]);
        assert_eq!(selected("all", Suite::Tpch).len(), 22);
        assert_eq!(parse("--data .").queries(Suite::Tpcds).unwrap().len(), 50);
    }

    #[test]
    fn queries_that_do_not_exist_are_refused() {
        assert!(parse("--data . --query 23").queries(Suite::Tpch).is_err());
        assert!(parse("--data . --query 30-40").queries(Suite::Tpch).is_err());
        assert!("five".parse::<Selection>().is_err() && "1-x".parse::<Selection>().is_err());
    }

    #[test]
    fn engines_and_settings_keep_their_order() {
        let options = parse("--data . --engine standalone,datafusion,standalone --set ballista.a=1 --set ballista.a=2");
        assert_eq!(options.engines(), [EngineKind::Standalone, EngineKind::Datafusion]);
        let values: Vec<_> = options.settings.iter().map(|setting| setting.value.as_str()).collect();
        assert_eq!(values, ["1", "2"]);
    }
}
