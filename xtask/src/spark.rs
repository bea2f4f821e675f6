// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask spark-build`, `spark-test`, `spark-bench`: the adapter inside Apache Spark.
//!
//! Spark is a Python package, installed with pinned hashes in a virtual environment in the user's cache directory. Tests and
//! benchmarks are Python programs in `spark/tests`, which start Spark and end it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::bench::{Suite, make_data};
use crate::{cargo, debian, process};

/// Debian's packages of what cannot be had otherwise: a Java compiler, Maven, Python's virtual environments.
const PACKAGES: [&str; 3] = ["openjdk-17-jdk-headless", "maven", "python3-venv"];

/// Where Debian puts Java.
const JAVA: &str = "/usr/lib/jvm";

/// Builds the Spark adapter: installs Java 17, Maven and Spark unless they are there, compiles the native library, and
/// packages it with the plug-in as spark/plugin/target/ballista-spark-0.1.0.jar
#[derive(Debug, Args)]
pub struct BuildOptions {}

/// Runs the plug-in's own tests, and those of the adapter inside Spark: TPC-H, random tables and faults, compared with
/// vanilla Spark. A part of them, in some minutes, unless --full
#[derive(Debug, Default, Args)]
pub struct TestOptions {
    /// All settings with all queries, TPC-H at scale factor 1, more random tables and repeats
    #[arg(long)]
    full: bool,
    /// Arguments for the program, which its --help lists: --only "cluster corrupt" --seed 7
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Times TPC-H and single shuffles in vanilla Spark and with the adapter, in turn, and checks the limits that are set for
/// their ratio
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// Arguments for the program, which its --help lists: --iterations 3 --only hash
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What the Python programs need.
struct Spark {
    java_home: PathBuf,
    python: PathBuf,
    jar: PathBuf,
    /// For logs and vanilla Spark's answers.
    work: PathBuf,
}

/// Runs `spark-build`.
pub fn build(_: &BuildOptions) -> Result<(), String> {
    let spark = make(false)?;
    println!("{}", spark.jar.display());
    Ok(())
}

/// Runs `spark-test`.
pub fn test(options: &TestOptions) -> Result<(), String> {
    let spark = make(true)?;
    let binaries = cargo::build(&["datagen"])?;
    let mut command = spark.program("run.py");
    command.arg("--data").arg(make_data(&binaries, Suite::Tpch, 0.1)?);
    if options.full {
        command.arg("--full").arg("--big-data").arg(make_data(&binaries, Suite::Tpch, 1.0)?);
    }
    process::run(command.args(&options.arguments))
}

/// As part of the tests.
pub fn test_quick() -> Result<(), String> {
    test(&TestOptions::default())
}

/// Runs `spark-bench`.
pub fn bench(options: &BenchOptions) -> Result<(), String> {
    let spark = make(false)?;
    let binaries = cargo::build(&["datagen"])?;
    let mut command = spark.program("bench.py");
    command.arg("--data").arg(make_data(&binaries, Suite::Tpch, 1.0)?);
    process::run(command.args(&options.arguments))
}

impl Spark {
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(folder().join("tests").join(name));
        command.arg("--jar").arg(&self.jar).arg("--work").arg(&self.work);
        command.env("JAVA_HOME", &self.java_home);
        // Whatever Spark is installed besides must not be the one that is tested.
        command.env_remove("SPARK_HOME").env_remove("SPARK_CONF_DIR").env_remove("PYTHONPATH");
        command
    }
}

/// Makes the jar; with `tests`, only if the plug-in's own tests pass.
fn make(tests: bool) -> Result<Spark, String> {
    install_packages()?;
    let java_home = java_home().ok_or("no java 17 (hint: set JAVA_HOME)")?;
    let work = cache()?.join("spark");
    let python = virtual_environment(&work)?;
    // All libraries, so that the features of shared dependencies are those of every other build. One of the examples is a
    // library for the plug-in's tests.
    let wanted: &[&str] =
        if tests { &["build", "--workspace", "--lib", "--examples"] } else { &["build", "--workspace", "--lib"] };
    process::run(&mut cargo::cargo(wanted)?)?;
    let plugin = folder().join("plugin");
    let mut native = std::ffi::OsString::from("-Dnative.dir=");
    native.push(cargo::binary_dir()?);
    let mut maven = Command::new("mvn");
    // As Java calls the processor.
    let processor = if std::env::consts::ARCH == "x86_64" { "amd64" } else { std::env::consts::ARCH };
    maven.args(["-q", "-B", "package"]).arg(native).arg(format!("-Dnative.platform=linux/{processor}"));
    maven.current_dir(&plugin).env("JAVA_HOME", &java_home);
    if !tests {
        maven.arg("-DskipTests");
    }
    process::run(&mut maven)?;
    Ok(Spark { java_home, python, jar: plugin.join("target/ballista-spark-0.1.0.jar"), work })
}

fn folder() -> PathBuf {
    cargo::workspace().join("spark")
}

/// Installs the packages of Debian if something of them is not there.
fn install_packages() -> Result<(), String> {
    let python = debian::answers("python3", &["-c", "import ensurepip, venv"]);
    if python && debian::answers("mvn", &["--version"]) && java_home().is_some() {
        return Ok(());
    }
    debian::install(&PACKAGES)
}

/// Java 17: the one that `JAVA_HOME` names, or Debian's.
fn java_home() -> Option<PathBuf> {
    let named = std::env::var_os("JAVA_HOME").map(PathBuf::from);
    let installed = fs::read_dir(JAVA).ok().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_17 = |home: &PathBuf| {
        let release = fs::read_to_string(home.join("release")).unwrap_or_default();
        release.lines().any(|line| line.starts_with("JAVA_VERSION=\"17.")) && home.join("bin/javac").exists()
    };
    named.into_iter().chain(installed).find(is_17)
}

/// Python with the packages of `spark/tests/requirements.txt`, in `work`; returns the interpreter.
fn virtual_environment(work: &Path) -> Result<PathBuf, String> {
    let wanted = folder().join("tests/requirements.txt");
    let home = work.join("venv");
    let (python, installed) = (home.join("bin/python"), home.join("requirements.txt"));
    let text = fs::read(&wanted).map_err(|error| format!("cannot read {}: {error}", wanted.display()))?;
    if fs::read(&installed).is_ok_and(|found| found == text) {
        return Ok(python);
    }
    println!("installing spark in {}", home.display());
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"];
    process::run(Command::new(&python).args(install).arg(&wanted))?;
    // Last: an installation that was broken off begins anew.
    fs::write(&installed, text).map_err(|error| format!("cannot write {}: {error}", installed.display()))?;
    Ok(python)
}

/// The project's folder in the user's cache directory.
fn cache() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("ballista")).ok_or_else(|| "neither XDG_CACHE_HOME nor HOME is set".to_owned())
}
