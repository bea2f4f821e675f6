// SPDX-License-Identifier: Apache-2.0
//! The terminal while a line is edited: keys come one by one, nothing is echoed.

use std::io::{self, Write};

/// Has pasted text marked as such.
const PASTE_MARKS_ON: &[u8] = b"\x1b[?2004h";
const PASTE_MARKS_OFF: &[u8] = b"\x1b[?2004l";

/// Standard input hands out keys until this is dropped.
pub(crate) struct KeyMode {
    before: libc::termios,
}

impl KeyMode {
    /// Fails if standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = settings()?;
        let mut now = before;
        now.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        now.c_iflag &= !(libc::IXON | libc::ICRNL | libc::INLCR);
        now.c_cc[libc::VMIN] = 1;
        now.c_cc[libc::VTIME] = 0;
        set(&now)?;
        let mode = Self { before };
        io::stdout().write_all(PASTE_MARKS_ON)?;
        Ok(mode)
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = io::stdout().write_all(PASTE_MARKS_OFF);
        let _ = io::stdout().flush();
        let _ = set(&self.before);
    }
}

fn settings() -> io::Result<libc::termios> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to memory of the right size, which the call fills if it returns 0.
    let result = unsafe { libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled, as the call succeeded.
    Ok(unsafe { settings.assume_init() })
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the pointer is to settings that the system itself made, changed in flags only.
    let result = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, settings) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
