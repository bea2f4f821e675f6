// SPDX-License-Identifier: Apache-2.0
//! Options of the daemon: from a flag, else from the environment, else from a TOML file, else the default.
//!
//! The file has the flags' names as keys: `bind-port = 50050`. An unknown key is an error.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ballista_scheduler_core::{Limits, Speculation};
use clap::Parser;
use serde::Deserialize;

use crate::builder::SchedulerBuilder;
use crate::error::{Result, SchedulerError};

const ABOUT: &str = "The scheduler of a Ballista cluster: plans queries, runs them on executors, and tells clients \
                     where their results are.";

const EXAMPLES: &str = "\
Examples:
  A cluster on this machine:
    ballista-scheduler &
    ballista-executor --scheduler-host 127.0.0.1 --scheduler-port 50050 &
    ballista-cli --host 127.0.0.1 --port 50050 -c 'SELECT 1'

  Reachable from other machines. There is no encryption and no authentication yet: whoever reaches the port can run
  queries and read every file that executors can read, and with SQL text those that this scheduler can read. Keep it
  inside a private network; --no-sql-sessions refuses SQL text.
    ballista-scheduler --bind-host 0.0.0.0 --advertise-host scheduler.internal --insecure

  Queries that survive the scheduler: kill it, start it again, and they go on.
    ballista-scheduler --state-dir /var/lib/ballista

Every option is also an environment variable, BALLISTA_SCHEDULER_BIND_PORT for --bind-port, and a key in the TOML file
of --config, bind-port = 50050. A flag goes before the environment, the environment before the file.

Stops cleanly on SIGTERM and Ctrl-C. Running queries go on with the next scheduler if there is a state directory; otherwise
they fail with an error that says so.";

/// Options as given, on the command line with the environment, or in a file.
#[derive(Debug, Clone, Default, PartialEq, Parser, Deserialize)]
#[command(name = "ballista-scheduler", version, about = ABOUT, after_long_help = EXAMPLES)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// TOML file with options
    #[arg(long, value_name = "FILE", env = "BALLISTA_SCHEDULER_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 or :: for all, which needs --insecure [default: 127.0.0.1]
    #[arg(long, value_name = "HOST", env = "BALLISTA_SCHEDULER_BIND_HOST")]
    pub bind_host: Option<String>,
    /// Port to listen on; 0 for any free one [default: 50050]
    #[arg(long, value_name = "PORT", env = "BALLISTA_SCHEDULER_BIND_PORT")]
    pub bind_port: Option<u16>,
    /// Host to show in the line "scheduler ready on HOST:PORT"; changes nothing else [default: the bind host]
    #[arg(long, value_name = "HOST", env = "BALLISTA_SCHEDULER_ADVERTISE_HOST")]
    pub advertise_host: Option<String>,
    /// An executor that is not heard of for this long is lost: its tasks run again on others [default: 10]
    #[arg(long, value_name = "SECONDS", env = "BALLISTA_SCHEDULER_LEASE_SECONDS")]
    pub lease_seconds: Option<u64>,
    /// How often executors shall be heard of [default: a fifth of the lease]
    #[arg(long, value_name = "MILLIS", env = "BALLISTA_SCHEDULER_HEARTBEAT_MILLIS")]
    pub heartbeat_millis: Option<u64>,
    /// How long a query waits for a first executor before it fails [default: 30]
    #[arg(long, value_name = "SECONDS", env = "BALLISTA_SCHEDULER_NO_EXECUTOR_WAIT_SECONDS")]
    pub no_executor_wait_seconds: Option<u64>,
    /// A task that failed this often through no fault of the query fails the query [default: 4]
    #[arg(long, value_name = "N", env = "BALLISTA_SCHEDULER_MAX_TASK_FAILURES")]
    pub max_task_failures: Option<u32>,
    /// A task that runs for so many times the median of its stage, and a second at least, gets a second attempt elsewhere;
    /// 0 = never [default: 2]
    #[arg(long, value_name = "TIMES", env = "BALLISTA_SCHEDULER_SPECULATION_MULTIPLIER")]
    pub speculation_multiplier: Option<f64>,
    /// Part of a stage that must be done before its tasks count as late [default: 0.75]
    #[arg(long, value_name = "PART", env = "BALLISTA_SCHEDULER_SPECULATION_QUANTILE")]
    pub speculation_quantile: Option<f64>,
    /// Directory for what is needed to go on after this process dies: running queries, results that wait for their clients.
    /// One scheduler owns it [default: none, queries end with the process]
    #[arg(long, value_name = "DIR", env = "BALLISTA_SCHEDULER_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// If the state directory is damaged, move its content aside and start without the jobs it knew
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        env = "BALLISTA_SCHEDULER_DISCARD_DAMAGED_STATE"
    )]
    pub discard_damaged_state: Option<bool>,
    /// How long a query waits for its client after their connection broke, before it is cancelled [default: 30]
    #[arg(long, value_name = "SECONDS", env = "BALLISTA_SCHEDULER_CLIENT_GRACE_SECONDS")]
    pub client_grace_seconds: Option<u64>,
    /// How long results of detached queries, and of those with an idempotency key, are kept [default: 900]
    #[arg(long, value_name = "SECONDS", env = "BALLISTA_SCHEDULER_RESULT_TTL_SECONDS")]
    pub result_ttl_seconds: Option<u64>,
    /// A session of SQL text without a statement for this long is closed [default: 3600]
    #[arg(long, value_name = "SECONDS", env = "BALLISTA_SCHEDULER_SESSION_IDLE")]
    pub session_idle: Option<u64>,
    /// Take no SQL text, only plans: whoever sends text can read the files of this host
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        env = "BALLISTA_SCHEDULER_NO_SQL_SESSIONS"
    )]
    pub no_sql_sessions: Option<bool>,
    /// error, warn, info, debug or trace, also per module: info,ballista_scheduler=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "BALLISTA_SCHEDULER_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Accept connections from other machines although nothing is encrypted and nobody is asked who they are
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        env = "BALLISTA_SCHEDULER_INSECURE"
    )]
    pub insecure: Option<bool>,
}

/// Options with defaults filled in, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address to listen on.
    pub bind_host: String,
    /// Port to listen on; 0 for any.
    pub bind_port: u16,
    /// Host as shown in the line that says that the scheduler is ready.
    pub advertise_host: String,
    /// Lease of executors.
    pub lease: Duration,
    /// Heartbeat, if not the default.
    pub heartbeat: Option<Duration>,
    /// How long queries wait for an executor.
    pub no_executor_wait: Duration,
    /// Retries and second attempts.
    pub limits: Limits,
    /// Where state survives the process.
    pub state_dir: Option<PathBuf>,
    /// Whether damaged state is moved aside.
    pub discard_damaged_state: bool,
    /// How long queries wait for their clients.
    pub client_grace: Duration,
    /// How long results wait.
    pub result_ttl: Duration,
    /// How long sessions of SQL text may be idle.
    pub session_idle: Duration,
    /// Whether there are such sessions.
    pub sql_sessions: bool,
    /// Filter of log messages.
    pub log_level: String,
}

impl Options {
    /// Reads the file, fills in defaults, checks.
    pub fn settings(self) -> Result<Settings> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        self.or(file).checked()
    }

    /// What is given here, else what is given there.
    fn or(self, other: Self) -> Self {
        Self {
            config: self.config,
            bind_host: self.bind_host.or(other.bind_host),
            bind_port: self.bind_port.or(other.bind_port),
            advertise_host: self.advertise_host.or(other.advertise_host),
            lease_seconds: self.lease_seconds.or(other.lease_seconds),
            heartbeat_millis: self.heartbeat_millis.or(other.heartbeat_millis),
            no_executor_wait_seconds: self.no_executor_wait_seconds.or(other.no_executor_wait_seconds),
            max_task_failures: self.max_task_failures.or(other.max_task_failures),
            speculation_multiplier: self.speculation_multiplier.or(other.speculation_multiplier),
            speculation_quantile: self.speculation_quantile.or(other.speculation_quantile),
            state_dir: self.state_dir.or(other.state_dir),
            discard_damaged_state: self.discard_damaged_state.or(other.discard_damaged_state),
            client_grace_seconds: self.client_grace_seconds.or(other.client_grace_seconds),
            result_ttl_seconds: self.result_ttl_seconds.or(other.result_ttl_seconds),
            session_idle: self.session_idle.or(other.session_idle),
            no_sql_sessions: self.no_sql_sessions.or(other.no_sql_sessions),
            log_level: self.log_level.or(other.log_level),
            insecure: self.insecure.or(other.insecure),
        }
    }

    fn checked(self) -> Result<Settings> {
        let bind_host = self.bind_host.unwrap_or_else(|| "127.0.0.1".to_owned());
        if !is_loopback(&bind_host) && !self.insecure.unwrap_or(false) {
            return Err(SchedulerError::Config(format!(
                "--bind-host {bind_host} accepts connections from other machines, and nothing is encrypted and nobody \
                 is asked who they are; listen on 127.0.0.1, or say --insecure if the network is private"
            )));
        }
        let mut limits = Limits::default();
        if let Some(failures) = self.max_task_failures {
            limits.max_task_failures = failures.max(1);
        }
        let mut speculation = Speculation::default();
        speculation.multiplier = self.speculation_multiplier.unwrap_or(speculation.multiplier);
        speculation.quantile = self.speculation_quantile.unwrap_or(speculation.quantile);
        if !(0.0..=1.0).contains(&speculation.quantile) || speculation.multiplier < 0.0 {
            return Err(SchedulerError::Config(
                "--speculation-quantile is a part between 0 and 1, --speculation-multiplier is not negative".to_owned(),
            ));
        }
        limits.speculation = (speculation.multiplier > 0.0).then_some(speculation);
        Ok(Settings {
            limits,
            bind_port: self.bind_port.unwrap_or(50050),
            advertise_host: self.advertise_host.unwrap_or_else(|| bind_host.clone()),
            bind_host,
            lease: Duration::from_secs(self.lease_seconds.unwrap_or(10)),
            heartbeat: self.heartbeat_millis.map(Duration::from_millis),
            no_executor_wait: Duration::from_secs(self.no_executor_wait_seconds.unwrap_or(30)),
            state_dir: self.state_dir,
            discard_damaged_state: self.discard_damaged_state.unwrap_or(false),
            client_grace: Duration::from_secs(self.client_grace_seconds.unwrap_or(30)),
            result_ttl: Duration::from_secs(self.result_ttl_seconds.unwrap_or(900)),
            session_idle: Duration::from_secs(self.session_idle.unwrap_or(3600)),
            sql_sessions: !self.no_sql_sessions.unwrap_or(false),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

impl Settings {
    /// A builder with these settings.
    pub fn apply(&self, builder: SchedulerBuilder) -> SchedulerBuilder {
        let builder = builder
            .limits(self.limits.clone())
            .lease(self.lease)
            .no_executor_wait(self.no_executor_wait)
            .client_grace(self.client_grace)
            .result_ttl(self.result_ttl)
            .discard_damaged_state(self.discard_damaged_state)
            .session_idle(self.session_idle)
            .sql_sessions(self.sql_sessions);
        let builder = match &self.state_dir {
            Some(dir) => builder.state_dir(dir),
            None => builder,
        };
        match self.heartbeat {
            Some(heartbeat) => builder.heartbeat(heartbeat),
            None => builder,
        }
    }
}

fn read(path: &Path) -> Result<Options> {
    let refused = |reason: String| SchedulerError::Config(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    toml::from_str(&text).map_err(|error| refused(error.to_string()))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from(["ballista-scheduler"].iter().chain(arguments)).unwrap()
    }

    #[test]
    fn the_command_line_is_well_formed_and_every_option_has_a_variable() {
        let command = Options::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let name = argument.get_id().as_str().to_uppercase();
            let variable = argument.get_env().unwrap_or_else(|| panic!("{name} has no variable"));
            assert_eq!(variable.to_str(), Some(format!("BALLISTA_SCHEDULER_{name}").as_str()));
        }
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.toml");
        std::fs::write(&path, "bind-port = 7\nlease-seconds = 20\nlog-level = \"debug\"\n").unwrap();
        let settings = parse(&["--config", path.to_str().unwrap(), "--bind-port", "8"]).settings().unwrap();
        assert_eq!(
            (settings.bind_port, settings.lease, settings.log_level.as_str()),
            (8, Duration::from_secs(20), "debug")
        );
        assert_eq!((settings.bind_host.as_str(), settings.advertise_host.as_str()), ("127.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn an_unknown_key_in_the_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.toml");
        std::fs::write(&path, "bind-prot = 7\n").unwrap();
        let error = parse(&["--config", path.to_str().unwrap()]).settings().unwrap_err();
        assert!(error.to_string().contains("bind-prot"), "{error}");
    }

    #[test]
    fn sql_text_is_taken_unless_it_is_refused() {
        let settings = |arguments: &[&str]| parse(arguments).settings().unwrap();
        let given = settings(&["--session-idle", "60"]);
        assert_eq!((given.sql_sessions, given.session_idle), (true, Duration::from_secs(60)));
        assert!(!settings(&["--no-sql-sessions"]).sql_sessions);
        assert!(settings(&["--no-sql-sessions=false"]).sql_sessions);
    }

    #[test]
    fn other_machines_are_let_in_only_on_request() {
        for host in ["0.0.0.0", "::", "10.0.0.1", "example.org"] {
            let error = parse(&["--bind-host", host]).settings().unwrap_err();
            assert!(error.to_string().contains("--insecure"), "{error}");
            assert!(parse(&["--bind-host", host, "--insecure"]).settings().is_ok());
            assert!(parse(&["--bind-host", host, "--insecure=false"]).settings().is_err());
        }
        for host in ["localhost", "127.0.0.1", "::1"] {
            assert!(parse(&["--bind-host", host]).settings().is_ok());
        }
    }
}
