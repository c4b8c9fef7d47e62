//! Entries, proofs and checkpoint.

use walwarden_verifier::{
    bundle::{BundleContents, Proof},
    entry::{Entry, Event},
    keys::{KeySet, KeyUse},
    merkle,
};

use super::{
    super::{
        catalogue::{Catalogue, args},
        tape::{replace, with_member},
        world::{DATABASE, OTHER_BACKUP, at, key},
    },
    world,
};

/// Entries, proofs and checkpoint.
pub fn logs(catalogue: &mut Catalogue) {
    let good = world().bundle();
    let mut contents = |name: &str, edit: fn(&mut _), problem: &str| {
        let mut world = world();
        world.contents = Box::new(edit);
        catalogue.tampered(name, world.bundle(), problem);
    };
    fn path(contents: &mut BundleContents, at: usize) -> &mut Vec<merkle::Hash> {
        match &mut contents.proofs[at] {
            Proof::Inclusion { path, .. } | Proof::Consistency { path, .. } => path,
        }
    }
    contents(
        "entry-left-out",
        |c: &mut BundleContents| {
            c.entries.remove(2);
            c.proofs.remove(2);
        },
        "entries.jsonl line 3: seq is not 3, the next of its job",
    );
    contents(
        "entry-altered",
        |c: &mut BundleContents| replace(&mut c.entries[4], "3HL4kqtJvjVBH40Nrjfkd", "3HL4kqtJvjVBH40Nrjfke"),
        "entries.jsonl line 5: is not in the log: its inclusion proof fails",
    );
    contents(
        "entry-altered-inside",
        |c: &mut BundleContents| replace(&mut c.entries[1], "\"system\"", "\"sustem\""),
        "entries.jsonl line 3: prevHash is not the hash of the entry before",
    );
    contents(
        "entries-reordered",
        |c: &mut BundleContents| {
            c.entries.swap(1, 2);
            c.proofs.swap(1, 2);
        },
        "entries.jsonl line 3: its index is not above the one before",
    );
    contents(
        "entry-twice",
        |c: &mut BundleContents| {
            c.entries.insert(1, c.entries[1].clone());
            c.proofs.insert(1, c.proofs[1].clone());
        },
        "entries.jsonl line 3: its index is not above the one before",
    );
    contents(
        "entry-white-space",
        |c: &mut BundleContents| replace(&mut c.entries[0], ",", ", "),
        "entries.jsonl line 1: is not canonical JSON of its form",
    );
    contents(
        "entries-none",
        |c: &mut BundleContents| {
            c.entries.clear();
            c.proofs.clear();
        },
        "entries.jsonl: holds no entry of the backup",
    );
    contents(
        "completion-left-out",
        |c: &mut BundleContents| {
            c.entries.pop();
            c.proofs.pop();
        },
        "entries.jsonl: the backup's backup.completed is not there",
    );
    contents(
        "proof-altered",
        |c: &mut BundleContents| path(c, 3)[1][0] ^= 1,
        "entries.jsonl line 4: is not in the log: its inclusion proof fails",
    );
    contents(
        "proof-too-long",
        |c: &mut BundleContents| path(c, 0).push([0; 32]),
        "entries.jsonl line 1: is not in the log: its inclusion proof fails",
    );
    contents(
        "proof-left-out",
        |c: &mut BundleContents| {
            c.proofs.pop();
        },
        "proofs.jsonl: has fewer inclusion proofs than there are entries",
    );
    contents(
        "proofs-swapped",
        |c: &mut BundleContents| c.proofs.swap(0, 1),
        "proofs.jsonl line 1: is not the inclusion proof of the entry in the same line",
    );
    contents(
        "proof-of-another-type",
        |c: &mut BundleContents| c.proofs[2] = Proof::Consistency { size: 3, path: vec![] },
        "proofs.jsonl line 3: is not of the type that is due",
    );
    contents(
        "proof-too-many",
        |c: &mut BundleContents| c.proofs.push(c.proofs[4].clone()),
        "proofs.jsonl line 6: is not of the type that is due",
    );
    contents(
        "consistency-sizes-fall",
        |c: &mut BundleContents| {
            for size in [3, 2] {
                c.proofs.push(Proof::Consistency { size, path: vec![] })
            }
        },
        "proofs.jsonl line 7: sizes of consistency proofs do not rise below the tree's size",
    );
    contents(
        "checkpoint-altered",
        |c: &mut BundleContents| replace(&mut c.checkpoint, "\n7\n", "\n8\n"),
        "checkpoint: signature does not match the note",
    );
    contents(
        "checkpoint-carriage-return",
        |c: &mut BundleContents| {
            c.checkpoint.pop();
            c.checkpoint.extend(b"\r\n");
        },
        "checkpoint: malformed signature line",
    );
    contents(
        "checkpoint-extension-line",
        |c: &mut BundleContents| replace(&mut c.checkpoint, "\n\n", "\nmore\n\n"),
        "checkpoint: note does not consist of origin, size and root",
    );

    catalogue.tampered(
        "proof-upper-case",
        with_member(&good, "proofs.jsonl", |b| {
            let text = std::str::from_utf8(b).unwrap();
            let at = text.find("path\":[\"").unwrap() + 8;
            let upper = text[at..at + 64].to_uppercase();
            b[at..at + 64].copy_from_slice(upper.as_bytes());
        }),
        "proofs.jsonl line 1: is not canonical JSON of its form",
    );
    catalogue.tampered(
        "entries-no-newline",
        with_member(&good, "entries.jsonl", |b| {
            b.pop();
        }),
        "entries.jsonl: does not end with a newline",
    );
    catalogue.tampered(
        "entries-empty-line",
        with_member(&good, "entries.jsonl", |b| b.push(b'\n')),
        "entries.jsonl: a line is empty or longer than 16 KiB",
    );

    let mut checkpoint = world();
    checkpoint.checkpoint_seed = 9;
    catalogue.tampered(
        "checkpoint-by-another-key",
        checkpoint.bundle(),
        "checkpoint: not signed by a trusted checkpoint key of that origin",
    );
    let mut checkpoint = world();
    checkpoint.checkpoint_seed = 1;
    catalogue.tampered(
        "checkpoint-by-the-manifest-key",
        checkpoint.bundle(),
        "checkpoint: not signed by a trusted checkpoint key of that origin",
    );
    let mut checkpoint = world();
    checkpoint.checkpoint = Box::new(|c| c.origin = c.origin.replace("/0", "/1"));
    catalogue.tampered("checkpoint-of-another-log", checkpoint.bundle(), "checkpoint: its origin is not the bundle's");

    let mut log = |name: &str, edit: fn(&mut Vec<Entry>), problem: &str| {
        let mut world = world();
        world.log = Box::new(edit);
        catalogue.tampered(name, world.bundle(), problem);
    };
    log("logged-seq-gap", |l| l[3].seq = Some(4), "entries.jsonl line 3: seq is not 3, the next of its job");
    log("logged-seq-without-job", |l| l[3].seq = None, "entries.jsonl line 3: has only one of jobId and seq");
    log(
        "logged-origin",
        |l| l[3].origin = l[3].origin.replace("/0", "/1"),
        "entries.jsonl line 3: its origin is not the bundle's",
    );
    log(
        "logged-organization",
        |l| l[3].org_id = "org_01kb0000000000000000000007".into(),
        "entries.jsonl line 3: its orgId is not the bundle's",
    );
    log(
        "logged-other-job",
        |l| l[2].job_id = Some(OTHER_BACKUP.into()),
        "entries.jsonl line 2: belongs neither to the backup nor to a restore with a receipt here",
    );
    log(
        "logged-time-goes-back",
        |l| l[3].at = at(0),
        "entries.jsonl line 3: at is before that of the job's entry before",
    );
    log(
        "logged-version",
        |l| l[1].v = "walwarden.audit.v2".into(),
        "entries.jsonl line 1: has another version than walwarden.audit.v1",
    );
    log("logged-salt", |l| l[1].salt = "00".into(), "entries.jsonl line 1: salt is not 32 lower-case hex digits");
    log(
        "logged-states-swapped",
        |l| {
            let event = l[2].event.clone();
            l[2].event = std::mem::replace(&mut l[3].event, event);
        },
        "entries.jsonl line 2: backup.running cannot follow the job's entries before it",
    );
    log(
        "logged-after-completion",
        |l| {
            let mut e = l[5].clone();
            e.seq = Some(6);
            l.insert(6, e);
        },
        "entries.jsonl line 6: backup.completed cannot follow the job's entries before it",
    );
    log(
        "logged-failed-for-good",
        |l| {
            let mut e = l[3].clone();
            e.event = Event::BackupFailed { attempt: 1, retryable: false, class: "auth".into(), r#final: true };
            l.insert(3, e);
            (4..7).for_each(|i| *l[i].seq.as_mut().unwrap() += 1);
        },
        "entries.jsonl line 4: backup.running cannot follow the job's entries before it",
    );
    log(
        "logged-retry-without-failure",
        |l| {
            let mut e = l[1].clone();
            e.event = Event::BackupQueued { database_id: DATABASE.into(), trigger: "retry".into(), attempt: 2 };
            e.seq = Some(3);
            e.at = at(1);
            l.insert(3, e);
            (4..7).for_each(|i| *l[i].seq.as_mut().unwrap() += 1);
        },
        "entries.jsonl line 3: backup.queued cannot follow the job's entries before it",
    );
    log(
        "logged-other-attempt",
        |l| l[2].event = Event::BackupClaimed { attempt: 2 },
        "entries.jsonl line 2: is of another attempt than the entries before",
    );
    log(
        "logged-other-database",
        |l| {
            if let Event::BackupQueued { database_id, .. } = &mut l[1].event {
                *database_id = "db_01kb0000000000000000000007".into()
            }
        },
        "entries.jsonl line 1: databaseId is not the manifest's",
    );
    log(
        "logged-snapshot",
        |l| {
            if let Event::BackupRunning { snapshot_at, .. } = &mut l[3].event {
                *snapshot_at = at(3)
            }
        },
        "entries.jsonl line 3: snapshotAt is not the manifest's",
    );
    log(
        "logged-contents",
        |l| {
            if let Event::BackupFinalizing { contents_digest, .. } = &mut l[4].event {
                *contents_digest = "0".repeat(64)
            }
        },
        "entries.jsonl line 4: contentsDigest is not the manifest's",
    );
    log(
        "completed-other-manifest",
        |l| {
            if let Event::BackupCompleted { manifest_hash, .. } = &mut l[5].event {
                *manifest_hash = "0".repeat(64)
            }
        },
        "entries.jsonl line 5: manifestHash is not the manifest's",
    );
    log(
        "completed-other-checksum",
        |l| {
            if let Event::BackupCompleted { checksum_sha256, .. } = &mut l[5].event {
                *checksum_sha256 = "0".repeat(64)
            }
        },
        "entries.jsonl line 5: checksumSha256 is not the manifest's",
    );
    log(
        "completed-other-size",
        |l| {
            if let Event::BackupCompleted { size_bytes, .. } = &mut l[5].event {
                *size_bytes += 1
            }
        },
        "entries.jsonl line 5: sizeBytes is not the manifest's",
    );
    log(
        "completed-other-version",
        |l| {
            if let Event::BackupCompleted { version_id, .. } = &mut l[5].event {
                version_id.push('x')
            }
        },
        "entries.jsonl line 5: versionId is not the manifest's",
    );
    log(
        "completed-other-key",
        |l| {
            if let Event::BackupCompleted { key_id, .. } = &mut l[5].event {
                *key_id = "0".repeat(64)
            }
        },
        "entries.jsonl line 5: keyId is not that of the manifest's signature",
    );

    let mut broken = world();
    broken.chained = Box::new(|entry| {
        if entry.index == 4 {
            entry.prev_hash = "0".repeat(64)
        }
    });
    catalogue.tampered(
        "logged-chain-broken",
        broken.bundle(),
        "entries.jsonl line 4: prevHash is not the hash of the entry before",
    );
    let mut leaf = |name: &str, from: &'static str, to: &'static str| {
        let mut world = world();
        world.leaf = Box::new(move |index, bytes| {
            if index == 1 {
                replace(bytes, from, to)
            }
        });
        catalogue.tampered(name, world.bundle(), "entries.jsonl line 1: is not canonical JSON of its form");
    };
    leaf("logged-unknown-kind", "backup.queued", "backup.dreamt");
    leaf("logged-unknown-field", "\"attempt\":1", "\"attempt\":1,\"cause\":\"x\"");
    leaf("logged-duplicate-key", "\"index\":1", "\"index\":1,\"index\":1");
    leaf("logged-null-job", "\"index\":1,\"jobId\":\"bkp_01kb0000000000000000000003\"", "\"index\":1,\"jobId\":null");

    let retired = KeySet::new(vec![
        key(1, KeyUse::Manifest, None),
        key(2, KeyUse::Checkpoint, Some(&at(52))),
        key(3, KeyUse::Receipt, None),
    ]);
    catalogue.file("keys-checkpoint-retired.pem", retired.to_pem());
    catalogue.fails(
        args("valid/backup.tgz", "keys-checkpoint-retired.pem", &[]),
        "valid/backup.tgz",
        1,
        "BAD EVIDENCE: entries.jsonl line 5: was written after the checkpoint's key was retired",
    );
}
