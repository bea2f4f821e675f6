// SPDX-License-Identifier: Apache-2.0
//! Runs TPC-H on several engines side by side. See `tpch --help`.

use std::process::ExitCode;

use ballista_benchmarks::bench;
use ballista_benchmarks::queries::Suite;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs TPC-H on bare DataFusion and on Ballista, side by side, in one process run.
///
/// Prints the median seconds of each query on each engine and their ratio to bare DataFusion. A query's time covers
/// planning up to the last row of the result. Engines take turns: every iteration runs the query once on each.
///
/// Exit code: 0 if all went well, 1 if a query failed or (with --verify) an answer was wrong, 2 if nothing could run.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  datagen tpch --scale-factor 1 --output /data/tpch-sf1\n  \
    tpch --data /data/tpch-sf1 --engine datafusion,standalone,remote --scheduler df://localhost:50050 --verify"
)]
struct Cli {
    #[command(flatten)]
    options: bench::Options,
}

fn main() -> ExitCode {
    bench::main(Suite::Tpch, &Cli::parse().options)
}
