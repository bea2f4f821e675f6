// SPDX-License-Identifier: Apache-2.0
//! `slt`: runs the sqllogictest files of `files/` on bare DataFusion and on a cluster.
//!
//! The expected results in the files are those of bare DataFusion (`--complete` writes them); every engine is held to
//! them. A tour:
//! * [`engine`]: sessions of bare DataFusion and of a cluster in this process; one statement.
//! * [`cells`]: results as text.
//! * [`script`]: one file on one engine; what a file must keep to; completing it.
//! * [`report`]: what people read.
//!
//! *Invariant:* a file says nothing that only one engine is held to, except after `skipif cluster`, with a comment
//! that says why. Skips are listed at the end of every run.

mod cells;
mod engine;
mod report;
mod script;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use datafusion::error::Result;
use futures::StreamExt;
use tokio::runtime::Handle;

use crate::engine::{EngineKind, Servers};
use crate::report::{FileReport, Report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs sqllogictest files on bare DataFusion and on a cluster of two executors in this process.
#[derive(Debug, Parser)]
#[command(name = "slt")]
struct Options {
    /// Engines to run on
    #[arg(long = "engine", value_enum, value_delimiter = ',', default_value = "datafusion,cluster,cluster-disk")]
    engines: Vec<EngineKind>,
    /// Write the results of bare DataFusion into the files before running them
    #[arg(long)]
    complete: bool,
    /// Only files whose path contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Files at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where the files are
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/files"))]
    folder: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything passed.
async fn run(options: Options) -> Result<bool> {
    let start = Instant::now();
    let mut files = Vec::new();
    find_files(&options.folder, &mut files)?;
    files.sort();
    let name = |path: &Path| path.strip_prefix(&options.folder).unwrap_or(path).display().to_string();
    if let Some(filter) = &options.filter {
        files.retain(|path| name(path).contains(filter.as_str()));
    }
    let servers = Arc::new(Servers::start().await?);
    let engines: Arc<[EngineKind]> = options.engines.into();
    let runs = files.into_iter().map(|path| {
        let (servers, engines, name) = (Arc::clone(&servers), Arc::clone(&engines), name(&path));
        // A panic of a file is its failure, not the end of the run; and the runner's futures cannot be sent.
        let job = tokio::task::spawn_blocking(move || {
            Handle::current().block_on(run_file(&path, &engines, options.complete, &servers))
        });
        async move { (name, job.await.unwrap_or_else(|panic| FileReport::failure(format!("panicked: {panic}")))) }
    });
    let mut runs = futures::stream::iter(runs).buffer_unordered(options.jobs.max(1));
    let mut report = Report::default();
    while let Some((name, file)) = runs.next().await {
        report.add(&name, file);
    }
    drop(runs);
    if let Some(servers) = Arc::into_inner(servers) {
        servers.shutdown().await;
    }
    Ok(report.finish(start.elapsed()))
}

async fn run_file(path: &Path, engines: &[EngineKind], complete: bool, servers: &Servers) -> FileReport {
    let mut report = FileReport::default();
    if complete && let Err(error) = script::complete(path, servers).await {
        report.failures.extend(error);
    }
    for &engine in engines {
        let start = Instant::now();
        match script::run(path, engine, servers).await {
            Ok(outcome) => report.add(engine, outcome, start.elapsed()),
            Err(error) => report.failures.push(format!("{engine}: {error}")),
        }
    }
    report
}

/// All `.slt` files below `folder`.
fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            files.push(path);
        }
    }
    Ok(())
}
