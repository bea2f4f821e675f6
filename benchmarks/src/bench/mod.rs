// SPDX-License-Identifier: Apache-2.0
//! The runner behind `tpch` and `tpcds`: engines side by side in one process run.
//!
//! For each query, all engines run once per iteration, in an order that turns round every time, so that a machine
//! that gets slower or faster meanwhile treats all engines alike. Warm-up runs come first and are not counted.
//! A failure or a wrong answer ends that engine's runs of that query, never the whole.
//!
//! * [`options`]: the command line.
//! * [`runner`]: the loop.
//! * [`report`]: medians, ratios, the printed table, the JSON lines.

pub mod options;
pub mod report;
pub mod runner;

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

pub use self::options::Options;
use crate::queries::Suite;

/// What `main` of the binaries does: runs `suite` and turns the outcome into an exit code.
///
/// Code 0 means that every query of every engine succeeded (with `--verify`: and was right), 1 that some did not,
/// 2 that nothing could be run.
pub fn main(suite: Suite, options: &Options) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let outcome = tokio::runtime::Runtime::new()
        .map_err(|error| format!("cannot start the async runtime: {error}"))
        .and_then(|runtime| {
            let outcome = runtime.block_on(runner::run(suite, options)).map_err(|error| error.to_string());
            // A query that timed out may still hold a thread; its end is not worth waiting for.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
