//! A whole archive, read and decoded to its last byte: what is in it, and that all of it is.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::{
    contents::ContentsDigest,
    error::{ArchiveError, Rule},
    header::Header,
    reader::{ArchiveReader, Item},
    rowdigest::{RowKey, RowSum, TableText},
    toc::TocEntry,
};

const BUFFER_BYTES: usize = 128 * 1024;

/// One table's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableData {
    /// Its TABLE DATA entry.
    pub dump_id: i32,
    /// Bytes of COPY text, the terminator included.
    pub bytes: u64,
    /// Its rows.
    pub rows: RowSum,
}

/// One large object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargeObject {
    /// Its OID.
    pub oid: u32,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256(*K* ‖ content).
    pub digest: [u8; 32],
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its header.
    pub header: Header,
    /// `contents.digest`.
    pub contents_digest: [u8; 32],
    /// Entries in the table of contents.
    pub entries: u64,
    /// Each table's data, in the archive's order.
    pub tables: Vec<TableData>,
    /// Each large object, in the archive's order.
    pub large_objects: Vec<LargeObject>,
    /// Bytes of the archive.
    pub bytes: u64,
}

impl Survey {
    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows.rows).sum()
    }
}

/// Reads all of `input`, decoding every item. `key` is the backup's row key; any will do to check and count. Each entry
/// is shown to `see`. Success means a complete archive.
pub fn survey<R: Read>(input: R, key: &RowKey, mut see: impl FnMut(&TocEntry)) -> Result<Survey, ArchiveError> {
    let mut reader = ArchiveReader::new(input)?;
    let mut digest = ContentsDigest::default();
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        digest.entry(&entry).map_err(|_| reader.malformed(Rule::Field("entry")))?;
        entries += 1;
        see(&entry);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut tables, mut large_objects) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Data { dump_id } => {
                let mut text = TableText::new(key);
                decode(&mut reader, &mut buffer, |bytes| text.write(bytes))?;
                let bytes = text.bytes();
                let rows = text.finish().map_err(|fault| reader.malformed(Rule::CopyText(fault.as_str())))?;
                tables.push(TableData { dump_id, bytes, rows });
            }
            Item::LargeObjects { .. } => {
                while let Some(oid) = reader.next_large_object()? {
                    let mut hash = Sha256::new_with_prefix(key);
                    let mut bytes = 0;
                    decode(&mut reader, &mut buffer, |piece| {
                        bytes += piece.len() as u64;
                        hash.update(piece);
                    })?;
                    large_objects.push(LargeObject { oid, bytes, digest: hash.finalize().into() });
                }
            }
        }
    }
    Ok(Survey {
        header: reader.header().clone(),
        contents_digest: digest.finish(),
        entries,
        tables,
        large_objects,
        bytes: reader.offset(),
    })
}

fn decode<R: Read>(
    reader: &mut ArchiveReader<R>,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> Result<(), ArchiveError> {
    let mut item = reader.item_reader()?;
    loop {
        let count = item.read_decoded(buffer)?;
        if count == 0 {
            return Ok(());
        }
        take(&buffer[..count]);
    }
}
