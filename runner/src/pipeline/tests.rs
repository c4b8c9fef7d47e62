use std::{
    io::{self, Cursor, Read},
    num::NonZeroUsize,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use walwarden_verifier::archive::{ArchiveReader, Item, ROW_KEY_BYTES, RowKey, Survey, survey};

use super::*;

#[path = "../../../verifier/src/archive/synthetic.rs"]
mod synthetic;
use synthetic::*;

const KEY: RowKey = [7; ROW_KEY_BYTES];

/// Small, so that little data is cut often.
const PIECE_BYTES: usize = 20_000;

static NEVER: AtomicBool = AtomicBool::new(false);

fn rewrite(input: impl Read, codec: Codec, threads: usize) -> Result<(Outcome, Vec<u8>), PipelineError> {
    let progress = Progress::default();
    let mut settings = Settings::new(codec, KEY, &progress, &NEVER);
    settings.threads = NonZeroUsize::new(threads).unwrap();
    settings.piece_bytes = PIECE_BYTES;
    let mut out = Vec::new();
    let outcome = run(input, &settings, |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    assert_eq!(progress.output_bytes.load(Ordering::Relaxed), out.len() as u64);
    assert_eq!(progress.raw_bytes.load(Ordering::Relaxed), outcome.raw_bytes);
    Ok((outcome, out))
}

/// Every stream of an archive, decoded.
fn streams(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = ArchiveReader::new(bytes).unwrap();
    let mut all = Vec::new();
    let mut read = |reader: &mut ArchiveReader<&[u8]>| {
        let mut content = Vec::new();
        reader.item_reader().unwrap().read_to_end(&mut content).unwrap();
        all.push(content);
    };
    while let Some(item) = reader.next_item().unwrap() {
        match item {
            Item::Data { .. } => read(&mut reader),
            Item::LargeObjects { .. } => {
                while reader.next_large_object().unwrap().is_some() {
                    read(&mut reader);
                }
            }
        }
    }
    all
}

fn same(survey: &Survey, outcome: &Outcome) {
    assert_eq!(survey.tables, outcome.tables);
    assert_eq!(survey.large_objects, outcome.large_objects);
    assert_eq!(survey.contents_digest, outcome.contents_digest);
    assert_eq!(survey.entries, outcome.entries.len() as u64);
}

fn check_rewrite(minor: u8, entries: &[Entry], encode: &dyn Fn(&[u8]) -> Vec<Vec<u8>>, codec: Codec, threads: usize) {
    let original = archive(minor, 0, entries, encode);
    let (outcome, rewritten) = rewrite(&original[..], codec, threads).unwrap();
    assert_eq!(outcome.raw_bytes, original.len() as u64);
    assert_eq!(outcome.size_bytes, rewritten.len() as u64);
    assert_eq!(outcome.sha256[..], <sha2::Sha256 as sha2::Digest>::digest(&rewritten)[..]);
    assert_eq!(streams(&original), streams(&rewritten));
    same(&survey(&original[..], &KEY, |_| {}).unwrap(), &outcome);
    same(&survey(&rewritten[..], &KEY, |_| {}).unwrap(), &outcome);
    // Where the work was cut must not depend on threads.
    let (_, again) = rewrite(&original[..], codec, 3).unwrap();
    assert!(rewritten == again);
}

fn sample(minor: u8) -> Vec<Entry> {
    let mut entries = vec![entry(1, "TABLE", "t"), table(2, "t", b"a\tb\n\nc\\n\n"), table(3, "empty", b"")];
    entries.extend(objects(10, minor, &[(4_000_000_000, b"large"), (5, b"")]));
    entries
}

/// Rows that compress, with lengths from a cheap generator.
fn rows(bytes: usize, longest: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(bytes + longest);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = (state >> 33) as usize % longest;
        let fill = b' ' + (state >> 60) as u8;
        text.extend(std::iter::repeat_n(fill, length));
        text.extend_from_slice(format!("{state:x}\n").as_bytes());
    }
    text
}

#[test]
fn pieces_join_at_every_size_around_the_cut() {
    for excess in -12i64..=12 {
        let length = usize::try_from(PIECE_BYTES as i64 + excess).unwrap();
        for ending in [b"x\n".as_slice(), b"\n\n\n\n\n\n", b"\\\\.\n\n\n"] {
            let mut text = rows(length - 40, 30, 9);
            text.resize(length - ending.len(), b'y');
            text.extend_from_slice(ending);
            let mut entries = vec![table(2, "t", &text)];
            entries.extend(objects(10, 16, &[(5, &text), (6, b"x")]));
            check_rewrite(16, &entries, &|content| vec![content.to_vec()], Codec::Zstd(1), 2);
            check_rewrite(16, &entries, &|content| vec![content.to_vec()], Codec::Gzip(1), 2);
        }
    }
}

#[test]
fn long_rows_pass_in_bounded_memory() {
    // 64 MB in one row, and no buffer for it: what is read and not yet written stays within the bound.
    const LENGTH: usize = 64 << 20;
    const PIECE: usize = 1 << 20;
    let minor = 16;
    let empty = archive(minor, 0, &[table(2, "t", b"")], &|_| vec![]);
    let head = &empty[..empty.len() - 5];
    let mut framing = Vec::new();
    int(&mut framing, LENGTH as i64 + 1);
    let mut end = b"\n".to_vec();
    int(&mut end, 5);
    end.extend_from_slice(b"\\.\n\n\n");
    int(&mut end, 0);
    let row = io::repeat(b'x').take(LENGTH as u64);
    let input = Cursor::new([head, &framing].concat()).chain(row).chain(Cursor::new(end));

    let progress = Progress::default();
    let settings =
        Settings { memory_bytes: 8 << 20, piece_bytes: PIECE, ..Settings::new(Codec::Gzip(1), KEY, &progress, &NEVER) };
    let most = AtomicU64::new(0);
    let mut decoded = 0u64;
    let outcome = run(input, &settings, |bytes: &[u8]| {
        // A slow sink: the producer would run ahead if it could.
        thread::sleep(Duration::from_millis(2));
        decoded += PIECE as u64;
        let ahead = progress.raw_bytes.load(Ordering::Relaxed).saturating_sub(decoded);
        most.fetch_max(ahead, Ordering::Relaxed);
        assert!(bytes.len() < PIECE);
        Ok(())
    })
    .unwrap();
    assert_eq!(outcome.rows(), 1);
    let mut hasher = walwarden_verifier::archive::RowHasher::new(&KEY);
    hasher.row(&vec![b'x'; LENGTH]);
    assert_eq!(outcome.tables[0].rows, hasher.finish());
    assert!(most.load(Ordering::Relaxed) <= 8 << 20, "{most:?}");
}

#[test]
fn truncated_input_is_an_error_at_every_length() {
    let original = archive(14, 0, &sample(14), &chunk_per_row);
    rewrite(&original[..], Codec::Gzip(6), 1).unwrap();
    for length in 0..original.len() {
        assert!(rewrite(&original[..length], Codec::Gzip(6), 1).is_err(), "{length}");
    }
    let trailing = [&original[..], &[0]].concat();
    assert!(matches!(rewrite(&trailing[..], Codec::Gzip(6), 1), Err(PipelineError::Archive(_))));
}

#[test]
fn what_is_not_understood_is_refused() {
    let refused = |minor, method, entries: &[Entry], codec| {
        let bytes = archive(minor, method, entries, &chunk_per_row);
        rewrite(&bytes[..], codec, 1).unwrap_err()
    };
    let odd = Entry { desc: "FUTURE DATA".to_owned(), ..table(2, "t", b"") };
    assert!(matches!(refused(16, 0, &[odd], Codec::Gzip(6)), PipelineError::UnknownData { dump_id: 2, .. }));
    let inserts = Entry { copy: None, ..table(2, "t", b"") };
    assert!(matches!(refused(16, 0, &[inserts], Codec::Gzip(6)), PipelineError::Unexpected(_)));
    let without = entry(2, "TABLE DATA", "t");
    assert!(matches!(refused(16, 0, &[without], Codec::Gzip(6)), PipelineError::Unexpected(_)));
    assert!(matches!(refused(16, 1, &[], Codec::Gzip(6)), PipelineError::Unexpected(_)));
    assert!(matches!(refused(14, 0, &[], Codec::Zstd(3)), PipelineError::Codec(_)));
    assert!(matches!(refused(16, 0, &[], Codec::Gzip(0)), PipelineError::Codec(_)));
    for text in [&b"row\n"[..], b"row\\.\n\n\n", b"\\.\nrow\n\\.\n\n\n", b""] {
        let table = Entry { content: Content::Raw(text.to_vec()), ..table(2, "t", b"") };
        assert!(matches!(refused(16, 0, &[table], Codec::Gzip(6)), PipelineError::Archive(_)), "{text:?}");
    }
}

#[test]
fn one_failure_ends_every_thread() {
    let original = archive(16, 0, &[table(2, "t", &rows(6 << 20, 100, 1))], &chunk_per_row);
    // The sink fails while pg_dump is silent: the caller is told, and ends pg_dump.
    let (release, released) = mpsc::channel::<()>();
    struct Silent(mpsc::Receiver<()>);
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(0)
        }
    }
    let progress = Progress::default();
    let end = || {
        let _ = release.send(());
    };
    let mut settings = Settings::new(Codec::Gzip(6), KEY, &progress, &NEVER);
    settings.piece_bytes = PIECE_BYTES;
    settings.on_failure = &end;
    let input = Cursor::new(&original[..5 << 20]).chain(Silent(released));
    let result = run(input, &settings, |_: &[u8]| Err(io::Error::other("full")));
    assert!(matches!(result, Err(PipelineError::Sink(_))), "{result:?}");

    let failing = Cursor::new(&original[..4 << 20]).chain(FailingRead);
    assert!(matches!(rewrite(failing, Codec::Gzip(6), 2), Err(PipelineError::Archive(ArchiveError::Read { .. }))));
}

#[test]
fn a_thread_that_dies_is_a_failure() {
    let original = archive(16, 0, &[table(2, "t", &rows(1 << 20, 100, 1))], &chunk_per_row);
    let (progress, told) = (Progress::default(), AtomicBool::new(false));
    let tell = || told.store(true, Ordering::Relaxed);
    let settings = Settings { on_failure: &tell, ..Settings::new(Codec::Gzip(6), KEY, &progress, &NEVER) };
    let result = run(&original[..], &settings, |_: &[u8]| panic!("a bug in the sink"));
    assert!(matches!(result, Err(PipelineError::Died)), "{result:?}");
    assert!(told.load(Ordering::Relaxed));
}

struct FailingRead;
impl Read for FailingRead {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("gone"))
    }
}

#[test]
fn cancelling_is_prompt_even_when_the_sink_blocks_the_line() {
    let original = archive(16, 0, &[table(2, "t", &rows(6 << 20, 100, 1))], &chunk_per_row);
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    // No more than the fewest buffers.
    let few = Settings::new(Codec::Gzip(6), KEY, &progress, &cancel);
    let settings = Settings { memory_bytes: 0, piece_bytes: PIECE_BYTES, ..few };
    let start = Instant::now();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            cancel.store(true, Ordering::Relaxed);
        });
        // As a sink of the caller's would: it waits, and looks whether it is cancelled.
        run(&original[..], &settings, |_: &[u8]| {
            while !cancel.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    });
    assert!(matches!(result, Err(PipelineError::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_tiny_items_share_batches() {
    let contents: Vec<(u32, Vec<u8>)> = (1..20_000u32).map(|oid| (oid, vec![b'x'; oid as usize % 3])).collect();
    let borrowed: Vec<(u32, &[u8])> = contents.iter().map(|(oid, content)| (*oid, &content[..])).collect();
    check_rewrite(16, &objects(10, 16, &borrowed), &chunk_per_row, Codec::Zstd(3), 2);
    check_rewrite(16, &objects(10, 16, &borrowed), &chunk_per_row, Codec::Gzip(6), 2);
}

#[test]
fn definitions_are_kept_where_asked() {
    let mut definer = entry(3, "FUNCTION", "f()");
    definer.defn = Some("CREATE FUNCTION f() … SECURITY DEFINER …".to_owned());
    let entries = [entry(1, "TABLE", "t"), entry(2, "ACL", "t"), definer, entry(4, "FUNCTION", "g()")];
    let (outcome, _) = rewrite(&archive(16, 0, &entries, &chunk_per_row)[..], Codec::Gzip(6), 1).unwrap();
    let kept: Vec<bool> = outcome.entries.iter().map(|entry| entry.defn.is_some()).collect();
    assert_eq!(kept, [false, true, true, false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rewriting_keeps_every_byte(
        tables in prop::collection::vec((0usize..150_000, prop::sample::select(vec![1usize, 40, 3_000, 90_000]), any::<u64>()), 0..4),
        sizes in prop::collection::vec(0usize..80_000, 0..4),
        minor in 14u8..17,
        zstd: bool,
        level in 1u8..7,
        threads in 1usize..5,
        chunk in prop::sample::select(vec![0usize, 1 << 12, 1 << 20]),
    ) {
        let mut entries = vec![entry(1, "TABLE", "t")];
        for (at, (bytes, longest, seed)) in tables.iter().enumerate() {
            entries.push(table(2 + at as i32, "t", &rows(*bytes, *longest, *seed)));
        }
        let contents: Vec<Vec<u8>> = sizes.iter().map(|size| rows(*size, 9, *size as u64)).collect();
        let numbered: Vec<(u32, &[u8])> = contents.iter().zip(100..).map(|(content, oid)| (oid, &content[..])).collect();
        entries.extend(objects(50, minor, &numbered));
        let codec = if zstd && minor > 14 { Codec::Zstd(level) } else { Codec::Gzip(level) };
        let by_size = |content: &[u8]| content.chunks(chunk.max(1)).map(<[u8]>::to_vec).collect();
        let encode: &dyn Fn(&[u8]) -> Vec<Vec<u8>> = if chunk == 0 { &chunk_per_row } else { &by_size };
        check_rewrite(minor, &entries, encode, codec, threads);
    }

    #[test]
    fn mutated_input_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = archive(15, 0, &sample(15), &chunk_per_row);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok((outcome, rewritten)) = rewrite(&bytes[..], Codec::Zstd(1), 1) {
            same(&survey(&rewritten[..], &KEY, |_| {}).unwrap(), &outcome);
        }
    }
}
