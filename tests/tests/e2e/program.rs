//! Runs a program to its end and keeps what it said.

use std::{
    fmt,
    io::Read,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use crate::patience;

/// The longest a program may take; none here needs a tenth of it.
const LIMIT_SECONDS: u64 = 180;

/// What a program said, and how it ended.
pub struct Said {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Said {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// As [`Said::succeeded`], and without a word of complaint.
    #[track_caller]
    pub fn silently(self) -> Self {
        assert!(self.code == 0 && self.stderr.is_empty(), "{self}");
        self
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out: String = self.stdout().chars().take(4000).collect();
        write!(f, "exit {}\n--- stdout\n{out}\n--- stderr\n{}", self.code, self.stderr)
    }
}

/// Runs a program that reads nothing to its end; one that takes too long is killed.
pub fn run(command: &mut Command) -> Said {
    run_with_input(command, Stdio::null())
}

/// Runs a program to its end, its standard input being a pipe or a file.
pub fn run_with_input(command: &mut Command, input: impl Into<Stdio>) -> Said {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("could not start {:?}: {error}", command.get_program()));
    let stdout = read(child.stdout.take().expect("a pipe"));
    let stderr = read(child.stderr.take().expect("a pipe"));
    let status = patience::within(LIMIT_SECONDS, || child.try_wait().expect("a child of ours"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = Said {
        code: status.and_then(|status| status.code()).unwrap_or(-1),
        stdout: stdout.join().expect("a reader"),
        stderr: String::from_utf8_lossy(&stderr.join().expect("a reader")).into_owned(),
    };
    assert!(status.is_some(), "{:?} did not end within {LIMIT_SECONDS} s: {said}", command.get_program());
    said
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}
