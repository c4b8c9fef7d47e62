//! Evidence, checked by the published verifier with nothing but what lies in the bucket: what is whole is accepted, what
//! was changed is found, and no more is claimed than was shown.

use std::thread;

use serde_json::json;
use walwarden_tests::{Postgres, Sample, tools};
use walwarden_verifier::{
    bundle::{self, BundleContents, Limits},
    checkpoint::Checkpoint,
    entry::Entry,
    keys::KeySet,
};

use crate::{
    restore::Restore,
    stack::{BUCKET, Stack, Verification},
};

pub fn contents(bundle: &[u8]) -> BundleContents {
    bundle::read(bundle, &Limits::default()).expect("a bundle")
}

/// The entries in a bundle, in the log's order.
pub fn entries(bundle: &[u8]) -> Vec<Entry> {
    contents(bundle).entries.iter().map(|bytes| Entry::from_bytes(bytes).expect("an entry")).collect()
}

/// The checkpoints in the bucket, oldest first.
fn checkpoints(stack: &Stack) -> Vec<Vec<u8>> {
    let keys = stack.seaweed.keys(BUCKET, "org/").unwrap();
    let keys = keys.iter().filter(|key| key.contains("/log/0/"));
    keys.map(|key| stack.seaweed.get(BUCKET, key, None).unwrap()).collect()
}

fn sample() -> (Postgres, Stack, String) {
    let postgres = Postgres::start(*Postgres::majors_available().last().expect("a Postgres")).unwrap();
    Sample::small().create(&postgres, "source").unwrap();
    let stack = Stack::start();
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
    let database = stack.add_database("sample", &postgres.dsn("source"), gzip);
    (postgres, stack, database)
}

#[test]
fn the_bucket_alone_proves_a_backup() {
    let (postgres, stack, database) = sample();
    let first = stack.back_up(&database);
    let first_bundle = stack.published_bundle(&first);
    let second = stack.back_up(&database);
    let second_bundle = stack.published_bundle(&second);

    let keys = stack.public_keys();
    // The keys as they lie in the bucket are those that are served.
    let names = stack.seaweed.keys(BUCKET, "org/").unwrap();
    let names = names.iter().filter(|name| name.contains("/keys/") && name.ends_with(".pem"));
    let from_bucket: Vec<u8> = names.flat_map(|name| stack.seaweed.get(BUCKET, name, None).unwrap()).collect();
    let key_set = KeySet::from_pem(&String::from_utf8(keys.clone()).unwrap()).unwrap();
    Verification::of(&first_bundle, &from_bucket).passes();

    let kept = checkpoints(&stack);
    assert_eq!(kept.len(), 2);
    let sizes: Vec<u64> = kept.iter().map(|note| Checkpoint::verify(note, &key_set).unwrap().0.size).collect();
    assert!(sizes[0] < sizes[1], "{sizes:?}");

    // Everything at once.
    let all = Verification::of(&second_bundle, &keys).with("checkpoint", &kept[0]).with("checkpoint", &kept[1]);
    let sentences = all.with("artifact", &stack.artifact(&second)).with("annex", &stack.annex(&second)).passes();
    let size = contents(&second_bundle).index.tree_size;
    assert_eq!(size, sizes[1]);
    assert!(sentences.contains(&format!("WITNESSED: size {size} extends all 2 supplied checkpoints.")), "{sentences}");
    assert!(
        sentences.contains("ARTIFACT: size and SHA-256 match, contents parse and equal the manifest's; not restored.")
    );
    assert!(sentences.contains("5 large objects equal the artifact's."), "{sentences}");
    assert!(!sentences.contains("RESTORED"), "{sentences}");

    // A checkpoint later than the bundle decides nothing; a fresh bundle of the same backup extends it.
    Verification::of(&first_bundle, &keys).with("checkpoint", &kept[1]).decides_nothing();
    let fresh = stack.bundle(&first);
    let sentences = Verification::of(&fresh, &keys).with("checkpoint", &kept[0]).with("checkpoint", &kept[1]).passes();
    let size = contents(&fresh).index.tree_size;
    assert!(sentences.contains(&format!("WITNESSED: size {size} extends all 2 supplied checkpoints.")), "{sentences}");
    // A checkpoint that was changed, and one of another log.
    let changed = String::from_utf8(kept[0].clone()).unwrap().replacen(&format!("\n{}\n", sizes[0]), "\n1\n", 1);
    Verification::of(&fresh, &keys).with("checkpoint", changed.as_bytes()).finds_bad("checkpoint ");

    // Keys nobody pinned.
    let others = std::fs::read(tools::repository().join("tests/vectors/keys.pem")).unwrap();
    Verification::of(&fresh, &others).finds_bad("backup.dsse.json");

    // The other backup's files are not this one's.
    Verification::of(&fresh, &keys).with("artifact", &stack.artifact(&second)).finds_bad("artifact");
    Verification::of(&fresh, &keys).with("annex", &stack.annex(&second)).finds_bad("annex");
    drop(postgres);
}

#[test]
fn every_changed_byte_is_found() {
    let (_postgres, stack, database) = sample();
    let backup = stack.back_up(&database);
    let (bundle, keys) = (stack.bundle(&backup), stack.public_keys());
    let whole = || Verification::of(&bundle, &keys);

    let artifact = stack.artifact(&backup);
    whole().with("artifact", &artifact).passes();
    let last = artifact.len() - 1;
    for at in [0, 6, 12, 2_000, last / 3, last / 2, last - 1, last] {
        whole().with("artifact", &flipped(&artifact, at)).finds_bad("artifact");
    }
    for length in [0, 1, 11, last / 2, last] {
        whole().with("artifact", &artifact[..length]).finds_bad("artifact");
    }
    whole().with("artifact", &[artifact.as_slice(), b"\0"].concat()).finds_bad("artifact");

    let annex = stack.annex(&backup);
    whole().with("annex", &annex).passes();
    let last = annex.len() - 1;
    for at in [0, 4, 20, last / 2, last] {
        whole().with("annex", &flipped(&annex, at)).finds_bad("annex");
    }
    whole().with("annex", &annex[..last / 2]).finds_bad("annex");
    // A good annex beside a bad artifact does not hide it.
    whole().with("annex", &annex).with("artifact", &flipped(&artifact, artifact.len() / 2)).finds_bad("artifact");

    for at in (0..bundle.len()).step_by(bundle.len() / 24) {
        let changed = flipped(&bundle, at);
        let said = Verification::of(&changed, &keys).run();
        // Deflate has many encodings of the same bytes: what was changed into another of them says the same.
        let same = || contents(&changed) == contents(&bundle);
        let bad = said.code == 1 && said.stderr.starts_with("BAD EVIDENCE: ");
        assert!(bad || said.code == 0 && same(), "byte {at} of the bundle: {said}");
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_proven_restore_becomes_part_of_the_evidence() {
    let (postgres, stack, database) = sample();
    let backup = stack.back_up(&database);
    let issued = stack.issue(&backup, None);
    let restore = Restore::new(&stack.api.url, &issued, &postgres).args(&["--prove", "--created-database", "copy"]);
    restore.run().is_identical();
    let bundle = stack.bundle(&backup);
    let sentences = Verification::of(&bundle, &stack.public_keys()).passes();
    assert!(sentences.lines().any(|line| line.starts_with("RESTORED (reported): key ")), "{sentences}");

    let receipts = contents(&bundle).receipts;
    assert_eq!(receipts.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [issued.restore_id.as_str()]);
    let key = format!("{}.receipt.{}.json", backup.stem(), issued.restore_id);
    let published =
        crate::patience::expect("the receipt in the bucket", 30, || stack.seaweed.get(BUCKET, &key, None).ok());
    assert_eq!(published, receipts[0].1);

    // What the log says of it, in order.
    let kinds: Vec<String> = kinds(&entries(&bundle), &issued.restore_id);
    let expected =
        "token_issued triggered claimed downloading verifying manifest_verified restoring finalizing completed";
    assert_eq!(
        kinds.join(" "),
        expected.split(' ').map(|kind| format!("restore.{kind}")).collect::<Vec<_>>().join(" ")
    );
}

/// The kinds of a job's entries, in order.
pub fn kinds(entries: &[Entry], job: &str) -> Vec<String> {
    let own = entries.iter().filter(|entry| entry.job_id.as_deref() == Some(job));
    own.map(|entry| entry.event.kind().to_owned()).collect()
}

/// Same backup, same tree, same receipts: same bytes. An export is an entry itself, so that two have the same tree only
/// when the second is recorded before the first is made.
#[test]
fn exports_of_one_tree_are_equal() {
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    postgres.create_database("plain").unwrap();
    let stack = Stack::start();
    let backup = stack.back_up(&stack.add_database("plain", &postgres.dsn("plain"), json!({})));
    stack.published_bundle(&backup);
    let mut compared = 0;
    for _ in 0..20 {
        let exports: Vec<Vec<u8>> = thread::scope(|scope| {
            let running: Vec<_> = (0..6).map(|_| scope.spawn(|| stack.bundle(&backup))).collect();
            running.into_iter().map(|export| export.join().expect("an export")).collect()
        });
        for (at, one) in exports.iter().enumerate() {
            for other in &exports[at + 1..] {
                if contents(one).index.tree_size == contents(other).index.tree_size {
                    assert!(one == other, "two bundles of one tree differ");
                    compared += 1;
                } else {
                    assert!(one != other, "bundles of two trees are equal");
                }
            }
        }
        if compared > 0 {
            break;
        }
    }
    assert!(compared > 0, "no two exports had the same tree");
    drop(postgres);
}
