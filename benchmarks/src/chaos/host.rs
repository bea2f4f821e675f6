// SPDX-License-Identifier: Apache-2.0
//! The daemons as this program runs them: the real ones, to which the functions of [`hostile`](super::hostile) are
//! registered, and in which faults happen that the environment asks for.
//!
//! | variable | what happens |
//! |---|---|
//! | `BALLISTA_CHAOS_KILL=FILE` | SIGKILL at the place of [`fault`] that the file names, for whoever is there first |
//! | `BALLISTA_CHAOS_DELAY=place:millis` | a pause of up to so long, each time the place is reached |
//! | `BALLISTA_CHAOS_WITHOUT=checksum` | what `without-checksum` protects is left out; likewise with `commit` |
//!
//! The daemons that people run have neither the functions nor the faults.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ballista_core::fault;
use ballista_executor::daemon as executor;
use ballista_scheduler::daemon as scheduler;
use clap::{Subcommand, ValueEnum};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

use super::{Draws, hostile};

/// Variable that makes a process die at a place.
pub const KILL: &str = "BALLISTA_CHAOS_KILL";
/// Variable that makes a process pause at a place.
pub const DELAY: &str = "BALLISTA_CHAOS_DELAY";
/// Variable that leaves a protection out.
pub const WITHOUT: &str = "BALLISTA_CHAOS_WITHOUT";

/// A protection that can be left out, to see that its scenario notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protection {
    /// Checksums of blocks, for which there is the scenario flip
    Checksum,
    /// That files of a write appear when the scheduler says so, for which there is the scenario write
    Commit,
}

impl Protection {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Commit => "commit",
        }
    }
}

/// A daemon with hostile functions and faults. Not for people: [`Fleet`](super::fleet::Fleet) starts them.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// The scheduler
    #[command(hide = true)]
    SchedulerHost(scheduler::options::Options),
    /// An executor
    #[command(hide = true)]
    ExecutorHost(executor::Options),
}

impl Host {
    /// Runs it until it is told to stop.
    ///
    /// # Errors
    /// If it cannot start or go on.
    pub fn run(self) -> Result<()> {
        let failed = |text: String| DataFusionError::Execution(text);
        let variable = |name| std::env::var(name).ok();
        if let Some(faults) = Faults::parse(variable(KILL), variable(DELAY), variable(WITHOUT)).map_err(failed)? {
            fault::set_hook(Box::new(move |place| faults.at(place)));
        }
        match self {
            Self::SchedulerHost(options) => {
                scheduler::run_with(options, |builder| builder.session_state(session_state()))
                    .map_err(|error| DataFusionError::External(Box::new(error)))
            }
            Self::ExecutorHost(options) => options
                .with_file()
                .and_then(|options| executor::run_with(options, |builder| builder.with_session_state(session_state())))
                .map_err(failed),
        }
    }
}

/// Leaves a protection out in this process too, where the clients are.
pub fn leave_out(protection: Protection) {
    let faults = Faults { without: Some(protection.name().to_owned()), ..Faults::default() };
    fault::set_hook(Box::new(move |place| faults.at(place)));
}

fn session_state() -> SessionState {
    let context = SessionContext::new();
    hostile::functions().into_iter().for_each(|function| context.register_udf(function));
    context.state()
}

/// What the environment asks for.
#[derive(Debug, Default)]
struct Faults {
    /// File that names a place, while there is one.
    kill: Option<PathBuf>,
    delay: Option<(String, u64)>,
    draws: Mutex<Draws>,
    without: Option<String>,
}

impl Faults {
    /// Of the values of the variables. `None` if there are none.
    fn parse(
        kill: Option<String>,
        delay: Option<String>,
        without: Option<String>,
    ) -> std::result::Result<Option<Self>, String> {
        if kill.is_none() && delay.is_none() && without.is_none() {
            return Ok(None);
        }
        let pair = |text: String| {
            let (place, number) = text.split_once(':').ok_or_else(|| format!("\"{text}\" is not place:number"))?;
            let number = number.parse::<u64>().map_err(|error| format!("\"{text}\": {error}"))?;
            Ok::<_, String>((place.to_owned(), number))
        };
        if let Some(name) = &without {
            Protection::from_str(name, false)?;
        }
        let draws = Mutex::new(Draws::new(u64::from(std::process::id())));
        let (kill, delay) = (kill.map(PathBuf::from), delay.map(pair).transpose()?);
        Ok(Some(Self { kill, delay, draws, without }))
    }

    fn at(&self, place: &str) -> bool {
        if self.kill.as_ref().is_some_and(|file| is_first(file, place)) {
            // This thread does not come past the place. Should there be no such program, aborting is as good.
            let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            std::process::abort();
        }
        if let Some((slow, millis)) = &self.delay
            && slow == place
        {
            let pause = self.draws.lock().unwrap_or_else(PoisonError::into_inner).below(*millis);
            std::thread::sleep(Duration::from_millis(pause));
        }
        self.without.as_deref().is_some_and(|name| place.strip_prefix("without-") == Some(name))
    }
}

/// Whether `file` names `place`, and nobody else has seen that.
fn is_first(file: &Path, place: &str) -> bool {
    let names_it = std::fs::read_to_string(file).is_ok_and(|named| named == place);
    // One process only can remove it.
    names_it && std::fs::remove_file(file).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(kill: &str, delay: &str, without: &str) -> std::result::Result<Option<Faults>, String> {
        let value = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Faults::parse(value(kill), value(delay), value(without))
    }

    #[test]
    fn what_is_asked_for_happens_at_its_place_only() {
        assert!(faults("", "", "").unwrap().is_none());
        let asked = faults("/nowhere", "fetch:1", "commit").unwrap().unwrap();
        assert!(asked.at("without-commit"));
        assert!(!asked.at("without-checksum") && !asked.at("commit") && !asked.at("fetch") && !asked.at("status"));
    }

    #[test]
    fn one_process_dies_at_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deadly");
        assert!(!is_first(&file, "status"));
        std::fs::write(&file, "status").unwrap();
        assert!(!is_first(&file, "fetch") && is_first(&file, "status") && !is_first(&file, "status"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (kill, delay, without) in [("", "status", ""), ("", "status:x", ""), ("", "", "sleep")] {
            assert!(faults(kill, delay, without).is_err(), "{kill}{delay}{without}");
        }
    }
}
