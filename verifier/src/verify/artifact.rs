//! The artifact against its manifest, and against the annex where that is at hand.

use std::{collections::BTreeMap, io::Read};

use super::{
    Artifact, Failure,
    annex::{AnnexFacts, TableFact},
    hold,
    measured::Measured,
};
use crate::{
    archive::{self, Compression, ROW_KEY_BYTES, Survey, TERMINATOR, TocEntry, copy_target, sequence_value},
    manifest::{OPAQUE, VerifiedManifest},
};

/// Size and digest as the manifest gives them; the archive whole and well-formed; its contents equal to the
/// manifest's and, with `annex`, every table's rows, every sequence and large object equal to the annex's.
/// An artifact that was kept as pg_dump wrote it is compared by size and digest alone.
/// `annex` comes from [`check_annex`](super::check_annex) for the same manifest.
pub fn check_artifact(
    input: impl Read,
    manifest: &VerifiedManifest,
    annex: Option<&AnnexFacts>,
) -> Result<Artifact, Failure> {
    let mut measured = Measured::new(input, manifest.backup().size_bytes);
    if manifest.backup().compression == OPAQUE {
        measured.check("artifact", manifest.artifact_sha256())?;
        return Ok(Artifact {
            opaque: true,
            archive_version: "unknown".into(),
            entries: 0,
            tables: 0,
            rows: 0,
            large_objects: 0,
        });
    }
    let outcome = survey(&mut measured, manifest, annex);
    // First whether it is the file at all.
    measured.check("artifact", manifest.artifact_sha256())?;
    outcome
}

/// What the table of contents says of data, for comparison with the annex.
#[derive(Default)]
struct Described {
    tables: BTreeMap<i64, Option<TableFact>>,
    sequences: BTreeMap<(String, String), Option<(String, bool)>>,
}

impl Described {
    fn see(&mut self, entry: &TocEntry) {
        let schema = entry.namespace.clone().unwrap_or_default();
        match entry.desc.as_str() {
            "SEQUENCE SET" => {
                let value = entry.defn.as_deref().and_then(sequence_value);
                let value = value.map(|v| (v.last_value.to_string(), v.is_called));
                self.sequences.insert((schema, entry.tag.clone()), value);
            }
            _ if entry.has_data() && !entry.is_large_objects() => {
                let fact = entry.copy.as_deref().and_then(copy_target).map(|target| TableFact {
                    schema,
                    name: entry.tag.clone(),
                    columns: match target.columns {
                        "" => String::new(),
                        columns => format!("({columns})"),
                    },
                    load_target: target.table.to_owned(),
                    rows: 0,
                    bytes: 0,
                    digest: String::new(),
                });
                self.tables.insert(entry.dump_id.into(), fact);
            }
            _ => {}
        }
    }
}

fn survey(input: impl Read, manifest: &VerifiedManifest, annex: Option<&AnnexFacts>) -> Result<Artifact, Failure> {
    let key = annex.map_or([0; ROW_KEY_BYTES], |annex| annex.row_key);
    let mut described = Described::default();
    let see = |entry: &TocEntry| {
        if annex.is_some() {
            described.see(entry);
        }
    };
    let survey = archive::survey(input, &key, see).map_err(|error| Failure::archive(&error))?;
    let backup = manifest.backup();
    let method = match survey.header.compression {
        Compression::None => "none",
        Compression::Gzip { .. } => "gzip",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    };
    let stated = backup.compression.split(':').next().unwrap_or_default();
    hold(
        "artifact",
        [
            (method == stated, "its compression is not the manifest's"),
            (
                hex::encode(survey.contents_digest) == backup.contents.digest,
                "its contents digest is not the manifest's",
            ),
            (survey.entries == backup.contents.entries, "its number of entries is not the manifest's"),
            (survey.tables.len() as u64 == backup.contents.tables, "its number of tables is not the manifest's"),
            (survey.rows() == backup.contents.rows, "its number of rows is not the manifest's"),
        ],
    )?;
    let (major, minor, _) = survey.header.version;
    let archive_version = format!("{major}.{minor}");
    if let Some(annex) = annex {
        compare(&survey, &archive_version, described, annex)?;
    }
    Ok(Artifact {
        opaque: false,
        archive_version,
        entries: survey.entries,
        tables: survey.tables.len() as u64,
        rows: survey.rows(),
        large_objects: survey.large_objects.len() as u64,
    })
}

fn compare(
    survey: &Survey,
    archive_version: &str,
    mut described: Described,
    annex: &AnnexFacts,
) -> Result<(), Failure> {
    const PLACE: &str = "annex";
    hold(
        "annex line 1",
        [
            (archive_version == annex.archive_version, "archiveVersion is not the artifact's"),
            (survey.header.dump_version == annex.pg_dump_version, "pgDumpVersion is not the artifact's"),
        ],
    )?;
    for table in &survey.tables {
        if let Some(Some(fact)) = described.tables.get_mut(&table.dump_id.into()) {
            fact.rows = table.rows.rows;
            fact.bytes = table.bytes - TERMINATOR.len() as u64;
            fact.digest = hex::encode(table.rows.digest());
        }
    }
    if described.tables.len() != annex.tables.len() {
        return Err(Failure::bad(PLACE, "its tables are not the artifact's"));
    }
    for (dump_id, found) in &described.tables {
        if found.as_ref() != annex.tables.get(dump_id) {
            return Err(Failure::bad(PLACE, format!("the table record of dump id {dump_id} is not the artifact's")));
        }
    }
    let sequences = described.sequences.iter().map(|(name, value)| (name, value.as_ref()));
    if !sequences.eq(annex.sequences.iter().map(|(name, value)| (name, Some(value)))) {
        return Err(Failure::bad(PLACE, "its sequences are not the artifact's"));
    }
    let objects: BTreeMap<u32, (u64, String)> =
        survey.large_objects.iter().map(|object| (object.oid, (object.bytes, hex::encode(object.digest)))).collect();
    if objects != annex.large_objects {
        return Err(Failure::bad(PLACE, "its large objects are not the artifact's"));
    }
    Ok(())
}
