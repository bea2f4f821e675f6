// SPDX-License-Identifier: Apache-2.0
//! The program `ballista-executor` as a process of its own: options, its line, signals, exit codes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use ballista_proto::scheduler_service_server::SchedulerServiceServer;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::process::{Daemon, SOON, flags, help, program};
use crate::scheduler::{FakeScheduler, Heard};

const PATH: &str = env!("CARGO_BIN_EXE_ballista-executor");

/// A folder for temporary files, and a port that may have a scheduler.
struct Place {
    folder: TempDir,
    /// Bound, but refuses connections until it listens.
    socket: Option<TcpSocket>,
    port: String,
}

impl Place {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        Self { folder: tempfile::tempdir().unwrap(), socket: Some(socket), port }
    }

    /// An executor for the scheduler of this place.
    fn executor(&self, arguments: &[&str]) -> Command {
        let common = ["--scheduler-host", "127.0.0.1", "--scheduler-port", &self.port, "--memory", "256MiB"];
        let mut command = program(PATH, &[&common, arguments].concat());
        command.env("TMPDIR", self.temporary());
        command
    }

    fn temporary(&self) -> PathBuf {
        let path = self.folder.path().join("tmp");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.temporary()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn config(&self, text: &str) -> String {
        let path = self.folder.path().join("executor.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// From now on there is a scheduler.
    fn open(&mut self) -> UnboundedReceiver<(String, Heard)> {
        let (scheduler, ears) = FakeScheduler::new();
        let listener = self.socket.take().unwrap().listen(16).unwrap();
        let service = SchedulerServiceServer::new(scheduler);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        ears
    }
}

#[test]
fn help_teaches_flags_variables_keys_defaults_and_signals() {
    let help = help(PATH);
    for flag in flags(&help) {
        let variable = format!("[env: BALLISTA_EXECUTOR_{}=", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&variable), "{variable} is not in {help}");
    }
    for text in ["[default: localhost]", "[default: 50050]", "[default: 70%]", "slots = 16", "SIGTERM", "Examples:"] {
        assert!(help.contains(text), "{text} is not in {help}");
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_and_the_known_ones_are_the_flags() {
    let place = Place::new();
    let config = place.config("slot = 2\n");
    let complaint = Daemon::start(place.executor(&["--config", &config])).ended().complaint();
    assert!(complaint.starts_with("ballista-executor: ") && complaint.contains("executor.toml"), "{complaint}");
    assert!(complaint.contains("unknown field `slot`"), "{complaint}");
    for flag in flags(&help(PATH)) {
        assert!(complaint.contains(&format!("`{flag}`")), "--{flag} is no key: {complaint}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_goes_before_the_file_and_a_flag_before_both() {
    let mut place = Place::new();
    let _ears = place.open();
    let config = place.config("id = \"file\"\nslots = 3\nmemory = \"1GiB\"\n");
    let said = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = place.executor(&[&["--config", &config], arguments].concat());
        command.envs(variable.map(|id| ("BALLISTA_EXECUTOR_ID", id)));
        let line = Daemon::start(command).said();
        let (id, rest) = line.strip_prefix("executor ").unwrap().split_once(" ready on 127.0.0.1:").unwrap();
        let (_port, rest) = rest.split_once(", ").unwrap();
        assert_eq!(rest, format!("3 slots, 256 MiB memory, connected to scheduler 127.0.0.1:{}", place.port));
        id.to_owned()
    };
    assert_eq!(said(None, &[]), "file");
    assert_eq!(said(Some("variable"), &[]), "variable");
    assert_eq!(said(Some("variable"), &["--id", "flag"]), "flag");
    assert_eq!(said(None, &["--id", "flag"]), "flag");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named_and_port_0_is_a_free_one() {
    let mut place = Place::new();
    let _ears = place.open();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = place.config(&format!("bind-port = {}\n", taken.local_addr().unwrap().port()));
    let complaint = Daemon::start(place.executor(&["--config", &config])).ended().complaint();
    assert!(complaint.contains(&taken.local_addr().unwrap().to_string()), "{complaint}");
    let mut command = place.executor(&["--config", &config]);
    command.env("BALLISTA_EXECUTOR_BIND_PORT", "0");
    let line = Daemon::start(command).said();
    let (_, rest) = line.split_once(" ready on ").unwrap();
    let (address, _) = rest.split_once(", ").unwrap();
    assert_ne!(address.parse::<SocketAddr>().unwrap().port(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_signal_tells_the_scheduler_and_is_a_clean_end() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut place = Place::new();
        let mut ears = place.open();
        let daemon = Daemon::start(place.executor(&["--id", "one"]));
        daemon.said();
        daemon.signal(signal);
        let ended = daemon.ended_within(SOON);
        assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{:?}", ended.err);
        assert_eq!(place.left_behind(), Vec::<PathBuf>::new());
        let mut heard = vec![];
        while let Ok((_, message)) = ears.try_recv() {
            heard.push(message);
        }
        assert!(heard.iter().any(|message| matches!(message, Heard::Draining)), "{heard:?}");
    }
}

#[tokio::test]
async fn an_executor_without_a_scheduler_tries_on_and_ends_when_told() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let place = Place::new();
        let daemon = Daemon::start(place.executor(&[]));
        daemon.logged(&format!("127.0.0.1:{}", place.port));
        for _ in 0..3 {
            daemon.logged("no connection to the scheduler");
        }
        daemon.signal(signal);
        let ended = daemon.ended_within(SOON);
        assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{:?}", ended.err);
        assert_eq!(place.left_behind(), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_finds_a_scheduler_that_comes_later() {
    let mut place = Place::new();
    let daemon = Daemon::start(place.executor(&["--id", "early"]));
    daemon.logged("no connection to the scheduler");
    let _ears = place.open();
    assert!(daemon.said().starts_with("executor early ready on "));
}
