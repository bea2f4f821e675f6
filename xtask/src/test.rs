// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything that a change must pass, cheapest first; the first failure ends it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cluster::{Cluster, Shape};
use crate::{cargo, chaos, memcheck, process, slt, spark};

/// Where the examples of remote sessions expect a scheduler.
const EXAMPLE_PORT: u16 = 50050;

/// How long somebody else may have it: two minutes is what a closed connection keeps it at most.
const PORT_WAIT: Duration = Duration::from_secs(150);

/// Checks formatting and lints (if cargo has rustfmt and clippy), runs the tests of all crates, some of them under valgrind,
/// the sqllogictests, a few faults, the Spark adapter inside Spark, and the examples.
#[derive(Debug, Args)]
pub struct Options {
    /// Run the longer suites as well: TPC-H and TPC-DS at scale factor 1, many more random queries and round trips.
    /// Sets BALLISTA_FULL_TESTS=1 for the tests
    #[arg(long)]
    full: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<(), String> {
    let start = Instant::now();
    let mut passed = Vec::new();
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<(), String>| {
        println!("\n== {name}");
        let start = Instant::now();
        work().map_err(|error| format!("{name}: {error}"))?;
        passed.push(format!("{name} {}", duration(start)));
        Ok::<(), String>(())
    };

    step("one build", &mut cargo::check_features)?;
    if has_component("fmt") {
        step("format", &mut || process::run(&mut cargo::cargo(&["fmt", "--all", "--check"])?))?;
    }
    if has_component("clippy") {
        let lint = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        step("lints", &mut || process::run(&mut cargo::cargo(&lint)?))?;
    }
    step("tests", &mut || {
        let mut command = cargo::cargo(&["test", "--workspace", "--no-fail-fast"])?;
        if options.full {
            command.env("BALLISTA_FULL_TESTS", "1");
        }
        process::run(&mut command)
    })?;
    step("memory", &mut || memcheck::run(&memcheck::Options {}))?;
    step("sqllogictests", &mut || slt::run(&slt::Options::default()))?;
    step("chaos", &mut chaos::run_quick)?;
    step("spark", &mut spark::test_quick)?;
    step("examples", &mut run_examples)?;
    println!("\nall passed in {}: {}", duration(start), passed.join(", "));
    Ok(())
}

fn duration(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

/// Whether cargo has the subcommand; both are optional components of a toolchain.
fn has_component(name: &str) -> bool {
    let version = cargo::cargo(&[name, "--version"]);
    let found = version.is_ok_and(|mut version| {
        let status = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    });
    if !found {
        println!("cargo {name} is not installed: skipped");
    }
    found
}

/// Runs every file of `examples/`; those named `remote…` against a cluster.
fn run_examples() -> Result<(), String> {
    let folder = cargo::workspace().join("examples");
    let entries = fs::read_dir(&folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    let (remote, local): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with("remote"));
    let binaries = cargo::build_examples()?;
    for name in &local {
        run_example(&binaries, name)?;
    }
    if remote.is_empty() {
        return Ok(());
    }
    let daemons = cargo::build(&["ballista-scheduler", "ballista-executor"])?;
    let shape = Shape { executors: 2, slots: 1, memory: None, executor_arg: Vec::new() };
    wait_for_port(EXAMPLE_PORT)?;
    let cluster = Cluster::start(&shape, &daemons, Some(EXAMPLE_PORT))?;
    cluster.run(|_| remote.iter().try_for_each(|name| run_example(&binaries, name)))
}

/// The port is among those that the system gives to connections, of which the tests have made many.
fn wait_for_port(port: u16) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PORT_WAIT => return Err(format!("port {port}: {error}")),
            Err(_) => process::tick()?,
        }
    }
}

fn run_example(binaries: &Path, name: &str) -> Result<(), String> {
    println!("-- {name}");
    // The examples name their data relative to the workspace.
    process::run(Command::new(binaries.join(name)).current_dir(cargo::workspace()))
}
