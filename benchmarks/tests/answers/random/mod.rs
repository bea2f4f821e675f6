// SPDX-License-Identifier: Apache-2.0
//! Random queries over random tables: the cluster gives the rows of bare DataFusion, or fails as it does.
//!
//! A *case* has tables, settings and a cluster of its own, all drawn from the case's seed, and [`QUERIES_PER_CASE`]
//! queries. `BALLISTA_RANDOM_QUERIES=N` runs so many queries, `BALLISTA_RANDOM_SEED=S` starts with the case `S`,
//! `BALLISTA_RANDOM_PLACE=P` runs only the query at that place of the case. A failure names those that bring it back;
//! `RUST_LOG=ballista_scheduler=trace` shows the stages.
//!
//! * [`values`]: values of every type.
//! * [`tables`]: tables of random columns and rows, in files and in memory.
//! * [`queries`], [`relations`], [`windows`], [`exprs`]: query texts whose rows do not depend on the plan.
//! * [`settings`]: settings that make a plan of few rows exchange as one of many.

mod exprs;
mod queries;
mod relations;
mod settings;
mod tables;
mod values;
mod windows;

use std::fmt::Write as _;
use std::time::Duration;

use ballista::prelude::*;
use ballista_benchmarks::compare::{Answer, compare_answers};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use queries::Query;
use settings::Settings;
use tables::Table;
use tracing_subscriber::EnvFilter;

use crate::cluster::TestCluster;

const QUERIES: u64 = 150;
/// With `cargo xtask test --full`.
const MANY_QUERIES: u64 = 3000;
const QUERIES_PER_CASE: u64 = 5;

/// A query that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);
const MEMORY: u64 = 2 << 30;

/// More failures are not collected.
const MAX_FAILURES: usize = 200;

/// What became of the queries.
#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    errors: u64,
    rows: u64,
    empty: u64,
    doubtful: u64,
    stages: u64,
    exchanged: u64,
    failures: Vec<String>,
}

/// Tables and the sessions that know them.
struct Case {
    seed: u64,
    tables: Vec<Table>,
    settings: Settings,
    plain: SessionContext,
    remote: SessionContext,
    /// Bare DataFusion again, planning in other ways.
    others: [SessionContext; 2],
    _folder: tempfile::TempDir,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_equal_datafusion() {
    let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_test_writer().try_init();
    let clusters = [TestCluster::start(2, 1, MEMORY).await, TestCluster::start(2, 3, MEMORY).await];
    let first = number("BALLISTA_RANDOM_SEED").unwrap_or(1);
    let place = number("BALLISTA_RANDOM_PLACE");
    let usual = if std::env::var_os("BALLISTA_FULL_TESTS").is_some() { MANY_QUERIES } else { QUERIES };
    let queries = place.map_or_else(|| number("BALLISTA_RANDOM_QUERIES").unwrap_or(usual), |_| 1);
    let mut tally = Tally::default();
    for seed in (first..).take(queries.div_ceil(QUERIES_PER_CASE) as usize) {
        let case = Case::new(seed, &clusters[(seed % 2) as usize]).await.expect("tables and sessions");
        for place in place.map_or(0..QUERIES_PER_CASE.min(queries - tally.queries), |place| place..place + 1) {
            case.check(place, &mut tally).await;
        }
        if tally.failures.len() >= MAX_FAILURES {
            break;
        }
    }
    let Tally { queries, errors, rows, empty, doubtful, stages, exchanged, failures } = tally;
    println!(
        "{queries} queries: {errors} failed as they do on bare DataFusion, {empty} had no rows, \
         the others {rows}; {doubtful} in which DataFusion differs from itself; {stages} stages, {exchanged} bytes exchanged"
    );
    assert!(failures.is_empty(), "{} of {queries} differ:\n\n{}", failures.len(), failures.join("\n\n"));
    if queries >= QUERIES {
        assert!(errors < queries / 10, "{errors} errors, most of which are of no use");
        assert!(doubtful < queries / 20, "{doubtful} answers that nobody can judge");
        assert!(stages > 2 * queries, "only {stages} stages");
        assert!(exchanged > 0, "nothing was exchanged");
    }
}

impl Case {
    async fn new(seed: u64, cluster: &TestCluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (tables, settings) = (tables::tables(seed), settings::settings(seed));
        let [plain, alike, alone] = [2, 4, 1]
            .map(|partitions| SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions)));
        settings.apply_to_bare(&alike).await?;
        let remote = SessionContext::remote(&cluster.url).await?;
        settings.apply(&remote).await?;
        for table in &tables {
            table.register(folder.path(), &[&plain, &remote, &alike, &alone]).await?;
        }
        Ok(Self { seed, tables, settings, plain, remote, others: [alike, alone], _folder: folder })
    }

    async fn check(&self, place: u64, tally: &mut Tally) {
        let query = queries::query(self.seed * QUERIES_PER_CASE + place, &self.tables);
        tally.queries += 1;
        let expected = answer(&self.plain, &query.sql).await;
        let actual = answer(&self.remote, &query.sql).await;
        if let (Ok(expected), Ok(actual)) = (&expected, &actual) {
            tally.rows += expected.answer.rows() as u64;
            tally.empty += u64::from(expected.answer.rows() == 0);
            tally.stages += actual.stages;
            tally.exchanged += actual.exchanged;
        }
        tally.errors += u64::from(expected.is_err());
        let Some(difference) = different(&expected, &actual, query.ordered) else { return };
        for other in &self.others {
            let again = answer(other, &query.sql).await;
            if let Some(doubt) = different(&expected, &again, query.ordered) {
                println!("DOUBT {} {place} {difference}\n\n{doubt}\n  {}\n", self.seed, query.sql);
                tally.doubtful += 1;
                return;
            }
        }
        tally.failures.push(self.report(place, &query, &difference));
    }

    fn report(&self, place: u64, query: &Query, difference: &str) -> String {
        let (seed, settings) = (self.seed, &self.settings);
        let mut text = format!("BALLISTA_RANDOM_SEED={seed} BALLISTA_RANDOM_PLACE={place}\n{difference}");
        let order = if query.ordered { "in order" } else { "in any order" };
        let _ = write!(text, "\n{}\n({order}, cluster {}, {settings})", query.sql, seed % 2);
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.describe());
        }
        text
    }
}

/// In what the two outcomes differ.
fn different(expected: &Outcome, actual: &Outcome, ordered: bool) -> Option<String> {
    match (expected, actual) {
        (Err(Failure::Query(_)), Err(Failure::Query(_))) => None,
        (Ok(expected), Ok(actual)) => different_rows(&expected.answer, &actual.answer, ordered),
        (Ok(_), Err(failure)) => Some(format!("failed: {failure}")),
        (Err(expected), Err(failure)) => Some(format!("failed: {failure}\nbare DataFusion failed: {expected}")),
        (Err(expected), Ok(actual)) => {
            Some(format!("{} rows, but bare DataFusion failed: {expected}", actual.answer.rows()))
        }
    }
}

/// In what the two answers differ, and both of them around it.
fn different_rows(expected: &Answer, actual: &Answer, ordered: bool) -> Option<String> {
    let mut difference = compare_answers(expected, actual, ordered).err()?;
    if ordered && compare_answers(expected, actual, false).is_ok() {
        difference += " (the same rows in another order)";
    }
    let lines = |answer: &Answer| {
        let text =
            pretty_format_batches(&answer.batches).map_or_else(|error| error.to_string(), |text| text.to_string());
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if !ordered {
            lines.sort();
        }
        lines
    };
    let (expected, actual) = (lines(expected), lines(actual));
    let first = expected.iter().zip(&actual).take_while(|(expected, actual)| expected == actual).count();
    for (name, lines) in [("expected", expected), ("got", actual)] {
        let part: Vec<_> = lines.into_iter().skip(first.saturating_sub(1)).take(6).collect();
        let _ = write!(difference, "\n{name}, from line {first}:\n{}", part.join("\n"));
    }
    Some(difference)
}

type Outcome = std::result::Result<Answered, Failure>;

struct Answered {
    answer: Answer,
    stages: u64,
    exchanged: u64,
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    Query(DataFusionError),
    Panic(String),
    Hang,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Query(error) => write!(f, "{error}"),
            Self::Panic(text) => write!(f, "panic: {text}"),
            Self::Hang => write!(f, "no answer within {HANGS:?}"),
        }
    }
}

/// The answer to `sql`, in a task of its own, so that a panic is an outcome too.
async fn answer(context: &SessionContext, sql: &str) -> Outcome {
    let (context, sql) = (context.clone(), sql.to_owned());
    let running = tokio::spawn(async move { run(&context, &sql).await });
    let abort = running.abort_handle();
    match tokio::time::timeout(HANGS, running).await {
        Ok(Ok(outcome)) => outcome.map_err(Failure::Query),
        Ok(Err(error)) => Err(Failure::Panic(error.to_string())),
        Err(_) => {
            abort.abort();
            Err(Failure::Hang)
        }
    }
}

async fn run(context: &SessionContext, sql: &str) -> Result<Answered> {
    let frame = context.sql(sql).await?;
    let task = frame.task_ctx();
    let plan = frame.create_physical_plan().await?;
    let stream = execute_stream(plan.clone(), task.into())?;
    let schema = stream.schema();
    let batches = stream.try_collect().await?;
    let summary = ballista::job_summary(plan.as_ref());
    let (stages, exchanged) = summary.map_or((0, 0), |summary| (summary.stages.into(), summary.bytes_exchanged));
    Ok(Answered { answer: Answer { schema, batches }, stages, exchanged })
}
