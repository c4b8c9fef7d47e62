//! Takes pg_dump's archive apart and cuts it into batches.
//!
//! `-Z0` frames every row; the framing is dropped and pieces are cut at a fixed size, wherever that falls. The row that
//! lies across a cut is digested here, the whole rows between by the workers, so that a row of any length passes through
//! without being held. Checksums that must see a whole stream in order (Adler-32, a large object's SHA-256) are taken
//! here too: they run many times faster than any COPY.

use std::{
    collections::HashMap,
    io::{self, Read},
    mem,
    ops::Range,
    sync::atomic::Ordering,
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, bounded};
use memchr::{memchr, memrchr};
use sha2::{Digest, Sha256};
use simd_adler32::Adler32;
use walwarden_verifier::archive::{
    ArchiveError, ArchiveReader, BLOCK_DATA, BLOCK_LARGE_OBJECTS, Compression, ContentsDigest, DataState, Header, Item,
    LargeObject, RowHasher, Rule, TERMINATOR, TableData, TextFault, TocEntry, put_int,
};

use super::{
    Codec, Failure, PipelineError, Settings, Stopped,
    batch::{Batch, HELD_BYTES, Job, MAX_OPERATIONS, Operation, Plan, ProducerEnd, Segment},
};

/// How often a producer that waits for a buffer looks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

pub(super) struct Produced {
    pub(super) raw_bytes: u64,
    pub(super) header: Header,
    pub(super) contents_digest: [u8; 32],
    pub(super) entries: Vec<TocEntry>,
    /// With the rows that lay across cuts; the workers have the others.
    pub(super) tables: Vec<TableData>,
    pub(super) large_objects: Vec<LargeObject>,
}

pub(super) fn produce<R: Read>(
    input: R,
    settings: &Settings<'_>,
    plan: Plan,
    end: ProducerEnd,
    failure: &Failure<'_>,
) -> Result<Produced, Stopped> {
    let watched = Watched { input, settings, failure };
    let mut producer = Producer { settings, plan, failure, end, bytes: Vec::new(), operations: Vec::new() };
    let result = producer.archive(watched);
    result.map_err(|fault| match fault {
        Fault::Stopped => Stopped,
        // A read that was refused because of a stop must not hide its reason.
        Fault::Failed(error) => match failure.check() {
            Err(Stopped) => Stopped,
            Ok(()) => failure.set(error),
        },
    })
}

enum Fault {
    Stopped,
    Failed(PipelineError),
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<PipelineError> for Fault {
    fn from(error: PipelineError) -> Self {
        Self::Failed(error)
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        Self::Failed(error.into())
    }
}

/// pg_dump's output, counted, and closed when the work is to stop.
struct Watched<'a, R> {
    input: R,
    settings: &'a Settings<'a>,
    failure: &'a Failure<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.failure.check().map_err(|Stopped| io::Error::other("stopped"))?;
        let count = self.input.read(buffer)?;
        self.settings.progress.raw_bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

struct Producer<'a> {
    settings: &'a Settings<'a>,
    plan: Plan,
    failure: &'a Failure<'a>,
    end: ProducerEnd,
    bytes: Vec<u8>,
    operations: Vec<Operation>,
}

impl Producer<'_> {
    fn archive<R: Read>(&mut self, input: R) -> Result<Produced, Fault> {
        self.bytes = self.free_buffer()?;
        let mut reader = ArchiveReader::recording(input, self.settings.limits)?;
        self.header(&mut reader)?;
        let mut contents = ContentsDigest::default();
        let mut entries = Vec::new();
        let mut weights = HashMap::new();
        while let Some(mut entry) = reader.next_entry()? {
            check_entry(&entry)?;
            self.verbatim(&reader.take_transcript())?;
            contents.entry(&entry).map_err(|_| reader.malformed(Rule::Field("entry")))?;
            entry.drop = None;
            if entry.has_data() {
                weights.insert(entry.dump_id, (self.settings.weigh)(&entry));
            }
            if !(self.settings.keep_definition)(&entry) {
                entry.defn = None;
            }
            entries.push(entry);
        }
        let progress = self.settings.progress;
        progress.total_weight.store(weights.values().sum(), Ordering::Relaxed);
        progress.done_raw_bytes.store(reader.offset(), Ordering::Relaxed);
        let (mut tables, mut large_objects) = (Vec::new(), Vec::new());
        while let Some(item) = reader.next_item()? {
            match item {
                Item::Data { dump_id } => {
                    let weight = weights.get(&dump_id).copied().unwrap_or_default();
                    progress.current_weight.store(weight, Ordering::Relaxed);
                    tables.push(self.table(&mut reader, dump_id, tables.len())?);
                    progress.current_weight.store(0, Ordering::Relaxed);
                    progress.done_weight.fetch_add(weight, Ordering::Relaxed);
                    progress.done_raw_bytes.store(reader.offset(), Ordering::Relaxed);
                }
                Item::LargeObjects { dump_id } => {
                    self.block(BLOCK_LARGE_OBJECTS, dump_id)?;
                    while let Some(oid) = reader.next_large_object()? {
                        large_objects.push(self.large_object(&mut reader, dump_id, oid)?);
                    }
                    self.int(0)?;
                }
            }
        }
        self.flush()?;
        Ok(Produced {
            raw_bytes: reader.offset(),
            header: reader.header().clone(),
            contents_digest: contents.finish(),
            entries,
            tables,
            large_objects,
        })
    }

    fn header<R: Read>(&mut self, reader: &mut ArchiveReader<R>) -> Result<(), Fault> {
        if reader.header().compression != Compression::None {
            return Err(PipelineError::Unexpected("it is already compressed").into());
        }
        let codec = self.settings.codec;
        let transcript = reader.take_transcript();
        let header = reader.header().with_compression(&transcript, codec.compression());
        self.verbatim(&header.ok_or(PipelineError::Codec(codec))?)
    }

    fn table<R: Read>(
        &mut self,
        reader: &mut ArchiveReader<R>,
        dump_id: i32,
        index: usize,
    ) -> Result<TableData, Fault> {
        self.block(BLOCK_DATA, dump_id)?;
        let mut across = RowHasher::new(&self.settings.row_key);
        let mut bytes = 0;
        self.stream(reader, dump_id, |piece, last| {
            bytes += piece.len() as u64;
            Ok(Some((index, whole_rows(piece, last, &mut across)?)))
        })?;
        Ok(TableData { dump_id, bytes, rows: across.finish() })
    }

    fn large_object<R: Read>(
        &mut self,
        reader: &mut ArchiveReader<R>,
        dump_id: i32,
        oid: u32,
    ) -> Result<LargeObject, Fault> {
        self.int(oid.cast_signed())?;
        let mut hash = Sha256::new_with_prefix(self.settings.row_key);
        let mut bytes = 0;
        self.stream(reader, dump_id, |piece, _| {
            bytes += piece.len() as u64;
            hash.update(piece);
            Ok(None)
        })?;
        Ok(LargeObject { oid, bytes, digest: hash.finalize().into() })
    }

    /// Cuts the current stream into segments. `observe` sees each, and whether it is the last, in order; it tells which
    /// rows of which table the worker is to digest.
    fn stream<R: Read>(
        &mut self,
        reader: &mut ArchiveReader<R>,
        dump_id: i32,
        mut observe: impl FnMut(&[u8], bool) -> Result<Option<(usize, Range<usize>)>, TextFault>,
    ) -> Result<(), Fault> {
        // A long stream had better not begin with a stub.
        if self.bytes.len() > self.plan.piece_bytes / 4 * 3 || self.operations.len() >= MAX_OPERATIONS {
            self.flush()?;
        }
        let mut adler = Adler32::new();
        let mut first = true;
        let mut start = self.bytes.len();
        loop {
            let ended = reader.fill(&mut self.bytes, self.plan.piece_bytes + HELD_BYTES)?;
            let end = if ended { self.bytes.len() } else { self.plan.piece_bytes };
            let piece = &self.bytes[start..end];
            let rows = observe(piece, ended).map_err(|fault| reader.malformed(Rule::CopyText(fault.as_str())))?;
            let rows = rows.map(|(table, rows)| (table, start + rows.start..start + rows.end));
            if let Codec::Gzip(_) = self.settings.codec {
                adler.write(piece);
            }
            let last = ended.then(|| adler.finish());
            let offset = reader.offset();
            let segment = Segment { range: start..end, first, last, rows, dump_id, offset };
            self.operations.push(Operation::Segment(segment));
            if ended {
                return self.int(0);
            }
            let mut held = [0; HELD_BYTES];
            held.copy_from_slice(&self.bytes[end..]);
            self.flush()?;
            self.bytes.extend_from_slice(&held);
            (first, start) = (false, 0);
        }
    }

    fn block(&mut self, block_type: u8, dump_id: i32) -> Result<(), Fault> {
        let mut head = vec![block_type];
        put_int(&mut head, dump_id);
        self.verbatim(&head)
    }

    fn int(&mut self, value: i32) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        put_int(&mut bytes, value);
        self.verbatim(&bytes)
    }

    fn verbatim(&mut self, mut rest: &[u8]) -> Result<(), Fault> {
        while !rest.is_empty() {
            if self.bytes.len() >= self.plan.piece_bytes {
                self.flush()?;
            }
            let start = self.bytes.len();
            let (now, later) = rest.split_at(rest.len().min(self.plan.piece_bytes - start));
            self.bytes.extend_from_slice(now);
            match self.operations.last_mut() {
                Some(Operation::Verbatim(range)) if range.end == start => range.end += now.len(),
                _ => self.operations.push(Operation::Verbatim(start..start + now.len())),
            }
            rest = later;
        }
        Ok(())
    }

    /// Sends the batch off and takes a free buffer, waiting for one if there is none.
    fn flush(&mut self) -> Result<(), Fault> {
        if self.operations.is_empty() {
            return Ok(());
        }
        let next = self.free_buffer()?;
        let batch = Batch { bytes: mem::replace(&mut self.bytes, next), operations: mem::take(&mut self.operations) };
        let (reply, result) = bounded(1);
        // Either end is gone only if its thread failed and said why.
        self.end.order.send(result).map_err(|_| Stopped)?;
        self.end.jobs.send(Job { batch, reply }).map_err(|_| Stopped)?;
        Ok(())
    }

    fn free_buffer(&self) -> Result<Vec<u8>, Stopped> {
        loop {
            self.failure.check()?;
            match self.end.free.recv_timeout(STOP_CHECK) {
                Ok(buffer) => return Ok(self.plan.emptied(buffer)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }
}

/// Which part of a table's piece is whole rows. What is not goes to `across`, which digests the rows that lie across
/// pieces.
fn whole_rows(piece: &[u8], last: bool, across: &mut RowHasher) -> Result<Range<usize>, TextFault> {
    let text = if last { piece.strip_suffix(TERMINATOR).ok_or(TextFault::NotTerminated)? } else { piece };
    let mut start = 0;
    if across.in_row() {
        start = memchr(b'\n', text).map_or(text.len(), |at| at + 1);
        across.write(&text[..start]);
    }
    let end = memrchr(b'\n', &text[start..]).map_or(start, |at| start + at + 1);
    across.write(&text[end..]);
    if last && across.in_row() {
        return Err(TextFault::NotTerminated);
    }
    if across.terminators() > 0 {
        return Err(TextFault::EarlyTerminator);
    }
    Ok(start..end)
}

/// Only what is understood may pass: data of an unknown kind could mean anything to a restore.
fn check_entry(entry: &TocEntry) -> Result<(), PipelineError> {
    if let DataState::OffsetSet(_) = entry.data_state {
        return Err(PipelineError::Unexpected("its table of contents has offsets, so it was not piped"));
    }
    match (entry.desc.as_str(), entry.has_data()) {
        ("TABLE DATA", true) if entry.copy.is_none() => Err(PipelineError::Unexpected("table data without COPY")),
        ("TABLE DATA" | "BLOBS", true) => Ok(()),
        ("TABLE DATA" | "BLOBS", false) => Err(PipelineError::Unexpected("an entry without its data")),
        (_, false) => Ok(()),
        (kind, true) => Err(PipelineError::UnknownData { dump_id: entry.dump_id, kind: kind.to_owned() }),
    }
}
