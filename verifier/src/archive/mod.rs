//! Reads the archives `pg_dump --format=custom` writes, versions 1.14 (Postgres 14, 15), 1.15 (16) and 1.16 (17, 18).
//!
//! An archive comes from a database someone else controls and has no end marker, so this reader is strict where
//! `pg_restore` is lenient: it allocates only what it has read, takes each data item exactly once and in the order of
//! the table of contents, and calls an archive complete only when every item that was announced was seen and the
//! input ended on a block boundary. It reads; it never runs or interprets the SQL it finds.
//!
//! So it also refuses what `pg_dump -Fc > file` of Postgres 16 and later leaves: that pg_dump opens standard output for
//! appending, so its second, corrected table of contents lands behind the data. Piped archives and `--file` have none.
//!
//! The format has no written specification; the source is Postgres' own `src/bin/pg_dump/pg_backup_archiver.c`,
//! `pg_backup_custom.c` and `compress_*.c`.

mod contents;
mod decode;
mod error;
mod header;
mod reader;
mod rowdigest;
mod statements;
mod survey;
mod toc;
mod wire;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

pub use contents::{ContentLine, ContentsDigest};
pub use decode::ItemReader;
pub use error::{ArchiveError, Place, Rule};
pub use header::{Compression, Created, Header};
pub use reader::{ArchiveReader, Item};
pub use rowdigest::{ROW_KEY_BYTES, RowHasher, RowKey, RowSum, TERMINATOR, TableText, TextFault};
pub use statements::{CopyTarget, SequenceValue, copy_target, large_object_oids, sequence_value};
pub use survey::{LargeObject, Survey, TableData, survey};
pub use toc::{DataState, Section, TocEntry};
pub use wire::{BLOCK_DATA, BLOCK_LARGE_OBJECTS, Limits, put_int};
