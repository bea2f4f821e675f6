// SPDX-License-Identifier: Apache-2.0
//! The loop over queries, iterations and engines.

use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::LogicalPlan;
use indicatif::ProgressBar;
use tokio::time::timeout;

use super::Options;
use super::report::{Cell, JsonLines, Record, Report, Row};
use crate::compare::{self, Answer};
use crate::engine::{Engine, EngineKind, Run};
use crate::queries::Suite;

/// The right answers of a query text: a plan and rows for each statement that has some.
type Answers = Vec<(LogicalPlan, Answer)>;

/// Runs what `options` ask for and prints the report. `true` if nothing failed.
///
/// # Errors
/// If an engine's session cannot be made or the output cannot be written; failed queries are not errors.
pub async fn run(suite: Suite, options: &Options) -> Result<bool> {
    let queries = options.queries(suite)?;
    let mut runner = Runner::connect(suite, options).await?;
    println!(
        "{suite} in {}: {} queries, {} runs each after {} for warm-up",
        options.data.display(),
        queries.len(),
        options.iterations,
        options.warmup
    );
    println!("{}", runner.report.header());
    for query in queries {
        let row = runner.query(query).await?;
        let line = runner.report.line(&row);
        runner.progress.suspend(|| println!("{line}"));
        runner.report.push(row);
    }
    runner.progress.finish_and_clear();
    println!("{}", runner.report.totals());

    let failures = runner.report.failures();
    for failure in &failures {
        println!("FAILED {failure}");
    }
    match (failures.is_empty(), options.verify) {
        (true, true) => println!("all answers are right"),
        (true, false) => println!("no query failed; answers were not compared, see --verify"),
        (false, _) => println!("{} failed", failures.len()),
    }
    Ok(failures.is_empty())
}

struct Runner<'a> {
    suite: Suite,
    options: &'a Options,
    engines: Vec<Engine>,
    /// Bare DataFusion in a session of its own, which tells the right answers.
    reference: Option<Engine>,
    report: Report,
    output: JsonLines,
    progress: ProgressBar,
}

impl<'a> Runner<'a> {
    async fn connect(suite: Suite, options: &'a Options) -> Result<Self> {
        let session = options.session();
        let mut engines = Vec::new();
        for kind in options.engines() {
            let connect = Engine::connect(kind, &session, suite, &options.data);
            let engine = timeout(Duration::from_secs(options.timeout), connect)
                .await
                .unwrap_or_else(|_| Err(DataFusionError::Execution("no answer in time".to_owned())))
                .map_err(|error| error.context(format!("engine {kind} cannot be used")))?;
            engines.push(engine);
        }
        let reference = match options.verify {
            true => Some(Engine::connect(EngineKind::Datafusion, &session, suite, &options.data).await?),
            false => None,
        };
        Ok(Self {
            suite,
            options,
            engines,
            reference,
            report: Report::new(options.engines()),
            output: JsonLines::create(options.output.as_deref())?,
            progress: ProgressBar::new_spinner(),
        })
    }

    /// All runs of one query.
    async fn query(&mut self, query: u32) -> Result<Row> {
        let text = self.suite.query(query).ok_or_else(|| {
            DataFusionError::Internal(format!("{} has no query {query}, although it was selected", self.suite))
        })?;
        let mut row = Row { query, cells: vec![Cell::default(); self.engines.len()] };
        let expected = match self.expected(query, text).await {
            Ok(expected) => expected,
            Err(reason) => {
                for cell in &mut row.cells {
                    cell.failure = Some(format!("bare datafusion gave no answer to compare with: {reason}"));
                }
                return Ok(row);
            }
        };
        for iteration in 0..self.options.warmup + self.options.iterations {
            let counted = (iteration + 1).saturating_sub(self.options.warmup);
            for turn in 0..self.engines.len() {
                let index = if iteration % 2 == 0 { turn } else { self.engines.len() - 1 - turn };
                if row.cells[index].failure.is_none() {
                    self.run_once(index, query, text, counted, expected.as_ref(), &mut row.cells[index]).await?;
                }
            }
        }
        Ok(row)
    }

    /// The right answers, if answers are to be compared.
    async fn expected(&self, query: u32, text: &str) -> std::result::Result<Option<Answers>, String> {
        let Some(reference) = &self.reference else { return Ok(None) };
        self.progress.set_message(format!("q{query}: right answer"));
        self.attempt(reference, text).await.map(|run| Some(run.answers))
    }

    /// One run of one engine; `counted` is its number, or 0 for a warm-up.
    async fn run_once(
        &mut self,
        index: usize,
        query: u32,
        text: &str,
        counted: u32,
        expected: Option<&Answers>,
        cell: &mut Cell,
    ) -> Result<()> {
        let engine = &self.engines[index];
        let stage = if counted == 0 { "warm-up".to_owned() } else { format!("run {counted}") };
        self.progress.set_message(format!("q{query}: {}, {stage}", engine.kind()));
        let outcome = self.attempt(engine, text).await;
        let mut record = Record {
            suite: self.suite.name().to_owned(),
            engine: engine.kind().name().to_owned(),
            query,
            iteration: counted,
            seconds: None,
            rows: None,
            bytes_exchanged: 0,
            stages: 0,
            tasks: 0,
            error: None,
        };
        match outcome {
            Ok(run) => {
                record.seconds = Some(run.seconds);
                record.rows = Some(run.rows);
                record.bytes_exchanged = run.work.bytes_exchanged;
                record.stages = run.work.stages;
                record.tasks = run.work.tasks;
                cell.rows = Some(run.rows);
                cell.work = run.work;
                if counted > 0 {
                    cell.seconds.push(run.seconds);
                }
                if let Some(expected) = expected {
                    record.error = self.check(expected, &run).await.err();
                }
            }
            Err(reason) => record.error = Some(reason),
        }
        if let Some(reason) = &record.error {
            cell.failure = Some(format!("{stage}: {reason}"));
        }
        if counted > 0 || record.error.is_some() {
            self.output.write(&record)?;
        }
        Ok(())
    }

    /// Runs `text` once within the time limit.
    async fn attempt(&self, engine: &Engine, text: &str) -> std::result::Result<Run, String> {
        let limit = Duration::from_secs(self.options.timeout);
        match timeout(limit, engine.run(text, self.options.verify)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => {
                engine.clean_up(text).await;
                Err(format!("no answer within {} s", limit.as_secs()))
            }
        }
    }

    async fn check(&self, expected: &Answers, run: &Run) -> std::result::Result<(), String> {
        let Some(reference) = &self.reference else { return Ok(()) };
        if expected.len() != run.answers.len() {
            return Err(format!("expected {} result sets, got {}", expected.len(), run.answers.len()));
        }
        for ((plan, expected), (_, actual)) in expected.iter().zip(&run.answers) {
            compare::verify(reference.context(), plan, expected, actual)
                .await
                .map_err(|difference| format!("wrong answer: {difference}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::parse;
    use super::*;
    use crate::data::tpch_dir;

    fn options(rest: &str) -> Options {
        parse(&format!("--data {} {rest}", tpch_dir(0.01).unwrap().display()))
    }

    #[tokio::test]
    async fn bare_datafusion_agrees_with_itself_and_every_counted_run_is_recorded() {
        let output = std::env::temp_dir().join(format!("ballista-runner-{}.json", std::process::id()));
        let options = options(&format!("--query 1,15 --iterations 2 --verify --output {}", output.display()));
        assert!(run(Suite::Tpch, &options).await.unwrap());
        let text = std::fs::read_to_string(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let runs: Vec<_> = records.iter().map(|record| (record.query, record.iteration, record.rows)).collect();
        assert_eq!(runs, [(1, 1, Some(4)), (1, 2, Some(4)), (15, 1, Some(1)), (15, 2, Some(1))]);
    }

    #[tokio::test]
    async fn a_wrong_answer_is_a_failure_and_ends_the_runs_of_that_query() {
        let options = options("--query 1 --verify --iterations 3");
        let mut runner = Runner::connect(Suite::Tpch, &options).await.unwrap();
        let mut expected = runner.expected(1, Suite::Tpch.query(1).unwrap()).await.unwrap().unwrap();
        expected[0].1.batches[0] = expected[0].1.batches[0].slice(0, 1);
        let mut cell = Cell::default();
        let text = Suite::Tpch.query(1).unwrap();
        runner.run_once(0, 1, text, 1, Some(&expected), &mut cell).await.unwrap();
        let failure = cell.failure.clone().unwrap();
        assert!(failure.starts_with("run 1: wrong answer: row count differs: expected 1, got 4"), "{failure}");
        assert_eq!(cell.median(), None);
    }

    #[tokio::test]
    async fn a_query_that_fails_does_not_stop_the_others() {
        let options = options("--iterations 2");
        let mut runner = Runner::connect(Suite::Tpch, &options).await.unwrap();
        runner.engines[0].context().deregister_table("nation").unwrap();
        let mut failures = Vec::new();
        for query in [1, 5, 6] {
            failures.push(runner.query(query).await.unwrap().cells[0].failure.clone());
        }
        assert_eq!((&failures[0], &failures[2]), (&None, &None));
        let reason = failures[1].as_deref().unwrap();
        assert!(reason.starts_with("warm-up: ") && reason.contains("nation"), "{reason}");
    }

    #[tokio::test]
    async fn a_run_that_takes_too_long_is_given_up_and_cleaned_up_after() {
        let patient = options("--query 15");
        let hasty = Options { timeout: 0, ..patient.clone() };
        let mut runner = Runner::connect(Suite::Tpch, &patient).await.unwrap();
        let text = Suite::Tpch.query(15).unwrap();
        runner.options = &hasty;
        // The limit is looked at whenever the query waits, which a small one may happen not to do.
        let outcome = runner.attempt(&runner.engines[0], text).await;
        assert!(outcome.is_ok() || outcome.is_err_and(|reason| reason == "no answer within 0 s"));
        runner.options = &patient;
        assert_eq!(runner.attempt(&runner.engines[0], text).await.unwrap().rows, 1);
    }

    #[tokio::test]
    async fn a_remote_engine_needs_an_address() {
        let options = Options { scheduler: None, ..options("--engine remote") };
        let error = run(Suite::Tpch, &options).await.unwrap_err().to_string();
        assert!(error.contains("engine remote needs --scheduler"), "{error}");
    }
}
