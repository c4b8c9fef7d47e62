//! Good bundles beside checkpoints, artifacts, annexes and key files that are wrong, or from which nothing
//! can be told.

use walwarden_verifier::{
    annex::Record,
    bundle::Proof,
    dsse::Statement,
    keys::{KeySet, KeyUse},
    manifest::Backup,
};

use super::{
    catalogue::{Catalogue, args},
    files::{Files, V16_ZSTD},
    tampered::{restored, world},
    tape::replace,
    world::{World, key, key_set, note},
};

pub fn checkpoints(catalogue: &mut Catalogue) {
    const FILE: &str = "valid/restored.tgz";
    let evidence = restored().evidence();
    let size = evidence.contents.index.tree_size;
    let supply = |catalogue: &mut Catalogue, name: &str, bytes: Vec<u8>| {
        let path = format!("checkpoints/{name}");
        catalogue.file(&path, bytes);
        path
    };
    let mut other_history = evidence.checkpoint(8);
    other_history.root[0] ^= 1;
    let path = supply(catalogue, "other-history", note(2, &other_history));
    let rewritten = format!("checkpoint {path}: the bundle's log does not extend it");
    catalogue.bad(FILE, &["--checkpoint", &path], &rewritten);
    // Bad evidence outranks what cannot be decided, in whichever order.
    let mut larger = evidence.checkpoint(size);
    larger.size += 1;
    let later = supply(catalogue, "later", note(2, &larger));
    catalogue.undecided(
        FILE,
        &["--checkpoint", &later],
        &format!("checkpoint {later} is of size {}, the bundle only of {size}", size + 1),
    );
    catalogue.bad(FILE, &["--checkpoint", &later, "--checkpoint", &path], &rewritten);

    let mut fork = evidence.checkpoint(size);
    fork.root[31] ^= 1;
    let path = supply(catalogue, "fork", note(2, &fork));
    catalogue.bad(
        FILE,
        &["--checkpoint", &path],
        &format!("checkpoint {path}: has another root than the bundle's log at the same size"),
    );
    let mut empty = evidence.checkpoint(0);
    empty.root = [0; 32];
    let path = supply(catalogue, "empty-with-a-root", note(2, &empty));
    catalogue.bad(FILE, &["--checkpoint", &path], &format!("checkpoint {path}: the bundle's log does not extend it"));
    let path = supply(catalogue, "no-proof", note(2, &evidence.checkpoint(5)));
    catalogue.undecided(
        FILE,
        &["--checkpoint", &path],
        &format!("checkpoint {path} is of size 5, for which the bundle has no consistency proof"),
    );
    let mut elsewhere = evidence.checkpoint(8);
    elsewhere.origin = elsewhere.origin.replace("/0", "/1");
    let path = supply(catalogue, "other-epoch", note(2, &elsewhere));
    catalogue.undecided(
        FILE,
        &["--checkpoint", &path],
        &format!("checkpoint {path} is of log {}, the bundle of another", elsewhere.origin),
    );
    let path = supply(catalogue, "forged", note(9, &evidence.checkpoint(8)));
    catalogue.bad(
        FILE,
        &["--checkpoint", &path],
        &format!("checkpoint {path}: not signed by a trusted checkpoint key of that origin"),
    );
    let mut altered = note(2, &evidence.checkpoint(8));
    replace(&mut altered, "\n8\n", "\n9\n");
    let path = supply(catalogue, "altered", altered);
    catalogue.bad(FILE, &["--checkpoint", &path], &format!("checkpoint {path}: signature does not match the note"));
    catalogue.undecided(
        FILE,
        &["--checkpoint", "checkpoints/none"],
        "checkpoints/none cannot be opened: No such file or directory",
    );

    // A history that was rewritten after size 8 was published: proofs are in order, but to another past.
    let mut rewritten = restored();
    rewritten.log = Box::new(|log| log[4].salt = "ff".repeat(16));
    let file = "tampered/history-rewritten.tgz";
    catalogue.file(file, rewritten.bundle());
    catalogue.bad(
        file,
        &["--checkpoint", "checkpoints/size-8"],
        "checkpoint checkpoints/size-8: the bundle's log does not extend it",
    );
    let mut truncated = restored();
    truncated.contents = Box::new(|contents| {
        if let Some(Proof::Consistency { path, .. }) =
            contents.proofs.iter_mut().find(|p| matches!(p, Proof::Consistency { size: 8, .. }))
        {
            path.pop();
        }
    });
    let file = "tampered/consistency-proof-short.tgz";
    catalogue.file(file, truncated.bundle());
    catalogue.bad(
        file,
        &["--checkpoint", "checkpoints/size-8"],
        "checkpoint checkpoints/size-8: the bundle's log does not extend it",
    );
}

/// Adds a world whose files are edited before the manifest is signed over them.
fn signed(catalogue: &mut Catalogue, name: &str, edit: impl FnOnce(&mut World)) -> (String, String, String) {
    let mut world = world();
    edit(&mut world);
    let at = |suffix| format!("tampered/{name}{suffix}");
    let (bundle, artifact, annex) = (at(".tgz"), at(".dump"), at(".annex.jsonl.gz"));
    catalogue.file(&bundle, world.bundle());
    if world.files.artifact != Files::new(V16_ZSTD).artifact {
        catalogue.file(&artifact, world.files.artifact.clone());
    }
    if world.files.annex != Files::new(V16_ZSTD).annex {
        catalogue.file(&annex, world.files.annex.clone());
    }
    (bundle, artifact, annex)
}

pub fn artifacts(catalogue: &mut Catalogue) {
    const FILE: &str = "valid/backup.tgz";
    let artifact = Files::new(V16_ZSTD).artifact;
    let size = artifact.len();
    let mut wrong = |name: &str, bytes: Vec<u8>, problem: &str| {
        let path = format!("tampered/{name}.dump");
        catalogue.file(&path, bytes);
        catalogue.bad(FILE, &["--artifact", &path], &format!("artifact: {problem}"));
    };
    let mut flipped = artifact.clone();
    flipped[size - 40] ^= 1;
    wrong("artifact-byte", flipped, "its SHA-256 is not the manifest's");
    wrong("artifact-truncated", artifact[..size - 1].to_vec(), &format!("is shorter than the manifest's {size} bytes"));
    wrong(
        "artifact-longer",
        [artifact.as_slice(), &[0]].concat(),
        &format!("is longer than the manifest's {size} bytes"),
    );
    wrong("artifact-empty", vec![], &format!("is shorter than the manifest's {size} bytes"));
    catalogue.undecided(
        FILE,
        &["--artifact", "tampered/none.dump"],
        "tampered/none.dump cannot be opened: No such file or directory",
    );

    let whole = "artifact: is not a whole pg_dump archive";
    let (bundle, file, _) = signed(catalogue, "signed-artifact-ends-early", |world| {
        world.files.artifact.truncate(size - 12);
    });
    catalogue.bad(&bundle, &["--artifact", &file], whole);
    let (bundle, file, _) = signed(catalogue, "signed-artifact-trailing-byte", |world| world.files.artifact.push(0));
    catalogue.bad(&bundle, &["--artifact", &file], whole);
    let mut statement = |name: &str, edit: fn(&mut _), problem: &str| {
        let (bundle, _, _) = signed(catalogue, name, |world| world.statement = Box::new(edit));
        catalogue.bad(&bundle, &["--artifact", "valid/backup.dump"], &format!("artifact: {problem}"));
    };
    statement(
        "signed-other-contents",
        |s: &mut Statement<Backup>| s.predicate.contents.digest = "0".repeat(64),
        "its contents digest is not the manifest's",
    );
    statement(
        "signed-other-rows",
        |s: &mut Statement<Backup>| s.predicate.contents.rows += 1,
        "its number of rows is not the manifest's",
    );
    statement(
        "signed-other-compression",
        |s: &mut Statement<Backup>| s.predicate.compression = "gzip:6".into(),
        "its compression is not the manifest's",
    );
}

pub fn annexes(catalogue: &mut Catalogue) {
    const FILE: &str = "valid/backup.tgz";
    let good = Files::new(V16_ZSTD);
    let size = good.annex.len();
    let mut wrong = |name: &str, bytes: Vec<u8>, problem: &str| {
        let path = format!("tampered/{name}.annex.jsonl.gz");
        catalogue.file(&path, bytes);
        catalogue.bad(FILE, &["--annex", &path], &format!("annex: {problem}"));
    };
    let mut flipped = good.annex.clone();
    flipped[size / 2] ^= 1;
    wrong("annex-byte", flipped, "its SHA-256 is not the manifest's");
    wrong(
        "annex-longer",
        [good.annex.as_slice(), &[0]].concat(),
        &format!("is longer than the manifest's {size} bytes"),
    );

    let mut lines = |name: &str, edit: fn(&mut Vec<Vec<u8>>), problem: &str| {
        let (bundle, _, annex) = signed(catalogue, name, |world| {
            let mut lines = world.files.annex_lines();
            edit(&mut lines);
            world.files.set_annex(&lines);
        });
        catalogue.bad(&bundle, &["--annex", &annex], problem);
    };
    lines(
        "signed-annex-unknown-field",
        |l| replace(&mut l[0], "\"v\":", "\"trust\":1,\"v\":"),
        "annex line 1: is not canonical JSON of its form",
    );
    lines(
        "signed-annex-other-backup",
        |l| replace(&mut l[0], "00003\"", "00009\""),
        "annex line 1: backupId is not the manifest's",
    );
    lines(
        "signed-annex-other-database",
        |l| replace(&mut l[2], "shop", "chop"),
        "annex: its database is not the manifest's",
    );
    lines(
        "signed-annex-row-key",
        |l| replace(&mut l[0], "5a5a", "5A5A"),
        "annex line 1: rowKey is not 128 lower-case hex digits",
    );
    lines("signed-annex-records-swapped", |l| l.swap(1, 2), "annex: records are not in order");
    lines(
        "signed-annex-entry-altered",
        |l| replace(&mut l[4], "\"app\"", "\"apps\""),
        "annex: its entries are not those of the manifest's contents digest",
    );
    lines(
        "signed-annex-entry-left-out",
        |l| drop(l.remove(4)),
        "annex: the header's counts are not those of the records",
    );
    lines(
        "signed-annex-no-newline",
        |l| {
            l.last_mut().unwrap().pop();
        },
        "annex: a record is larger than 1 MiB or does not end",
    );
    lines(
        "signed-annex-long-record",
        |l| l.insert(1, [vec![b' '; 2 << 20], b"\n".to_vec()].concat()),
        "annex: a record is larger than 1 MiB or does not end",
    );
    lines(
        "signed-annex-table-twice",
        |l| {
            let at = l.iter().position(|l| l.windows(16).any(|w| w == b"\"record\":\"table\"")).unwrap();
            l.insert(at, l[at].clone());
        },
        "annex: describes something twice",
    );

    let (bundle, _, annex) = signed(catalogue, "signed-annex-trailing-byte", |world| world.files.annex.push(0));
    catalogue.bad(&bundle, &["--annex", &annex], "annex: bytes follow the gzip member");
    let (bundle, _, annex) = signed(catalogue, "signed-annex-bomb", |world| {
        let (size, mut lines) = (world.files.annex_size.clone(), world.files.annex_lines());
        lines.push(vec![b' '; 2 << 20]);
        world.files.set_annex(&lines);
        world.files.annex_size = size;
    });
    catalogue.bad(&bundle, &["--annex", &annex], "annex: longer than the manifest says");
    let (bundle, _, _) = signed(catalogue, "signed-annex-shorter", |world| world.files.annex_size.lines += 1);
    catalogue.bad(&bundle, &["--annex", "valid/backup.annex.jsonl.gz"], "annex: shorter than the manifest says");
    let (bundle, _, _) = signed(catalogue, "signed-annex-rows", |world| {
        world.statement = Box::new(|statement| statement.predicate.contents.rows += 1);
    });
    catalogue.bad(
        &bundle,
        &["--annex", "valid/backup.annex.jsonl.gz"],
        "annex: its number of rows is not the manifest's",
    );

    // With the artifact at hand what the annex says of data is recomputed.
    let mut record = |name: &str, wanted: fn(&Record) -> bool, edit: fn(&mut Record), problem: &str| {
        let (bundle, _, annex) = signed(catalogue, name, |world| {
            let at = world.files.find(wanted);
            world.files.edit_record(at, edit);
        });
        catalogue.bad(&bundle, &["--artifact", "valid/backup.dump", "--annex", &annex], problem);
    };
    let table = "annex: the table record of dump id 5 is not the artifact's";
    record(
        "signed-annex-row-digest",
        |r| matches!(r, Record::Table(_)),
        |r| {
            if let Record::Table(t) = r {
                t.digest = "0".repeat(64)
            }
        },
        table,
    );
    record(
        "signed-annex-columns",
        |r| matches!(r, Record::Table(_)),
        |r| {
            if let Record::Table(t) = r {
                t.columns = "(what, id)".into()
            }
        },
        table,
    );
    record(
        "signed-annex-sequence",
        |r| matches!(r, Record::Sequence(_)),
        |r| {
            if let Record::Sequence(s) = r {
                s.last_value = "9007199254740992".into()
            }
        },
        "annex: its sequences are not the artifact's",
    );
    record(
        "signed-annex-large-object",
        |r| matches!(r, Record::LargeObject(_)),
        |r| {
            if let Record::LargeObject(o) = r {
                o.size += 1
            }
        },
        "annex: its large objects are not the artifact's",
    );
    record(
        "signed-annex-archive-version",
        |r| matches!(r, Record::Header(_)),
        |r| {
            if let Record::Header(h) = r {
                h.archive_version = "1.15".into()
            }
        },
        "annex line 1: archiveVersion is not the artifact's",
    );
}

pub fn keys(catalogue: &mut Catalogue) {
    const FILE: &str = "valid/restored.tgz";
    let mut with = |name: &str, text: String, exit: i32, line: &str| {
        let path = format!("keys-{name}.pem");
        catalogue.file(&path, text);
        catalogue.fails(args(FILE, &path, &[]), FILE, exit, line);
    };
    let only = |seed, key_use| KeySet::new(vec![key(seed, key_use, None)]).to_pem();
    with("manifest-only", only(1, KeyUse::Manifest), 2, "NOT CHECKED: none of the trusted keys is for checkpoints");
    with("checkpoint-only", only(2, KeyUse::Checkpoint), 2, "NOT CHECKED: none of the trusted keys is for manifests");
    with(
        "no-receipt",
        only(1, KeyUse::Manifest) + &only(2, KeyUse::Checkpoint),
        2,
        "NOT CHECKED: none of the trusted keys is for receipts",
    );
    with(
        "none",
        "# no keys here\n".into(),
        2,
        "NOT CHECKED: keys-none.pem cannot be used as a key file: holds no PUBLIC KEY block",
    );
    with(
        "mislabelled",
        key_set().to_pem().replacen("id=", "id=0", 1),
        2,
        "NOT CHECKED: keys-mislabelled.pem cannot be used as a key file: line 4: the comment above this key does not describe it",
    );
    with(
        "private",
        "-----BEGIN PRIVATE KEY-----\n".into(),
        2,
        "NOT CHECKED: keys-private.pem cannot be used as a key file: line 1: holds something other than a PUBLIC KEY block",
    );

    // Blocks without comments are trusted for every use, for whoever pinned them said so.
    let plain: String = key_set().to_pem().lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    catalogue.file("keys-plain.pem", plain);
    let unpinned: Vec<String> = ["--bundle", FILE].map(str::to_owned).to_vec();
    catalogue.fails(unpinned, FILE, 2, "NOT CHECKED: no trusted key: keys inside a bundle prove nothing");
    catalogue.undecided("valid/none.tgz", &[], "valid/none.tgz cannot be opened: No such file or directory");
}
