// SPDX-License-Identifier: Apache-2.0
//! Clients that run TPC-H queries over and over while faults happen, and compare every answer with the oracle's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datafusion::error::Result;
use tokio::task::JoinHandle;

use super::oracle::{Oracle, Question};
use super::tally::Tally;
use crate::engine::{Engine, EngineKind, SessionOptions};
use crate::queries::Suite;

/// A query that takes longer counts as hung.
pub const HUNG: Duration = Duration::from_secs(60);

/// How clients make their sessions.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Where they connect.
    pub url: String,
    /// Folder of the tables.
    pub data: PathBuf,
    /// `KEY=VALUE`, besides those that spread queries over the cluster.
    pub settings: Vec<String>,
}

impl Clients {
    /// A client's session.
    ///
    /// # Errors
    /// If it cannot connect.
    pub async fn connect(&self) -> Result<Engine> {
        let settings = ["ballista.planner.single_task_bytes=0", "ballista.planner.broadcast_bytes=1000000"];
        let settings = settings.into_iter().chain(self.settings.iter().map(String::as_str));
        let settings = settings.filter_map(|setting| setting.parse().ok()).collect();
        let options = SessionOptions { scheduler: Some(self.url.clone()), partitions: 2, settings };
        Engine::connect(EngineKind::Remote, &options, Suite::Tpch, &self.data).await
    }
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `count` clients, each with a session of its own. They write if there is a folder for it.
    ///
    /// # Errors
    /// If one cannot connect.
    pub async fn start(
        clients: &Clients,
        count: usize,
        writes: Option<&Path>,
        oracle: &Arc<Oracle>,
        tally: &Arc<Tally>,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for client in 0..count {
            let engine = clients.connect().await?;
            let (oracle, tally, stop) = (Arc::clone(oracle), Arc::clone(tally), Arc::clone(&stop));
            let writes = writes.map(Path::to_owned);
            running.push(tokio::spawn(async move {
                let mut position = client * 7;
                while !stop.load(Ordering::Relaxed) {
                    let questions = oracle.questions();
                    match &writes {
                        Some(folder) => {
                            // Lines of every seventh order.
                            let query = format!("SELECT * FROM lineitem WHERE l_orderkey % 7 = {}", position % 7);
                            let folder = folder.join(format!("{client}-{position}"));
                            write(&engine, &oracle, &query, &folder, &tally).await;
                        }
                        None => ask(&engine, &oracle, &questions[position % questions.len()], &tally).await,
                    }
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

/// Writes the rows of `query`, lines of orders, by ship mode, into a folder of its own, and counts what came of it.
pub(super) async fn write(engine: &Engine, oracle: &Oracle, query: &str, folder: &Path, tally: &Tally) {
    let target = folder.display();
    let text = format!("COPY ({query}) TO '{target}/' STORED AS PARQUET PARTITIONED BY (l_shipmode)");
    let start = Instant::now();
    let outcome = tokio::time::timeout(HUNG, engine.run(&text, true)).await;
    tally.ended(start);
    let seconds = start.elapsed().as_secs_f64();
    let (counter, succeeded) = match &outcome {
        Err(_) => (&tally.hung, false),
        Ok(Err(error)) => {
            eprintln!("write failed after {seconds:.1} s: {}", error.strip_backtrace());
            (&tally.failed, false)
        }
        Ok(Ok(_)) => (&tally.right, true),
    };
    match oracle.check_written(query, folder, succeeded).await {
        Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
        Err(difference) => {
            eprintln!("write is wrong: {difference}");
            tally.wrong.fetch_add(1, Ordering::Relaxed)
        }
    };
    tally.longest_millis.fetch_max((seconds * 1000.0) as u64, Ordering::Relaxed);
}

/// Runs a query, and counts what came of it.
pub(super) async fn ask(engine: &Engine, oracle: &Oracle, question: &Question, tally: &Tally) {
    let Question { name, text, .. } = question;
    let start = Instant::now();
    let outcome = tokio::time::timeout(HUNG, engine.run(text, true)).await;
    tally.ended(start);
    match outcome {
        Err(_) => {
            eprintln!("{name} hangs");
            tally.hung.fetch_add(1, Ordering::Relaxed);
            engine.clean_up(text).await;
        }
        Ok(Err(error)) => {
            eprintln!("{name} failed after {:.1} s: {}", start.elapsed().as_secs_f64(), error.strip_backtrace());
            tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ok(run)) => {
            let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            match oracle.check(question, &run.answers).await {
                Ok(()) => {
                    tally.right.fetch_add(1, Ordering::Relaxed);
                    tally.longest_millis.fetch_max(millis, Ordering::Relaxed);
                }
                Err(difference) => {
                    eprintln!("{name} is wrong: {difference}");
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
