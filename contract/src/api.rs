//! The public REST API v1, base path `/api/v1`: shapes of requests and responses. JSON, camelCase.

use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    ids::{BackupId, CheckId, DatabaseId, DestinationId, OrgId, RestoreId, TokenId},
    scopes::Scope,
    secret::Secret,
    selection::{Preset, Selection},
    states::{BackupState, CheckState, DestinationState, RestoreState},
    token::{RestoreMode, RestorePurpose},
    worker::CompressionSetting,
};

/// Version of the API.
pub const VERSION: &str = "1.0.0-alpha";

/// `GET /profile`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Organization.
    pub org_id: OrgId,
    /// Token that was used.
    pub token_id: TokenId,
    /// Its name.
    pub token_name: String,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// Version of the API.
    pub api_version: String,
    /// The deployment's name: audience of its restore tokens, head of its log origins.
    pub deployment: String,
}

/// `POST /destinations`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateDestinationRequest {
    /// Label.
    pub name: String,
    /// Bucket.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// How to reach it.
    #[serde(flatten)]
    pub access: DestinationAccess,
}

/// Provider and credentials of a bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum DestinationAccess {
    /// AWS, by a role that trusts us under an external id.
    AwsS3 {
        /// ARN of the role.
        role_arn: String,
        /// External id that the trust policy demands.
        external_id: String,
    },
    /// Any S3-compatible server with Object Lock, by access key.
    S3Compatible {
        /// `https://host[:port]`; `http://` only where a self-hosted install allows it.
        endpoint: String,
        /// Access key id.
        access_key_id: String,
        /// Secret access key.
        secret_access_key: Secret,
        /// Most parts of one upload, where the provider takes fewer than S3's 10,000. At least 20.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part_cap: Option<u32>,
    },
}

/// A destination, without credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Id.
    pub id: DestinationId,
    /// Label.
    pub name: String,
    /// `aws_s3` or `s3_compatible`.
    pub provider: String,
    /// Bucket.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// Endpoint, where not AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Most parts of one upload, where it is fewer than S3's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_cap: Option<u32>,
    /// Role, on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// Whether backups may run to it.
    pub state: DestinationState,
    /// The last preflight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// When it was added.
    pub created_at: String,
}

/// Result of a preflight: `POST /destinations/{destinationId}/preflight`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// When it ran.
    pub at: String,
    /// `verified` or `failed`.
    pub result: DestinationState,
    /// Each check.
    pub checks: Vec<PreflightCheck>,
}

/// One check of a preflight.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreflightCheck {
    /// Its name.
    pub name: String,
    /// Outcome.
    pub outcome: CheckOutcome,
    /// What was seen.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed,
    /// The provider does not let us see it.
    NotObservable,
    /// An earlier check failed.
    Skipped,
}

/// `GET /destinations`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Destinations {
    /// All of them.
    pub destinations: Vec<Destination>,
}

/// `POST /databases`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateDatabaseRequest {
    /// Label.
    pub name: String,
    /// Connection string with password; stored encrypted, never returned.
    pub dsn: Secret,
    /// Where backups go.
    pub destination_id: DestinationId,
    /// Five-field cron in UTC; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// How long artifacts are locked, in days. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Compression. Default: gzip level 6 for servers up to 15, zstd level 3 from 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSetting>,
    /// End a dump larger than this. Default 4 TiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// End a dump longer than this. Default 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hours: Option<u32>,
    /// Back up without what the role cannot read. Default false: such a backup fails, with the list and the GRANTs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omit_unreadable: Option<bool>,
    /// What of the database is backed up. Default: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

/// `PATCH /databases/{databaseId}`: what is given is set, the rest stays. It holds from the next attempt on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateDatabaseRequest {
    /// How long artifacts are locked, in days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSetting>,
    /// End a dump larger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// End a dump longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hours: Option<u32>,
    /// Back up without what the role cannot read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omit_unreadable: Option<bool>,
    /// What of the database is backed up: all four lists anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

/// A protected database, without its connection string.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Id.
    pub id: DatabaseId,
    /// Label.
    pub name: String,
    /// Where it is, without password.
    pub redacted_dsn: String,
    /// Where backups go.
    pub destination_id: DestinationId,
    /// Schedule, if any.
    pub schedule: Option<String>,
    /// Next tick of the schedule.
    pub next_run_at: Option<String>,
    /// Lock on artifacts, in days.
    pub retention_days: u32,
    /// Compression, if set.
    pub compression: Option<CompressionSetting>,
    /// A dump larger than this is ended.
    pub max_bytes: u64,
    /// A dump longer than this is ended.
    pub max_hours: u32,
    /// Whether it is backed up without what the role cannot read.
    pub omit_unreadable: bool,
    /// What of it is backed up; without lists, everything.
    pub selection: Selection,
    /// The last source check.
    pub check: Option<SourceCheck>,
    /// Snapshot time of the newest completed backup: what is written later is in no backup.
    pub protected_until: Option<String>,
    /// The newest completed backup.
    pub last_completed_backup_id: Option<BackupId>,
    /// When it was added.
    pub created_at: String,
}

/// Result of a source check.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceCheck {
    /// Id.
    pub id: CheckId,
    /// State.
    pub state: CheckState,
    /// Whether no more will change.
    pub r#final: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Server version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Size of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// What keeps a backup from being complete.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What is worth knowing.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// A selection that suits the platform the database is on, where it is one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
}

/// `GET /databases`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Databases {
    /// All of them.
    pub databases: Vec<Database>,
}

/// `PUT /databases/{databaseId}/schedule`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetScheduleRequest {
    /// Five-field cron in UTC; null = none. It must be there: saying nothing is not saying none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub schedule: Option<String>,
}

/// `POST /databases/{databaseId}/backups`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TriggerBackupRequest {
    /// `adhoc`, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
}

/// Answer to a trigger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriggeredBackup {
    /// The backup.
    pub backup_job_id: BackupId,
    /// Its state.
    pub state: BackupState,
    /// Whether no more will change.
    pub r#final: bool,
}

/// A backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Id.
    pub id: BackupId,
    /// Database.
    pub database_id: DatabaseId,
    /// State.
    pub state: BackupState,
    /// Whether no more will change. A backup between attempts is `failed_retryable` and not final.
    pub r#final: bool,
    /// `adhoc` or `schedule`.
    pub trigger: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// When it was asked for.
    pub created_at: String,
    /// When the current attempt began.
    pub started_at: Option<String>,
    /// The server's clock before the snapshot: the loss window counts from here.
    pub snapshot_at: Option<String>,
    /// When it was sealed.
    pub completed_at: Option<String>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What is under way.
    pub progress: Option<Progress>,
    /// What was made.
    pub artifact: Option<Artifact>,
}

/// Progress of a job under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// One word.
    pub phase: String,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes expected, where known or estimated.
    pub total_bytes: Option<u64>,
    /// Current rate.
    pub bytes_per_second: u64,
    /// Estimate of how long the phase goes on, once there is enough to judge by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// When the worker last reported.
    pub at: String,
}

/// An artifact in the customer's bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Bucket.
    pub bucket: String,
    /// Object key.
    pub key: String,
    /// Version id, or `notObservable`.
    pub version_id: String,
    /// Size.
    pub size_bytes: u64,
    /// SHA-256.
    pub checksum_sha256: String,
    /// Server version of the source.
    pub server_version: String,
    /// Compression; `pg_dump` for an archive kept as pg_dump wrote it, unread.
    pub compression: String,
    /// Tables with data.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// What is knowingly not in it; the annex names each.
    pub omissions: u64,
    /// Locked until.
    pub retain_until: String,
    /// Its manifest.
    pub manifest: ManifestSummary,
}

/// A signed manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestSummary {
    /// Manifest hash.
    pub sha256: String,
    /// Object key.
    pub key: String,
    /// Key that signed.
    pub key_id: String,
    /// Always true: an unsigned manifest is no manifest.
    pub signed: bool,
}

/// `GET /databases/{databaseId}/backups`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// Newest first.
    pub backups: Vec<Backup>,
    /// Hand it back as `cursor` for the next page.
    pub next_cursor: Option<String>,
}

/// Evidence about one backup: `GET /evidence/{backupJobId}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The backup.
    pub backup_job_id: BackupId,
    /// Its database.
    pub database_id: DatabaseId,
    /// State.
    pub state: BackupState,
    /// Manifest.
    pub manifest: ManifestSummary,
    /// Artifact SHA-256.
    pub checksum_sha256: String,
    /// What was verified when it was sealed.
    pub integrity_verification: IntegrityVerification,
    /// The server's clock before the snapshot.
    pub snapshot_at: String,
    /// When it was sealed.
    pub completed_at: String,
    /// Minutes since the snapshot.
    pub rpo_minutes: u64,
    /// Where the bundle lies in the bucket, once published.
    pub bundle_key: Option<String>,
    /// Completed restores of it.
    pub restores: Vec<RestoreId>,
}

/// What was verified when a backup was sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntegrityVerification {
    /// `passed`: there is no evidence of anything less.
    pub result: String,
    /// When.
    pub at: String,
    /// Names of what was compared.
    pub checks: Vec<String>,
}

/// `GET /evidence`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvidenceList {
    /// Newest first.
    pub evidence: Vec<Evidence>,
}

/// `POST /restores`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRestoreRequest {
    /// The backup to restore.
    pub backup_job_id: BackupId,
    /// Mode.
    pub mode: RestoreMode,
    /// Name for the new database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_database: Option<String>,
    /// The target without password: for people to recognise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_redacted_dsn: Option<String>,
    /// Purpose; default `restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<RestorePurpose>,
}

/// Answer: the token is shown this once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedRestore {
    /// The restore.
    pub restore_job_id: RestoreId,
    /// Its state.
    pub state: RestoreState,
    /// The restore token.
    pub token: Secret,
    /// Until when it can be claimed.
    pub expires_at: String,
    /// What `--manifest` takes.
    pub manifest_hash: String,
    /// The command to paste.
    pub one_liner: OneLiner,
}

/// The command to paste on the restore machine. Holds the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OneLiner {
    /// With the native binary.
    pub native: Secret,
    /// Without installing anything.
    pub npx: Secret,
}

/// A restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restore {
    /// Id.
    pub id: RestoreId,
    /// The backup.
    pub backup_job_id: BackupId,
    /// Its database.
    pub database_id: DatabaseId,
    /// State.
    pub state: RestoreState,
    /// Whether no more will change.
    pub r#final: bool,
    /// Mode.
    pub mode: RestoreMode,
    /// Purpose.
    pub purpose: RestorePurpose,
    /// Manifest hash.
    pub manifest_hash: String,
    /// When the token was issued.
    pub created_at: String,
    /// Until when the token can be claimed.
    pub expires_at: String,
    /// When it was claimed.
    pub claimed_at: Option<String>,
    /// When it completed.
    pub completed_at: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What is under way.
    pub progress: Option<Progress>,
    /// Result of the proof: `identical`, `notProven` or `notRun`.
    pub proof: Option<String>,
    /// SHA-256 of the receipt's statement.
    pub receipt_hash: Option<String>,
}

/// `POST /tokens`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTokenRequest {
    /// Name: where it will be used.
    pub name: String,
    /// Scopes.
    pub scopes: Vec<Scope>,
    /// Expiry, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Bind it to one database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_id: Option<DatabaseId>,
}

/// Answer: the token is shown this once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// The token.
    pub token: Secret,
    /// What is stored of it.
    #[serde(flatten)]
    pub info: Token,
}

/// An API token, without its plaintext.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Id.
    pub id: TokenId,
    /// Name.
    pub name: String,
    /// Scopes.
    pub scopes: Vec<Scope>,
    /// Database it is bound to.
    pub database_id: Option<DatabaseId>,
    /// When it was issued.
    pub created_at: String,
    /// Expiry.
    pub expires_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// `GET /tokens`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// All, revoked ones too.
    pub tokens: Vec<Token>,
}

/// `GET /.well-known/walwarden-keys.json`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeySetDocument {
    /// Every key, current and retired.
    pub keys: Vec<KeyDocument>,
}

/// One published key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyDocument {
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub id: String,
    /// `manifest`, `checkpoint` or `receipt`.
    pub r#use: String,
    /// First moment it signs.
    pub not_before: Option<String>,
    /// Moment from which it no longer signs.
    pub not_after: Option<String>,
    /// PEM.
    pub pem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_with_a_field_nobody_knows_is_refused() {
        let good = r#"{"name":"n","bucket":"b","region":"r","provider":"aws_s3","roleArn":"a","externalId":"e"}"#;
        assert!(serde_json::from_str::<CreateDestinationRequest>(good).is_ok());
        let bad = good.replace(r#""roleArn""#, r#""rolearn":1,"roleArn""#);
        assert!(serde_json::from_str::<CreateDestinationRequest>(&bad).is_err());
    }
}
