// SPDX-License-Identifier: Apache-2.0
//! `ballista-cli`: SQL on a cluster, or on one inside the process.
//!
//! * [`args`]: flags. [`statements`]: from text to statements. [`shell`]: running them. [`output`]: printing rows.

mod args;
mod output;
mod shell;
mod statements;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use ballista::prelude::*;
use clap::Parser;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use tracing_subscriber::EnvFilter;

use args::Args;
use output::Printer;
use shell::Shell;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // What a user has to know comes as the error of a statement.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough: `ballista-cli … | head`.
        Err(DataFusionError::IoError(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let context = connect(args).await?;
    let mut shell = Shell::new(context, Printer::new(io::stdout(), args.format, args.quiet));
    for file in &args.file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            DataFusionError::IoError(io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))
        })?;
        shell.run_script(&text).await?;
    }
    for command in &args.command {
        shell.run_script(command).await?;
    }
    if args.file.is_empty() && args.command.is_empty() {
        shell.run_stdin().await?;
    }
    Ok(())
}

async fn connect(args: &Args) -> Result<SessionContext> {
    let config = SessionConfig::new().with_information_schema(true);
    let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    let context = match args.scheduler() {
        Some(url) => SessionContext::remote_with_state(&url, state).await?,
        None => SessionContext::standalone_with_state(state).await?,
    };
    // Lets a query name a file in the place of a table.
    Ok(context.enable_url_table())
}

/// Prints an error for people.
fn report(error: &DataFusionError) {
    let text = match error {
        // What it wraps says it all.
        DataFusionError::External(inner) => inner.to_string(),
        other => other.strip_backtrace(),
    };
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "error: {text}");
}
