// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: the project's one task runner.
//!
//! * [`demo`]: TPC-H on a real cluster of processes, from a clean clone.
//! * [`test`]: everything that a change must pass; `.ci/run` calls it.
//! * [`slt`]: SQL features on bare DataFusion and on a cluster; part of [`test`].
//! * [`bench`]: bare DataFusion, in-process Ballista and a cluster side by side.
//! * [`chaos`]: processes that die, halt and are cut off under load; a quick part of it is in [`test`].
//! * [`spark`]: builds, tests and times the adapter inside Apache Spark; a quick part of its tests is in [`test`].
//! * [`memcheck`]: the adapter's code that reads memory by address, under valgrind; part of [`test`].
//! * [`cluster`]: starts and stops the processes for all of them.
//! * [`process`], [`cargo`], [`debian`]: children, signals, builds, packages. [`protoc`]: a compiler of protobuf messages for
//!   those builds.
//!
//! Invariant: this crate depends on no other crate of the workspace. It drives the project as a user does, by its
//! programs and their flags.

mod bench;
mod cargo;
mod chaos;
mod cluster;
mod debian;
mod demo;
mod memcheck;
mod process;
mod protoc;
mod slt;
mod spark;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Ballista project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the 22 TPC-H queries on a cluster of processes on this machine
    Demo(demo::Options),
    /// Check formatting, lints, tests and examples
    Test(test::Options),
    /// Run the sqllogictest files on bare DataFusion and on a cluster
    Slt(slt::Options),
    /// Time TPC-H or TPC-DS on bare DataFusion, in-process Ballista and a cluster, side by side
    Bench(bench::Options),
    /// Kill, halt and cut off processes of a cluster that runs TPC-H, and check every answer
    Chaos(chaos::Options),
    /// Check the Spark adapter's accesses to memory with valgrind
    Memcheck(memcheck::Options),
    /// Build the Spark adapter's jar, and install what it needs
    SparkBuild(spark::BuildOptions),
    /// Test the adapter inside Spark, against vanilla Spark
    SparkTest(spark::TestOptions),
    /// Time vanilla Spark and Spark with the adapter, in turn
    SparkBench(spark::BenchOptions),
}

fn main() -> ExitCode {
    if protoc::is_wanted() {
        return exit_code(protoc::run());
    }
    let cli = Cli::parse();
    exit_code(process::install_signal_handlers().and_then(|()| match &cli.task {
        Task::Demo(options) => demo::run(options),
        Task::Test(options) => test::run(options),
        Task::Slt(options) => slt::run(options),
        Task::Bench(options) => bench::run(options),
        Task::Chaos(options) => chaos::run(options),
        Task::Memcheck(options) => memcheck::run(options),
        Task::SparkBuild(options) => spark::build(options),
        Task::SparkTest(options) => spark::test(options),
        Task::SparkBench(options) => spark::bench(options),
    }))
}

fn exit_code(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
