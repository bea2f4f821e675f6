// SPDX-License-Identifier: Apache-2.0
//! Options of the daemon: flags, then `BALLISTA_EXECUTOR_*` variables, then a TOML file, then defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::builder::DEFAULT_SCHEDULER_PORT;
use crate::{ExecutorBuilder, Size};
use ballista_core::ExecutorId;
use clap::Parser;
use serde::{Deserialize, Deserializer};

/// How long a cancelled task may compute on unless configured.
const STUCK_TASK_SECONDS: u64 = 60;

const EXAMPLES: &str = "\
Examples:
  An executor on this machine, with all its cores, for a scheduler on localhost:50050:
      ballista-executor

  A second one beside it, with two slots and little memory:
      ballista-executor --slots 2 --memory 2GiB

  On a host of a private network:
      ballista-executor --scheduler-host scheduler.internal --bind-host 0.0.0.0 --insecure \\
          --work-dir /mnt/nvme/ballista

  In a container whose port 50051 is published as 31051:
      ballista-executor --bind-host 0.0.0.0 --bind-port 50051 --insecure \\
          --advertise-host node7 --advertise-port 31051

  From a file; a flag or variable overrides it:
      ballista-executor --config /etc/ballista/executor.toml
    with, for instance:
      scheduler-host = \"scheduler.internal\"
      slots = 16
      memory = \"80%\"

SIGTERM or Ctrl-C drains: running tasks end, and what other executors or clients still need is served until the grace
period is over. A second signal stops at once.";

/// Runs tasks for a Ballista scheduler and serves what they wrote to other executors and clients.
#[derive(Debug, Default, Clone, PartialEq, Parser, Deserialize)]
#[command(name = "ballista-executor", version, after_help = EXAMPLES, max_term_width = 100)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// TOML file with any of these options, named as the flags without dashes in front
    #[arg(long, env = "BALLISTA_EXECUTOR_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// Host of the scheduler [default: localhost]
    #[arg(long, env = "BALLISTA_EXECUTOR_SCHEDULER_HOST", value_name = "HOST")]
    scheduler_host: Option<String>,

    /// Port of the scheduler [default: 50050]
    #[arg(long, env = "BALLISTA_EXECUTOR_SCHEDULER_PORT", value_name = "PORT")]
    scheduler_port: Option<u16>,

    /// Address to listen on for other executors and clients [default: 127.0.0.1]
    #[arg(long, env = "BALLISTA_EXECUTOR_BIND_HOST", value_name = "HOST")]
    bind_host: Option<String>,

    /// Port to listen on [default: any free one]
    #[arg(long, env = "BALLISTA_EXECUTOR_BIND_PORT", value_name = "PORT")]
    bind_port: Option<u16>,

    /// Host under which others reach this executor [default: the bind host, or the host's name if that is 0.0.0.0]
    #[arg(long, env = "BALLISTA_EXECUTOR_ADVERTISE_HOST", value_name = "HOST")]
    advertise_host: Option<String>,

    /// Port under which others reach this executor [default: the bind port]
    #[arg(long, env = "BALLISTA_EXECUTOR_ADVERTISE_PORT", value_name = "PORT")]
    advertise_port: Option<u16>,

    /// How many partitions to run at once [default: one per core]
    #[arg(long, env = "BALLISTA_EXECUTOR_SLOTS", value_name = "N")]
    slots: Option<u32>,

    /// Memory for operators and shuffle data: 512MiB, 4GiB, or a share of the container or host [default: 70%]
    #[arg(long, env = "BALLISTA_EXECUTOR_MEMORY", value_name = "SIZE")]
    #[serde(deserialize_with = "size")]
    memory: Option<Size>,

    /// Disk space, half of it for shuffle files and half of it for what operators spill: 100GiB, or a share of what is free
    /// at the start [default: 90%]
    #[arg(long, env = "BALLISTA_EXECUTOR_DISK", value_name = "SIZE")]
    #[serde(deserialize_with = "size")]
    disk: Option<Size>,

    /// Directory for shuffle and spill files, empty or used by executors before [default: a temporary one]
    #[arg(long, env = "BALLISTA_EXECUTOR_WORK_DIR", value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// Name in the cluster, of letters, digits, "-" and "_" [default: random]
    #[arg(long, env = "BALLISTA_EXECUTOR_ID", value_name = "NAME")]
    id: Option<String>,

    /// What to log to stderr: error, warn, info, debug, trace, or a filter such as info,ballista_executor=debug
    /// [default: info]
    #[arg(long, env = "BALLISTA_EXECUTOR_LOG_LEVEL", value_name = "FILTER")]
    log_level: Option<String>,

    /// How long draining may take [default: 60]
    #[arg(long, env = "BALLISTA_EXECUTOR_SHUTDOWN_GRACE_SECONDS", value_name = "SECONDS")]
    shutdown_grace_seconds: Option<u64>,

    /// End the process, to be started again, when a cancelled task computes on for so long that only this stops it; 0 =
    /// never [default: 60]
    #[arg(long, env = "BALLISTA_EXECUTOR_STUCK_TASK_SECONDS", value_name = "SECONDS")]
    stuck_task_seconds: Option<u64>,

    /// Allow a bind host that other machines can reach, although nothing is encrypted or authenticated
    #[arg(
        long, env = "BALLISTA_EXECUTOR_INSECURE", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true
    )]
    insecure: Option<bool>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Options {
    /// Adds what the configuration file says and neither flags nor variables do.
    pub fn with_file(self) -> Result<Self, String> {
        let Some(path) = &self.config else { return Ok(self) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let file = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(self.or(file))
    }

    fn or(self, other: Self) -> Self {
        Self {
            config: self.config.or(other.config),
            scheduler_host: self.scheduler_host.or(other.scheduler_host),
            scheduler_port: self.scheduler_port.or(other.scheduler_port),
            bind_host: self.bind_host.or(other.bind_host),
            bind_port: self.bind_port.or(other.bind_port),
            advertise_host: self.advertise_host.or(other.advertise_host),
            advertise_port: self.advertise_port.or(other.advertise_port),
            slots: self.slots.or(other.slots),
            memory: self.memory.or(other.memory),
            disk: self.disk.or(other.disk),
            stuck_task_seconds: self.stuck_task_seconds.or(other.stuck_task_seconds),
            work_dir: self.work_dir.or(other.work_dir),
            id: self.id.or(other.id),
            log_level: self.log_level.or(other.log_level),
            shutdown_grace_seconds: self.shutdown_grace_seconds.or(other.shutdown_grace_seconds),
            insecure: self.insecure.or(other.insecure),
        }
    }

    /// The filter for log lines.
    pub fn log_level(&self) -> &str {
        self.log_level.as_deref().unwrap_or("info")
    }

    /// The scheduler as people write it.
    pub fn scheduler(&self) -> String {
        format!("{}:{}", self.scheduler_host(), self.scheduler_port.unwrap_or(DEFAULT_SCHEDULER_PORT))
    }

    fn scheduler_host(&self) -> &str {
        self.scheduler_host.as_deref().unwrap_or("localhost")
    }

    /// An executor as these options want it.
    pub fn builder(self) -> Result<ExecutorBuilder, String> {
        let scheduler_port = self.scheduler_port.unwrap_or(DEFAULT_SCHEDULER_PORT);
        let bind_host = self.bind_host.as_deref().unwrap_or("127.0.0.1");
        let mut builder = ExecutorBuilder::new()
            .with_scheduler(self.scheduler_host(), scheduler_port)
            .with_bind_address(bind_host, self.bind_port.unwrap_or(0))
            .with_insecure(self.insecure.unwrap_or(false))
            .with_memory(self.memory.unwrap_or(Size::MEMORY))
            .with_disk(self.disk.unwrap_or(Size::DISK));
        match (self.advertise_host, self.advertise_port) {
            (Some(host), port) => builder = builder.with_advertised_address(host, port),
            (None, Some(port)) => builder = builder.with_advertised_address(bind_host, Some(port)),
            (None, None) => {}
        }
        if let Some(slots) = self.slots {
            builder = builder.with_slots(slots);
        }
        if let Some(work_dir) = self.work_dir {
            builder = builder.with_work_dir(work_dir);
        }
        if let Some(id) = self.id {
            builder = builder.with_id(ExecutorId::new(id).map_err(|error| format!("--id: {error}"))?);
        }
        if let Some(seconds) = self.shutdown_grace_seconds {
            builder = builder.with_shutdown_grace(Duration::from_secs(seconds));
        }
        match self.stuck_task_seconds.unwrap_or(STUCK_TASK_SECONDS) {
            0 => {}
            seconds => builder = builder.with_stuck_task_limit(Duration::from_secs(seconds)),
        }
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from(std::iter::once("ballista-executor").chain(arguments.iter().copied())).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_a_variable() {
        let command = Options::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let name = argument.get_id().as_str();
            let variable = format!("BALLISTA_EXECUTOR_{}", name.to_uppercase());
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
        }
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("executor.toml");
        std::fs::write(&path, "slots = 16\nmemory = \"2GiB\"\nscheduler-host = \"s\"\ninsecure = true\n").unwrap();
        let config = path.to_str().unwrap();
        let options = parse(&["--config", config, "--slots", "3"]).with_file().unwrap();
        assert_eq!(options.slots, Some(3));
        assert_eq!(options.memory, Some(Size::Bytes(2 << 30)));
        assert_eq!(options.scheduler(), "s:50050");
        assert_eq!(options.insecure, Some(true));
        assert_eq!(parse(&["--config", config, "--insecure=false"]).with_file().unwrap().insecure, Some(false));
        assert_eq!(parse(&["--insecure"]).insecure, Some(true));
    }

    #[test]
    fn a_misspelt_key_in_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("executor.toml");
        std::fs::write(&path, "slot = 16\n").unwrap();
        let error = parse(&["--config", path.to_str().unwrap()]).with_file().unwrap_err();
        assert!(error.contains("slot"), "{error}");
        assert!(parse(&["--config", "/no/such/file"]).with_file().unwrap_err().contains("/no/such/file"));
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(parse(&["--id", "../x"]).builder().is_err());
        assert!(Options::try_parse_from(["ballista-executor", "--memory", "lots"]).is_err());
    }
}
