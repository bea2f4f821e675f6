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
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
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

/// A background process. Its logs, on standard error, go to a file; so does its standard output, on which it says in
/// one line that it is ready. Dropping it ends it.
pub struct Daemon {
    child: Child,
    /// For messages.
    pub name: String,
    log: PathBuf,
    output: PathBuf,
}

impl Daemon {
    /// Starts `program` in a process group of its own, so that Ctrl-C in the terminal reaches only the task runner.
    /// Its files are `<name>.log` and `<name>.out` in `dir`.
    pub fn start(name: &str, program: &Path, arguments: &[String], dir: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot start {name} ({}): {error}", program.display());
        let (log, output) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.out")));
        let errors_to = File::create(&log).map_err(cannot)?;
        let output_to = File::create(&output).map_err(cannot)?;
        let mut command = Command::new(program);
        command.current_dir(crate::cargo::workspace());
        command.args(arguments).stdin(Stdio::null()).stdout(output_to).stderr(errors_to).process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(cannot)?;
        Ok(Self { child, name: name.to_owned(), log, output })
    }

    /// Waits until the process has written a line to its standard output, and returns it.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        loop {
            let text = fs::read_to_string(&self.output)
                .map_err(|error| format!("cannot read {}: {error}", self.output.display()))?;
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
            self.check_running()?;
            if Instant::now() > deadline {
                let (name, seconds) = (&self.name, limit.as_secs());
                return Err(format!("{name} is not ready after {seconds} s\n{}", self.log_tail()));
            }
            tick()?;
        }
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
    fn daemons_tell_when_they_are_ready_and_show_their_log_if_they_fail() {
        let dir = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let start = |name: &str, script: &str| {
            Daemon::start(name, Path::new("sh"), &["-c".to_owned(), script.to_owned()], &dir).unwrap()
        };
        let limit = Duration::from_secs(20);

        let mut broken = start("broken", "echo no luck >&2; exit 1");
        let error = broken.wait_until_ready(limit).unwrap_err();
        assert!(error.contains("broken ended early") && error.contains("| no luck"), "{error}");

        let mut slow = start("slow", "sleep 60");
        let error = slow.wait_until_ready(Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("slow is not ready after 0 s"), "{error}");
        drop(slow);

        let mut good = start("good", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done");
        assert_eq!(good.wait_until_ready(limit).unwrap(), "ready");
        assert!(good.peak_memory().is_none_or(|bytes| bytes > 0));
        good.stop().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
