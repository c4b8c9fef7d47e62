//! One entry of the table of contents.

use std::io::Read;

use super::{
    error::{ArchiveError, Place, Rule},
    wire::{Limits, Source},
};

/// When `pg_restore` runs an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Outside the sections (encoding, ACLs of the database, …).
    None,
    /// Definitions that data needs.
    PreData,
    /// Data.
    Data,
    /// Indexes, constraints, triggers.
    PostData,
}

/// Whether an entry has a data item, and whether its place is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    /// It has one, somewhere behind: what a piped `pg_dump` writes.
    OffsetNotSet,
    /// It has one at this offset.
    OffsetSet(u64),
    /// It has none.
    NoData,
}

/// An entry of the table of contents. Its SQL is the source's word: it describes, it is never run by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Positive, unique within the archive.
    pub dump_id: i32,
    /// pg_dump had data to write for it.
    pub had_dumper: bool,
    /// OID of the catalogue the object is in.
    pub table_oid: u32,
    /// OID of the object.
    pub oid: u32,
    /// The object's name, or a description of it.
    pub tag: String,
    /// The kind of entry, such as `TABLE DATA`.
    pub desc: String,
    /// When it is restored.
    pub section: Section,
    /// SQL that makes it.
    pub defn: Option<String>,
    /// SQL that drops it.
    pub drop: Option<String>,
    /// The COPY statement that precedes table data.
    pub copy: Option<String>,
    /// Its schema.
    pub namespace: Option<String>,
    /// Its tablespace.
    pub tablespace: Option<String>,
    /// Its table access method.
    pub tableam: Option<String>,
    /// Its `pg_class.relkind` as a character code (archives from 1.16).
    pub relkind: Option<i32>,
    /// Its owner.
    pub owner: Option<String>,
    /// Dump ids it depends on, in the archive's order.
    pub dependencies: Vec<i32>,
    /// Whether data follows.
    pub data_state: DataState,
}

impl TocEntry {
    /// A data item follows for it.
    pub fn has_data(&self) -> bool {
        self.data_state != DataState::NoData
    }

    /// Its data are large objects, not COPY text.
    pub fn is_large_objects(&self) -> bool {
        self.desc == "BLOBS"
    }

    pub(super) fn read<R: Read>(
        source: &mut Source<R>,
        number: u32,
        minor: u8,
        limits: &Limits,
    ) -> Result<Self, ArchiveError> {
        source.place = Place::Contents(number);
        let dump_id = source.int()?;
        if dump_id <= 0 {
            return Err(source.malformed(Rule::DumpId(dump_id)));
        }
        let had_dumper = match source.int()? {
            0 => false,
            1 => true,
            _ => return Err(source.malformed(Rule::Field("data flag"))),
        };
        let table_oid = decimal(source, limits, "catalogue OID")?;
        let oid = decimal(source, limits, "OID")?;
        let tag = required(source, limits, "tag")?;
        let desc = required(source, limits, "kind")?;
        let section = match source.int()? {
            1 => Section::None,
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            _ => return Err(source.malformed(Rule::Field("section"))),
        };
        let defn = source.string(limits)?;
        let drop = source.string(limits)?;
        let copy = source.string(limits)?;
        let namespace = source.string(limits)?;
        let tablespace = source.string(limits)?;
        let tableam = source.string(limits)?;
        let relkind = if minor >= 16 { Some(source.int()?) } else { None };
        let owner = source.string(limits)?;
        if source.string(limits)?.as_deref() != Some("false") {
            return Err(source.malformed(Rule::Field("OIDs flag")));
        }
        let mut dependencies = Vec::new();
        while let Some(text) = source.string(limits)? {
            let id = digits(&text).ok_or_else(|| source.malformed(Rule::Field("dependency")))?;
            dependencies.push(id);
        }
        let state = source.byte()?;
        let offset = u64::from_le_bytes(source.array()?);
        let data_state = match state {
            1 => DataState::OffsetNotSet,
            2 => DataState::OffsetSet(offset),
            3 => DataState::NoData,
            _ => return Err(source.malformed(Rule::Field("data state"))),
        };
        if had_dumper == (data_state == DataState::NoData) {
            return Err(source.malformed(Rule::DataState));
        }
        Ok(Self {
            dump_id,
            had_dumper,
            table_oid,
            oid,
            tag,
            desc,
            section,
            defn,
            drop,
            copy,
            namespace,
            tablespace,
            tableam,
            relkind,
            owner,
            dependencies,
            data_state,
        })
    }
}

fn required<R: Read>(source: &mut Source<R>, limits: &Limits, name: &'static str) -> Result<String, ArchiveError> {
    source.string(limits)?.ok_or_else(|| source.malformed(Rule::MissingString(name)))
}

fn decimal<R: Read>(source: &mut Source<R>, limits: &Limits, name: &'static str) -> Result<u32, ArchiveError> {
    let text = required(source, limits, name)?;
    digits(&text).ok_or_else(|| source.malformed(Rule::Field(name)))
}

/// A decimal number without sign, so that no two spellings of one number are accepted.
pub(super) fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}
