//! The backup manifest: an in-toto statement about one artifact, in a DSSE envelope.
//! **Manifest hash** = SHA-256 of the statement's bytes; it is the backup's identity everywhere.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    archive::ContentsDigest,
    dsse::{self, Envelope, EnvelopeError, Statement},
    keys::{KeySet, KeyUse},
};

/// Predicate type of a backup manifest.
pub const PREDICATE_TYPE: &str = "https://walwarden.com/attestation/backup/v1";
/// What a field says where the provider cannot tell.
pub const NOT_OBSERVABLE: &str = "notObservable";

/// What the manifest states of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    /// `org_…`
    pub org_id: String,
    /// `db_…`
    pub database_id: String,
    /// `bkp_…`
    pub backup_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Origin of the log that tells this backup's history.
    pub log_origin: String,
    /// Name of the source database, as the server knows it.
    pub source_database: String,
    /// Bucket that holds the artifact.
    pub bucket: String,
    /// Version id of the artifact's object, or [`NOT_OBSERVABLE`].
    pub version_id: String,
    /// Size of the artifact in bytes.
    pub size_bytes: u64,
    /// The checksum that the provider attested when the object was read back.
    pub attested: Attested,
    /// The server's `server_version`.
    pub server_version: String,
    /// pg_dump's own version.
    pub pg_dump_version: String,
    /// How the archive's items are compressed: `none`, `gzip:<level>`, `zstd:<level>`, or [`OPAQUE`].
    pub compression: String,
    /// What the archive contains.
    pub contents: Contents,
    /// How many objects the dump knowingly left out; the annex names them.
    pub omissions: u64,
    /// The lock on the artifact.
    pub retention: Retention,
    /// When the runner began.
    pub started_at: String,
    /// The server's clock just before the snapshot: nothing written later is in the artifact.
    pub snapshot_at: String,
    /// When the last part was uploaded.
    pub finished_at: String,
    /// The annex, which describes the contents in full.
    pub annex: AnnexRef,
}

/// A checksum the storage provider attested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attested {
    /// `sha256-composite` (base64 and `-<parts>`), `md5-etag` (hex and `-<parts>`) or `none`.
    pub algorithm: String,
    /// As the provider gives it.
    pub value: String,
}

/// Measure of an archive's table of contents and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contents {
    /// SHA-256 over the archive's entries; see `archive::contents_digest`.
    pub digest: String,
    /// Entries in the table of contents.
    pub entries: u64,
    /// Tables with data.
    pub tables: u64,
    /// Rows in all tables.
    pub rows: u64,
}

impl Contents {
    /// Of an artifact that nobody read.
    pub fn of_nothing() -> Self {
        let digest = hex::encode(ContentsDigest::default().finish());
        Self { digest, entries: 0, tables: 0, rows: 0 }
    }
}

/// Object Lock on the artifact, as read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// `GOVERNANCE`, `COMPLIANCE` or [`NOT_OBSERVABLE`].
    pub mode: String,
    /// Until when, or [`NOT_OBSERVABLE`].
    pub retain_until: String,
}

/// Where the annex is and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnnexRef {
    /// Object key.
    pub key: String,
    /// Version id, or [`NOT_OBSERVABLE`].
    pub version_id: String,
    /// SHA-256 of the compressed file, lower-case hex.
    pub sha256: String,
    /// Compressed size.
    pub size_bytes: u64,
    /// Size once decompressed; readers stop there.
    pub uncompressed_bytes: u64,
    /// Number of records.
    pub lines: u64,
}

/// A manifest whose signature and form were checked.
#[derive(Debug, Clone)]
pub struct VerifiedManifest {
    /// The statement.
    pub statement: Statement<Backup>,
    /// SHA-256 of the statement's bytes, lower-case hex.
    pub hash: String,
    /// Id of the key that signed.
    pub key_id: String,
}

impl VerifiedManifest {
    /// Object key of the artifact.
    pub fn artifact_key(&self) -> &str {
        &self.statement.subject[0].name
    }

    /// SHA-256 of the artifact, lower-case hex.
    pub fn artifact_sha256(&self) -> &str {
        &self.statement.subject[0].digest.sha256
    }

    /// What is stated.
    pub fn backup(&self) -> &Backup {
        &self.statement.predicate
    }
}

/// SHA-256 of a statement's bytes, lower-case hex.
pub fn hash(statement_bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(statement_bytes))
}

/// Signature, then form, then the rules a manifest keeps.
pub fn verify(envelope: &Envelope, keys: &KeySet) -> Result<VerifiedManifest, EnvelopeError> {
    let (payload, key) = envelope.open(keys, KeyUse::Manifest)?;
    let statement: Statement<Backup> = dsse::parse_statement(&payload, PREDICATE_TYPE)?;
    check(&statement)?;
    if !key.is_valid_at(&statement.predicate.finished_at) {
        return Err(EnvelopeError::KeyNotValid("the signing key was not valid when the backup was made"));
    }
    Ok(VerifiedManifest { hash: hash(&payload), key_id: key.id.clone(), statement })
}

fn check(statement: &Statement<Backup>) -> Result<(), EnvelopeError> {
    let backup = &statement.predicate;
    let annex = &backup.annex;
    let rules: [(bool, &'static str); 15] = [
        (is_sha256(&statement.subject[0].digest.sha256), "artifact digest is not lower-case hex SHA-256"),
        (is_sha256(&backup.contents.digest), "contents digest is not lower-case hex SHA-256"),
        (is_sha256(&backup.annex.sha256), "annex digest is not lower-case hex SHA-256"),
        (
            crate::ids::is_id("org", &backup.org_id)
                && crate::ids::is_id("db", &backup.database_id)
                && crate::ids::is_id("bkp", &backup.backup_id),
            "an id is not of the form kind_ulid",
        ),
        (
            [&backup.started_at, &backup.snapshot_at, &backup.finished_at].into_iter().all(|t| crate::ids::is_time(t)),
            "a time is not RFC 3339 UTC with milliseconds",
        ),
        (backup.attempt >= 1, "attempt is not at least 1"),
        (
            crate::ids::is_origin(&backup.org_id, &backup.log_origin),
            "logOrigin is not of the form deployment/log/orgId/epoch",
        ),
        (
            stem(backup, &statement.subject[0].name, ".dump").is_some(),
            "the artifact's key is not where this attempt's artifact belongs",
        ),
        (
            stem(backup, &statement.subject[0].name, ".dump") == stem(backup, &annex.key, ".annex.jsonl.gz"),
            "the annex's key is not beside the artifact's",
        ),
        (!backup.version_id.is_empty() && !annex.version_id.is_empty(), "a version id is empty"),
        (
            ["sha256-composite", "md5-etag", "none"].contains(&backup.attested.algorithm.as_str()),
            "the attested checksum's algorithm is not known",
        ),
        (
            backup.compression != OPAQUE || backup.contents == Contents::of_nothing(),
            "an artifact that nobody read has contents",
        ),
        (is_compression(&backup.compression), "compression is not none, gzip:<level>, zstd:<level> or pg_dump"),
        (
            ["GOVERNANCE", "COMPLIANCE", NOT_OBSERVABLE].contains(&backup.retention.mode.as_str())
                && (backup.retention.retain_until == NOT_OBSERVABLE
                    || crate::ids::is_time(&backup.retention.retain_until)),
            "retention is neither a known mode and a time nor notObservable",
        ),
        (annex.uncompressed_bytes <= crate::annex::MAX_BYTES, "the annex is larger than 1 GiB uncompressed"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(EnvelopeError::Rule(rule)),
        None => Ok(()),
    }
}

/// What `key` begins with before `suffix`, if that is this attempt's stem under its database's prefix.
fn stem<'k>(backup: &Backup, key: &'k str, suffix: &str) -> Option<&'k str> {
    let stem = key.strip_suffix(suffix)?;
    let rest = stem.strip_prefix(&format!("org/{}/db/{}/backup/", backup.org_id, backup.database_id))?;
    let (date, name) = rest.split_at_checked(11)?;
    let dated = date.bytes().zip(b"dddd/dd/dd/").all(|(b, p)| if *p == b'd' { b.is_ascii_digit() } else { b == *p });
    let own = match backup.attempt {
        1 => name == backup.backup_id,
        attempt => name == format!("{}.{attempt}", backup.backup_id),
    };
    (dated && own).then_some(stem)
}

/// The compression of an artifact that was kept as pg_dump wrote it, unread: its contents are in neither manifest nor
/// annex.
pub const OPAQUE: &str = "pg_dump";

fn is_compression(text: &str) -> bool {
    let level = text.strip_prefix("gzip:").or_else(|| text.strip_prefix("zstd:"));
    text == "none"
        || text == OPAQUE
        || level.is_some_and(|l| (1..=2).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `text` is a SHA-256 in lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
