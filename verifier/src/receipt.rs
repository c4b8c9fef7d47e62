//! The receipt of a completed restore or drill: numbers the restore CLI reported, signed by the service.

use serde::{Deserialize, Serialize};

use crate::{
    dsse::{self, Envelope, EnvelopeError, Statement},
    keys::{KeySet, KeyUse},
    manifest,
};

/// Predicate type of a receipt.
pub const PREDICATE_TYPE: &str = "https://walwarden.com/attestation/restore/v1";

/// What a receipt states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restore {
    /// `org_…`
    pub org_id: String,
    /// `db_…`
    pub database_id: String,
    /// `bkp_…`
    pub backup_id: String,
    /// `rst_…`
    pub restore_id: String,
    /// Manifest hash of the backup.
    pub manifest_hash: String,
    /// Origin of the log.
    pub log_origin: String,
    /// `new_database` or `in_place`.
    pub mode: String,
    /// `restore` or `drill`.
    pub purpose: String,
    /// What became of the archive's entries.
    pub plan: PlanCounts,
    /// What `--prove` found.
    pub proof: Proof,
    /// Version of the CLI.
    pub cli_version: String,
    /// Version of pg_restore.
    pub pg_restore_version: String,
    /// Version of the target server.
    pub target_server_version: String,
    /// When the token was claimed.
    pub claimed_at: String,
    /// When the CLI said it had completed.
    pub completed_at: String,
    /// Whether that was reported after the watchdog had given up.
    pub late: bool,
    /// Always `cli`: the service signs what it was told.
    pub asserted_by: String,
}

/// Entries of the archive by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanCounts {
    /// Restored as they are.
    pub restored: u64,
    /// Restored in another form.
    pub adapted: u64,
    /// Left out, as shown beforehand.
    pub left_out: u64,
}

/// Result of comparing the restored database with the annex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proof {
    /// `identical`, `notProven` or `notRun` (a difference is a failed restore).
    pub result: String,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Sequences compared.
    pub sequences: u64,
    /// Large objects compared.
    pub large_objects: u64,
    /// Tables, sequences or large objects that could not be compared.
    pub not_compared: u64,
}

/// A receipt whose signature and form were checked.
#[derive(Debug, Clone)]
pub struct VerifiedReceipt {
    /// The statement; its subject is the artifact.
    pub statement: Statement<Restore>,
    /// SHA-256 of the statement's bytes.
    pub hash: String,
    /// Id of the key that signed.
    pub key_id: String,
}

/// Signature, then form.
pub fn verify(envelope: &Envelope, keys: &KeySet) -> Result<VerifiedReceipt, EnvelopeError> {
    let (payload, key) = envelope.open(keys, KeyUse::Receipt)?;
    let statement: Statement<Restore> = dsse::parse_statement(&payload, PREDICATE_TYPE)?;
    check(&statement)?;
    if !key.is_valid_at(&statement.predicate.completed_at) {
        return Err(EnvelopeError::KeyNotValid("the signing key was not valid when the restore completed"));
    }
    Ok(VerifiedReceipt { hash: manifest::hash(&payload), key_id: key.id.clone(), statement })
}

fn check(statement: &Statement<Restore>) -> Result<(), EnvelopeError> {
    let restore = &statement.predicate;
    let ids = [
        ("org", &restore.org_id),
        ("db", &restore.database_id),
        ("bkp", &restore.backup_id),
        ("rst", &restore.restore_id),
    ];
    let rules: [(bool, &'static str); 8] = [
        (manifest::is_sha256(&statement.subject[0].digest.sha256), "artifact digest is not lower-case hex SHA-256"),
        (manifest::is_sha256(&restore.manifest_hash), "manifest hash is not lower-case hex SHA-256"),
        (ids.into_iter().all(|(kind, id)| crate::ids::is_id(kind, id)), "an id is not of the form kind_ulid"),
        (
            [&restore.claimed_at, &restore.completed_at].into_iter().all(|t| crate::ids::is_time(t)),
            "a time is not RFC 3339 UTC with milliseconds",
        ),
        (["new_database", "in_place"].contains(&restore.mode.as_str()), "mode is neither new_database nor in_place"),
        (["restore", "drill"].contains(&restore.purpose.as_str()), "purpose is neither restore nor drill"),
        (
            ["identical", "notProven", "notRun"].contains(&restore.proof.result.as_str()),
            "proof is neither identical, notProven nor notRun",
        ),
        (restore.asserted_by == "cli", "is not asserted by the cli"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(EnvelopeError::Rule(rule)),
        None => Ok(()),
    }
}
