// SPDX-License-Identifier: Apache-2.0
//! [`LineBuffer`]: a line of text with a cursor in it.

/// A line that is being edited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LineBuffer {
    text: String,
    /// In bytes, between two characters.
    cursor: usize,
}

impl LineBuffer {
    /// The cursor is at the end.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { cursor: text.len(), text }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    pub(crate) fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    /// Replaces what is between `start` and the cursor.
    pub(crate) fn replace_from(&mut self, start: usize, text: &str) {
        self.text.replace_range(start..self.cursor, text);
        self.cursor = start + text.len();
    }

    pub(crate) fn left(&mut self) {
        self.cursor = self.previous();
    }

    pub(crate) fn right(&mut self) {
        self.cursor = self.next();
    }

    pub(crate) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(crate) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    pub(crate) fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    pub(crate) fn word_right(&mut self) {
        self.cursor = self.word_end();
    }

    /// Removes the character before the cursor.
    pub(crate) fn backspace(&mut self) {
        self.remove(self.previous(), self.cursor);
    }

    /// Removes the character at the cursor.
    pub(crate) fn delete(&mut self) {
        self.remove(self.cursor, self.next());
    }

    /// Removes everything after the cursor and returns it, as the next ones do with other ranges.
    pub(crate) fn kill_to_end(&mut self) -> String {
        self.remove(self.cursor, self.text.len())
    }

    pub(crate) fn kill_to_start(&mut self) -> String {
        self.remove(0, self.cursor)
    }

    pub(crate) fn kill_word_left(&mut self) -> String {
        self.remove(self.word_start(), self.cursor)
    }

    pub(crate) fn kill_word_right(&mut self) -> String {
        self.remove(self.cursor, self.word_end())
    }

    fn remove(&mut self, start: usize, end: usize) -> String {
        self.cursor = start;
        self.text.drain(start..end).collect()
    }

    fn previous(&self) -> usize {
        self.before_cursor().char_indices().next_back().map_or(0, |(at, _)| at)
    }

    fn next(&self) -> usize {
        self.text[self.cursor..].chars().next().map_or(self.cursor, |c| self.cursor + c.len_utf8())
    }

    fn word_start(&self) -> usize {
        let before = self.before_cursor().trim_end_matches(|c| !in_word(c));
        before.trim_end_matches(in_word).len()
    }

    fn word_end(&self) -> usize {
        let after = self.text[self.cursor..].trim_start_matches(|c| !in_word(c));
        self.text.len() - after.trim_start_matches(in_word).len()
    }
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_inserted_and_removed_whole() {
        let mut line = LineBuffer::new("aö");
        line.left();
        line.insert("日");
        assert_eq!((line.text(), line.before_cursor()), ("a日ö", "a日"));
        line.delete();
        line.delete();
        line.backspace();
        line.backspace();
        line.backspace();
        assert_eq!(line, LineBuffer::default());
        line.right();
        line.left();
        assert_eq!(line, LineBuffer::default());
    }

    #[test]
    fn words_are_passed_and_removed() {
        let mut line = LineBuffer::new("SELECT sum(x_1) FROM t");
        line.word_left();
        line.word_left();
        assert_eq!(line.before_cursor(), "SELECT sum(x_1) ");
        line.word_left();
        assert_eq!(line.kill_word_right(), "x_1");
        assert_eq!(line.kill_word_left(), "sum(");
        line.word_right();
        assert_eq!(line.before_cursor(), "SELECT ) FROM");
        assert_eq!(line.kill_to_end(), " t");
        assert_eq!(line.kill_to_start(), "SELECT ) FROM");
        line.insert("ab");
        line.home();
        line.replace_from(0, "x");
        line.end();
        assert_eq!(line.before_cursor(), "xab");
    }
}
