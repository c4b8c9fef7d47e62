//! A job's entries as a history: none missing, in a legal order, and in agreement with the manifest.

use super::{Failure, hold, log::Placed};
use crate::{entry::Event, manifest::VerifiedManifest};

/// What a restore's `restore.completed` said.
pub(super) struct Completion {
    /// Where it is.
    pub place: String,
    pub receipt_hash: String,
    pub proof: String,
    pub late: bool,
}

/// `seq` 1, 2, 3 … and times that do not go back.
pub(super) fn check_sequence(entries: &[&Placed]) -> Result<(), Failure> {
    let mut last = "";
    for (placed, seq) in entries.iter().zip(1u64..) {
        if placed.entry.seq != Some(seq) {
            return Err(Failure::bad(&placed.place, format!("seq is not {seq}, the next of its job")));
        }
        if placed.entry.at.as_str() < last {
            return Err(Failure::bad(&placed.place, "at is before that of the job's entry before"));
        }
        last = &placed.entry.at;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Queued,
    Claimed,
    Running,
    Finalizing,
    /// Failed, but another attempt may follow.
    Failed,
    /// Completed, failed for good, or cancelled.
    Ended,
}

/// The backup: a legal order of states that ends with its completion, which is the manifest's.
pub(super) fn check_backup(entries: &[&Placed], manifest: &VerifiedManifest) -> Result<(), Failure> {
    let backup = manifest.backup();
    let (mut state, mut attempt, mut completed) = (State::New, 0, false);
    for placed in entries {
        let place = placed.place.as_str();
        let event = &placed.entry.event;
        if let Event::BackupQueued { attempt: next, .. } = event {
            let first = state == State::New && *next == 1;
            let retry = state == State::Failed && *next == attempt + 1;
            if !first && !retry {
                return Err(out_of_order(placed));
            }
            attempt = *next;
        }
        let same_attempt = match event {
            Event::BackupClaimed { attempt: own }
            | Event::BackupRunning { attempt: own, .. }
            | Event::BackupFailed { attempt: own, .. }
            | Event::BackupCancelled { attempt: own } => *own == attempt,
            _ => true,
        };
        if !same_attempt {
            return Err(Failure::bad(place, "is of another attempt than the entries before"));
        }
        let live = !matches!(state, State::New | State::Ended);
        state = match event {
            Event::BackupQueued { database_id, .. } => {
                hold(place, [(*database_id == backup.database_id, "databaseId is not the manifest's")])?;
                State::Queued
            }
            Event::BackupClaimed { .. } if state == State::Queued => State::Claimed,
            Event::BackupRunning { .. } if state == State::Claimed => State::Running,
            Event::BackupFinalizing { .. } if state == State::Running => State::Finalizing,
            Event::BackupCompleted { .. } if state == State::Finalizing => State::Ended,
            Event::BackupFailed { r#final, .. } if live && state != State::Failed => {
                if *r#final {
                    State::Ended
                } else {
                    State::Failed
                }
            }
            // An attempt that waits for its retry may be given up.
            Event::BackupFailed { r#final: true, .. } if state == State::Failed => State::Ended,
            Event::BackupCancelled { .. } if live && state != State::Finalizing => State::Ended,
            _ => return Err(out_of_order(placed)),
        };
        if attempt == backup.attempt {
            check_measurements(placed, manifest)?;
        }
        if matches!(event, Event::BackupCompleted { .. }) {
            completed = true;
            hold(place, [(attempt == backup.attempt, "completes another attempt than the manifest's")])?;
        }
    }
    match completed {
        true => Ok(()),
        false => Err(Failure::bad("entries.jsonl", "the backup's backup.completed is not there")),
    }
}

/// What an entry of the completed attempt says, against what the manifest says.
fn check_measurements(placed: &Placed, manifest: &VerifiedManifest) -> Result<(), Failure> {
    let backup = manifest.backup();
    let artifact = manifest.artifact_sha256();
    let place = placed.place.as_str();
    match &placed.entry.event {
        Event::BackupRunning { snapshot_at, .. } => {
            hold(place, [(*snapshot_at == backup.snapshot_at, "snapshotAt is not the manifest's")])
        }
        Event::BackupFinalizing { checksum_sha256, size_bytes, contents_digest, annex_sha256, .. } => hold(
            place,
            [
                (checksum_sha256 == artifact, "checksumSha256 is not the manifest's"),
                (*size_bytes == backup.size_bytes, "sizeBytes is not the manifest's"),
                (*contents_digest == backup.contents.digest, "contentsDigest is not the manifest's"),
                (*annex_sha256 == backup.annex.sha256, "annexSha256 is not the manifest's"),
            ],
        ),
        Event::BackupCompleted { manifest_hash, checksum_sha256, size_bytes, version_id, key_id } => hold(
            place,
            [
                (*manifest_hash == manifest.hash, "manifestHash is not the manifest's"),
                (checksum_sha256 == artifact, "checksumSha256 is not the manifest's"),
                (*size_bytes == backup.size_bytes, "sizeBytes is not the manifest's"),
                (*version_id == backup.version_id, "versionId is not the manifest's"),
                (*key_id == manifest.key_id, "keyId is not that of the manifest's signature"),
            ],
        ),
        _ => Ok(()),
    }
}

/// A restore: issued for this very manifest, steps in their order, ended by its completion. After the
/// watchdog gave it up only the late completion may come; a refused token may be noted at any time.
pub(super) fn check_restore(entries: &[&Placed], manifest: &VerifiedManifest) -> Result<Completion, Failure> {
    let (mut rank, mut timed_out, mut completion) = (0, false, None);
    for placed in entries {
        let place = placed.place.as_str();
        let event = &placed.entry.event;
        let next = match event {
            Event::RestoreTokenRejected { .. } if rank > 0 => continue,
            Event::RestoreTimedOut {} if rank >= 1 && !timed_out && completion.is_none() => {
                timed_out = true;
                continue;
            }
            Event::RestoreTokenIssued { backup_id, manifest_hash, .. } => {
                hold(
                    place,
                    [
                        (*backup_id == manifest.backup().backup_id, "is of a restore of another backup"),
                        (*manifest_hash == manifest.hash, "manifestHash is not the manifest's"),
                    ],
                )?;
                1
            }
            Event::RestoreTriggered { .. } => 2,
            Event::RestoreClaimed { .. } => 3,
            Event::RestoreDownloading {} => 4,
            Event::RestoreVerifying {} => 5,
            Event::RestoreManifestVerified { .. } => 6,
            Event::RestoreRestoring {} => 7,
            Event::RestoreFinalizing {} => 8,
            Event::RestoreCompleted { .. } => 9,
            _ => return Err(out_of_order(placed)),
        };
        // The first must be the token's issue and the next two its claim; later steps may be missing where
        // the restore machine could not report them.
        let contiguous = next == rank + 1 || (rank >= 3 && next > rank);
        if !contiguous || (timed_out && next != 9) {
            return Err(out_of_order(placed));
        }
        rank = next;
        let artifact = manifest.artifact_sha256();
        match event {
            Event::RestoreManifestVerified { checksum_sha256 } => {
                hold(place, [(checksum_sha256 == artifact, "checksumSha256 is not the manifest's")])?;
            }
            Event::RestoreCompleted { checksum_sha256, proof, late, receipt_hash, .. } => {
                hold(place, [(checksum_sha256 == artifact, "checksumSha256 is not the manifest's")])?;
                completion = Some(Completion {
                    place: placed.place.clone(),
                    receipt_hash: receipt_hash.clone(),
                    proof: proof.clone(),
                    late: *late,
                });
            }
            _ => {}
        }
    }
    let last = entries.last().map_or("entries.jsonl", |placed| placed.place.as_str());
    completion.ok_or_else(|| Failure::bad(last, "the restore's restore.completed is not there"))
}

fn out_of_order(placed: &Placed) -> Failure {
    Failure::bad(&placed.place, format!("{} cannot follow the job's entries before it", placed.entry.event.kind()))
}
