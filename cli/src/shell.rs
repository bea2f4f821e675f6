// SPDX-License-Identifier: Apache-2.0
//! Runs statements one after the other, from scripts and from standard input.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Instant;

use datafusion::common::config::Dialect as DialectName;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use futures::StreamExt;

use crate::output::Printer;
use crate::report;
use crate::statements::Statements;

const PROMPT: &str = "ballista> ";
const CONTINUED: &str = "       -> ";

/// A session and the place where its rows go.
pub(crate) struct Shell<W> {
    context: SessionContext,
    printer: Printer<W>,
}

impl<W: Write> Shell<W> {
    pub(crate) fn new(context: SessionContext, printer: Printer<W>) -> Self {
        Self { context, printer }
    }

    /// Runs all statements of `text`, up to the first that fails.
    pub(crate) async fn run_script(&mut self, text: &str) -> Result<()> {
        let dialect = self.dialect();
        for statement in Statements::split(text, dialect.as_ref())?.all() {
            self.run(statement).await?;
        }
        Ok(())
    }

    /// Runs statements as they are typed, or, if nobody types, what standard input holds.
    pub(crate) async fn run_stdin(&mut self) -> Result<()> {
        if io::stdin().is_terminal() {
            return self.converse(&mut io::stdin().lock()).await;
        }
        let text = io::read_to_string(io::stdin())?;
        self.run_script(&text).await
    }

    /// An error is shown and does not end the conversation.
    async fn converse(&mut self, input: &mut impl BufRead) -> Result<()> {
        let mut text = String::new();
        loop {
            print!("{}", if text.is_empty() { PROMPT } else { CONTINUED });
            io::stdout().flush()?;
            let start = text.len();
            if input.read_line(&mut text)? == 0 {
                println!();
                return Ok(());
            }
            let word = text[start..].trim().trim_end_matches(';').to_ascii_lowercase();
            if start == 0 && matches!(word.as_str(), "quit" | "exit" | "\\q") {
                return Ok(());
            }
            text = self.run_complete(&text).await;
        }
    }

    /// Runs the complete statements of `text` and returns what is left of it.
    async fn run_complete(&mut self, text: &str) -> String {
        let dialect = self.dialect();
        // A text that ends within a string is not complete yet.
        let Ok(statements) = Statements::split(text, dialect.as_ref()) else { return text.to_owned() };
        for statement in statements.complete {
            if let Err(error) = self.run(statement).await {
                report(&error);
                return String::new();
            }
        }
        statements.rest.map(|rest| format!("{rest}\n")).unwrap_or_default()
    }

    async fn run(&mut self, statement: &str) -> Result<()> {
        let start = Instant::now();
        let frame = self.context.sql(statement).await?;
        let mut rows = frame.execute_stream().await?;
        let mut result = self.printer.start(rows.schema());
        while let Some(batch) = rows.next().await {
            result.add(batch?)?;
        }
        result.finish(start)
    }

    fn dialect(&self) -> Box<dyn Dialect> {
        let state = self.context.state();
        let name: &DialectName = &state.config_options().sql_parser.dialect;
        dialect_from_str(name.as_ref()).unwrap_or_else(|| Box::new(GenericDialect {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    fn shell(out: &mut Vec<u8>) -> Shell<&mut Vec<u8>> {
        Shell::new(SessionContext::new(), Printer::new(out, Format::Csv, true))
    }

    #[tokio::test]
    async fn a_script_runs_up_to_its_first_error() {
        let mut out = Vec::new();
        let script = "CREATE TABLE t AS VALUES (1), (2); SELECT sum(column1) AS s FROM t; SELECT nope; SELECT 7";
        let error = shell(&mut out).run_script(script).await.unwrap_err();
        assert!(error.to_string().contains("nope"), "{error}");
        assert_eq!(String::from_utf8(out).unwrap(), "s\n3\n");
    }

    #[tokio::test]
    async fn a_conversation_goes_on_after_an_error_and_over_lines() {
        let mut out = Vec::new();
        let typed = "SELECT nope;\nSELECT 1\n AS a; SELECT\n 2 AS b;\nquit\nSELECT 3 AS c;\n";
        shell(&mut out).converse(&mut typed.as_bytes()).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\n1\nb\n2\n");
    }
}
