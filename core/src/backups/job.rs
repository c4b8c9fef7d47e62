//! A backup as stored, and its one way to move.

use serde::{Deserialize, Serialize};
use walwarden_contract::{
    errors::{ErrorCode, ErrorDetail},
    failure::{Failure, FailureClass},
    ids::{BackupId, DatabaseId, DestinationId, JobId, OrgId, RestoreId},
    states::BackupState,
    worker::{BackupMeasurements, BytesDigest, JobStatus},
};
use walwarden_verifier::{
    entry::{AssertedBy, Event},
    manifest::{Attested, Retention},
};

use crate::{
    Domain,
    error::{DomainError, Result},
    log::Draft,
    table::{Item, Record, TableError, Write, keys},
};

/// Who may work on an attempt: a one-time secret until it is claimed, then a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Fingerprint of the claim secret that `dispatch` minted last.
    pub secret_sha256: Option<String>,
    /// Until when it can be claimed.
    pub expires_at: Option<String>,
    /// Fingerprint of the session secret, once claimed.
    pub session_sha256: Option<String>,
    /// When it was claimed.
    pub claimed_at: Option<String>,
}

/// What the runner said when pg_dump began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// Server version.
    pub server_version: String,
    /// pg_dump version.
    pub pg_dump_version: String,
    /// The server's clock before the snapshot.
    pub snapshot_at: String,
}

/// The artifact as read back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedArtifact {
    /// Version id, or `notObservable`.
    pub version_id: String,
    /// The provider's checksum.
    pub attested: Attested,
    /// The lock.
    pub retention: Retention,
}

/// A statement's bytes with its signature: stored before it is first written anywhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedStatement {
    /// Canonical bytes (UTF-8).
    pub statement: String,
    /// Key that signed.
    pub key_id: String,
    /// Signature, hex.
    pub signature: String,
}

/// How far sealing has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealProgress {
    /// Number of the lease: counts how often a sealer took it up.
    pub lease: u64,
    /// Until when no other may take it up.
    pub lease_until: Option<String>,
    /// When sealing was first tried.
    pub since: Option<String>,
    /// ETag that the completed object will have, from the ETags of its parts: kept before it is completed, for
    /// afterwards the parts cannot be listed any more. It is compared where the provider attests no SHA-256.
    #[serde(default)]
    pub expected_etag: Option<String>,
    /// The artifact, once completed and read back.
    pub artifact: Option<SealedArtifact>,
    /// Version of the annex.
    pub annex_version_id: Option<String>,
    /// The manifest's statement.
    pub manifest: Option<SignedStatement>,
    /// Version of the manifest object.
    pub manifest_version_id: Option<String>,
}

/// Whether checkpoint, bundle and keys are in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Publish {
    /// Not sealed yet.
    #[default]
    NotYet,
    /// To be done.
    Pending,
    /// Done.
    Done,
}

/// A completed restore of this backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptRef {
    /// The restore.
    pub restore_id: RestoreId,
    /// SHA-256 of the receipt's statement.
    pub hash: String,
}

/// An upload that an ended attempt left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    /// Object key.
    pub key: String,
    /// Upload id; none where a runner had claimed the attempt and no upload was recorded: one that was created and not
    /// recorded any more, because we were stopped in between, is found by its key.
    pub upload_id: Option<String>,
}

/// A backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupJob {
    /// Organization.
    pub org_id: OrgId,
    /// Id.
    pub id: BackupId,
    /// Database.
    pub database_id: DatabaseId,
    /// Where it goes.
    pub destination_id: DestinationId,
    /// State.
    pub state: BackupState,
    /// `adhoc` or `schedule`.
    pub trigger: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// When it was asked for.
    pub created_at: String,
    /// Lock on everything this attempt writes: its start, the retention floor, one day.
    pub retain_until: String,
    /// Who works on it.
    pub claim: Claim,
    /// What pg_dump began with.
    pub started: Option<Started>,
    /// The multipart upload.
    pub upload_id: Option<String>,
    /// Digests under which the parts list's URL was given.
    pub parts_list: Option<BytesDigest>,
    /// Digests under which the annex's URL was given.
    pub annex: Option<BytesDigest>,
    /// What the runner measured.
    pub measurements: Option<BackupMeasurements>,
    /// When the measurements were accepted.
    pub finished_at: Option<String>,
    /// Sealing.
    pub seal: SealProgress,
    /// Manifest hash.
    pub manifest_hash: Option<String>,
    /// When it was sealed.
    pub completed_at: Option<String>,
    /// Publishing.
    pub publish: Publish,
    /// Completed restores.
    pub receipts: Vec<ReceiptRef>,
    /// Why it failed, last.
    pub failure: Option<FailureClass>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<String>,
    /// Uploads to abort.
    pub leftovers: Vec<Leftover>,
    /// When the sentinel is to look.
    pub due_at: Option<String>,
    /// Sequence number of the next entry.
    pub next_seq: u64,
}

impl BackupJob {
    /// Its key in the table.
    pub fn key(&self) -> crate::table::Key {
        keys::backup(&self.org_id, &self.database_id, &self.id)
    }

    /// Stem of the attempt's objects: `org/<orgId>/db/<databaseId>/backup/<yyyy>/<mm>/<dd>/<jobId>[.<n>]`,
    /// the date being the job's creation. Nothing that is locked is ever written twice.
    pub fn stem(&self) -> String {
        let day = self.created_at.get(..10).unwrap_or_default().replace('-', "/");
        let attempt = if self.attempt > 1 { format!(".{}", self.attempt) } else { String::new() };
        format!("org/{}/db/{}/backup/{day}/{}{attempt}", self.org_id, self.database_id, self.id)
    }

    /// Key of the artifact.
    pub fn artifact_key(&self) -> String {
        format!("{}.dump", self.stem())
    }

    /// Key of the parts list.
    pub fn parts_key(&self) -> String {
        format!("{}.parts.json", self.stem())
    }

    /// Key of the annex.
    pub fn annex_key(&self) -> String {
        format!("{}.annex.jsonl.gz", self.stem())
    }

    /// Key of the manifest.
    pub fn manifest_key(&self) -> String {
        format!("{}.manifest.json", self.stem())
    }

    /// Key of the bundle.
    pub fn bundle_key(&self) -> String {
        format!("{}.evidence.tgz", self.stem())
    }

    /// Key of a receipt.
    pub fn receipt_key(&self, restore: &RestoreId) -> String {
        format!("{}.receipt.{restore}.json", self.stem())
    }

    /// Notes what the attempt that ends may leave in the bucket.
    pub(super) fn leave_upload(&mut self) {
        let upload_id = self.upload_id.take();
        if upload_id.is_some() || self.claim.session_sha256.is_some() {
            self.leftovers.push(Leftover { key: self.artifact_key(), upload_id });
        }
    }

    pub(crate) fn item(&self) -> Item {
        Item::new(self).state(self.state.as_str()).due(keys::SENTINEL_QUEUE, self.due_at.as_deref())
    }

    /// As the worker protocol shows it.
    pub fn status(&self) -> JobStatus {
        let failed = matches!(self.state, BackupState::FailedRetryable | BackupState::FailedTerminal);
        JobStatus {
            state: self.state.as_str().into(),
            r#final: self.state.is_final(),
            attempt: self.attempt,
            // Why an earlier attempt failed says nothing of this one: a runner that waits would take it for the end.
            failure: self.failure.filter(|_| failed).map(Failure::from),
            manifest_hash: self.manifest_hash.clone(),
            receipt_hash: None,
        }
    }
}

/// A move of a backup: what it becomes and what the log says of it.
pub(crate) struct Move {
    pub to: BackupState,
    pub event: Event,
    pub actor: String,
    pub asserted_by: AssertedBy,
}

impl Domain {
    /// A backup.
    pub async fn backup(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<Record<BackupJob>> {
        self.table.get(&keys::backup(org, database, id)).await?.ok_or_else(|| DomainError::not_found("backup", id))
    }

    /// A backup by its id alone.
    pub async fn backup_by_id(&self, org: &OrgId, id: &BackupId) -> Result<Record<BackupJob>> {
        let database = self.database_of(org, &JobId::Backup(id.clone())).await.map_err(|e| match e {
            DomainError::Refused(_) => DomainError::not_found("backup", id),
            other => other,
        })?;
        self.backup(org, &database, id).await
    }

    /// Moves a backup: its new content, conditioned on revision and state, with its entry.
    pub(crate) async fn move_backup(
        &self,
        record: &Record<BackupJob>,
        mut next: BackupJob,
        step: Move,
        extra: Vec<Write>,
    ) -> Result<BackupJob> {
        let from = record.body.state;
        if !from.may_become(step.to) {
            return Err(conflict(&record.body, step.to));
        }
        next.state = step.to;
        let seq = next.next_seq;
        next.next_seq += 1;
        let mut writes = vec![Write::Move(record.key.clone(), record.rev, from.as_str().into(), next.item())];
        writes.extend(extra);
        let draft = Draft {
            job: Some((next.id.to_string(), seq)),
            event: step.event,
            actor: step.actor,
            asserted_by: step.asserted_by,
        };
        match self.log.commit(&next.org_id, writes, vec![draft]).await {
            Ok(()) => Ok(next),
            Err(DomainError::Table(TableError::Condition(refused))) if refused.contains(&0) => {
                Err(conflict(&record.body, step.to))
            }
            Err(error) => Err(error),
        }
    }

    /// What an act on a backup does when it was refused: read the backup again, for perhaps only bookkeeping came
    /// between (the sentinel's next look, a document's digest, a receipt), which must not cost a worker its job. What
    /// is refused on the backup as it is now stays refused.
    pub(super) async fn reread(&self, record: &mut Record<BackupJob>, refused: DomainError) -> Result<()> {
        if !refused.is_conflict() {
            return Err(refused);
        }
        let job = &record.body;
        let now = self.backup(&job.org_id, &job.database_id, &job.id).await?;
        if now.rev == record.rev {
            return Err(refused);
        }
        *record = now;
        Ok(())
    }

    /// As `reread`, for a worker: what has become another's is not its own any more.
    pub(super) async fn reread_own(&self, record: &mut Record<BackupJob>, refused: DomainError) -> Result<()> {
        let session = record.body.claim.session_sha256.clone();
        let mut now = record.clone();
        let message = refused.to_string();
        self.reread(&mut now, refused).await?;
        if now.body.claim.session_sha256 != session {
            return Err(DomainError::refused(ErrorCode::StateConflict, message, "end this worker"));
        }
        *record = now;
        Ok(())
    }

    /// Writes a backup back without moving it: bookkeeping that no reader takes for a state.
    pub(crate) async fn replace_backup(
        &self,
        record: &Record<BackupJob>,
        next: &BackupJob,
    ) -> Result<Record<BackupJob>> {
        let write = Write::Replace(record.key.clone(), record.rev, next.item());
        match self.table.write(write).await {
            Ok(()) => Ok(Record { key: record.key.clone(), rev: record.rev + 1, body: next.clone() }),
            Err(TableError::Condition(_)) => Err(conflict(&record.body, record.body.state)),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn conflict(job: &BackupJob, to: BackupState) -> DomainError {
    DomainError::Refused(Box::new(
        ErrorDetail::new(
            ErrorCode::StateConflict,
            format!("backup {} is {} and cannot become {to} now", job.id, job.state),
        )
        .hint("read its state again")
        .about(job.id.as_str()),
    ))
}
