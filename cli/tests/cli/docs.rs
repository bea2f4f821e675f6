// SPDX-License-Identifier: Apache-2.0
//! The examples of `docs/cli.md`, as they stand there.

use std::path::Path;
use std::process::Command;

use crate::cluster::Cluster;

/// Times differ from run to run.
fn without_times(text: &str) -> String {
    let line =
        |line: &str| if line.starts_with("Elapsed ") { "Elapsed".to_owned() } else { line.trim_end().to_owned() };
    text.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn examples_of_the_command_line_page_run() {
    // For examples with a host.
    let cluster = Cluster::start();
    let home = &cluster.home;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_ballista-cli")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let text = std::fs::read_to_string(workspace.join("docs/cli.md")).unwrap();
    let mut examples = 0;
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for example in block.split("$ ").filter(|example| !example.is_empty()) {
            let (command, expected) = example.split_once('\n').unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("({command}) 2>&1")]).current_dir(workspace);
            shell.env("BALLISTA_CLI_PORT", cluster.port());
            let ran = shell.env("PATH", &path).env("HOME", home.path("")).env_remove("RUST_LOG").output().unwrap();
            let printed = String::from_utf8(ran.stdout).unwrap();
            assert_eq!(without_times(&printed), without_times(expected), "{command}");
            examples += 1;
        }
    }
    assert!(examples >= 5, "{examples}");
}
