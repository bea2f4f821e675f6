// SPDX-License-Identifier: Apache-2.0
//! The engines under comparison, behind one type: a DataFusion session that runs a query text and times it.
//!
//! All three are driven through the same calls, which is what Ballista promises its users: only how the session is
//! made differs. The clock covers planning (`SessionContext::sql` is the same steps) up to the end of the result
//! stream; making the session, registering tables and comparing answers are outside.

mod cluster;

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures::TryStreamExt;

use crate::compare::Answer;
use crate::data::register_tables;
use crate::queries::Suite;
use crate::statements;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum EngineKind {
    /// Bare DataFusion in this process: what the others are measured against
    Datafusion,
    /// Ballista with scheduler and executor in this process
    Standalone,
    /// Ballista on the cluster of --scheduler
    Remote,
}

impl EngineKind {
    /// The name, as in `--engine` and the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Datafusion => "datafusion",
            Self::Standalone => "standalone",
            Self::Remote => "remote",
        }
    }

    /// Whether queries go through Ballista.
    pub fn is_ballista(self) -> bool {
        self != Self::Datafusion
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A `KEY=VALUE` of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `ballista.…` or `datafusion.…`.
    pub key: String,
    /// As text.
    pub value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())?;
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if !(key.starts_with("ballista.") || key.starts_with("datafusion.")) || !key.chars().all(is_key) {
            return Err(format!("\"{key}\" is not a session key: those start with ballista. or datafusion."));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// What an engine's session is made from.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Address of the scheduler, for [`EngineKind::Remote`].
    pub scheduler: Option<String>,
    /// `target_partitions` of bare DataFusion; Ballista decides by its slots.
    pub partitions: usize,
    /// Applied in order. `ballista.*` keys are for the Ballista engines only.
    pub settings: Vec<Setting>,
}

/// What Ballista did for a query text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Stages of all its jobs.
    pub stages: u32,
    /// Tasks of all its jobs.
    pub tasks: u32,
    /// Bytes that went through exchanges.
    pub bytes_exchanged: u64,
}

/// One execution of a query text.
#[derive(Debug)]
pub struct Run {
    /// From the first statement's planning to the last row.
    pub seconds: f64,
    /// Rows of all statements.
    pub rows: u64,
    /// Zero for bare DataFusion.
    pub work: Work,
    /// For each statement that answers with rows, its unoptimised plan and, if they were asked for, the rows.
    pub answers: Vec<(LogicalPlan, Answer)>,
}

/// A session of one engine.
pub struct Engine {
    kind: EngineKind,
    context: SessionContext,
}

impl Engine {
    /// Makes a session, with the tables of `suite` in `data` registered.
    ///
    /// # Errors
    /// If the cluster is not reachable, a setting is refused or a table is missing.
    pub async fn connect(kind: EngineKind, options: &SessionOptions, suite: Suite, data: &Path) -> Result<Self> {
        let context = match kind {
            EngineKind::Datafusion => {
                let config = SessionConfig::new().with_target_partitions(options.partitions);
                SessionContext::new_with_config(config)
            }
            EngineKind::Standalone => cluster::standalone().await?,
            EngineKind::Remote => {
                let url = options.scheduler.as_deref().ok_or_else(|| {
                    DataFusionError::Configuration("engine remote needs --scheduler df://HOST:PORT".to_owned())
                })?;
                cluster::remote(url).await?
            }
        };
        for Setting { key, value } in &options.settings {
            if kind.is_ballista() || !key.starts_with("ballista.") {
                context.sql(&format!("SET {key} = '{}'", value.replace('\'', "''"))).await?;
            }
        }
        register_tables(&context, suite, data).await?;
        Ok(Self { kind, context })
    }

    /// Which engine this is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// The session.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Runs all statements of `text`. Rows are counted, and dropped as they come unless `keep` is set.
    ///
    /// # Errors
    /// The first statement's error; what earlier statements made has been dropped again.
    pub async fn run(&self, text: &str, keep: bool) -> Result<Run> {
        let outcome = self.run_statements(text, keep).await;
        if outcome.is_err() {
            self.clean_up(text).await;
        }
        outcome
    }

    /// Drops what an unfinished [`Engine::run`] of `text` may have made, for callers that gave up waiting for it.
    pub async fn clean_up(&self, text: &str) {
        // The error that matters is the one of the run: what does not exist cannot be dropped.
        for statement in statements::cleanups(text).unwrap_or_default() {
            if let Ok(plan) = self.context.state().statement_to_plan(statement).await {
                let _ = self.context.execute_logical_plan(plan).await;
            }
        }
    }

    async fn run_statements(&self, text: &str, keep: bool) -> Result<Run> {
        let start = Instant::now();
        let statements: VecDeque<Statement> = statements::split(text)?;
        let mut run = Run { seconds: 0.0, rows: 0, work: Work::default(), answers: Vec::new() };
        let mut physical_plans = Vec::new();
        for statement in statements {
            let plan = self.context.state().statement_to_plan(statement).await?;
            let answers = !matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_));
            let frame = self.context.execute_logical_plan(plan).await?;
            if !answers {
                continue;
            }
            let plan = frame.logical_plan().clone();
            let context = frame.task_ctx();
            let physical = frame.create_physical_plan().await?;
            let mut stream = execute_stream(physical.clone(), context.into())?;
            let mut answer = Answer { schema: stream.schema(), batches: Vec::new() };
            while let Some(batch) = stream.try_next().await? {
                run.rows += batch.num_rows() as u64;
                if keep {
                    answer.batches.push(batch);
                }
            }
            drop(stream);
            physical_plans.push(physical);
            run.answers.push((plan, answer));
        }
        run.seconds = start.elapsed().as_secs_f64();
        if self.kind.is_ballista() {
            for plan in physical_plans {
                let Some(work) = cluster::work(plan.as_ref()) else { continue };
                run.work.stages += work.stages;
                run.work.tasks += work.tasks;
                run.work.bytes_exchanged += work.bytes_exchanged;
            }
        }
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;
    use crate::queries;

    #[test]
    fn settings_are_key_value_pairs_of_known_prefixes() {
        let setting: Setting = "ballista.planner.single_task_bytes=0".parse().unwrap();
        assert_eq!((setting.key.as_str(), setting.value.as_str()), ("ballista.planner.single_task_bytes", "0"));
        let setting: Setting = "datafusion.execution.time_zone=a=b".parse().unwrap();
        assert_eq!(setting.value, "a=b");
        for wrong in ["", "ballista.x", "spark.x=1", "datafusion.x; drop table t=1", "x datafusion.y=1"] {
            assert!(wrong.parse::<Setting>().is_err(), "{wrong}");
        }
    }

    async fn datafusion() -> Engine {
        let options = SessionOptions {
            scheduler: None,
            partitions: 2,
            settings: vec![
                "ballista.planner.single_task_bytes=0".parse().unwrap(),
                "datafusion.execution.batch_size=100".parse().unwrap(),
            ],
        };
        let dir = crate::data::tpch_dir(0.01).unwrap();
        Engine::connect(EngineKind::Datafusion, &options, Suite::Tpch, &dir).await.unwrap()
    }

    #[tokio::test]
    async fn settings_reach_the_session_and_those_of_ballista_do_not_reach_bare_datafusion() {
        let engine = datafusion().await;
        assert_eq!(engine.context().copied_config().options().execution.batch_size.get(), 100);
    }

    #[tokio::test]
    async fn a_text_of_several_statements_runs_again_after_success_and_after_failure() {
        let engine = datafusion().await;
        let q15 = queries::tpch(15).unwrap();
        let run = engine.run(q15, true).await.unwrap();
        assert_eq!((run.rows, run.answers.len()), (1, 1));
        let broken = q15.replace("s_name", "s_nome");
        assert!(engine.run(&broken, true).await.is_err());
        assert_eq!(engine.run(q15, false).await.unwrap().rows, 1);
    }

    #[tokio::test]
    async fn rows_are_kept_only_on_request_and_are_equal_to_themselves() {
        let engine = datafusion().await;
        let q1 = queries::tpch(1).unwrap();
        assert!(engine.run(q1, false).await.unwrap().answers[0].1.batches.is_empty());
        let (first, second) = (engine.run(q1, true).await.unwrap(), engine.run(q1, true).await.unwrap());
        let (plan, expected) = &first.answers[0];
        assert_eq!(first.rows, 4);
        compare::verify(engine.context(), plan, expected, &second.answers[0].1).await.unwrap();
    }
}
