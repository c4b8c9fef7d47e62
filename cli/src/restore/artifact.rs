//! The artifact on disk: its table of contents is the one the manifest and annex describe. Its bytes
//! were hashed before; only then is it looked into.

use std::{fs::File, path::Path};

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

fn note_tablespace(contents: &mut Contents, entry: &TocEntry) {
    if let Some(name) = entry.tablespace.as_deref().filter(|name| !name.is_empty())
        && !contents.tablespaces.iter().any(|known| known == name)
    {
        contents.tablespaces.push(name.to_owned());
    }
}
