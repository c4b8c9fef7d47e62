use proptest::prelude::*;

use super::*;

fn sample() -> BundleContents {
    BundleContents {
        index: BundleIndex {
            v: VERSION.into(),
            origin: "local/log/org_01jd7z9k3m5n7p9r1t3v5x7z9a/0".into(),
            org_id: "org_01jd7z9k3m5n7p9r1t3v5x7z9a".into(),
            database_id: "db_01jd7z9k3m5n7p9r1t3v5x7z9a".into(),
            backup_id: "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a".into(),
            manifest_hash: "ab".repeat(32),
            tree_size: 3,
            root: "cd".repeat(32),
            annex: BundleAnnex { key: "org/x".into(), sha256: "ef".repeat(32), size_bytes: 7 },
            files: vec![],
        },
        envelope: b"{}".to_vec(),
        entries: vec![b"{\"a\":1}".to_vec(), b"{\"a\":2}".to_vec()],
        proofs: vec![
            Proof::Inclusion { index: 0, path: vec![[1; 32], [2; 32]] },
            Proof::Consistency { size: 1, path: vec![] },
        ],
        checkpoint: b"note\n".to_vec(),
        receipts: vec![
            ("rst_01jd7z9k3m5n7p9r1t3v5x7z9b".into(), b"{\"r\":2}".to_vec()),
            ("rst_01jd7z9k3m5n7p9r1t3v5x7z9a".into(), b"{\"r\":1}".to_vec()),
        ],
        keys_pem: "# none\n".into(),
    }
}

fn pack(archive: &[u8]) -> Vec<u8> {
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    gzip.write_all(archive).unwrap();
    gzip.finish().unwrap()
}

fn unpack(bundle: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    GzDecoder::new(bundle).read_to_end(&mut archive).unwrap();
    archive
}

#[test]
fn round_trip_is_deterministic_and_sorts_receipts() {
    let bytes = write(&sample()).unwrap();
    assert_eq!(bytes[..10], GZIP_HEADER);
    let read = read(bytes.as_slice(), &Limits::default()).unwrap();
    assert_eq!(read.index.files.len(), 7);
    assert_eq!(read.receipts[0].1, b"{\"r\":1}");
    assert_eq!(write(&read).unwrap(), bytes);
    let mut expected = sample();
    expected.receipts.reverse();
    expected.index.files.clone_from(&read.index.files);
    assert_eq!(read, expected);
}

#[test]
fn proofs_have_one_form() {
    assert_eq!(
        jcs::to_vec(&Proof::Consistency { size: 4, path: vec![[0xab; 32]] }).unwrap(),
        format!(r#"{{"path":["{}"],"size":4,"type":"consistency"}}"#, "ab".repeat(32)).into_bytes()
    );
    let upper = format!(r#"{{"path":["{}"],"size":4,"type":"consistency"}}"#, "AB".repeat(32));
    assert!(jcs::from_slice::<Proof>(upper.as_bytes()).is_err());
}

#[test]
fn the_gzip_member_is_plain_and_alone() {
    let good = write(&sample()).unwrap();
    for at in 0..10 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(read(bad.as_slice(), &Limits::default()).is_err(), "byte {at}");
    }
    assert!(read([good.as_slice(), &[0]].concat().as_slice(), &Limits::default()).is_err());
    assert!(read([good.as_slice(), &good].concat().as_slice(), &Limits::default()).is_err());
    for end in 0..good.len() {
        assert!(read(&good[..end], &Limits::default()).is_err(), "cut at {end}");
    }
}

#[test]
fn members_are_held_to_their_order_and_digests() {
    let archive = unpack(&write(&sample()).unwrap());
    // bundle.json takes its header and content; the member after it is the envelope.
    let text = archive.windows(16).position(|w| w == b"backup.dsse.json").unwrap();
    assert!(text < 1024);
    let mut altered = archive.clone();
    let at = archive.windows(5).position(|w| w == b"note\n").unwrap();
    altered[at] = b'N';
    let error = read(pack(&altered).as_slice(), &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "checkpoint: differs from what bundle.json says of the members");

    let mut repeated = archive[..archive.len() - 1024].to_vec();
    ustar::append(&mut repeated, "keys.pem", b"").unwrap();
    ustar::finish(&mut repeated);
    assert!(read(pack(&repeated).as_slice(), &Limits::default()).is_err());
}

#[test]
fn limits_hold() {
    let bytes = write(&sample()).unwrap();
    let whole = Limits::default();
    for limits in [
        Limits { compressed_bytes: bytes.len() as u64 - 1, ..whole },
        Limits { uncompressed_bytes: 4096, ..whole },
        Limits { receipts: 1, ..whole },
        Limits { entries: 1, ..whole },
    ] {
        assert!(read(bytes.as_slice(), &limits).is_err(), "{limits:?}");
    }
    // A bomb is stopped by what a member may hold, not by memory.
    let mut bomb = Vec::new();
    ustar::append(&mut bomb, "bundle.json", &vec![b' '; 8 << 20]).unwrap();
    ustar::finish(&mut bomb);
    let error = read(pack(&bomb).as_slice(), &whole).unwrap_err();
    assert_eq!(error.to_string(), "bundle.json: larger than the limit");
}

#[test]
fn names_of_receipts_cannot_escape() {
    let mut bad = sample();
    bad.receipts[0].0 = "../../etc/passwd".into();
    assert!(write(&bad).is_err());
    let mut twice = sample();
    twice.receipts[0].0 = twice.receipts[1].0.clone();
    assert!(write(&twice).is_err());
}

proptest! {
    #[test]
    fn mutations_never_change_what_is_read(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let good = write(&sample()).unwrap();
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] ^= flip;
        if let Ok(contents) = read(bad.as_slice(), &Limits::default()) {
            // Deflate has several encodings of the same bytes (and idle bits at its end).
            prop_assert_eq!(contents, read(good.as_slice(), &Limits::default()).unwrap());
        }
    }

    #[test]
    fn arbitrary_archives_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = read(bytes.as_slice(), &Limits::default());
        let _ = read(pack(&bytes).as_slice(), &Limits::default());
    }
}
