// SPDX-License-Identifier: Apache-2.0
//! The right answers: those of single-process DataFusion.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::ParquetReadOptions;

use crate::compare::{Answer, compare_batches, verify};
use crate::engine::{Engine, EngineKind, SessionOptions};
use crate::queries::Suite;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// What the statements of a query text answer.
pub type Answers = Vec<(LogicalPlan, Answer)>;

/// A query and its right answers.
#[derive(Debug, Clone)]
pub struct Question {
    /// For people.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What it answers.
    pub answers: Answers,
}

/// The right answers.
pub struct Oracle {
    engine: Engine,
    questions: Vec<Question>,
}

impl Oracle {
    /// Runs `queries` on bare DataFusion.
    ///
    /// # Errors
    /// If one fails.
    pub async fn new(data: &Path, queries: &[u32]) -> Result<Self> {
        let options = SessionOptions { scheduler: None, partitions: 2, settings: Vec::new() };
        let engine = Engine::connect(EngineKind::Datafusion, &options, Suite::Tpch, data).await?;
        let mut oracle = Self { engine, questions: Vec::new() };
        for number in queries {
            let Some(text) = Suite::Tpch.query(*number) else { continue };
            let question = oracle.ask(format!("q{number}"), text).await?;
            oracle.questions.push(question);
        }
        Ok(oracle)
    }

    /// The queries of the load.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// Another query, which is run now.
    ///
    /// # Errors
    /// If it fails.
    pub async fn ask(&self, name: String, text: &str) -> Result<Question> {
        let answers = self.engine.run(text, true).await?.answers;
        Ok(Question { name, text: text.to_owned(), answers })
    }

    /// Whether `actual` answers a question.
    ///
    /// # Errors
    /// What differs, in words.
    pub async fn check(
        &self,
        question: &Question,
        actual: &[(LogicalPlan, Answer)],
    ) -> std::result::Result<(), String> {
        let expected = &question.answers;
        if expected.len() != actual.len() {
            return Err(format!("{} statements answered, {} should", actual.len(), expected.len()));
        }
        for ((plan, expected), (_, actual)) in expected.iter().zip(actual) {
            verify(self.engine.context(), plan, expected, actual).await?;
        }
        Ok(())
    }

    /// Whether `folder` has exactly the rows of `query`, lines of orders, or, if its write failed, nothing that anybody
    /// sees.
    ///
    /// # Errors
    /// What differs, in words.
    pub async fn check_written(&self, query: &str, folder: &Path, succeeded: bool) -> std::result::Result<(), String> {
        let files = parquet_files(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if !succeeded {
            return if files == 0 { Ok(()) } else { Err(format!("{files} files of a write that failed are visible")) };
        }
        let sums = "count(*) AS a, sum(l_orderkey) AS b, sum(l_extendedprice) AS c, sum(l_partkey * l_linenumber) AS d, \
                    min(l_comment) AS e";
        let context = self.engine.context();
        let text = |error: DataFusionError| error.strip_backtrace();
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
