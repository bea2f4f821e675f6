// SPDX-License-Identifier: Apache-2.0
//! The daemon `ballista-executor`: options in, [`ExecutorBuilder`](ballista_executor::ExecutorBuilder) out, signals.
//!
//! Prints one line to stdout when the scheduler has welcomed it; everything else goes to stderr. The first SIGTERM or
//! Ctrl-C drains, the second stops at once.

use std::process::ExitCode;

use ballista_executor::daemon;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = daemon::Options::parse().with_file().and_then(daemon::run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ballista-executor: {message}");
            ExitCode::FAILURE
        }
    }
}
