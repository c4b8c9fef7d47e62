//! What must hold of every log and every database, whatever happened before: run after tests that did a lot.

use std::collections::BTreeMap;

use walwarden_contract::ids::DatabaseId;
use walwarden_core::{
    backups::BackupJob,
    table::{Key, keys},
};
use walwarden_verifier::{
    entry::{self, Entry},
    merkle::{self, Hash},
};

use crate::stack::Stack;

/// The whole log: contiguous indexes and chain, each job's `seq` from 1 without gaps, times that never go back, the
/// frontier's root equal to the definition's, and proofs that verify. Gives the entries.
pub async fn log(stack: &Stack) -> Vec<Entry> {
    let (size, root) = stack.domain.log.tip(&stack.org).await.unwrap();
    let indexes: Vec<u64> = (0..size).collect();
    let bytes = stack.domain.log.entries(&stack.org, &indexes).await.unwrap();
    let leaves: Vec<Hash> = bytes.iter().map(|b| merkle::leaf_hash(b)).collect();
    let entries: Vec<Entry> = bytes.iter().map(|b| Entry::from_bytes(b).unwrap()).collect();

    let mut previous = entry::NO_PREVIOUS.to_owned();
    let mut last_at = String::new();
    let mut seqs: BTreeMap<String, u64> = BTreeMap::new();
    for (index, (entry, leaf)) in (0..).zip(entries.iter().zip(&leaves)) {
        assert_eq!(entry.index, index);
        assert_eq!(entry.prev_hash, previous, "entry {index}");
        assert!(entry.at >= last_at, "entry {index} goes back in time");
        assert_eq!(entry.job_id.is_some(), entry.seq.is_some());
        if let Some(job) = &entry.job_id {
            let seq = seqs.entry(job.clone()).or_default();
            *seq += 1;
            assert_eq!(entry.seq, Some(*seq), "entry {index} of {job}");
        }
        previous = hex::encode(leaf);
        last_at.clone_from(&entry.at);
    }
    for (job, seq) in seqs {
        assert_eq!(stack.domain.log.job_indexes(&stack.org, &job).await.unwrap().len() as u64, seq, "{job}");
    }
    // Nothing lies beyond the head.
    let beyond = keys::log_entry(&stack.org, 0, size);
    assert!(stack.domain.table.get::<serde_json::Value>(&beyond).await.unwrap().is_none());

    assert_eq!(root_of(&leaves), root);
    proofs(stack, &leaves).await;
    entries
}

/// Inclusion and consistency at sizes spread over the log, and at its ends.
async fn proofs(stack: &Stack, leaves: &[Hash]) {
    let size = leaves.len() as u64;
    let salt = u64::from_be_bytes(leaves.last().unwrap()[..8].try_into().unwrap());
    let some = |n: u64| salt.wrapping_mul(2 * n + 1) % size + 1;
    for tree in [1, size, size.saturating_sub(1).max(1), some(1), some(2)] {
        let root = root_of(&leaves[..tree as usize]);
        let mut hashes = stack.domain.log.hashes(&stack.org, tree);
        assert_eq!(hashes.root().await.unwrap(), root);
        for index in [0, tree - 1, some(3) % tree, some(4) % tree] {
            let path = hashes.inclusion(index).await.unwrap();
            assert!(merkle::verify_inclusion(&leaves[index as usize], index, tree, &path, &root), "{index} in {tree}");
        }
        for old in [1, tree, some(5) % tree + 1, some(6) % tree + 1] {
            let path = hashes.consistency(old).await.unwrap();
            let old_root = root_of(&leaves[..old as usize]);
            assert!(merkle::verify_consistency(old, &old_root, tree, &root, &path), "{old} to {tree}");
        }
    }
}

/// RFC 6962's definition.
fn root_of(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => merkle::empty_root(),
        [one] => *one,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            merkle::node_hash(&root_of(&leaves[..split]), &root_of(&leaves[split..]))
        }
    }
}

/// `ACTIVE` is there exactly while a backup of the database is live, and names it; every live job is due some time.
pub async fn database(stack: &Stack, database: &DatabaseId) {
    let pk = keys::database_partition(&stack.org, database);
    let jobs = stack.domain.table.query_all::<BackupJob>(&pk, "BACKUP#").await.unwrap();
    let live: Vec<_> = jobs.iter().map(|r| &r.body).filter(|job| !job.state.is_final()).collect();
    let active = stack.active(database).await;
    match live.as_slice() {
        [] => assert_eq!(active, None),
        [one] => {
            assert_eq!(active.as_ref(), Some(&one.id), "{} is {}", one.id, one.state);
            assert!(one.due_at.is_some(), "nobody will look after {} ({})", one.id, one.state);
        }
        more => panic!("{} live backups of one database", more.len()),
    }
}

/// Whether the table holds anything under a key.
pub async fn exists(stack: &Stack, key: &Key) -> bool {
    stack.domain.table.get::<serde_json::Value>(key).await.unwrap().is_some()
}
