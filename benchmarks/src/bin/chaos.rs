// SPDX-License-Identifier: Apache-2.0
//! `chaos`: TPC-H over and over while processes of the cluster die, halt and leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ballista_benchmarks::chaos::fleet::{Fleet, Restart};
use ballista_benchmarks::chaos::load::{Load, Oracle, Tally};
use ballista_benchmarks::chaos::{Draws, Scenario, pause, strike};
use clap::Parser;
use datafusion::error::{DataFusionError, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs TPC-H queries against a cluster of processes that it starts, while it makes processes die, halt and leave.
///
/// Every answer is compared with that of single-process DataFusion. Fails if one is wrong, a query fails, or takes
/// longer than 60 s. Example: chaos --data tpch-sf0.1 --scenario kill --faults 50 --seed 7
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Folder with the tables of TPC-H, as `datagen` makes it
    #[arg(long)]
    data: PathBuf,
    /// Folder of the daemons' programs [default: that of this program]
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Which faults, one scenario after the other
    #[arg(long, value_delimiter = ',', default_values = ["kill", "write", "zombie", "drain", "cut", "flip", "partition", "stall", "link", "slow", "scheduler", "commit", "both"])]
    scenario: Vec<Scenario>,
    /// Faults of each scenario
    #[arg(long, default_value_t = 10, overrides_with = "faults")]
    faults: u64,
    /// Decides which process is hit when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients, each running one query at a time
    #[arg(long, default_value_t = 2)]
    clients: usize,
    /// Executors
    #[arg(long, default_value_t = 3)]
    executors: usize,
    /// Slots of each
    #[arg(long, default_value_t = 2)]
    slots: u32,
    /// Queries by number; none = all
    #[arg(long, value_delimiter = ',')]
    query: Vec<u32>,
    /// Where logs and shuffle files go; removed after success
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let here = std::env::current_exe()?;
    let binaries = options.binaries.clone().or_else(|| here.parent().map(Path::to_owned)).unwrap_or_default();
    let queries = if options.query.is_empty() { (1..=22).collect() } else { options.query.clone() };
    let oracle = Arc::new(Oracle::new(&options.data, &queries).await?);
    println!("scenario   faults  right  wrong  failed  hung  longest [s]  seconds  (seed {})", options.seed);
    let mut bad = Vec::new();
    for scenario in &options.scenario {
        let name = format!("ballista-chaos-{}-{}", std::process::id(), scenario.name());
        let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir).join(name);
        std::fs::create_dir_all(&dir)?;
        let start = Instant::now();
        let tally = Arc::new(Tally::default());
        let fired = run(&options, *scenario, &binaries, &dir, &oracle, &tally).await;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (right, wrong, failed, hung) =
            (count(&tally.right), count(&tally.wrong), count(&tally.failed), count(&tally.hung));
        println!(
            "{:<10} {:>6} {right:>6} {wrong:>6} {failed:>7} {hung:>5} {:>12.1} {:>8.0}",
            scenario.name(),
            fired.as_ref().map_or_else(|_| "?".to_owned(), u64::to_string),
            count(&tally.longest_millis) as f64 / 1000.0,
            start.elapsed().as_secs_f64(),
        );
        let good = right > 0 && wrong + failed + hung == 0;
        match fired {
            Ok(_) if good => std::fs::remove_dir_all(&dir)?,
            Ok(_) => bad.push(format!("{}: logs are in {}", scenario.name(), dir.display())),
            Err(error) => bad.push(format!("{}: {error}; logs are in {}", scenario.name(), dir.display())),
        }
    }
    match bad.is_empty() {
        true => Ok(()),
        false => Err(DataFusionError::Execution(bad.join("; "))),
    }
}

async fn strike_all(options: &Options, scenario: Scenario, fleet: &mut Fleet) -> Result<u64> {
    let mut restarts = Vec::new();
    let fired = strike_times(options, scenario, fleet, &mut restarts).await;
    if !restarts.is_empty() {
        // The last one has to be over.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let slowest = restarts.iter().map(|restart| restart.ready).max().unwrap_or_default();
        let (mut outputs, mut reused) = (0, 0);
        for restart in &restarts {
            let (of, again) = restart.outputs()?;
            (outputs, reused) = (outputs + of, reused + again);
        }
        println!(
            "{} restarts, ready within {:.2} s; {reused} of {outputs} finished outputs were used again",
            restarts.len(),
            slowest.as_secs_f64()
        );
    }
    fired
}

async fn strike_times(
    options: &Options,
    scenario: Scenario,
    fleet: &mut Fleet,
    restarts: &mut Vec<Restart>,
) -> Result<u64> {
    let mut draws = Draws::new(options.seed);
    let mut fired = 0;
    for number in 0..options.faults {
        tokio::time::sleep(Duration::from_millis(300)).await;
        pause(&mut draws, 1_500).await;
        fired += strike(scenario, fleet, &mut draws, number, restarts).await?;
    }
    Ok(fired)
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

/// One scenario, from its cluster's start to its end. How many faults fired.
async fn run(
    options: &Options,
    scenario: Scenario,
    binaries: &Path,
    dir: &Path,
    oracle: &Arc<Oracle>,
    tally: &Arc<Tally>,
) -> Result<u64> {
    let mut fleet = Fleet::start(binaries, dir, options.executors, options.slots).await?;
    let copies = dir.join("copies");
    let writes = scenario.writes().then_some(copies.as_path());
    let load = Load::start(&fleet.url(), &options.data, options.clients, writes, oracle, tally).await?;
    let fired = strike_all(options, scenario, &mut fleet).await;
    load.end().await;
    let fired = fired?;
    if writes.is_some() {
        println!("{} files of writes that were given up are left behind", litter(&copies)?);
    }
    if !fleet.scheduler_lives() {
        return Err(DataFusionError::Execution("the scheduler has ended".to_owned()));
    }
    Ok(fired)
}
