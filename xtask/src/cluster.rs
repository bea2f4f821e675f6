// SPDX-License-Identifier: Apache-2.0
//! A Ballista cluster of processes on the loopback interface: one scheduler, some executors.
//!
//! Logs and the executors' work directories are in a directory of their own below cargo's target directory. It is
//! removed when the cluster has stopped cleanly, and named when not.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::process::{self, Daemon};

/// How long a daemon may take until it accepts connections.
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
    /// Passed on to each executor; repeatable: --executor-arg=--flag --executor-arg=value
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub executor_arg: Vec<String>,
}

/// A running cluster. Dropping it ends its processes and keeps their logs; [`Cluster::stop`] is the clean end.
pub struct Cluster {
    scheduler: Daemon,
    executors: Vec<Daemon>,
    port: u16,
    dir: PathBuf,
}

impl Cluster {
    /// Starts the daemons found in `binaries` and waits until all accept connections. The scheduler listens on
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
        let mut arguments = bind_arguments(port);
        let program = binaries.join("ballista-scheduler");
        let mut scheduler = Daemon::start("scheduler".to_owned(), &program, &arguments, dir.join("scheduler.log"))?;
        wait_for_port(&mut scheduler, port)?;

        let mut executors = Vec::with_capacity(shape.executors);
        for (index, port_of_executor) in free[1..].iter().enumerate() {
            let name = format!("executor-{index}");
            arguments = bind_arguments(*port_of_executor);
            let work_dir = dir.join(format!("{name}-work"));
            arguments.extend(["--scheduler-host", "127.0.0.1", "--scheduler-port"].map(str::to_owned));
            arguments.push(port.to_string());
            arguments.extend(["--slots".to_owned(), shape.slots.to_string()]);
            arguments.extend(["--work-dir".to_owned(), work_dir.display().to_string()]);
            arguments.extend_from_slice(&shape.executor_arg);
            let log = dir.join(format!("{name}.log"));
            executors.push((Daemon::start(name, &binaries.join("ballista-executor"), &arguments, log)?, *port_of_executor));
        }
        for (executor, port) in &mut executors {
            wait_for_port(executor, *port)?;
        }
        let executors = executors.into_iter().map(|(executor, _)| executor).collect();
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
            fs::remove_dir_all(&self.dir)
                .map_err(|error| format!("cannot remove {}: {error}", self.dir.display()))?;
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

fn wait_for_port(daemon: &mut Daemon, port: u16) -> Result<(), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + START_LIMIT;
    loop {
        daemon.check_running()?;
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let seconds = START_LIMIT.as_secs();
            return Err(format!("{} does not accept connections on {address} after {seconds} s", daemon.name));
        }
        process::tick()?;
    }
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
