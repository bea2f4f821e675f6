// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask slt`: SQL features on bare DataFusion and on a cluster, from the files in `sqllogictest/files`.

use std::process::Command;

use clap::Args;

use crate::{cargo, process};

/// What the task needs built.
const BINARIES: [&str; 1] = ["slt"];

/// Runs the sqllogictest files on bare DataFusion and on a cluster of two executors, which must agree.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Arguments for the runner; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<(), String> {
    let binaries = cargo::build(&BINARIES)?;
    process::run(Command::new(binaries.join("slt")).args(&options.arguments))
}
