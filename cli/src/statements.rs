// SPDX-License-Identifier: Apache-2.0
//! Splits text into statements where the SQL tokenizer sees a semicolon: not in strings, names or comments.

use datafusion::error::{DataFusionError, Result};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

/// Statements of a text, and the text after the last semicolon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statements<'a> {
    /// Each without its semicolon; never without content.
    pub(crate) complete: Vec<&'a str>,
    /// What may be the start of another one; `None` if there is only space and comments.
    pub(crate) rest: Option<&'a str>,
}

impl<'a> Statements<'a> {
    /// Splits `text`. Fails if it ends within a string, name or comment.
    pub(crate) fn split(text: &'a str, dialect: &dyn Dialect) -> Result<Self> {
        let tokens = Tokenizer::new(dialect, text)
            .tokenize_with_location()
            .map_err(|error| DataFusionError::Plan(format!("cannot read the statement: {error}")))?;
        let lines = line_starts(text);
        let mut complete = Vec::new();
        let (mut start, mut has_content) = (0, false);
        for token in &tokens {
            match token.token {
                Token::SemiColon => {
                    let end = offset(text, &lines, token.span.start);
                    if has_content {
                        complete.push(text[start..end].trim());
                    }
                    (start, has_content) = (end + 1, false);
                }
                Token::Whitespace(_) | Token::EOF => {}
                _ => has_content = true,
            }
        }
        Ok(Self { complete, rest: has_content.then(|| text[start..].trim()) })
    }

    /// All statements; the last needs no semicolon.
    pub(crate) fn all(self) -> impl Iterator<Item = &'a str> {
        self.complete.into_iter().chain(self.rest)
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Where a location is in `text`, in bytes. Locations count lines and characters from 1.
fn offset(text: &str, lines: &[usize], location: Location) -> usize {
    let line = lines.get((location.line as usize).saturating_sub(1)).copied().unwrap_or(text.len());
    let in_line = text[line..].char_indices().nth((location.column as usize).saturating_sub(1));
    in_line.map_or(text.len(), |(at, _)| line + at)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn split(text: &str) -> Statements<'_> {
        Statements::split(text, &GenericDialect {}).unwrap()
    }

    #[test]
    fn only_real_semicolons_separate() {
        let text = "SELECT ';' AS \"a;b\" -- one; comment\n; /* two; */ SELECT 'ä;ö',\n 'it''s; ' ;; SELECT 3";
        let statements = split(text);
        assert_eq!(statements.complete.len(), 2, "{statements:?}");
        assert!(statements.complete[0].starts_with("SELECT ';'"));
        assert!(statements.complete[1].ends_with("'it''s; '"));
        assert_eq!(statements.rest, Some("SELECT 3"));
        assert_eq!(statements.all().count(), 3);
    }

    #[test]
    fn comments_are_no_statement() {
        let statements = split("SELECT 1; -- done\n");
        assert_eq!((statements.complete, statements.rest), (vec!["SELECT 1"], None));
        assert_eq!(split("").all().count(), 0);
    }

    #[test]
    fn an_open_string_is_an_error() {
        assert!(Statements::split("SELECT 'abc", &GenericDialect {}).is_err());
    }
}
