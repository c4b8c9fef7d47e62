//! The process: in a group of its own, its standard error bounded, ended with us by whatever means.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getppid, kill_process_group, waitid};

use super::invocation::Invocation;

/// What is kept of pg_dump's messages.
const MESSAGES_BYTES: u64 = 16 << 10;
/// As large as an unprivileged pipe can be: fewer switches between pg_dump and us.
const PIPE_BYTES: usize = 1 << 20;
/// A read that got less than this has caught up with pg_dump.
const SHORT_READ_BYTES: usize = 64 << 10;
/// What a reader that has caught up waits, so that it is not woken for each 4 KiB that pg_dump writes; so short that the
/// pipe does not fill.
const GATHERING_TIME: Duration = Duration::from_micros(500);

/// Ends pg_dump from any thread, before or while it runs.
#[derive(Debug, Clone, Default)]
pub struct Ender(Arc<Mutex<State>>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    NotStarted,
    Running(Pid),
    /// It ran and was waited for: its id may be another's by now.
    Over,
    /// Somebody wants it ended, before or after it was started.
    Ended,
}

impl Ender {
    /// Ends it, children included. Does nothing when it is over.
    pub fn end(&self) {
        let mut state = self.lock();
        if let State::Running(pid) = *state {
            // It may be gone already; then there is nothing to do.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        if *state != State::Over {
            *state = State::Ended;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running pg_dump.
pub struct Process {
    child: Child,
    pid: Pid,
    ender: Ender,
    messages: Option<JoinHandle<String>>,
}

/// What pg_dump writes to standard output.
pub struct Output {
    stdout: ChildStdout,
    gathers: bool,
    caught_up: bool,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.caught_up && self.gathers {
            thread::sleep(GATHERING_TIME);
        }
        let count = self.stdout.read(buffer)?;
        self.caught_up = count < SHORT_READ_BYTES.min(buffer.len());
        Ok(count)
    }
}

/// How pg_dump ended.
#[derive(Debug)]
pub struct End {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to standard error, cut off after some kilobytes.
    pub messages: String,
}

impl Process {
    /// Starts it. The calling thread must outlive it: the kernel ends the child with the thread that made it.
    pub fn start(invocation: &Invocation, ender: &Ender) -> io::Result<(Self, Output)> {
        let mut command = invocation.command();
        command.process_group(0);
        end_with_parent(&mut command);
        // Held while starting, so that nobody's wish to end it falls between start and note.
        let mut state = ender.lock();
        if *state != State::NotStarted {
            return Err(io::Error::other("ended before it began"));
        }
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        *state = State::Running(pid);
        drop(state);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut process = Self { child, pid, ender: ender.clone(), messages: None };
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(io::Error::other("no pipes"));
        };
        let enlarged = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        if let Err(error) = &enlarged {
            tracing::debug!("the pipe keeps its size: {error}");
        }
        // A pipe of the usual size would fill while its reader waits.
        let stdout = Output { stdout, gathers: enlarged.is_ok(), caught_up: false };
        let reader = thread::Builder::new().name("pg_dump stderr".into()).stack_size(64 << 10);
        process.messages = Some(reader.spawn(move || read_messages(stderr))?);
        Ok((process, stdout))
    }

    /// Waits for its end.
    pub fn wait(mut self) -> io::Result<End> {
        let status = self.reap()?;
        let messages = self.messages.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ok(End { status, messages })
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        // First without taking its status away: until then its id is its own, and may be sent a signal.
        while let Err(error) = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let mut state = self.ender.lock();
        *state = State::Over;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if *self.ender.lock() != State::Over {
            self.ender.end();
            // A killed process does not keep us waiting.
            let _ = self.reap();
        }
    }
}

/// Reads to the end, so that pg_dump never waits for us, and keeps the beginning.
fn read_messages(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    // A read error ends the messages, nothing else.
    let _ = stderr.by_ref().take(MESSAGES_BYTES).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

/// Has the kernel kill the child when the thread that starts it ends, however that comes about.
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called. `prepare` makes two system calls
    // (prctl, getppid) through rustix, which neither allocates nor locks, and an `io::Error` of a kind or an error
    // number, which does not allocate either.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_read_to_the_end() {
        let long = vec![b'x'; 1 << 20];
        let mut input = io::Cursor::new(long);
        assert_eq!(read_messages(&mut input).len() as u64, MESSAGES_BYTES);
        assert_eq!(input.position(), 1 << 20);
    }
}
