// SPDX-License-Identifier: Apache-2.0
//! Splits a query text into statements with DataFusion's own parser.
//!
//! Semicolons in literals, comments and quoted names are therefore never taken for separators, and an engine plans
//! exactly what was parsed here.

use std::collections::VecDeque;

use datafusion::error::Result;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

/// The statements of `text`, in order; empty statements are dropped.
///
/// # Errors
/// The parser's error if `text` is not SQL.
pub fn split(text: &str) -> Result<VecDeque<Statement>> {
    DFParser::parse_sql(text)
}

/// The statements of `text` that undo what the others made: its `DROP`s. A runner executes them after a failure in
/// the middle, so that the text can be run again in the same session.
///
/// # Errors
/// The parser's error if `text` is not SQL.
pub fn cleanups(text: &str) -> Result<VecDeque<Statement>> {
    let mut statements = split(text)?;
    statements.retain(
        |statement| matches!(statement, Statement::Statement(inner) if matches!(**inner, SqlStatement::Drop { .. })),
    );
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::Suite;

    #[test]
    fn tpch_q15_is_a_view_a_query_and_a_drop() {
        let q15 = Suite::Tpch.query(15).unwrap();
        let kinds: Vec<String> = split(q15)
            .unwrap()
            .iter()
            .map(|statement| statement.to_string().split(' ').next().unwrap_or_default().to_uppercase())
            .collect();
        assert_eq!(kinds, ["CREATE", "SELECT", "DROP"]);
        assert_eq!(cleanups(q15).unwrap().len(), 1);
    }

    #[test]
    fn every_text_of_both_suites_parses() {
        for suite in [Suite::Tpch, Suite::Tpcds] {
            for number in suite.numbers() {
                let count = split(suite.query(number).unwrap()).unwrap().len();
                let expected = if (suite, number) == (Suite::Tpch, 15) { 3 } else { 1 };
                assert_eq!(count, expected, "{suite} q{number}");
            }
        }
    }

    #[test]
    fn semicolons_in_literals_names_and_comments_do_not_split() {
        let text = "select ';' as \"a;b\" -- one; two\n; /* three; */ select 2;;";
        assert_eq!(split(text).unwrap().len(), 2);
    }

    #[test]
    fn a_broken_text_is_an_error() {
        assert!(split("select 1; selec 2").is_err());
    }
}
