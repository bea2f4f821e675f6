// SPDX-License-Identifier: Apache-2.0
//! The processes that faults happen to: one scheduler, some executors.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::proxy::Proxy;

/// How long a process may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A signal for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends it at once.
    Kill,
    /// Asks it to end.
    Term,
    /// Halts it, as if its machine hung.
    Stop,
    /// Lets it go on.
    Continue,
}

/// A scheduler and executors, ended when dropped.
pub struct Fleet {
    binaries: PathBuf,
    dir: PathBuf,
    port: u16,
    slots: u32,
    scheduler: Daemon,
    /// By number. One that was killed stays until it is replaced.
    executors: Vec<Daemon>,
    /// Before their ports, one for each.
    proxies: Vec<Proxy>,
    started: usize,
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Whatever state it is in, this ends it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fleet {
    /// Starts the daemons of `binaries`; logs and work directories go to `dir`.
    ///
    /// # Errors
    /// If one cannot be started or does not become ready.
    pub async fn start(binaries: &Path, dir: &Path, executors: usize, slots: u32) -> Result<Self> {
        let arguments = ["--bind-port", "0", "--lease-seconds", "2", "--heartbeat-millis", "200"];
        let (scheduler, line) = spawn(binaries, dir, "scheduler", "ballista-scheduler", &arguments.map(str::to_owned))?;
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| Error::other(format!("no port in \"{line}\"")))?;
        let mut fleet = Self {
            binaries: binaries.to_owned(),
            dir: dir.to_owned(),
            port,
            slots,
            scheduler,
            executors: Vec::new(),
            proxies: Vec::new(),
            started: 0,
        };
        for number in 0..executors {
            fleet.proxies.push(Proxy::start().await?);
            let executor = fleet.start_executor(number)?;
            fleet.executors.push(executor);
        }
        Ok(fleet)
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("df://127.0.0.1:{}", self.port)
    }

    /// How many executors there are.
    pub fn executors(&self) -> usize {
        self.executors.len()
    }

    /// Whether the scheduler still runs.
    pub fn scheduler_lives(&mut self) -> bool {
        matches!(self.scheduler.0.try_wait(), Ok(None))
    }

    /// What stands between an executor and everybody else, but for the scheduler.
    pub fn proxy(&self, executor: usize) -> &Proxy {
        &self.proxies[executor]
    }

    fn start_executor(&mut self, number: usize) -> Result<Daemon> {
        let name = format!("executor-{}", self.started);
        self.started += 1;
        let (port, slots) = (self.port.to_string(), self.slots.to_string());
        let work_dir = self.dir.join("work");
        let arguments = ["--scheduler-host", "127.0.0.1", "--scheduler-port", &port, "--slots", &slots];
        let arguments = arguments.into_iter().chain(["--memory", "1GiB", "--work-dir"]).map(str::to_owned);
        let own_port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let proxy = &self.proxies[number];
        proxy.lead_to(own_port);
        let ports =
            ["--bind-port".to_owned(), own_port.to_string(), "--advertise-port".to_owned(), proxy.port().to_string()];
        let arguments: Vec<String> = arguments.chain([work_dir.display().to_string()]).chain(ports).collect();
        Ok(spawn(&self.binaries, &self.dir, &name, "ballista-executor", &arguments)?.0)
    }

    /// Sends a signal to an executor, and proves that it arrived: a killed process is gone, a halted one is halted.
    ///
    /// # Errors
    /// If it did not.
    pub fn signal(&mut self, executor: usize, signal: Signal) -> Result<()> {
        let child = &mut self.executors[executor].0;
        if signal == Signal::Kill {
            child.kill()?;
            use std::os::unix::process::ExitStatusExt;
            let status = child.wait()?;
            return match status.signal() {
                Some(9) => Ok(()),
                _ => Err(Error::other(format!("the killed executor ended with {status}"))),
            };
        }
        let name = match signal {
            Signal::Kill => "KILL",
            Signal::Term => "TERM",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status()?;
        if !sent.success() {
            return Err(Error::other(format!("kill -{name} failed: {sent}")));
        }
        if signal == Signal::Stop {
            let halted = || -> Result<bool> {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
                Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
            };
            let start = Instant::now();
            while !halted()? {
                if start.elapsed() > Duration::from_secs(5) {
                    return Err(Error::other("the executor does not halt"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Puts a new process in the place of an executor that is gone or is to go.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn replace(&mut self, executor: usize) -> Result<()> {
        self.executors[executor] = self.start_executor(executor)?;
        Ok(())
    }
}

/// Starts a daemon and waits for the line that says that it is ready.
fn spawn(binaries: &Path, dir: &Path, name: &str, program: &str, arguments: &[String]) -> Result<(Daemon, String)> {
    let (log, output) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.out")));
    let mut command = Command::new(binaries.join(program));
    command.args(arguments).stdin(Stdio::null()).stderr(File::create(&log)?).stdout(File::create(&output)?);
    let mut daemon = Daemon(command.spawn()?);
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some((line, _)) = std::fs::read_to_string(&output)?.split_once('\n') {
            return Ok((daemon, line.to_owned()));
        }
        if let Some(status) = daemon.0.try_wait()? {
            return Err(Error::other(format!("{name} ended early: {status}; see {}", log.display())));
        }
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::TimedOut, format!("{name} is not ready; see {}", log.display())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
