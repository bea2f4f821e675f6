// SPDX-License-Identifier: Apache-2.0
//! The program `ballista-scheduler`: options, logs, signals.
//!
//! A scheduler with functions or codecs of its own is a program that uses [`SchedulerBuilder`](crate::SchedulerBuilder);
//! it can share [`options::Options`] and [`run_with`] with this one.

pub mod options;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::options::{Options, Settings};
use crate::builder::SchedulerBuilder;
use crate::error::{Result, SchedulerError};

/// Runs the daemon of the command line until it is told to stop. The exit code says whether all went well.
pub fn main() -> ExitCode {
    match run_with(Options::parse(), |builder| builder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not be set up yet; a broken standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "ballista-scheduler: {}", full_text(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs the daemon until it is told to stop; `change` has the last word on how the scheduler is built.
pub fn run_with(options: Options, change: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder) -> Result<()> {
    let settings = options.settings()?;
    let filter = EnvFilter::try_new(&settings.log_level)
        .map_err(|error| SchedulerError::Config(format!("log level \"{}\": {error}", settings.log_level)))?;
    let filter = match filter.max_level_hint() {
        Some(level) if level <= LevelFilter::INFO => filter,
        _ => ballista_plan::stores::options::QUIET_LOGS
            .iter()
            .filter_map(|directive| directive.parse().ok())
            .fold(filter, EnvFilter::add_directive),
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ballista-scheduler")
        .build()
        .map_err(|source| SchedulerError::Io { action: "start the runtime", source })?;
    runtime.block_on(run(change(settings.apply(SchedulerBuilder::new())), &settings))
}

/// Serves a scheduler as `settings` say until SIGTERM or Ctrl-C, then stops it cleanly.
async fn run(builder: SchedulerBuilder, settings: &Settings) -> Result<()> {
    let bind = (settings.bind_host.as_str(), settings.bind_port);
    let listener = TcpListener::bind(bind).await.map_err(|source| {
        let address = format!("{}:{}", settings.bind_host, settings.bind_port);
        SchedulerError::Bind { address, source }
    })?;
    let scheduler = builder.build()?;
    let mut serving = scheduler.serve(listener)?;
    let port = serving.local_addr().map_or(settings.bind_port, |address| address.port());
    // Before anybody hears of us, and may tell us to stop.
    let no_signals = |source| SchedulerError::Io { action: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    // On standard output, whatever the log level: who started us may wait for it.
    let _ = writeln!(std::io::stdout(), "scheduler ready on {}:{port}", settings.advertise_host);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
        error = serving.failed() => return Err(error),
    }
    serving.shutdown().await
}

/// An error with its causes.
fn full_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
