//! Restores. Issuing a token creates the job; claiming with it spends the token and binds the CLI's
//! session. The control plane learns states and numbers, never a target.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walwarden_contract::{
    api::{CreateRestoreRequest, CreatedRestore, OneLiner, Progress, Restore},
    dsn::Dsn,
    errors::{ErrorCode, ErrorDetail},
    failure::{Failure, FailureClass},
    ids::{BackupId, DatabaseId, JobId, OrgId, RestoreId},
    quote,
    secret::Secret,
    states::{BackupState, RestoreState},
    time,
    token::{self, LIFETIME_SECONDS, RestoreMode, RestorePurpose, RestoreTokenPayload},
    worker::{InspectResponse, JobStatus, RestoreClaimResponse, RestoreInstructions, RestoreReport, Transition},
};
use walwarden_verifier::{
    dsse::{Envelope, Statement},
    entry::{AssertedBy, Event},
    jcs::MAX_INTEGER,
    keys::KeyUse,
    manifest, receipt,
};

use crate::{
    Domain,
    backups::{BackupJob, Claim, ReceiptRef, SignedStatement, is_version, same},
    error::{DomainError, Result},
    log::Draft,
    once::{Once, Replay},
    organizations::Principal,
    registry::pointer_write,
    table::{Item, Record, TableError, Write, keys},
};

/// Silence after which a claimed restore is given up.
pub const SILENCE_SECONDS: i64 = 600;
/// How long after its claim a restore's session is served, even when it was given up.
const SESSION_SECONDS: i64 = 24 * 3600;
/// Refusals of one token that are recorded: whoever keeps showing a spent one does not fill the log.
const RECORDED_REJECTIONS: u32 = 5;
/// Life of a presigned URL.
const URL_LIFETIME: Duration = Duration::from_secs(900);

/// A restore as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreJob {
    /// Organization.
    pub org_id: OrgId,
    /// Id.
    pub id: RestoreId,
    /// Database.
    pub database_id: DatabaseId,
    /// Backup.
    pub backup_id: BackupId,
    /// Its manifest hash.
    pub manifest_hash: String,
    /// Mode.
    pub mode: RestoreMode,
    /// Purpose.
    pub purpose: RestorePurpose,
    /// Name that the one-liner carries.
    pub created_database: Option<String>,
    /// The target without password.
    pub target_redacted_dsn: Option<String>,
    /// State.
    pub state: RestoreState,
    /// When the token was issued, seconds since 1970.
    pub issued_at: i64,
    /// Until when it can be claimed, seconds since 1970.
    pub expires_at: i64,
    /// Who works on it.
    pub claim: Claim,
    /// Version of the CLI.
    pub cli_version: Option<String>,
    /// What was done.
    pub report: Option<RestoreReport>,
    /// The receipt's statement.
    pub receipt: Option<SignedStatement>,
    /// Whether the receipt is in the bucket.
    pub receipt_published: bool,
    /// When it completed.
    pub completed_at: Option<String>,
    /// Why it failed.
    pub failure: Option<FailureClass>,
    /// How many refusals of its token were recorded.
    #[serde(default)]
    pub rejections: u32,
    /// When the sentinel is to look.
    pub due_at: Option<String>,
    /// Sequence number of the next entry.
    pub next_seq: u64,
}

impl RestoreJob {
    fn item(&self) -> Item {
        Item::new(self).state(self.state.as_str()).due(keys::SENTINEL_QUEUE, self.due_at.as_deref())
    }

    fn receipt_hash(&self) -> Option<String> {
        self.receipt.as_ref().map(|r| manifest::hash(r.statement.as_bytes()))
    }

    /// As the worker protocol shows it.
    pub fn status(&self) -> JobStatus {
        JobStatus {
            state: self.state.as_str().into(),
            r#final: self.state.is_final(),
            attempt: 1,
            failure: self.failure.map(Failure::from),
            manifest_hash: Some(self.manifest_hash.clone()),
            receipt_hash: self.receipt_hash(),
        }
    }
}

/// A token whose MAC was checked, and the job it leads to.
pub struct OpenedToken {
    /// What it says.
    pub payload: RestoreTokenPayload,
    /// Its job.
    pub record: Record<RestoreJob>,
}

impl Domain {
    /// Issues a restore token for a completed backup. Replayed while the job is unclaimed, it mints the
    /// same token again.
    pub async fn create_restore(
        &self,
        who: &Principal,
        request: CreateRestoreRequest,
        once: &Once,
    ) -> Result<CreatedRestore> {
        if let Replay::Revealed(id) = once.replay::<()>(self).await? {
            return self.revealed_again(&who.org, &id).await;
        }
        let backup = self.backup_by_id(&who.org, &request.backup_job_id).await?.body;
        who.require_database(&backup.database_id)?;
        let (BackupState::Completed, Some(manifest_hash)) = (backup.state, backup.manifest_hash.clone()) else {
            return Err(DomainError::Refused(Box::new(
                ErrorDetail::new(
                    ErrorCode::BackupNotCompleted,
                    format!("backup {} is {}, not completed", backup.id, backup.state),
                )
                .hint("choose a completed backup")
                .about(backup.id.as_str()),
            )));
        };
        check_created_database(request.mode, request.created_database.as_deref())?;
        let target_redacted_dsn = request.target_redacted_dsn.as_deref().map(redacted_target).transpose()?;
        let issued_at = self.edge.now_ms() / 1000;
        let database = self.database(&who.org, &backup.database_id).await?.body;
        let created_database = match (request.mode, request.created_database) {
            (RestoreMode::InPlace, _) => None,
            (RestoreMode::NewDatabase, Some(name)) => Some(name),
            // Every Supabase database is called `postgres`, which every target has already.
            (RestoreMode::NewDatabase, None) if source_name(&backup) == "postgres" => {
                Some(format!("{}_restore_{}", slug(&database.name), &self.edge.now()[..10].replace('-', "")))
            }
            (RestoreMode::NewDatabase, None) => None,
        };
        let purpose = request.purpose.unwrap_or(RestorePurpose::Restore);
        let job = RestoreJob {
            org_id: who.org.clone(),
            id: RestoreId::new(self.edge.now_ms() as u64, self.edge.random()),
            database_id: backup.database_id.clone(),
            backup_id: backup.id.clone(),
            manifest_hash: manifest_hash.clone(),
            mode: request.mode,
            purpose,
            created_database,
            target_redacted_dsn,
            state: RestoreState::Created,
            issued_at,
            expires_at: issued_at + LIFETIME_SECONDS,
            claim: Claim::default(),
            cli_version: None,
            report: None,
            receipt: None,
            receipt_published: false,
            completed_at: None,
            failure: None,
            rejections: 0,
            due_at: Some(time::format_ms((issued_at + LIFETIME_SECONDS) * 1000)),
            next_seq: 2,
        };
        let key = keys::restore(&who.org, &job.database_id, &job.id);
        let writes = vec![
            Write::Create(key, job.item()),
            pointer_write(&who.org, &JobId::Restore(job.id.clone()), &job.database_id),
            once.write_revealing(job.id.as_str()),
        ];
        let draft = Draft {
            job: Some((job.id.to_string(), 1)),
            event: Event::RestoreTokenIssued {
                backup_id: backup.id.to_string(),
                manifest_hash,
                mode: job.mode.as_str().into(),
                purpose: purpose.as_str().into(),
                expires_at: time::format_ms(job.expires_at * 1000),
            },
            actor: who.token.id.to_string(),
            asserted_by: AssertedBy::ControlPlane,
        };
        match self.log.commit(&who.org, writes, vec![draft]).await {
            Ok(()) => self.revealed(&job).await,
            // The same request, sent twice at once: both are shown the one token.
            Err(refused @ DomainError::Table(TableError::Condition(_))) => match once.replay::<()>(self).await? {
                Replay::Revealed(id) => self.revealed_again(&who.org, &id).await,
                _ => Err(refused),
            },
            Err(error) => Err(error),
        }
    }

    /// The token of a restore that was created under this idempotency key, as long as it is of use.
    async fn revealed_again(&self, org: &OrgId, id: &str) -> Result<CreatedRestore> {
        let id: RestoreId = id.parse().map_err(|e| DomainError::broken("idempotency record", e))?;
        let job = self.restore_by_id(org, &id).await?.body;
        if job.state != RestoreState::Created || job.expires_at <= self.edge.now_ms() / 1000 {
            return Err(Once::already_revealed(id.as_str()));
        }
        self.revealed(&job).await
    }

    async fn revealed(&self, job: &RestoreJob) -> Result<CreatedRestore> {
        let payload = RestoreTokenPayload {
            v: 1,
            kid: self.keyring.mac_key_id().into(),
            aud: self.settings.deployment.clone(),
            org_id: job.org_id.clone(),
            database_id: job.database_id.clone(),
            backup_id: job.backup_id.clone(),
            manifest_hash: job.manifest_hash.clone(),
            mode: job.mode,
            purpose: job.purpose,
            job_intent_id: job.id.clone(),
            iat: job.issued_at,
            exp: job.expires_at,
        };
        let encoded = payload.encode();
        let (_, mac) = self.keyring.mac(format!("{}{encoded}", token::MAC_CONTEXT).as_bytes()).await?;
        let token = token::join(&encoded, &mac);
        let arguments = one_liner_arguments(job);
        let environment = format!("WALWARDEN_BASE_URL={} WALWARDEN_TOKEN={token}", quote::sh(&self.settings.base_url));
        Ok(CreatedRestore {
            restore_job_id: job.id.clone(),
            state: job.state,
            expires_at: time::format_ms(job.expires_at * 1000),
            manifest_hash: job.manifest_hash.clone(),
            one_liner: OneLiner {
                native: Secret::new(format!("{environment} walwarden restore {arguments}")),
                npx: Secret::new(format!("{environment} npx --yes walwarden-cli restore {arguments}")),
            },
            token: Secret::new(token),
        })
    }

    /// Checks a token's MAC and audience and finds its job. A forged one is nobody's event.
    pub async fn open_token(&self, text: &str) -> Result<OpenedToken> {
        let forged = || {
            DomainError::refused(
                ErrorCode::TokenInvalid,
                "the restore token is not genuine",
                "copy the whole one-liner again, or issue a new token",
            )
        };
        let parts = token::split(text).map_err(|_| forged())?;
        // The audience is read before the MAC is known to be good: the answer is the same for everyone.
        if parts.payload.aud != self.settings.deployment {
            return Err(DomainError::refused(
                ErrorCode::TokenWrongAudience,
                "the restore token was issued by another server",
                "set WALWARDEN_BASE_URL to the server that issued it, as the one-liner does",
            ));
        }
        let message = format!("{}{}", token::MAC_CONTEXT, parts.encoded_payload);
        if !self.keyring.verify_mac(&parts.payload.kid, message.as_bytes(), &parts.mac).await? {
            return Err(forged());
        }
        let payload = parts.payload;
        let key = keys::restore(&payload.org_id, &payload.database_id, &payload.job_intent_id);
        let record = self.table.get::<RestoreJob>(&key).await?.ok_or_else(forged)?;
        if record.body.manifest_hash != payload.manifest_hash || record.body.backup_id != payload.backup_id {
            return Err(DomainError::broken(payload.job_intent_id.as_str(), "its genuine token says otherwise"));
        }
        Ok(OpenedToken { payload, record })
    }

    /// Refuses a token that can no longer be claimed, and records that it was presented.
    async fn refuse_spent(&self, opened: &OpenedToken) -> Result<()> {
        let job = &opened.record.body;
        let (code, reason, message) = match job.state {
            RestoreState::Created if job.expires_at > self.edge.now_ms() / 1000 => return Ok(()),
            RestoreState::Created => (ErrorCode::TokenExpired, "expired", "the restore token has expired"),
            RestoreState::Cancelled if job.claim.session_sha256.is_none() => {
                (ErrorCode::TokenExpired, "expired", "the restore token has expired")
            }
            _ => (ErrorCode::TokenUsed, "used", "the restore token was already used"),
        };
        if job.rejections < RECORDED_REJECTIONS {
            let mut next = job.clone();
            let seq = next.next_seq;
            next.next_seq += 1;
            next.rejections += 1;
            let write = Write::Replace(opened.record.key.clone(), opened.record.rev, next.item());
            let draft = Draft {
                job: Some((job.id.to_string(), seq)),
                event: Event::RestoreTokenRejected { reason: reason.into() },
                actor: "restore-token".into(),
                asserted_by: AssertedBy::ControlPlane,
            };
            match self.log.commit(&job.org_id, vec![write], vec![draft]).await {
                Ok(()) | Err(DomainError::Table(TableError::Condition(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Err(DomainError::Refused(Box::new(
            ErrorDetail::new(code, message)
                .hint("issue a new token from the same backup and run its one-liner")
                .about(job.id.as_str()),
        )))
    }

    /// What a token leads to; spends nothing.
    pub async fn inspect_restore(&self, text: &str) -> Result<InspectResponse> {
        let opened = self.open_token(text).await?;
        self.refuse_spent(&opened).await?;
        let job = &opened.record.body;
        let backup = self.backup(&job.org_id, &job.database_id, &job.backup_id).await?.body;
        let envelope = manifest_envelope(&backup)?;
        let bucket = self.bucket(&job.org_id, &backup.destination_id).await?;
        let annex_version = backup.seal.annex_version_id.as_deref().filter(|v| *v != manifest::NOT_OBSERVABLE);
        Ok(InspectResponse {
            org_id: job.org_id.clone(),
            restore_id: job.id.clone(),
            backup_id: job.backup_id.clone(),
            database_label: self.database(&job.org_id, &job.database_id).await?.body.name,
            mode: job.mode,
            purpose: job.purpose,
            envelope,
            annex: bucket.presign_get(&backup.annex_key(), annex_version, self.edge.timestamp(), URL_LIFETIME)?,
            expires_at: time::format_ms(job.expires_at * 1000),
        })
    }

    /// Spends a token: `restore.triggered` and `restore.claimed` together. The same session may replay.
    pub async fn claim_restore(
        &self,
        text: &str,
        session_sha256: &str,
        cli_version: &str,
    ) -> Result<RestoreClaimResponse> {
        let opened = self.open_token(text).await?;
        let job = &opened.record.body;
        let response =
            RestoreClaimResponse { org_id: job.org_id.clone(), restore_id: job.id.clone(), at: self.edge.now() };
        if job.claim.session_sha256.as_deref().is_some_and(|session| same(session, session_sha256)) {
            return Ok(response);
        }
        self.refuse_spent(&opened).await?;
        if !manifest::is_sha256(session_sha256) || !is_version(cli_version) {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "sessionSha256 or workerVersion is malformed",
                "update the CLI",
            ));
        }
        let mut next = job.clone();
        next.state = RestoreState::Claimed;
        next.claim.session_sha256 = Some(session_sha256.into());
        next.claim.claimed_at = Some(self.edge.now());
        next.cli_version = Some(cli_version.into());
        next.due_at = Some(self.edge.in_seconds(SILENCE_SECONDS));
        let seq = next.next_seq;
        next.next_seq += 2;
        let draft = |seq, event| Draft {
            job: Some((job.id.to_string(), seq)),
            event,
            actor: "restore-token".into(),
            asserted_by: AssertedBy::ControlPlane,
        };
        let drafts = vec![
            draft(seq, Event::RestoreTriggered { mode: job.mode.as_str().into() }),
            draft(seq + 1, Event::RestoreClaimed { cli_version: cli_version.into() }),
        ];
        let write = Write::Move(
            opened.record.key.clone(),
            opened.record.rev,
            RestoreState::Created.as_str().into(),
            next.item(),
        );
        match self.log.commit(&job.org_id, vec![write], drafts).await {
            Ok(()) => Ok(response),
            // Someone was first: perhaps this very session, whose answer was lost.
            Err(DomainError::Table(TableError::Condition(_))) => {
                let again = self.open_token(text).await?;
                if again
                    .record
                    .body
                    .claim
                    .session_sha256
                    .as_deref()
                    .is_some_and(|session| same(session, session_sha256))
                {
                    return Ok(response);
                }
                Err(DomainError::refused(
                    ErrorCode::TokenUsed,
                    "the restore token was already used",
                    "issue a new token",
                ))
            }
            Err(error) => Err(error),
        }
    }

    /// A fresh URL of that exact artifact version.
    pub async fn restore_instructions(&self, job: &RestoreJob) -> Result<RestoreInstructions> {
        let claimed = job.claim.claimed_at.as_deref().and_then(time::parse_ms).unwrap_or_default();
        let open = !job.state.is_final() || job.state == RestoreState::TimedOut;
        if !open || self.edge.now_ms() > claimed + SESSION_SECONDS * 1000 {
            return Err(DomainError::refused(
                ErrorCode::StateConflict,
                format!("restore {} is {}", job.id, job.state),
                "issue a new token",
            ));
        }
        let backup = self.backup(&job.org_id, &job.database_id, &job.backup_id).await?.body;
        let sealed = backup
            .seal
            .artifact
            .as_ref()
            .ok_or_else(|| DomainError::broken(backup.id.as_str(), "completed without an artifact"))?;
        let version = Some(sealed.version_id.as_str()).filter(|v| *v != manifest::NOT_OBSERVABLE);
        let bucket = self.bucket(&job.org_id, &backup.destination_id).await?;
        Ok(RestoreInstructions {
            restore_id: job.id.clone(),
            artifact: bucket.presign_get(&backup.artifact_key(), version, self.edge.timestamp(), URL_LIFETIME)?,
        })
    }

    /// A step that the CLI reports. A repeat, or a step behind the current one, changes nothing.
    pub async fn restore_step(&self, record: &Record<RestoreJob>, step: &Transition) -> Result<RestoreJob> {
        let mut record = record.clone();
        loop {
            match self.step_as_read(&record, step).await {
                Err(refused) => self.reread_restore(&mut record, refused).await?,
                done => return done,
            }
        }
    }

    /// What an act on a restore does when it was refused: read the restore again, for perhaps only bookkeeping came
    /// between (the sentinel's next look, a refused token). What is refused on the restore as it is now stays refused.
    async fn reread_restore(&self, record: &mut Record<RestoreJob>, refused: DomainError) -> Result<()> {
        if !refused.is_conflict() {
            return Err(refused);
        }
        let now = self.restore(&record.body.org_id, &record.body.database_id, &record.body.id).await?;
        if now.rev == record.rev {
            return Err(refused);
        }
        *record = now;
        Ok(())
    }

    async fn step_as_read(&self, record: &Record<RestoreJob>, step: &Transition) -> Result<RestoreJob> {
        let job = &record.body;
        let to = step.restore_state().ok_or_else(|| {
            DomainError::refused(ErrorCode::InvalidRequest, "a restore has no such step", "update the CLI")
        })?;
        if job.state == to || (!to.is_final() && !job.state.may_become(to)) {
            return Ok(job.clone());
        }
        let mut next = job.clone();
        let event = match step {
            Transition::Downloading {} => Event::RestoreDownloading {},
            Transition::Verifying {} => Event::RestoreVerifying {},
            Transition::ManifestVerified { checksum_sha256 } => {
                let backup = self.backup(&job.org_id, &job.database_id, &job.backup_id).await?.body;
                if backup.measurements.as_ref().map(|m| m.checksum_sha256.as_str()) != Some(checksum_sha256) {
                    return Err(DomainError::refused(
                        ErrorCode::ManifestMismatch,
                        "the checksum is not the backup's",
                        "do not restore from that file",
                    ));
                }
                Event::RestoreManifestVerified { checksum_sha256: checksum_sha256.clone() }
            }
            Transition::Restoring {} => Event::RestoreRestoring {},
            Transition::Finalizing {} => Event::RestoreFinalizing {},
            Transition::Cancelled { reason } => Event::RestoreCancelled { reason: reason.as_str().into() },
            Transition::Failed { class, .. } => {
                next.failure = Some(*class);
                Event::RestoreFailed { retryable: class.is_retryable(), class: class.as_str().into() }
            }
            Transition::Running { .. } => {
                return Err(DomainError::refused(
                    ErrorCode::InvalidRequest,
                    "a restore has no such step",
                    "update the CLI",
                ));
            }
        };
        next.due_at = (!to.is_final()).then(|| self.edge.in_seconds(SILENCE_SECONDS));
        self.move_restore(record, next, to, event, AssertedBy::Cli, Vec::new()).await
    }

    /// Writes a restore back without moving it.
    pub(crate) async fn replace_restore(&self, record: &Record<RestoreJob>, next: &RestoreJob) -> Result<()> {
        match self.table.write(Write::Replace(record.key.clone(), record.rev, next.item())).await {
            Err(TableError::Condition(_)) => Err(conflict(&record.body, record.body.state)),
            written => Ok(written?),
        }
    }

    /// Moves a restore with its entry.
    pub(crate) async fn move_restore(
        &self,
        record: &Record<RestoreJob>,
        mut next: RestoreJob,
        to: RestoreState,
        event: Event,
        asserted_by: AssertedBy,
        extra: Vec<Write>,
    ) -> Result<RestoreJob> {
        let job = &record.body;
        if !job.state.may_become(to) {
            return Err(conflict(job, to));
        }
        next.state = to;
        let seq = next.next_seq;
        next.next_seq += 1;
        let actor = if asserted_by == AssertedBy::Cli { format!("cli:{}", job.id) } else { "sentinel".into() };
        let mut writes = vec![Write::Move(record.key.clone(), record.rev, job.state.as_str().into(), next.item())];
        writes.extend(extra);
        let draft = Draft { job: Some((job.id.to_string(), seq)), event, actor, asserted_by };
        match self.log.commit(&job.org_id, writes, vec![draft]).await {
            Ok(()) => Ok(next),
            Err(DomainError::Table(TableError::Condition(refused))) if refused.contains(&0) => Err(conflict(job, to)),
            Err(error) => Err(error),
        }
    }

    /// Completes a restore and signs its receipt. A report after the watchdog gave up is accepted as late.
    pub async fn finish_restore(&self, record: &Record<RestoreJob>, report: RestoreReport) -> Result<RestoreJob> {
        let mut record = record.clone();
        loop {
            match self.finish_restore_as_read(&record, &report).await {
                // Another receipt, or a publisher, was first at the backup: it is read anew.
                Err(DomainError::Table(TableError::Condition(_))) => {}
                Err(refused) => self.reread_restore(&mut record, refused).await?,
                finished => return finished,
            }
        }
    }

    async fn finish_restore_as_read(&self, record: &Record<RestoreJob>, report: &RestoreReport) -> Result<RestoreJob> {
        let job = &record.body;
        if job.state == RestoreState::Completed {
            return if job.report.as_ref() == Some(report) {
                Ok(job.clone())
            } else {
                Err(DomainError::refused(
                    ErrorCode::MeasurementsDiffer,
                    "another report was accepted before",
                    "a restore reports once",
                ))
            };
        }
        if !matches!(report.proof.result.as_str(), "identical" | "notProven" | "notRun") {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "a completed restore's proof is identical, notProven or notRun",
                "report a difference as a failure",
            ));
        }
        if !job.state.may_become(RestoreState::Completed) {
            return Err(conflict(job, RestoreState::Completed));
        }
        let proof = &report.proof;
        let plan = &report.plan;
        let counts = [
            plan.restored,
            plan.adapted,
            plan.left_out,
            proof.tables,
            proof.rows,
            proof.sequences,
            proof.large_objects,
            proof.not_compared,
        ];
        let stated = is_version(&report.pg_restore_version) && is_version(&report.target_server_version);
        if !stated || counts.into_iter().any(|count| count > MAX_INTEGER) {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "a version is not 1 to 200 printable characters, or a count is too large: no receipt can state that",
                "update the CLI",
            ));
        }
        let backup_record = self.backup(&job.org_id, &job.database_id, &job.backup_id).await?;
        let backup = &backup_record.body;
        let measured = backup
            .measurements
            .as_ref()
            .ok_or_else(|| DomainError::broken(backup.id.as_str(), "completed without measurements"))?;
        if report.checksum_sha256 != measured.checksum_sha256 || report.bytes_restored != measured.size_bytes {
            return Err(DomainError::refused(
                ErrorCode::ManifestMismatch,
                "the restored artifact is not the backup's",
                "do not use the restored database",
            ));
        }
        let late = job.state == RestoreState::TimedOut;
        let completed_at = self.edge.now();
        let statement = Statement::new(
            backup.artifact_key(),
            measured.checksum_sha256.clone(),
            receipt::PREDICATE_TYPE,
            receipt::Restore {
                org_id: job.org_id.to_string(),
                database_id: job.database_id.to_string(),
                backup_id: job.backup_id.to_string(),
                restore_id: job.id.to_string(),
                manifest_hash: job.manifest_hash.clone(),
                log_origin: self.log.origin(&job.org_id),
                mode: job.mode.as_str().into(),
                purpose: job.purpose.as_str().into(),
                plan: report.plan.clone(),
                proof: report.proof.clone(),
                cli_version: job.cli_version.clone().unwrap_or_default(),
                pg_restore_version: report.pg_restore_version.clone(),
                target_server_version: report.target_server_version.clone(),
                claimed_at: job.claim.claimed_at.clone().unwrap_or_default(),
                completed_at: completed_at.clone(),
                late,
                asserted_by: "cli".into(),
            },
        );
        let bytes = walwarden_verifier::jcs::to_vec(&statement).map_err(|e| DomainError::broken("receipt", e))?;
        let mut next = job.clone();
        next.receipt = Some(self.sign_statement(KeyUse::Receipt, &bytes).await?);
        let receipt_hash = manifest::hash(&bytes);
        let event = Event::RestoreCompleted {
            bytes_restored: report.bytes_restored,
            checksum_sha256: report.checksum_sha256.clone(),
            proof: report.proof.result.clone(),
            late,
            receipt_hash: receipt_hash.clone(),
        };
        next.report = Some(report.clone());
        next.completed_at = Some(completed_at);
        next.failure = None;
        next.due_at = Some(self.edge.in_seconds(5));
        let mut backup_next = backup.clone();
        backup_next.receipts.push(ReceiptRef { restore_id: job.id.clone(), hash: receipt_hash });
        let extra = vec![Write::Replace(backup_record.key.clone(), backup_record.rev, backup_next.item())];
        self.move_restore(record, next, RestoreState::Completed, event, AssertedBy::Cli, extra).await
    }

    /// A restore by its id alone.
    pub async fn restore_by_id(&self, org: &OrgId, id: &RestoreId) -> Result<Record<RestoreJob>> {
        let missing = || DomainError::not_found("restore", id);
        let database = self.database_of(org, &JobId::Restore(id.clone())).await.map_err(|e| match e {
            DomainError::Refused(_) => missing(),
            other => other,
        })?;
        self.restore(org, &database, id).await
    }

    /// A restore.
    pub async fn restore(&self, org: &OrgId, database: &DatabaseId, id: &RestoreId) -> Result<Record<RestoreJob>> {
        self.table.get(&keys::restore(org, database, id)).await?.ok_or_else(|| DomainError::not_found("restore", id))
    }

    /// A restore as the API shows it.
    pub async fn show_restore(&self, job: &RestoreJob) -> Result<Restore> {
        let live = !job.state.is_final() && job.state != RestoreState::Created;
        let progress = if live {
            let id = JobId::Restore(job.id.clone());
            self.last_heartbeat(&job.org_id, &job.database_id, &id).await?.map(|stored| Progress {
                phase: stored.heartbeat.phase,
                bytes: stored.heartbeat.bytes,
                total_bytes: stored.heartbeat.total_bytes,
                bytes_per_second: stored.heartbeat.bytes_per_second,
                eta_seconds: stored.heartbeat.eta_seconds,
                at: stored.at,
            })
        } else {
            None
        };
        Ok(Restore {
            id: job.id.clone(),
            backup_job_id: job.backup_id.clone(),
            database_id: job.database_id.clone(),
            state: job.state,
            r#final: job.state.is_final(),
            mode: job.mode,
            purpose: job.purpose,
            manifest_hash: job.manifest_hash.clone(),
            created_at: time::format_ms(job.issued_at * 1000),
            expires_at: time::format_ms(job.expires_at * 1000),
            claimed_at: job.claim.claimed_at.clone(),
            completed_at: job.completed_at.clone(),
            failure: job.failure.map(Failure::from),
            progress,
            proof: job.report.as_ref().map(|r| r.proof.result.clone()),
            receipt_hash: job.receipt_hash(),
        })
    }
}

fn conflict(job: &RestoreJob, to: RestoreState) -> DomainError {
    DomainError::Refused(Box::new(
        ErrorDetail::new(
            ErrorCode::StateConflict,
            format!("restore {} is {} and cannot become {to} now", job.id, job.state),
        )
        .hint("read its state again")
        .about(job.id.as_str()),
    ))
}

/// The manifest envelope of a sealed backup, from its stored statement and signature.
pub(crate) fn manifest_envelope(backup: &BackupJob) -> Result<String> {
    let signed = backup
        .seal
        .manifest
        .as_ref()
        .ok_or_else(|| DomainError::broken(backup.id.as_str(), "completed without a manifest"))?;
    signed.envelope()
}

impl SignedStatement {
    /// The envelope around it, as stored in the bucket.
    pub fn envelope(&self) -> Result<String> {
        let signature = hex::decode(&self.signature).ok().and_then(|s| <[u8; 64]>::try_from(s).ok());
        let signature =
            signature.ok_or_else(|| DomainError::broken("signed statement", "its signature is not 64 bytes"))?;
        let envelope = Envelope::new(self.statement.as_bytes(), &self.key_id, &signature);
        let bytes = envelope.to_bytes().map_err(|e| DomainError::broken("envelope", e))?;
        String::from_utf8(bytes).map_err(|e| DomainError::broken("envelope", e))
    }
}

/// The target as people recognise it. A password never gets this far: it is refused, not stored.
fn redacted_target(text: &str) -> Result<String> {
    let invalid = |message: &str| {
        DomainError::refused(
            ErrorCode::InvalidRequest,
            message,
            "send host, port, user and database only, or leave it out",
        )
    };
    if text.len() > 1000 {
        return Err(invalid("targetRedactedDsn is longer than 1,000 bytes"));
    }
    let dsn = Dsn::parse(text).map_err(|_| invalid("targetRedactedDsn is not a connection string"))?;
    if dsn.password.is_some() {
        return Err(invalid("targetRedactedDsn holds a password, which must stay on your machine"));
    }
    Ok(dsn.redacted())
}

fn source_name(backup: &BackupJob) -> &str {
    backup.measurements.as_ref().map_or("", |m| m.source_database.as_str())
}

/// ASCII letters, digits and underscores, at most 40 bytes.
fn slug(name: &str) -> String {
    let mut out: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).take(40).collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        out.insert(0, '_');
        out.truncate(40);
    }
    out
}

fn one_liner_arguments(job: &RestoreJob) -> String {
    let mut arguments = format!("--manifest {} --mode {}", job.manifest_hash, job.mode.as_str());
    if let Some(name) = &job.created_database {
        arguments.push_str(&format!(" --created-database {}", quote::sh(name)));
    }
    if job.mode == RestoreMode::InPlace {
        arguments.push_str(" --confirm-destructive");
    }
    arguments
}

fn check_created_database(mode: RestoreMode, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    let mut bytes = name.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && name.len() <= 63;
    if mode == RestoreMode::InPlace || !fits {
        return Err(DomainError::refused(
            ErrorCode::InvalidRequest,
            "createdDatabase must match ^[A-Za-z_][A-Za-z0-9_-]*$ and goes with mode new_database only",
            "choose such a name, or leave it out",
        ));
    }
    Ok(())
}
