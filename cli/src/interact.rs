// SPDX-License-Identifier: Apache-2.0
//! The conversation with somebody at a terminal.

use std::io;

use crate::complete::Names;
use crate::diagnose;
use crate::editor::{Editor, History, Line, default_path};
use crate::shell::{Shell, Step, Stop, complain};

const PROMPT: &str = "ballista> ";
const CONTINUED: &str = "       -> ";

/// Runs what is typed. An error is shown and does not end the conversation.
pub(crate) async fn converse(shell: &mut Shell) -> Step {
    let history = default_path().map(History::open).unwrap_or_default();
    let mut editor = Editor::new(history);
    let mut text = String::new();
    let mut names = Names::of(shell.context()).await;
    loop {
        let prompt = if text.is_empty() { PROMPT } else { CONTINUED };
        // Connections are kept alive by other threads.
        let line = match tokio::task::block_in_place(|| editor.read(prompt, &names)) {
            Ok(Line::Text(line)) => line,
            Ok(Line::Interrupted) => {
                text.clear();
                continue;
            }
            Ok(Line::End) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Stop::OutputClosed),
            Err(error) => {
                complain(&diagnose::plain(&error.into()));
                return Err(Stop::Failed);
            }
        };
        let begun = std::mem::take(&mut text);
        let Some(typed) = meant(&begun, &line) else {
            editor.remember(&line);
            continue;
        };
        let ran = shell.run_typed(&typed).await;
        let rest = ran.as_deref().unwrap_or_default();
        if rest.is_empty() {
            editor.remember(typed.trim_end());
        }
        match ran {
            Ok(rest) => text = rest,
            Err(Stop::Failed | Stop::Cancelled) => {}
            Err(Stop::Quit) => return Ok(()),
            Err(Stop::OutputClosed) => return Err(Stop::OutputClosed),
        }
        if text.is_empty() {
            names = Names::of(shell.context()).await;
        }
    }
}

/// What to run after `line` was typed behind `begun`; `None` if that is to be forgotten.
fn meant(begun: &str, line: &str) -> Option<String> {
    let word = line.trim().trim_end_matches(';').trim_end();
    match word.to_ascii_lowercase().as_str() {
        "\\r" => None,
        // Who does not know how to go on wants one of these, not a syntax error.
        "\\q" | "\\?" => Some(word.to_owned()),
        "quit" | "exit" if begun.is_empty() => Some("\\q".to_owned()),
        "help" if begun.is_empty() => Some("\\?".to_owned()),
        _ => Some(format!("{begun}{line}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_shells_are_understood_where_no_statement_is_begun() {
        assert_eq!(meant("", "quit;").unwrap(), "\\q");
        assert_eq!(meant("", " EXIT").unwrap(), "\\q");
        assert_eq!(meant("", "help").unwrap(), "\\?");
        assert_eq!(meant("SELECT a AS\n", "exit").unwrap(), "SELECT a AS\nexit\n");
        assert_eq!(meant("SELECT\n", "\\q").unwrap(), "\\q");
        assert_eq!(meant("SELECT\n", "\\r"), None);
    }
}
