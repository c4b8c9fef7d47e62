//! The artifact on disk: its table of contents is the one the manifest and annex describe. Its bytes
//! were hashed before; only then is it looked into.

use std::{collections::BTreeSet, fs::File, path::Path};

use walwarden_contract::failure::FailureClass;
use walwarden_verifier::{
    annex::Annex,
    archive::{ArchiveReader, Compression, ContentsDigest, TocEntry},
    ids::shown,
    manifest::VerifiedManifest,
};

use crate::failure::Failure;

/// What only the archive's own table of contents tells.
#[derive(Debug, Default)]
pub struct Contents {
    /// Tablespaces that entries name.
    pub tablespaces: Vec<String>,
}

/// Reads header and entries and compares them with what was signed.
pub fn check(path: &Path, manifest: &VerifiedManifest, annex: &Annex) -> Result<Contents, Failure> {
    let differs = |what: &str| {
        Failure::class(
            FailureClass::ArtifactMismatch,
            format!("the artifact's table of contents is not what the manifest states: {what}"),
        )
    };
    let broken = |error: walwarden_verifier::archive::ArchiveError| {
        Failure::class(
            FailureClass::ArtifactMismatch,
            format!("the artifact cannot be read: {}", shown(&error.to_string())),
        )
    };
    let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
    let mut reader = ArchiveReader::new(file).map_err(broken)?;
    let header = reader.header();
    let codec = match header.compression {
        Compression::None => "none",
        Compression::Gzip { .. } => "gzip",
        Compression::Zstd => "zstd",
        Compression::Lz4 => "lz4",
    };
    let (major, minor, _) = header.version;
    if header.database != manifest.backup().source_database {
        return Err(differs("another database"));
    }
    if codec != annex.header.compression.split(':').next().unwrap_or_default() {
        return Err(differs("another compression"));
    }
    if !annex.header.archive_version.starts_with(&format!("{major}.{minor}")) {
        return Err(differs("another archive format"));
    }
    let mut digest = ContentsDigest::default();
    let mut contents = Contents::default();
    let (mut entries, mut tables) = (0, 0);
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        digest.entry(&entry).map_err(|_| differs("an entry that is not text"))?;
        entries += 1;
        tables += u64::from(entry.desc == "TABLE DATA" && entry.has_data());
        note_tablespace(&mut contents, &entry);
    }
    let stated = &manifest.backup().contents;
    if hex::encode(digest.finish()) != stated.digest {
        return Err(differs("other entries"));
    }
    if entries != stated.entries || tables != stated.tables {
        return Err(differs("other counts"));
    }
    Ok(contents)
}

/// The statements that make these keys NOT VALID, and then those of the entries about them, as the archive has them.
pub fn keys_not_valid(path: &Path, keys: &BTreeSet<i64>, about: &[i64]) -> Result<Vec<String>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let broken = |what: &str| {
        Failure::class(FailureClass::ArtifactMismatch, format!("the artifact cannot be read: {}", shown(what)))
    };
    let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
    let mut reader = ArchiveReader::new(file).map_err(|error| broken(&error.to_string()))?;
    let (mut made, mut after) = (Vec::new(), Vec::new());
    while let Some(entry) = reader.next_entry().map_err(|error| broken(&error.to_string()))? {
        let id = i64::from(entry.dump_id);
        let statement = entry.defn.as_deref().unwrap_or_default().trim().trim_end_matches(';').trim_end();
        if keys.contains(&id) {
            let loose = ["NOT VALID", "NOT ENFORCED"].iter().any(|word| statement.ends_with(word));
            made.push(if loose { statement.to_owned() } else { format!("{statement} NOT VALID") });
        } else if about.contains(&id) {
            after.push(statement.to_owned());
        }
    }
    if made.len() != keys.len() {
        return Err(broken("a foreign key has no statement"));
    }
    made.append(&mut after);
    Ok(made)
}

fn note_tablespace(contents: &mut Contents, entry: &TocEntry) {
    if let Some(name) = entry.tablespace.as_deref().filter(|name| !name.is_empty())
        && !contents.tablespaces.iter().any(|known| known == name)
    {
        contents.tablespaces.push(name.to_owned());
    }
}
