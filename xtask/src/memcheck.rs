// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask memcheck`: the tests of the Spark adapter's code that reads memory by address, under valgrind, which notices a
//! byte that is read or written out of bounds, after it was freed, or before it was set.

use std::process::Command;

use clap::Args;

use crate::{cargo, debian, process};

/// Modules with such code, and those that it hands its bytes to.
const TESTS: [&str; 4] = ["row::", "block::", "writer::", "murmur3::"];

/// Runs the tests of rows, blocks, writer and hashes of the Spark adapter under valgrind's memcheck; installs it if it is
/// missing
#[derive(Debug, Args)]
pub struct Options {}

/// Runs the task.
pub fn run(_: &Options) -> Result<(), String> {
    if !debian::answers("valgrind", &["--version"]) {
        debian::install(&["valgrind"])?;
    }
    let mut build = cargo::cargo(&["test", "--workspace", "--lib", "--no-run", "--message-format", "json"])?;
    let messages = process::output(&mut build)?;
    let program = test_program(&messages, "ballista_spark").ok_or("cargo names no test program of ballista_spark")?;
    let tests = process::output(Command::new(program).arg("--list"))?;
    if let Some(none) = TESTS.iter().find(|name| !tests.lines().any(|test| test.starts_with(*name))) {
        return Err(format!("no test of ballista_spark is named {none}…"));
    }
    let mut command = Command::new("valgrind");
    // 97: none of the test program's own.
    command.args(["--quiet", "--error-exitcode=97"]).arg(program).args(["--test-threads", "1"]).args(TESTS);
    process::run(&mut command)
}

/// The executable that one of cargo's messages, a line each, says was made of the crate's unit tests.
fn test_program<'a>(messages: &'a str, name: &str) -> Option<&'a str> {
    let stem = format!("/{name}-");
    messages.lines().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        let (path, _) = rest.split_once('"')?;
        path.contains(&stem).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"executable\":\"/t/debug/deps/ballista_core-1f\"}\n\
                        {\"executable\":\"/t/debug/deps/ballista_spark-2e\",\"fresh\":true}";
        assert_eq!(test_program(messages, "ballista_spark"), Some("/t/debug/deps/ballista_spark-2e"));
        assert_eq!(test_program(messages, "ballista_plan"), None);
    }
}
