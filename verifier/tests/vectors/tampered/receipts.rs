//! Receipts and the restores they are of.

use walwarden_verifier::{
    dsse::{Envelope, Statement},
    entry::{Entry, Event},
    keys::KeyUse,
    receipt::Restore,
};

use super::{
    super::{
        catalogue::Catalogue,
        tape::replace,
        world::{OTHER_BACKUP, RESTORE, key_set, sign},
    },
    restored,
};

/// Receipts and the restores they are of.
pub fn receipts(catalogue: &mut Catalogue) {
    let place = format!("receipts/{RESTORE}.dsse.json");
    let mut receipt = |name: &str, edit: fn(&mut _), problem: &str| {
        let mut world = restored();
        world.receipt = Box::new(edit);
        catalogue.tampered(name, world.bundle(), &format!("{place}: {problem}"));
    };
    receipt(
        "receipt-of-another-backup",
        |r: &mut Statement<Restore>| r.predicate.backup_id = OTHER_BACKUP.into(),
        "backupId is not the manifest's",
    );
    receipt(
        "receipt-of-another-manifest",
        |r: &mut Statement<Restore>| r.predicate.manifest_hash = "0".repeat(64),
        "manifestHash is not the manifest's",
    );
    receipt(
        "receipt-of-another-artifact",
        |r: &mut Statement<Restore>| r.subject[0].digest.sha256 = "0".repeat(64),
        "the subject's digest is not the artifact's",
    );
    receipt(
        "receipt-of-another-restore",
        |r: &mut Statement<Restore>| r.predicate.restore_id = "rst_01kb0000000000000000000009".into(),
        "restoreId is not the receipt's name",
    );
    receipt(
        "receipt-proof",
        |r: &mut Statement<Restore>| r.predicate.proof.result = "notRun".into(),
        "proof is not that of restore.completed",
    );
    receipt(
        "receipt-late",
        |r: &mut Statement<Restore>| r.predicate.late = true,
        "late is not that of restore.completed",
    );
    receipt(
        "receipt-mode",
        |r: &mut Statement<Restore>| r.predicate.mode = "elsewhere".into(),
        "mode is neither new_database nor in_place",
    );

    let mut by = restored();
    by.receipt_seed = 1;
    catalogue.tampered(
        "receipt-by-the-manifest-key",
        by.bundle(),
        &format!("{place}: the signing key is not trusted for this kind of statement"),
    );
    let mut unlike = restored();
    unlike.contents = Box::new(|contents| {
        let payload = Envelope::from_bytes(&contents.receipts[0].1).unwrap();
        let (mut payload, _) = payload.open(&key_set(), KeyUse::Receipt).unwrap();
        replace(&mut payload, "\"restored\":", "\"restored\":1");
        contents.receipts[0].1 = sign(3, &payload).to_bytes().unwrap();
    });
    catalogue.tampered(
        "receipt-not-the-logged-one",
        unlike.bundle(),
        "entries.jsonl line 18: receiptHash is not the hash of the receipt",
    );
    let mut unlogged = restored();
    unlogged.contents = Box::new(|contents| {
        contents.entries.truncate(8);
        contents.proofs.truncate(8);
    });
    catalogue.tampered(
        "receipt-not-logged",
        unlogged.bundle(),
        &format!("{place}: entries.jsonl holds no entry of its restore"),
    );
    let mut missing = restored();
    missing.contents = Box::new(|contents| contents.receipts.clear());
    catalogue.tampered(
        "receipt-left-out",
        missing.bundle(),
        "entries.jsonl line 9: belongs neither to the backup nor to a restore with a receipt here",
    );

    let mut log = |name: &str, edit: fn(&mut Vec<Entry>), problem: &str| {
        let mut world = restored();
        world.log = Box::new(edit);
        catalogue.tampered(name, world.bundle(), problem);
    };
    fn restore_event(log: &mut [Entry], kind: &str) -> usize {
        log.iter().position(|entry| entry.event.kind() == kind).unwrap()
    }
    log(
        "restore-steps-swapped",
        |l| {
            let i = restore_event(l, "restore.verifying");
            let j = restore_event(l, "restore.downloading");
            let event = l[i].event.clone();
            l[i].event = std::mem::replace(&mut l[j].event, event);
        },
        "entries.jsonl line 14: restore.downloading cannot follow the job's entries before it",
    );
    log(
        "restore-completed-after-failure",
        |l| {
            let i = restore_event(l, "restore.finalizing");
            l[i].event = Event::RestoreFailed { retryable: false, class: "disk".into() };
        },
        "entries.jsonl line 17: restore.failed cannot follow the job's entries before it",
    );
    log(
        "restore-of-another-backup",
        |l| {
            let i = restore_event(l, "restore.token_issued");
            if let Event::RestoreTokenIssued { backup_id, .. } = &mut l[i].event {
                *backup_id = OTHER_BACKUP.into()
            }
        },
        "entries.jsonl line 9: is of a restore of another backup",
    );
    log(
        "restore-went-on-after-time-out",
        |l| {
            let i = restore_event(l, "restore.restoring");
            l[i].event = Event::RestoreTimedOut {};
        },
        "entries.jsonl line 17: restore.finalizing cannot follow the job's entries before it",
    );
    log(
        "restore-of-other-bytes",
        |l| {
            let i = restore_event(l, "restore.manifest_verified");
            l[i].event = Event::RestoreManifestVerified { checksum_sha256: "0".repeat(64) };
        },
        "entries.jsonl line 15: checksumSha256 is not the manifest's",
    );
}
