// SPDX-License-Identifier: Apache-2.0
//! Completes keywords, names of tables, columns and functions, commands of the shell, and files.

use std::collections::BTreeMap;
use std::path::Path;

use datafusion::prelude::SessionContext;

use crate::commands;
use crate::editor::Complete;

/// Tables whose columns are looked up; listing more would make the prompt wait.
const TABLES: usize = 500;

/// What people type; the parser knows many more words.
const KEYWORDS: &str = "ALL ALTER ANALYZE AND ANTI ANY AS ASC BETWEEN BIGINT BOOLEAN BY CASE CAST COLUMN COPY CREATE \
CROSS CURRENT_DATE CURRENT_TIMESTAMP DATABASE DATE DEALLOCATE DECIMAL DELETE DESC DESCRIBE DISTINCT DOUBLE DROP ELSE END \
ESCAPE EXCEPT EXECUTE EXISTS EXPLAIN EXTERNAL EXTRACT FALSE FILTER FIRST FLOAT FOLLOWING FROM FULL FUNCTION FUNCTIONS \
GROUP GROUPING HAVING ILIKE IN INNER INSERT INT INTERSECT INTERVAL INTO IS JOIN LAST LATERAL LEFT LIKE LIMIT LOCATION \
NATURAL NOT NULL NULLS OFFSET ON OPTIONS OR ORDER OUTER OVER OVERWRITE PARQUET PARTITION PARTITIONED PRECEDING PREPARE \
QUALIFY RANGE RECURSIVE REPLACE RESET RIGHT ROLLUP ROW ROWS SCHEMA SELECT SEMI SET SETS SHOW SIMILAR STORED TABLE TABLES \
TABLESAMPLE THEN TIME TIMESTAMP TO TRUE UNBOUNDED UNION UNNEST UPDATE USING VALUES VARCHAR VERBOSE VIEW WHEN WHERE \
WINDOW WITH WITHIN";

/// Words after which a table is named.
const BEFORE_TABLE: [&str; 6] = ["FROM", "JOIN", "INTO", "TABLE", "DESCRIBE", "UPDATE"];

/// The names of a session.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Columns by table, names as they are written.
    tables: BTreeMap<String, Vec<String>>,
    functions: Vec<String>,
    /// Names of settings.
    settings: Vec<String>,
}

impl Names {
    /// What `context` has now.
    pub(crate) async fn of(context: &SessionContext) -> Self {
        let state = context.state();
        let options = &state.config_options().catalog;
        let mut tables = BTreeMap::new();
        for catalog_name in context.catalog_names() {
            let Some(catalog) = context.catalog(&catalog_name) else { continue };
            for schema_name in catalog.schema_names() {
                let Some(schema) = catalog.schema(&schema_name) else { continue };
                let is_default = catalog_name == options.default_catalog && schema_name == options.default_schema;
                for table_name in schema.table_names() {
                    if tables.len() >= TABLES {
                        break;
                    }
                    let fields = match schema.table(&table_name).await {
                        Ok(Some(table)) => table.schema().fields().iter().map(|field| quoted(field.name())).collect(),
                        _ => Vec::new(),
                    };
                    let name = quoted(&table_name);
                    let name = if is_default { name } else { format!("{}.{name}", quoted(&schema_name)) };
                    tables.insert(name, fields);
                }
            }
        }
        let names = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let names = names.chain(state.window_functions().keys()).chain(state.table_functions().keys());
        let mut functions: Vec<_> = names.map(|name| format!("{name}(")).collect();
        functions.sort();
        functions.dedup();
        let settings = state.config_options().entries().into_iter().map(|entry| entry.key).collect();
        Self { tables, functions, settings }
    }

    fn words(&self, before: &str, word: &str) -> Vec<String> {
        let previous = before.split_whitespace().next_back().unwrap_or_default().to_ascii_uppercase();
        let tables = self.tables.keys().cloned();
        if BEFORE_TABLE.contains(&previous.as_str()) {
            return matching(tables, word);
        }
        if previous == "SET" || previous == "SHOW" || previous == "RESET" {
            let found = matching(self.settings.iter().cloned(), word);
            if !found.is_empty() {
                return found;
            }
        }
        if word.is_empty() {
            return Vec::new();
        }
        if let Some((table, _)) = word.rsplit_once('.') {
            let known = self.tables.get(table);
            // An alias may be of any table.
            let columns = known
                .map_or_else(|| self.tables.values().flatten().collect(), |columns| columns.iter().collect::<Vec<_>>());
            let columns = columns.into_iter().map(|column| format!("{table}.{column}"));
            return matching(columns.chain(tables), word);
        }
        let lower = word.chars().all(|c| !c.is_uppercase());
        let keywords =
            KEYWORDS.split(' ').map(|keyword| if lower { keyword.to_lowercase() } else { keyword.to_owned() });
        let columns = self.tables.values().flatten().cloned();
        matching(keywords.chain(tables).chain(columns).chain(self.functions.iter().cloned()), word)
    }

    fn arguments(&self, command: &str, word: &str) -> Vec<String> {
        match command {
            "\\d" => matching(self.tables.keys().cloned(), word),
            "\\i" | "\\o" => files(word),
            _ => matching(commands::arguments(command).iter().map(|&argument| argument.to_owned()), word),
        }
    }
}

impl Complete for Names {
    fn complete(&self, before: &str) -> (usize, Vec<String>) {
        let trimmed = before.trim_start();
        if trimmed.starts_with('\\') {
            let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
            let word = &before[start..];
            return match trimmed.split_once(char::is_whitespace) {
                Some((command, _)) => (start, self.arguments(command, word)),
                None => (start, matching(commands::names().map(str::to_owned), word)),
            };
        }
        if before.matches('\'').count() % 2 == 1
            && let Some(quote) = before.rfind('\'')
        {
            // A file ends the string, a folder goes on.
            let end = |path: String| if path.ends_with('/') { path } else { format!("{path}'") };
            return (quote + 1, files(&before[quote + 1..]).into_iter().map(end).collect());
        }
        let start = before.trim_end_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"')).len();
        (start, self.words(&before[..start], &before[start..]))
    }
}

/// Candidates that begin with `word` in any case, each once.
fn matching(candidates: impl Iterator<Item = String>, word: &str) -> Vec<String> {
    let begins = |candidate: &String| candidate.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let mut found: Vec<_> = candidates.filter(begins).collect();
    found.sort();
    found.dedup();
    found
}

/// A name as it has to be written.
fn quoted(name: &str) -> String {
    let mut characters = name.chars();
    let plain = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Files whose path begins like this.
fn files(start: &str) -> Vec<String> {
    let (folder, name) =
        start.rsplit_once('/').map_or(("", start), |(folder, name)| (&start[..folder.len() + 1], name));
    let Ok(entries) = std::fs::read_dir(if folder.is_empty() { Path::new(".") } else { Path::new(folder) }) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Ok(file) = entry.file_name().into_string() else { continue };
        let hidden = file.starts_with('.') && !name.starts_with('.');
        if file.starts_with(name) && !hidden {
            let end = if entry.path().is_dir() { "/" } else { "" };
            found.push(format!("{folder}{file}{end}"));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn names() -> Names {
        let context = SessionContext::new();
        for sql in [
            "CREATE TABLE orders AS SELECT 1 AS o_key, 2 AS \"Total\"",
            "CREATE TABLE order_items AS SELECT 3 AS i_key",
        ] {
            context.sql(sql).await.unwrap();
        }
        Names::of(&context).await
    }

    #[tokio::test]
    async fn keywords_follow_the_case_that_is_typed() {
        let names = names().await;
        assert_eq!(names.complete("SELEC"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(names.complete("  descr").1, ["describe"]);
        assert_eq!(names.complete("SELECT "), (7, vec![]));
    }

    #[tokio::test]
    async fn names_fit_their_place() {
        let names = names().await;
        assert_eq!(names.complete("SELECT * FROM ").1, ["order_items", "orders"]);
        assert_eq!(names.complete("SELECT * FROM orders JOIN orders").1, ["orders"]);
        assert_eq!(names.complete("SELECT o_").1, ["o_key"]);
        assert_eq!(names.complete("SELECT orders.").1, ["orders.\"Total\"", "orders.o_key"]);
        assert_eq!(names.complete("SELECT x.i").1, ["x.i_key"]);
        assert_eq!(names.complete("SELECT approx_dist").1, ["approx_distinct("]);
        assert_eq!(names.complete("SET datafusion.execution.batch_s").1, ["datafusion.execution.batch_size"]);
    }

    #[tokio::test]
    async fn commands_and_files_are_completed() {
        let names = names().await;
        assert!(names.complete("\\ti").1.contains(&"\\timing".to_owned()));
        assert_eq!(names.complete("\\d orders"), (3, vec!["orders".to_owned()]));
        assert_eq!(names.complete("\\format n").1, ["nd-json"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data.csv"), "").unwrap();
        std::fs::create_dir(folder.path().join("data.d")).unwrap();
        let path = folder.path().display();
        let (start, found) = names.complete(&format!("SELECT * FROM '{path}/da"));
        assert_eq!((start, found), (15, vec![format!("{path}/data.csv'"), format!("{path}/data.d/")]));
    }
}
