//! The worker protocol, spoken over HTTPS by whoever does one job elsewhere: the runner (backups,
//! checks) and the restore CLI. A worker holds nothing but a job session: it claims with a one-time
//! secret, and from then on sends `Authorization: Bearer <session secret>`.
//!
//! | call | path |
//! |---|---|
//! | claim (runner) | `POST /worker/v1/{orgId}/{jobId}/claim` |
//! | inspect (restore; spends nothing) | `POST /worker/v1/restores/inspect` |
//! | claim (restore) | `POST /worker/v1/restores/claim` |
//! | instructions | `GET /worker/v1/{orgId}/{jobId}/instructions` |
//! | part | `POST /worker/v1/{orgId}/{jobId}/part` |
//! | document | `POST /worker/v1/{orgId}/{jobId}/document` |
//! | heartbeat | `POST /worker/v1/{orgId}/{jobId}/heartbeat` |
//! | transition | `POST /worker/v1/{orgId}/{jobId}/transition` |
//! | finish | `POST /worker/v1/{orgId}/{jobId}/finish` |
//! | state | `GET /worker/v1/{orgId}/{jobId}/state` |

use serde::{Deserialize, Serialize};
use walwarden_verifier::{
    manifest::Contents,
    receipt::{PlanCounts, Proof},
};

use crate::{
    failure::{Failure, FailureClass},
    ids::{BackupId, CheckId, DatabaseId, JobId, OrgId, RestoreId},
    secret::Secret,
    selection::{Preset, Selection},
    states::RestoreState,
    token::{RestoreMode, RestorePurpose},
};

/// A job session's secret has 32 bytes, in hex.
pub const SESSION_SECRET_BYTES: usize = 32;
/// Workers report at least this often.
pub const HEARTBEAT_SECONDS: u64 = 5;

/// A runner's claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRequest {
    /// The one-time secret that `dispatch` minted for this attempt.
    pub secret: Secret,
    /// SHA-256 of the session secret, lower-case hex. The same one replays the claim.
    pub session_sha256: String,
    /// Version of the worker.
    pub worker_version: String,
}

/// Answer to a runner's claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResponse {
    /// The job.
    pub job_id: JobId,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Now, by the control plane's clock.
    pub at: String,
}

/// Asks what a restore token leads to, without spending it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InspectRequest {
    /// The restore token.
    pub token: Secret,
}

/// What a restore token leads to. Everything here is checked again from the signed envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InspectResponse {
    /// Organization.
    pub org_id: OrgId,
    /// The restore job.
    pub restore_id: RestoreId,
    /// The backup.
    pub backup_id: BackupId,
    /// Name of the protected database in Walwarden.
    pub database_label: String,
    /// Mode the token was issued for.
    pub mode: RestoreMode,
    /// Purpose.
    pub purpose: RestorePurpose,
    /// The manifest envelope, as stored in the bucket (JSON text).
    pub envelope: String,
    /// Where to read the annex.
    pub annex: SignedRequest,
    /// Until when the token can be claimed.
    pub expires_at: String,
}

/// The restore CLI's claim: spends the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreClaimRequest {
    /// The restore token.
    pub token: Secret,
    /// SHA-256 of the session secret, lower-case hex.
    pub session_sha256: String,
    /// Version of the CLI.
    pub worker_version: String,
}

/// Answer to a restore claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreClaimResponse {
    /// Organization.
    pub org_id: OrgId,
    /// The restore job.
    pub restore_id: RestoreId,
    /// Now, by the control plane's clock.
    pub at: String,
}

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Instructions {
    /// Dump a database.
    Backup(Box<BackupInstructions>),
    /// Look whether a database can be dumped.
    Check(CheckInstructions),
    /// Restore an artifact.
    Restore(RestoreInstructions),
}

/// How to dump.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupInstructions {
    /// The backup.
    pub backup_id: BackupId,
    /// The database.
    pub database_id: DatabaseId,
    /// Attempt.
    pub attempt: u32,
    /// Where to connect.
    pub dsn: Secret,
    /// Whether private addresses may be dialled.
    pub allow_private_addresses: bool,
    /// Compression; absent = gzip level 6 for servers up to 15, zstd level 3 from 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSetting>,
    /// Most parts the provider takes: sets the part schedule.
    pub part_cap: u32,
    /// Digest that binds a part's URL to its bytes.
    pub part_digest: PartDigest,
    /// End a dump larger than this.
    pub max_bytes: u64,
    /// End a dump longer than this.
    pub max_hours: u32,
    /// Leave out what the role cannot read, and record it, instead of failing.
    #[serde(default)]
    pub omit_unreadable: bool,
    /// What of the database is taken.
    #[serde(default, skip_serializing_if = "Selection::is_everything")]
    pub selection: Selection,
}

/// Where to look.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckInstructions {
    /// The check.
    pub check_id: CheckId,
    /// The database.
    pub database_id: DatabaseId,
    /// Where to connect.
    pub dsn: Secret,
    /// Whether private addresses may be dialled.
    pub allow_private_addresses: bool,
    /// Whether backups leave out what the role cannot read.
    #[serde(default)]
    pub omit_unreadable: bool,
    /// What of the database is taken.
    #[serde(default, skip_serializing_if = "Selection::is_everything")]
    pub selection: Selection,
}

/// What to restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreInstructions {
    /// The restore.
    pub restore_id: RestoreId,
    /// Reads that exact version of the artifact; ask again when it expires.
    pub artifact: SignedRequest,
}

/// Codec and level of an archive's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "codec", content = "level", rename_all = "camelCase")]
pub enum CompressionSetting {
    /// zlib, level 1 to 9.
    Gzip(u32),
    /// Zstandard, level 1 to 19; servers from 16.
    Zstd(u32),
}

impl std::fmt::Display for CompressionSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// Which digest header binds a URL to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PartDigest {
    /// `x-amz-checksum-sha256`, and Content-MD5 with it.
    Sha256,
    /// `Content-MD5` alone.
    Md5,
}

/// Asks for a URL that takes exactly these bytes as that part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartRequest {
    /// Part number, from 1.
    pub number: u32,
    /// Digests of the bytes.
    #[serde(flatten)]
    pub bytes: BytesDigest,
}

/// Size and digests of bytes about to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BytesDigest {
    /// Size.
    pub size_bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// MD5, lower-case hex (S3's Content-MD5).
    pub md5: String,
}

/// A document beside the artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DocumentKind {
    /// `<stem>.parts.json`
    PartsList,
    /// `<stem>.annex.jsonl.gz`
    Annex,
}

/// Asks for a URL that takes exactly these bytes as that document, under lock. Where the PUT answers
/// 412 the object is there already: the worker asks `head` of the answer and compares.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentRequest {
    /// Which.
    pub document: DocumentKind,
    /// Digests of the bytes.
    #[serde(flatten)]
    pub bytes: BytesDigest,
}

/// A presigned request: send exactly this method to this URL with exactly these headers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedRequest {
    /// `GET` or `PUT`.
    pub method: String,
    /// The URL: a secret until it expires.
    pub url: Secret,
    /// Headers that were signed, but for Host.
    pub headers: Vec<(String, String)>,
    /// When the URL dies.
    pub expires_at: String,
    /// For documents: a presigned HEAD of the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Box<SignedRequest>>,
}

/// A sign of life.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// What the worker is doing, one word.
    pub phase: String,
    /// Bytes done: raw bytes dumped, or artifact bytes downloaded.
    pub bytes: u64,
    /// Bytes expected in all, where that is known or estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Current rate.
    pub bytes_per_second: u64,
    /// Estimate of how long the phase goes on, once there is enough to judge by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
}

/// Answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatResponse {
    /// What to do.
    pub action: HeartbeatAction,
}

/// What a worker is to do after a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeartbeatAction {
    /// Go on.
    Continue,
    /// Stop, clean up, exit.
    Cancel,
}

/// A step a worker reports. Repeating the current step is accepted and changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Transition {
    /// Backup: pg_dump was started.
    Running {
        /// Server version.
        server_version: String,
        /// pg_dump version.
        pg_dump_version: String,
        /// The server's clock before the snapshot.
        snapshot_at: String,
    },
    /// Backup, check or restore: it failed.
    Failed {
        /// Why.
        class: FailureClass,
        /// Redacted first line, for people. At most 300 characters.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        detail: Option<String>,
    },
    /// Restore: the download began.
    Downloading {},
    /// Restore: the download is whole.
    Verifying {},
    /// Restore: signature, manifest hash and artifact agree.
    ManifestVerified {
        /// SHA-256 of the artifact on disk.
        checksum_sha256: String,
    },
    /// Restore: pg_restore was started.
    Restoring {},
    /// Restore: pg_restore ended well.
    Finalizing {},
    /// Restore: ended by the operator, with nothing restored that is to stay.
    Cancelled {
        /// Why. Absent = interrupted.
        #[serde(default)]
        reason: CancelReason,
    },
}

impl Transition {
    /// The restore state this leads to, where it is one of a restore.
    pub fn restore_state(&self) -> Option<RestoreState> {
        Some(match self {
            Self::Downloading {} => RestoreState::Downloading,
            Self::Verifying {} => RestoreState::Verifying,
            Self::ManifestVerified { .. } => RestoreState::ManifestVerified,
            Self::Restoring {} => RestoreState::Restoring,
            Self::Finalizing {} => RestoreState::Finalizing,
            Self::Cancelled { .. } => RestoreState::Cancelled,
            Self::Failed { class, .. } if class.is_retryable() => RestoreState::FailedRetryable,
            Self::Failed { .. } => RestoreState::FailedTerminal,
            Self::Running { .. } => return None,
        })
    }
}

/// Why the operator ended a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// It was interrupted.
    #[default]
    Interrupted,
    /// No more was asked for than the verified artifact: nothing was restored.
    Requested,
}

impl CancelReason {
    /// As in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Requested => "requested",
        }
    }
}

/// Ends a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Finish {
    /// Measurements of a finished dump. A repeat must be equal.
    Backup(Box<BackupMeasurements>),
    /// What a check found.
    Check(Box<CheckReport>),
    /// What a restore did.
    Restore(Box<RestoreReport>),
}

/// What the runner measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupMeasurements {
    /// SHA-256 of the whole artifact.
    pub checksum_sha256: String,
    /// Its size.
    pub size_bytes: u64,
    /// Number of parts.
    pub parts: u32,
    /// Digests of the parts list.
    pub parts_list: BytesDigest,
    /// Digests of the annex.
    pub annex: BytesDigest,
    /// Its size uncompressed.
    pub annex_uncompressed_bytes: u64,
    /// Its records.
    pub annex_lines: u64,
    /// What the archive contains.
    pub contents: Contents,
    /// Objects knowingly left out.
    pub omissions: u64,
    /// Name of the source database.
    pub source_database: String,
    /// Server version.
    pub server_version: String,
    /// pg_dump version.
    pub pg_dump_version: String,
    /// `gzip:<level>`, `zstd:<level>`, or `pg_dump` for an archive that was passed on unread.
    pub compression: String,
    /// The server's clock before the snapshot.
    pub snapshot_at: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckReport {
    /// Server version.
    pub server_version: String,
    /// Name of the database as the server knows it.
    pub database_name: String,
    /// `pg_database_size`.
    pub size_bytes: u64,
    /// pg_dump that would be used.
    pub pg_dump_version: String,
    /// What the role cannot read, with the GRANT to run, and what the selection breaks.
    pub problems: Vec<String>,
    /// What a backup would fail as, where there are problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// A selection that suits the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreReport {
    /// Size of the artifact.
    pub bytes_restored: u64,
    /// Its SHA-256, as verified on disk.
    pub checksum_sha256: String,
    /// What became of the entries.
    pub plan: PlanCounts,
    /// What the comparison found.
    pub proof: Proof,
    /// Version of pg_restore.
    pub pg_restore_version: String,
    /// Version of the target server.
    pub target_server_version: String,
}

/// Where a job stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// State, as text: backups, checks and restores have their own.
    pub state: String,
    /// Whether no more will change.
    pub r#final: bool,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Manifest hash of a completed backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_hash: Option<String>,
    /// SHA-256 of a completed restore's receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt_hash: Option<String>,
}
