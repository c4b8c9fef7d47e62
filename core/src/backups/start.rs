//! Asking for a backup, launching a runner for an attempt, failing and trying again, cancelling.

use walwarden_contract::{
    api::TriggeredBackup,
    errors::{ErrorCode, ErrorDetail},
    failure::FailureClass,
    ids::{BackupId, DatabaseId, JobId, OrgId},
    secret::Secret,
    states::{BackupState, DestinationState},
};
use walwarden_verifier::entry::{AssertedBy, Event};

use super::job::{BackupJob, Claim, Leftover, Move, Publish, SealProgress};
use crate::{
    Domain,
    error::{DomainError, Result},
    log::Draft,
    once::{Once, Replay},
    organizations::fingerprint,
    registry::pointer_write,
    table::{Item, Record, TableError, Write, keys},
};

/// Attempts of one backup.
pub const MAX_ATTEMPTS: u32 = 3;
/// Life of a claim secret.
const CLAIM_SECONDS: i64 = 30 * 60;
/// How soon the sentinel looks after a backup that was queued and perhaps not launched.
const LAUNCH_PATIENCE_SECONDS: i64 = 60;
const DAY_SECONDS: i64 = 24 * 3600;

/// What a runner is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Organization.
    pub org: OrgId,
    /// The job.
    pub job: JobId,
    /// The one-time secret of this attempt.
    pub secret: Secret,
}

impl Domain {
    /// Queues a backup. One at a time per database: `ACTIVE` is put conditionally in the same transaction.
    pub async fn trigger_backup(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        trigger: &str,
        actor: &str,
        once: Option<&Once>,
    ) -> Result<TriggeredBackup> {
        self.trigger_backup_with(org, database, trigger, actor, once, Vec::new()).await
    }

    /// As `trigger_backup`, with writes that stand or fall with it: a schedule's tick is taken only if it starts
    /// something.
    pub(crate) async fn trigger_backup_with(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        trigger: &str,
        actor: &str,
        once: Option<&Once>,
        extra: Vec<Write>,
    ) -> Result<TriggeredBackup> {
        if let Some(once) = once
            && let Replay::Done(response) = once.replay(self).await?
        {
            return Ok(response);
        }
        let record = self.database(org, database).await?.body;
        let destination = self.destination(org, &record.destination_id).await?.body.info;
        if destination.state != DestinationState::Verified {
            return Err(DomainError::Refused(Box::new(
                ErrorDetail::new(
                    ErrorCode::DestinationNotVerified,
                    format!("destination {} is {}, not verified", destination.id, destination.state),
                )
                .hint("run its preflight and mend what fails")
                .about(destination.id.as_str()),
            )));
        }
        let now = self.edge.now();
        let id = BackupId::new(self.edge.now_ms() as u64, self.edge.random());
        let job = BackupJob {
            org_id: org.clone(),
            id: id.clone(),
            database_id: database.clone(),
            destination_id: destination.id,
            state: BackupState::Queued,
            trigger: trigger.into(),
            attempt: 1,
            created_at: now,
            retain_until: self.retain_until(record.retention_days),
            claim: Claim::default(),
            started: None,
            upload_id: None,
            parts_list: None,
            annex: None,
            measurements: None,
            finished_at: None,
            seal: SealProgress::default(),
            manifest_hash: None,
            completed_at: None,
            publish: Publish::NotYet,
            receipts: Vec::new(),
            failure: None,
            next_attempt_at: None,
            leftovers: Vec::new(),
            due_at: Some(self.edge.in_seconds(LAUNCH_PATIENCE_SECONDS)),
            next_seq: 2,
        };
        let response = TriggeredBackup { backup_job_id: id.clone(), state: job.state, r#final: false };
        let mut writes = vec![
            Write::Create(keys::active(org, database), Item::new(&id)),
            Write::Create(job.key(), job.item()),
            pointer_write(org, &JobId::Backup(id.clone()), database),
        ];
        if let Some(once) = once {
            writes.push(once.write(&response, id.as_str()));
        }
        writes.extend(extra);
        let draft = Draft {
            job: Some((id.to_string(), 1)),
            event: Event::BackupQueued { database_id: database.to_string(), trigger: trigger.into(), attempt: 1 },
            actor: actor.into(),
            asserted_by: AssertedBy::ControlPlane,
        };
        let committed = match (self.log.commit(org, writes, vec![draft]).await, once) {
            (Err(refused), Some(once)) => match once.lost(self, refused).await {
                Ok(response) => return Ok(response),
                Err(error) => Err(error),
            },
            (committed, _) => committed,
        };
        match committed {
            Ok(()) => Ok(response),
            Err(DomainError::Table(TableError::Condition(refused))) if refused.contains(&0) => {
                let active = self.table.get::<BackupId>(&keys::active(org, database)).await?;
                let mut detail = ErrorDetail::new(
                    ErrorCode::BackupAlreadyActive,
                    format!("a backup of {database} is under way; one runs at a time"),
                )
                .hint("wait for it to end, or cancel it");
                detail.resource_id = active.map(|r| r.body.to_string());
                Err(DomainError::Refused(Box::new(detail)))
            }
            Err(error) => Err(error),
        }
    }

    fn retain_until(&self, retention_days: u32) -> String {
        self.edge.in_seconds((i64::from(retention_days) + 1) * DAY_SECONDS)
    }

    /// Mints a claim secret for a job that waits for a runner; a new one replaces the last. `None` where
    /// the job no longer waits.
    pub async fn mint_launch(&self, org: &OrgId, job: &JobId) -> Result<Option<Launch>> {
        let database = self.database_of(org, job).await?;
        let secret = Secret::new(hex::encode(self.edge.random::<32>()));
        let mut claim = Claim {
            secret_sha256: Some(fingerprint(secret.expose())),
            expires_at: Some(self.edge.in_seconds(CLAIM_SECONDS)),
            ..Claim::default()
        };
        match job {
            JobId::Backup(id) => {
                let record = self.backup(org, &database, id).await?;
                if record.body.state != BackupState::Queued {
                    return Ok(None);
                }
                let mut next = record.body.clone();
                // Launched again because the last launch failed: the attempt's time runs from the first.
                if next.claim.expires_at.as_deref().is_some_and(|at| at > self.edge.now().as_str()) {
                    claim.expires_at = next.claim.expires_at;
                }
                next.claim = claim;
                next.due_at = next.claim.expires_at.clone();
                self.replace_backup(&record, &next).await?;
            }
            JobId::Check(id) => {
                let mut record = self.check_job(org, &database, id).await?;
                // A new secret would end the session of the runner that is at it.
                if crate::registry::check_is_final(record.body.state) || record.body.claim.session_sha256.is_some() {
                    return Ok(None);
                }
                record.body.claim = claim;
                self.replace_check(record).await?;
            }
            JobId::Restore(_) => return Ok(None),
        }
        Ok(Some(Launch { org: org.clone(), job: job.clone(), secret }))
    }

    /// Notes that a runner could not be started: it is tried again in a minute, as long as the claim could live.
    pub async fn launch_failed(&self, launch: &Launch) -> Result<()> {
        let database = self.database_of(&launch.org, &launch.job).await?;
        let minted = Some(fingerprint(launch.secret.expose()));
        match &launch.job {
            JobId::Backup(id) => {
                let record = self.backup(&launch.org, &database, id).await?;
                if record.body.state == BackupState::Queued && record.body.claim.secret_sha256 == minted {
                    let mut next = record.body.clone();
                    next.due_at = Some(self.edge.in_seconds(LAUNCH_PATIENCE_SECONDS));
                    self.replace_backup(&record, &next).await?;
                }
            }
            JobId::Check(id) => {
                let record = self.check_job(&launch.org, &database, id).await?;
                if record.body.claim.secret_sha256 == minted {
                    self.finish_check(record, Err(FailureClass::NeverClaimed), AssertedBy::ControlPlane).await?;
                }
            }
            JobId::Restore(_) => {}
        }
        Ok(())
    }

    /// Records that an attempt failed. Retryable and not the last: another follows after a pause.
    pub async fn fail_backup(
        &self,
        record: &Record<BackupJob>,
        class: FailureClass,
        actor: &str,
        asserted_by: AssertedBy,
    ) -> Result<BackupJob> {
        let mut next = record.body.clone();
        let again = class.is_retryable() && next.attempt < MAX_ATTEMPTS;
        next.failure = Some(class);
        next.leave_upload();
        let mut extra = Vec::new();
        if again {
            let pause = 30 * 4i64.pow(next.attempt - 1);
            let at = self.edge.in_seconds(pause + self.edge.jitter_ms(10_000) as i64 / 1000);
            next.next_attempt_at = Some(at.clone());
            next.due_at = Some(at);
        } else {
            next.next_attempt_at = None;
            next.due_at = (!next.leftovers.is_empty()).then(|| self.edge.now());
            extra.push(Write::Delete(keys::active(&next.org_id, &next.database_id)));
        }
        let step = Move {
            to: if again { BackupState::FailedRetryable } else { BackupState::FailedTerminal },
            event: Event::BackupFailed {
                attempt: next.attempt,
                retryable: class.is_retryable(),
                class: class.as_str().into(),
                r#final: !again,
            },
            actor: actor.into(),
            asserted_by,
        };
        self.move_backup(record, next, step, extra).await
    }

    /// Queues the next attempt of a backup that failed: fresh keys, fresh lock, nothing carried over.
    pub async fn retry_backup(&self, record: &Record<BackupJob>) -> Result<BackupJob> {
        let database = self.database(&record.body.org_id, &record.body.database_id).await?.body;
        let mut next = record.body.clone();
        next.attempt += 1;
        next.retain_until = self.retain_until(database.retention_days);
        next.claim = Claim::default();
        next.started = None;
        next.upload_id = None;
        next.parts_list = None;
        next.annex = None;
        next.measurements = None;
        next.finished_at = None;
        next.seal = SealProgress::default();
        next.next_attempt_at = None;
        next.due_at = Some(self.edge.in_seconds(LAUNCH_PATIENCE_SECONDS));
        let step = Move {
            to: BackupState::Queued,
            event: Event::BackupQueued {
                database_id: next.database_id.to_string(),
                trigger: "retry".into(),
                attempt: next.attempt,
            },
            actor: "sentinel".into(),
            asserted_by: AssertedBy::ControlPlane,
        };
        self.move_backup(record, next, step, Vec::new()).await
    }

    /// Cancels a backup that is not being sealed; its runner learns it with the next heartbeat.
    pub async fn cancel_backup(&self, record: &Record<BackupJob>, actor: &str) -> Result<BackupJob> {
        let mut record = record.clone();
        loop {
            match self.cancel_as_read(&record, actor).await {
                Err(refused) => self.reread(&mut record, refused).await?,
                cancelled => return cancelled,
            }
        }
    }

    async fn cancel_as_read(&self, record: &Record<BackupJob>, actor: &str) -> Result<BackupJob> {
        if record.body.state == BackupState::Cancelled {
            return Ok(record.body.clone());
        }
        let mut next = record.body.clone();
        next.leave_upload();
        next.next_attempt_at = None;
        next.due_at = (!next.leftovers.is_empty()).then(|| self.edge.now());
        let step = Move {
            to: BackupState::Cancelled,
            event: Event::BackupCancelled { attempt: next.attempt },
            actor: actor.into(),
            asserted_by: AssertedBy::ControlPlane,
        };
        let extra = vec![Write::Delete(keys::active(&next.org_id, &next.database_id))];
        self.move_backup(record, next, step, extra).await
    }

    /// Aborts uploads that ended attempts left behind; in `worker` only.
    pub(crate) async fn clear_leftovers(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<()> {
        let record = self.backup(org, database, id).await?;
        if record.body.leftovers.is_empty() {
            return Ok(());
        }
        let bucket = self.bucket(org, &record.body.destination_id).await?;
        for Leftover { key, upload_id } in &record.body.leftovers {
            if let Some(upload_id) = upload_id {
                bucket.abort_upload(key, upload_id).await?;
            }
            // No attempt but the one that ended uses its key.
            for found in bucket.list_uploads(key).await?.iter().filter(|found| found.key == *key) {
                bucket.abort_upload(key, &found.upload_id).await?;
            }
        }
        let mut next = record.body.clone();
        next.leftovers.clear();
        if next.state.is_final() {
            next.due_at = None;
        }
        self.replace_backup(&record, &next).await?;
        Ok(())
    }
}
