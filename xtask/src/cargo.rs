// SPDX-License-Identifier: Apache-2.0
//! Cargo, as this task runner uses it: always the dev profile and the whole workspace's features, so that DataFusion
//! is compiled once for demo, tests and benchmarks.

use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    // xtask is a folder of the workspace.
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.clone(), PathBuf::from)
}

/// A cargo command, run in the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace());
    command
}

/// Where cargo puts the binaries of the profile with which this one was built.
pub fn binary_dir() -> Result<PathBuf, String> {
    let path = std::env::current_exe().map_err(|error| format!("cannot find the running program: {error}"))?;
    path.parent().map(PathBuf::from).ok_or_else(|| format!("{} is in no directory", path.display()))
}

/// Builds binaries of the workspace and returns the directory that holds them.
pub fn build(binaries: &[&str]) -> Result<PathBuf, String> {
    // --workspace even for few binaries: the features of shared dependencies are then those of every other build.
    let mut command = cargo(&["build", "--workspace"]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    process::run(&mut command)?;
    binary_dir()
}
