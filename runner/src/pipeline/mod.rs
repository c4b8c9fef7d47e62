//! Rewrites a `pg_dump --format=custom --compress=0` archive in flight: the same archive, compressed on all cores, with
//! every table's rows counted and digested on the way.
//!
//! pg_dump compresses on one core, in the process that also reads the database. Here one thread takes its archive apart
//! ([`producer`]), workers digest rows and compress ([`worker`]), one thread joins their results in order and hands them
//! on ([`writer`]). The result is the archive pg_dump would have written, in its own order: stock pg_restore reads it
//! serially, in parallel from a file, and from a pipe.
//!
//! Two rules hold everywhere. Memory is bounded in bytes, for one row can be a gigabyte: every byte in flight lies in one
//! of a fixed set of buffers, and when none is free nothing more is read, so that a slow sink reaches back to pg_dump.
//! And there is no partial success: an archive that ends early, holds what is not understood or has anything after its
//! end is an error, and so is any thread's failure.

mod batch;
mod codec;
mod failure;
mod opaque;
mod producer;
mod worker;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Read},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

use failure::{Failure, Stopped};
pub use opaque::pass_on;
use thiserror::Error;
use walwarden_verifier::archive::{
    ArchiveError, Compression, Header, LargeObject, Limits, RowKey, TableData, TocEntry,
};

/// How the rewritten archive's items are compressed, and the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// zlib, 1 to 9. Every pg_restore reads it.
    Gzip(u8),
    /// zstd, 1 to 19. Only for archives of servers from 16, and clients built with it.
    Zstd(u8),
}

impl Codec {
    /// How an archive's header names it.
    pub fn compression(self) -> Compression {
        match self {
            Self::Gzip(level) => Compression::Gzip { level: Some(level.into()) },
            Self::Zstd(_) => Compression::Zstd,
        }
    }

    fn is_valid(self) -> bool {
        match self {
            Self::Gzip(level) => (1..=9).contains(&level),
            Self::Zstd(level) => (1..=19).contains(&level),
        }
    }
}

/// How far a rewrite has come. Read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of pg_dump's archive read.
    pub raw_bytes: AtomicU64,
    /// Bytes of the rewritten archive the sink took.
    pub output_bytes: AtomicU64,
    /// What the tables whose data is dumped weigh ([`Settings::weigh`]), all together.
    pub total_weight: AtomicU64,
    /// What those weigh that are done.
    pub done_weight: AtomicU64,
    /// What the one weighs that is being dumped.
    pub current_weight: AtomicU64,
    /// Bytes of pg_dump's archive read when the last table was done.
    pub done_raw_bytes: AtomicU64,
}

/// What a rewrite needs to know.
pub struct Settings<'a> {
    /// Compression of the result.
    pub codec: Codec,
    /// Compressing threads, at most. Fewer run where `memory_bytes` does not hold their buffers.
    pub threads: NonZeroUsize,
    /// Bytes of a stream that are compressed at a time. Smaller pieces cost size (each begins with an empty window), larger
    /// ones memory.
    pub piece_bytes: usize,
    /// Bytes the pipeline may hold, all buffers and compressors together; the table of contents and what the outcome
    /// returns come on top. At least one thread's need is taken.
    pub memory_bytes: usize,
    /// The backup's row key *K*.
    pub row_key: RowKey,
    /// Bounds on the table of contents.
    pub limits: Limits,
    /// Which entries' SQL the outcome keeps.
    pub keep_definition: fn(&TocEntry) -> bool,
    /// How large the table of an entry with data is on the server's disk, as far as known: what progress is judged by.
    pub weigh: &'a (dyn Fn(&TocEntry) -> u64 + Sync),
    /// Counters to advance.
    pub progress: &'a Progress,
    /// Set by whoever wants the rewrite to end as [`PipelineError::Cancelled`]. A read or sink call that is under way is
    /// not interrupted: end pg_dump and the sink's I/O too.
    pub cancel: &'a AtomicBool,
    /// Called once when the first thread fails, while the reader may be waiting for pg_dump: it should end pg_dump.
    pub on_failure: &'a (dyn Fn() + Sync),
}

impl<'a> Settings<'a> {
    /// Settings with the defaults: as many threads as there are cores, 40 MiB.
    pub fn new(codec: Codec, row_key: RowKey, progress: &'a Progress, cancel: &'a AtomicBool) -> Self {
        Self {
            codec,
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            piece_bytes: match codec {
                Codec::Gzip(_) => 1 << 20,
                Codec::Zstd(_) => codec::ZSTD_PIECE_BYTES,
            },
            memory_bytes: 40 << 20,
            row_key,
            limits: Limits::default(),
            keep_definition: annex_needs_definition,
            weigh: &|_| 0,
            progress,
            cancel,
            on_failure: &|| {},
        }
    }
}

/// The entries whose SQL the annex draws on: access, policies, who a function runs as, sequences, database properties.
pub fn annex_needs_definition(entry: &TocEntry) -> bool {
    match entry.desc.as_str() {
        "ACL" | "DEFAULT ACL" | "POLICY" | "SEQUENCE SET" | "DATABASE" | "DATABASE PROPERTIES" | "EXTENSION" => true,
        "FUNCTION" | "PROCEDURE" => {
            entry.defn.as_ref().is_some_and(|definition| definition.contains("SECURITY DEFINER"))
        }
        _ => false,
    }
}

/// What was written, and what was in it.
#[derive(Debug)]
pub struct Outcome {
    /// SHA-256 of the rewritten archive.
    pub sha256: [u8; 32],
    /// Its bytes.
    pub size_bytes: u64,
    /// Bytes of pg_dump's own archive.
    pub raw_bytes: u64,
    /// The header as pg_dump wrote it, unless nobody read it.
    pub header: Option<Header>,
    /// `contents.digest`.
    pub contents_digest: [u8; 32],
    /// All entries, in order; without `drop`, and `defn` only where settings keep it.
    pub entries: Vec<TocEntry>,
    /// Each table's data, in the archive's order.
    pub tables: Vec<TableData>,
    /// Each large object, in the archive's order.
    pub large_objects: Vec<LargeObject>,
}

impl Outcome {
    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows.rows).sum()
    }
}

/// Why there is no rewritten archive.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// pg_dump's archive is not complete and well-formed, or could not be read.
    #[error("pg_dump's archive is not usable")]
    Archive(#[from] ArchiveError),
    /// pg_dump's output could not be read.
    #[error("reading pg_dump's output failed")]
    Read(#[source] io::Error),
    /// The archive is well-formed but not what a piped, uncompressed pg_dump writes.
    #[error("pg_dump's archive is not what was asked for: {0}")]
    Unexpected(&'static str),
    /// An entry has data of a kind whose meaning is not known.
    #[error("entry {dump_id} ({kind}) has data of a kind this version does not know")]
    UnknownData {
        /// The entry.
        dump_id: i32,
        /// Its kind.
        kind: String,
    },
    /// The level is out of range, or the archive version cannot name the codec.
    #[error("{0:?} cannot be used for this archive")]
    Codec(Codec),
    /// The compressor failed.
    #[error("compressing failed")]
    Compress(#[source] io::Error),
    /// The sink failed.
    #[error("passing on the compressed archive failed")]
    Sink(#[source] io::Error),
    /// Cancelled through [`Settings::cancel`].
    #[error("cancelled")]
    Cancelled,
    /// A thread could not be started.
    #[error("starting a thread failed")]
    Thread(#[source] io::Error),
    /// A thread died: a bug.
    #[error("a thread of the pipeline died")]
    Died,
}

/// Rewrites the archive that `input` yields and passes it to `sink`, in order, in slices of about a piece.
/// Blocks until it is done; no thread outlives it.
pub fn run<R, S>(input: R, settings: &Settings<'_>, sink: S) -> Result<Outcome, PipelineError>
where
    R: Read,
    S: FnMut(&[u8]) -> io::Result<()> + Send,
{
    if !settings.codec.is_valid() {
        return Err(PipelineError::Codec(settings.codec));
    }
    let failure = Failure::none_yet(settings);
    let plan = batch::Plan::new(settings);
    let (producer_end, worker_end, writer_end) = plan.channels();
    let result = thread::scope(|scope| {
        let failure = &failure;
        let start = |error| failure.set(PipelineError::Thread(error));
        let mut workers = Vec::new();
        for _ in 0..plan.threads {
            let end = worker_end.clone();
            let named = thread::Builder::new().name("compress".to_owned());
            let work = move || worker::work(end, settings, plan, failure);
            workers.push(named.spawn_scoped(scope, work).map_err(start)?);
        }
        drop(worker_end);
        let named = thread::Builder::new().name("join".to_owned());
        let write = move || writer::write(writer_end, settings, sink, failure);
        let writer = named.spawn_scoped(scope, write).map_err(start)?;

        let produced = producer::produce(input, settings, plan, producer_end, failure);
        let died = |_| failure.set(PipelineError::Died);
        let worked: Result<Vec<()>, _> = workers.into_iter().map(|worker| worker.join().map_err(died)).collect();
        let written = writer.join().map_err(died);
        worked?;
        Ok((produced?, written??))
    });
    match (result, failure.into_first()) {
        (_, Some(error)) => Err(error),
        (Err(Stopped), None) => Err(PipelineError::Died),
        (Ok((produced, written)), None) => Ok(outcome(produced, written)),
    }
}

fn outcome(produced: producer::Produced, written: writer::Written) -> Outcome {
    let mut tables = produced.tables;
    for (table, sum) in tables.iter_mut().zip(&written.row_sums) {
        table.rows.add(sum);
    }
    Outcome {
        sha256: written.sha256,
        size_bytes: written.size_bytes,
        raw_bytes: produced.raw_bytes,
        header: Some(produced.header),
        contents_digest: produced.contents_digest,
        entries: produced.entries,
        tables,
        large_objects: produced.large_objects,
    }
}
