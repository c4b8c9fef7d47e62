//! `walwarden prove`: a database that exists, compared with files as they lie in the bucket.

mod support;

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use support::{Backup, Postgres, differences, error, events, postgres, said, sample, walwarden};

/// The files of a backup, fetched from the bucket.
struct Fetched {
    directory: tempfile::TempDir,
}

impl Fetched {
    fn of(backup: &Backup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
        write("backup.manifest.json", backup.envelope.as_bytes());
        write("backup.annex.jsonl.gz", &backup.annex);
        write("pubkey.pem", backup.pem.as_bytes());
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn prove(&self, target: &str) -> Command {
        let mut command = walwarden();
        command.env("WALWARDEN_TARGET", target).arg("prove");
        for (flag, file) in
            [("--envelope", "backup.manifest.json"), ("--annex", "backup.annex.jsonl.gz"), ("--pubkey", "pubkey.pem")]
        {
            command.arg(flag).arg(self.path(file));
        }
        command
    }
}

fn staged() -> (Postgres, Backup, Fetched) {
    let postgres = Postgres::start(postgres::usual_major());
    sample(&postgres);
    let backup = Backup::of(&postgres, "source", "-Z6");
    let fetched = Fetched::of(&backup);
    (postgres, backup, fetched)
}

fn verdict(output: &Output) -> serde_json::Value {
    events(output).into_iter().find(|event| !event["proof"].is_null()).expect("a proof")
}

#[test]
fn what_is_the_same_is_identical_and_every_difference_is_found() {
    let (postgres, backup, fetched) = staged();
    let object = backup.records.large_objects[1].oid;
    let output = fetched.prove(&postgres.dsn("source")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let counts = &backup.records.header.counts;
    let found = verdict(&output);
    assert_eq!((&found["verdict"], &found["proof"]["tables"]), (&"identical".into(), &counts.tables.into()));
    let lines = String::from_utf8(output.stderr).unwrap();
    assert!(lines.contains("\nidentical: ") && lines.contains("signed by "), "{lines}");

    for (sql, name, how) in &differences(object) {
        postgres.run("postgres", "CREATE DATABASE copy TEMPLATE source");
        postgres.run("copy", sql);
        let output = fetched.prove(&postgres.dsn("copy")).arg("--json").output().unwrap();
        let told = error(&output);
        assert_eq!((told.0.as_str(), output.status.code()), ("proof_differs", Some(3)), "{sql}: {}", said(&output));
        assert!(told.1.contains(name), "{}", told.1);
        let different = verdict(&output)["proof"]["different"].to_string();
        assert!(different.contains(name) && different.contains(how), "{sql}: {different}");
        assert!(!said(&output).contains("identical"), "{}", said(&output));
        // What is there beside the backup is no difference in place.
        let in_place = fetched.prove(&postgres.dsn("copy")).args(["--json", "--mode", "in_place"]).output().unwrap();
        assert_eq!(in_place.status.code(), Some(if how == "is not in the backup" { 0 } else { 3 }), "{sql}");
        postgres.run("postgres", "DROP DATABASE copy");
    }
}

#[test]
fn what_cannot_be_read_is_not_proven() {
    let (postgres, _, fetched) = staged();
    let dsn = postgres.login("stranger", "", "source");
    let output = fetched.prove(&dsn).arg("--json").output().unwrap();
    let told = error(&output);
    assert_eq!((told.0.as_str(), output.status.code()), ("not_proven", Some(3)), "{}", said(&output));
    assert!(told.1.contains("permission denied"), "{}", told.1);
    assert!(!said(&output).contains("identical"), "{}", said(&output));
    assert_eq!(verdict(&output)["verdict"], "notProven");
}

#[test]
fn files_are_verified_before_the_target_is_asked() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", "CREATE TABLE t AS SELECT 1 AS a");
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run("source", "INSERT INTO t VALUES (2)");
    let later = Backup::of(&postgres, "source", "-Z6");
    // Nothing answers there.
    let nowhere = "postgresql://u@127.0.0.1:1/source";
    let broken = |name: &str, bytes: Vec<u8>| {
        let fetched = Fetched::of(&backup);
        std::fs::write(fetched.path(name), bytes).unwrap();
        let output = fetched.prove(nowhere).arg("--json").output().unwrap();
        let (code, text) = error(&output);
        (code, output.status.code().unwrap(), text)
    };
    let other_key = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let mut short = backup.annex.clone();
    short.pop();
    let changed = backup.envelope.replacen("\"payload\":\"e", "\"payload\":\"f", 1);
    for (name, bytes, code, exit) in [
        ("pubkey.pem", other_key.to_vec(), "manifest_invalid", 3),
        ("pubkey.pem", b"nothing".to_vec(), "pubkey_invalid", 2),
        ("backup.manifest.json", changed.into_bytes(), "manifest_invalid", 3),
        ("backup.manifest.json", vec![b' '; 2 << 20], "envelope_invalid", 2),
        ("backup.annex.jsonl.gz", later.annex.clone(), "manifest_invalid", 3),
        ("backup.annex.jsonl.gz", short, "manifest_invalid", 3),
        ("backup.annex.jsonl.gz", Vec::new(), "manifest_invalid", 3),
    ] {
        let (found, status, text) = broken(name, bytes);
        assert_eq!((found.as_str(), status), (code, exit), "{name}: {text}");
    }
    let fetched = Fetched::of(&backup);
    let output = fetched.prove(nowhere).arg("--json").output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_unreachable", Some(1)));
    std::fs::remove_file(fetched.path("backup.annex.jsonl.gz")).unwrap();
    let output = fetched.prove(nowhere).arg("--json").output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("annex_unreadable", Some(2)));
}

#[test]
fn guards_say_what_to_do_and_no_password() {
    let mut text = String::new();
    let target = "postgresql://u:hunter2@127.0.0.1:1/x";
    let three = ["--envelope", "/nonexistent/e", "--annex", "/nonexistent/a", "--pubkey", "/nonexistent/p"];
    for (what, arguments) in [
        ("nothing", vec![]),
        ("no annex", vec!["--envelope", "e"]),
        ("no keys", vec!["--envelope", "e", "--annex", "a"]),
        ("bad mode", [&three[..], &["--mode", "over"]].concat()),
        ("no target", three.to_vec()),
        ("no database", [&three[..], &["--target", "postgresql://u:hunter2@h"]].concat()),
        ("no files", [&three[..], &["--target", target]].concat()),
        ("unknown flag", vec!["--prove"]),
        ("misplaced target", vec![target]),
    ] {
        let output = walwarden().arg("prove").args(arguments).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{what}");
        text.push_str(&format!("-- {what}\n{}\n", String::from_utf8(output.stderr).unwrap()));
    }
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
    let output = walwarden().args(["prove", "--help"]).output().unwrap();
    assert!(output.status.success());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}
