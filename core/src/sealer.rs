//! The sealer: from a runner's measurements to a backup that may be called complete. It alone touches
//! upload and job once a backup is `finalizing`, under a numbered lease that conditions its every write.
//! Each step is safe to repeat: a sealer that died anywhere is followed by one that ends with the same
//! manifest bytes, for they are stored in the job before they are first written to the bucket.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use sha2::Sha256;
use walwarden_contract::{
    errors::ErrorCode,
    failure::FailureClass,
    ids::{BackupId, DatabaseId, OrgId},
    states::BackupState,
    time,
    worker::{BackupMeasurements, BytesDigest},
};
use walwarden_verifier::{
    dsse::{self, Statement},
    entry::{AssertedBy, Event},
    jcs,
    keys::KeyUse,
    manifest::{self, AnnexRef, Attested, Backup, NOT_OBSERVABLE, Retention},
    parts::PartsList,
};

use crate::{
    Domain,
    backups::{BackupJob, Publish, SealedArtifact, SignedStatement},
    destinations::{Bucket, CompletedPart, ObjectFacts, ObservedLock, PutOutcome, StorageErrorKind},
    error::{DomainError, Result},
    table::{Record, Write, keys},
};

/// Life of a lease; a sealer works seconds.
const LEASE_SECONDS: i64 = 120;
/// How long a CompleteMultipartUpload of a sealer that lost its lease may still become visible.
const COMPLETION_SECONDS: i64 = 600;
/// How long passing storage errors are retried.
const PATIENCE_SECONDS: i64 = 6 * 3600;

/// Why sealing stopped.
enum Stop {
    /// Try again later: the bucket or the table did not answer, or someone else holds the lease.
    Later(DomainError),
    /// The backup failed.
    Failed(FailureClass, String),
}

impl From<DomainError> for Stop {
    fn from(error: DomainError) -> Self {
        match &error {
            DomainError::Storage(storage) if storage.kind == StorageErrorKind::NoSuchUpload => {
                Self::Failed(FailureClass::SealUploadLost, error.to_string())
            }
            // Not there, or there with other bytes: somebody else was at it.
            DomainError::Storage(storage)
                if matches!(
                    storage.kind,
                    StorageErrorKind::NotFound | StorageErrorKind::Mismatch | StorageErrorKind::PreconditionFailed
                ) =>
            {
                mismatch(error.to_string())
            }
            // The parts in the upload do not have the digests that the runner listed.
            DomainError::Storage(storage) if storage.code() == Some("InvalidPart") => mismatch(error.to_string()),
            DomainError::Storage(storage) if !storage.is_passing() => {
                Self::Failed(FailureClass::StorageRefused, error.to_string())
            }
            _ => Self::Later(error),
        }
    }
}

impl From<crate::destinations::StorageError> for Stop {
    fn from(error: crate::destinations::StorageError) -> Self {
        DomainError::from(error).into()
    }
}

fn mismatch(what: impl Into<String>) -> Stop {
    Stop::Failed(FailureClass::SealMismatch, what.into())
}

impl Domain {
    /// Goes on sealing a backup, from wherever the last sealer stopped. Does nothing where the backup is
    /// not `finalizing` or another sealer holds the lease. In `worker` only.
    pub(crate) async fn seal(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<()> {
        let Some(mut record) = self.take_lease(org, database, id).await? else { return Ok(()) };
        let stop = match self.seal_steps(&mut record).await {
            Ok(()) => return self.publish(org, database, id).await,
            Err(stop) => stop,
        };
        match stop {
            Stop::Failed(class, what) => {
                tracing::warn!(backup = %id, class = class.as_str(), what, "sealing failed");
                self.fail_backup(&record, class, "sealer", AssertedBy::ControlPlane).await?;
                Ok(())
            }
            Stop::Later(DomainError::Refused(detail)) if detail.code == ErrorCode::StateConflict => {
                tracing::info!(backup = %id, "another sealer took over");
                Ok(())
            }
            Stop::Later(error) => {
                tracing::warn!(backup = %id, %error, "sealing will be tried again");
                if self.sealing_seconds(&record.body) > PATIENCE_SECONDS {
                    self.fail_backup(&record, FailureClass::SealUnreachable, "sealer", AssertedBy::ControlPlane)
                        .await?;
                    return Ok(());
                }
                let mut next = record.body.clone();
                let pause = 5 * (1 << next.seal.lease.min(6)) as i64;
                next.seal.lease_until = None;
                next.due_at = Some(self.edge.in_seconds(pause));
                self.replace_backup(&record, &next).await?;
                Ok(())
            }
        }
    }

    /// How long a backup has been sealed for.
    fn sealing_seconds(&self, job: &BackupJob) -> i64 {
        let since = job.seal.since.as_deref().and_then(time::parse_ms).unwrap_or_default();
        (self.edge.now_ms() - since) / 1000
    }

    async fn take_lease(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<Option<Record<BackupJob>>> {
        let record = self.backup(org, database, id).await?;
        let now = self.edge.now();
        let held = record.body.seal.lease_until.as_deref().is_some_and(|until| until > now.as_str());
        if record.body.state != BackupState::Finalizing || held {
            return Ok(None);
        }
        let mut next = record.body.clone();
        next.seal.lease += 1;
        next.seal.since.get_or_insert(now);
        let until = self.edge.in_seconds(LEASE_SECONDS);
        next.seal.lease_until = Some(until.clone());
        next.due_at = Some(until);
        match self.replace_backup(&record, &next).await {
            Ok(taken) => Ok(Some(taken)),
            Err(DomainError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn seal_steps(&self, record: &mut Record<BackupJob>) -> Result<(), Stop> {
        let bucket = self.bucket(&record.body.org_id, &record.body.destination_id).await?;
        let measured = record
            .body
            .measurements
            .clone()
            .ok_or_else(|| Stop::Failed(FailureClass::SealImpossible, "finalizing without measurements".into()))?;
        self.fault_point("seal:leased");
        if record.body.seal.artifact.is_none() {
            let artifact = self.complete_artifact(&bucket, record, &measured).await?;
            self.fault_point("seal:artifact-read-back");
            let mut next = record.body.clone();
            next.seal.artifact = Some(artifact);
            *record = self.replace_backup(record, &next).await?;
            self.fault_point("seal:artifact-recorded");
        }
        if record.body.seal.annex_version_id.is_none() {
            let version = self.check_annex(&bucket, &record.body, &measured).await?;
            let mut next = record.body.clone();
            next.seal.annex_version_id = Some(version);
            *record = self.replace_backup(record, &next).await?;
            self.fault_point("seal:annex-recorded");
        }
        if record.body.seal.manifest.is_none() {
            let bytes = self.statement(&record.body, &measured, bucket.name())?;
            let signed = self.sign_statement(KeyUse::Manifest, &bytes).await?;
            // What no reader would accept must not lie under lock in the bucket.
            let envelope = dsse::Envelope::from_bytes(signed.envelope()?.as_bytes())
                .map_err(|e| Stop::Failed(FailureClass::SealImpossible, e.to_string()))?;
            manifest::verify(&envelope, self.keyring.public_keys())
                .map_err(|e| Stop::Failed(FailureClass::SealImpossible, e.to_string()))?;
            let mut next = record.body.clone();
            next.seal.manifest = Some(signed);
            *record = self.replace_backup(record, &next).await?;
            self.fault_point("seal:manifest-recorded");
        }
        let version = self.write_manifest(&bucket, &record.body).await?;
        self.fault_point("seal:manifest-read-back");
        self.complete(record, &measured, version).await?;
        self.fault_point("seal:completed");
        Ok(())
    }

    /// Completes the upload, or finds that it was completed, and reads back what the bucket holds.
    async fn complete_artifact(
        &self,
        bucket: &Bucket,
        record: &mut Record<BackupJob>,
        measured: &BackupMeasurements,
    ) -> Result<SealedArtifact, Stop> {
        let list = self.read_parts_list(bucket, &record.body, measured).await?;
        let key = record.body.artifact_key();
        let upload_id = record
            .body
            .upload_id
            .clone()
            .ok_or_else(|| Stop::Failed(FailureClass::SealImpossible, "finalizing without an upload".into()))?;
        let completed = match list_parts(bucket, &key, &upload_id, &list).await {
            Ok(parts) => {
                let etag = composite_etag(&parts);
                if record.body.seal.expected_etag != etag {
                    let mut next = record.body.clone();
                    next.seal.expected_etag = etag;
                    *record = self.replace_backup(record, &next).await?;
                }
                self.fault_point("seal:parts-listed");
                bucket.complete_upload(&key, &upload_id, &parts).await.map(|o| o.version_id).map_err(Stop::from)
            }
            Err(stop) => Err(stop),
        };
        let job = &record.body;
        let expected = Expected {
            size: measured.size_bytes,
            sha256: format!("{}-{}", STANDARD.encode(list.composite_sha256()), list.parts.len()),
            etag: job.seal.expected_etag.clone(),
        };
        let version = match completed {
            Ok(version) => version,
            // The upload is gone, or the answer was lost: perhaps an earlier Complete did its work.
            Err(stop @ (Stop::Later(_) | Stop::Failed(FailureClass::SealUploadLost, _))) => {
                match find_completed(bucket, job, &key, &expected).await? {
                    Some(version) => version,
                    // An earlier sealer may still be inside CompleteMultipartUpload, which can take minutes.
                    None if job.seal.lease > 1 && self.sealing_seconds(job) < COMPLETION_SECONDS => {
                        let problem = "gone, and no completed object is there yet";
                        return Err(Stop::Later(DomainError::broken("upload", problem)));
                    }
                    None => return Err(stop),
                }
            }
            Err(stop) => return Err(stop),
        };
        self.fault_point("seal:upload-completed");
        let facts = bucket
            .head(&key, version.as_deref())
            .await?
            .ok_or_else(|| mismatch("the completed object is not there"))?;
        let attested = expected.check(&facts)?;
        Ok(SealedArtifact {
            version_id: facts.version_id.clone().or(version).unwrap_or_else(|| NOT_OBSERVABLE.into()),
            attested,
            retention: observed_retention(&facts, &job.retain_until)?,
        })
    }

    async fn read_parts_list(
        &self,
        bucket: &Bucket,
        job: &BackupJob,
        measured: &BackupMeasurements,
    ) -> Result<PartsList, Stop> {
        let expected: &BytesDigest = &measured.parts_list;
        let bytes = bucket.get(&job.parts_key(), None, expected.size_bytes as usize).await?;
        if hex::encode(Sha256::digest(&bytes)) != expected.sha256 {
            return Err(mismatch("the parts list in the bucket is not the one the runner wrote"));
        }
        let list = PartsList::from_bytes(&bytes)
            .map_err(|e| Stop::Failed(FailureClass::SealImpossible, format!("parts list {e}")))?;
        let agrees = list.backup_id == job.id.as_str()
            && list.attempt == job.attempt
            && list.parts.len() == measured.parts as usize
            && list.total_bytes() == measured.size_bytes;
        if !agrees {
            return Err(Stop::Failed(
                FailureClass::SealImpossible,
                "the parts list contradicts the measurements".into(),
            ));
        }
        Ok(list)
    }

    /// HEAD only: the control plane never reads an annex.
    async fn check_annex(
        &self,
        bucket: &Bucket,
        job: &BackupJob,
        measured: &BackupMeasurements,
    ) -> Result<String, Stop> {
        let facts =
            bucket.head(&job.annex_key(), None).await?.ok_or_else(|| mismatch("the annex is not in the bucket"))?;
        let sha256 = STANDARD.encode(hex::decode(&measured.annex.sha256).unwrap_or_default());
        let digest_agrees = facts.checksum_sha256.as_deref().is_none_or(|given| given == sha256);
        if facts.size_bytes != measured.annex.size_bytes || !digest_agrees {
            return Err(mismatch("the annex in the bucket is another one"));
        }
        observed_retention(&facts, &job.retain_until)?;
        Ok(facts.version_id.unwrap_or_else(|| NOT_OBSERVABLE.into()))
    }

    fn statement(&self, job: &BackupJob, measured: &BackupMeasurements, bucket: &str) -> Result<Vec<u8>, Stop> {
        let impossible = |what: &str| Stop::Failed(FailureClass::SealImpossible, what.into());
        let artifact = job.seal.artifact.as_ref().ok_or_else(|| impossible("no artifact to state"))?;
        let predicate = Backup {
            org_id: job.org_id.to_string(),
            database_id: job.database_id.to_string(),
            backup_id: job.id.to_string(),
            attempt: job.attempt,
            log_origin: self.log.origin(&job.org_id),
            source_database: measured.source_database.clone(),
            bucket: bucket.into(),
            version_id: artifact.version_id.clone(),
            size_bytes: measured.size_bytes,
            attested: artifact.attested.clone(),
            server_version: measured.server_version.clone(),
            pg_dump_version: measured.pg_dump_version.clone(),
            compression: measured.compression.clone(),
            contents: measured.contents.clone(),
            omissions: measured.omissions,
            retention: artifact.retention.clone(),
            started_at: job.claim.claimed_at.clone().unwrap_or_default(),
            snapshot_at: measured.snapshot_at.clone(),
            finished_at: job.finished_at.clone().unwrap_or_default(),
            annex: AnnexRef {
                key: job.annex_key(),
                version_id: job.seal.annex_version_id.clone().unwrap_or_default(),
                sha256: measured.annex.sha256.clone(),
                size_bytes: measured.annex.size_bytes,
                uncompressed_bytes: measured.annex_uncompressed_bytes,
                lines: measured.annex_lines,
            },
        };
        let statement =
            Statement::new(job.artifact_key(), measured.checksum_sha256.clone(), manifest::PREDICATE_TYPE, predicate);
        let bytes = jcs::to_vec(&statement).map_err(|e| impossible(&e.to_string()))?;
        if bytes.len() > dsse::MAX_STATEMENT_BYTES {
            return Err(impossible("the statement is larger than 4,000 bytes"));
        }
        Ok(bytes)
    }

    /// Signs a statement under a key of its use.
    pub(crate) async fn sign_statement(&self, key_use: KeyUse, bytes: &[u8]) -> Result<SignedStatement> {
        let (key_id, signature) = self.keyring.sign(key_use, &dsse::pae(bytes)).await?;
        let statement = String::from_utf8(bytes.to_vec()).map_err(|e| DomainError::broken("statement", e))?;
        Ok(SignedStatement { statement, key_id, signature: hex::encode(signature) })
    }

    /// Writes the manifest under lock and reads it back: byte-equal, and good under our own public key.
    async fn write_manifest(&self, bucket: &Bucket, job: &BackupJob) -> Result<Option<String>, Stop> {
        let signed = job
            .seal
            .manifest
            .as_ref()
            .ok_or_else(|| Stop::Failed(FailureClass::SealImpossible, "no manifest to write".into()))?;
        let envelope = signed.envelope()?.into_bytes();
        let key = job.manifest_key();
        let version = match bucket
            .put_locked(&key, &envelope, crate::edge::timestamp(&job.retain_until), "application/json")
            .await?
        {
            PutOutcome::Written { version_id } | PutOutcome::AlreadyThere { version_id } => version_id,
        };
        self.fault_point("seal:manifest-written");
        let back = bucket.get(&key, version.as_deref(), envelope.len()).await?;
        if back != envelope {
            return Err(mismatch("the manifest read back is another one"));
        }
        let keys = self.keyring.public_keys();
        let envelope = dsse::Envelope::from_bytes(&back).map_err(|e| mismatch(e.to_string()))?;
        let verified =
            manifest::verify(&envelope, keys).map_err(|e| Stop::Failed(FailureClass::SealImpossible, e.to_string()))?;
        if verified.hash != manifest::hash(signed.statement.as_bytes()) {
            return Err(mismatch("the manifest read back states something else"));
        }
        Ok(version)
    }

    async fn complete(
        &self,
        record: &mut Record<BackupJob>,
        measured: &BackupMeasurements,
        version: Option<String>,
    ) -> Result<(), Stop> {
        let mut next = record.body.clone();
        let impossible = || Stop::Failed(FailureClass::SealImpossible, "completed without manifest or artifact".into());
        let signed = next.seal.manifest.clone().ok_or_else(impossible)?;
        let artifact = next.seal.artifact.clone().ok_or_else(impossible)?;
        let hash = manifest::hash(signed.statement.as_bytes());
        next.seal.manifest_version_id = version;
        next.seal.lease_until = None;
        next.manifest_hash = Some(hash.clone());
        next.completed_at = Some(self.edge.now());
        next.publish = Publish::Pending;
        next.failure = None;
        next.due_at = Some(self.edge.in_seconds(30));
        let mut database = self.database(&next.org_id, &next.database_id).await?;
        database.body.protected_until = Some(measured.snapshot_at.clone());
        database.body.last_completed_backup_id = Some(next.id.clone());
        let extra = vec![
            Write::Replace(database.key.clone(), database.rev, database.body.item()),
            Write::Delete(keys::active(&next.org_id, &next.database_id)),
        ];
        let step = crate::backups::Move {
            to: BackupState::Completed,
            event: Event::BackupCompleted {
                manifest_hash: hash,
                checksum_sha256: measured.checksum_sha256.clone(),
                size_bytes: measured.size_bytes,
                version_id: artifact.version_id,
                key_id: signed.key_id,
            },
            actor: "sealer".into(),
            asserted_by: AssertedBy::ControlPlane,
        };
        let body = self.move_backup(record, next, step, extra).await?;
        *record = Record { key: record.key.clone(), rev: record.rev + 1, body };
        Ok(())
    }
}

/// The parts of an upload, which must be exactly those that the runner listed.
async fn list_parts(bucket: &Bucket, key: &str, upload_id: &str, list: &PartsList) -> Result<Vec<CompletedPart>, Stop> {
    let uploaded = bucket.list_parts(key, upload_id).await?;
    let by_number: HashMap<u32, _> = uploaded.into_iter().map(|p| (p.number, p)).collect();
    let mut parts = Vec::with_capacity(list.parts.len());
    for part in &list.parts {
        let there = by_number
            .get(&part.number)
            .ok_or_else(|| mismatch(format!("part {} is not in the upload", part.number)))?;
        let sha256 = STANDARD.encode(hex::decode(&part.sha256).unwrap_or_default());
        let digest_agrees = there.sha256_base64.as_deref().is_none_or(|given| given == sha256);
        if there.size_bytes != part.size_bytes || !digest_agrees {
            return Err(mismatch(format!("part {} in the upload is another one", part.number)));
        }
        parts.push(CompletedPart { number: part.number, etag: there.etag.clone(), sha256_base64: Some(sha256) });
    }
    if by_number.len() != parts.len() {
        return Err(mismatch("the upload has parts that the runner did not list"));
    }
    Ok(parts)
}

/// S3's ETag of a multipart object: MD5 over the parts' MD5s, and their number. `None` where the parts' ETags are no
/// MD5s (SSE-KMS).
fn composite_etag(parts: &[CompletedPart]) -> Option<String> {
    let mut md5 = Md5::new();
    for part in parts {
        let digest = hex::decode(part.etag.trim_matches('"')).ok().filter(|d| d.len() == 16)?;
        md5.update(digest);
    }
    Some(format!("{}-{}", hex::encode(md5.finalize()), parts.len()))
}

/// What the completed object must be.
struct Expected {
    size: u64,
    sha256: String,
    etag: Option<String>,
}

impl Expected {
    /// Compares size and the strongest checksum that the provider attests, and says which that was.
    fn check(&self, facts: &ObjectFacts) -> Result<Attested, Stop> {
        if facts.size_bytes != self.size {
            return Err(mismatch(format!("the object has {} bytes, {} were uploaded", facts.size_bytes, self.size)));
        }
        let etag = facts.etag.as_deref().map(|e| e.trim_matches('"'));
        match (facts.checksum_sha256.as_deref(), etag, self.etag.as_deref()) {
            (Some(given), ..) if given == self.sha256 => {
                Ok(Attested { algorithm: "sha256-composite".into(), value: given.into() })
            }
            (Some(_), ..) => Err(mismatch("the provider attests another checksum")),
            (None, Some(given), Some(expected)) if given == expected => {
                Ok(Attested { algorithm: "md5-etag".into(), value: given.into() })
            }
            (None, Some(_), Some(_)) => Err(mismatch("the object's ETag is not that of the parts that were uploaded")),
            _ => Ok(Attested { algorithm: "none".into(), value: String::new() }),
        }
    }
}

/// A version on the attempt's key that is exactly what would have been completed.
async fn find_completed(
    bucket: &Bucket,
    job: &BackupJob,
    key: &str,
    expected: &Expected,
) -> Result<Option<Option<String>>, Stop> {
    let attempt = job.attempt.to_string();
    for version in bucket.find_versions(key).await? {
        let Some(facts) = bucket.head(key, version.version_id.as_deref()).await? else { continue };
        let marked = |name: &str, value: &str| facts.metadata.get(name).is_some_and(|v| v == value);
        let ours = marked("walwarden-backup", job.id.as_str()) && marked("walwarden-attempt", &attempt);
        if ours && expected.check(&facts).is_ok() {
            return Ok(Some(facts.version_id.clone().or(version.version_id)));
        }
    }
    Ok(None)
}

/// The lock as read back: where it is visible it must reach as far as was asked for.
fn observed_retention(facts: &ObjectFacts, wanted: &str) -> Result<Retention, Stop> {
    match facts.lock {
        ObservedLock::NotObservable => {
            Ok(Retention { mode: NOT_OBSERVABLE.into(), retain_until: NOT_OBSERVABLE.into() })
        }
        ObservedLock::Unlocked => Err(mismatch("the object is not locked")),
        ObservedLock::Locked { mode, retain_until } => {
            if !facts.lock.holds_until(crate::edge::timestamp(wanted)) {
                return Err(mismatch(format!("the object is locked until {retain_until} only")));
            }
            Ok(Retention { mode: mode.as_str().into(), retain_until: time::format(retain_until) })
        }
    }
}
