// SPDX-License-Identifier: Apache-2.0
//! `ballista-cli`: SQL on a cluster, or on one inside the process.
//!
//! * [`args`]: the command line. [`session`]: the session and its cluster.
//! * [`statements`]: from text to statements. [`commands`]: the commands of the shell.
//! * [`shell`]: runs both. [`interact`]: somebody types them. [`editor`], [`complete`]: what helps in that.
//! * [`output`]: printing rows. [`progress`]: how far a query is. [`diagnose`]: errors and their places.
//! * [`cluster`]: jobs and executors as rows.

mod args;
mod cluster;
mod commands;
mod complete;
mod diagnose;
mod editor;
mod interact;
mod output;
mod progress;
mod session;
mod shell;
mod statements;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ballista_client::Cluster;
use clap::Parser;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use args::{Action, Args};
use diagnose::Origin;
use output::{Destination, Printer, Settings};
use progress::Heard;
use session::Session;
use shell::{Shell, Step, Stop, complain};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell says of a program that Ctrl-C ended.
const CANCELLED: u8 = 130;

/// Address space for one thread: statements and their plans are walked recursively, however deep they are.
const STACK_BYTES: usize = 256 << 20;

fn main() -> ExitCode {
    let args = Args::parse();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
        runtime.map(|runtime| runtime.block_on(work(args)))
    };
    // The first thread of a process has the stack that the system gives it.
    let ran = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).map(std::thread::JoinHandle::join);
    match ran {
        Ok(Ok(Ok(code))) => code,
        Ok(Ok(Err(error))) | Err(error) => {
            eprintln!("ballista-cli: cannot start a thread: {error}");
            ExitCode::FAILURE
        }
        // It has said why.
        Ok(Err(_panic)) => ExitCode::FAILURE,
    }
}

async fn work(args: Args) -> ExitCode {
    // What a user has to know comes as the error of a statement.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let filter = match filter.max_level_hint() {
        Some(level) if level <= LevelFilter::INFO => filter,
        _ => ballista_client::QUIET_LOGS
            .iter()
            .filter_map(|directive| directive.parse().ok())
            .fold(filter, EnvFilter::add_directive),
    };
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
    let mut shell = match start(&args).await {
        Ok(shell) => shell,
        Err(error) => {
            complain(&diagnose::plain(&error));
            return ExitCode::FAILURE;
        }
    };
    let ran = run(&args, &mut shell).await;
    shell.close().await;
    match ran {
        Ok(()) | Err(Stop::Quit | Stop::OutputClosed) => ExitCode::SUCCESS,
        Err(Stop::Failed) => ExitCode::FAILURE,
        Err(Stop::Cancelled) => ExitCode::from(CANCELLED),
    }
}

async fn start(args: &Args) -> Result<Shell> {
    let one_answer = matches!(args.action, Some(Action::Jobs | Action::Executors));
    let settings = Settings {
        format: args.format,
        max_rows: args.max_rows,
        expanded: false,
        quiet: args.quiet || one_answer,
        timing: true,
    };
    let heard = Heard::default();
    let session = match args.action {
        // The cluster is asked, no query is run.
        Some(Action::Jobs | Action::Executors | Action::Cancel { .. } | Action::Attach { .. }) => {
            let cluster = Arc::new(Cluster::connect(&args.cluster()).await?);
            Session { context: SessionContext::new(), cluster, server: None }
        }
        Some(Action::Submit { .. }) if args.scheduler().is_none() => {
            let message = "a query goes on without this program only on a cluster: name one with --host";
            return Err(DataFusionError::Plan(message.to_owned()));
        }
        Some(Action::Explain { .. } | Action::Submit { .. }) | None => Session::connect(args, heard.clone()).await?,
    };
    Ok(Shell::new(session, heard, Printer::new(Destination::standard(), settings))?)
}

async fn run(args: &Args, shell: &mut Shell) -> Step {
    match &args.action {
        Some(Action::Jobs) => return shell.overview(false).await,
        Some(Action::Executors) => return shell.overview(true).await,
        Some(Action::Cancel { id }) => return shell.cancel(id).await,
        Some(Action::Attach { id }) => return shell.attach(id).await,
        Some(Action::Explain { .. } | Action::Submit { .. }) | None => {}
    }
    let converses = args.is_a_conversation() && io::stdin().is_terminal();
    if let Some(rc) = rc_file(args) {
        match shell.run_quietly(&rc).await {
            // Somebody who sees the error can go on.
            Err(Stop::Failed) if converses => {}
            step => step?,
        }
    }
    for file in &args.file {
        shell.run_file(file).await?;
    }
    for command in &args.command {
        shell.run_script(command, "-c").await?;
    }
    if let Some(Action::Explain { analyze, verbose, sql }) = &args.action {
        let words = [("ANALYZE ", *analyze), ("VERBOSE ", *verbose)];
        let words: String = words.into_iter().filter_map(|(word, wanted)| wanted.then_some(word)).collect();
        let sql = format!("EXPLAIN {words}{}", sql.trim().trim_end_matches(';'));
        return shell.statement(&sql, Origin { source: None, line: 0, number: 1 }).await;
    }
    if let Some(Action::Submit { sql }) = &args.action {
        return shell.submit(sql.trim().trim_end_matches(';')).await;
    }
    if converses {
        if !args.quiet {
            println!(
                "Ballista {} on {}. \\? lists the commands, \\q leaves.",
                env!("CARGO_PKG_VERSION"),
                shell.place()
            );
        }
        return interact::converse(shell).await;
    }
    if args.is_a_conversation() { shell.run_file(Path::new("-")).await } else { Ok(()) }
}

/// The file that is run first.
fn rc_file(args: &Args) -> Option<PathBuf> {
    if args.no_rc {
        return None;
    }
    let default = || std::env::home_dir().map(|home| home.join(".ballistarc")).filter(|file| file.is_file());
    args.rc.clone().or_else(default)
}
