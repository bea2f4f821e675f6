// SPDX-License-Identifier: Apache-2.0
//! The program `ballista-scheduler` as a process of its own: options, its line, signals, exit codes.

#![allow(clippy::unwrap_used)]

mod process;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use process::{Daemon, SOON, flags, help, program};
use tempfile::TempDir;

const PATH: &str = env!("CARGO_BIN_EXE_ballista-scheduler");
const PORT_VARIABLE: &str = "BALLISTA_SCHEDULER_BIND_PORT";
const HOST_VARIABLE: &str = "BALLISTA_SCHEDULER_ADVERTISE_HOST";

fn scheduler(arguments: &[&str]) -> Command {
    program(PATH, arguments)
}

fn config(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// The address in the line of a scheduler that is ready.
fn address(daemon: &Daemon) -> String {
    let line = daemon.said();
    line.strip_prefix("scheduler ready on ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[test]
fn help_teaches_flags_variables_keys_defaults_and_signals() {
    let help = help(PATH);
    for flag in flags(&help) {
        let variable = format!("[env: BALLISTA_SCHEDULER_{}=", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&variable), "{variable} is not in {help}");
    }
    for text in ["[default: 127.0.0.1]", "[default: 50050]", "bind-port = 50050", "TOML", "SIGTERM", "Examples:"] {
        assert!(help.contains(text), "{text} is not in {help}");
    }
}

#[test]
fn an_unknown_key_is_named_and_the_known_ones_are_the_flags() {
    let (_folder, path) = config("bind-prot = 7\n");
    let complaint = Daemon::start(scheduler(&["--config", path.to_str().unwrap()])).ended().complaint();
    assert!(complaint.starts_with("ballista-scheduler: ") && complaint.contains("scheduler.toml"), "{complaint}");
    assert!(complaint.contains("unknown field `bind-prot`"), "{complaint}");
    for flag in flags(&help(PATH)) {
        assert!(complaint.contains(&format!("`{flag}`")), "--{flag} is no key: {complaint}");
    }
}

#[test]
fn what_cannot_be_used_ends_with_a_message() {
    let (_folder, path) = config("bind-port = \"x\"\n");
    let wrong_type = Daemon::start(scheduler(&["--config", path.to_str().unwrap()])).ended().complaint();
    assert!(wrong_type.contains("bind-port"), "{wrong_type}");
    let no_file = Daemon::start(scheduler(&["--config", "/no/such/file"])).ended().complaint();
    assert!(no_file.contains("/no/such/file"), "{no_file}");
    let public = Daemon::start(scheduler(&["--bind-host", "0.0.0.0"])).ended().complaint();
    assert!(public.contains("--insecure"), "{public}");
}

#[test]
fn a_variable_goes_before_the_file_and_a_flag_before_both() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address_taken = taken.local_addr().unwrap();
    let port = address_taken.port().to_string();
    let start = |in_file: &str, variable: Option<&str>, flag: Option<&str>| {
        let (folder, path) = config(&format!("bind-port = {in_file}\n"));
        let mut arguments = vec!["--config", path.to_str().unwrap()];
        arguments.extend(flag.into_iter().flat_map(|port| ["--bind-port", port]));
        let mut command = scheduler(&arguments);
        command.envs(variable.map(|port| (PORT_VARIABLE, port)));
        (folder, Daemon::start(command))
    };
    for (in_file, variable, flag) in
        [(&*port, None, None), ("0", Some(&*port), None), ("0", Some("0"), Some(&*port)), ("0", None, Some(&*port))]
    {
        let complaint = start(in_file, variable, flag).1.ended().complaint();
        assert!(complaint.contains(&address_taken.to_string()), "{complaint}");
    }
    for (in_file, variable, flag) in
        [(&*port, Some("0"), None), (&*port, Some(&*port), Some("0")), (&*port, None, Some("0")), ("0", None, None)]
    {
        let (_folder, daemon) = start(in_file, variable, flag);
        address(&daemon);
    }
}

#[test]
fn the_advertised_host_is_the_one_that_is_shown() {
    let (_folder, path) = config("bind-port = 0\nadvertise-host = \"file.example\"\n");
    let arguments = ["--config", path.to_str().unwrap(), "--advertise-host", "flag.example"];
    let shown = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = scheduler(arguments);
        command.envs(variable.map(|host| (HOST_VARIABLE, host)));
        let address = address(&Daemon::start(command));
        address.rsplit_once(':').unwrap().0.to_owned()
    };
    assert_eq!(shown(None, &arguments[..2]), "file.example");
    assert_eq!(shown(Some("variable.example"), &arguments[..2]), "variable.example");
    assert_eq!(shown(Some("variable.example"), &arguments), "flag.example");
    assert_eq!(shown(None, &["--bind-port", "0", "--bind-host", "localhost"]), "localhost");
}

#[test]
fn port_0_is_a_free_one_each_time() {
    let daemons = [(); 2].map(|()| Daemon::start(scheduler(&["--bind-port", "0"])));
    let addresses = daemons.each_ref().map(address);
    assert_ne!(addresses[0], addresses[1]);
    for address in &addresses {
        TcpStream::connect(address).unwrap();
    }
}

#[test]
fn either_signal_is_a_clean_end_even_at_once_and_with_clients_connected() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for connected in [false, true] {
            let daemon = Daemon::start(scheduler(&["--bind-port", "0"]));
            let address = address(&daemon);
            let client = connected.then(|| TcpStream::connect(&address).unwrap());
            daemon.signal(signal);
            daemon.logged("stopping");
            let ended = daemon.ended_within(SOON);
            assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{:?}", ended.err);
            drop(client);
            assert!(TcpStream::connect(&address).is_err());
        }
    }
}
