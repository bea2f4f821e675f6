// SPDX-License-Identifier: Apache-2.0
//! A Ballista cluster of processes on the loopback interface: one scheduler, some executors.
//!
//! Logs and the executors' work directories are in a directory of their own below cargo's target directory. It is
//! removed when the cluster has stopped cleanly, and named when not.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::process::Daemon;

/// How long a daemon may take until it says that it is ready; an executor does when it is registered.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Size of the cluster.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// Executor processes
    #[arg(long, default_value_t = 2)]
    pub executors: usize,
    /// Slots of each executor: tasks' partitions that it runs at a time
    #[arg(long, default_value_t = 1)]
    pub slots: usize,
    /// Memory pool of each executor, such as 512MiB [default: an equal part of 70% of the machine]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Passed on to each executor; repeatable: --executor-arg=--flag --executor-arg=value
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub executor_arg: Vec<String>,
}

impl Shape {
    /// The executors share one machine, which each by itself would take for its own.
    fn memory(&self) -> String {
        self.memory.clone().unwrap_or_else(|| format!("{}%", (70 / self.executors.max(1)).max(1)))
    }
}

/// A running cluster. Dropping it ends its processes and keeps their logs; [`Cluster::stop`] is the clean end.
pub struct Cluster {
    scheduler: Daemon,
    executors: Vec<Daemon>,
    port: u16,
    dir: PathBuf,
}

impl Cluster {
    /// Starts the daemons found in `binaries` and waits until all are ready. The scheduler listens on
    /// `port`, or on a free one.
    pub fn start(shape: &Shape, binaries: &Path, port: Option<u16>) -> Result<Self, String> {
        let target = binaries.parent().unwrap_or(binaries);
        let dir = target.join("xtask").join(format!("cluster-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
        Self::start_in(&dir, shape, binaries, port)
            .map_err(|error| format!("{error}\nthe logs are in {}", dir.display()))
    }

    fn start_in(dir: &Path, shape: &Shape, binaries: &Path, port: Option<u16>) -> Result<Self, String> {
        let free = free_ports(shape.executors + 1)?;
        let port = port.unwrap_or(free[0]);
        let program = binaries.join("ballista-scheduler");
        let mut scheduler = Daemon::start("scheduler", &program, &bind_arguments(port), dir)?;
        scheduler.wait_until_ready(START_LIMIT)?;

        let program = binaries.join("ballista-executor");
        let mut executors = Vec::with_capacity(shape.executors);
        for (index, own_port) in free[1..].iter().enumerate() {
            let name = format!("executor-{index}");
            let work_dir = dir.join(format!("{name}-work"));
            let mut arguments = bind_arguments(*own_port);
            arguments.extend(["--scheduler-host", "127.0.0.1", "--scheduler-port"].map(str::to_owned));
            arguments.push(port.to_string());
            arguments.extend(["--slots".to_owned(), shape.slots.to_string()]);
            arguments.extend(["--work-dir".to_owned(), work_dir.display().to_string()]);
            arguments.extend(["--memory".to_owned(), shape.memory()]);
            arguments.extend_from_slice(&shape.executor_arg);
            executors.push(Daemon::start(&name, &program, &arguments, dir)?);
        }
        for executor in &mut executors {
            executor.wait_until_ready(START_LIMIT)?;
        }
        Ok(Self { scheduler, executors, port, dir: dir.to_owned() })
    }

    /// Address for clients.
    pub fn url(&self) -> String {
        format!("df://127.0.0.1:{}", self.port)
    }

    /// Where the logs are.
    pub fn log_dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `work` against the cluster, stops it, and names the logs if either failed.
    pub fn run(self, work: impl FnOnce(&Self) -> Result<(), String>) -> Result<(), String> {
        let dir = self.dir.clone();
        let outcome = work(&self);
        let stopped = self.stop(outcome.is_ok());
        outcome.and(stopped).map_err(|error| format!("{error}\nthe logs are in {}", dir.display()))
    }

    /// Ends executors first, so that they can say goodbye, then the scheduler.
    fn stop(self, remove_logs: bool) -> Result<(), String> {
        let mut first_error = Ok(());
        for executor in self.executors {
            if let Some(bytes) = executor.peak_memory() {
                println!("{}: at most {} MiB resident", executor.name, bytes >> 20);
            }
            first_error = first_error.and(executor.stop());
        }
        first_error = first_error.and(self.scheduler.stop());
        if first_error.is_ok() && remove_logs {
            fs::remove_dir_all(&self.dir).map_err(|error| format!("cannot remove {}: {error}", self.dir.display()))?;
        }
        first_error
    }
}

fn bind_arguments(port: u16) -> Vec<String> {
    vec!["--bind-host".to_owned(), "127.0.0.1".to_owned(), "--bind-port".to_owned(), port.to_string()]
}

/// Ports that nobody listens on. They are all held until the last one is known, so they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, _> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    listeners
        .and_then(|listeners| listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect())
        .map_err(|error| format!("cannot find a free port: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(5).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 5);
    }
}
