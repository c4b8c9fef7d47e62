//! Receipts of restores: what the restore's own machine reported, signed by the service, noted in the log.

use super::{Failure, Restored, hold, log::Log, require_key};
use crate::{
    bundle::BundleContents,
    dsse::Envelope,
    keys::{KeySet, KeyUse},
    manifest::VerifiedManifest,
    receipt,
};

pub(super) fn check(
    contents: &BundleContents,
    manifest: &VerifiedManifest,
    log: &Log,
    keys: &KeySet,
) -> Result<Vec<Restored>, Failure> {
    if !contents.receipts.is_empty() {
        require_key(keys, KeyUse::Receipt, "receipts")?;
    }
    contents.receipts.iter().map(|(id, bytes)| check_one(id, bytes, manifest, log, keys)).collect()
}

fn check_one(
    id: &str,
    bytes: &[u8],
    manifest: &VerifiedManifest,
    log: &Log,
    keys: &KeySet,
) -> Result<Restored, Failure> {
    let place = format!("receipts/{id}.dsse.json");
    let envelope = Envelope::from_bytes(bytes).map_err(|e| Failure::envelope(&place, &e))?;
    let receipt = receipt::verify(&envelope, keys).map_err(|e| Failure::envelope(&place, &e))?;
    let (subject, restore) = (&receipt.statement.subject[0], &receipt.statement.predicate);
    let backup = manifest.backup();
    hold(
        &place,
        [
            (restore.restore_id == id, "restoreId is not the receipt's name"),
            (restore.backup_id == backup.backup_id, "backupId is not the manifest's"),
            (restore.manifest_hash == manifest.hash, "manifestHash is not the manifest's"),
            (restore.org_id == backup.org_id, "orgId is not the manifest's"),
            (restore.database_id == backup.database_id, "databaseId is not the manifest's"),
            (restore.log_origin == backup.log_origin, "logOrigin is not the manifest's"),
            (subject.name == manifest.artifact_key(), "the subject's name is not the artifact's key"),
            (subject.digest.sha256 == manifest.artifact_sha256(), "the subject's digest is not the artifact's"),
        ],
    )?;
    let Some(completion) = log.restores.get(id) else {
        return Err(Failure::bad(&place, "entries.jsonl holds no entry of its restore"));
    };
    if completion.receipt_hash != receipt.hash {
        return Err(Failure::bad(&completion.place, "receiptHash is not the hash of the receipt"));
    }
    hold(
        &place,
        [
            (restore.proof.result == completion.proof, "proof is not that of restore.completed"),
            (restore.late == completion.late, "late is not that of restore.completed"),
        ],
    )?;
    Ok(Restored {
        restore_id: restore.restore_id.clone(),
        key_id: receipt.key_id.clone(),
        completed_at: restore.completed_at.clone(),
        mode: restore.mode.clone(),
        purpose: restore.purpose.clone(),
        proof: restore.proof.result.clone(),
    })
}
