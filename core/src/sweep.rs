//! What the sentinel does each minute: it looks at what is due, reads it again by key, and acts on what it
//! finds. It decides; what needs secrets or the bucket is handed to `worker`, and runners to `dispatch`.

use serde::{Deserialize, Serialize};
use walwarden_contract::{
    failure::FailureClass,
    ids::{BackupId, DatabaseId, JobId, OrgId},
    states::{BackupState, RestoreState},
    time,
};
use walwarden_verifier::entry::{AssertedBy, Event};

use crate::{
    Domain,
    backups::{BackupJob, Publish, SILENCE_SECONDS},
    calls::WorkerCall,
    checks::CheckJob,
    error::{DomainError, Result},
    log::Draft,
    once::Once,
    registry::DatabaseRecord,
    restores::{self, RestoreJob},
    table::{Item, Key, Record, TableError, Write, keys},
};

/// Longest time between two sweeps of a sentinel that was there all the while.
const LONGEST_GAP_MS: i64 = 90 * 1000;

/// When the sentinel last swept, whichever process it was: by the machine's clock and not by the edge's, which tests turn.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastSweep {
    at_ms: i64,
}

/// Jobs looked at in one sweep: many, so that some that cannot be moved do not stand before all others.
const BATCH: usize = 2000;
/// How soon an errand is run again whose end was not heard of. Whoever runs it takes the due date away; until then a
/// bucket that is out of reach must not be asked by every sweep anew.
const ERRAND_SECONDS: i64 = 60;

/// What a sweep asks others to do.
#[derive(Debug, Clone)]
pub enum Errand {
    /// Ask `worker`.
    Worker(WorkerCall),
    /// Launch a runner for a queued attempt.
    Launch(OrgId, JobId),
}

impl Domain {
    /// One sweep. A job whose sweep fails is logged and comes again; it holds up no other.
    pub async fn sweep(&self) -> Result<Vec<Errand>> {
        let away = self.was_away().await?;
        let due = self.table.due(keys::SENTINEL_QUEUE, &self.edge.now(), BATCH).await?;
        let mut errands = Vec::new();
        for key in due {
            match self.sweep_one(&key, away).await {
                Ok(errand) => errands.extend(errand),
                Err(DomainError::Refused(detail)) => {
                    tracing::debug!(pk = key.pk, sk = key.sk, message = detail.message, "moved meanwhile")
                }
                Err(error) => tracing::error!(pk = key.pk, sk = key.sk, %error, "sweep failed"),
            }
        }
        Ok(errands)
    }

    /// Whether nobody swept for a while: what was said meanwhile was not heard, and nobody is given up for silence.
    async fn was_away(&self) -> Result<bool> {
        let key = keys::last_sweep();
        let at_ms = jiff::Timestamp::now().as_millisecond();
        let last = self.table.get::<LastSweep>(&key).await?.map(|record| record.body.at_ms);
        self.table.write(Write::Put(key, Item::new(&LastSweep { at_ms }))).await?;
        Ok(last.is_some_and(|last| !(0..=LONGEST_GAP_MS).contains(&(at_ms - last))))
    }

    /// Has the next sweep take place as though the last had been so many seconds ago: for tests.
    pub async fn age_last_sweep(&self, seconds: i64) -> Result<()> {
        let at_ms = jiff::Timestamp::now().as_millisecond() - seconds * 1000;
        Ok(self.table.write(Write::Put(keys::last_sweep(), Item::new(&LastSweep { at_ms }))).await?)
    }

    async fn sweep_one(&self, key: &Key, away: bool) -> Result<Option<Errand>> {
        match key.sk.split('#').next() {
            Some("BACKUP") => match self.table.get::<BackupJob>(key).await? {
                Some(record) if is_due(record.body.due_at.as_deref(), &self.edge.now()) => {
                    self.sweep_backup(record, away).await
                }
                _ => Ok(None),
            },
            Some("RESTORE") => match self.table.get::<RestoreJob>(key).await? {
                Some(record) if is_due(record.body.due_at.as_deref(), &self.edge.now()) => {
                    self.sweep_restore(record, away).await
                }
                _ => Ok(None),
            },
            Some("CHECK") => match self.table.get::<CheckJob>(key).await? {
                Some(record)
                    if is_due(Some(&record.body.due_at), &self.edge.now())
                        && !crate::registry::check_is_final(record.body.state) =>
                {
                    let claimed = record.body.claim.session_sha256.is_some();
                    let class = if claimed { FailureClass::RunnerLost } else { FailureClass::NeverClaimed };
                    self.finish_check(record, Err(class), AssertedBy::ControlPlane).await?;
                    Ok(None)
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Until when silence since `last` is borne. Whoever could not be heard, because nobody was there, has as long again.
    fn silent_until(&self, last: &str, seconds: i64, away: bool) -> i64 {
        let heard = time::parse_ms(last).unwrap_or_default();
        if away { self.edge.now_ms().max(heard) + seconds * 1000 } else { heard + seconds * 1000 }
    }

    async fn sweep_backup(&self, record: Record<BackupJob>, away: bool) -> Result<Option<Errand>> {
        let job = &record.body;
        let (org, database, backup) = (job.org_id.clone(), job.database_id.clone(), job.id.clone());
        let id = JobId::Backup(backup.clone());
        match job.state {
            // Launched and never claimed while its secret lived; or not launched yet, or in vain.
            BackupState::Queued => {
                if job.claim.expires_at.as_deref().is_some_and(|at| at <= self.edge.now().as_str()) {
                    self.fail_backup(&record, FailureClass::NeverClaimed, "sentinel", AssertedBy::ControlPlane).await?;
                    return Ok(None);
                }
                Ok(Some(Errand::Launch(org, id)))
            }
            BackupState::Claimed | BackupState::Running => {
                let claimed = job.claim.claimed_at.clone().unwrap_or_default();
                let last = self
                    .last_heartbeat(&org, &database, &id)
                    .await?
                    .map(|h| h.at)
                    .filter(|at| *at > claimed)
                    .unwrap_or(claimed);
                let silent_until = self.silent_until(&last, SILENCE_SECONDS, away);
                if silent_until <= self.edge.now_ms() {
                    self.fail_backup(&record, FailureClass::RunnerLost, "sentinel", AssertedBy::ControlPlane).await?;
                    return Ok(Some(Errand::Worker(WorkerCall::ClearLeftovers { org, database, backup })));
                }
                let mut next = job.clone();
                next.due_at = Some(time::format_ms(silent_until));
                self.replace_backup(&record, &next).await?;
                Ok(None)
            }
            BackupState::Finalizing => Ok(Some(Errand::Worker(WorkerCall::Seal { org, database, backup }))),
            BackupState::FailedRetryable => {
                self.retry_backup(&record).await?;
                Ok(Some(Errand::Launch(org, id)))
            }
            BackupState::Completed | BackupState::FailedTerminal | BackupState::Cancelled => {
                let call = if job.publish == Publish::Pending {
                    Some(WorkerCall::Publish { org, database, backup })
                } else {
                    (!job.leftovers.is_empty()).then_some(WorkerCall::ClearLeftovers { org, database, backup })
                };
                let mut next = job.clone();
                next.due_at = call.as_ref().map(|_| self.edge.in_seconds(ERRAND_SECONDS));
                self.replace_backup(&record, &next).await?;
                Ok(call.map(Errand::Worker))
            }
        }
    }

    async fn sweep_restore(&self, record: Record<RestoreJob>, away: bool) -> Result<Option<Errand>> {
        let job = &record.body;
        let mut next = job.clone();
        match job.state {
            RestoreState::Created => {
                next.due_at = None;
                let event = Event::RestoreCancelled { reason: "tokenExpired".into() };
                self.move_restore(&record, next, RestoreState::Cancelled, event, AssertedBy::ControlPlane, Vec::new())
                    .await?;
            }
            RestoreState::Completed => {
                let call = (!job.receipt_published).then(|| WorkerCall::PublishReceipt {
                    org: job.org_id.clone(),
                    database: job.database_id.clone(),
                    restore: job.id.clone(),
                });
                next.due_at = call.as_ref().map(|_| self.edge.in_seconds(ERRAND_SECONDS));
                self.replace_restore(&record, &next).await?;
                return Ok(call.map(Errand::Worker));
            }
            state if !state.is_final() => {
                let id = JobId::Restore(job.id.clone());
                let claimed = job.claim.claimed_at.clone().unwrap_or_default();
                let last = self.last_heartbeat(&job.org_id, &job.database_id, &id).await?.map_or(claimed, |h| h.at);
                let silent_until = self.silent_until(&last, restores::SILENCE_SECONDS, away);
                if silent_until <= self.edge.now_ms() {
                    next.due_at = None;
                    self.move_restore(
                        &record,
                        next,
                        RestoreState::TimedOut,
                        Event::RestoreTimedOut {},
                        AssertedBy::ControlPlane,
                        Vec::new(),
                    )
                    .await?;
                } else {
                    next.due_at = Some(time::format_ms(silent_until));
                    self.replace_restore(&record, &next).await?;
                }
            }
            _ => {
                next.due_at = None;
                self.replace_restore(&record, &next).await?;
            }
        }
        Ok(None)
    }

    /// Databases whose tick has come, for the local scheduler: each starts at most one backup, a tick that
    /// finds one under way is skipped, and ticks that passed while nothing ran are recorded as missed.
    pub async fn ticks(&self) -> Result<Vec<Errand>> {
        let due = self.table.due(keys::TICK_QUEUE, &self.edge.now(), BATCH).await?;
        let mut errands = Vec::new();
        for key in due {
            let Some(record) = self.table.get::<DatabaseRecord>(&key).await? else { continue };
            let Some(tick) = record.body.next_tick.clone().filter(|t| t.as_str() <= self.edge.now().as_str()) else {
                continue;
            };
            match self.tick(record, &tick).await {
                Ok(errand) => errands.extend(errand),
                Err(error) => tracing::error!(sk = key.sk, %error, "scheduled tick failed"),
            }
        }
        Ok(errands)
    }

    async fn tick(&self, record: Record<DatabaseRecord>, tick: &str) -> Result<Option<Errand>> {
        let (org, database): (OrgId, DatabaseId) = (record.body.org_id.clone(), record.body.id.clone());
        let mut next = record.body.clone();
        next.next_tick = self.next_tick(next.schedule.as_deref())?;
        let write = Write::Replace(record.key.clone(), record.rev, next.item());
        let late_ms = self.edge.now_ms() - time::parse_ms(tick).unwrap_or_default();
        if late_ms > 5 * 60 * 1000 {
            let event = Event::BackupMissed { database_id: database.to_string(), tick: tick.into() };
            self.log.commit(&org, vec![write], vec![Draft::standing(event, "schedule")]).await?;
            return Ok(None);
        }
        // The tick is taken in the transaction that queues the backup or records why none was: of two schedulers one
        // wins, and the tick of one that dies comes again.
        match self.scheduled_backup_with(&org, &database, tick, None, vec![write]).await {
            Ok(started) => Ok(started.map(|backup| Errand::Launch(org, JobId::Backup(backup)))),
            Err(DomainError::Table(TableError::Condition(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A schedule's tick: queues a backup, or records why it was skipped. A scheduler that fires the same tick twice
    /// finds the backup that it started.
    pub async fn scheduled_backup(&self, org: &OrgId, database: &DatabaseId, tick: &str) -> Result<Option<BackupId>> {
        let once = Once::new(self, org, "schedule", &format!("tick:{database}"), tick, &[]);
        self.scheduled_backup_with(org, database, tick, Some(&once), Vec::new()).await
    }

    async fn scheduled_backup_with(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        tick: &str,
        once: Option<&Once>,
        writes: Vec<Write>,
    ) -> Result<Option<BackupId>> {
        match self.trigger_backup_with(org, database, "schedule", "schedule", once, writes.clone()).await {
            Ok(triggered) => Ok(Some(triggered.backup_job_id)),
            Err(DomainError::Refused(detail)) => {
                let event = Event::BackupSkipped {
                    database_id: database.to_string(),
                    tick: tick.into(),
                    reason: detail.code.as_str().into(),
                };
                self.log.commit(org, writes, vec![Draft::standing(event, "schedule")]).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_due(due_at: Option<&str>, now: &str) -> bool {
    due_at.is_some_and(|at| at <= now)
}
