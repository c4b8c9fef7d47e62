//! The worker protocol's side of a backup: claim, instructions, URLs, signs of life, finish.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use walwarden_contract::{
    errors::ErrorCode,
    failure::FailureClass,
    ids::{DatabaseId, JobId, OrgId},
    states::BackupState,
    worker::{
        BackupInstructions, BackupMeasurements, BytesDigest, DocumentKind, DocumentRequest, Heartbeat, PartRequest,
        SignedRequest,
    },
};
use walwarden_verifier::{
    annex,
    entry::{AssertedBy, Event},
    ids::{is_time, shown},
    jcs::MAX_INTEGER,
    manifest::{OPAQUE, is_sha256},
    parts,
};

use super::job::{BackupJob, Claim, Move, Started, conflict};
use crate::{
    Domain,
    destinations::{LockMode, S3_PART_CAP},
    error::{DomainError, Result},
    organizations::fingerprint,
    table::{Item, Record, Write, keys},
};

/// How long a runner may be silent.
pub(crate) const SILENCE_SECONDS: i64 = 120;
/// How soon the sentinel looks after a seal.
const SEAL_PATIENCE_SECONDS: i64 = 30;

/// A sign of life as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredHeartbeat {
    /// What the worker said.
    pub heartbeat: Heartbeat,
    /// When.
    pub at: String,
}

/// Whether two fingerprints are the same, in constant time.
pub(crate) fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

/// A program's version as it may be recorded: one line, nothing invisible, not long.
pub(crate) fn is_version(text: &str) -> bool {
    (1..=200).contains(&text.len()) && shown(text) == text
}

impl Claim {
    /// Takes the claim: the right secret binds `session_sha256`; the same session may replay, another may not.
    /// Gives whether anything changed.
    pub fn take(&mut self, secret: &str, session_sha256: &str, now: &str) -> Result<bool> {
        let wrong = || {
            DomainError::refused(
                ErrorCode::Unauthorized,
                "the claim secret is wrong or was replaced",
                "a newer attempt has its own secret",
            )
        };
        if !is_sha256(session_sha256) {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "sessionSha256 is not a SHA-256",
                "send lower-case hex",
            ));
        }
        let stored = self.secret_sha256.as_deref().ok_or_else(wrong)?;
        if !same(stored, &fingerprint(secret)) {
            return Err(wrong());
        }
        if let Some(session) = &self.session_sha256 {
            return if same(session, session_sha256) {
                Ok(false)
            } else {
                Err(DomainError::refused(
                    ErrorCode::AlreadyClaimed,
                    "another runner has claimed this job",
                    "end this one",
                ))
            };
        }
        if self.expires_at.as_deref().is_some_and(|t| t <= now) {
            return Err(DomainError::refused(
                ErrorCode::TokenExpired,
                "the claim secret has expired",
                "a new attempt will be started",
            ));
        }
        self.session_sha256 = Some(session_sha256.into());
        self.claimed_at = Some(now.into());
        Ok(true)
    }

    /// Refuses whoever does not hold the session.
    pub fn check_session(&self, session_secret: &str) -> Result<()> {
        let offered = fingerprint(session_secret);
        match &self.session_sha256 {
            Some(session) if same(session, &offered) => Ok(()),
            _ => Err(DomainError::refused(
                ErrorCode::Unauthorized,
                "the job session is unknown or was replaced by a newer attempt",
                "end this worker",
            )),
        }
    }
}

impl Domain {
    /// A runner claims a backup.
    pub async fn claim_backup(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        id: &walwarden_contract::ids::BackupId,
        secret: &str,
        session_sha256: &str,
    ) -> Result<BackupJob> {
        let mut record = self.backup(org, database, id).await?;
        loop {
            match self.claim_as_read(&record, secret, session_sha256).await {
                Err(refused) => self.reread(&mut record, refused).await?,
                claimed => return claimed,
            }
        }
    }

    async fn claim_as_read(&self, record: &Record<BackupJob>, secret: &str, session_sha256: &str) -> Result<BackupJob> {
        let mut next = record.body.clone();
        if !next.claim.take(secret, session_sha256, &self.edge.now())? {
            return Ok(next);
        }
        next.due_at = Some(self.edge.in_seconds(SILENCE_SECONDS));
        let step = Move {
            to: BackupState::Claimed,
            event: Event::BackupClaimed { attempt: next.attempt },
            actor: format!("runner:{}", next.id),
            asserted_by: AssertedBy::ControlPlane,
        };
        self.move_backup(record, next, step, Vec::new()).await
    }

    /// What the runner is to do.
    /// Served while the attempt is at work only: a session of a job that ended must not keep opening the source.
    pub async fn backup_instructions(&self, job: &BackupJob) -> Result<BackupInstructions> {
        if !matches!(job.state, BackupState::Claimed | BackupState::Running) {
            return Err(not_running(job));
        }
        let database = self.database(&job.org_id, &job.database_id).await?.body;
        let bucket = self.bucket(&job.org_id, &job.destination_id).await?;
        Ok(BackupInstructions {
            backup_id: job.id.clone(),
            database_id: job.database_id.clone(),
            attempt: job.attempt,
            dsn: self.source_dsn(&database).await?,
            allow_private_addresses: self.settings.network.policy().allow_private,
            compression: database.compression,
            part_cap: bucket.traits().part_cap,
            part_digest: bucket.traits().part_digest,
            max_bytes: database.max_bytes,
            max_hours: database.max_hours,
            omit_unreadable: database.omit_unreadable,
            selection: database.selection,
        })
    }

    /// pg_dump was started: the upload is created, under lock and marked with the attempt.
    pub async fn backup_running(&self, record: &Record<BackupJob>, started: Started) -> Result<BackupJob> {
        let job = &record.body;
        if job.state == BackupState::Running {
            return Ok(job.clone());
        }
        if !job.state.may_become(BackupState::Running) {
            return Err(conflict(job, BackupState::Running));
        }
        check_started(&started)?;
        let bucket = self.bucket(&job.org_id, &job.destination_id).await?;
        let attempt = job.attempt.to_string();
        let metadata = [("walwarden-backup", job.id.as_str()), ("walwarden-attempt", attempt.as_str())];
        let key = job.artifact_key();
        let upload_id = bucket.create_upload(&key, crate::edge::timestamp(&job.retain_until), &metadata).await?;
        let mut record = record.clone();
        let moved = loop {
            match self.running_as_read(&record, &started, &upload_id).await {
                Err(refused) => match self.reread_own(&mut record, refused).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                moved => break moved,
            }
        };
        // Lost to a cancellation, or to the same step sent twice: nobody else knows of this upload. An error that is
        // no refusal says nothing about what was written.
        let lost = match &moved {
            Ok(job) => job.upload_id.as_deref() != Some(&upload_id),
            Err(error) => matches!(error, DomainError::Refused(_)),
        };
        if lost && let Err(error) = bucket.abort_upload(&key, &upload_id).await {
            tracing::warn!(%error, "an upload that came to nothing was not aborted");
        }
        moved
    }

    async fn running_as_read(
        &self,
        record: &Record<BackupJob>,
        started: &Started,
        upload_id: &str,
    ) -> Result<BackupJob> {
        if record.body.state == BackupState::Running {
            return Ok(record.body.clone());
        }
        let mut next = record.body.clone();
        next.upload_id = Some(upload_id.into());
        // A step is a sign of life.
        next.due_at = Some(self.edge.in_seconds(SILENCE_SECONDS));
        let step = Move {
            to: BackupState::Running,
            event: Event::BackupRunning {
                attempt: next.attempt,
                server_version: started.server_version.clone(),
                pg_dump_version: started.pg_dump_version.clone(),
                snapshot_at: started.snapshot_at.clone(),
            },
            actor: format!("runner:{}", next.id),
            asserted_by: AssertedBy::Runner,
        };
        next.started = Some(started.clone());
        self.move_backup(record, next, step, Vec::new()).await
    }

    /// A runner reports that its attempt failed. Said again it is the same; once the measurements were accepted the
    /// backup is the sealer's, and a runner that did not hear of it ends nothing.
    pub async fn backup_failed(&self, record: &Record<BackupJob>, class: FailureClass) -> Result<BackupJob> {
        let mut record = record.clone();
        loop {
            let job = &record.body;
            let failed = matches!(job.state, BackupState::FailedRetryable | BackupState::FailedTerminal);
            if failed && job.failure == Some(class) {
                return Ok(job.clone());
            }
            if !matches!(job.state, BackupState::Claimed | BackupState::Running) {
                return Err(conflict(job, BackupState::FailedTerminal));
            }
            let actor = format!("runner:{}", job.id);
            match self.fail_backup(&record, class, &actor, AssertedBy::Runner).await {
                Err(refused) => self.reread_own(&mut record, refused).await?,
                failed => return failed,
            }
        }
    }

    /// A URL that takes exactly those bytes as that part.
    pub async fn part_url(&self, job: &BackupJob, request: &PartRequest) -> Result<SignedRequest> {
        let upload_id = match (&job.upload_id, job.state) {
            (Some(upload_id), BackupState::Running) => upload_id,
            _ => return Err(not_running(job)),
        };
        let bucket = self.bucket(&job.org_id, &job.destination_id).await?;
        let cap = bucket.traits().part_cap;
        let largest = walwarden_contract::parts::part_bytes(request.number, cap);
        if !(1..=cap).contains(&request.number) || request.bytes.size_bytes == 0 || request.bytes.size_bytes > largest {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "the part does not fit the schedule",
                "follow the part schedule of the instructions",
            ));
        }
        check_digest(&request.bytes)?;
        let digest = bucket.traits().part_digest;
        Ok(bucket.presign_part(
            &job.artifact_key(),
            upload_id,
            request.number,
            &request.bytes,
            digest,
            self.edge.timestamp(),
        )?)
    }

    /// A URL that takes exactly those bytes as parts list or annex.
    pub async fn document_url(&self, record: &Record<BackupJob>, request: &DocumentRequest) -> Result<SignedRequest> {
        let mut record = record.clone();
        loop {
            match self.document_url_as_read(&record, request).await {
                Err(refused) => self.reread_own(&mut record, refused).await?,
                signed => return signed,
            }
        }
    }

    async fn document_url_as_read(
        &self,
        record: &Record<BackupJob>,
        request: &DocumentRequest,
    ) -> Result<SignedRequest> {
        let job = &record.body;
        if job.state != BackupState::Running {
            return Err(not_running(job));
        }
        check_digest(&request.bytes)?;
        let (key, content_type, limit) = match request.document {
            DocumentKind::PartsList => (job.parts_key(), "application/json", parts::MAX_BYTES as u64),
            DocumentKind::Annex => (job.annex_key(), "application/gzip", annex::MAX_BYTES),
        };
        if request.bytes.size_bytes == 0 || request.bytes.size_bytes > limit {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                format!("the document must have 1 to {limit} bytes"),
                "report this: a runner does not make such a document",
            ));
        }
        let mut next = job.clone();
        let slot = match request.document {
            DocumentKind::PartsList => &mut next.parts_list,
            DocumentKind::Annex => &mut next.annex,
        };
        if slot.as_ref() != Some(&request.bytes) {
            if slot.is_some() {
                return Err(DomainError::refused(
                    ErrorCode::MeasurementsDiffer,
                    "a URL for other bytes was given before",
                    "a document is written once",
                ));
            }
            *slot = Some(request.bytes.clone());
            self.replace_backup(record, &next).await?;
        }
        let bucket = self.bucket(&job.org_id, &job.destination_id).await?;
        let until = crate::edge::timestamp(&job.retain_until);
        Ok(bucket.presign_put_locked(
            &key,
            &request.bytes,
            until,
            LockMode::Governance,
            content_type,
            self.edge.timestamp(),
        )?)
    }

    /// Stores a sign of life: an item of its own, never the log's head.
    pub async fn heartbeat(&self, org: &OrgId, database: &DatabaseId, job: &JobId, heartbeat: Heartbeat) -> Result<()> {
        let now = self.edge.now();
        let stored = StoredHeartbeat { heartbeat, at: now };
        let item = Item::new(&stored).ttl(self.edge.now_ms() / 1000 + 48 * 3600);
        Ok(self.table.write(Write::Put(keys::heartbeat(org, database, job), item)).await?)
    }

    /// The last sign of life.
    pub async fn last_heartbeat(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        job: &JobId,
    ) -> Result<Option<StoredHeartbeat>> {
        Ok(self.table.get(&keys::heartbeat(org, database, job)).await?.map(|r| r.body))
    }

    /// Takes the runner's measurements and moves the backup to `finalizing`. A repeat must be equal.
    pub async fn finish_backup(&self, record: &Record<BackupJob>, measured: BackupMeasurements) -> Result<BackupJob> {
        let mut record = record.clone();
        loop {
            match self.finish_as_read(&record, &measured).await {
                Err(refused) => self.reread_own(&mut record, refused).await?,
                finished => return finished,
            }
        }
    }

    async fn finish_as_read(&self, record: &Record<BackupJob>, measured: &BackupMeasurements) -> Result<BackupJob> {
        let job = &record.body;
        if let Some(known) = &job.measurements {
            return if known == measured {
                Ok(job.clone())
            } else {
                Err(DomainError::refused(
                    ErrorCode::MeasurementsDiffer,
                    "other measurements were accepted before",
                    "report this: a runner measures once",
                ))
            };
        }
        if !matches!(job.state, BackupState::Claimed | BackupState::Running) {
            return Err(conflict(job, BackupState::Finalizing));
        }
        if let Err(problem) = check_measurements(job, measured) {
            self.fail_backup(
                record,
                FailureClass::SealImpossible,
                &format!("runner:{}", job.id),
                AssertedBy::ControlPlane,
            )
            .await?;
            return Err(DomainError::refused(
                ErrorCode::Unprocessable,
                format!("impossible measurements: {problem}"),
                "please report this",
            ));
        }
        let mut next = job.clone();
        let step = Move {
            to: BackupState::Finalizing,
            event: Event::BackupFinalizing {
                checksum_sha256: measured.checksum_sha256.clone(),
                size_bytes: measured.size_bytes,
                parts: measured.parts,
                contents_digest: measured.contents.digest.clone(),
                annex_sha256: measured.annex.sha256.clone(),
            },
            actor: format!("runner:{}", job.id),
            asserted_by: AssertedBy::Runner,
        };
        next.measurements = Some(measured.clone());
        next.finished_at = Some(self.edge.now());
        next.due_at = Some(self.edge.in_seconds(SEAL_PATIENCE_SECONDS));
        self.move_backup(record, next, step, Vec::new()).await
    }
}

fn not_running(job: &BackupJob) -> DomainError {
    DomainError::refused(
        ErrorCode::StateConflict,
        format!("backup {} is {}, not running", job.id, job.state),
        "end this worker",
    )
}

fn check_digest(bytes: &BytesDigest) -> Result<()> {
    let md5 = bytes.md5.len() == 32 && bytes.md5.bytes().all(|b| b.is_ascii_hexdigit());
    if is_sha256(&bytes.sha256) && md5 {
        return Ok(());
    }
    Err(DomainError::refused(ErrorCode::InvalidRequest, "sha256 or md5 is not a digest", "send lower-case hex"))
}

/// What a source database says of itself goes into the log: no more of it than fits a line, and nothing unseen.
fn check_started(started: &Started) -> Result<()> {
    if is_version(&started.server_version) && is_version(&started.pg_dump_version) && is_time(&started.snapshot_at) {
        return Ok(());
    }
    Err(DomainError::refused(
        ErrorCode::InvalidRequest,
        "serverVersion and pgDumpVersion must have 1 to 200 printable characters, snapshotAt the form 2026-01-31T00:00:00.000Z",
        "update the runner",
    ))
}

/// What can be told impossible without reading the bucket.
fn check_measurements(job: &BackupJob, m: &BackupMeasurements) -> std::result::Result<(), &'static str> {
    let started = job.started.as_ref().ok_or("pg_dump was never started")?;
    let counts = [m.size_bytes, m.annex_lines, m.contents.entries, m.contents.tables, m.contents.rows, m.omissions];
    let rules = [
        (is_sha256(&m.checksum_sha256) && is_sha256(&m.contents.digest), "a digest is not a SHA-256"),
        (job.parts_list.as_ref() == Some(&m.parts_list), "the parts list is not the one a URL was given for"),
        (job.annex.as_ref() == Some(&m.annex), "the annex is not the one a URL was given for"),
        (m.size_bytes > 0 && m.parts > 0, "an empty artifact"),
        (m.parts <= S3_PART_CAP && m.size_bytes >= u64::from(m.parts), "more parts than bytes, or than the cap"),
        (m.contents.entries > 0 || m.compression == OPAQUE, "an archive without contents"),
        (m.contents.tables > 0 || m.contents.rows == 0, "rows without tables"),
        (started.snapshot_at == m.snapshot_at, "the snapshot is not the one that was reported"),
        (m.annex_lines > 0 && m.annex_uncompressed_bytes > 0, "an empty annex"),
        (m.annex_uncompressed_bytes <= annex::MAX_BYTES, "an annex larger than readers take"),
        (is_version(&m.server_version) && is_version(&m.pg_dump_version), "a version that is none"),
        (!m.source_database.is_empty(), "a source database without a name"),
        (counts.into_iter().all(|count| count <= MAX_INTEGER), "a count that no reader keeps exactly"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, problem)) => Err(problem),
        None => Ok(()),
    }
}
