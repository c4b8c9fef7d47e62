//! One dump: snapshot, pg_dump, pipeline, and a sink for the rewritten archive. The same path whether the sink is a
//! bucket or a file.
//!
//! Success is only this: the pipeline understood the archive to its last byte, pg_dump exited 0, the archive names the
//! database the snapshot was taken in, and the sink took all of it.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use walwarden_contract::{address::AddressPolicy, failure::FailureClass, secret::Secret, worker::CompressionSetting};
use walwarden_verifier::archive::{RowKey, TocEntry};

use crate::{
    config::Machine,
    fault::Fault,
    pg_dump::{self, Ender, Invocation, PgDump, Process},
    pipeline::{self, Codec, Outcome, PipelineError},
    progress::{Phase, Progress},
    source::{Facts, Session, Snapshot, Unreadable},
};

/// The catalogue of a database with ten thousand tables is read in a second; a server that is alive and silent must not
/// hold a runner.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Where a rewritten archive goes.
pub trait Sink: Send + 'static {
    /// Takes the next bytes; may block, and the dump waits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Called once, after the last byte, and only if the dump succeeded.
    fn finish(self) -> io::Result<()>;
}

/// A source that was looked at and is ready to be dumped.
pub struct Prepared {
    /// The open snapshot.
    pub snapshot: Snapshot,
    /// What was read in it.
    pub facts: Facts,
    /// What the role may not read.
    pub unreadable: Unreadable,
    /// The program to use.
    pub pg_dump: PgDump,
}

/// How to dump.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Codec and level.
    pub compression: CompressionSetting,
    /// End a dump whose uncompressed archive is larger.
    pub max_bytes: u64,
    /// End a dump that takes longer.
    pub max_duration: Duration,
}

/// A finished dump.
pub struct Dumped {
    /// What the pipeline found and wrote.
    pub outcome: Outcome,
    /// What the annex needs besides.
    pub facts: Facts,
    /// The row key *K*.
    pub row_key: RowKey,
    /// The server's clock before the snapshot.
    pub snapshot_at: String,
    /// `server_version_num`
    pub server_version_number: u32,
    /// Codec and level.
    pub compression: CompressionSetting,
}

/// Connects, opens the snapshot, reads what the annex needs, finds pg_dump.
pub async fn prepare(
    dsn: &Secret,
    policy: AddressPolicy,
    machine: &Machine,
    progress: &Progress,
) -> Result<Prepared, Fault> {
    match timeout(PREPARE_TIMEOUT, inspect(dsn, policy, machine, progress)).await {
        Ok(result) => result,
        Err(_) => Err(Fault::new(FailureClass::SourceUnreachable, "the server took too long to describe itself")),
    }
}

async fn inspect(
    dsn: &Secret,
    policy: AddressPolicy,
    machine: &Machine,
    progress: &Progress,
) -> Result<Prepared, Fault> {
    progress.enter(Phase::Connecting);
    let session = Session::open(dsn, policy).await?;
    if !session.version.is_supported() {
        let what = format!("the server is version {}", session.version.major());
        return Err(Fault::new(FailureClass::SourceVersionUnsupported, what));
    }
    let (directories, major) = (machine.pg_bin.clone(), session.version.major());
    let pg_dump = tokio::task::spawn_blocking(move || pg_dump::find(&directories, major))
        .await
        .map_err(|e| Fault::internal("looking for pg_dump", e))??;
    if let Some(warning) = pg_dump.below_floor() {
        if machine.refuse_below_floor {
            return Err(Fault::new(FailureClass::SourceVersionUnsupported, warning));
        }
        tracing::warn!("{warning}");
    }
    progress.enter(Phase::Inspecting);
    let snapshot = Snapshot::open(session).await?;
    let facts = snapshot.facts().await?;
    let unreadable = snapshot.unreadable().await?;
    progress.expect(facts.size_bytes);
    Ok(Prepared { snapshot, facts, unreadable, pg_dump })
}

/// The setting asked for, or what suits the server: every pg_restore from 16 that was built with zstd reads zstd, older
/// ones only gzip.
pub fn compression(asked: Option<CompressionSetting>, server_major: u32) -> Result<CompressionSetting, Fault> {
    match asked {
        Some(CompressionSetting::Zstd(_)) if server_major < 16 => {
            let what = "zstd archives need a server from version 16; choose gzip";
            Err(Fault::new(FailureClass::DumpFailed, what))
        }
        Some(setting) if codec(setting).is_none() => {
            Err(Fault::new(FailureClass::DumpFailed, format!("{setting} is no compression level")))
        }
        Some(setting) => Ok(setting),
        None if server_major < 16 => Ok(CompressionSetting::Gzip(6)),
        None => Ok(CompressionSetting::Zstd(3)),
    }
}

fn codec(setting: CompressionSetting) -> Option<Codec> {
    match setting {
        CompressionSetting::Gzip(level @ 1..=9) => Some(Codec::Gzip(level as u8)),
        CompressionSetting::Zstd(level @ 1..=19) => Some(Codec::Zstd(level as u8)),
        _ => None,
    }
}

impl Prepared {
    /// Refuses what pg_dump would fail at, with all of it named.
    pub fn refuse_unreadable(&self) -> Result<(), Fault> {
        if self.unreadable.is_empty() {
            return Ok(());
        }
        Err(Fault::new(FailureClass::SourcePermission, self.unreadable.summary()))
    }

    /// Dumps into `sink`. `private` is the job's own directory. Dropping the future ends pg_dump.
    pub async fn dump<S: Sink>(
        self,
        plan: &Plan,
        sink: S,
        machine: &Machine,
        private: &Path,
        progress: &Progress,
    ) -> Result<Dumped, Fault> {
        let Self { snapshot, facts, pg_dump, .. } = self;
        let codec = codec(plan.compression).ok_or_else(|| Fault::plain(FailureClass::DumpFailed))?;
        // Drawn after the snapshot: nobody could choose rows to suit it.
        let mut row_key = [0; walwarden_verifier::archive::ROW_KEY_BYTES];
        getrandom::fill(&mut row_key).map_err(|e| Fault::internal("drawing the row key", e))?;
        let invocation = Invocation::new(&pg_dump, snapshot.endpoint(), &snapshot.id, private)
            .map_err(|e| Fault::internal("preparing pg_dump's directory", e))?;
        let password = snapshot.endpoint().password.clone();
        let (database, server_version_number) = (snapshot.database.clone(), snapshot.version().number);
        let snapshot_at = snapshot.at.clone();

        progress.enter(Phase::Dumping);
        let work = Work {
            invocation,
            codec,
            threads: machine.threads,
            row_key,
            progress: progress.clone(),
            cancel: Arc::default(),
            ender: Ender::default(),
            password,
        };
        let outcome = watch(work, sink, snapshot, plan, progress).await?;
        if outcome.raw_bytes > plan.max_bytes {
            return Err(Fault::plain(FailureClass::DumpTooLarge));
        }
        if outcome.header.database != database {
            let what = "the archive is of another database than the snapshot";
            return Err(Fault::new(FailureClass::DumpFailed, what));
        }
        let compression = plan.compression;
        Ok(Dumped { outcome, facts, row_key, snapshot_at, server_version_number, compression })
    }
}

/// Starts the dump's thread and waits for it, for the limits, and for the moment to let go of the snapshot.
async fn watch<S: Sink>(
    work: Work,
    sink: S,
    snapshot: Snapshot,
    plan: &Plan,
    progress: &Progress,
) -> Result<Outcome, Fault> {
    let _guard = Guard { cancel: work.cancel.clone(), ender: work.ender.clone() };
    let (first_byte, mut first_byte_seen) = oneshot::channel();
    let (done, mut result) = oneshot::channel();
    // A thread of its own, not one of a pool: pg_dump dies with the thread that started it.
    std::thread::Builder::new()
        .name("dump".into())
        .spawn(move || {
            // Nobody listens if the job was ended.
            let _ = done.send(work.run(sink, first_byte));
        })
        .map_err(|e| Fault::internal("starting the dump's thread", e))?;

    let deadline = sleep_until(Instant::now() + plan.max_duration);
    tokio::pin!(deadline);
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut snapshot = Some(snapshot);
    loop {
        tokio::select! {
            result = &mut result => {
                return result.unwrap_or_else(|e| Err(Fault::internal("the dump's thread died", e)));
            }
            seen = &mut first_byte_seen, if snapshot.is_some() => {
                // Bytes come after pg_dump has imported the snapshot and read the catalogue. If there are none, the
                // result tells why.
                if let Some(snapshot) = snapshot.take() && seen.is_ok() {
                    tokio::spawn(snapshot.release());
                }
            }
            () = &mut deadline => return Err(Fault::plain(FailureClass::DumpTooLong)),
            _ = tick.tick() => {
                if progress.raw_bytes() > plan.max_bytes {
                    return Err(Fault::plain(FailureClass::DumpTooLarge));
                }
            }
        }
    }
}

/// Ends the work when whoever waits for it goes away.
struct Guard {
    cancel: Arc<AtomicBool>,
    ender: Ender,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.ender.end();
    }
}

/// What the dump's thread needs.
struct Work {
    invocation: Invocation,
    codec: Codec,
    threads: Option<std::num::NonZeroUsize>,
    row_key: RowKey,
    progress: Progress,
    cancel: Arc<AtomicBool>,
    ender: Ender,
    password: Option<Secret>,
}

impl Work {
    fn run<S: Sink>(self, mut sink: S, first_byte: oneshot::Sender<()>) -> Result<Outcome, Fault> {
        let (process, stdout) =
            Process::start(&self.invocation, &self.ender).map_err(|e| Fault::internal("starting pg_dump", e))?;
        let input = FirstByte { input: stdout, seen: Some(first_byte) };
        let end = || self.ender.end();
        let mut settings = pipeline::Settings::new(self.codec, self.row_key, self.progress.pipeline(), &self.cancel);
        settings.threads = self.threads.unwrap_or(settings.threads);
        settings.keep_definition = keep_definition;
        settings.on_failure = &end;
        let piped = pipeline::run(input, &settings, |bytes| sink.write(bytes));
        let ended = process.wait().map_err(|e| Fault::internal("waiting for pg_dump", e))?;
        let password = self.password.as_ref();
        match (piped, ended.fault(password)) {
            (Ok(outcome), None) => {
                for warning in ended.warnings(password) {
                    tracing::warn!("pg_dump: {warning}");
                }
                sink.finish().map_err(sink_failed)?;
                Ok(outcome)
            }
            (Ok(_), Some(fault)) => Err(fault),
            // An archive cut short is pg_dump's to explain, if it ended by itself.
            (Err(PipelineError::Archive(error)), Some(fault)) if !killed(&ended) => {
                Err(fault.because(anyhow::Error::new(error)))
            }
            (Err(error), _) => Err(pipeline_failed(error)),
        }
    }
}

fn killed(end: &pg_dump::End) -> bool {
    use std::os::unix::process::ExitStatusExt;
    end.status.signal() == Some(rustix::process::Signal::KILL.as_raw())
}

fn pipeline_failed(error: PipelineError) -> Fault {
    match error {
        PipelineError::Archive(error) => {
            Fault::new(FailureClass::DumpIncomplete, error.to_string()).because(anyhow::Error::new(error))
        }
        PipelineError::UnknownData { .. } => Fault::new(FailureClass::DumpUnknownKind, error.to_string()),
        PipelineError::Unexpected(_) | PipelineError::Codec(_) => {
            Fault::new(FailureClass::DumpFailed, error.to_string())
        }
        PipelineError::Sink(error) => sink_failed(error),
        error => Fault::internal("rewriting the archive", error),
    }
}

fn sink_failed(error: io::Error) -> Fault {
    match error.downcast::<Fault>() {
        Ok(fault) => fault,
        Err(error) => Fault::internal("passing on the archive", error),
    }
}

/// Besides what the annex draws on: the encoding, which tells in what form the archive's session wrote values.
fn keep_definition(entry: &TocEntry) -> bool {
    entry.desc == "ENCODING" || pipeline::annex_needs_definition(entry)
}

/// pg_dump's output; tells when it begins.
struct FirstByte<R> {
    input: R,
    seen: Option<oneshot::Sender<()>>,
}

impl<R: Read> Read for FirstByte<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        if count > 0
            && let Some(seen) = self.seen.take()
        {
            // The job may have ended.
            let _ = seen.send(());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_suits_the_server() {
        let class = |asked, major| compression(asked, major).map_err(|fault| fault.class);
        assert_eq!(class(None, 15), Ok(CompressionSetting::Gzip(6)));
        assert_eq!(class(None, 16), Ok(CompressionSetting::Zstd(3)));
        assert_eq!(class(Some(CompressionSetting::Gzip(9)), 18), Ok(CompressionSetting::Gzip(9)));
        assert_eq!(class(Some(CompressionSetting::Zstd(3)), 15), Err(FailureClass::DumpFailed));
        assert_eq!(class(Some(CompressionSetting::Gzip(0)), 15), Err(FailureClass::DumpFailed));
        assert_eq!(class(Some(CompressionSetting::Zstd(20)), 18), Err(FailureClass::DumpFailed));
    }
}
