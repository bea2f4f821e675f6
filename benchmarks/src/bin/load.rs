// SPDX-License-Identifier: Apache-2.0
//! `load`: latency of tiny queries, and many of them at once, against a running cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista::prelude::*;
use clap::{Parser, Subcommand};
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use futures::future::try_join_all;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: i64 = 1_000;
const GROUPS: i64 = 10;
const AGGREGATE: &str = "SELECT k, COUNT(*) AS n, SUM(v) AS s FROM t GROUP BY k ORDER BY k";

/// Latency and concurrency of small queries on a running cluster.
///
/// Example: load latency --scheduler df://localhost:50050
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// Where the scheduler listens
    #[arg(long, global = true, default_value = "df://localhost:50050")]
    scheduler: String,
    /// Processes whose memory and open files are printed before and after, such as those of the executors
    #[arg(long, global = true, value_delimiter = ',')]
    watch: Vec<u32>,
}

#[derive(Subcommand)]
enum Command {
    /// One query after another on a warm session: `SELECT 1`, and an aggregate over 1,000 rows with one exchange
    Latency {
        /// How often each runs
        #[arg(long, default_value_t = 200)]
        runs: usize,
    },
    /// Many small queries from many sessions; every answer is checked
    Concurrent {
        /// Queries in all
        #[arg(long, default_value_t = 1_000)]
        queries: usize,
        /// Sessions, each with a connection of its own
        #[arg(long, default_value_t = 50)]
        connections: usize,
        /// A query that runs beside the measured ones in a second round, to see what it costs them
        #[arg(long)]
        beside: Option<String>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    watch(&options.watch, "before");
    match options.command {
        Command::Latency { runs } => latency(&options.scheduler, runs).await?,
        Command::Concurrent { queries, connections, beside } => {
            concurrent(&options.scheduler, queries, connections, beside.as_deref()).await?;
        }
    }
    watch(&options.watch, "after");
    Ok(())
}

async fn session(url: &str) -> Result<SessionContext> {
    let context = SessionContext::remote(url).await?.enable_url_table();
    let schema =
        Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Int64, false)]));
    let half = |range: std::ops::Range<i64>| {
        let keys = Int64Array::from_iter_values(range.clone().map(|row| row % GROUPS));
        let values = Int64Array::from_iter_values(range);
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys), Arc::new(values)])
    };
    let partitions = vec![vec![half(0..ROWS / 2)?], vec![half(ROWS / 2..ROWS)?]];
    context.register_table("t", Arc::new(MemTable::try_new(schema, partitions)?))?;
    Ok(context)
}

async fn timed(context: &SessionContext, sql: &str) -> Result<(Duration, Vec<RecordBatch>)> {
    let start = Instant::now();
    let batches = context.sql(sql).await?.collect().await?;
    Ok((start.elapsed(), batches))
}

async fn latency(url: &str, runs: usize) -> Result<()> {
    let context = session(url).await?;
    let distributed = session(url).await?;
    distributed.sql("SET ballista.planner.single_task_bytes = 0").await?;
    for (name, context, sql) in
        [("SELECT 1", &context, "SELECT 1"), ("1,000-row aggregate with an exchange", &distributed, AGGREGATE)]
    {
        for _ in 0..10 {
            timed(context, sql).await?;
        }
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            times.push(timed(context, sql).await?.0);
        }
        print_times(name, &mut times);
    }
    Ok(())
}

fn print_times(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied();
    let show = |time: Option<Duration>| format!("{:.2} ms", time.unwrap_or_default().as_secs_f64() * 1e3);
    println!("{name}: median {}, p95 {}, max {} of {}", show(at(50)), show(at(95)), show(at(100)), times.len());
}

async fn concurrent(url: &str, queries: usize, connections: usize, beside: Option<&str>) -> Result<()> {
    let sessions = try_join_all((0..connections).map(|_| session(url))).await?;
    round("alone", &sessions, queries).await?;
    if let Some(sql) = beside {
        let context = session(url).await?;
        let sql = sql.to_owned();
        let long = tokio::spawn(async move { timed(&context, &sql).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        round("beside a long query", &sessions, queries).await?;
        println!("the long query was {}", if long.is_finished() { "over before that" } else { "still running" });
        long.abort();
    }
    Ok(())
}

async fn round(name: &str, sessions: &[SessionContext], queries: usize) -> Result<()> {
    let start = Instant::now();
    let share = queries.div_ceil(sessions.len().max(1));
    let run = |context: &SessionContext| {
        let context = context.clone();
        tokio::spawn(async move {
            let mut times = Vec::with_capacity(share);
            for _ in 0..share {
                let (time, batches) = timed(&context, AGGREGATE).await?;
                check(&batches)?;
                times.push(time);
            }
            Ok::<_, DataFusionError>(times)
        })
    };
    let mut times = Vec::with_capacity(queries);
    for session in sessions.iter().map(run).collect::<Vec<_>>() {
        times.extend(session.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??);
    }
    println!("{name}: {} queries in {:.2} s", times.len(), start.elapsed().as_secs_f64());
    print_times(name, &mut times);
    Ok(())
}

fn check(batches: &[RecordBatch]) -> Result<()> {
    let column = |name: &str| {
        let values = batches.iter().flat_map(|batch| {
            let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<Int64Array>());
            column.map(|column| column.values().to_vec()).unwrap_or_default()
        });
        values.collect::<Vec<i64>>()
    };
    let keys: Vec<i64> = (0..GROUPS).collect();
    let sums: Vec<i64> = keys.iter().map(|key| (0..ROWS).filter(|row| row % GROUPS == *key).sum()).collect();
    let right = column("k") == keys && column("n") == vec![ROWS / GROUPS; keys.len()] && column("s") == sums;
    if right { Ok(()) } else { Err(DataFusionError::Execution("wrong answer of the 1,000-row aggregate".to_owned())) }
}

fn watch(pids: &[u32], when: &str) {
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or(" ?").trim();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        println!("process {pid} {when}: {memory}, {files} open files");
    }
}
