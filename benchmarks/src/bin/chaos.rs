// SPDX-License-Identifier: Apache-2.0
//! `chaos`: TPC-H over and over while processes of the cluster die, halt and leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ballista_benchmarks::chaos::Scenario;
use ballista_benchmarks::chaos::host::{Host, Protection, leave_out};
use ballista_benchmarks::chaos::oracle::Oracle;
use ballista_benchmarks::chaos::report::{print_head, print_row};
use ballista_benchmarks::chaos::run::{Common, Outcome, run};
use ballista_benchmarks::chaos::tally::Tally;
use clap::{Parser, ValueEnum};
use datafusion::error::{DataFusionError, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs TPC-H queries against a cluster of processes that it starts, while it makes processes die, halt and leave.
///
/// Every answer is compared with that of single-process DataFusion. Fails if one is wrong, a query fails, or takes
/// longer than 60 s. Example: chaos --data tpch-sf0.1 --scenario kill --faults 50 --seed 7
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
struct Options {
    #[command(subcommand)]
    host: Option<Host>,
    /// Folder with the tables of TPC-H, as `datagen` makes it
    #[arg(long, required = true)]
    data: Option<PathBuf>,
    /// Folder of the daemons' programs [default: that of this program]
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Which faults, one scenario after the other [default: all; with --without, the one that has to notice]
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Leave a protection out: succeeds only if the faults do harm then
    #[arg(long, value_name = "PROTECTION")]
    without: Option<Protection>,
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

fn main() -> Result<()> {
    let mut options = Options::parse();
    // A daemon has a runtime of its own.
    match options.host.take() {
        Some(host) => host.run(),
        None => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run_all(options)),
    }
}

impl Options {
    fn scenarios(&self) -> Vec<Scenario> {
        match (self.scenario.is_empty(), self.without) {
            (false, _) => self.scenario.clone(),
            (true, None) => Scenario::value_variants().to_vec(),
            (true, Some(Protection::Checksum)) => vec![Scenario::Flip],
            (true, Some(Protection::Commit)) => vec![Scenario::Write],
        }
    }

    fn common(&self) -> Result<Common> {
        let program = std::env::current_exe()?;
        let binaries = self.binaries.clone().or_else(|| program.parent().map(Path::to_owned)).unwrap_or_default();
        Ok(Common {
            // Required, unless this is a daemon.
            data: self.data.clone().unwrap_or_default(),
            binaries,
            program,
            faults: self.faults,
            seed: self.seed,
            clients: self.clients,
            executors: self.executors,
            slots: self.slots,
            without: self.without,
        })
    }
}

async fn run_all(options: Options) -> Result<()> {
    let common = options.common()?;
    if let Some(protection) = options.without {
        leave_out(protection);
    }
    let queries = if options.query.is_empty() { (1..=22).collect() } else { options.query.clone() };
    let oracle = Arc::new(Oracle::new(&common.data, &queries).await?);
    print_head(options.seed);
    let mut bad = Vec::new();
    for scenario in options.scenarios() {
        let name = format!("ballista-chaos-{}-{}", std::process::id(), scenario.name());
        let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir).join(name);
        std::fs::create_dir_all(&dir)?;
        let start = Instant::now();
        let tally = Arc::new(Tally::default());
        let outcome = run(&common, scenario, &dir, &oracle, &tally).await;
        print_row(scenario, &outcome, &tally, start.elapsed());
        match judge(&outcome, &tally, options.without) {
            Ok(()) => std::fs::remove_dir_all(&dir)?,
            Err(reason) => bad.push(format!("{}: {reason}logs are in {}", scenario.name(), dir.display())),
        }
    }
    match bad.is_empty() {
        true => Ok(()),
        false => Err(DataFusionError::Execution(bad.join("; "))),
    }
}

/// Whether a scenario came out as it should.
fn judge(outcome: &Result<Outcome>, tally: &Tally, without: Option<Protection>) -> std::result::Result<(), String> {
    let counts = tally.counts();
    match outcome {
        Err(error) => return Err(format!("{error}; ")),
        Ok(Outcome::LeftOut(_)) => return Ok(()),
        Ok(Outcome::Ran { .. }) => {}
    }
    let Some(protection) = without else {
        let is_good = counts.right > 0 && counts.wrong + counts.failed + counts.hung == 0;
        return if is_good { Ok(()) } else { Err(String::new()) };
    };
    let has_noticed = match protection {
        Protection::Checksum => counts.wrong + counts.failed > 0,
        Protection::Commit => counts.wrong > 0,
    };
    let name = protection.name();
    match has_noticed {
        true => {
            println!("without {name} there is harm, and it was noticed, as it should be");
            Ok(())
        }
        false => Err(format!("nothing was noticed although there was no {name}; ")),
    }
}
