//! Entries, proofs and checkpoint of a bundle: each entry is in the log, and each job's history is whole.

use std::collections::{BTreeMap, HashSet};

use super::{Failure, hold, jobs, witness};
use crate::{
    bundle::{BundleContents, Proof},
    checkpoint::Checkpoint,
    entry::{self, Entry},
    ids,
    keys::KeySet,
    manifest::{VerifiedManifest, is_sha256},
    merkle,
};

/// What was found of the log.
pub(super) struct Log {
    /// The key that signed the checkpoint.
    pub key_id: String,
    /// Entries of the backup.
    pub backup_events: u64,
    /// For each restore: manifest it named, and what its completion said.
    pub restores: BTreeMap<String, jobs::Completion>,
}

/// An entry with the place to name it by.
pub(super) struct Placed {
    pub place: String,
    pub entry: Entry,
}

pub(super) fn check(contents: &BundleContents, manifest: &VerifiedManifest, keys: &KeySet) -> Result<Log, Failure> {
    let index = &contents.index;
    let (checkpoint, key) =
        Checkpoint::verify(&contents.checkpoint, keys).map_err(|e| Failure::bad("checkpoint", e.to_string()))?;
    let root = witness::root(contents)?;
    hold(
        "checkpoint",
        [
            (checkpoint.origin == index.origin, "its origin is not the bundle's"),
            (checkpoint.size == index.tree_size, "its size is not the bundle's"),
            (checkpoint.root == root, "its root is not the bundle's"),
        ],
    )?;
    let jobs_inside: HashSet<&str> =
        contents.receipts.iter().map(|(id, _)| id.as_str()).chain([manifest.backup().backup_id.as_str()]).collect();
    let mut entries: Vec<Placed> = Vec::with_capacity(contents.entries.len());
    for (bytes, number) in contents.entries.iter().zip(1u64..) {
        let place = format!("entries.jsonl line {number}");
        let entry = Entry::from_bytes(bytes).map_err(|e| Failure::json(&place, &e))?;
        check_form(&place, &entry, contents, &jobs_inside)?;
        if key.not_after.as_ref().is_some_and(|end| *end <= entry.at) {
            return Err(Failure::bad(place, "was written after the checkpoint's key was retired"));
        }
        if let Some(before) = entries.last() {
            if entry.index <= before.entry.index {
                return Err(Failure::bad(place, "its index is not above the one before"));
            }
            if entry.index == before.entry.index + 1 {
                // The bytes are canonical, so they are what was hashed.
                let hash = contents.entries.get(entries.len() - 1).map(|bytes| merkle::leaf_hash(bytes));
                if hash.map(hex::encode).as_deref() != Some(entry.prev_hash.as_str()) {
                    return Err(Failure::bad(place, "prevHash is not the hash of the entry before"));
                }
            }
        }
        entries.push(Placed { place, entry });
    }
    check_proofs(contents, &entries, &root)?;

    let mut by_job: BTreeMap<&str, Vec<&Placed>> = BTreeMap::new();
    for placed in &entries {
        by_job.entry(placed.entry.job_id.as_deref().unwrap_or_default()).or_default().push(placed);
    }
    let mut backup_events = 0;
    let mut restores = BTreeMap::new();
    for (job_id, entries) in by_job {
        jobs::check_sequence(&entries)?;
        if job_id == manifest.backup().backup_id {
            backup_events = entries.len() as u64;
            jobs::check_backup(&entries, manifest)?;
        } else {
            restores.insert(job_id.to_owned(), jobs::check_restore(&entries, manifest)?);
        }
    }
    if backup_events == 0 {
        return Err(Failure::bad("entries.jsonl", "holds no entry of the backup"));
    }
    Ok(Log { key_id: key.id.clone(), backup_events, restores })
}

fn check_form(
    place: &str,
    entry: &Entry,
    contents: &BundleContents,
    jobs_inside: &HashSet<&str>,
) -> Result<(), Failure> {
    let salt = entry.salt.len() == 32 && entry.salt.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    hold(
        place,
        [
            (entry.v == entry::VERSION, "has another version than walwarden.audit.v1"),
            (entry.origin == contents.index.origin, "its origin is not the bundle's"),
            (entry.org_id == contents.index.org_id, "its orgId is not the bundle's"),
            (entry.seq.is_some() == entry.job_id.is_some(), "has only one of jobId and seq"),
            (
                entry.job_id.as_deref().is_some_and(|job| jobs_inside.contains(job)),
                "belongs neither to the backup nor to a restore with a receipt here",
            ),
            (ids::is_time(&entry.at), "at is not RFC 3339 UTC with milliseconds"),
            (salt, "salt is not 32 lower-case hex digits"),
            (is_sha256(&entry.prev_hash), "prevHash is not 64 lower-case hex digits"),
            (
                entry.index > 0 || entry.prev_hash == entry::NO_PREVIOUS,
                "prevHash is not zeros, though it is the log's first entry",
            ),
        ],
    )
}

/// One inclusion proof per entry, in their order; then consistency proofs of rising sizes below the tree's.
fn check_proofs(contents: &BundleContents, entries: &[Placed], root: &merkle::Hash) -> Result<(), Failure> {
    let tree_size = contents.index.tree_size;
    let mut last_size = 0;
    for (proof, number) in contents.proofs.iter().zip(0usize..) {
        let place = format!("proofs.jsonl line {}", number + 1);
        match (proof, entries.get(number), contents.entries.get(number)) {
            (Proof::Inclusion { index, path }, Some(placed), Some(bytes)) => {
                if *index != placed.entry.index {
                    return Err(Failure::bad(place, "is not the inclusion proof of the entry in the same line"));
                }
                if !merkle::verify_inclusion(&merkle::leaf_hash(bytes), *index, tree_size, path, root) {
                    return Err(Failure::bad(&placed.place, "is not in the log: its inclusion proof fails"));
                }
            }
            (Proof::Consistency { size, .. }, None, None) => {
                if *size <= last_size || *size >= tree_size {
                    return Err(Failure::bad(place, "sizes of consistency proofs do not rise below the tree's size"));
                }
                last_size = *size;
            }
            _ => return Err(Failure::bad(place, "is not of the type that is due")),
        }
    }
    match contents.proofs.len() < entries.len() {
        true => Err(Failure::bad("proofs.jsonl", "has fewer inclusion proofs than there are entries")),
        false => Ok(()),
    }
}
