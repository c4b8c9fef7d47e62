//! Evidence: bundles made of what the log and the jobs hold, and everything that is published into the
//! customer's bucket so that it is enough without us: checkpoint, keys, bundle, receipts.

use walwarden_contract::{
    api::{Evidence, IntegrityVerification},
    errors::{ErrorCode, ErrorDetail},
    ids::{BackupId, DatabaseId, OrgId, RestoreId},
    states::BackupState,
    time,
};
use walwarden_verifier::{
    bundle::{self, BundleAnnex, BundleContents, BundleIndex, Proof},
    entry::Event,
    manifest,
};

use crate::{
    Domain,
    backups::{BackupJob, Publish},
    destinations::{Bucket, PutOutcome},
    error::{DomainError, Result},
    log::Draft,
    restores::{RestoreJob, manifest_envelope},
    table::{Record, Write, keys},
};

/// Evidence of at most this many backups of a database is listed, the newest.
const LISTED: usize = 200;
/// Bundles prove consistency with at most this many older checkpoints, the newest.
const MAX_CONSISTENCY_PROOFS: usize = 1000;

impl Domain {
    /// A bundle as of now, with a fresh checkpoint; in `worker` only. Same backup, same tree size, same
    /// receipts: same bytes.
    pub(crate) async fn bundle_now(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<Vec<u8>> {
        let backup = self.completed(org, database, id).await?.body;
        let (checkpoint, note) = self.log.checkpoint(org, &self.keyring).await?;
        self.bundle(&backup, checkpoint.size, &note).await
    }

    async fn bundle(&self, backup: &BackupJob, size: u64, note: &str) -> Result<Vec<u8>> {
        let org = &backup.org_id;
        let measured = backup
            .measurements
            .as_ref()
            .ok_or_else(|| DomainError::broken(backup.id.as_str(), "completed without measurements"))?;
        let mut indexes = self.log.job_indexes(org, backup.id.as_str()).await?;
        let mut receipts = Vec::new();
        for receipt in &backup.receipts {
            let restore = self.restore(org, &backup.database_id, &receipt.restore_id).await?.body;
            let Some(signed) = &restore.receipt else { continue };
            // Its completion was written with the receipt, which was read before the tree's size was: it is inside.
            // What came later (a spent token that was shown again) is cut off with the rest below.
            indexes.extend(self.log.job_indexes(org, restore.id.as_str()).await?);
            receipts.push((restore.id.to_string(), signed.envelope()?.into_bytes()));
        }
        indexes.retain(|i| *i < size);
        indexes.sort_unstable();
        receipts.sort();
        let entries = self.log.entries(org, &indexes).await?;
        let mut hashes = self.log.hashes(org, size);
        let mut proofs = Vec::with_capacity(indexes.len());
        for index in &indexes {
            let path = hashes.inclusion(*index).await?;
            proofs.push(Proof::Inclusion { index: *index, path });
        }
        let mut older = self.log.published_sizes(org).await?;
        older.retain(|s| *s < size && *s > 0);
        for old in older.iter().skip(older.len().saturating_sub(MAX_CONSISTENCY_PROOFS)) {
            let path = hashes.consistency(*old).await?;
            proofs.push(Proof::Consistency { size: *old, path });
        }
        let contents = BundleContents {
            index: BundleIndex {
                v: bundle::VERSION.into(),
                origin: self.log.origin(org),
                org_id: org.to_string(),
                database_id: backup.database_id.to_string(),
                backup_id: backup.id.to_string(),
                manifest_hash: backup.manifest_hash.clone().unwrap_or_default(),
                tree_size: size,
                root: hex::encode(hashes.root().await?),
                annex: BundleAnnex {
                    key: backup.annex_key(),
                    sha256: measured.annex.sha256.clone(),
                    size_bytes: measured.annex.size_bytes,
                },
                files: Vec::new(),
            },
            envelope: manifest_envelope(backup)?.into_bytes(),
            entries,
            proofs,
            checkpoint: note.as_bytes().to_vec(),
            receipts,
            keys_pem: self.keyring.public_keys().to_pem(),
        };
        bundle::write(&contents).map_err(|e| DomainError::broken("evidence bundle", e))
    }

    /// Records that a bundle was asked for; the bundle made after it holds that entry's tree.
    pub async fn record_export(&self, org: &OrgId, id: &BackupId, actor: &str) -> Result<()> {
        let event = Event::EvidenceExported { backup_id: id.to_string() };
        self.log.commit(org, Vec::new(), vec![Draft::standing(event, actor)]).await
    }

    /// Publishes checkpoint, keys and bundle of a completed backup into its bucket; in `worker` only.
    /// Each object is written once under lock; a repeat finds it there.
    pub(crate) async fn publish(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<()> {
        let record = self.backup(org, database, id).await?;
        if record.body.publish != Publish::Pending {
            return Ok(());
        }
        let bucket = self.bucket(org, &record.body.destination_id).await?;
        let (checkpoint, note) = self.log.checkpoint(org, &self.keyring).await?;
        let epoch = self.settings.epoch;
        let key = format!("org/{org}/log/{epoch}/{:020}", checkpoint.size);
        let until = &record.body.retain_until;
        put_once(&bucket, &key, note.as_bytes(), until, "text/plain; charset=utf-8").await?;
        self.fault_point("publish:checkpoint-written");
        self.log.record_checkpoint(org, checkpoint.size, &note).await?;
        self.fault_point("publish:checkpoint-recorded");
        for public in self.keyring.public_keys().keys() {
            let key = format!("org/{org}/keys/{}.pem", public.id);
            put_once(&bucket, &key, public.to_pem().as_bytes(), until, "application/x-pem-file").await?;
        }
        self.fault_point("publish:keys-written");
        let bytes = self.bundle(&record.body, checkpoint.size, &note).await?;
        put_first(&bucket, &record.body.bundle_key(), &bytes, until, "application/gzip").await?;
        self.fault_point("publish:bundle-written");
        let mut next = record.body.clone();
        next.publish = Publish::Done;
        next.due_at = (!next.leftovers.is_empty()).then(|| self.edge.now());
        let event = Event::LogCheckpoint { size: checkpoint.size, root: hex::encode(checkpoint.root) };
        let write = Write::Replace(record.key.clone(), record.rev, next.item());
        match self.log.commit(org, vec![write], vec![Draft::standing(event, "sealer")]).await {
            Ok(()) => Ok(()),
            // Someone else published it, or a receipt was added meanwhile: the sentinel comes again.
            Err(DomainError::Table(crate::table::TableError::Condition(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts a completed restore's receipt beside the artifact; in `worker` only.
    pub(crate) async fn publish_receipt(&self, org: &OrgId, database: &DatabaseId, id: &RestoreId) -> Result<()> {
        let record: Record<RestoreJob> = self.restore(org, database, id).await?;
        let Some(signed) = record.body.receipt.as_ref().filter(|_| !record.body.receipt_published) else {
            return Ok(());
        };
        let backup = self.backup(org, database, &record.body.backup_id).await?.body;
        let bucket = self.bucket(org, &backup.destination_id).await?;
        let envelope = signed.envelope()?;
        // As long as the backup is locked; a restore after that still locks its receipt for a day.
        let until = backup.retain_until.clone().max(self.edge.in_seconds(24 * 3600));
        put_once(&bucket, &backup.receipt_key(id), envelope.as_bytes(), &until, "application/json").await?;
        let mut next = record.body.clone();
        next.receipt_published = true;
        next.due_at = None;
        match self.replace_restore(&record, &next).await {
            Ok(()) | Err(DomainError::Table(crate::table::TableError::Condition(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn completed(&self, org: &OrgId, database: &DatabaseId, id: &BackupId) -> Result<Record<BackupJob>> {
        let record = self.backup(org, database, id).await?;
        if record.body.state != BackupState::Completed {
            return Err(DomainError::Refused(Box::new(
                ErrorDetail::new(
                    ErrorCode::BackupNotCompleted,
                    format!("backup {id} is {}, not completed", record.body.state),
                )
                .hint("evidence exists of completed backups")
                .about(id.as_str()),
            )));
        }
        Ok(record)
    }

    /// Evidence about a completed backup as the API shows it.
    pub async fn show_evidence(&self, org: &OrgId, id: &BackupId) -> Result<Evidence> {
        let record = self.backup_by_id(org, id).await?;
        let backup = self.completed(org, &record.body.database_id, id).await?.body;
        self.evidence_of(&backup)
    }

    fn evidence_of(&self, backup: &BackupJob) -> Result<Evidence> {
        let broken = || DomainError::broken(backup.id.as_str(), "completed without its evidence");
        let measured = backup.measurements.as_ref().ok_or_else(broken)?;
        let sealed = backup.seal.artifact.as_ref().ok_or_else(broken)?;
        let completed_at = backup.completed_at.clone().ok_or_else(broken)?;
        let mut checks: Vec<String> =
            ["manifest_signature", "manifest_read_back", "artifact_size", "parts_digests"].map(str::to_owned).to_vec();
        if sealed.attested.algorithm != "none" {
            checks.push(format!("artifact_{}", sealed.attested.algorithm.replace('-', "_")));
        }
        if sealed.retention.mode != manifest::NOT_OBSERVABLE {
            checks.push("retention_read_back".into());
        }
        let snapshot_ms = time::parse_ms(&measured.snapshot_at).unwrap_or_else(|| self.edge.now_ms());
        Ok(Evidence {
            backup_job_id: backup.id.clone(),
            database_id: backup.database_id.clone(),
            state: backup.state,
            manifest: backup.manifest_summary().ok_or_else(broken)?,
            checksum_sha256: measured.checksum_sha256.clone(),
            integrity_verification: IntegrityVerification { result: "passed".into(), at: completed_at.clone(), checks },
            snapshot_at: measured.snapshot_at.clone(),
            completed_at,
            rpo_minutes: (self.edge.now_ms() - snapshot_ms).max(0) as u64 / 60_000,
            bundle_key: (backup.publish == Publish::Done).then(|| backup.bundle_key()),
            restores: backup.receipts.iter().map(|r| r.restore_id.clone()).collect(),
        })
    }

    /// Evidence of a database's newest completed backups, newest first.
    pub async fn evidence_list(&self, org: &OrgId, database: &DatabaseId) -> Result<Vec<Evidence>> {
        let pk = keys::database_partition(org, database);
        let (mut evidence, mut after) = (Vec::new(), None::<String>);
        // A page may be short: DynamoDB ends it at a megabyte.
        loop {
            let page = self.table.query::<BackupJob>(&pk, "BACKUP#", true, LISTED as i32, after.as_deref()).await?;
            for record in page.records.iter().filter(|r| r.body.state == BackupState::Completed) {
                evidence.push(self.evidence_of(&record.body)?);
            }
            after = page.next;
            if after.is_none() || evidence.len() >= LISTED {
                evidence.truncate(LISTED);
                return Ok(evidence);
            }
        }
    }
}

/// Writes an object that always has the same bytes; other bytes under the key are an error.
async fn put_once(bucket: &Bucket, key: &str, bytes: &[u8], until: &str, content_type: &str) -> Result<PutOutcome> {
    Ok(bucket.put_locked(key, bytes, crate::edge::timestamp(until), content_type).await?)
}

/// Writes an object of which an earlier, equally good form may be there already: a bundle whose publisher died
/// before it could say so. The first one stays.
async fn put_first(bucket: &Bucket, key: &str, bytes: &[u8], until: &str, content_type: &str) -> Result<()> {
    if bucket.head(key, None).await?.is_some() {
        return Ok(());
    }
    put_once(bucket, key, bytes, until, content_type).await?;
    Ok(())
}
