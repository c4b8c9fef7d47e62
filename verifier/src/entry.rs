//! Entries of the append-only log. One arm of [`Event`] per kind, each with a closed payload: hashes,
//! sizes, counts, classes, ids. Never row data, never a secret.

use serde::{Deserialize, Serialize};

use crate::{
    jcs::{self, JcsError},
    merkle::{self, Hash},
};

/// Version tag of an entry.
pub const VERSION: &str = "walwarden.audit.v1";
/// `prevHash` of a log's first entry.
pub const NO_PREVIOUS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Always [`VERSION`].
    pub v: String,
    /// Origin of the log: `<deployment>/log/<orgId>/<epoch>`.
    pub origin: String,
    /// `org_…`
    pub org_id: String,
    /// Position in the log, from 0.
    pub index: u64,
    /// Position among the entries of `jobId`, from 1. Present exactly with `jobId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The backup or restore this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Kind and payload.
    #[serde(flatten)]
    pub event: Event,
    /// When the control plane wrote it.
    pub at: String,
    /// Id of who caused it: a token, a schedule, a job's worker, `system`.
    pub actor: String,
    /// Who vouches for the payload: `controlPlane`, `runner` or `cli`.
    pub asserted_by: AssertedBy,
    /// 16 random bytes in hex, so that a leaf hash tells nothing about a guessable payload.
    pub salt: String,
    /// Leaf hash of the entry before, lower-case hex; [`NO_PREVIOUS`] in the first.
    pub prev_hash: String,
}

/// Who vouches for an entry's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AssertedBy {
    /// The control plane saw it itself.
    ControlPlane,
    /// The runner reported it.
    Runner,
    /// The restore CLI reported it.
    Cli,
}

impl Entry {
    /// Canonical bytes: the leaf of the Merkle tree.
    pub fn to_bytes(&self) -> Result<Vec<u8>, JcsError> {
        jcs::to_vec(self)
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JcsError> {
        jcs::from_slice(bytes)
    }

    /// RFC 6962 leaf hash of the canonical bytes.
    pub fn hash(&self) -> Result<Hash, JcsError> {
        Ok(merkle::leaf_hash(&self.to_bytes()?))
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $kind:literal => $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        /// What happened: `kind` and `payload` of an entry.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "payload")]
        pub enum Event {
            $($(#[$doc])* #[serde(rename = $kind, rename_all = "camelCase")] $name { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl Event {
            /// Every kind, in the order of the documentation's table.
            pub const KINDS: &[&str] = &[$($kind,)*];

            /// The kind's name, such as `backup.queued`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$name { .. } => $kind,)* }
            }
        }
    };
}

events! {
    /// A backup was asked for; its attempt waits for a runner.
    "backup.queued" => BackupQueued {
        /// The database.
        database_id: String,
        /// `adhoc`, `schedule` or `retry`.
        trigger: String,
        /// Attempt number, from 1.
        attempt: u32,
    }
    /// A runner claimed the attempt.
    "backup.claimed" => BackupClaimed {
        /// Attempt number.
        attempt: u32,
    }
    /// pg_dump was started.
    "backup.running" => BackupRunning {
        /// Attempt number.
        attempt: u32,
        /// Server version.
        server_version: String,
        /// pg_dump version.
        pg_dump_version: String,
        /// The server's clock before the snapshot.
        snapshot_at: String,
    }
    /// The runner's measurements were accepted; sealing began.
    "backup.finalizing" => BackupFinalizing {
        /// SHA-256 of the artifact.
        checksum_sha256: String,
        /// Its size.
        size_bytes: u64,
        /// Number of parts.
        parts: u32,
        /// Contents digest.
        contents_digest: String,
        /// SHA-256 of the annex.
        annex_sha256: String,
    }
    /// The manifest was read back; the backup is sealed.
    "backup.completed" => BackupCompleted {
        /// Manifest hash.
        manifest_hash: String,
        /// SHA-256 of the artifact.
        checksum_sha256: String,
        /// Its size.
        size_bytes: u64,
        /// Its object version.
        version_id: String,
        /// Key id of the manifest's signature.
        key_id: String,
    }
    /// An attempt failed. `final` says whether another follows.
    "backup.failed" => BackupFailed {
        /// Attempt number.
        attempt: u32,
        /// Whether trying again can help.
        retryable: bool,
        /// Failure class.
        class: String,
        /// Whether the job ended with it.
        r#final: bool,
    }
    /// The backup was cancelled.
    "backup.cancelled" => BackupCancelled {
        /// Attempt number.
        attempt: u32,
    }
    /// A scheduled tick found a backup under way.
    "backup.skipped" => BackupSkipped {
        /// The database.
        database_id: String,
        /// The tick.
        tick: String,
        /// Why.
        reason: String,
    }
    /// A scheduled tick passed while nothing was there to start it.
    "backup.missed" => BackupMissed {
        /// The database.
        database_id: String,
        /// The tick.
        tick: String,
    }
    /// A restore token was issued.
    "restore.token_issued" => RestoreTokenIssued {
        /// The backup to restore.
        backup_id: String,
        /// Its manifest hash.
        manifest_hash: String,
        /// `new_database` or `in_place`.
        mode: String,
        /// `restore` or `drill`.
        purpose: String,
        /// Until when it can be claimed.
        expires_at: String,
    }
    /// The token was presented by a CLI.
    "restore.triggered" => RestoreTriggered {
        /// Mode.
        mode: String,
    }
    /// The CLI bound its session to the job.
    "restore.claimed" => RestoreClaimed {
        /// Version of the CLI.
        cli_version: String,
    }
    /// The download began.
    "restore.downloading" => RestoreDownloading {}
    /// The download is whole; checks run.
    "restore.verifying" => RestoreVerifying {}
    /// Signature, manifest hash and artifact agree.
    "restore.manifest_verified" => RestoreManifestVerified {
        /// SHA-256 of the artifact on the restore machine.
        checksum_sha256: String,
    }
    /// pg_restore was started.
    "restore.restoring" => RestoreRestoring {}
    /// pg_restore ended well; proof and renaming run.
    "restore.finalizing" => RestoreFinalizing {}
    /// The restore is complete.
    "restore.completed" => RestoreCompleted {
        /// Artifact bytes restored from.
        bytes_restored: u64,
        /// SHA-256 of the artifact.
        checksum_sha256: String,
        /// `identical`, `different`, `notProven` or `notRun`.
        proof: String,
        /// Whether the report came after the watchdog had given up.
        late: bool,
        /// SHA-256 of the receipt's statement.
        receipt_hash: String,
    }
    /// The restore failed.
    "restore.failed" => RestoreFailed {
        /// Whether trying again can help.
        retryable: bool,
        /// Failure class.
        class: String,
    }
    /// The watchdog heard nothing for too long.
    "restore.timed_out" => RestoreTimedOut {}
    /// The operator interrupted it, or asked for no more than the artifact; an unused token that expired ends here too.
    "restore.cancelled" => RestoreCancelled {
        /// `interrupted`, `requested` or `tokenExpired`.
        reason: String,
    }
    /// A genuine token was refused.
    "restore.token_rejected" => RestoreTokenRejected {
        /// `expired`, `used`, `mismatch`, …
        reason: String,
    }
    /// A destination was added.
    "destination.created" => DestinationCreated {
        /// `dst_…`
        destination_id: String,
        /// Provider.
        provider: String,
        /// Bucket.
        bucket: String,
    }
    /// Preflight ran.
    "destination.preflight" => DestinationPreflight {
        /// `dst_…`
        destination_id: String,
        /// `verified` or `failed`.
        result: String,
        /// Names of the checks that failed.
        failed: Vec<String>,
    }
    /// A database was added.
    "database.created" => DatabaseCreated {
        /// `db_…`
        database_id: String,
        /// `dst_…`
        destination_id: String,
    }
    /// What the source check found.
    "database.checked" => DatabaseChecked {
        /// `db_…`
        database_id: String,
        /// `ready` or `failed`.
        result: String,
        /// Failure class, empty when ready.
        class: String,
    }
    /// Its settings changed.
    "database.updated" => DatabaseUpdated {
        /// `db_…`
        database_id: String,
        /// Names of the settings that changed, as the API calls them.
        changed: Vec<String>,
    }
    /// Its schedule changed; empty = none.
    "database.schedule_changed" => DatabaseScheduleChanged {
        /// `db_…`
        database_id: String,
        /// Five-field cron, UTC.
        schedule: String,
    }
    /// An API token was issued.
    "token.issued" => TokenIssued {
        /// `tok_…`
        token_id: String,
        /// Its name.
        name: String,
        /// Its scopes.
        scopes: Vec<String>,
    }
    /// An API token was revoked.
    "token.revoked" => TokenRevoked {
        /// `tok_…`
        token_id: String,
    }
    /// An evidence bundle was exported.
    "evidence.exported" => EvidenceExported {
        /// `bkp_…`
        backup_id: String,
    }
    /// A checkpoint was signed and published.
    "log.checkpoint" => LogCheckpoint {
        /// Tree size it covers.
        size: u64,
        /// Root, lower-case hex.
        root: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Entry {
        Entry {
            v: VERSION.into(),
            origin: "local/log/org_01jd7z9k3m5n7p9r1t3v5x7z9a/0".into(),
            org_id: "org_01jd7z9k3m5n7p9r1t3v5x7z9a".into(),
            index: 0,
            seq: Some(1),
            job_id: Some("bkp_01jd7z9k3m5n7p9r1t3v5x7z9a".into()),
            event: Event::BackupFailed { attempt: 1, retryable: true, class: "network".into(), r#final: false },
            at: "2026-11-24T07:59:50.001Z".into(),
            actor: "system".into(),
            asserted_by: AssertedBy::Runner,
            salt: "00".repeat(16),
            prev_hash: NO_PREVIOUS.into(),
        }
    }

    #[test]
    fn canonical_form_and_round_trip() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            concat!(
                r#"{"actor":"system","assertedBy":"runner","at":"2026-11-24T07:59:50.001Z","index":0,"#,
                r#""jobId":"bkp_01jd7z9k3m5n7p9r1t3v5x7z9a","kind":"backup.failed","orgId":"org_01jd7z9k3m5n7p9r1t3v5x7z9a","#,
                r#""origin":"local/log/org_01jd7z9k3m5n7p9r1t3v5x7z9a/0","payload":{"attempt":1,"class":"network","final":false,"retryable":true},"#,
                r#""prevHash":"0000000000000000000000000000000000000000000000000000000000000000","salt":"00000000000000000000000000000000","seq":1,"v":"walwarden.audit.v1"}"#
            )
        );
        assert_eq!(Entry::from_bytes(&bytes).unwrap(), sample());
    }

    #[test]
    fn unknown_kinds_and_fields_are_refused() {
        let text = String::from_utf8(sample().to_bytes().unwrap()).unwrap();
        for bad in [
            text.replace("backup.failed", "backup.unheard"),
            text.replace(r#""attempt":1,"#, r#""attempt":1,"cause":"x","#),
            text.replace(r#""actor""#, r#""aaa":1,"actor""#),
        ] {
            assert!(Entry::from_bytes(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
