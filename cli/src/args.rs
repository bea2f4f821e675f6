// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Runs SQL on a Ballista cluster.
///
/// Without --host, a cluster inside this process does the work, with one slot per core. Without -c and -f, statements
/// are read from standard input, each ended by a semicolon; `quit` leaves.
#[derive(Debug, Parser)]
#[command(name = "ballista-cli", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Host of the scheduler
    #[arg(long, env = "BALLISTA_CLI_HOST")]
    host: Option<String>,

    /// Port of the scheduler
    #[arg(long, env = "BALLISTA_CLI_PORT", default_value_t = 50050)]
    port: u16,

    /// Run these statements and exit; repeatable, after all files
    #[arg(short, long, value_name = "SQL")]
    pub(crate) command: Vec<String>,

    /// Run the statements in this file and exit; repeatable
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,

    /// How rows are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Print rows only, no numbers of rows and no times
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  ballista-cli -c \"SELECT count(*) FROM 'data/orders.parquet'\"
  ballista-cli --host scheduler.example --port 50050 -f tables.sql -c 'SELECT * FROM orders LIMIT 10'
  ballista-cli --format csv -q -c 'SELECT * FROM orders' > orders.csv

A table from files, which the executors must see under the same path:
  CREATE EXTERNAL TABLE orders STORED AS PARQUET LOCATION '/data/orders/';
  SHOW TABLES;

Settings of the session (docs/configuration.md lists those of Ballista):
  SET ballista.shuffle.compression = 'zstd';
  SHOW ALL;

Errors go to standard error, and a statement that fails makes the exit code 1. RUST_LOG=info shows what happens.";

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A drawn table
    Table,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
    /// One JSON array of objects per statement
    Json,
    /// One JSON object per line
    NdJson,
}

impl Args {
    /// Address of the scheduler, if it is not to be in this process.
    pub(crate) fn scheduler(&self) -> Option<String> {
        let host = self.host.as_deref()?;
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        Some(if bare_ipv6 { format!("df://[{host}]:{}", self.port) } else { format!("df://{host}:{}", self.port) })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["cli", "--host", "::1", "-c", "a", "-c", "b", "--format", "nd-json"]).unwrap();
        assert_eq!(args.scheduler().unwrap(), "df://[::1]:50050");
        assert_eq!(args.command, ["a", "b"]);
        assert_eq!(args.format, Format::NdJson);
        assert!(Args::try_parse_from(["cli", "-q"]).unwrap().scheduler().is_none());
    }
}
