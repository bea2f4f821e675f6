// SPDX-License-Identifier: Apache-2.0
//! The program `ballista-executor`: options, logs, signals.
//!
//! An executor with functions or codecs of its own is a program that uses [`ExecutorBuilder`]; it can share [`Options`] and
//! [`run_with`] with this one.

mod options;

use std::io::IsTerminal;

use crate::{ExecutorBuilder, ExecutorError, ExecutorHandle, Size};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub use options::Options;

/// The I/O runtime only copies bytes and answers requests.
const IO_THREADS: std::ops::RangeInclusive<usize> = 2..=8;

/// Runs the daemon until it is told to stop.
pub fn run(options: Options) -> Result<(), String> {
    run_with(options, |builder| builder)
}

/// The same for an executor with functions or codecs of its own: `change` has the last word on how it is built.
pub fn run_with(options: Options, change: impl FnOnce(ExecutorBuilder) -> ExecutorBuilder) -> Result<(), String> {
    let filter = EnvFilter::try_new(options.log_level())
        .map_err(|error| format!("--log-level {}: {error}", options.log_level()))?;
    let filter = match filter.max_level_hint() {
        Some(level) if level <= LevelFilter::INFO => filter,
        _ => ballista_plan::stores::options::QUIET_LOGS
            .iter()
            .filter_map(|directive| directive.parse().ok())
            .fold(filter, EnvFilter::add_directive),
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(*IO_THREADS.start(), *IO_THREADS.end()))
        .thread_name("ballista-io")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the I/O runtime: {error}"))?;
    runtime.block_on(serve(options, change))
}

async fn serve(options: Options, change: impl FnOnce(ExecutorBuilder) -> ExecutorBuilder) -> Result<(), String> {
    let text = |error: ExecutorError| error.full_text();
    let no_signals = |error: std::io::Error| format!("cannot listen for signals: {error}");
    let mut signals =
        (signal(SignalKind::terminate()).map_err(no_signals)?, signal(SignalKind::interrupt()).map_err(no_signals)?);
    let scheduler = options.scheduler();
    let mut executor = change(options.builder()?).start().await.map_err(text)?;
    tracing::info!(%scheduler, "connecting");
    tokio::select! {
        registered = executor.registered() => {
            if registered.is_err() {
                // It ended before; that error says why.
                return executor.wait().await.map_err(text);
            }
        }
        () = received(&mut signals) => return Ok(()),
    }
    println!("{}", ready(&executor, &scheduler));
    tokio::select! {
        ended = executor.wait() => return ended.map_err(text),
        () = received(&mut signals) => {}
    }
    tracing::info!("draining: running tasks end, outputs are served until nobody needs them");
    executor.drain();
    tokio::select! {
        ended = executor.wait() => ended.map_err(text),
        () = received(&mut signals) => {
            tracing::warn!("stopping at once");
            executor.kill();
            executor.wait().await.map_err(text)
        }
    }
}

fn ready(executor: &ExecutorHandle, scheduler: &str) -> String {
    let address = executor.address();
    let memory = Size::Bytes(executor.memory_bytes());
    format!(
        "executor {} ready on {}, {} slots, {memory} memory, connected to scheduler {scheduler}",
        address.executor,
        address.authority(),
        executor.slots(),
    )
}

async fn received((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
