//! One dump: snapshot, pg_dump, pipeline, and a sink for the rewritten archive. The same path whether the sink is a
//! bucket or a file.
//!
//! Success is only this: the pipeline understood the archive to its last byte, pg_dump exited 0, the archive names the
//! database the snapshot was taken in, and the sink took all of it.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    mem,
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
use walwarden_contract::{
    address::AddressPolicy,
    failure::FailureClass,
    quote::{ident, qualified},
    secret::Secret,
    selection::Selection,
    worker::CompressionSetting,
};
use walwarden_verifier::{
    annex::Omission,
    archive::{ArchiveError, RowKey, Rule, TocEntry},
    manifest::OPAQUE,
};

use crate::{
    config::Machine,
    fault::Fault,
    pg_dump::{self, Ender, Invocation, PgDump, Process, Wishes},
    pipeline::{self, Codec, Outcome, PipelineError},
    progress::{Phase, Progress},
    source::{self, Chosen, Excluded, Facts, LeftOut, ObjectAddress, ServerVersion, Session, Snapshot, Unreadable},
};

/// The catalogue of a database with ten thousand tables is read in a second; a server that is alive and silent must not
/// hold a runner.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Every pg_restore reads gzip.
const OPAQUE_GZIP_LEVEL: u8 = 6;

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
    /// What the selection does not take.
    pub chosen: Chosen,
    /// What a backup leaves out by that.
    pub excluded: Excluded,
    /// What the role may not read of the rest.
    pub unreadable: Unreadable,
    /// What a backup without that leaves out.
    pub left_out: LeftOut,
    /// The program to use.
    pub pg_dump: PgDump,
    /// The archive is passed on as pg_dump writes it: archives of the server's version are not known, or not trusted to
    /// be.
    pub opaque: bool,
}

/// How to dump.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Codec and level; ignored where the archive is passed on unread.
    pub compression: CompressionSetting,
    /// Leave out what the role may not read, instead of failing.
    pub omit_unreadable: bool,
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
    /// The server's version.
    pub server_version: ServerVersion,
    /// The source database's name.
    pub database: String,
    /// pg_dump's version.
    pub pg_dump_version: String,
    /// As manifest and annex name it.
    pub compression: String,
    /// Objects that the archive has and that cannot be restored without what was left out of it.
    pub dependents: HashSet<ObjectAddress>,
}

impl Dumped {
    /// What a restore of the archive will not have: what is not in it, and what is and cannot be restored without that.
    pub fn omissions(&self) -> impl Iterator<Item = Omission> {
        let entries = self.outcome.entries.iter();
        let dependents = entries.filter(|entry| self.dependents.contains(&(entry.table_oid, entry.oid)));
        let schema = |entry: &TocEntry| entry.namespace.clone().unwrap_or_default();
        self.facts
            .omissions
            .iter()
            .cloned()
            .chain(dependents.map(move |entry| source::dependent(&entry.desc, &schema(entry), &entry.tag)))
    }
}

/// Connects, opens the snapshot, reads what the annex needs, finds pg_dump.
pub async fn prepare(
    dsn: &Secret,
    policy: AddressPolicy,
    selection: &Selection,
    machine: &Machine,
    progress: &Progress,
) -> Result<Prepared, Fault> {
    match timeout(PREPARE_TIMEOUT, inspect(dsn, policy, selection, machine, progress)).await {
        Ok(result) => result,
        Err(_) => Err(Fault::new(FailureClass::SourceUnreachable, "the server took too long to describe itself")),
    }
}

async fn inspect(
    dsn: &Secret,
    policy: AddressPolicy,
    selection: &Selection,
    machine: &Machine,
    progress: &Progress,
) -> Result<Prepared, Fault> {
    progress.enter(Phase::Connecting);
    let session = Session::open(dsn, policy).await?;
    if !session.version.is_supported() {
        let what = format!("the server is version {}", session.version.major());
        return Err(Fault::new(FailureClass::SourceVersionUnsupported, what));
    }
    let opaque = !session.version.is_known() || machine.opaque_majors.contains(&session.version.major());
    if opaque {
        let major = session.version.major();
        tracing::warn!(
            "archives of version {major} are passed on unread: no row of this backup is counted or digested"
        );
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
    let chosen = snapshot.chosen(selection).await?;
    let excluded = snapshot.excluded(&chosen).await?;
    let unreadable = snapshot.unreadable(&chosen).await?;
    let left_out = snapshot.left_out(&unreadable).await?;
    progress.expect(facts.size_bytes);
    Ok(Prepared { snapshot, facts, chosen, excluded, unreadable, left_out, pg_dump, opaque })
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
        refuse(&self.unreadable)
    }

    /// Refuses a selection whose backup could not be restored, or would lack what was asked for.
    pub fn refuse_selection(&self) -> Result<(), Fault> {
        let problems = self.selection_problems();
        match problems.first() {
            None => Ok(()),
            Some(first) if problems.len() == 1 => Err(Fault::new(FailureClass::SourceSelection, first)),
            Some(first) => {
                let what = format!("{} problems of the selection, the first: {first}", problems.len());
                Err(Fault::new(FailureClass::SourceSelection, what))
            }
        }
    }

    /// What the selection breaks, one a line with what to do.
    pub fn selection_problems(&self) -> Vec<String> {
        let missing = self.chosen.missing.iter().map(|name| {
            format!("schema {} is selected and does not exist: take it out of schemas, or make it", ident(name))
        });
        let needed = self.excluded.needed.iter().map(|table| {
            let name = qualified(&table.schema, &table.name);
            format!("table {name} needs something that is excluded: exclude the table too, or not what it needs")
        });
        missing.chain(needed).collect()
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
        self.refuse_selection()?;
        let Self { snapshot, mut facts, excluded, unreadable, left_out, pg_dump, opaque, .. } = self;
        let mut left_out = match plan.omit_unreadable {
            true => excluded.left_out.and(left_out),
            false => {
                refuse(&unreadable)?;
                excluded.left_out
            }
        };
        for omission in &left_out.omissions {
            if omission.reason == source::EXCLUDED {
                tracing::info!(kind = omission.kind, "leaving out what the selection excludes");
            } else {
                tracing::warn!(kind = omission.kind, reason = omission.reason, "leaving out something");
            }
        }
        facts.omissions.append(&mut left_out.omissions);
        let codec = match (opaque, codec(plan.compression)) {
            (true, _) => None,
            (false, Some(codec)) => Some(codec),
            (false, None) => return Err(Fault::plain(FailureClass::DumpFailed)),
        };
        // Drawn after the snapshot: nobody could choose rows to suit it.
        let mut row_key = [0; walwarden_verifier::archive::ROW_KEY_BYTES];
        getrandom::fill(&mut row_key).map_err(|e| Fault::internal("drawing the row key", e))?;
        let compress = if opaque { OPAQUE_GZIP_LEVEL } else { 0 };
        let wishes = Wishes { compress, lock_wait: machine.lock_wait, left_out: &left_out };
        let invocation = Invocation::new(&pg_dump, snapshot.endpoint(), &snapshot.id, wishes, private).map_err(
            |error| match error.kind() {
                io::ErrorKind::ArgumentListTooLong => {
                    let (class, why) = match unreadable.is_empty() {
                        true => (FailureClass::SourceSelection, "the selection excludes".to_owned()),
                        false => (FailureClass::SourcePermission, unreadable.summary() + ":"),
                    };
                    Fault::new(class, format!("{why} more than pg_dump can be told to leave out"))
                }
                _ => Fault::internal("preparing pg_dump", error),
            },
        )?;
        let password = snapshot.endpoint().password.clone();
        let (database, server_version) = (snapshot.database.clone(), snapshot.version().clone());
        let snapshot_at = snapshot.at.clone();

        progress.enter(Phase::Dumping);
        let work = Work {
            invocation,
            codec,
            threads: machine.threads,
            row_key,
            table_bytes: mem::take(&mut facts.table_bytes),
            progress: progress.clone(),
            cancel: Arc::default(),
            ender: Ender::default(),
            password,
        };
        let outcome = watch(work, sink, snapshot, plan, progress).await?;
        if outcome.raw_bytes > plan.max_bytes {
            return Err(Fault::plain(FailureClass::DumpTooLarge));
        }
        let (mut pg_dump_version, mut server_text) = (pg_dump.version, server_version.text.clone());
        if let Some(header) = &outcome.header {
            if header.database != database {
                let what = "the archive is of another database than the snapshot";
                return Err(Fault::new(FailureClass::DumpFailed, what));
            }
            pg_dump_version.clone_from(&header.dump_version);
            server_text.clone_from(&header.server_version);
        }
        Ok(Dumped {
            outcome,
            facts,
            row_key,
            snapshot_at,
            server_version: ServerVersion { text: server_text, ..server_version },
            database,
            pg_dump_version,
            compression: if opaque { OPAQUE.to_owned() } else { plan.compression.to_string() },
            dependents: left_out.dependents,
        })
    }
}

fn refuse(unreadable: &Unreadable) -> Result<(), Fault> {
    if unreadable.is_empty() {
        return Ok(());
    }
    Err(Fault::new(FailureClass::SourcePermission, unreadable.summary()))
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
    /// None: the archive is passed on as it is.
    codec: Option<Codec>,
    threads: Option<std::num::NonZeroUsize>,
    row_key: RowKey,
    table_bytes: HashMap<u32, u64>,
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
        let piped = match self.codec {
            Some(codec) => self.rewrite(codec, input, &mut sink),
            None => pipeline::pass_on(input, self.progress.pipeline(), &self.cancel, |bytes| sink.write(bytes)),
        };
        if piped.is_err() {
            // It may be writing still.
            self.ender.end();
        }
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
            // An archive cut short is pg_dump's to explain; one that was not, if it ended by itself.
            (Err(PipelineError::Archive(error)), Some(fault)) if is_cut_short(&error) || !killed(&ended) => {
                Err(fault.because(anyhow::Error::new(error)))
            }
            (Err(error), _) => Err(pipeline_failed(error)),
        }
    }

    fn rewrite<S: Sink>(&self, codec: Codec, input: impl Read, sink: &mut S) -> Result<Outcome, PipelineError> {
        let end = || self.ender.end();
        let weigh = |entry: &TocEntry| self.table_bytes.get(&entry.oid).copied().unwrap_or_default();
        let mut settings = pipeline::Settings::new(codec, self.row_key, self.progress.pipeline(), &self.cancel);
        settings.threads = self.threads.unwrap_or(settings.threads);
        settings.keep_definition = keep_definition;
        settings.weigh = &weigh;
        settings.on_failure = &end;
        pipeline::run(input, &settings, |bytes| sink.write(bytes))
    }
}

/// The pipe ended before we had any reason to end pg_dump.
fn is_cut_short(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Malformed { rule: Rule::Truncated, .. })
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
