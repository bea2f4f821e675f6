// SPDX-License-Identifier: Apache-2.0
//! A process of the cluster: how it is started, how it ends, what it says.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Which programs the processes of a cluster are.
#[derive(Debug, Clone)]
pub enum Programs {
    /// The daemons that people run, in this folder.
    Daemons(PathBuf),
    /// This program, as [`host`](super::host) has it: with hostile functions and faults.
    Hosts(PathBuf),
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Scheduler,
    Executor,
}

impl Programs {
    fn command(&self, role: Role) -> Command {
        match (self, role) {
            (Self::Daemons(folder), Role::Scheduler) => Command::new(folder.join("ballista-scheduler")),
            (Self::Daemons(folder), Role::Executor) => Command::new(folder.join("ballista-executor")),
            (Self::Hosts(program), role) => {
                let mut command = Command::new(program);
                command.arg(if role == Role::Scheduler { "scheduler-host" } else { "executor-host" });
                command
            }
        }
    }
}

/// What a process is started with.
pub(super) struct Start<'a> {
    pub programs: &'a Programs,
    pub role: Role,
    /// Where its log goes.
    pub dir: &'a Path,
    /// What its log is called.
    pub name: &'a str,
    pub arguments: &'a [String],
    pub environment: &'a [(String, String)],
}

impl Start<'_> {
    /// Starts it.
    pub(super) fn begin(&self) -> Result<Daemon> {
        let path = |extension: &str| self.dir.join(format!("{}.{extension}", self.name));
        let (log, output) = (path("log"), path("out"));
        let mut command = self.programs.command(self.role);
        command.args(self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stderr(File::create(&log)?).stdout(File::create(&output)?);
        Ok(Daemon { child: command.spawn()?, name: self.name.to_owned(), log, output })
    }

    /// Starts it, and waits for the line that says that it is ready.
    pub(super) fn run(&self) -> Result<(Daemon, String)> {
        let mut daemon = self.begin()?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(line) = daemon.ready()? {
                return Ok((daemon, line));
            }
            let (name, log) = (self.name, daemon.log.display().to_string());
            if let Some(status) = daemon.ended()? {
                return Err(Error::other(format!("{name} ended early: {status}; see {log}")));
            }
            if Instant::now() > deadline {
                return Err(Error::new(ErrorKind::TimedOut, format!("{name} is not ready; see {log}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process, ended when dropped.
pub(super) struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
    output: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Whatever state it is in, this ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it has logged so far.
    pub(super) fn log(&self) -> Result<String> {
        // A process that dies may leave half a character.
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// The line that says that it is ready, if it has come.
    pub(super) fn ready(&self) -> Result<Option<String>> {
        let output = std::fs::read_to_string(&self.output)?;
        Ok(output.split_once('\n').map(|(line, _)| line.to_owned()))
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends it at once, and proves it.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        match is_killed(status) {
            true => Ok(()),
            false => Err(Error::other(format!("the killed process ended with {status}"))),
        }
    }
}

/// Whether a process ended by SIGKILL.
pub(super) fn is_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}
