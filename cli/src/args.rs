// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Host of the cluster that a cluster command talks to if none is named.
const LOCAL_HOST: &str = "localhost";

/// Runs SQL on a Ballista cluster.
///
/// Without --host, a cluster inside this process does the work, with one slot per core. Without -c and -f, statements
/// are read from standard input, each ended by a semicolon: on a terminal with line editing, completion (Tab) and
/// history; `\?` lists the commands of the shell, `\q` or Ctrl-D leaves, Ctrl-C cancels what runs.
#[derive(Debug, Parser)]
#[command(name = "ballista-cli", version, after_help = EXAMPLES, args_conflicts_with_subcommands = false)]
pub(crate) struct Args {
    /// Host of the scheduler [default of jobs, executors and cancel: localhost]
    #[arg(long, env = "BALLISTA_CLI_HOST", global = true)]
    host: Option<String>,

    /// Port of the scheduler
    #[arg(long, env = "BALLISTA_CLI_PORT", default_value_t = 50050, global = true)]
    port: u16,

    /// Send SQL text to the scheduler, where tables, views and settings then live, instead of planning it here
    #[arg(long, requires = "host", global = true)]
    pub(crate) server_session: bool,

    /// A setting that the session is made with, KEY=VALUE; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value, global = true)]
    pub(crate) settings: Vec<(String, String)>,

    /// Run these statements and exit; repeatable, after all files
    #[arg(short, long, value_name = "SQL")]
    pub(crate) command: Vec<String>,

    /// Run the statements in this file and exit, `-` for standard input; repeatable
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,

    /// How rows are printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    pub(crate) format: Format,

    /// Most rows of a table that are shown, 0 for all; other formats print all rows [default: 40 on a terminal, else
    /// all]
    #[arg(long, value_name = "N", global = true)]
    pub(crate) max_rows: Option<usize>,

    /// Print rows only, no numbers of rows and no times
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Run this file first instead of ~/.ballistarc
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) rc: Option<PathBuf>,

    /// Do not run ~/.ballistarc
    #[arg(long, conflicts_with = "rc", global = true)]
    pub(crate) no_rc: bool,

    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

/// What to do instead of running statements.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Show the jobs of a cluster: those that ended last, then those that live
    Jobs,
    /// Show the executors of a cluster
    Executors,
    /// Cancel a job of a cluster; exit code 1 if it does not live
    Cancel {
        /// The job's id, as `jobs` shows it
        id: String,
    },
    /// Submit a query that goes on without this program, after the statements of -f and -c; prints the id of its job
    Submit {
        /// The query
        sql: String,
    },
    /// Print the rows of a submitted query, when they are there
    Attach {
        /// The job's id, as `submit` printed it
        id: String,
    },
    /// Show the plan of a query, after the statements of -f and -c
    Explain {
        /// Run the query and show what its operators did
        #[arg(long)]
        analyze: bool,
        /// Show every step of planning
        #[arg(long)]
        verbose: bool,
        /// The query
        sql: String,
    },
}

const EXAMPLES: &str = "\
Examples:
  ballista-cli                                   a shell on a cluster inside this process
  ballista-cli --host scheduler.example          a shell on a cluster
  ballista-cli -c \"SELECT count(*) FROM 'data/orders.parquet'\"
  ballista-cli --host scheduler.example --port 50050 -f tables.sql -c 'SELECT * FROM orders LIMIT 10'
  ballista-cli --format csv -q -c 'SELECT * FROM orders' > orders.csv
  ballista-cli -f tables.sql explain --analyze 'SELECT count(*) FROM orders'
  ballista-cli --host scheduler.example jobs     also: executors, cancel ID
  ballista-cli --host scheduler.example -f tables.sql submit \"COPY orders TO 's3://b/orders/'\"
  ballista-cli --host scheduler.example attach 4fd81f5a99cf4b1f

A table from files, which the executors must see under the same path:
  CREATE EXTERNAL TABLE orders STORED AS PARQUET LOCATION '/data/orders/';
  SHOW TABLES;

Settings of the session (docs/configuration.md lists those of Ballista):
  SET ballista.shuffle.compression = 'zstd';
  SHOW ALL;
Some must be made with the session: --set ballista.functions.spark=true

With --server-session, the session lives on the scheduler: it plans the statements, and files are those of its host.

Rows of csv, tsv, json and nd-json are printed as they come. On a terminal, a table shows its first 40 rows, and columns
are cut to the width of the terminal; a line below says so, --max-rows 0 and \\x show the rest.

A line that begins with a backslash is a command of the shell, in files too; \\? lists them. ~/.ballistarc is run first:
statements and commands such as `\\format csv`. History is kept in $XDG_STATE_HOME/ballista/cli_history, by default below
~/.local/state; a line that begins with a space is not kept.

Errors go to standard error and point at the place in the SQL. Exit codes: 0, 1 after a statement that failed, 2 for a
wrong command line, 130 after Ctrl-C. RUST_LOG=info shows what happens.";

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
    /// A table on a terminal, otherwise csv
    Automatic,
}

impl Args {
    /// Address of the scheduler, if it is not to be in this process.
    pub(crate) fn scheduler(&self) -> Option<String> {
        self.host.as_deref().map(|host| self.address(host))
    }

    /// Address of the cluster that is asked for its jobs and executors.
    pub(crate) fn cluster(&self) -> String {
        self.address(self.host.as_deref().unwrap_or(LOCAL_HOST))
    }

    /// Whether nothing but standard input says what to run.
    pub(crate) fn is_a_conversation(&self) -> bool {
        self.file.is_empty() && self.command.is_empty() && self.action.is_none()
    }

    fn address(&self, host: &str) -> String {
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        if bare_ipv6 { format!("df://[{host}]:{}", self.port) } else { format!("df://{host}:{}", self.port) }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once("cli").chain(arguments.iter().copied())).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let args = parse(&["--host", "::1", "-c", "a", "-c", "b", "--format", "nd-json"]);
        assert_eq!(args.scheduler().unwrap(), "df://[::1]:50050");
        assert_eq!(args.command, ["a", "b"]);
        assert_eq!(args.format, Format::NdJson);
        assert!(parse(&["-q"]).scheduler().is_none());
        assert!(Args::try_parse_from(["cli", "--rc", "f", "--no-rc"]).is_err());
        let args = parse(&["--host", "h", "--server-session", "--set", "a.b=1", "--set", "c = x=y"]);
        let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!((args.server_session, args.settings), (true, vec![setting("a.b", "1"), setting("c", "x=y")]));
        assert!(Args::try_parse_from(["cli", "--server-session"]).is_err());
        assert!(Args::try_parse_from(["cli", "--set", "=1"]).is_err());
    }

    #[test]
    fn cluster_commands_take_the_same_options_on_either_side() {
        let args = parse(&["jobs", "--port", "7", "--format", "json"]);
        assert_eq!((args.action, args.format), (Some(Action::Jobs), Format::Json));
        let args = parse(&["--port", "7", "cancel", "j1"]);
        assert_eq!(args.cluster(), "df://localhost:7");
        assert_eq!(args.action, Some(Action::Cancel { id: "j1".into() }));
        let args = parse(&["-f", "t.sql", "explain", "--analyze", "SELECT 1"]);
        assert_eq!(args.file.len(), 1);
        assert!(matches!(args.action, Some(Action::Explain { analyze: true, verbose: false, .. })));
        assert!(Args::try_parse_from(["cli", "cancel"]).is_err());
    }
}
