//! Asking a person for a secret: on the terminal itself, with echo off.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use walwarden_contract::secret::Secret;

use crate::{
    failure::Failure,
    stop::{Cause, stopped},
};

/// Reads one line that is not shown.
pub fn hidden(question: &str) -> Result<Secret, Failure> {
    let failed = |error: io::Error| {
        Failure::user("no_terminal", format!("could not ask on the terminal: {error}"))
            .hint("set WALWARDEN_TARGET and PGPASSWORD instead")
    };
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    write!(terminal, "{question}").map_err(failed)?;
    let line = Quiet::enter(&terminal).and_then(|_quiet| read_line(&terminal));
    let _ = writeln!(terminal);
    line.map_err(failed)?.map(Secret::new).ok_or_else(|| stopped(Cause::Signal))
}

/// The terminal as it was, put back when dropped. Keys that would end the process are read as bytes meanwhile, or it
/// would end with the terminal silent.
struct Quiet<'t>(&'t File, Termios);

impl<'t> Quiet<'t> {
    fn enter(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self(terminal, before))
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, OptionalActions::Flush, &self.1);
    }
}

/// `None` if it was interrupted. Reads no byte beyond the line: the next question's answer may lie ready.
#[expect(clippy::unbuffered_bytes)]
fn read_line(terminal: impl Read) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    for byte in terminal.bytes() {
        match byte? {
            b'\r' | b'\n' => break,
            // Ctrl-C, Ctrl-D, Ctrl-\
            0x03 | 0x04 | 0x1c => return Ok(None),
            // Backspace takes a whole character.
            0x08 | 0x7f => while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
            // Ctrl-U
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_terminal_sends_them() {
        let read = |bytes: &[u8]| read_line(bytes).unwrap();
        assert_eq!(read(b"secret\rmore").as_deref(), Some("secret"));
        assert_eq!(read("ab\u{e9}\u{7f}\u{7f}c\n".as_bytes()).as_deref(), Some("ac"));
        assert_eq!(read(b"wrong\x15right\n").as_deref(), Some("right"));
        assert_eq!(read(b"half\x03"), None);
    }
}
