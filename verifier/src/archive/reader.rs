//! The archive as a stream: header, entries, then the data items the entries announced.

use std::{
    collections::{HashSet, VecDeque},
    io::Read,
};

use super::{
    decode::ItemReader,
    error::{ArchiveError, Place, Rule},
    header::{Compression, Header},
    statements::large_object_oids,
    toc::{DataState, TocEntry},
    wire::{BLOCK_DATA, BLOCK_LARGE_OBJECTS, Limits, Source},
};

/// A data item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Table data: one stream of COPY text.
    Data {
        /// Its entry.
        dump_id: i32,
    },
    /// A run of large objects, each a stream of its own: see [`ArchiveReader::next_large_object`].
    LargeObjects {
        /// Their entry.
        dump_id: i32,
    },
}

/// An entry with data, whose item has not come yet.
struct Due {
    dump_id: i32,
    large_objects: bool,
    state: DataState,
}

enum State {
    Contents,
    BetweenItems,
    /// In a table's stream.
    Table,
    /// In a run, between large objects.
    BetweenObjects {
        dump_id: i32,
    },
    /// In a large object's stream.
    Object {
        dump_id: i32,
    },
    Complete,
}

/// Reads an archive once, from front to back.
pub struct ArchiveReader<R> {
    source: Source<R>,
    limits: Limits,
    header: Header,
    state: State,
    entry_count: u32,
    entries_read: u32,
    contents_start: u64,
    dump_ids: HashSet<i32>,
    due: VecDeque<Due>,
    chunk_left: u32,
    announced_objects: Vec<u32>,
    found_objects: Vec<u32>,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the header and the number of entries.
    pub fn new(input: R) -> Result<Self, ArchiveError> {
        Self::with_source(Source::new(input), Limits::default())
    }

    /// As [`new`](Self::new), with other limits.
    pub fn with_limits(input: R, limits: Limits) -> Result<Self, ArchiveError> {
        Self::with_source(Source::new(input), limits)
    }

    /// As [`with_limits`](Self::with_limits), keeping the bytes of header and entries for
    /// [`take_transcript`](Self::take_transcript).
    pub fn recording(input: R, limits: Limits) -> Result<Self, ArchiveError> {
        let mut source = Source::new(input);
        source.record(true);
        Self::with_source(source, limits)
    }

    fn with_source(mut source: Source<R>, limits: Limits) -> Result<Self, ArchiveError> {
        let header = Header::read(&mut source, &limits)?;
        source.place = Place::Contents(0);
        let count = source.int()?;
        let entry_count = u32::try_from(count).map_err(|_| source.malformed(Rule::Integer))?;
        if entry_count > limits.entries {
            return Err(source.malformed(Rule::ContentsTooLong));
        }
        Ok(Self {
            contents_start: source.offset(),
            source,
            limits,
            header,
            state: State::Contents,
            entry_count,
            entries_read: 0,
            dump_ids: HashSet::new(),
            due: VecDeque::new(),
            chunk_left: 0,
            announced_objects: Vec::new(),
            found_objects: Vec::new(),
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many entries the table of contents says it has.
    pub fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Bytes of the archive consumed so far.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The exact bytes consumed since the last call: the header with the number of entries first, then entries. Empty
    /// unless made by [`recording`](Self::recording), and once the entries are read.
    pub fn take_transcript(&mut self) -> Vec<u8> {
        self.source.take_transcript()
    }

    /// The next entry of the table of contents, `None` after the last.
    pub fn next_entry(&mut self) -> Result<Option<TocEntry>, ArchiveError> {
        if !matches!(self.state, State::Contents) {
            return Ok(None);
        }
        if self.entries_read == self.entry_count {
            self.state = State::BetweenItems;
            self.source.record(false);
            self.dump_ids = HashSet::new();
            return Ok(None);
        }
        self.entries_read += 1;
        let minor = self.header.version.1;
        let entry = TocEntry::read(&mut self.source, self.entries_read, minor, &self.limits)?;
        if self.source.offset() - self.contents_start > self.limits.contents_bytes {
            return Err(self.source.malformed(Rule::ContentsTooLong));
        }
        if !self.dump_ids.insert(entry.dump_id) {
            return Err(self.source.malformed(Rule::DuplicateDumpId(entry.dump_id)));
        }
        match large_object_oids(&entry) {
            Some(Ok(oids)) => self.announced_objects.extend(oids),
            Some(Err(())) => return Err(self.source.malformed(Rule::Field("list of large objects"))),
            None => {}
        }
        if entry.has_data() {
            self.due.push_back(Due {
                dump_id: entry.dump_id,
                large_objects: entry.is_large_objects(),
                state: entry.data_state,
            });
        }
        Ok(Some(entry))
    }

    /// The next data item; skips what is left of the present one. `None` when the archive is complete: every item that
    /// was announced was seen, in order, and the input is at its end.
    pub fn next_item(&mut self) -> Result<Option<Item>, ArchiveError> {
        loop {
            match self.state {
                State::Contents => while self.next_entry()?.is_some() {},
                State::Table | State::Object { .. } => self.skip_stream()?,
                State::BetweenObjects { .. } => while self.next_large_object()?.is_some() {},
                State::BetweenItems => break,
                State::Complete => return Ok(None),
            }
        }
        self.source.place = Place::Items;
        let start = self.source.offset();
        let Some(block_type) = self.source.byte_or_end()? else {
            if let Some(due) = self.due.front() {
                return Err(self.source.malformed(Rule::MissingItem(due.dump_id)));
            }
            self.check_large_objects()?;
            self.state = State::Complete;
            return Ok(None);
        };
        let large_objects = match block_type {
            BLOCK_DATA => false,
            BLOCK_LARGE_OBJECTS => true,
            other => return Err(self.source.malformed(Rule::BlockType(other))),
        };
        let found = self.source.int()?;
        let due = match self.due.pop_front() {
            Some(due) if due.dump_id == found => due,
            other => {
                let due = other.map(|due| due.dump_id);
                return Err(self.source.malformed(Rule::UnexpectedItem { found, due }));
            }
        };
        self.source.place = Place::Item(found);
        if due.large_objects != large_objects {
            return Err(self.source.malformed(Rule::ItemKind));
        }
        if let DataState::OffsetSet(offset) = due.state
            && offset != start
        {
            return Err(self.source.malformed(Rule::ItemOffset));
        }
        self.chunk_left = 0;
        let dump_id = found;
        Ok(Some(if large_objects {
            self.state = State::BetweenObjects { dump_id };
            Item::LargeObjects { dump_id }
        } else {
            self.state = State::Table;
            Item::Data { dump_id }
        }))
    }

    /// The OID of the next large object of the run; skips what is left of the present one. `None` after the last.
    pub fn next_large_object(&mut self) -> Result<Option<u32>, ArchiveError> {
        if let State::Object { .. } = self.state {
            self.skip_stream()?;
        }
        let State::BetweenObjects { dump_id } = self.state else { return Ok(None) };
        self.source.place = Place::Item(dump_id);
        let oid = self.source.oid()?;
        if oid == 0 {
            self.state = State::BetweenItems;
            return Ok(None);
        }
        self.source.place = Place::LargeObject(oid);
        self.found_objects.push(oid);
        self.chunk_left = 0;
        self.state = State::Object { dump_id };
        Ok(Some(oid))
    }

    /// Bytes of the current stream (a table's, or a large object's) as they are in the archive, without the framing;
    /// empty at its end. Follow with [`consume`](Self::consume).
    pub fn payload(&mut self) -> Result<&[u8], ArchiveError> {
        if !matches!(self.state, State::Table | State::Object { .. }) {
            return Ok(&[]);
        }
        if self.chunk_left == 0 {
            let length = self.source.int()?;
            self.chunk_left = u32::try_from(length).map_err(|_| self.source.malformed(Rule::ChunkLength))?;
            if self.chunk_left == 0 {
                self.state = match self.state {
                    State::Object { dump_id } => State::BetweenObjects { dump_id },
                    _ => State::BetweenItems,
                };
                return Ok(&[]);
            }
        }
        if self.source.available()?.is_empty() {
            return Err(self.source.malformed(Rule::Truncated));
        }
        let available = self.source.available()?;
        let take = available.len().min(self.chunk_left as usize);
        Ok(&available[..take])
    }

    /// Marks bytes that [`payload`](Self::payload) gave as used.
    pub fn consume(&mut self, count: usize) {
        // Never more than the chunk, whatever a caller says.
        let count = count.min(self.chunk_left as usize);
        self.source.consume(count);
        self.chunk_left -= count as u32;
    }

    /// Appends bytes of the current stream until `out` holds `length` or the stream ends; true if it ended.
    pub fn fill(&mut self, out: &mut Vec<u8>, length: usize) -> Result<bool, ArchiveError> {
        while out.len() < length {
            if self.chunk_left == 0 && matches!(self.state, State::Table | State::Object { .. }) {
                self.source.whole_chunks(out, length);
            }
            let payload = self.payload()?;
            if payload.is_empty() {
                return Ok(true);
            }
            let take = payload.len().min(length - out.len());
            out.extend_from_slice(&payload[..take]);
            self.consume(take);
        }
        Ok(false)
    }

    /// The current stream, decompressed. To be read to its end: only there is it known to be whole.
    pub fn item_reader(&mut self) -> Result<ItemReader<'_, R>, ArchiveError> {
        ItemReader::new(self)
    }

    pub(super) fn at_chunk_end(&self) -> bool {
        self.chunk_left == 0
    }

    pub(super) fn compression(&self) -> Compression {
        self.header.compression
    }

    /// An error at the present place.
    pub fn malformed(&self, rule: Rule) -> ArchiveError {
        self.source.malformed(rule)
    }

    fn skip_stream(&mut self) -> Result<(), ArchiveError> {
        loop {
            let count = self.payload()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Every large object once, and, where they were announced (a data-only dump does not), exactly those.
    fn check_large_objects(&mut self) -> Result<(), ArchiveError> {
        self.found_objects.sort_unstable();
        self.announced_objects.sort_unstable();
        if let Some(pair) = self.found_objects.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self.source.malformed(Rule::DuplicateLargeObject(pair[0])));
        }
        if !self.announced_objects.is_empty() && self.announced_objects != self.found_objects {
            return Err(self.source.malformed(Rule::LargeObjects));
        }
        Ok(())
    }
}
