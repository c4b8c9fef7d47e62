//! Source checks: a runner looks whether a database can be backed up, without dumping it.

use serde::{Deserialize, Serialize};
use walwarden_contract::{
    api::SourceCheck,
    errors::ErrorCode,
    failure::{Failure, FailureClass},
    ids::{CheckId, DatabaseId, JobId, OrgId},
    states::CheckState,
    worker::{CheckInstructions, CheckReport, JobStatus},
};
use walwarden_verifier::entry::{AssertedBy, Event};

use crate::{
    Domain,
    backups::Claim,
    error::{DomainError, Result},
    log::Draft,
    registry::{check_is_final, pointer_write},
    table::{Item, Record, Write, keys},
};

/// A check that no runner has taken up or finished after this long is dead.
const PATIENCE_SECONDS: i64 = 15 * 60;

/// A check as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckJob {
    /// Organization.
    pub org_id: OrgId,
    /// Id.
    pub id: CheckId,
    /// Database.
    pub database_id: DatabaseId,
    /// State.
    pub state: CheckState,
    /// Who may work on it.
    pub claim: Claim,
    /// What was found.
    pub report: Option<CheckReport>,
    /// Why it failed.
    pub failure: Option<FailureClass>,
    /// Deadline.
    pub due_at: String,
}

impl CheckJob {
    pub(crate) fn new(domain: &Domain, org: &OrgId, database: &DatabaseId) -> Self {
        Self {
            org_id: org.clone(),
            id: CheckId::new(domain.edge.now_ms() as u64, domain.edge.random()),
            database_id: database.clone(),
            state: CheckState::Queued,
            claim: Claim::default(),
            report: None,
            failure: None,
            due_at: domain.edge.in_seconds(PATIENCE_SECONDS),
        }
    }

    fn item(&self) -> Item {
        let due = (!check_is_final(self.state)).then_some(self.due_at.as_str());
        Item::new(self).state(self.state.as_str()).due(keys::SENTINEL_QUEUE, due)
    }

    pub(crate) fn create_writes(&self) -> Vec<Write> {
        vec![
            Write::Create(keys::check(&self.org_id, &self.database_id, &self.id), self.item()),
            pointer_write(&self.org_id, &JobId::Check(self.id.clone()), &self.database_id),
        ]
    }

    /// As the API shows it.
    pub fn view(&self) -> SourceCheck {
        let report = self.report.clone();
        let claimed = self.state == CheckState::Queued && self.claim.session_sha256.is_some();
        SourceCheck {
            id: self.id.clone(),
            state: if claimed { CheckState::Claimed } else { self.state },
            r#final: check_is_final(self.state),
            failure: self.failure.map(Failure::from),
            server_version: report.as_ref().map(|r| r.server_version.clone()),
            size_bytes: report.as_ref().map(|r| r.size_bytes),
            problems: report.as_ref().map(|r| r.problems.clone()).unwrap_or_default(),
            warnings: report.as_ref().map(|r| r.warnings.clone()).unwrap_or_default(),
            preset: report.and_then(|r| r.preset),
        }
    }

    /// As the worker protocol shows it.
    pub fn status(&self) -> JobStatus {
        JobStatus {
            state: self.state.as_str().into(),
            r#final: check_is_final(self.state),
            attempt: 1,
            failure: self.failure.map(Failure::from),
            manifest_hash: None,
            receipt_hash: None,
        }
    }
}

impl Domain {
    /// A check.
    pub async fn check(&self, org: &OrgId, database: &DatabaseId, id: &CheckId) -> Result<Option<Record<CheckJob>>> {
        Ok(self.table.get(&keys::check(org, database, id)).await?)
    }

    /// A check that must be there.
    pub async fn check_job(&self, org: &OrgId, database: &DatabaseId, id: &CheckId) -> Result<Record<CheckJob>> {
        self.check(org, database, id).await?.ok_or_else(|| DomainError::not_found("check", id))
    }

    /// A runner claims a check.
    pub async fn claim_check(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        id: &CheckId,
        secret: &str,
        session_sha256: &str,
    ) -> Result<()> {
        let mut record = self.check_job(org, database, id).await?;
        if record.body.claim.take(secret, session_sha256, &self.edge.now())? {
            self.replace_check(record).await?;
        }
        Ok(())
    }

    /// Writes a check back: a claim was minted or taken.
    pub(crate) async fn replace_check(&self, record: Record<CheckJob>) -> Result<()> {
        let item = record.body.item();
        Ok(self.table.write(Write::Replace(record.key, record.rev, item)).await?)
    }

    /// What the runner needs to look.
    pub async fn check_instructions(&self, job: &CheckJob) -> Result<CheckInstructions> {
        if check_is_final(job.state) {
            return Err(DomainError::refused(ErrorCode::StateConflict, "the check has ended", "queue another check"));
        }
        let database = self.database(&job.org_id, &job.database_id).await?.body;
        Ok(CheckInstructions {
            check_id: job.id.clone(),
            database_id: job.database_id.clone(),
            dsn: self.source_dsn(&database).await?,
            allow_private_addresses: self.settings.network.policy().allow_private,
            omit_unreadable: database.omit_unreadable,
            selection: database.selection,
        })
    }

    /// Ends a check with what was found, or with why nothing could be.
    pub async fn finish_check(
        &self,
        record: Record<CheckJob>,
        outcome: Result<CheckReport, FailureClass>,
        asserted_by: AssertedBy,
    ) -> Result<JobStatus> {
        let mut job = record.body;
        if check_is_final(job.state) {
            let same = match &outcome {
                Ok(report) => job.report.as_ref() == Some(report),
                Err(class) => job.failure == Some(*class),
            };
            return if same {
                Ok(job.status())
            } else {
                Err(DomainError::refused(ErrorCode::StateConflict, "the check has ended", "queue another check"))
            };
        }
        let from = job.state;
        let (result, class) = match outcome {
            Ok(report) => {
                let result = if report.problems.is_empty() { "ready" } else { "failed" };
                if result == "failed" {
                    job.failure = Some(report.class.unwrap_or(FailureClass::SourcePermission));
                }
                job.report = Some(report);
                job.state = CheckState::Completed;
                (result, job.failure.map(|c| c.as_str()).unwrap_or_default())
            }
            Err(class) => {
                job.failure = Some(class);
                job.state = CheckState::Failed;
                ("failed", class.as_str())
            }
        };
        let draft = Draft {
            job: None,
            event: Event::DatabaseChecked {
                database_id: job.database_id.to_string(),
                result: result.into(),
                class: class.into(),
            },
            actor: job.id.to_string(),
            asserted_by,
        };
        let write = Write::Move(record.key, record.rev, from.as_str().into(), job.item());
        self.log.commit(&job.org_id, vec![write], vec![draft]).await?;
        Ok(job.status())
    }
}
