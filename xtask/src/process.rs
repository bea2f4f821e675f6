// SPDX-License-Identifier: Apache-2.0
//! Child processes that never outlive the task runner, and signals that end it in order.
//!
//! The first Ctrl-C or SIGTERM sets a flag; whatever waits for a child sees it, ends that child and fails, and the
//! way out stops the rest. A second one ends this process at once; the kernel then ends the daemons (on Linux).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// How often a waiting loop looks at the child and the flag.
const TICK: Duration = Duration::from_millis(50);

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(20);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Makes Ctrl-C, SIGTERM and SIGHUP set the flag that [`check_interrupt`] reads.
pub fn install_signal_handlers() -> Result<(), String> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: on the second signal, the flag that the first one set is already there.
        flag::register_conditional_shutdown(signal, 128 + signal, INTERRUPTED.clone())
            .and_then(|_| flag::register(signal, INTERRUPTED.clone()))
            .map_err(|error| format!("cannot install a handler for signal {signal}: {error}"))?;
    }
    Ok(())
}

/// Fails once a signal has come.
pub fn check_interrupt() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Sleeps for one tick, unless a signal has come.
pub fn tick() -> Result<(), String> {
    check_interrupt()?;
    thread::sleep(TICK);
    Ok(())
}

/// Runs a command in the foreground, its output going where ours goes.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = program_name(command);
    let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    finish(child, &name)
}

/// Runs a command and returns its standard output without the line end; standard error goes where ours goes.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = program_name(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    let mut pipe = child.stdout.take();
    let reader = thread::spawn(move || pipe.as_mut().map(std::io::read_to_string).transpose());
    finish(child, &name)?;
    match reader.join() {
        Ok(Ok(text)) => Ok(text.unwrap_or_default().trim_end().to_owned()),
        Ok(Err(error)) => Err(format!("cannot read the output of {name}: {error}")),
        Err(_) => Err(format!("cannot read the output of {name}")),
    }
}

fn finish(mut child: Child, name: &str) -> Result<(), String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return check_interrupt(),
            Ok(Some(status)) => {
                check_interrupt()?;
                return Err(format!("{name} failed: {status}"));
            }
            Ok(None) => {}
            Err(error) => return Err(format!("cannot wait for {name}: {error}")),
        }
        if let Err(interrupted) = tick() {
            terminate(&mut child);
            return Err(interrupted);
        }
    }
}

fn program_name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Asks a child to end, and kills it if it does not within [`GRACE`]. `None` if it had to be killed.
fn terminate(child: &mut Child) -> Option<ExitStatus> {
    signal(child, libc::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(TICK),
            Ok(Some(status)) => return Some(status),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn signal(child: &mut Child, signal: libc::c_int) {
    // A child that has been waited for has given its process id back.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let Ok(pid) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: kill has no memory-safety preconditions; the process id is that of our own child, not yet reaped.
    unsafe { libc::kill(pid, signal) };
}

/// A background process that writes to a log file. Dropping it ends it.
pub struct Daemon {
    child: Child,
    /// For messages.
    pub name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` in a process group of its own, so that Ctrl-C in the terminal reaches only the task runner.
    pub fn start(name: String, program: &Path, arguments: &[String], log: PathBuf) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot start {name} ({}): {error}", program.display());
        let output = File::create(&log).map_err(cannot)?;
        let errors = output.try_clone().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(cannot)?;
        Ok(Self { child, name, log })
    }

    /// Fails, with the end of the log, if the process is no longer running.
    pub fn check_running(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended early: {status}\n{}", self.name, self.log_tail())),
            Err(error) => Err(format!("cannot wait for {}: {error}", self.name)),
        }
    }

    /// The most memory that the process has held so far, in bytes, where the kernel tells.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// Ends the process with SIGTERM.
    pub fn stop(mut self) -> Result<(), String> {
        self.check_running()?;
        match terminate(&mut self.child) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("{} did not end cleanly: {status}\n{}", self.name, self.log_tail())),
            None => {
                let seconds = GRACE.as_secs();
                Err(format!("{} had to be killed: it ignored SIGTERM for {seconds} s\n{}", self.name, self.log_tail()))
            }
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].iter().map(|line| format!("  | {line}\n")).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            terminate(&mut self.child);
        }
    }
}

/// Asks the kernel to end the child if this process dies without doing so.
#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and takes no pointers here.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_read_and_failures_are_named() {
        assert_eq!(output(&mut shell("echo one; echo two")).unwrap(), "one\ntwo");
        assert!(run(&mut shell("exit 3")).unwrap_err().starts_with("sh failed"));
        assert!(run(&mut Command::new("no-such-program")).unwrap_err().starts_with("cannot start no-such-program"));
    }

    #[test]
    fn a_daemon_that_ends_early_shows_its_log_and_one_that_runs_ends_on_sigterm() {
        let log = |name: &str| std::env::temp_dir().join(format!("xtask-{}-{name}.log", std::process::id()));
        let start = |name: &str, script: &str| {
            let arguments = ["-c".to_owned(), script.to_owned()];
            Daemon::start(name.to_owned(), Path::new("sh"), &arguments, log(name)).unwrap()
        };
        let mut short = start("short", "echo no luck; exit 1");
        let error = loop {
            match short.check_running() {
                Ok(()) => thread::sleep(TICK),
                Err(error) => break error,
            }
        };
        assert!(error.contains("short ended early") && error.contains("| no luck"), "{error}");

        let mut long = start("long", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done");
        while !fs::read_to_string(log("long")).unwrap().contains("ready") {
            thread::sleep(TICK);
        }
        long.check_running().unwrap();
        assert!(long.peak_memory().is_none_or(|bytes| bytes > 0));
        long.stop().unwrap();
        for name in ["short", "long"] {
            fs::remove_file(log(name)).unwrap();
        }
    }
}
