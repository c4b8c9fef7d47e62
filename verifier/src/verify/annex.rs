//! The annex against its manifest, record by record: it may be a gigabyte, so only what the artifact can
//! confirm is kept.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read},
};

use super::{AnnexFound, Failure, hold, measured::Measured};
use crate::{
    annex::{AnnexError, AnnexReader, AnnexSize, Counts, Header, Record, VERSION},
    archive::{ContentLine, ContentsDigest, ROW_KEY_BYTES, RowKey},
    manifest::VerifiedManifest,
};

/// What an annex says that can be recomputed from the artifact.
#[derive(Debug, Clone)]
pub struct AnnexFacts {
    pub(super) row_key: RowKey,
    pub(super) archive_version: String,
    pub(super) pg_dump_version: String,
    pub(super) tables: BTreeMap<i64, TableFact>,
    pub(super) sequences: BTreeMap<(String, String), (String, bool)>,
    pub(super) large_objects: BTreeMap<u32, (u64, String)>,
    counts: Counts,
    lines: u64,
}

/// One table's data, as the annex describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableFact {
    pub schema: String,
    pub name: String,
    pub columns: String,
    pub load_target: String,
    pub rows: u64,
    pub bytes: u64,
    pub digest: String,
}

impl AnnexFacts {
    pub(super) fn found(&self, compared_with_artifact: bool) -> AnnexFound {
        AnnexFound {
            lines: self.lines,
            tables: self.counts.tables,
            rows: self.counts.rows,
            sequences: self.counts.sequences,
            large_objects: self.counts.large_objects,
            compared_with_artifact,
        }
    }
}

/// Size and digest as the manifest gives them, records canonical and in order, header, counts and entries
/// equal to the manifest's.
pub fn check_annex(input: impl Read, manifest: &VerifiedManifest) -> Result<AnnexFacts, Failure> {
    let stated = &manifest.backup().annex;
    let mut measured = Measured::new(input, stated.size_bytes);
    let outcome = read(&mut measured, manifest);
    // First whether it is the file at all.
    measured.check("annex", &stated.sha256)?;
    outcome
}

fn read(input: impl Read, manifest: &VerifiedManifest) -> Result<AnnexFacts, Failure> {
    let backup = manifest.backup();
    let expected = AnnexSize { uncompressed_bytes: backup.annex.uncompressed_bytes, lines: backup.annex.lines };
    let mut reader = AnnexReader::new(BufReader::new(input), expected).map_err(|e| failure(&e))?;
    let mut next = || reader.next_record().map_err(|e| failure(&e));
    let Some(Record::Header(header)) = next()? else {
        return Err(Failure::bad("annex line 1", "is not the header"));
    };
    check_header(&header, manifest)?;
    let mut facts = AnnexFacts {
        row_key: row_key(&header.row_key)?,
        archive_version: header.archive_version,
        pg_dump_version: header.pg_dump_version,
        tables: BTreeMap::new(),
        sequences: BTreeMap::new(),
        large_objects: BTreeMap::new(),
        counts: Counts::default(),
        lines: backup.annex.lines,
    };
    let mut digest = ContentsDigest::default();
    let mut databases = 0u64;
    while let Some(record) = next()? {
        let counts = &mut facts.counts;
        let fresh = match record {
            Record::Header(_) => false,
            Record::Setting(_) => add(&mut counts.settings, 1),
            Record::Database(database) if database.name != backup.source_database => {
                return Err(Failure::bad("annex", "its database is not the manifest's"));
            }
            Record::Database(_) => add(&mut databases, 1),
            Record::Role(_) => add(&mut counts.roles, 1),
            Record::Extension(_) => add(&mut counts.extensions, 1),
            Record::Entry(entry) => {
                let number = |id: i64| i32::try_from(id).map_err(|_| Failure::bad("annex", "a dump id is none"));
                let dependencies = entry.dependencies.iter().map(|&id| number(id)).collect::<Result<Vec<_>, _>>()?;
                let line = ContentLine {
                    dependencies: &dependencies,
                    dump_id: number(entry.dump_id)?,
                    kind: &entry.kind,
                    name: &entry.name,
                    owner: &entry.owner,
                    schema: &entry.schema,
                };
                digest.line(&line).map_err(|e| Failure::json("annex", &e))?;
                add(&mut counts.entries, 1)
            }
            Record::Table(table) => {
                add(&mut counts.tables, 1);
                add(&mut counts.rows, table.rows);
                let fact = TableFact {
                    schema: table.schema,
                    name: table.name,
                    columns: table.columns,
                    load_target: table.load_target,
                    rows: table.rows,
                    bytes: table.bytes,
                    digest: table.digest,
                };
                facts.tables.insert(table.dump_id, fact).is_none()
            }
            Record::Sequence(sequence) => {
                add(&mut counts.sequences, 1);
                let name = (sequence.schema, sequence.name);
                facts.sequences.insert(name, (sequence.last_value, sequence.is_called)).is_none()
            }
            Record::LargeObject(object) => {
                add(&mut counts.large_objects, 1);
                facts.large_objects.insert(object.oid, (object.size, object.digest)).is_none()
            }
            Record::Omission(_) => add(&mut counts.omissions, 1),
        };
        if !fresh {
            return Err(Failure::bad("annex", "describes something twice"));
        }
    }
    let counts = &facts.counts;
    hold(
        "annex",
        [
            (databases == 1, "has no database record"),
            (*counts == header.counts, "the header's counts are not those of the records"),
            (
                hex::encode(digest.finish()) == backup.contents.digest,
                "its entries are not those of the manifest's contents digest",
            ),
            (counts.entries == backup.contents.entries, "its number of entries is not the manifest's"),
            (counts.tables == backup.contents.tables, "its number of tables is not the manifest's"),
            (counts.rows == backup.contents.rows, "its number of rows is not the manifest's"),
            (counts.omissions == backup.omissions, "its number of omissions is not the manifest's"),
        ],
    )?;
    Ok(facts)
}

fn check_header(header: &Header, manifest: &VerifiedManifest) -> Result<(), Failure> {
    let backup = manifest.backup();
    hold(
        "annex line 1",
        [
            (header.v == VERSION, "has another version than walwarden.annex.v1"),
            (header.backup_id == backup.backup_id, "backupId is not the manifest's"),
            (header.attempt == backup.attempt, "attempt is not the manifest's"),
            (header.server_version == backup.server_version, "serverVersion is not the manifest's"),
            (header.compression == backup.compression, "compression is not the manifest's"),
            (header.snapshot_at == backup.snapshot_at, "snapshotAt is not the manifest's"),
        ],
    )
}

fn row_key(text: &str) -> Result<RowKey, Failure> {
    let mut key = [0; ROW_KEY_BYTES];
    match hex::decode_to_slice(text, &mut key) {
        Ok(()) if hex::encode(key) == text => Ok(key),
        _ => Err(Failure::bad("annex line 1", "rowKey is not 128 lower-case hex digits")),
    }
}

fn add(count: &mut u64, more: u64) -> bool {
    *count = count.saturating_add(more);
    true
}

fn failure(error: &AnnexError) -> Failure {
    match error {
        // A failure of the file itself is found by `Measured`, which looks first.
        AnnexError::Io(_) => Failure::bad("annex", "is not one whole gzip member"),
        AnnexError::Line(line, error) => Failure::json(format!("annex line {line}"), error),
        AnnexError::Rule(rule) => Failure::bad("annex", *rule),
    }
}
