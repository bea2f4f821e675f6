// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: the engines side by side on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};

use crate::cluster::{Cluster, Shape};
use crate::{cargo, process};

/// What every task that runs a benchmark needs built.
pub const BINARIES: [&str; 5] = ["ballista-scheduler", "ballista-executor", "datagen", "tpch", "tpcds"];

/// Which benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// 22 queries
    Tpch,
    /// 50 queries
    Tpcds,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Tpch => "tpch",
            Self::Tpcds => "tpcds",
        }
    }
}

/// Builds everything, makes the data, starts a cluster, and runs the queries on all engines in turn.
///
/// Prints the median seconds of each query and its ratio to bare DataFusion. The figures are those of an optimised
/// build: the project has one build profile. Nothing else should run on the machine meanwhile.
#[derive(Debug, Args)]
pub struct Options {
    /// Which benchmark
    #[arg(long, value_enum, default_value = "tpch")]
    suite: Suite,
    /// Size of the data: 1 is about 1 GB as text
    #[arg(long, default_value_t = 1.0)]
    scale_factor: f64,
    #[command(flatten)]
    shape: Shape,
    /// Engines to compare
    #[arg(long, default_value = "datafusion,standalone,remote")]
    engine: String,
    /// Queries: numbers, ranges or all
    #[arg(long, default_value = "all")]
    query: String,
    /// Counted runs of each query
    #[arg(long, default_value_t = 3)]
    iterations: u32,
    /// Session setting of the Ballista engines; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Skip the comparison of answers
    #[arg(long)]
    no_verify: bool,
    /// Write one JSON object per run to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Further arguments for the benchmark program
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<(), String> {
    let binaries = cargo::build(&BINARIES)?;
    let data = make_data(&binaries, options.suite, options.scale_factor)?;
    let mut command = runner(&binaries, options.suite, &data, &options.settings);
    command.args(["--engine", &options.engine, "--query", &options.query]);
    command.args(["--iterations", &options.iterations.to_string()]);
    if !options.no_verify {
        command.arg("--verify");
    }
    if let Some(output) = &options.output {
        command.arg("--output").arg(output);
    }
    command.args(&options.rest);
    if !options.engine.split(',').any(|engine| engine == "remote") {
        return process::run(&mut command);
    }
    let cluster = Cluster::start(&options.shape, &binaries, None)?;
    cluster.run(|cluster| process::run(command.args(["--scheduler", &cluster.url()])))
}

/// Makes the data in the user's cache directory, unless it is there, and returns its directory.
pub fn make_data(binaries: &Path, suite: Suite, scale_factor: f64) -> Result<PathBuf, String> {
    let mut command = Command::new(binaries.join("datagen"));
    command.args([suite.name(), "--scale-factor", &scale_factor.to_string()]);
    process::output(&mut command).map(PathBuf::from)
}

/// The benchmark program, with what all its uses share.
pub fn runner(binaries: &Path, suite: Suite, data: &Path, settings: &[String]) -> Command {
    let mut command = Command::new(binaries.join(suite.name()));
    command.arg("--data").arg(data);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}
