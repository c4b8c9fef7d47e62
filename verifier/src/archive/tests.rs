use std::io::{Read, Write};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{synthetic::*, *};

const KEY: RowKey = [7; ROW_KEY_BYTES];

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zlib_chunks(content: &[u8]) -> Vec<Vec<u8>> {
    zlib(content).chunks(7).map(<[u8]>::to_vec).collect()
}

fn zstd_chunks(content: &[u8]) -> Vec<Vec<u8>> {
    let pieces = if content.is_empty() { vec![content] } else { content.chunks(10).collect() };
    let frame = |piece| zstd::bulk::compress(piece, 3).unwrap();
    pieces.into_iter().flat_map(|piece| frame(piece).chunks(9).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

fn encoder(method: u8) -> &'static dyn Fn(&[u8]) -> Vec<Vec<u8>> {
    match method {
        0 => &chunk_per_row,
        1 => &zlib_chunks,
        _ => &zstd_chunks,
    }
}

fn sample(minor: u8) -> Vec<Entry> {
    let mut entries =
        vec![entry(1, "TABLE", "t\"\u{1}\u{e9}"), table(2, "t", b"a\tb\n\nc\\n\n"), table(3, "empty", b"")];
    let big = [9; 300];
    entries.extend(objects(10, minor, &[(4_000_000_000, b"large"), (5, b""), (6, &big)]));
    entries.push(entry(40, "INDEX", "i"));
    entries
}

fn check(bytes: &[u8]) -> Result<Survey, ArchiveError> {
    survey(bytes, &KEY, |_| {})
}

fn rule(bytes: &[u8]) -> Rule {
    match check(bytes) {
        Err(ArchiveError::Malformed { rule, .. }) => rule,
        other => panic!("not refused: {other:?}"),
    }
}

/// The definition, without any of the short cuts.
fn reference(rows: &[&[u8]]) -> [u8; 32] {
    let mut sum = [0u8; 32];
    for row in rows {
        let digest = Sha256::new().chain_update(KEY).chain_update(row).finalize();
        let mut carry = 0;
        for at in (0..32).rev() {
            let total = u16::from(sum[at]) + u16::from(digest[at]) + carry;
            sum[at] = total as u8;
            carry = total >> 8;
        }
    }
    sum
}

#[test]
fn every_version_and_compression_reads() {
    for (minor, method) in [(14, 0), (14, 1), (15, 0), (15, 1), (15, 3), (16, 0), (16, 1), (16, 3)] {
        let bytes = archive(minor, method, &sample(minor), encoder(method));
        let mut kinds = Vec::new();
        let survey = survey(&bytes[..], &KEY, |entry| kinds.push(entry.desc.clone())).unwrap();
        assert_eq!(survey.header.version, (1, minor, 0));
        assert_eq!(survey.entries as usize, kinds.len());
        assert_eq!(survey.bytes as usize, bytes.len());
        assert_eq!(survey.rows(), 3);
        assert_eq!(survey.tables[0].rows.digest(), reference(&[b"a\tb", b"", b"c\\n"]));
        assert_eq!(survey.tables[0].bytes, 14);
        assert_eq!(survey.tables[1].rows, RowSum::default());
        let oids: Vec<_> = survey.large_objects.iter().map(|object| (object.oid, object.bytes)).collect();
        assert_eq!(oids, [(4_000_000_000, 5), (5, 0), (6, 300)]);
        let digest = Sha256::new().chain_update(KEY).chain_update(b"large").finalize();
        assert_eq!(survey.large_objects[0].digest[..], digest[..]);
    }
}

#[test]
fn contents_digest_is_over_jcs_lines() {
    let bytes = archive(14, 0, &[entry(1, "TABLE", "t\"\u{1}\u{e9}"), table(2, "t", b"")], &chunk_per_row);
    let lines = concat!(
        r#"{"dependencies":[],"dumpId":1,"kind":"TABLE","name":"t\"\u0001é","owner":"owner","schema":"public"}"#,
        "\n",
        r#"{"dependencies":[1],"dumpId":2,"kind":"TABLE DATA","name":"t","owner":"owner","schema":"public"}"#,
        "\n"
    );
    assert_eq!(check(&bytes).unwrap().contents_digest[..], Sha256::digest(lines)[..]);
}

#[test]
fn a_truncated_archive_is_never_complete() {
    for (minor, method) in [(14, 0), (14, 1), (15, 3), (16, 0)] {
        let bytes = archive(minor, method, &sample(minor), encoder(method));
        for length in 0..bytes.len() {
            assert!(check(&bytes[..length]).is_err(), "{minor} {method} {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(rule(&longer), Rule::BlockType(0));
    }
}

#[test]
fn items_come_once_and_in_order() {
    let plain = |entries: &[Entry]| archive(16, 0, entries, &chunk_per_row);
    let (a, b) = (table(2, "a", b"1\n"), table(3, "b", b"1\n"));
    let block = |entry: &Entry| {
        let without = plain(&[Entry { content: Content::Raw(vec![]), ..entry.clone() }]);
        let with = plain(std::slice::from_ref(entry));
        with[without.len() - 11..].to_vec()
    };
    let both = plain(&[a.clone(), b.clone()]);
    let contents = &both[..both.len() - block(&a).len() - block(&b).len()];
    let with = |blocks: &[&Entry]| {
        let blocks = blocks.iter().flat_map(|entry| block(entry));
        contents.iter().copied().chain(blocks).collect::<Vec<_>>()
    };
    check(&with(&[&a, &b])).unwrap();
    assert_eq!(rule(&with(&[&a])), Rule::MissingItem(3));
    assert_eq!(rule(&with(&[&b, &a])), Rule::UnexpectedItem { found: 3, due: Some(2) });
    assert_eq!(rule(&with(&[&a, &a])), Rule::UnexpectedItem { found: 2, due: Some(3) });
    assert_eq!(rule(&with(&[&a, &b, &b])), Rule::UnexpectedItem { found: 3, due: None });
    assert_eq!(rule(&plain(&[a.clone(), Entry { dump_id: 2, ..b }])), Rule::DuplicateDumpId(2));
}

#[test]
fn large_objects_are_those_announced() {
    let mut entries = objects(10, 14, &[(5, b"five"), (6, b"six")]);
    entries.remove(0);
    assert_eq!(rule(&archive(14, 0, &entries, &chunk_per_row)), Rule::LargeObjects);
    let entries = objects(10, 16, &[(5, b"five"), (5, b"six")]);
    assert_eq!(rule(&archive(16, 0, &entries, &chunk_per_row)), Rule::DuplicateLargeObject(5));
    let mut entries = objects(10, 16, &[(5, b"five")]);
    entries[0].defn = Some("+5\n".to_owned());
    assert!(matches!(rule(&archive(16, 0, &entries, &chunk_per_row)), Rule::Field(_)));
}

#[test]
fn streams_pg_restore_would_mishandle_are_refused() {
    let archive =
        |method, encode: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| archive(16, method, &[table(2, "t", b"row\n")], encode);
    let trailing = |content: &[u8]| vec![[zlib(content), vec![0]].concat()];
    assert_eq!(rule(&archive(1, &trailing)), Rule::CompressedTrailing);
    let early = |content: &[u8]| vec![zlib(content)[..10].to_vec()];
    assert_eq!(rule(&archive(1, &early)), Rule::CompressedTruncated);
    assert_eq!(rule(&archive(1, &|_| vec![])), Rule::CompressedTruncated);
    assert_eq!(rule(&archive(1, &|_| vec![vec![0; 9]])), Rule::Compressed);
    let joined = |content: &[u8]| vec![zstd_chunks(content).concat(), zstd::bulk::compress(b"", 3).unwrap()];
    let split = |content: &[u8]| {
        let (first, second) = content.split_at(4);
        vec![[first, second].map(|part| zstd::bulk::compress(part, 3).unwrap()).concat()]
    };
    check(&archive(3, &joined)).unwrap();
    assert_eq!(rule(&archive(3, &split)), Rule::FrameInsideChunk);
    assert_eq!(rule(&archive(3, &|_| vec![])), Rule::CompressedTruncated);
    assert_eq!(
        rule(&archive(3, &|content| vec![zstd_chunks(content).concat()[..12].to_vec()])),
        Rule::CompressedTruncated
    );
}

#[test]
fn table_data_ends_with_its_terminator() {
    let raw = |text: &[u8]| {
        let content = Content::Raw(text.to_vec());
        check(&archive(14, 0, &[Entry { content, ..table(2, "t", b"") }], &chunk_per_row))
    };
    assert_eq!(raw(b"\n\n\n\\.\n\n\n").unwrap().rows(), 3);
    for text in [
        &b""[..],
        b"row\n",
        b"\\.\n\n",
        b"row\\.\n\n\n",
        b"row\n\\.\n\n\n\n",
        b"row\n\\.\n\\.\n\n\n",
        b"\\.\nrow\n\\.\n\n\n",
    ] {
        assert!(raw(text).is_err(), "{text:?}");
    }
}

#[test]
fn lengths_allocate_nothing_ahead() {
    let mut bytes = archive(16, 0, &sample(16), &chunk_per_row);
    // The database name's length, and then a chunk's.
    bytes[47..52].copy_from_slice(&[0, 255, 255, 255, 3]);
    assert_eq!(rule(&bytes), Rule::Truncated);
    bytes[47..52].copy_from_slice(&[0, 255, 255, 255, 127]);
    assert_eq!(rule(&bytes), Rule::StringTooLong(0x7fff_ffff));
    bytes[47..52].copy_from_slice(&[1, 0, 0, 0, 0]);
    assert_eq!(rule(&bytes), Rule::Integer);
}

#[test]
fn names_that_are_not_utf8_still_read() {
    let mut bytes = archive(16, 0, &[entry(1, "TABLE", "t")], &chunk_per_row);
    let at = bytes.windows(5).position(|window| window == b"owner").unwrap();
    bytes[at] = 0xff;
    let mut owner = None;
    survey(&bytes[..], &KEY, |entry| owner = entry.owner.clone()).unwrap();
    assert_eq!(owner.as_deref(), Some("\u{fffd}wner"));
}

#[test]
fn copy_statements_parse() {
    let target = |text| copy_target(text).map(|target| (target.table, target.columns));
    assert_eq!(target("COPY public.t (a, b) FROM stdin;\n"), Some(("public.t", "a, b")));
    assert_eq!(
        target("COPY \"S \"\".\".\"t (x\" (\"a)\"\"\", b) FROM stdin;\n"),
        Some(("\"S \"\".\".\"t (x\"", "\"a)\"\"\", b"))
    );
    assert_eq!(target("COPY public.t  FROM stdin;\n"), Some(("public.t", "")));
    for text in [
        "COPY public.t (a) FROM stdin; DROP",
        "COPY public.t (a) TO stdout;\n",
        "COPY \"t (a) FROM stdin;\n",
        "",
        "COPY  (a) FROM stdin;\n",
    ] {
        assert_eq!(target(text), None, "{text}");
    }
}

#[test]
fn sequence_values_parse() {
    let value = |text| sequence_value(text).map(|value| (value.sequence, value.last_value, value.is_called));
    let some = |name: &str, last, called| Some((name.to_owned(), last, called));
    assert_eq!(value("SELECT pg_catalog.setval('public.s', 5, true);\n"), some("public.s", 5, true));
    assert_eq!(
        value("SELECT pg_catalog.setval('\"A''b\".\"s\"\"\\\"', -9223372036854775808, false);\n"),
        some("\"A'b\".\"s\"\"\\\"", i64::MIN, false)
    );
    assert_eq!(value("SELECT pg_catalog.setval(E'public.\"s\\\\\"', 1, false);\n"), some("public.\"s\\\"", 1, false));
    for text in [
        "SELECT pg_catalog.setval('public.s', 5, true); DROP TABLE t;\n",
        "SELECT pg_catalog.setval('public.s'), 5, true);\n",
        "SELECT pg_catalog.setval('public.s', +5, true);\n",
        "SELECT pg_catalog.setval('public.s', 9223372036854775808, true);\n",
        "SELECT pg_catalog.setval('nextval()', 5, true);\n",
    ] {
        assert_eq!(value(text), None, "{text}");
    }
}

#[test]
fn compression_is_rewritten_in_the_header() {
    for minor in [14, 15, 16] {
        let plain = archive(minor, 0, &[], &chunk_per_row);
        let mut reader = ArchiveReader::recording(&plain[..], Limits::default()).unwrap();
        let transcript = reader.take_transcript();
        assert_eq!(transcript, plain);
        let header = reader.header();
        let gzip = header.with_compression(&transcript, Compression::Gzip { level: Some(6) }).unwrap();
        assert_eq!(gzip, archive(minor, 1, &[], &chunk_per_row));
        let zstd = header.with_compression(&transcript, Compression::Zstd);
        assert_eq!(zstd, (minor > 14).then(|| archive(minor, 3, &[], &chunk_per_row)));
        let none = header.with_compression(&gzip, Compression::None).unwrap();
        assert_eq!(none, plain);
    }
}

proptest! {
    #[test]
    fn row_digest_is_the_definition(rows in prop::collection::vec(prop::collection::vec(0x20u8..0x7f, 0..200), 0..20), cut in 1usize..40) {
        let text: Vec<u8> = rows.iter().flat_map(|row| row.iter().copied().chain([b'\n'])).collect();
        let mut whole = RowHasher::new(&KEY);
        whole.write(&text);
        let mut table = TableText::new(&KEY);
        for piece in [&text[..], TERMINATOR].concat().chunks(cut) {
            table.write(piece);
        }
        let mut backwards = RowSum::default();
        for row in rows.iter().rev() {
            let mut hasher = RowHasher::new(&KEY);
            hasher.row(row);
            backwards.add(&hasher.finish());
        }
        let expected = reference(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert_eq!(whole.clone().finish().digest(), expected);
        prop_assert_eq!(whole.clone().finish().rows, rows.len() as u64);
        prop_assert_eq!(backwards, whole.clone().finish());
        match table.finish() {
            Ok(sum) => prop_assert_eq!(sum, whole.finish()),
            Err(fault) => prop_assert!(fault == TextFault::EarlyTerminator && rows.iter().any(|row| row == b"\\.")),
        }
    }

    #[test]
    fn mutations_never_panic(minor in 14u8..17, method in prop::sample::select(vec![0u8, 1, 3]), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), truncate: bool) {
        let method = if minor == 14 && method == 3 { 1 } else { method };
        let entries = sample(minor);
        let mut bytes = archive(minor, method, &entries, encoder(method));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(survey) = check(&bytes) {
            // Whatever was changed was a value, not the structure: the same items are there.
            prop_assert_eq!(survey.entries as usize, entries.len());
            prop_assert_eq!(survey.tables.len(), 2);
            prop_assert_eq!(survey.large_objects.len(), 3);
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), minor in 14u8..17) {
        let head = archive(minor, 0, &[], &chunk_per_row);
        let _ = check(&bytes);
        let _ = check(&[&head[..head.len() - 5], &bytes[..]].concat());
        let mut text = String::new();
        let _ = (&bytes[..]).read_to_string(&mut text);
        let _ = copy_target(&text);
        let _ = sequence_value(&text);
    }

    #[test]
    fn statements_never_panic(text in "(COPY |SELECT pg_catalog.setval\\()?[a'\"\\\\(). ,;é1E]{0,30}(FROM stdin;\n| true\\);\n)?") {
        let _ = copy_target(&text);
        let _ = sequence_value(&text);
    }
}
