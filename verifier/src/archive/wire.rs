//! The archive's primitives: bytes, integers and strings, read through one buffer that knows its offset.
//!
//! Nothing is allocated ahead of the bytes that fill it, whatever a length field claims.

use std::io::{self, Read};

use super::error::{ArchiveError, Place, Rule};

/// Block type of table data.
pub const BLOCK_DATA: u8 = 1;
/// Block type of a run of large objects.
pub const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Large enough that a pipe enlarged to a megabyte is emptied in few calls, small enough not to matter.
const BUFFER_BYTES: usize = 256 * 1024;

/// Bounds on what a table of contents may take; the defaults are far above what real databases need.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest string, in bytes.
    pub string_bytes: u32,
    /// Most entries.
    pub entries: u32,
    /// Longest table of contents, in bytes.
    pub contents_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { string_bytes: 64 << 20, entries: 4_000_000, contents_bytes: 1 << 30 }
    }
}

/// Appends an integer as `WriteInt` does: a sign byte and four little-endian bytes of magnitude.
pub fn put_int(out: &mut Vec<u8>, value: i32) {
    out.push(u8::from(value < 0));
    out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
}

pub(super) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the archive of the byte after `end`.
    filled: u64,
    recording: bool,
    transcript: Vec<u8>,
    pub(super) place: Place,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            filled: 0,
            recording: false,
            transcript: Vec::new(),
            place: Place::Header,
        }
    }

    /// Whether from here on a copy is kept of what the primitives consume, for a caller that must repeat it exactly.
    pub(super) fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    pub(super) fn take_transcript(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.transcript)
    }

    pub(super) fn offset(&self) -> u64 {
        self.filled - (self.end - self.start) as u64
    }

    pub(super) fn malformed(&self, rule: Rule) -> ArchiveError {
        ArchiveError::Malformed { place: self.place, offset: self.offset(), rule }
    }

    /// Bytes that are there; reads when there are none. Empty only at the end of the input.
    pub(super) fn available(&mut self) -> Result<&[u8], ArchiveError> {
        while self.start == self.end {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(&[]),
                Ok(count) => {
                    self.start = 0;
                    self.end = count.min(self.buffer.len());
                    self.filled += self.end as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { offset: self.offset(), source }),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Appends the chunks that are buffered whole, as long as they fit into `length` bytes: uncompressed archives have one
    /// per row, which makes this the reader's inner loop. Whatever is out of the ordinary is left to the caller.
    pub(super) fn whole_chunks(&mut self, out: &mut Vec<u8>, length: usize) {
        let mut buffered = &self.buffer[self.start..self.end];
        while let Some(([0, size @ ..], rest)) = buffered.split_first_chunk::<5>() {
            let size = u32::from_le_bytes(*size) as usize;
            if size == 0 || size > rest.len() || size > length.saturating_sub(out.len()) {
                break;
            }
            let (chunk, rest) = rest.split_at(size);
            out.extend_from_slice(chunk);
            buffered = rest;
        }
        self.start = self.end - buffered.len();
    }

    /// The next byte, or `None` at the end of the input.
    pub(super) fn byte_or_end(&mut self) -> Result<Option<u8>, ArchiveError> {
        let Some(&byte) = self.available()?.first() else { return Ok(None) };
        self.consume(1);
        if self.recording {
            self.transcript.push(byte);
        }
        Ok(Some(byte))
    }

    pub(super) fn byte(&mut self) -> Result<u8, ArchiveError> {
        self.byte_or_end()?.ok_or_else(|| self.malformed(Rule::Truncated))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut bytes = [0; N];
        if !self.recording
            && let Some(ready) = self.buffer[self.start..self.end].first_chunk::<N>()
        {
            bytes = *ready;
            self.consume(N);
            return Ok(bytes);
        }
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    pub(super) fn int(&mut self) -> Result<i32, ArchiveError> {
        let [sign, a, b, c, d] = self.array()?;
        let magnitude = i64::from(u32::from_le_bytes([a, b, c, d]));
        let value = match sign {
            0 => magnitude,
            1 if magnitude > 0 => -magnitude,
            _ => return Err(self.malformed(Rule::Integer)),
        };
        i32::try_from(value).map_err(|_| self.malformed(Rule::Integer))
    }

    /// An OID, which pg_dump writes as a signed integer.
    pub(super) fn oid(&mut self) -> Result<u32, ArchiveError> {
        Ok(self.int()?.cast_unsigned())
    }

    /// A string. Names and definitions are in the source database's encoding; bytes that are not UTF-8 (SQL_ASCII
    /// databases may hold any) become U+FFFD.
    pub(super) fn string(&mut self, limits: &Limits) -> Result<Option<String>, ArchiveError> {
        let length = self.int()?;
        if length == -1 {
            return Ok(None);
        }
        let length = u32::try_from(length).map_err(|_| self.malformed(Rule::Integer))?;
        if length > limits.string_bytes {
            return Err(self.malformed(Rule::StringTooLong(u64::from(length))));
        }
        let mut missing = length as usize;
        let mut bytes = Vec::new();
        while missing > 0 {
            let available = self.available()?;
            let take = missing.min(available.len());
            if take == 0 {
                return Err(self.malformed(Rule::Truncated));
            }
            bytes.extend_from_slice(&available[..take]);
            missing -= take;
            self.consume(take);
        }
        if self.recording {
            self.transcript.extend_from_slice(&bytes);
        }
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }
}
