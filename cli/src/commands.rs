// SPDX-License-Identifier: Apache-2.0
//! The commands of the shell: what they are called and what they say. The shell carries them out.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::Format;

/// Names, arguments and meanings, as help shows them.
const TABLE: &[(&str, &str, &str)] = &[
    ("\\?", "", "show this"),
    ("\\q", "", "leave; also Ctrl-D, quit, exit"),
    ("\\d", "[TABLE]", "list the tables, or the columns of one"),
    ("\\x", "[on|off]", "show rows expanded, one value per line"),
    ("\\timing", "[on|off]", "tell how long statements take"),
    ("\\format", "[FORMAT]", "print rows as table, csv, tsv, json, nd-json or automatic"),
    ("\\pset", "[NAME VALUE]", "set format, maxrows (0 for all), expanded or timing; alone, show them"),
    ("\\i", "FILE", "run the statements and commands of a file"),
    ("\\o", "[FILE]", "write rows to a file; alone, here again"),
    ("\\r", "", "forget the statement that was begun"),
    ("\\jobs", "", "show the jobs of the cluster"),
    ("\\executors", "", "show the executors of the cluster"),
    ("\\cancel", "ID", "cancel a job of the cluster"),
];

/// A command of the shell. An argument that may be left out toggles or shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Quit,
    Describe(Option<String>),
    Expanded(Option<bool>),
    Timing(Option<bool>),
    Format(Option<Format>),
    MaxRows(usize),
    ShowSettings,
    Include(PathBuf),
    Output(Option<PathBuf>),
    Reset,
    Jobs,
    Executors,
    Cancel(String),
}

impl Command {
    /// Reads a command with its backslash. An error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(';').trim_end();
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
        let command = match (name, argument) {
            ("\\?" | "\\h" | "\\help", _) => Self::Help,
            ("\\q", None) => Self::Quit,
            ("\\d" | "\\dt", table) => Self::Describe(table.map(str::to_owned)),
            ("\\x", value) => Self::Expanded(value.map(on_or_off).transpose()?),
            ("\\timing", value) => Self::Timing(value.map(on_or_off).transpose()?),
            ("\\format", value) => Self::Format(value.map(format).transpose()?),
            ("\\pset", None) => Self::ShowSettings,
            ("\\pset", Some(setting)) => return Self::setting(setting),
            ("\\i", Some(file)) => Self::Include(path(file)),
            ("\\o", file) => Self::Output(file.map(path)),
            ("\\r", None) => Self::Reset,
            ("\\jobs", None) => Self::Jobs,
            ("\\executors", None) => Self::Executors,
            ("\\cancel", Some(job)) => Self::Cancel(job.to_owned()),
            ("\\i", None) => return Err("\\i needs a file".to_owned()),
            ("\\cancel", None) => return Err("\\cancel needs the id of a job; \\jobs shows them".to_owned()),
            (known, Some(_)) if names().any(|name| name == known) => return Err(format!("{known} takes no argument")),
            _ => return Err(format!("unknown command {name}; \\? lists them")),
        };
        Ok(command)
    }

    fn setting(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let value = Some(value.trim()).filter(|value| !value.is_empty());
        match (name, value) {
            ("format", Some(value)) => Ok(Self::Format(Some(format(value)?))),
            ("expanded", value) => Ok(Self::Expanded(value.map(on_or_off).transpose()?)),
            ("timing", value) => Ok(Self::Timing(value.map(on_or_off).transpose()?)),
            ("maxrows", Some(value)) => match value.parse() {
                Ok(rows) => Ok(Self::MaxRows(rows)),
                Err(_) => Err(format!("maxrows is a number of rows, 0 for all, not {value}")),
            },
            ("format" | "maxrows", None) => Err(format!("\\pset {name} needs a value")),
            _ => Err(format!("unknown setting {name}; there are format, maxrows, expanded and timing")),
        }
    }
}

/// All commands, a line each.
pub(crate) fn help() -> String {
    let lines =
        TABLE.iter().map(|(name, arguments, meaning)| format!("  {:<22} {meaning}", format!("{name} {arguments}")));
    let commands = lines.collect::<Vec<_>>().join("\n");
    format!(
        "{commands}\nStatements end with a semicolon. Tab completes, Ctrl-R searches what was typed before, Ctrl-C cancels."
    )
}

/// Names of commands.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, ..)| *name)
}

/// What may follow a command, if that is one of a few words.
pub(crate) fn arguments(command: &str) -> &'static [&'static str] {
    match command {
        "\\x" | "\\timing" => &["on", "off"],
        "\\format" => &["table", "csv", "tsv", "json", "nd-json", "automatic"],
        "\\pset" => &["format", "maxrows", "expanded", "timing"],
        _ => &[],
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("on or off is expected, not {other}")),
    }
}

fn format(text: &str) -> Result<Format, String> {
    Format::from_str(text, true)
        .map_err(|_| format!("unknown format {text}; there are table, csv, tsv, json, nd-json and automatic"))
}

/// A path may be in quotes, and begin with `~/`.
fn path(text: &str) -> PathBuf {
    let text = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(text);
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let parse = |text| Command::parse(text).unwrap();
        assert_eq!(parse("\\q"), Command::Quit);
        assert_eq!(parse("\\d t;"), Command::Describe(Some("t".into())));
        assert_eq!(parse("\\x"), Command::Expanded(None));
        assert_eq!(parse("\\timing  off"), Command::Timing(Some(false)));
        assert_eq!(parse("\\format nd-json"), Command::Format(Some(Format::NdJson)));
        assert_eq!(parse("\\pset format CSV"), Command::Format(Some(Format::Csv)));
        assert_eq!(parse("\\pset maxrows 0"), Command::MaxRows(0));
        assert_eq!(parse("\\i 'my file.sql'"), Command::Include("my file.sql".into()));
        assert_eq!(parse("\\o"), Command::Output(None));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("\\nope", "unknown command \\nope; \\? lists"),
            ("\\x maybe", "on or off"),
            ("\\format xml", "nd-json"),
            ("\\pset maxrows all", "0 for all"),
            ("\\pset border 2", "unknown setting border"),
            ("\\i", "needs a file"),
            ("\\cancel", "\\jobs shows"),
            ("\\jobs x", "no argument"),
        ] {
            let error = Command::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn help_lists_every_command() {
        let help = help();
        assert!(names().all(|name| help.contains(name)));
        // What help shows is understood, or misses its argument.
        assert!(names().all(|name| !Command::parse(name).is_err_and(|error| error.contains("unknown"))));
    }
}
