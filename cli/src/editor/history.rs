// SPDX-License-Identifier: Apache-2.0
//! [`History`]: what was typed before, in this session and in earlier ones.
//!
//! The file has one entry per line and is appended to, so that shells that run at the same time do not lose each
//! other's. It is the user's alone to read. Statements that seem to hold secrets are not written to it, only remembered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ballista_client::seems_secret;

/// Entries that are kept.
const ENTRIES: usize = 2000;

/// Entries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<String>,
    path: Option<PathBuf>,
}

impl History {
    /// Reads the entries of a file, which need not be there; new ones will be added to it.
    pub(crate) fn open(path: PathBuf) -> Self {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let skipped = lines.len().saturating_sub(ENTRIES);
        let history = Self { entries: lines[skipped..].to_vec(), path: Some(path) };
        if skipped > ENTRIES {
            // A file that stays too long does no harm.
            let _ = history.rewrite();
        }
        history
    }

    pub(crate) fn entries(&self) -> &[String] {
        &self.entries
    }

    /// Adds what was typed, unless it begins with a space or repeats the last entry.
    pub(crate) fn add(&mut self, text: &str) {
        let entry = one_line(text);
        if entry.is_empty() || text.starts_with(' ') || self.entries.last() == Some(&entry) {
            return;
        }
        if !seems_secret(text) {
            // A home that cannot be written to is no reason to stop.
            let _ = self.append(&entry);
        }
        self.entries.push(entry);
    }

    fn append(&self, entry: &str) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = private(path, OpenOptions::new().append(true))?;
        file.write_all(format!("{entry}\n").as_bytes())
    }

    fn rewrite(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let beside = path.with_extension("new");
        let mut file = private(&beside, OpenOptions::new().write(true).truncate(true))?;
        file.write_all((self.entries.join("\n") + "\n").as_bytes())?;
        fs::rename(beside, path)
    }
}

fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.create(true).mode(0o600).open(path)
}

/// The statement in one line; its last line if a string goes over several.
fn one_line(text: &str) -> String {
    let text = text.trim();
    let quotes = |text: &str| text.matches('\'').count();
    if !text.contains('\n') {
        return text.to_owned();
    }
    if text.lines().any(|line| quotes(line) % 2 == 1) {
        return text.lines().last().unwrap_or_default().trim().to_owned();
    }
    let line = |line: &str| {
        // A comment to the end of the line would swallow the rest.
        let comment = line.match_indices("--").find(|(at, _)| quotes(&line[..*at]).is_multiple_of(2));
        match comment {
            Some((at, _)) => format!("{}/*{} */", &line[..at], line[at + 2..].replace("*/", "")).trim().to_owned(),
            None => line.trim().to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join(" ")
}

/// `$XDG_STATE_HOME/ballista/cli_history`, by default below `~/.local/state`.
pub(crate) fn default_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))?;
    Some(state.join("ballista/cli_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_for_the_next_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/ballista/cli_history");
        let mut history = History::open(path.clone());
        for text in ["SELECT 1;", "SELECT 1;", " SECRET;", "SELECT\n  2\nFROM t;", "", "\\d"] {
            history.add(text);
        }
        let expected = ["SELECT 1;", "SELECT 2 FROM t;", "\\d"];
        assert_eq!(history.entries(), expected);
        assert_eq!(History::open(path.clone()).entries(), expected);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn secrets_are_not_written_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut history = History::open(path.clone());
        history.add("SET aws.Secret_Access_Key = 'hush';");
        history.add("SET gcp.service_account_key = '{\n\"private_key\":\"hush\"}';");
        history.add("SELECT 1;");
        assert_eq!(history.entries().len(), 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), "SELECT 1;\n");
    }

    #[test]
    fn a_statement_is_one_line_that_means_the_same() {
        assert_eq!(one_line("SELECT 'a--b' -- it's\nFROM t"), "FROM t");
        assert_eq!(one_line("SELECT 'a--b' -- all\n  FROM t;"), "SELECT 'a--b' /* all */ FROM t;");
        assert_eq!(one_line("SELECT 'a\nb';"), "b';");
        assert_eq!(one_line("SELECT 1; -- one"), "SELECT 1; -- one");
    }

    #[test]
    fn a_long_file_is_shortened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let lines: Vec<_> = (0..2 * ENTRIES + 1).map(|number| format!("SELECT {number};")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let history = History::open(path.clone());
        assert_eq!(history.entries().len(), ENTRIES);
        assert_eq!(history.entries().last(), lines.last());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), ENTRIES);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_no_trouble() {
        let mut history = History::open(PathBuf::from("/proc/no/such/history"));
        history.add("SELECT 1;");
        assert_eq!(history.entries().len(), 1);
    }
}
