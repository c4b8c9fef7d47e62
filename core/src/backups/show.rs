//! Backups as the API shows them.

use walwarden_contract::{
    api::{Artifact, Backup, Backups, ManifestSummary, Progress},
    failure::Failure,
    ids::{DatabaseId, JobId, OrgId},
    states::BackupState,
};

use super::job::BackupJob;
use crate::{Domain, error::Result, table::keys};

impl BackupJob {
    /// Its manifest, once sealed.
    pub fn manifest_summary(&self) -> Option<ManifestSummary> {
        let signed = self.seal.manifest.as_ref()?;
        Some(ManifestSummary {
            sha256: self.manifest_hash.clone()?,
            key: self.manifest_key(),
            key_id: signed.key_id.clone(),
            signed: true,
        })
    }

    fn artifact(&self, bucket: &str) -> Option<Artifact> {
        let (measured, sealed) = (self.measurements.as_ref()?, self.seal.artifact.as_ref()?);
        Some(Artifact {
            bucket: bucket.into(),
            key: self.artifact_key(),
            version_id: sealed.version_id.clone(),
            size_bytes: measured.size_bytes,
            checksum_sha256: measured.checksum_sha256.clone(),
            server_version: measured.server_version.clone(),
            compression: measured.compression.clone(),
            tables: measured.contents.tables,
            rows: measured.contents.rows,
            omissions: measured.omissions,
            retain_until: sealed.retention.retain_until.clone(),
            manifest: self.manifest_summary()?,
        })
    }
}

impl Domain {
    /// A backup as the API shows it.
    pub async fn show_backup(&self, job: &BackupJob) -> Result<Backup> {
        let live = matches!(job.state, BackupState::Claimed | BackupState::Running | BackupState::Finalizing);
        let progress = if live {
            let id = JobId::Backup(job.id.clone());
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
        let artifact = if job.state == BackupState::Completed {
            let destination = self.destination(&job.org_id, &job.destination_id).await?;
            job.artifact(&destination.body.info.bucket)
        } else {
            None
        };
        let failed = matches!(job.state, BackupState::FailedRetryable | BackupState::FailedTerminal);
        Ok(Backup {
            id: job.id.clone(),
            database_id: job.database_id.clone(),
            state: job.state,
            r#final: job.state.is_final(),
            trigger: job.trigger.clone(),
            attempt: job.attempt,
            created_at: job.created_at.clone(),
            started_at: job.claim.claimed_at.clone(),
            snapshot_at: job.started.as_ref().map(|s| s.snapshot_at.clone()),
            completed_at: job.completed_at.clone(),
            next_attempt_at: job.next_attempt_at.clone(),
            failure: job.failure.filter(|_| failed).map(Failure::from),
            progress,
            artifact,
        })
    }

    /// A database's backups, newest first.
    pub async fn backups_shown(
        &self,
        org: &OrgId,
        database: &DatabaseId,
        cursor: Option<&str>,
        limit: i32,
    ) -> Result<Backups> {
        let pk = keys::database_partition(org, database);
        // The cursor is a backup id: bound to this organization and database by the partition it is used in.
        let after = cursor.map(|id| format!("BACKUP#{id}"));
        // One more than asked for tells whether there is a next page.
        let page = self.table.query::<BackupJob>(&pk, "BACKUP#", true, limit + 1, after.as_deref()).await?;
        let shown = page.records.len().min(limit as usize);
        let mut backups = Vec::with_capacity(shown);
        for record in &page.records[..shown] {
            backups.push(self.show_backup(&record.body).await?);
        }
        // A page may also be short of what was asked for: DynamoDB ends it at a megabyte.
        let more = page.records.len() > shown || page.next.is_some();
        let next_cursor = backups.last().filter(|_| more).map(|b| b.id.to_string());
        Ok(Backups { backups, next_cursor })
    }
}
