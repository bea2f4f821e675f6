// SPDX-License-Identifier: Apache-2.0
//! Edits a line on a terminal: cursor, history, search in it, completion.
//!
//! * [`line`]: the text and its cursor. [`keys`]: bytes to keys. [`terminal`]: the mode of the terminal.
//! * [`history`]: what was typed before.
//!
//! The usual crates for this would change the features of crates that everything here is built on, and with it compile
//! everything else differently; the shell needs this little of them. Where standard input or output is no terminal that
//! can move its cursor, lines are read as they are.

mod history;
mod keys;
mod line;
mod terminal;

use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal, Write};

use console::Term;

pub(crate) use history::{History, default_path};
use keys::{Key, read_key};
use line::LineBuffer;
use terminal::KeyMode;

/// Candidates that are listed.
const LISTED: usize = 120;

/// What a reader of lines returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C was pressed.
    Interrupted,
    /// There are no more lines.
    End,
}

/// Finds what the text before the cursor may go on with.
pub(crate) trait Complete {
    /// Where the word begins that is completed, and what it may be.
    fn complete(&self, before: &str) -> (usize, Vec<String>);
}

/// Reads lines from standard input.
pub(crate) struct Editor {
    history: History,
    /// What was removed last.
    killed: String,
    /// Pasted lines that were not returned yet; the last of them is to be edited.
    pasted: VecDeque<String>,
    can_edit: bool,
}

/// A line on the screen.
struct Screen<'a> {
    prompt: &'a str,
    /// Row of the cursor below the first one, as last drawn.
    cursor_row: usize,
    /// What was last drawn, if the cursor is at its end and the next character fits into its row.
    drawn: Option<String>,
}

/// What a key led to.
enum Then {
    Redraw,
    Nothing,
    Done(Line),
}

impl Editor {
    pub(crate) fn new(history: History) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let can_edit = io::stdin().is_terminal() && io::stdout().is_terminal() && !dumb;
        Self { history, killed: String::new(), pasted: VecDeque::new(), can_edit }
    }

    /// Remembers a statement.
    pub(crate) fn remember(&mut self, text: &str) {
        self.history.add(text);
    }

    /// Reads a line.
    pub(crate) fn read(&mut self, prompt: &str, completion: &dyn Complete) -> io::Result<Line> {
        if !self.can_edit {
            return plain(prompt);
        }
        let mut line = LineBuffer::default();
        if let Some(pasted) = self.pasted.pop_front() {
            if !self.pasted.is_empty() {
                println!("{prompt}{pasted}");
                return Ok(Line::Text(pasted));
            }
            line = LineBuffer::new(pasted);
        }
        let _mode = KeyMode::enter()?;
        let mut screen = Screen { prompt, cursor_row: 0, drawn: None };
        let mut recalled = self.history.entries().len();
        let mut typed = LineBuffer::default();
        screen.draw(&line)?;
        let mut input = io::stdin().lock();
        loop {
            let then = match read_key(&mut input)? {
                Key::Up | Key::Down if self.history.entries().is_empty() => Then::Nothing,
                key @ (Key::Up | Key::Down) => {
                    let entries = self.history.entries();
                    let next =
                        if key == Key::Up { recalled.saturating_sub(1) } else { (recalled + 1).min(entries.len()) };
                    if recalled == entries.len() {
                        typed = line.clone();
                    }
                    recalled = next;
                    line = entries.get(next).map_or_else(|| typed.clone(), LineBuffer::new);
                    Then::Redraw
                }
                Key::ClearScreen => screen.clear(),
                Key::Tab => screen.complete(&mut line, completion)?,
                Key::Search => self.search(&mut input, &mut screen, &mut line)?,
                key => self.key(key, &mut line)?,
            };
            match then {
                Then::Nothing => {}
                Then::Redraw => screen.draw(&line)?,
                Then::Done(result) => {
                    line.end();
                    screen.draw(&line)?;
                    println!("{}", if result == Line::Interrupted { "^C" } else { "" });
                    return Ok(result);
                }
            }
        }
    }

    fn key(&mut self, key: Key, line: &mut LineBuffer) -> io::Result<Then> {
        match key {
            Key::Char(c) => line.insert(c.encode_utf8(&mut [0; 4])),
            Key::Paste(text) => return Ok(self.paste(&text, line)),
            Key::Enter => return Ok(Then::Done(Line::Text(line.text().to_owned()))),
            Key::Interrupt => return Ok(Then::Done(Line::Interrupted)),
            Key::EndOfInput if line.text().is_empty() => return Ok(Then::Done(Line::End)),
            Key::Closed => return Ok(Then::Done(Line::End)),
            Key::Backspace => line.backspace(),
            Key::Delete | Key::EndOfInput => line.delete(),
            Key::Left => line.left(),
            Key::Right => line.right(),
            Key::Home => line.home(),
            Key::End => line.end(),
            Key::WordLeft => line.word_left(),
            Key::WordRight => line.word_right(),
            Key::KillToEnd => self.killed = line.kill_to_end(),
            Key::KillToStart => self.killed = line.kill_to_start(),
            Key::KillWordLeft => self.killed = line.kill_word_left(),
            Key::KillWordRight => self.killed = line.kill_word_right(),
            Key::Yank => line.insert(&self.killed),
            Key::Up | Key::Down | Key::Tab | Key::Search | Key::ClearScreen | Key::Abort | Key::Other => {
                return Ok(Then::Nothing);
            }
        }
        Ok(Then::Redraw)
    }

    /// Every line but the last is as if it were typed and ended.
    fn paste(&mut self, text: &str, line: &mut LineBuffer) -> Then {
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', "    ");
        let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        let mut lines = text.split('\n').map(str::to_owned);
        line.insert(&lines.next().unwrap_or_default());
        self.pasted.extend(lines);
        if self.pasted.is_empty() { Then::Redraw } else { Then::Done(Line::Text(line.text().to_owned())) }
    }

    /// Looks for entries of the history that contain what is typed now.
    fn search(&mut self, input: &mut impl io::Read, screen: &mut Screen, line: &mut LineBuffer) -> io::Result<Then> {
        let before = line.clone();
        let mut wanted = String::new();
        let mut from = self.history.entries().len();
        loop {
            let prompt = format!("(search `{wanted}`) ");
            screen.draw_with(&prompt, line)?;
            let find = |end: usize| self.history.entries()[..end].iter().rposition(|entry| entry.contains(&wanted));
            let found = match read_key(input)? {
                Key::Char(c) => {
                    wanted.push(c);
                    self.history.entries()[..from.saturating_add(1).min(self.history.entries().len())]
                        .iter()
                        .rposition(|entry| entry.contains(&wanted))
                }
                Key::Backspace => {
                    wanted.pop();
                    self.history.entries().iter().rposition(|entry| entry.contains(&wanted))
                }
                Key::Search => find(from),
                Key::Abort | Key::Interrupt => {
                    *line = before;
                    return Ok(Then::Redraw);
                }
                // Any other key does to the entry what it always does.
                key => return self.key(key, line),
            };
            match found {
                Some(entry) => {
                    from = entry;
                    *line = LineBuffer::new(self.history.entries()[entry].clone());
                }
                None => bell()?,
            }
        }
    }
}

impl Screen<'_> {
    fn draw(&mut self, line: &LineBuffer) -> io::Result<()> {
        self.draw_with(self.prompt, line)
    }

    fn draw_with(&mut self, prompt: &str, line: &LineBuffer) -> io::Result<()> {
        let width = Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns).max(10));
        let cursor = place(width, &[prompt, line.before_cursor()]);
        let end = place(width, &[prompt, line.text()]);
        let whole = format!("{prompt}{}", line.text());
        let before = self.drawn.take();
        let goes_on_here = end == cursor && end.1 > 0;
        if let Some(before) =
            before.filter(|before| goes_on_here && end.0 == self.cursor_row && whole.starts_with(before))
        {
            // Typing at the end is no reason to draw everything anew.
            io::stdout().write_all(&whole.as_bytes()[before.len()..])?;
            self.drawn = Some(whole);
            return io::stdout().flush();
        }
        let mut out = String::new();
        if self.cursor_row > 0 {
            out.push_str(&format!("\x1b[{}A", self.cursor_row));
        }
        out.push_str("\r\x1b[J");
        out.push_str(&whole);
        if end.1 == 0 && end.0 > 0 {
            // A terminal moves to the next row with the next character only.
            out.push('\n');
        }
        if end.0 > cursor.0 {
            out.push_str(&format!("\x1b[{}A", end.0 - cursor.0));
        }
        out.push('\r');
        if cursor.1 > 0 {
            out.push_str(&format!("\x1b[{}C", cursor.1));
        }
        self.cursor_row = cursor.0;
        self.drawn = goes_on_here.then_some(whole);
        io::stdout().write_all(out.as_bytes())?;
        io::stdout().flush()
    }

    fn clear(&mut self) -> Then {
        print!("\x1b[H\x1b[2J");
        (self.cursor_row, self.drawn) = (0, None);
        Then::Redraw
    }

    fn complete(&mut self, line: &mut LineBuffer, completion: &dyn Complete) -> io::Result<Then> {
        let (start, candidates) = completion.complete(line.before_cursor());
        let typed = line.before_cursor().len() - start;
        match candidates.as_slice() {
            [] => {
                bell()?;
                Ok(Then::Nothing)
            }
            [only] => {
                let goes_on = only.ends_with(['/', '(', '.', '\'']);
                line.replace_from(start, &if goes_on { only.clone() } else { format!("{only} ") });
                Ok(Then::Redraw)
            }
            several => {
                let common = common_prefix(several);
                if common.len() > typed {
                    line.replace_from(start, &common);
                    return Ok(Then::Redraw);
                }
                let shown: Vec<_> = several.iter().take(LISTED).map(String::as_str).collect();
                let width = Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
                print!("\n{}", in_columns(&shown, width));
                if several.len() > shown.len() {
                    println!("… and {} more", several.len() - shown.len());
                }
                self.cursor_row = 0;
                self.drawn = None;
                Ok(Then::Redraw)
            }
        }
    }
}

/// Row and column behind texts that wrap at `width`.
fn place(width: usize, texts: &[&str]) -> (usize, usize) {
    let (mut row, mut column) = (0, 0);
    for c in texts.iter().flat_map(|text| text.chars()) {
        let wide = console::measure_text_width(c.encode_utf8(&mut [0; 4]));
        if column + wide > width {
            (row, column) = (row + 1, 0);
        }
        column += wide;
    }
    if column == width { (row + 1, 0) } else { (row, column) }
}

fn common_prefix(texts: &[String]) -> String {
    let mut common = texts.first().cloned().unwrap_or_default();
    for text in texts {
        let same = common.chars().zip(text.chars()).take_while(|(a, b)| a.eq_ignore_ascii_case(b));
        let length = same.map(|(a, _)| a.len_utf8()).sum();
        common.truncate(length);
    }
    common
}

fn in_columns(texts: &[&str], width: usize) -> String {
    let column = texts.iter().map(|text| console::measure_text_width(text)).max().unwrap_or(0) + 2;
    let columns = (width / column).max(1);
    let rows = texts.len().div_ceil(columns);
    let mut shown = String::new();
    for row in 0..rows {
        let cells = texts.iter().skip(row).step_by(rows);
        let line: String =
            cells.map(|text| format!("{text}{}", " ".repeat(column - console::measure_text_width(text)))).collect();
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
    shown
}

fn bell() -> io::Result<()> {
    io::stdout().write_all(b"\x07")?;
    io::stdout().flush()
}

fn plain(prompt: &str) -> io::Result<Line> {
    print!("{prompt}");
    io::stdout().flush()?;
    let mut text = String::new();
    if io::stdin().lock().read_line(&mut text)? == 0 {
        println!();
        return Ok(Line::End);
    }
    Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_where_the_terminal_puts_it() {
        assert_eq!(place(10, &["> ", "abc"]), (0, 5));
        assert_eq!(place(10, &["> ", "abcdefgh"]), (1, 0));
        assert_eq!(place(10, &["> ", "abcdefghij"]), (1, 2));
        // A wide character does not fit into the last column.
        assert_eq!(place(10, &["> ", "abcdefg日"]), (1, 2));
    }

    #[test]
    fn candidates_share_a_prefix_and_are_listed_in_columns() {
        let texts = ["select".to_owned(), "sELf".to_owned()];
        assert_eq!(common_prefix(&texts), "sel");
        assert_eq!(in_columns(&["a", "bb", "c", "d", "e"], 9), "a   d\nbb  e\nc\n");
    }

    #[test]
    fn pasted_lines_are_returned_one_by_one() {
        let mut editor = Editor::new(History::default());
        let mut line = LineBuffer::new("x ");
        let then = editor.paste("SELECT\n\t1\r\n  AS\u{7} a", &mut line);
        assert!(matches!(then, Then::Done(Line::Text(text)) if text == "x SELECT"));
        assert_eq!(editor.pasted, ["    1", "  AS a"]);
    }
}
