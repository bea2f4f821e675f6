// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask chaos`: faults in a cluster of real processes under load, with every answer checked.

use std::process::Command;

use clap::Args;

use crate::bench::{Suite, make_data};
use crate::{cargo, process};

/// What the task needs built.
const BINARIES: [&str; 4] = ["ballista-scheduler", "ballista-executor", "datagen", "chaos"];

/// Kills, halts, drains and cuts off executors of a cluster while it runs TPC-H at scale factor 0.1, and kills its
/// scheduler; no query may fail, hang or be wrong.
///
/// All scenarios with 50 faults each take about 25 minutes.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// A few faults of each kind, in about two minutes
    #[arg(long)]
    quick: bool,
    /// Arguments for the program, which its --help lists: --scenario kill,cut --faults 50 --seed 7
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<(), String> {
    let binaries = cargo::build(&BINARIES)?;
    let data = make_data(&binaries, Suite::Tpch, 0.1)?;
    let faults = if options.quick { "3" } else { "50" };
    let mut command = Command::new(binaries.join("chaos"));
    command.arg("--data").arg(data).args(["--faults", faults]).args(&options.arguments);
    process::run(&mut command)
}

/// As part of the tests.
pub fn run_quick() -> Result<(), String> {
    run(&Options { quick: true, arguments: Vec::new() })
}
