// SPDX-License-Identifier: Apache-2.0
//! A daemon as who starts it sees it: arguments and variables in; lines, and an exit code after a signal, out.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A daemon that takes longer for a step hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a signal to a daemon without work may take.
pub const SOON: Duration = Duration::from_secs(8);

/// The program at `path`, without what the environment of the tests says about daemons.
pub fn program(path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BALLISTA_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running process; killed when dropped.
pub struct Daemon {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

/// What is left of a process.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// Lines that nobody had waited for.
    pub out: Vec<String>,
    /// The same of standard error.
    pub err: Vec<String>,
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    /// The next line on standard output.
    pub fn said(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("it said nothing, but logged {:?}", self.err.try_iter().collect::<Vec<_>>());
        })
    }

    /// The next line on standard error that contains `text`.
    pub fn logged(&self, text: &str) -> String {
        let mut before = vec![];
        loop {
            match self.err.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("no \"{text}\" in {before:?}"),
            }
        }
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child that was not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end.
    pub fn ended(self) -> Ended {
        self.ended_within(PATIENCE)
    }

    /// Waits for the end, which must come soon enough.
    pub fn ended_within(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The threads send everything before they end.
                let (out, err) = (self.out.iter().collect(), self.err.iter().collect());
                return Ended { code: status.code(), out, err };
            }
            let log: Vec<_> = if start.elapsed() > limit { self.err.try_iter().collect() } else { vec![] };
            assert!(start.elapsed() <= limit, "it runs on; it logged {log:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// What it complained of as it failed, having said nothing else.
    pub fn complaint(self) -> String {
        assert_eq!((self.code, self.out.as_slice()), (Some(1), [].as_slice()), "{:?}", self.err);
        self.err.join("\n")
    }
}

/// What `--help` prints.
pub fn help(path: &str) -> String {
    let ended = Daemon::start(program(path, &["--help"])).ended();
    assert_eq!((ended.code, ended.err.as_slice()), (Some(0), [].as_slice()));
    ended.out.join("\n")
}

/// The names of the flags in a help text.
pub fn flags(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let names = lines.map(|line| line.split([' ', '[']).next().unwrap().to_owned());
    let flags: Vec<_> = names.filter(|name| name != "config").collect();
    assert!(flags.len() > 5, "{help}");
    flags
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Nobody may be listening any more.
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    receiver
}
