// SPDX-License-Identifier: Apache-2.0
//! [`Destination`]: where output goes, and what is known of that place.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use console::Term;

const BUFFER_BYTES: usize = 64 << 10;

/// A place to write to.
pub(crate) struct Destination {
    out: Box<dyn Write>,
    is_terminal: bool,
    /// Instead of the terminal's.
    width: Option<usize>,
    closed: bool,
}

impl Destination {
    /// Standard output of this process.
    pub(crate) fn standard() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self {
            out: Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())),
            is_terminal,
            width: None,
            closed: false,
        }
    }

    /// A new file.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        Ok(Self { out: Box::new(file), is_terminal: false, width: None, closed: false })
    }

    /// Anything; a terminal if it has a width.
    #[cfg(test)]
    pub(crate) fn of(out: impl Write + 'static, width: Option<usize>) -> Self {
        Self { out: Box::new(out), is_terminal: width.is_some(), width, closed: false }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Columns of the terminal, if it is one and says so.
    pub(crate) fn width(&self) -> Option<usize> {
        let asked = || Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        self.is_terminal.then(|| self.width.or_else(asked)).flatten().filter(|columns| *columns > 0)
    }

    /// Whether the reader is gone: `ballista-cli … | head`.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.closed |= error.kind() == io::ErrorKind::BrokenPipe;
        }
        result
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.note(result)
    }
}
