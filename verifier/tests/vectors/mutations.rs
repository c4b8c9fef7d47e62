//! Whatever one changes in a bundle that verifies, it no longer does, unless it reads as the same bundle.

use std::sync::OnceLock;

use proptest::prelude::*;
use walwarden_verifier::{
    bundle::{self, BundleContents, Limits},
    verify::{Failure, Report, Supplied, SuppliedCheckpoint, verify, verify_contents},
};

use super::{
    tampered::restored,
    tape,
    world::{key_set, note},
};

/// The bundle with every consistency proof in use.
fn good() -> &'static (Vec<u8>, Vec<SuppliedCheckpoint>) {
    static GOOD: OnceLock<(Vec<u8>, Vec<SuppliedCheckpoint>)> = OnceLock::new();
    GOOD.get_or_init(make)
}

fn make() -> (Vec<u8>, Vec<SuppliedCheckpoint>) {
    let evidence = restored().evidence();
    let checkpoints = restored()
        .older
        .iter()
        .map(|&size| SuppliedCheckpoint { name: size.to_string(), note: note(2, &evidence.checkpoint(size)) })
        .collect();
    (evidence.bundle(), checkpoints)
}

fn run(bundle: &[u8], checkpoints: &[SuppliedCheckpoint]) -> Result<Report, Failure> {
    let supplied = Supplied { checkpoints: checkpoints.to_vec(), ..Supplied::default() };
    verify(bundle, &key_set(), supplied)
}

fn contents(bundle: &[u8]) -> BundleContents {
    bundle::read(bundle, &Limits::default()).unwrap()
}

fn change(bytes: &mut Vec<u8>, at: usize, how: u8, byte: u8) {
    match how % 4 {
        0 => bytes[at] ^= byte.max(1),
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, byte),
        _ => bytes.truncate(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn of_the_file(at in any::<prop::sample::Index>(), how in 0u8..4, byte in any::<u8>()) {
        let (good, checkpoints) = good();
        let mut bad = good.clone();
        change(&mut bad, at.index(good.len()), how, byte);
        if run(&bad, checkpoints).is_ok() {
            // Deflate has several encodings of the same bytes.
            prop_assert_eq!(tape::ungzip(&bad), tape::ungzip(good));
        }
    }

    #[test]
    fn of_the_archive(at in any::<prop::sample::Index>(), how in 0u8..4, byte in any::<u8>()) {
        let (good, checkpoints) = good();
        let archive = tape::ungzip(good);
        let mut bad = archive.clone();
        change(&mut bad, at.index(archive.len()), how, byte);
        prop_assert!(bad == archive || run(&tape::gzip(&bad), checkpoints).is_err());
    }

    /// The digests in bundle.json follow the change, so that everything else has to find it.
    #[test]
    fn of_a_member(which in 1usize..6, at in any::<prop::sample::Index>(), how in 0u8..4, byte in any::<u8>()) {
        let (good, checkpoints) = good();
        let member = tape::members(good).swap_remove(which);
        let mut content = member.content.clone();
        change(&mut content, at.index(member.content.len()), how, byte);
        let bad = tape::with_member(good, &member.name, |bytes| bytes.clone_from(&content));
        prop_assert!(content == member.content || run(&bad, checkpoints).is_err(), "{}", member.name);
    }

    /// Whole lines, proofs and receipts moved, doubled or lost.
    #[test]
    fn of_its_parts(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), how in 0u8..6) {
        let (good, checkpoints) = good();
        let whole = contents(good);
        let mut bad = whole.clone();
        let (entries, proofs) = (whole.entries.len(), whole.proofs.len());
        match how {
            0 => bad.entries.swap(from.index(entries), to.index(entries)),
            1 => bad.proofs.swap(from.index(proofs), to.index(proofs)),
            2 => drop((bad.entries.remove(from.index(entries)), bad.proofs.remove(from.index(entries)))),
            3 => bad.entries.insert(to.index(entries), whole.entries[from.index(entries)].clone()),
            4 => bad.proofs.insert(to.index(proofs), whole.proofs[from.index(proofs)].clone()),
            _ => bad.receipts.clear(),
        }
        let supplied = Supplied { checkpoints: checkpoints.clone(), ..Supplied::default() };
        prop_assert!(bad == whole || verify_contents(&bad, &key_set(), supplied).is_err());
    }
}
