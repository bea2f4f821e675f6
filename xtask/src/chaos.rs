// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask chaos`: faults in a cluster of real processes under load, with every answer checked.

use std::process::Command;

use clap::Args;

use crate::bench::{Suite, make_data};
use crate::{cargo, process};

/// What the task needs built.
const BINARIES: [&str; 4] = ["ballista-scheduler", "ballista-executor", "datagen", "chaos"];

/// Kills, halts, drains and cuts off executors of a cluster while it runs TPC-H at scale factor 0.1, kills its scheduler,
/// fills a disk, delays what they say, and runs functions that panic, end their process or never end; no query may fail,
/// hang or be wrong. Without --quick also leaves protections out, which has to be noticed.
///
/// All scenarios with 50 faults each take about 35 minutes.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// A few faults of each kind, in about three minutes
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
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binaries.join("chaos"));
        command.arg("--data").arg(&data).args(["--faults", faults]).args(arguments).args(&options.arguments);
        process::run(&mut command)
    };
    run(&[])?;
    if !options.quick && options.arguments.is_empty() {
        for protection in ["checksum", "commit"] {
            run(&["--without", protection])?;
        }
    }
    Ok(())
}

/// As part of the tests.
pub fn run_quick() -> Result<(), String> {
    run(&Options { quick: true, arguments: Vec::new() })
}
