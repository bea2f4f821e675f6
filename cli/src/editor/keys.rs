// SPDX-License-Identifier: Apache-2.0
//! From the bytes of a terminal to keys.

use std::io::{self, ErrorKind, Read};

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    /// Text from the clipboard.
    Paste(String),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    WordLeft,
    WordRight,
    KillToEnd,
    KillToStart,
    KillWordLeft,
    KillWordRight,
    Yank,
    ClearScreen,
    Search,
    Abort,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    EndOfInput,
    /// The terminal is gone.
    Closed,
    /// Nothing that has a meaning here.
    Other,
}

const PASTE_END: &[u8] = b"\x1b[201~";

/// Reads the next key.
pub(crate) fn read_key(input: &mut impl Read) -> io::Result<Key> {
    let Some(byte) = read_byte(input)? else { return Ok(Key::Closed) };
    Ok(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x7f | 0x08 => Key::Backspace,
        0x1b => return escape(input),
        0..0x20 => control(byte),
        byte => Key::Char(character(byte, input)?),
    })
}

fn control(byte: u8) -> Key {
    match byte | 0x60 {
        b'a' => Key::Home,
        b'b' => Key::Left,
        b'c' => Key::Interrupt,
        b'd' => Key::EndOfInput,
        b'e' => Key::End,
        b'f' => Key::Right,
        b'g' => Key::Abort,
        b'k' => Key::KillToEnd,
        b'l' => Key::ClearScreen,
        b'n' => Key::Down,
        b'p' => Key::Up,
        b'r' => Key::Search,
        b'u' => Key::KillToStart,
        b'w' => Key::KillWordLeft,
        b'y' => Key::Yank,
        _ => Key::Other,
    }
}

/// What follows an escape character; a key with Alt begins with one too.
fn escape(input: &mut impl Read) -> io::Result<Key> {
    Ok(match read_byte(input)? {
        None => Key::Closed,
        Some(b'[') => return sequence(input),
        Some(b'O') => match read_byte(input)? {
            Some(end) => named(end, ""),
            None => Key::Closed,
        },
        Some(b'b') => Key::WordLeft,
        Some(b'f') => Key::WordRight,
        Some(b'd') => Key::KillWordRight,
        Some(0x7f | 0x08) => Key::KillWordLeft,
        Some(_) => Key::Other,
    })
}

fn sequence(input: &mut impl Read) -> io::Result<Key> {
    let mut parameters = String::new();
    loop {
        match read_byte(input)? {
            None => return Ok(Key::Closed),
            Some(b'~') if parameters == "200" => return paste(input),
            Some(end @ 0x40..=0x7e) => return Ok(named(end, &parameters)),
            Some(byte) => parameters.push(char::from(byte)),
        }
    }
}

fn named(end: u8, parameters: &str) -> Key {
    // 5 is Ctrl, 3 is Alt.
    let by_word = parameters.ends_with(";5") || parameters.ends_with(";3");
    match (end, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if by_word => Key::WordRight,
        (b'D', _) if by_word => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', "1" | "7") => Key::Home,
        (b'F', _) | (b'~', "4" | "8") => Key::End,
        (b'~', "3") => Key::Delete,
        _ => Key::Other,
    }
}

fn paste(input: &mut impl Read) -> io::Result<Key> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(PASTE_END) {
        match read_byte(input)? {
            Some(byte) => bytes.push(byte),
            None => return Ok(Key::Closed),
        }
    }
    bytes.truncate(bytes.len() - PASTE_END.len());
    Ok(Key::Paste(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A character of UTF-8 that begins with `first`.
fn character(first: u8, input: &mut impl Read) -> io::Result<char> {
    let more = match first {
        0xc0..0xe0 => 1,
        0xe0..0xf0 => 2,
        0xf0..0xf8 => 3,
        _ => 0,
    };
    let mut bytes = vec![first];
    for _ in 0..more {
        bytes.extend(read_byte(input)?);
    }
    let text = std::str::from_utf8(&bytes).ok();
    Ok(text.and_then(|text| text.chars().next()).unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn read_byte(input: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What a terminal says whose other end is gone.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut input = bytes;
        let mut keys = vec![];
        loop {
            match read_key(&mut input).unwrap() {
                Key::Closed => return keys,
                key => keys.push(key),
            }
        }
    }

    #[test]
    fn keys_are_recognised() {
        use Key::*;
        assert_eq!(keys("aö日\r\t\u{7f}".as_bytes()), [Char('a'), Char('ö'), Char('日'), Enter, Tab, Backspace]);
        assert_eq!(
            keys(b"\x1b[A\x1bOB\x1b[1;5C\x1b[1;3D\x1b[H\x1b[4~\x1b[3~"),
            [Up, Down, WordRight, WordLeft, Home, End, Delete]
        );
        assert_eq!(
            keys(b"\x01\x03\x04\x12\x17\x1bb\x1b\x7f"),
            [Home, Interrupt, EndOfInput, Search, KillWordLeft, WordLeft, KillWordLeft]
        );
        assert_eq!(keys(b"\x1b[15;2~x\xff"), [Other, Char('x'), Char('\u{fffd}')]);
    }

    #[test]
    fn pasted_text_is_one_key() {
        assert_eq!(keys(b"\x1b[200~a\tb\nc\x1b[201~d"), [Key::Paste("a\tb\nc".into()), Key::Char('d')]);
        assert_eq!(keys(b"\x1b[200~a"), []);
    }
}
