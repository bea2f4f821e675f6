// SPDX-License-Identifier: Apache-2.0
//! A scenario, from its cluster's start to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::{DataFusionError, Result};

use super::fleet::{Extra, Fleet, Setup};
use super::full::{self, Disk};
use super::host::{DELAY, KILL, Protection, WITHOUT};
use super::load::{Clients, Load};
use super::log::Again;
use super::matrix::{self, Matrix};
use super::oracle::Oracle;
use super::process::Programs;
use super::restart::Restart;
use super::strike::Strikes;
use super::tally::Tally;
use super::{Draws, Scenario, pause, udf};

/// A scheduler is ready within this time.
const READY: Duration = Duration::from_secs(10);

/// Fewer finished outputs tell nothing about how many count again.
const ENOUGH_OUTPUTS: usize = 50;

/// What all scenarios have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// Folder of the tables.
    pub data: PathBuf,
    /// Folder of the daemons' programs.
    pub binaries: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// Faults of each.
    pub faults: u64,
    /// Decides which process is hit when.
    pub seed: u64,
    /// Clients, each running one query at a time.
    pub clients: usize,
    /// Executors.
    pub executors: usize,
    /// Slots of each.
    pub slots: u32,
    /// What is left out, to see that it is noticed.
    pub without: Option<Protection>,
}

/// What came of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Ran {
        /// Processes that were hit.
        fired: u64,
        /// What was launched again. `None` if the scheduler was started again, whose logs do not tell.
        again: Option<Again>,
    },
    /// It cannot run here, and why.
    LeftOut(String),
}

/// Runs a scenario, with its files in `dir`.
///
/// # Errors
/// If a fault did not fire or did harm, or the cluster does not start or live.
pub async fn run(
    common: &Common,
    scenario: Scenario,
    dir: &Path,
    oracle: &Arc<Oracle>,
    tally: &Arc<Tally>,
) -> Result<Outcome> {
    let disk = match scenario {
        Scenario::Full => match Disk::mount(dir.join("disk")) {
            Ok(disk) => Some(disk),
            Err(reason) => return Ok(Outcome::LeftOut(reason)),
        },
        _ => None,
    };
    let settings = disk.iter().map(|_| full::SETTING.to_owned()).collect();
    let setup = setup(common, scenario, dir, disk.as_ref());
    let mut strikes = Strikes {
        scenario,
        draws: Draws::new(common.seed),
        clients: Clients { url: String::new(), data: common.data.clone(), settings },
        oracle: Arc::clone(oracle),
        tally: Arc::clone(tally),
        restarts: Vec::new(),
        matrix: None,
        disk,
    };
    // Ends before the disk is unmounted.
    let mut fleet = Fleet::start(setup).await?;
    strikes.clients.url = fleet.url();
    let copies = dir.join("copies");
    if scenario == Scenario::Matrix {
        let matrix = Matrix::new(&strikes.clients, oracle, dir, &mut strikes.draws).await?;
        strikes.matrix = Some(matrix);
    }
    let writes = scenario.writes().then_some(copies.as_path());
    let clients = if scenario.has_load() { common.clients } else { 0 };
    let load = Load::start(&strikes.clients, clients, writes, oracle, tally).await?;
    let fired = strike_all(common.faults, &mut strikes, &mut fleet).await;
    load.end().await;
    let fired = fired?;
    if writes.is_some() {
        let left = litter(&copies)?;
        println!("{left} files of writes that were given up are left behind");
        if left > 0 {
            return Err(DataFusionError::Execution(format!("{left} files are left behind")));
        }
    }
    if !fleet.scheduler_lives() {
        return Err(DataFusionError::Execution("the scheduler has ended".to_owned()));
    }
    if let Some(matrix) = &strikes.matrix {
        matrix.finish()?;
    }
    Ok(Outcome::Ran { fired, again: fleet.whole_log()?.map(|log| Again::of(&log)) })
}

fn setup(common: &Common, scenario: Scenario, dir: &Path, disk: Option<&Disk>) -> Setup {
    let programs = match scenario.needs_hosts() || common.without.is_some() {
        true => Programs::Hosts(common.program.clone()),
        false => Programs::Daemons(common.binaries.clone()),
    };
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut extra = Extra::default();
    match scenario {
        Scenario::Late => extra.environment.push(variable(DELAY, "status:700")),
        Scenario::Udf => extra.arguments.extend(udf::ARGUMENTS.map(str::to_owned)),
        _ => {}
    }
    let mut executors = vec![extra; common.executors];
    if let (Some(disk), Some(extra)) = (disk, executors.get_mut(full::EXECUTOR)) {
        extra.work_dir = Some(disk.work_dir());
    }
    let without = common.without.map(|protection| variable(WITHOUT, protection.name()));
    let deadly = variable(KILL, &matrix::deadly(dir).display().to_string());
    let environment = without.into_iter().chain((scenario == Scenario::Matrix).then_some(deadly)).collect();
    Setup { programs, dir: dir.to_owned(), slots: common.slots, environment, executors }
}

async fn strike_all(faults: u64, strikes: &mut Strikes, fleet: &mut Fleet) -> Result<u64> {
    let fired = strike_times(faults, strikes, fleet).await;
    if !strikes.restarts.is_empty() {
        // The last one has to be over.
        tokio::time::sleep(Duration::from_secs(4)).await;
        // With an executor go its outputs.
        let percent = if strikes.scenario == Scenario::Both { 40 } else { 80 };
        tell_restarts(&strikes.restarts, percent)?;
    }
    fired
}

async fn strike_times(faults: u64, strikes: &mut Strikes, fleet: &mut Fleet) -> Result<u64> {
    let mut fired = 0;
    for number in 0..faults {
        tokio::time::sleep(Duration::from_millis(300)).await;
        pause(&mut strikes.draws, 1_500).await;
        // The matrix knows better when its faults happen.
        if strikes.scenario != Scenario::Matrix {
            strikes.tally.fault(Instant::now());
        }
        fired += strikes.strike(fleet, number).await?;
    }
    Ok(fired)
}

/// Tells what restarts of the scheduler came to; an error if it was not ready soon, or used fewer outputs again than so many
/// in a hundred.
fn tell_restarts(restarts: &[Restart], percent: usize) -> Result<()> {
    let slowest = restarts.iter().map(|restart| restart.ready).max().unwrap_or_default();
    let (mut outputs, mut reused) = (0, 0);
    for restart in restarts {
        let (of, again) = restart.outputs()?;
        (outputs, reused) = (outputs + of, reused + again);
    }
    println!(
        "{} restarts, ready within {:.2} s; {reused} of {outputs} finished outputs were used again",
        restarts.len(),
        slowest.as_secs_f64()
    );
    if slowest > READY || (outputs >= ENOUGH_OUTPUTS && reused * 100 < outputs * percent) {
        return Err(DataFusionError::Execution("a restart takes too long, or too much is computed again".to_owned()));
    }
    Ok(())
}

/// Files that are no Parquet files.
fn litter(folder: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        files += match path.is_dir() {
            true => litter(&path)?,
            false => usize::from(path.extension().is_none_or(|extension| extension != "parquet")),
        };
    }
    Ok(files)
}
