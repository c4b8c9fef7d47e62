//! Jobs put into the table in a state of the test's choosing, for what only looks at the state. Whatever is about
//! how a job comes into its state takes the long way, by the worker protocol.

use serde_json::Value;
use walwarden_contract::{
    ids::{BackupId, DatabaseId, RestoreId},
    states::{BackupState, RestoreState},
    worker::Finish,
};
use walwarden_core::{
    backups::{BackupJob, Claim, Publish, SealedArtifact, SignedStatement, Started},
    restores::RestoreJob,
    table::{Item, Record, Write, keys},
};
use walwarden_verifier::manifest::{Attested, Retention};

use crate::{
    stack::Stack,
    workers::{dump, measurements, sha256},
};

pub const SESSION: &str = "a session's secret";

fn session() -> Claim {
    Claim {
        secret_sha256: Some(sha256(b"a claim's secret")),
        expires_at: Some("2999-01-01T00:00:00.000Z".into()),
        session_sha256: Some(sha256(SESSION.as_bytes())),
        claimed_at: Some("2026-01-01T00:00:00.000Z".into()),
    }
}

/// The measurements of a job that was placed as running.
pub fn finish() -> Value {
    measurements(&dump(), b"list", b"annex", "2026-01-01T00:00:00.000Z")
}

/// Overwrites a backup.
pub async fn put(stack: &Stack, job: &BackupJob) -> Record<BackupJob> {
    let item = Item::new(job).state(job.state.as_str()).due(keys::SENTINEL_QUEUE, job.due_at.as_deref());
    stack.domain.table.write(Write::Put(job.key(), item)).await.unwrap();
    stack.domain.backup(&job.org_id, &job.database_id, &job.id).await.unwrap()
}

/// The backup as it would be in that state, its entries what they were.
pub async fn in_state(stack: &Stack, id: &BackupId, state: BackupState) -> Record<BackupJob> {
    let mut job = stack.backup(id).await;
    let Ok(Finish::Backup(measured)) = serde_json::from_value(finish()) else { panic!("measurements") };
    let started = Started {
        server_version: measured.server_version.clone(),
        pg_dump_version: measured.pg_dump_version.clone(),
        snapshot_at: measured.snapshot_at.clone(),
    };
    job.state = state;
    job.claim = if state == BackupState::Queued { Claim { session_sha256: None, ..session() } } else { session() };
    job.parts_list = Some(measured.parts_list.clone());
    job.annex = Some(measured.annex.clone());
    job.started = Some(started);
    let sealing = matches!(state, BackupState::Finalizing | BackupState::Completed);
    job.measurements = sealing.then_some(*measured);
    job.due_at = Some("2999-01-01T00:00:00.000Z".into());
    put(stack, &job).await
}

/// A completed backup that never was in a bucket.
pub async fn completed(stack: &Stack, database: &DatabaseId) -> BackupId {
    let id = stack.trigger(database).await;
    let mut job = in_state(stack, &id, BackupState::Completed).await.body;
    job.seal.artifact = Some(SealedArtifact {
        version_id: "v1".into(),
        attested: Attested { algorithm: "none".into(), value: String::new() },
        retention: Retention { mode: "GOVERNANCE".into(), retain_until: job.retain_until.clone() },
    });
    job.seal.annex_version_id = Some("v1".into());
    job.seal.manifest =
        Some(SignedStatement { statement: "{}".into(), key_id: sha256(b"key"), signature: "00".repeat(64) });
    job.manifest_hash = Some(sha256(b"{}"));
    job.completed_at = Some(stack.clock.now());
    job.finished_at = job.completed_at.clone();
    job.publish = Publish::Done;
    job.due_at = None;
    put(stack, &job).await;
    stack.domain.table.write(Write::Delete(keys::active(&stack.org, database))).await.unwrap();
    id
}

pub async fn restore_in_state(stack: &Stack, id: &RestoreId, state: RestoreState) -> Record<RestoreJob> {
    let mut job = stack.domain.restore_by_id(&stack.org, id).await.unwrap().body;
    job.state = state;
    job.claim = if state == RestoreState::Created { Claim::default() } else { session() };
    job.due_at = Some("2999-01-01T00:00:00.000Z".into());
    if state != RestoreState::Completed {
        (job.report, job.receipt) = (None, None);
    }
    let key = keys::restore(&job.org_id, &job.database_id, &job.id);
    let item = Item::new(&job).state(state.as_str()).due(keys::SENTINEL_QUEUE, job.due_at.as_deref());
    stack.domain.table.write(Write::Put(key, item)).await.unwrap();
    stack.domain.restore_by_id(&stack.org, id).await.unwrap()
}
