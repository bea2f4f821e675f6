// SPDX-License-Identifier: Apache-2.0
//! Splits text into statements where the SQL tokenizer sees a semicolon (not in strings, names or comments), and into
//! commands of the shell: lines that begin with a backslash where a statement would begin.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// A piece of a script that is run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// An SQL statement.
    Sql(Statement<'a>),
    /// A command of the shell, with its backslash, and its line.
    Command(&'a str, usize),
}

/// A statement without its semicolon, and where it is in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    /// Never without content.
    pub(crate) text: &'a str,
    /// Line of its first character, from 0.
    pub(crate) line: usize,
}

/// What a text holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Script<'a> {
    /// Commands and complete statements.
    pub(crate) complete: Vec<Piece<'a>>,
    /// The start of another statement, if there is more than space and comments. Its text may end within a string,
    /// name or comment.
    pub(crate) rest: Option<Statement<'a>>,
}

impl<'a> Script<'a> {
    /// Splits `text`.
    pub(crate) fn split(text: &'a str, dialect: &dyn Dialect) -> Self {
        let splitter = Splitter { text, lines: line_starts(text), dialect };
        let mut script = Script { complete: Vec::new(), rest: None };
        let mut at = 0;
        while let Some(command) = splitter.up_to_command(at, &mut script) {
            let end = text[command..].find('\n').map_or(text.len(), |length| command + length);
            script.complete.push(Piece::Command(text[command..end].trim(), splitter.line_of(command)));
            at = end;
        }
        script
    }

    /// All pieces; the last statement needs no semicolon.
    pub(crate) fn all(self) -> impl Iterator<Item = Piece<'a>> {
        self.complete.into_iter().chain(self.rest.map(Piece::Sql))
    }
}

struct Splitter<'a, 'd> {
    text: &'a str,
    /// Where lines begin.
    lines: Vec<usize>,
    dialect: &'d dyn Dialect,
}

impl<'a> Splitter<'a, '_> {
    /// Adds the statements from `from` up to the next command of the shell, and returns where that begins.
    fn up_to_command(&self, from: usize, script: &mut Script<'a>) -> Option<usize> {
        let mut search = from;
        loop {
            let command = self.backslash_line(search);
            let (statements, rest) = self.statements(from, command.unwrap_or(self.text.len()));
            // A backslash within a statement, a string or a comment is no command.
            match command.filter(|_| rest.is_some()) {
                Some(no_command) => search = no_command + 1,
                None => {
                    script.complete.extend(statements);
                    script.rest = rest;
                    return command;
                }
            }
        }
    }

    /// The first backslash that is the first character of a line other than space.
    fn backslash_line(&self, from: usize) -> Option<usize> {
        let mut candidates = self.text[from..].match_indices('\\').map(|(at, _)| from + at);
        candidates.find(|&at| self.text[self.lines[self.line_of(at)]..at].trim().is_empty())
    }

    /// The complete statements of a part, and what is left.
    fn statements(&self, from: usize, to: usize) -> (Vec<Piece<'a>>, Option<Statement<'a>>) {
        let mut tokens: Vec<TokenWithSpan> = Vec::new();
        let mut tokenizer = Tokenizer::new(self.dialect, &self.text[from..to]);
        let whole = tokenizer.tokenize_with_location_into_buf(&mut tokens).is_ok();
        let mut complete = Vec::new();
        let (mut start, mut has_content) = (from, false);
        for token in &tokens {
            match token.token {
                Token::SemiColon => {
                    let end = self.offset(from, token.span.start);
                    if has_content {
                        complete.push(Piece::Sql(self.statement(start, end)));
                    }
                    (start, has_content) = (end + 1, false);
                }
                Token::Whitespace(_) | Token::EOF => {}
                _ => has_content = true,
            }
        }
        (complete, (has_content || !whole).then(|| self.statement(start, to)))
    }

    fn statement(&self, start: usize, end: usize) -> Statement<'a> {
        let text = self.text[start..end].trim_start();
        Statement { text: text.trim_end(), line: self.line_of(end - text.len()) }
    }

    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at).saturating_sub(1)
    }

    /// Where a location in the part that begins at `from` is. Locations count lines and characters from 1.
    fn offset(&self, from: usize, location: Location) -> usize {
        let line = match (location.line as usize).saturating_sub(1) {
            0 => from,
            below => self.lines.get(self.line_of(from) + below).copied().unwrap_or(self.text.len()),
        };
        offset_in_line(self.text, line, location.column)
    }
}

/// Where lines begin, in bytes.
pub(crate) fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Where the character `column`, counted from 1, of the line that begins at `line` is.
pub(crate) fn offset_in_line(text: &str, line: usize, column: u64) -> usize {
    let in_line = text[line..].char_indices().nth((column as usize).saturating_sub(1));
    in_line.map_or(text.len(), |(at, _)| line + at)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn split(text: &str) -> Script<'_> {
        Script::split(text, &GenericDialect {})
    }

    fn pieces(text: &str) -> Vec<(&str, usize)> {
        let piece = |piece| match piece {
            Piece::Sql(statement) => (statement.text, statement.line),
            Piece::Command(text, line) => (text, line),
        };
        split(text).all().map(piece).collect()
    }

    #[test]
    fn only_real_semicolons_separate() {
        let text = "SELECT ';' AS \"a;b\" -- one; comment\n; /* two; */ SELECT 'ä;ö',\n 'it''s; ' ;; SELECT 3";
        let script = split(text);
        assert_eq!(script.complete.len(), 2, "{script:?}");
        let pieces = pieces(text);
        assert!(pieces[0].0.starts_with("SELECT ';'"));
        assert!(pieces[1].0.ends_with("'it''s; '"));
        assert_eq!(pieces[2], ("SELECT 3", 2));
    }

    #[test]
    fn comments_are_no_statement() {
        assert_eq!(pieces("SELECT 1; -- done\n"), [("SELECT 1", 0)]);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn an_open_string_waits_for_its_end() {
        let script = split("SELECT 1;\nSELECT 'abc;");
        assert_eq!(script.complete.len(), 1);
        assert_eq!(script.rest, Some(Statement { text: "SELECT 'abc;", line: 1 }));
    }

    #[test]
    fn a_backslash_at_the_start_of_a_line_is_a_command_only_between_statements() {
        let text = "-- it's\n  \\x on\nSELECT 1;\n\\d it's;\nSELECT '\n\\x\n';\n/*\n\\q\n*/ SELECT 2;\n\\q";
        let expected = [
            ("\\x on", 1),
            ("SELECT 1", 2),
            ("\\d it's;", 3),
            ("SELECT '\n\\x\n'", 4),
            ("/*\n\\q\n*/ SELECT 2", 7),
            ("\\q", 10),
        ];
        assert_eq!(pieces(text), expected);
    }

    #[test]
    fn statements_after_commands_are_found_where_they_are() {
        assert_eq!(
            pieces("\\x\nSELECT 'ö'; SELECT\n 2; SELECT 3"),
            [("\\x", 0), ("SELECT 'ö'", 1), ("SELECT\n 2", 1), ("SELECT 3", 2)]
        );
    }
}
