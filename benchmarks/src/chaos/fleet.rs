// SPDX-License-Identifier: Apache-2.0
//! The processes that faults happen to: one scheduler, some executors.

use std::collections::BTreeSet;
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
    /// Between each of them and the scheduler.
    links: Vec<Proxy>,
    started: usize,
    /// Of the scheduler, those that were killed before they were ready included.
    restarts: usize,
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
        let (scheduler, line) =
            spawn(binaries, dir, "scheduler-0", "ballista-scheduler", &scheduler_arguments(dir, 0))?;
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
            links: Vec::new(),
            started: 0,
            restarts: 0,
        };
        for number in 0..executors {
            fleet.proxies.push(Proxy::start().await?);
            let link = Proxy::start().await?;
            link.lead_to(port);
            fleet.links.push(link);
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

    /// Kills the scheduler and starts it again with the same state and at the same address, `early` times only to kill it
    /// again while it starts. What became of the outputs of tasks, and how long the last start took.
    ///
    /// # Errors
    /// If it does not die, or does not start.
    pub fn restart_scheduler(&mut self, early: &[Duration]) -> Result<Restart> {
        kill(&mut self.scheduler.0)?;
        let before = std::fs::read_to_string(self.log())?;
        for pause in early {
            self.restarts += 1;
            let name = format!("scheduler-{}", self.restarts);
            let mut daemon = start(&self.binaries, &self.dir, &name, "ballista-scheduler", &self.arguments())?.0;
            std::thread::sleep(*pause);
            kill(&mut daemon.0)?;
        }
        self.restarts += 1;
        let name = format!("scheduler-{}", self.restarts);
        let begun = Instant::now();
        self.scheduler = spawn(&self.binaries, &self.dir, &name, "ballista-scheduler", &self.arguments())?.0;
        Ok(Restart { ready: begun.elapsed(), log: self.log(), finished: finished_outputs(&before) })
    }

    fn arguments(&self) -> Vec<String> {
        scheduler_arguments(&self.dir, self.port)
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("scheduler-{}.log", self.restarts))
    }

    /// What stands between an executor and everybody else, but for the scheduler.
    pub fn proxy(&self, executor: usize) -> &Proxy {
        &self.proxies[executor]
    }

    /// What stands between an executor and the scheduler.
    pub fn link(&self, executor: usize) -> &Proxy {
        &self.links[executor]
    }

    fn start_executor(&mut self, number: usize) -> Result<Daemon> {
        let name = format!("executor-{}", self.started);
        self.started += 1;
        let (port, slots) = (self.links[number].port().to_string(), self.slots.to_string());
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
            return kill(child);
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

/// What a restart of the scheduler came to.
pub struct Restart {
    /// From its start to its being ready.
    pub ready: Duration,
    log: PathBuf,
    /// Outputs that were complete when it died, of jobs that were not over.
    finished: BTreeSet<String>,
}

impl Restart {
    /// How many outputs there were, and how many of them count again by now.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn outputs(&self) -> Result<(usize, usize)> {
        let log = std::fs::read_to_string(&self.log)?;
        let taken = log.lines().filter(|line| line.contains("task taken over") && line.contains("finished=true"));
        let taken: BTreeSet<String> = taken.filter_map(|line| field(line, "task=")).collect();
        Ok((self.finished.len(), self.finished.intersection(&taken).count()))
    }
}

/// From the scheduler's log.
fn finished_outputs(log: &str) -> BTreeSet<String> {
    let is_end = |line: &&str| ["job finished", "job failed", "job cancelled"].iter().any(|end| line.contains(end));
    let over: BTreeSet<String> = log.lines().filter(is_end).filter_map(|line| field(line, "job=")).collect();
    let is_output = |line: &&str| {
        [": task finished ", "task taken over"].iter().any(|text| line.contains(text))
            && !line.contains("finished=false")
    };
    let outputs = log.lines().filter(is_output).filter_map(|line| field(line, "task="));
    outputs.filter(|task| !over.contains(task.split('/').next().unwrap_or_default())).collect()
}

fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(name)?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn scheduler_arguments(dir: &Path, port: u16) -> Vec<String> {
    let (port, state) = (port.to_string(), dir.join("state").display().to_string());
    let level = "info,ballista_scheduler=debug";
    let arguments = ["--bind-port", &port, "--lease-seconds", "2", "--heartbeat-millis", "200", "--state-dir", &state];
    arguments.into_iter().chain(["--log-level", level]).map(str::to_owned).collect()
}

/// Ends a process at once, and proves it.
fn kill(child: &mut Child) -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    child.kill()?;
    let status = child.wait()?;
    match status.signal() {
        Some(9) => Ok(()),
        _ => Err(Error::other(format!("the killed process ended with {status}"))),
    }
}

/// Starts a daemon and waits for the line that says that it is ready.
fn spawn(binaries: &Path, dir: &Path, name: &str, program: &str, arguments: &[String]) -> Result<(Daemon, String)> {
    let (mut daemon, log, output) = start(binaries, dir, name, program, arguments)?;
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

/// Starts a daemon. Where it logs, and where it says that it is ready.
fn start(
    binaries: &Path,
    dir: &Path,
    name: &str,
    program: &str,
    arguments: &[String],
) -> Result<(Daemon, PathBuf, PathBuf)> {
    let (log, output) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.out")));
    let mut command = Command::new(binaries.join(program));
    command.args(arguments).stdin(Stdio::null()).stderr(File::create(&log)?).stdout(File::create(&output)?);
    Ok((Daemon(command.spawn()?), log, output))
}
