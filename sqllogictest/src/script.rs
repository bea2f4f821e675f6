// SPDX-License-Identifier: Apache-2.0
//! One file on one engine.
//!
//! What a file must keep to, beside its results:
//! * its first line is the license;
//! * `skipif` names `cluster` and follows a comment that says why; there is no `onlyif` and no `halt`;
//! * a query of several rows has an `ORDER BY` of its own or is compared as sorted rows.
//!
//! A failed statement does not end the file.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use datafusion::error::{DataFusionError, Result};
use sqllogictest::{
    Condition, MakeConnection, QueryExpect, Record, RecordOutput, Runner, SortMode, StatementExpect, default_validator,
    parse_with_name, strict_column_validator, update_record_with_output,
};

use crate::cells::Column;
use crate::engine::{Engine, EngineKind, Servers};

const LICENSE: &str = "# SPDX-License-Identifier: Apache-2.0";

/// What came of a file on an engine.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Statements and queries of the file itself, without what it includes.
    pub(crate) statements: usize,
    /// For people, with file and line.
    pub(crate) failures: Vec<String>,
    /// What was skipped, with the reason.
    pub(crate) skips: Vec<String>,
    /// Queries that a cluster computed, those of them with an exchange, and tasks.
    pub(crate) distributed: [u64; 3],
}

/// Runs a file.
pub(crate) async fn run(path: &Path, kind: EngineKind, servers: &Servers) -> Result<Outcome> {
    let engine = Engine::new(kind, servers).await?;
    let mut runner = runner(&engine);
    let mut outcome = Outcome::default();
    let mut comment = String::new();
    for record in read(path)? {
        match &record {
            Record::Comment(lines) => comment = lines.join(" ").trim().to_owned(),
            Record::Condition(condition) => outcome.condition(condition, &comment, kind),
            Record::Halt { loc } => outcome.failures.push(format!("{kind}: halt hides what follows\nat {loc}")),
            Record::Include { filename, .. } => include(path, filename, kind, &mut runner, &mut outcome).await?,
            Record::Statement { .. } | Record::Query { .. } => outcome.statements += 1,
            _ => {}
        }
        if !matches!(record, Record::Include { .. } | Record::Comment(_)) {
            if !matches!(record, Record::Condition(_)) {
                comment.clear();
            }
            if let Some(problem) = unordered(&record) {
                outcome.failures.push(format!("{kind}: {problem}"));
            }
            if let Err(error) = runner.run_async(record).await {
                outcome.failures.push(format!("{kind}: {}", error.display(false)));
            }
        }
    }
    let counts = engine.counts();
    outcome.distributed =
        [&counts.distributed, &counts.exchanging, &counts.tasks].map(|count| count.load(Ordering::Relaxed));
    Ok(outcome)
}

/// Writes into a file what bare DataFusion answers. A query that fails is left as it is and reported.
pub(crate) async fn complete(path: &Path, servers: &Servers) -> Result<(), Vec<String>> {
    let as_list = |error: DataFusionError| vec![error.to_string()];
    let engine = Engine::new(EngineKind::Datafusion, servers).await.map_err(as_list)?;
    let mut runner = runner(&engine);
    let mut text = String::new();
    let mut problems = Vec::new();
    for record in read(path).map_err(as_list)? {
        if let Record::Include { filename, .. } = &record {
            let mut outcome = Outcome::default();
            include(path, filename, EngineKind::Datafusion, &mut runner, &mut outcome).await.map_err(as_list)?;
            problems.extend(outcome.failures);
            text += &format!("{record}\n");
            continue;
        }
        let output = runner.apply_record(record.clone()).await;
        let failed = match (&record, &output) {
            (
                Record::Query { expected: QueryExpect::Results { .. }, loc, sql, .. },
                RecordOutput::Query { error: Some(error), .. },
            )
            | (
                Record::Statement { expected: StatementExpect::Ok | StatementExpect::Count(_), loc, sql, .. },
                RecordOutput::Statement { error: Some(error), .. },
            ) => Some(format!("complete: {error}\n[SQL] {sql}\nat {loc}")),
            _ => None,
        };
        let updated = match failed {
            Some(problem) => {
                problems.push(problem);
                None
            }
            None => {
                update_record_with_output(&record, &output, " ", default_validator, normalize, strict_column_validator)
            }
        };
        text += &format!("{}\n", sorted_if_unordered(updated.unwrap_or(record)));
    }
    std::fs::write(path, format!("{}\n", text.trim_end())).map_err(|error| as_list(error.into()))?;
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn read(path: &Path) -> Result<Vec<Record<Column>>> {
    let text = std::fs::read_to_string(path)?;
    if !text.starts_with(LICENSE) {
        return Err(DataFusionError::Execution(format!("{}: the first line is not {LICENSE:?}", path.display())));
    }
    let name = path.display().to_string();
    parse_with_name(&text, name).map_err(|error| DataFusionError::External(error.into()))
}

fn runner(engine: &Engine) -> Runner<Engine, impl MakeConnection<Conn = Engine> + use<>> {
    let engine = engine.clone();
    let mut runner = Runner::new(move || {
        let engine = engine.clone();
        async move { Ok(engine) }
    });
    runner.with_column_validator(strict_column_validator);
    runner.with_normalizer(normalize);
    runner
}

/// Runs the statements of another file, named relative to this one.
async fn include<M: MakeConnection<Conn = Engine>>(
    from: &Path,
    name: &str,
    kind: EngineKind,
    runner: &mut Runner<Engine, M>,
    outcome: &mut Outcome,
) -> Result<()> {
    let path: PathBuf = from.parent().unwrap_or(Path::new(".")).join(name);
    for record in read(&path)? {
        if let Err(error) = runner.run_async(record).await {
            outcome.failures.push(format!("{kind}: {}included by {}", error.display(false), from.display()));
        }
    }
    Ok(())
}

impl Outcome {
    fn condition(&mut self, condition: &Condition, comment: &str, kind: EngineKind) {
        match condition {
            Condition::SkipIf { label } if label == "cluster" && !comment.is_empty() => {
                if kind != EngineKind::Datafusion {
                    self.skips.push(comment.to_owned());
                }
            }
            other => self.failures.push(format!("{other:?}: only `skipif cluster`, after a comment that says why")),
        }
    }
}

/// Every space of a cell counts.
#[expect(clippy::ptr_arg, reason = "the type is sqllogictest's")]
fn normalize(cell: &String) -> String {
    cell.clone()
}

/// What is wrong with a query whose rows come in any order.
fn unordered(record: &Record<Column>) -> Option<String> {
    let Record::Query { sql, expected: QueryExpect::Results { sort_mode, results, .. }, loc, .. } = record else {
        return None;
    };
    let is_open = sort_mode.is_none() && results.len() > 1 && !is_ordered(sql);
    is_open.then(|| format!("several rows without ORDER BY need rowsort\n[SQL] {sql}\nat {loc}"))
}

fn sorted_if_unordered(mut record: Record<Column>) -> Record<Column> {
    if unordered(&record).is_some()
        && let Record::Query { expected: QueryExpect::Results { sort_mode, results, .. }, .. } = &mut record
    {
        *sort_mode = Some(SortMode::RowSort);
        results.sort_unstable();
    }
    record
}

/// Whether the statement itself, not a part of it in parentheses, says `ORDER BY`, or is none that could.
fn is_ordered(sql: &str) -> bool {
    let upper = sql.to_uppercase();
    if ["DESCRIBE", "EXPLAIN"].iter().any(|word| upper.trim_start().starts_with(word)) {
        return true;
    }
    let mut depth = 0;
    upper.char_indices().any(|(at, character)| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0 && upper[at..].starts_with("ORDER BY")
    })
}
