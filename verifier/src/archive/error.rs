//! What can be wrong with an archive, and where.
//!
//! Every refusal names a place, a byte offset and the rule that was broken, because "corrupt archive" helps nobody
//! who has to find out whether the dump, the transfer or the reader is at fault.

use std::{error::Error, fmt, io};

/// Why an archive could not be read.
#[derive(Debug)]
pub enum ArchiveError {
    /// The input itself failed.
    Read {
        /// Bytes of the archive consumed before the failure.
        offset: u64,
        /// The failure.
        source: io::Error,
    },
    /// The bytes are not a complete, well-formed archive.
    Malformed {
        /// Where in the archive.
        place: Place,
        /// Bytes of the archive consumed when the rule was found broken.
        offset: u64,
        /// The rule that was broken.
        rule: Rule,
    },
}

/// A part of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The header, up to the table of contents.
    Header,
    /// The n-th entry of the table of contents, counted from 1 (0 is the count itself).
    Contents(u32),
    /// Between data items, or at the end.
    Items,
    /// The data item of the entry with this dump id.
    Item(i32),
    /// The large object with this OID.
    LargeObject(u32),
}

/// A rule of the format, named by how it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The input ended inside something.
    Truncated,
    /// Not `PGDMP`.
    Magic,
    /// An archive version this reader does not know.
    Version(u8, u8, u8),
    /// Integers or offsets of another size, or not the custom format.
    Layout,
    /// An unknown compression method.
    Compression,
    /// An integer whose sign byte or value is out of range.
    Integer,
    /// A date field out of range.
    Date,
    /// A string longer than the limit.
    StringTooLong(u64),
    /// A string that may not be missing is.
    MissingString(&'static str),
    /// More entries, or a longer table of contents, than the limit.
    ContentsTooLong,
    /// A dump id that is not positive.
    DumpId(i32),
    /// Two entries with one dump id.
    DuplicateDumpId(i32),
    /// An OID, section, flag, dependency or data state that is none.
    Field(&'static str),
    /// An entry says both that it has data and that it has none.
    DataState,
    /// A block that is neither data nor large objects.
    BlockType(u8),
    /// An item of another entry than the next one with data.
    UnexpectedItem {
        /// Dump id found.
        found: i32,
        /// Dump id that was due, if any.
        due: Option<i32>,
    },
    /// A data block for large objects, or the other way round.
    ItemKind,
    /// An item that is not at the offset its entry gives.
    ItemOffset,
    /// An entry with data whose item never came.
    MissingItem(i32),
    /// A negative or oversized chunk.
    ChunkLength,
    /// A large object met twice.
    DuplicateLargeObject(u32),
    /// Large objects announced and found differ.
    LargeObjects,
    /// This reader cannot decode lz4.
    Lz4,
    /// Compressed data that does not decode.
    Compressed,
    /// A compressed stream that ends early.
    CompressedTruncated,
    /// Bytes after a compressed stream's end (`pg_restore` hangs on them).
    CompressedTrailing,
    /// A zstd frame that ends inside a chunk (`pg_restore` silently drops what follows).
    FrameInsideChunk,
    /// Table data that is not COPY text closed by `\.` and two empty lines.
    CopyText(&'static str),
    /// Table data without a COPY statement.
    NoCopyStatement,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Contents(0) => f.write_str("table of contents"),
            Self::Contents(number) => write!(f, "entry {number} of the table of contents"),
            Self::Items => f.write_str("data items"),
            Self::Item(dump_id) => write!(f, "data of entry {dump_id}"),
            Self::LargeObject(oid) => write!(f, "large object {oid}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the input ends here"),
            Self::Magic => f.write_str("not a custom-format pg_dump archive"),
            Self::Version(major, minor, revision) => {
                write!(f, "archive version {major}.{minor}-{revision} is not supported (1.14 to 1.16 are)")
            }
            Self::Layout => f.write_str("integer size, offset size or format differ from what pg_dump writes"),
            Self::Compression => f.write_str("unknown compression"),
            Self::Integer => f.write_str("integer out of range"),
            Self::Date => f.write_str("date out of range"),
            Self::StringTooLong(length) => write!(f, "a string of {length} bytes is over the limit"),
            Self::MissingString(name) => write!(f, "{name} is missing"),
            Self::ContentsTooLong => f.write_str("the table of contents is over the limit"),
            Self::DumpId(id) => write!(f, "dump id {id} is not positive"),
            Self::DuplicateDumpId(id) => write!(f, "dump id {id} is used twice"),
            Self::Field(name) => write!(f, "invalid {name}"),
            Self::DataState => f.write_str("the entry's data flag and data state disagree"),
            Self::BlockType(byte) => write!(f, "unknown block type {byte}"),
            Self::UnexpectedItem { found, due: Some(due) } => {
                write!(f, "an item of entry {found} where that of entry {due} was due")
            }
            Self::UnexpectedItem { found, due: None } => {
                write!(f, "an item of entry {found} after the last that was due")
            }
            Self::ItemKind => f.write_str("the block type does not fit the entry"),
            Self::ItemOffset => f.write_str("the item is not where its entry says"),
            Self::MissingItem(id) => write!(f, "the data of entry {id} is missing"),
            Self::ChunkLength => f.write_str("invalid chunk length"),
            Self::DuplicateLargeObject(oid) => write!(f, "large object {oid} occurs twice"),
            Self::LargeObjects => f.write_str("the large objects found are not those announced"),
            Self::Lz4 => f.write_str("lz4 archives cannot be decoded here"),
            Self::Compressed => f.write_str("compressed data does not decode"),
            Self::CompressedTruncated => f.write_str("a compressed stream ends early"),
            Self::CompressedTrailing => f.write_str("bytes follow a compressed stream's end"),
            Self::FrameInsideChunk => f.write_str("a zstd frame ends inside a chunk"),
            Self::CopyText(what) => write!(f, "not COPY text: {what}"),
            Self::NoCopyStatement => f.write_str("table data without a COPY statement"),
        }
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, .. } => write!(f, "reading the archive failed after {offset} bytes"),
            Self::Malformed { place, offset, rule } => write!(f, "archive, {place} (byte {offset}): {rule}"),
        }
    }
}

impl Error for ArchiveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Malformed { .. } => None,
        }
    }
}

/// So that a decoded item can be read through [`io::Read`] without losing what was wrong.
impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Read { source, .. } => source,
            malformed @ ArchiveError::Malformed { .. } => Self::new(io::ErrorKind::InvalidData, malformed),
        }
    }
}
