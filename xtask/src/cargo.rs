// SPDX-License-Identifier: Apache-2.0
//! Cargo, as this task runner uses it: always the dev profile and the whole workspace's features, so that DataFusion
//! is compiled once for demo, tests and benchmarks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use crate::{process, protoc};

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    // xtask is a folder of the workspace.
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.clone(), PathBuf::from)
}

/// A cargo command, run in the workspace.
pub fn cargo(arguments: &[&str]) -> Result<Command, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace());
    // What the cargo that started this program says of it. Build scripts deep below DataFusion look at it, and another
    // value than in a shell would compile everything again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    if let Some(protoc) = protoc::for_builds()? {
        command.env(protoc::VARIABLE, protoc);
    }
    Ok(command)
}

/// Where cargo puts the binaries of the profile with which this one was built.
pub fn binary_dir() -> Result<PathBuf, String> {
    let path = std::env::current_exe().map_err(|error| format!("cannot find the running program: {error}"))?;
    path.parent().map(PathBuf::from).ok_or_else(|| format!("{} is in no directory", path.display()))
}

/// Builds binaries of the workspace and returns the directory that holds them.
pub fn build(binaries: &[&str]) -> Result<PathBuf, String> {
    // --workspace even for few binaries: the features of shared dependencies are then those of every other build.
    let mut command = cargo(&["build", "--workspace"])?;
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    process::run(&mut command)?;
    binary_dir()
}

/// Builds the examples of the workspace and returns the directory that holds them.
pub fn build_examples() -> Result<PathBuf, String> {
    process::run(&mut cargo(&["build", "--workspace", "--examples"])?)?;
    Ok(binary_dir()?.join("examples"))
}

/// Checks that a build with tests and one without resolve the same features of every dependency that both have.
///
/// Development dependencies add features to crates far below DataFusion. One that they alone turn on would compile
/// DataFusion twice on every clean clone: once for the tests, once for everything else.
pub fn check_features() -> Result<(), String> {
    let resolve = |edges| {
        let arguments = ["tree", "--workspace", "--prefix", "none", "--format", "{p}\t{f}", "--edges", edges];
        Ok::<_, String>(parse_features(&process::output(&mut cargo(&arguments)?)?))
    };
    let difference = differences(&resolve("normal,build")?, &resolve("normal,build,dev")?);
    if difference.is_empty() {
        return Ok(());
    }
    Err(format!(
        "a build with tests would compile these crates again, and all that depends on them; name them in \
         workspace-hack/Cargo.toml:\n{}",
        difference.join("\n")
    ))
}

/// Feature sets by package; a package may be built more than once, for the target and for the host.
type Features = BTreeMap<String, BTreeSet<String>>;

fn parse_features(tree: &str) -> Features {
    let mut packages = Features::new();
    for line in tree.lines() {
        // A repeated subtree is marked so.
        let line = line.trim_end_matches(" (*)");
        if let Some((package, features)) = line.split_once('\t') {
            packages.entry(package.to_owned()).or_default().insert(features.to_owned());
        }
    }
    packages
}

fn differences(without_tests: &Features, with_tests: &Features) -> Vec<String> {
    let differs = |(package, features): (&String, &BTreeSet<String>)| {
        let other = with_tests.get(package)?;
        (features != other).then(|| format!("  {package}: {features:?} without tests, {other:?} with them"))
    };
    without_tests.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_only_tests_turn_on_are_found_and_crates_that_only_tests_use_are_not() {
        let without = parse_features("serde v1\tstd\nlog v0\t\nserde v1\tstd (*)");
        let with = parse_features("serde v1\talloc,std\nlog v0\t\nproptest v1\tstd");
        let found = differences(&without, &with);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("serde v1"), "{found:?}");
        assert!(differences(&without, &without).is_empty());
    }
}
