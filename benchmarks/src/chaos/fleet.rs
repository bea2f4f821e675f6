// SPDX-License-Identifier: Apache-2.0
//! The processes that faults happen to: one scheduler, some executors.

use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::log::finished_outputs;
use super::process::{Daemon, Programs, Role, Start};
use super::proxy::Proxy;
use super::restart::Restart;

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

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What its processes are.
    pub programs: Programs,
    /// Where logs and work directories go.
    pub dir: PathBuf,
    /// Slots of each executor.
    pub slots: u32,
    /// Variables of all processes.
    pub environment: Vec<(String, String)>,
    /// What each executor gets besides; there are as many executors.
    pub executors: Vec<Extra>,
}

/// What an executor gets besides what all get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Where its files go, if not where those of the others go.
    pub work_dir: Option<PathBuf>,
}

/// A scheduler and executors, ended when dropped.
pub struct Fleet {
    setup: Setup,
    port: u16,
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

impl Fleet {
    /// Starts the processes of `setup`.
    ///
    /// # Errors
    /// If one cannot be started or does not become ready.
    pub async fn start(setup: Setup) -> Result<Self> {
        let (scheduler, line) = scheduler(&setup, "scheduler-0", &scheduler_arguments(&setup.dir, 0)).run()?;
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| Error::other(format!("no port in \"{line}\"")))?;
        let extras = setup.executors.clone();
        let mut fleet = Self {
            setup,
            port,
            scheduler,
            executors: Vec::new(),
            proxies: Vec::new(),
            links: Vec::new(),
            started: 0,
            restarts: 0,
        };
        for (number, extra) in extras.iter().enumerate() {
            fleet.proxies.push(Proxy::start().await?);
            let link = Proxy::start().await?;
            link.lead_to(port);
            fleet.links.push(link);
            let executor = fleet.start_executor(number, extra, true)?;
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
        matches!(self.scheduler.ended(), Ok(None))
    }

    /// What the scheduler has logged. `None` if it was started again, and no log tells all.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn whole_log(&self) -> Result<Option<String>> {
        if self.restarts == 0 { self.scheduler.log().map(Some) } else { Ok(None) }
    }

    /// Kills the scheduler and starts it again with the same state and at the same address, `early` times only to kill it
    /// again while it starts. What became of the outputs of tasks, and how long the last start took.
    ///
    /// # Errors
    /// If it does not die, or does not start.
    pub fn restart_scheduler(&mut self, early: &[Duration]) -> Result<Restart> {
        self.scheduler.kill()?;
        let before = self.scheduler.log()?;
        let arguments = scheduler_arguments(&self.setup.dir, self.port);
        for pause in early {
            self.restarts += 1;
            let name = format!("scheduler-{}", self.restarts);
            let mut daemon = scheduler(&self.setup, &name, &arguments).begin()?;
            std::thread::sleep(*pause);
            daemon.kill()?;
        }
        self.restarts += 1;
        let name = format!("scheduler-{}", self.restarts);
        let begun = Instant::now();
        self.scheduler = scheduler(&self.setup, &name, &arguments).run()?.0;
        let log = self.setup.dir.join(format!("{name}.log"));
        Ok(Restart::new(begun.elapsed(), log, finished_outputs(&before)))
    }

    /// What stands between an executor and everybody else, but for the scheduler.
    pub fn proxy(&self, executor: usize) -> &Proxy {
        &self.proxies[executor]
    }

    /// What stands between an executor and the scheduler.
    pub fn link(&self, executor: usize) -> &Proxy {
        &self.links[executor]
    }

    fn start_executor(&mut self, number: usize, extra: &Extra, wait: bool) -> Result<Daemon> {
        let name = format!("executor-{}", self.started);
        self.started += 1;
        let (port, slots) = (self.links[number].port().to_string(), self.setup.slots.to_string());
        let work_dir = extra.work_dir.clone().unwrap_or_else(|| self.setup.dir.join("work"));
        let arguments = ["--scheduler-host", "127.0.0.1", "--scheduler-port", &port, "--slots", &slots];
        let arguments = arguments.into_iter().chain(["--memory", "1GiB", "--work-dir"]).map(str::to_owned);
        let own_port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let proxy = &self.proxies[number];
        proxy.lead_to(own_port);
        let ports =
            ["--bind-port".to_owned(), own_port.to_string(), "--advertise-port".to_owned(), proxy.port().to_string()];
        let arguments = arguments.chain([work_dir.display().to_string()]).chain(ports);
        let arguments: Vec<String> = arguments.chain(extra.arguments.iter().cloned()).collect();
        let environment = [self.setup.environment.as_slice(), extra.environment.as_slice()].concat();
        let start = Start {
            programs: &self.setup.programs,
            role: Role::Executor,
            dir: &self.setup.dir,
            name: &name,
            arguments: &arguments,
            environment: &environment,
        };
        if wait { Ok(start.run()?.0) } else { start.begin() }
    }

    /// Sends a signal to an executor, and proves that it arrived: a killed process is gone, a halted one is halted.
    ///
    /// # Errors
    /// If it did not.
    pub fn signal(&mut self, executor: usize, signal: Signal) -> Result<()> {
        let daemon = &mut self.executors[executor];
        let name = match signal {
            Signal::Kill => return daemon.kill(),
            Signal::Term => "TERM",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let sent = Command::new("kill").arg(format!("-{name}")).arg(daemon.id().to_string()).status()?;
        if !sent.success() {
            return Err(Error::other(format!("kill -{name} failed: {sent}")));
        }
        if signal == Signal::Stop {
            let halted = || -> Result<bool> {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id()))?;
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
        let extra = self.setup.executors[executor].clone();
        self.executors[executor] = self.start_executor(executor, &extra, true)?;
        Ok(())
    }

    /// Puts a new process in the place of each executor that has ended by itself, without waiting for it: it may be
    /// given what ended the last one at once. How they ended, by name.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn revive(&mut self) -> Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        for number in 0..self.executors.len() {
            if let Some(status) = self.executors[number].ended()? {
                ended.push((self.executors[number].name().to_owned(), status));
                let extra = self.setup.executors[number].clone();
                self.executors[number] = self.start_executor(number, &extra, false)?;
            }
        }
        Ok(ended)
    }

    /// Whether all executors run and have been welcomed by the scheduler.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn is_complete(&mut self) -> Result<bool> {
        for executor in &mut self.executors {
            if executor.ended()?.is_some() || executor.ready()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How an executor has ended, if it has.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn ended(&mut self, executor: usize) -> Result<Option<ExitStatus>> {
        self.executors[executor].ended()
    }

    /// What the process that is in the place of an executor has logged.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn executor_log(&self, executor: usize) -> Result<String> {
        self.executors[executor].log()
    }
}

fn scheduler<'a>(setup: &'a Setup, name: &'a str, arguments: &'a [String]) -> Start<'a> {
    let Setup { programs, dir, environment, .. } = setup;
    Start { programs, role: Role::Scheduler, dir, name, arguments, environment }
}

fn scheduler_arguments(dir: &Path, port: u16) -> Vec<String> {
    let (port, state) = (port.to_string(), dir.join("state").display().to_string());
    let level = "info,ballista_scheduler=debug";
    let arguments = ["--bind-port", &port, "--lease-seconds", "2", "--heartbeat-millis", "200", "--state-dir", &state];
    arguments.into_iter().chain(["--log-level", level]).map(str::to_owned).collect()
}
