//! The archive's first bytes: version, compression, when and from what it was made.

use std::io::Read;

use super::{
    error::{ArchiveError, Place, Rule},
    wire::{Limits, Source, put_int},
};

/// Magic, three version bytes, integer size, offset size, format: what precedes the compression field.
const BYTES_BEFORE_COMPRESSION: usize = 11;

/// How an archive's data items are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One zlib stream per item.
    Gzip {
        /// The level, which only archives up to 1.14 record (−1 is zlib's default).
        level: Option<i32>,
    },
    /// lz4 frames.
    Lz4,
    /// One or more zstd frames per item.
    Zstd,
}

/// The dumping client's local time, as it recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Year, full.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 61.
    pub second: u8,
    /// Daylight saving time was in effect.
    pub daylight_saving: bool,
}

/// An archive's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Archive version: major, minor, revision.
    pub version: (u8, u8, u8),
    /// How data items are compressed.
    pub compression: Compression,
    /// Bytes per integer (4).
    pub int_size: u8,
    /// Bytes per offset (8).
    pub off_size: u8,
    /// When it was made.
    pub created: Created,
    /// The database's name.
    pub database: String,
    /// The server's version, as it calls itself.
    pub server_version: String,
    /// The client's version, as it calls itself.
    pub dump_version: String,
}

impl Header {
    pub(super) fn read<R: Read>(source: &mut Source<R>, limits: &Limits) -> Result<Self, ArchiveError> {
        source.place = Place::Header;
        if source.array()? != *b"PGDMP" {
            return Err(source.malformed(Rule::Magic));
        }
        let [major, minor, revision] = source.array()?;
        if major != 1 || !(14..=16).contains(&minor) {
            return Err(source.malformed(Rule::Version(major, minor, revision)));
        }
        let [int_size, off_size, format] = source.array()?;
        if (int_size, off_size, format) != (4, 8, 1) {
            return Err(source.malformed(Rule::Layout));
        }
        let compression = if minor >= 15 {
            match source.byte()? {
                0 => Compression::None,
                1 => Compression::Gzip { level: None },
                2 => Compression::Lz4,
                3 => Compression::Zstd,
                _ => return Err(source.malformed(Rule::Compression)),
            }
        } else {
            match source.int()? {
                0 => Compression::None,
                level @ -1..=9 => Compression::Gzip { level: Some(level) },
                _ => return Err(source.malformed(Rule::Compression)),
            }
        };
        let created = Self::created(source)?;
        let mut text = |name| {
            let text = source.string(limits)?;
            text.ok_or_else(|| source.malformed(Rule::MissingString(name)))
        };
        Ok(Self {
            version: (major, minor, revision),
            compression,
            int_size,
            off_size,
            created,
            database: text("database name")?,
            server_version: text("server version")?,
            dump_version: text("pg_dump version")?,
        })
    }

    /// The fields of a C `struct tm`.
    fn created<R: Read>(source: &mut Source<R>) -> Result<Created, ArchiveError> {
        let mut field = |range: std::ops::RangeInclusive<i32>| {
            let value = source.int()?;
            if range.contains(&value) { Ok(value) } else { Err(source.malformed(Rule::Date)) }
        };
        let (second, minute, hour) = (field(0..=61)?, field(0..=59)?, field(0..=23)?);
        let (day, month, year) = (field(1..=31)?, field(0..=11)?, field(0..=8_099)?);
        let daylight_saving = field(-1..=1)? == 1;
        // Each value was just checked to fit.
        Ok(Created {
            year: (year + 1900) as u16,
            month: (month + 1) as u8,
            day: day as u8,
            hour: hour as u8,
            minute: minute as u8,
            second: second as u8,
            daylight_saving,
        })
    }

    /// The header's bytes (its `transcript`) with another compression; `None` where the archive version cannot name it.
    pub fn with_compression(&self, transcript: &[u8], compression: Compression) -> Option<Vec<u8>> {
        let by_level = self.version.1 < 15;
        let field = if by_level { 5 } else { 1 };
        let mut bytes = transcript.get(..BYTES_BEFORE_COMPRESSION)?.to_vec();
        match (compression, by_level) {
            (Compression::None, true) => put_int(&mut bytes, 0),
            (Compression::Gzip { level }, true) => put_int(&mut bytes, level.filter(|&level| level != 0)?),
            (Compression::Lz4 | Compression::Zstd, true) => return None,
            (Compression::None, false) => bytes.push(0),
            (Compression::Gzip { .. }, false) => bytes.push(1),
            (Compression::Lz4, false) => bytes.push(2),
            (Compression::Zstd, false) => bytes.push(3),
        }
        bytes.extend_from_slice(transcript.get(BYTES_BEFORE_COMPRESSION + field..)?);
        Some(bytes)
    }
}
