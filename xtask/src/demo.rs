// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: from a clone to 22 answers from a real cluster.

use std::time::Instant;

use clap::Args;

use crate::bench::{self, Suite};
use crate::cluster::{Cluster, Shape};
use crate::{cargo, process};

/// Builds everything, makes TPC-H data in the user's cache directory, starts a scheduler and executors as processes
/// on this machine, runs the 22 queries, prints a table, and stops everything again.
#[derive(Debug, Args)]
pub struct Options {
    /// Size of the data: 1 is about 1 GB as text
    #[arg(long, default_value_t = 1.0)]
    scale_factor: f64,
    #[command(flatten)]
    shape: Shape,
    /// Session setting, such as ballista.planner.single_task_bytes=0; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Compare every answer with the one of bare DataFusion
    #[arg(long)]
    verify: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<(), String> {
    println!("building; on a clean clone this compiles datafusion, once");
    let mut binaries = bench::BINARIES.to_vec();
    binaries.push("ballista-cli");
    let binaries = cargo::build(&binaries)?;

    let data = bench::make_data(&binaries, Suite::Tpch, options.scale_factor)?;
    println!("tpc-h data: {}", data.display());

    let Shape { executors, slots, .. } = options.shape;
    let cluster = Cluster::start(&options.shape, &binaries, None)?;
    let logs = cluster.log_dir().display();
    println!("cluster: {}, executors: {executors}, slots of each: {slots}; logs in {logs}", cluster.url());
    let start = Instant::now();
    cluster.run(|cluster| {
        let mut command = bench::runner(&binaries, Suite::Tpch, &data, &options.settings);
        command.args(["--engine", "remote", "--iterations", "1", "--warmup", "0", "--scheduler", &cluster.url()]);
        if options.verify {
            command.arg("--verify");
        }
        process::run(&mut command)
    })?;
    println!("done in {:.0} s, everything stopped", start.elapsed().as_secs_f64());
    Ok(())
}
