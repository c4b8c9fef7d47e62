//! Asking a person for a secret: on the terminal itself, with echo off.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use walwarden_contract::secret::Secret;

use crate::failure::Failure;

/// Reads one line that is not shown.
pub fn hidden(question: &str) -> Result<Secret, Failure> {
    let failed = |error: std::io::Error| Failure::user("no_terminal", format!("could not ask on the terminal: {error}")).hint("set WALWARDEN_TARGET and PGPASSWORD instead");
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let before = tcgetattr(&terminal).map_err(|e| failed(e.into()))?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    quiet.local_modes.insert(LocalModes::ECHONL);
    write!(terminal, "{question}").map_err(failed)?;
    tcsetattr(&terminal, OptionalActions::Flush, &quiet).map_err(|e| failed(e.into()))?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    read.map_err(failed)?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}
