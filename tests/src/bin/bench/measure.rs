//! How long a program runs, and how much memory it and those it starts have at most, as the kernel last told.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use walwarden_tests::tools;

/// How often the kernel is asked. It keeps the peak, so only what a process adds in its last moment is missed.
const LOOK_OFTEN: Duration = Duration::from_millis(5);
const LOOK_SELDOM: Duration = Duration::from_millis(20);

/// One run of a program.
#[derive(Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    pub peak_kib: u64,
}

/// The largest peak of any process of a name.
#[derive(Default)]
pub struct Peaks(BTreeMap<String, u64>);

impl Peaks {
    /// In bytes. The kernel cuts names to fifteen bytes.
    pub fn of(&self, program: &str) -> u64 {
        self.0.get(&program[..program.len().min(15)]).map_or(0, |kib| kib << 10)
    }

    fn look(&mut self, process: u32) {
        let Some((name, peak_kib)) = peak_of(process) else { return };
        let known = self.0.entry(name).or_default();
        *known = peak_kib.max(*known);
        for child in children(process) {
            self.look(child);
        }
    }
}

/// Does the work while the peaks of a process and all below it are watched.
pub fn watched<T>(process: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, Peaks)> {
    thread::scope(|scope| {
        let (working, ended) = channel::<()>();
        let watching = scope.spawn(move || {
            let mut peaks = Peaks::default();
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_OFTEN) {
                peaks.look(process);
            }
            peaks
        });
        let result = work();
        drop(working);
        let peaks = watching.join().expect("the thread that watches");
        Ok((result?, peaks))
    })
}

/// Runs a program to its end; its own peak, looked at seldom, for this is timed.
pub fn measure(command: &mut Command) -> Result<Measured> {
    let complaints = tempfile::NamedTempFile::new()?;
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints.reopen()?).spawn()?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_of(child.id()).map_or(0, |(_, peak)| peak).max(peak_kib);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK_SELDOM);
    };
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "ended with {status}: {}", fs::read_to_string(complaints.path()).unwrap_or_default());
    Ok(Measured { seconds, peak_kib })
}

/// Runs a program to its end: seconds, the peaks of it and of what it starts, what it wrote to standard output.
pub fn measure_all(command: &mut Command) -> Result<(f64, Peaks, String)> {
    let (said, complaints) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(said.reopen()?).stderr(complaints.reopen()?).spawn()?;
    let (status, peaks) = watched(child.id(), || Ok(child.wait()?))?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "ended with {status}: {}", fs::read_to_string(complaints.path()).unwrap_or_default());
    Ok((seconds, peaks, fs::read_to_string(said.path())?))
}

/// Name and peak resident set (`VmHWM`) in KiB of a process that is still there.
fn peak_of(process: u32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("Name:")?.to_owned(), field("VmHWM:")?.trim_end_matches(" kB").parse().ok()?))
}

fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A program as `make bench` builds it.
pub fn release(name: &str) -> Result<PathBuf> {
    let path = tools::repository().join("target/release").join(name);
    File::open(&path).with_context(|| format!("{} is not built\nhint: make bench builds it", path.display()))?;
    Ok(path)
}
