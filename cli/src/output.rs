//! What a command says: lines and a progress bar to a person at a terminal, one JSON object a line to
//! anything else. Warnings and errors go to stderr as `warning:`, `error:` and `hint:` lines.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{failure::Failure, format};

const LINE_WIDTH: usize = 80;
const LABEL_WIDTH: usize = 10;

/// How far the current phase is, for the bar and for heartbeats.
#[derive(Debug)]
pub struct Progress {
    phase: Mutex<(&'static str, Instant)>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Phase, bytes done, bytes expected, bytes per second.
    pub fn read(&self) -> (&'static str, u64, u64, u64) {
        let (phase, since) = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.done.load(Ordering::Relaxed);
        let rate = done as f64 / since.elapsed().as_secs_f64().max(0.001);
        (phase, done, self.total.load(Ordering::Relaxed), rate as u64)
    }
}

/// Where a command's words go.
pub struct Output {
    json: bool,
    person: bool,
    bar: Mutex<Option<ProgressBar>>,
    /// How far the current phase is.
    pub progress: Arc<Progress>,
}

impl Output {
    /// JSON lines if asked for or stdout is no terminal.
    pub fn new(json: bool) -> Self {
        let progress = Progress { phase: Mutex::new(("start", Instant::now())), done: 0.into(), total: 0.into() };
        Self {
            json,
            person: !json && std::io::stdout().is_terminal(),
            bar: Mutex::new(None),
            progress: Arc::new(progress),
        }
    }

    /// Whether a person reads stdout.
    pub fn is_person(&self) -> bool {
        self.person
    }

    /// A line for people; beside JSON lines it goes to stderr, unless only JSON was asked for.
    pub fn say(&self, line: &str) {
        if self.person {
            self.aside(|| print(line));
        } else if !self.json {
            self.aside(|| eprint(line));
        }
    }

    /// A line for people under a label, in lines of their own where it is long.
    pub fn tell(&self, label: &str, text: &str) {
        let mut label = label;
        for line in format::wrapped(text, LINE_WIDTH - LABEL_WIDTH) {
            self.say(&format!("{label:<LABEL_WIDTH$}{line}"));
            label = "";
        }
    }

    /// Something to know before it hurts.
    pub fn warn(&self, line: &str) {
        self.aside(|| {
            for line in self.paragraph("warning:", line) {
                eprint(&line);
            }
        });
    }

    /// One line for programs and files, lines no longer than the screen for a person. Not for commands, which are to be
    /// copied whole.
    fn paragraph(&self, label: &str, text: &str) -> Vec<String> {
        if !self.person {
            return vec![format!("{label} {text}")];
        }
        let mut label = label;
        let lines = format::wrapped(text, LINE_WIDTH - LABEL_WIDTH).into_iter();
        lines.map(|line| format!("{:<LABEL_WIDTH$}{line}", std::mem::take(&mut label))).collect()
    }

    /// What another program says, as it says it.
    pub fn quote(&self, line: &str) {
        if !line.trim().is_empty() {
            self.aside(|| eprint(&format!("  | {}", walwarden_verifier::ids::shown(line))));
        }
    }

    /// A step: `{"state":…,"at":…,"payload":…}`.
    pub fn state(&self, state: &str, payload: Value) {
        let at = walwarden_contract::time::format(jiff::Timestamp::now());
        self.document(&json!({ "state": state, "at": at, "payload": payload }));
    }

    /// A JSON line, where JSON is written.
    pub fn document(&self, value: &impl Serialize) {
        if !self.person {
            self.aside(|| {
                // It may be long: it is written as it is made.
                let mut to = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
                let _ = serde_json::to_writer(&mut to, value).map(|()| to.write_all(b"\n"));
            });
        }
    }

    /// Begins a phase of `total` bytes, 0 where that is unknown.
    pub fn phase(&self, name: &'static str, total: u64) {
        *self.progress.phase.lock().unwrap_or_else(PoisonError::into_inner) = (name, Instant::now());
        self.progress.done.store(0, Ordering::Relaxed);
        self.progress.total.store(total, Ordering::Relaxed);
        if !self.person {
            return;
        }
        let (bar, template) = if total > 0 {
            (ProgressBar::new(total), "{prefix:<9} [{bar:12}] {amount} {wide_msg}")
        } else {
            (ProgressBar::new_spinner(), "{prefix:<9} {spinner} {elapsed} {wide_msg}")
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> ").with_key("amount", amount));
        bar.set_prefix(name);
        bar.enable_steady_tick(Duration::from_millis(120));
        self.replace_bar(Some(bar));
    }

    /// How far the phase is.
    pub fn advance_to(&self, done: u64) {
        self.progress.done.store(done, Ordering::Relaxed);
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(done);
        }
    }

    /// More bytes done.
    pub fn advance(&self, bytes: u64) {
        let done = self.progress.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(done);
        }
    }

    /// What the phase is busy with, a few words.
    pub fn busy(&self, words: &str) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_message(words.to_owned());
        }
    }

    /// Ends the phase with what it did.
    pub fn done(&self, what: &str) {
        let (phase, since) = *self.progress.phase.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace_bar(None);
        if self.person {
            print(&format!("{phase:<LABEL_WIDTH$}{what} ({})", format::duration(since.elapsed())));
        }
    }

    /// Ends the phase without a word.
    pub fn halt(&self) {
        self.replace_bar(None);
    }

    /// Says why a command failed and gives its exit code.
    pub fn fail(&self, failure: &Failure) -> std::process::ExitCode {
        self.replace_bar(None);
        let code = failure.exit as u8;
        if self.json {
            let error = json!({ "code": failure.code, "message": failure.message, "hint": failure.hint });
            print(&json!({ "error": error, "exitCode": code }).to_string());
        } else {
            let (message, hint) = match failure.told.as_deref() {
                Some((message, hint)) => (message.as_str(), Some(hint.as_str())),
                None => (failure.message.as_str(), failure.hint.as_deref()),
            };
            for line in self.paragraph("error:", message) {
                eprint(&line);
            }
            for line in hint.iter().flat_map(|hint| hint.lines()) {
                eprint(&format!("hint: {line}"));
            }
        }
        code.into()
    }

    fn replace_bar(&self, new: Option<ProgressBar>) {
        let old = std::mem::replace(&mut *self.bar.lock().unwrap_or_else(PoisonError::into_inner), new);
        if let Some(old) = old {
            old.finish_and_clear();
        }
    }

    fn aside(&self, write: impl FnOnce()) {
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// `16.1 of 51.5 MB, 7.7 MB/s, 5 s left`; no forecast before there is something to base it on.
fn amount(state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write) {
    let (total, rate) = (state.len().unwrap_or(0), state.per_sec());
    let done = state.pos().min(total);
    let _ = write!(to, "{} of {}", format::bytes(done), format::bytes(total));
    if done > 0 && done < total && rate >= 1.0 && state.elapsed() >= Duration::from_secs(1) {
        let _ = write!(to, ", {}/s, {} left", format::bytes(rate as u64), format::forecast(state.eta()));
    }
}

// A reader that went away must not end a restore: errors of writing are ignored.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn eprint(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
