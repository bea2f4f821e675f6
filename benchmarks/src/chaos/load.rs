// SPDX-License-Identifier: Apache-2.0
//! Clients that run TPC-H queries over and over while faults happen, and compare every answer with the oracle's:
//! single-process DataFusion.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::ParquetReadOptions;
use tokio::task::JoinHandle;

use crate::compare::{Answer, compare_batches, verify};
use crate::engine::{Engine, EngineKind, SessionOptions};
use crate::queries::Suite;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A query that takes longer counts as hung.
pub const HUNG: Duration = Duration::from_secs(60);

/// The right answers.
pub struct Oracle {
    engine: Engine,
    answers: Vec<(u32, Vec<(LogicalPlan, Answer)>)>,
}

impl Oracle {
    /// Runs `queries` on bare DataFusion.
    ///
    /// # Errors
    /// If one fails.
    pub async fn new(data: &Path, queries: &[u32]) -> Result<Self> {
        let options = SessionOptions { scheduler: None, partitions: 2, settings: Vec::new() };
        let engine = Engine::connect(EngineKind::Datafusion, &options, Suite::Tpch, data).await?;
        let mut answers = Vec::new();
        for number in queries {
            let Some(text) = Suite::Tpch.query(*number) else { continue };
            answers.push((*number, engine.run(text, true).await?.answers));
        }
        Ok(Self { engine, answers })
    }

    /// Whether `folder` has exactly the rows of `query`, or, if the query failed, nothing that anybody sees.
    async fn check_written(&self, query: &str, folder: &Path, succeeded: bool) -> std::result::Result<(), String> {
        let files = parquet_files(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if !succeeded {
            return if files == 0 { Ok(()) } else { Err(format!("{files} files of a write that failed are visible")) };
        }
        let sums = "count(*) AS a, sum(l_orderkey) AS b, sum(l_extendedprice) AS c, sum(l_partkey * l_linenumber) AS d, \
                    min(l_comment) AS e";
        let context = self.engine.context();
        let text = |error: datafusion::error::DataFusionError| error.strip_backtrace();
        let written = context.read_parquet(folder.display().to_string(), ParquetReadOptions::default()).await;
        let written = written.map_err(text)?.into_view();
        let table = format!("written_{}", WRITTEN.fetch_add(1, Ordering::Relaxed));
        context.register_table(table.as_str(), written).map_err(text)?;
        let sum = async |from: &str| -> Result<Vec<RecordBatch>> {
            context.sql(&format!("SELECT {sums} FROM {from}")).await?.collect().await
        };
        let (expected, actual) = (sum(&format!("({query})")).await, sum(&table).await);
        context.deregister_table(table.as_str()).map_err(text)?;
        compare_batches(&expected.map_err(text)?, &actual.map_err(text)?, false)
    }

    async fn check(&self, position: usize, actual: &[(LogicalPlan, Answer)]) -> std::result::Result<(), String> {
        let (_, expected) = &self.answers[position];
        if expected.len() != actual.len() {
            return Err(format!("{} statements answered, {} should", actual.len(), expected.len()));
        }
        for ((plan, expected), (_, actual)) in expected.iter().zip(actual) {
            verify(self.engine.context(), plan, expected, actual).await?;
        }
        Ok(())
    }
}

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Tally {
    /// Ended well, with the right answer.
    pub right: AtomicU64,
    /// With a wrong one.
    pub wrong: AtomicU64,
    /// With an error.
    pub failed: AtomicU64,
    /// Not within [`HUNG`].
    pub hung: AtomicU64,
    /// Longest of the right ones, in milliseconds.
    pub longest_millis: AtomicU64,
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients`, each with a session of its own.
    ///
    /// # Errors
    /// If one cannot connect.
    pub async fn start(
        url: &str,
        data: &Path,
        clients: usize,
        writes: Option<&Path>,
        oracle: &Arc<Oracle>,
        tally: &Arc<Tally>,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for client in 0..clients {
            let settings = ["ballista.planner.single_task_bytes=0", "ballista.planner.broadcast_bytes=1000000"];
            let settings = settings.iter().filter_map(|setting| setting.parse().ok()).collect();
            let options = SessionOptions { scheduler: Some(url.to_owned()), partitions: 2, settings };
            let engine = Engine::connect(EngineKind::Remote, &options, Suite::Tpch, data).await?;
            let (oracle, tally, stop) = (Arc::clone(oracle), Arc::clone(tally), Arc::clone(&stop));
            let writes = writes.map(Path::to_owned);
            running.push(tokio::spawn(async move {
                let mut position = client * 7;
                while !stop.load(Ordering::Relaxed) {
                    if let Some(folder) = &writes {
                        let folder = folder.join(format!("{client}-{position}"));
                        write(&engine, &oracle, position, &folder, &tally).await;
                        position += 1;
                        continue;
                    }
                    query(&engine, &oracle, position % oracle.answers.len(), &tally).await;
                    position += 1;
                }
            }));
        }
        Ok(Self { stop, clients: running })
    }

    /// Lets the queries that run end, and no more begin.
    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            // A client that panicked has been counted as nothing; the tally shows too few queries then.
            let _ = client.await;
        }
    }
}

/// Files that a reader of Parquet sees.
fn parquet_files(folder: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        files += match path.is_dir() {
            true => parquet_files(&path)?,
            false => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
        };
    }
    Ok(files)
}

/// Writes lines of every seventh order, by ship mode, into a folder of its own.
async fn write(engine: &Engine, oracle: &Oracle, number: usize, folder: &Path, tally: &Tally) {
    let query = format!("SELECT * FROM lineitem WHERE l_orderkey % 7 = {}", number % 7);
    let target = folder.display();
    let text = format!("COPY ({query}) TO '{target}/' STORED AS PARQUET PARTITIONED BY (l_shipmode)");
    let start = Instant::now();
    let outcome = tokio::time::timeout(HUNG, engine.run(&text, true)).await;
    let seconds = start.elapsed().as_secs_f64();
    let (counter, succeeded) = match &outcome {
        Err(_) => (&tally.hung, false),
        Ok(Err(error)) => {
            eprintln!("write failed after {seconds:.1} s: {}", error.strip_backtrace());
            (&tally.failed, false)
        }
        Ok(Ok(_)) => (&tally.right, true),
    };
    match oracle.check_written(&query, folder, succeeded).await {
        Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
        Err(difference) => {
            eprintln!("write is wrong: {difference}");
            tally.wrong.fetch_add(1, Ordering::Relaxed)
        }
    };
    tally.longest_millis.fetch_max((seconds * 1000.0) as u64, Ordering::Relaxed);
}

async fn query(engine: &Engine, oracle: &Oracle, position: usize, tally: &Tally) {
    let (number, _) = oracle.answers[position];
    let Some(text) = Suite::Tpch.query(number) else { return };
    let start = Instant::now();
    match tokio::time::timeout(HUNG, engine.run(text, true)).await {
        Err(_) => {
            eprintln!("q{number} hangs");
            tally.hung.fetch_add(1, Ordering::Relaxed);
            engine.clean_up(text).await;
        }
        Ok(Err(error)) => {
            eprintln!("q{number} failed after {:.1} s: {}", start.elapsed().as_secs_f64(), error.strip_backtrace());
            tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ok(run)) => {
            let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            match oracle.check(position, &run.answers).await {
                Ok(()) => {
                    tally.right.fetch_add(1, Ordering::Relaxed);
                    tally.longest_millis.fetch_max(millis, Ordering::Relaxed);
                }
                Err(difference) => {
                    eprintln!("q{number} is wrong: {difference}");
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
