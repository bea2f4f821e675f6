// SPDX-License-Identifier: Apache-2.0
//! Makes TPC-H and TPC-DS data as Parquet files. See `datagen --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use ballista_benchmarks::data::progress::Progress;
use ballista_benchmarks::data::publish::{Outcome, publish};
use ballista_benchmarks::data::{Dataset, write};
use ballista_benchmarks::queries::Suite;
use clap::{Args, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes benchmark data as Parquet files.
///
/// The data is complete or absent: it is written beside its directory and renamed at the end, so an interrupted run
/// leaves nothing that could be taken for data. Running the same command again does nothing.
///
/// Prints the directory of the data on standard output, progress on standard error.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  datagen tpch --scale-factor 10 --output /data/tpch-sf10\n  \
    tpch --data /data/tpch-sf10 --engine datafusion,standalone"
)]
struct Cli {
    #[command(subcommand)]
    suite: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The 8 tables of TPC-H
    Tpch(Options),
    /// The 24 tables of TPC-DS
    Tpcds(Options),
}

#[derive(Args)]
struct Options {
    /// Size of the data: 1 is about 1 GB as text and a third of it as Parquet; fractions are fine
    #[arg(short, long, default_value_t = 1.0)]
    scale_factor: f64,
    /// Directory to make [default: <suite>-sf<scale factor> in $BALLISTA_DATA or the user's cache directory]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Threads that generate; each needs about 200 MB [default: one per core]
    #[arg(short, long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let (suite, options) = match Cli::parse().suite {
        Command::Tpch(options) => (Suite::Tpch, options),
        Command::Tpcds(options) => (Suite::Tpcds, options),
    };
    let dataset = Dataset { suite, scale_factor: options.scale_factor };
    let dir = options.output.unwrap_or_else(|| dataset.default_dir());
    let threads = options.threads.unwrap_or_else(write::default_threads);
    match publish(&dataset, &dir, threads, &Progress::on_stderr()) {
        Ok(outcome) => {
            if outcome == Outcome::Present {
                eprintln!("{dataset} is there already");
            }
            println!("{}", dir.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
