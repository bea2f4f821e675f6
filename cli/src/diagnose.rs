// SPDX-License-Identifier: Apache-2.0
//! Shows an error and the place in the SQL that it is about.
//!
//! ```text
//! error: Error during planning: table 'datafusion.public.orderz' not found
//!   --> report.sql:3:15 (statement 2)
//!   |
//! 3 | SELECT * FROM orderz WHERE x = 1
//!   |               ^^^^^^ table 'orderz' not found
//! ```

use std::fmt::Write;

use console::Term;
use datafusion::common::{Diagnostic, Location, SchemaError, Span};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::statements::{line_starts, offset_in_line};

/// Most characters of a line that are shown where no terminal has a width; the mark of an error in a line of a megabyte
/// is to be seen.
const LINE_CHARS: usize = 160;

/// What a terminal shows beside the line: its number, a bar, signs that it goes on.
const GUTTER: usize = 10;

/// Where a statement comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// The name of its text, for instance a file; `None` if it was just typed.
    pub(crate) source: Option<&'a str>,
    /// Line of its first character, from 0.
    pub(crate) line: usize,
    /// Its place among the statements of the text, from 1.
    pub(crate) number: usize,
}

/// The text of an error that concerns no statement.
pub(crate) fn plain(error: &DataFusionError) -> String {
    format!("error: {}", message(error))
}

/// The text of the error of `statement`, with its place.
pub(crate) fn with_place(error: &DataFusionError, statement: &str, origin: Origin) -> String {
    let terminal = Some(Term::stderr()).filter(Term::is_term).and_then(|terminal| terminal.size_checked());
    let chars = terminal.map_or(LINE_CHARS, |(_, columns)| usize::from(columns).saturating_sub(GUTTER).max(2 * GUTTER));
    within(error, statement, origin, chars)
}

/// The same, with lines of the statement cut to `chars`.
fn within(error: &DataFusionError, statement: &str, origin: Origin, chars: usize) -> String {
    let texts: Vec<_> = error.iter().map(|error| one(error, statement, origin, chars)).collect();
    texts.join("\n")
}

fn one(error: &DataFusionError, statement: &str, origin: Origin, chars: usize) -> String {
    let syntax = syntax_error(error);
    let place = place(error, statement);
    let mut text = match &syntax {
        Some(syntax) => format!("error: {}", syntax.message),
        None => plain(error),
    };
    if let Some(source) = origin.source {
        let column = place.map(|place| format!(":{}", place.column)).unwrap_or_default();
        let line = origin.line + place.map_or(1, |place| place.line);
        // Writing to a string does not fail.
        let _ = write!(text, "\n  --> {source}:{line}{column} (statement {})", origin.number);
    }
    let Some(place) = place.or_else(|| origin.source.map(|_| Place::START)) else { return text };
    let label = error.diagnostic().filter(|_| syntax.is_none()).map(|diagnostic| diagnostic.message.as_str());
    text.push_str(&excerpt(statement, place, origin, chars, label.unwrap_or_default()));
    for hint in error.diagnostic().into_iter().flat_map(hints) {
        text.push_str(&hint);
    }
    text
}

fn hints(diagnostic: &Diagnostic) -> impl Iterator<Item = String> {
    let notes = diagnostic.notes.iter().map(|note| format!("\nnote: {}", note.message));
    notes.chain(diagnostic.helps.iter().map(|help| format!("\nhelp: {}", help.message)))
}

fn message(error: &DataFusionError) -> String {
    match error {
        // What it wraps says it all.
        DataFusionError::External(inner) => inner.to_string(),
        other => other.strip_backtrace(),
    }
}

/// A range within one line. Both count from 1; zero `width` marks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    width: usize,
}

impl Place {
    const START: Self = Self { line: 1, column: 1, width: 0 };

    fn of_span(span: Span, statement: &str) -> Option<Self> {
        let (line, column) = (span.start.line as usize, span.start.column as usize);
        let shown = statement.lines().nth(line.checked_sub(1)?)?;
        let end = if span.end.line == span.start.line { span.end.column as usize } else { shown.chars().count() + 1 };
        Some(Self { line, column, width: end.saturating_sub(column).max(1) })
    }
}

fn place(error: &DataFusionError, statement: &str) -> Option<Place> {
    if let Some(syntax) = syntax_error(error) {
        let end = || {
            let line = statement.lines().count().max(1);
            let column = statement.lines().last().map_or(0, |line| line.chars().count()) + 1;
            Place { line, column, width: 1 }
        };
        return Some(syntax.location.map_or_else(end, |location| token_at(location, statement)));
    }
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    span.and_then(|span| Place::of_span(span, statement)).or_else(|| unknown_column(error, statement))
}

/// A column that is not there and was not told the place of, if its name stands in the statement only once.
fn unknown_column(error: &DataFusionError, statement: &str) -> Option<Place> {
    let DataFusionError::SchemaError(schema_error, _) = error.find_root() else { return None };
    let SchemaError::FieldNotFound { field, .. } = schema_error.as_ref() else { return None };
    let tokens = Tokenizer::new(&GenericDialect {}, statement).tokenize_with_location().ok()?;
    let is_name = |token: &Token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(field.name()));
    let mut places = tokens.iter().filter(|token| is_name(&token.token));
    let found = places.next().filter(|_| places.next().is_none())?;
    Place::of_span(Span::try_from_sqlparser_span(found.span)?, statement)
}

/// What the parser says, and where.
struct SyntaxError {
    message: String,
    /// `None` at the end of the text.
    location: Option<Location>,
}

/// The parser tells the place of an error in its text only; this is the one reader of that text.
fn syntax_error(error: &DataFusionError) -> Option<SyntaxError> {
    let DataFusionError::SQL(parser, _) = error.find_root() else { return None };
    let text = match parser.as_ref() {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => return None,
    };
    let located = text.rsplit_once(" at Line: ").and_then(|(message, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((message, Location { line: line.parse().ok()?, column: column.trim().parse().ok()? }))
    });
    let (message, location) = match located {
        Some((message, location)) => (message, Some(location)),
        // Anything else without a place is about the text as a whole.
        None if text.ends_with("found: EOF") => (text.as_str(), None),
        None => return None,
    };
    let message = message.replacen("Expected: ", "expected ", 1).replacen(", found: ", ", found ", 1);
    let message = message.replace("found EOF", "found the end of the statement");
    Some(SyntaxError { message: format!("syntax error: {message}"), location })
}

/// The token that begins at a location.
fn token_at(location: Location, statement: &str) -> Place {
    let (line, column) = (location.line as usize, location.column as usize);
    let start = line_starts(statement).get(line.saturating_sub(1)).copied().unwrap_or(statement.len());
    let rest = &statement[offset_in_line(statement, start, location.column)..];
    let mut tokens = Vec::new();
    // What is read before an error is enough.
    let _ = Tokenizer::new(&GenericDialect {}, rest).tokenize_with_location_into_buf(&mut tokens);
    let first = tokens.first().map(|token| token.span.end);
    let width = first.filter(|end| end.line == 1).map_or(1, |end| (end.column as usize).saturating_sub(1));
    Place { line, column, width: width.max(1) }
}

/// The line of the place, and marks below it.
fn excerpt(statement: &str, place: Place, origin: Origin, chars: usize, label: &str) -> String {
    let line = statement.lines().nth(place.line - 1).unwrap_or_default();
    // Tabs have no width of their own.
    let characters: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    let from = if place.column > chars { place.column - chars / 2 } else { 0 };
    let to = characters.len().min(from + chars);
    let start = if from > 0 { "…" } else { "" };
    let end = if to < characters.len() { "…" } else { "" };
    let shown: String = characters[from.min(to)..to].iter().collect();
    let number = (origin.line + place.line).to_string();
    let gutter = " ".repeat(number.len());
    let mut text = format!("\n{gutter} |\n{number} | {start}{shown}{end}");
    if place.width > 0 {
        let before: String = characters[from.min(to)..(place.column - 1).clamp(from.min(to), to)].iter().collect();
        let indent = console::measure_text_width(start) + console::measure_text_width(&before);
        let marks = "^".repeat(place.width.min(chars + 1 - (place.column - 1 - from).min(chars)));
        let label = if label.is_empty() { String::new() } else { format!(" {label}") };
        let _ = write!(text, "\n{gutter} | {}{marks}{label}", " ".repeat(indent));
    }
    text
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    async fn error_of(sql: &str, origin: Origin<'_>) -> String {
        let config = SessionConfig::new().set_bool("datafusion.sql_parser.collect_spans", true);
        let context = SessionContext::new_with_config(config);
        context.sql("CREATE TABLE t AS VALUES (1), (2)").await.unwrap().collect().await.unwrap();
        let error = match context.sql(sql).await {
            Err(error) => error,
            Ok(frame) => frame.collect().await.unwrap_err(),
        };
        within(&error, sql, origin, LINE_CHARS)
    }

    const TYPED: Origin<'static> = Origin { source: None, line: 0, number: 1 };
    const IN_FILE: Origin<'static> = Origin { source: Some("q.sql"), line: 9, number: 4 };

    #[tokio::test]
    async fn an_unknown_table_is_marked() {
        let text = error_of("SELECT *\nFROM missing, t", IN_FILE).await;
        assert!(text.starts_with("error: ") && text.contains("\n  --> q.sql:11:6 (statement 4)\n   |\n"), "{text}");
        assert!(text.contains("\n11 | FROM missing, t\n   |      ^^^^^^^ table 'missing' not found"), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_column_is_marked_and_another_suggested() {
        let text = error_of("SELECT column11 FROM t", TYPED).await;
        assert!(text.contains("1 | SELECT column11 FROM t\n  |        ^^^^^^^^ column 'column11' not found"), "{text}");
        assert!(!text.contains("-->"), "{text}");
        assert!(text.contains("column1"), "{text}");
    }

    #[tokio::test]
    async fn a_column_without_a_place_is_found_by_its_name() {
        let text = error_of("SELECT column1\nFROM t ORDER BY Nope", TYPED).await;
        assert!(text.ends_with("\n2 | FROM t ORDER BY Nope\n  |                 ^^^^"), "{text}");
        let text = error_of("SELECT 1 AS nope_, 'nope' FROM t ORDER BY nope + nope", TYPED).await;
        assert!(!text.contains('^'), "{text}");
    }

    #[tokio::test]
    async fn syntax_errors_point_at_the_token_or_the_end() {
        let text = error_of("SELECT 1\n\tFROM t GROUP WHERE x", TYPED).await;
        assert!(text.starts_with("error: syntax error: expected end of statement, found GROUP\n"), "{text}");
        assert!(text.contains("\n2 |  FROM t GROUP WHERE x\n  |         ^^^^^"), "{text}");
        let text = error_of("SELECT 'ö' +", TYPED).await;
        assert!(text.contains("found the end of the statement\n  |\n1 | SELECT 'ö' +\n  |             ^"), "{text}");
        let text = error_of("SELECT 'ab", TYPED).await;
        assert!(text.contains("Unterminated string literal\n") && text.contains("\n  |        ^"), "{text}");
    }

    #[tokio::test]
    async fn an_error_without_a_place_shows_the_statement_of_a_file() {
        let text = error_of("SELECT 1 / (column1 - 1)\n FROM t", IN_FILE).await;
        assert!(text.contains("Divide by zero"), "{text}");
        assert!(text.ends_with("\n  --> q.sql:10 (statement 4)\n   |\n10 | SELECT 1 / (column1 - 1)"), "{text}");
        let text = error_of("SELECT 1 / (column1 - 1) FROM t", TYPED).await;
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[tokio::test]
    async fn long_lines_are_cut_around_the_place() {
        let text = error_of(&format!("SELECT {} nope FROM t", "1, ".repeat(1000)), TYPED).await;
        let lines: Vec<_> = text.lines().collect();
        let shown = lines.iter().position(|line| line.starts_with("1 | …")).unwrap();
        let column = |line: &str, what: &str| line.split(what).next().unwrap().chars().count();
        assert_eq!(column(lines[shown], "nope"), column(lines[shown + 1], "^^^^"), "{text}");
    }
}
