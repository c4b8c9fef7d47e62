//! Restores from files alone: what lies in the bucket, and the public keys. No token, no server.

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};
use walwarden_tests::{Postgres, Sample, bin};

use crate::{
    program::{self, Said},
    stack::{BUCKET, Backup, Stack, Verification},
};

/// What a person fetched from the bucket.
struct Fetched {
    directory: tempfile::TempDir,
}

impl Fetched {
    fn of(stack: &Stack, backup: &Backup) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let envelope =
            stack.seaweed.get(BUCKET, &format!("{}.manifest.json", backup.stem()), None).expect("an envelope");
        let files = [
            ("a.dump", stack.artifact(backup)),
            ("a.manifest.json", envelope),
            ("a.annex.jsonl.gz", stack.annex(backup)),
            ("keys.pem", stack.public_keys()),
        ];
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).expect("a file");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, target: &Postgres) -> Command {
        let mut command = Command::new(bin("walwarden"));
        command.env_clear().env("HOME", self.path("no-home")).env("PATH", "/usr/bin:/bin");
        command.env("WALWARDEN_TARGET", target.dsn("postgres")).env("WALWARDEN_PG_BIN", target.bin_dir());
        command.env("WALWARDEN_WORK_DIR", self.path("work"));
        command.args(["restore", "--mode", "new_database", "--created-database", "restored", "--prove"]);
        command.arg("--artifact").arg(self.path("a.dump")).arg("--envelope").arg(self.path("a.manifest.json"));
        command.arg("--annex").arg(self.path("a.annex.jsonl.gz"));
        command
    }

    fn restore(&self, target: &Postgres, more: &[&str]) -> Said {
        program::run(self.command(target).arg("--pubkey").arg(self.path("keys.pem")).args(more))
    }

    fn left(&self) -> usize {
        fs::read_dir(self.path("work")).into_iter().flatten().count()
    }
}

fn refused(said: &Said, code: i32, words: &str) {
    let clear = said.stderr.contains(words) && said.stderr.contains("hint: ");
    assert!(said.code == code && clear, "not exit {code} with {words:?}: {said}");
}

#[test]
fn files_and_keys_are_enough() {
    let postgres = Postgres::start(*Postgres::majors_available().last().expect("a Postgres")).unwrap();
    Sample::small().create(&postgres, "source").unwrap();
    let stack = Stack::start();
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
    let backup = stack.back_up(&stack.add_database("sample", &postgres.dsn("source"), gzip));
    let fetched = Fetched::of(&stack, &backup);
    drop(stack);

    let said = fetched.restore(&postgres, &[]);
    assert!(said.code == 0 && said.stderr.contains("identical: "), "{said}");
    let documents: Vec<Value> = said.stdout().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let completed = documents.last().expect("a last document");
    assert_eq!((completed["state"].as_str(), &completed["payload"]["sealed"]), (Some("completed"), &json!(false)));
    assert!(!said.stderr.contains("was not told") && fetched.left() == 0, "{said}");
    assert_eq!(postgres.schema("source").unwrap(), postgres.schema("restored").unwrap());
    postgres.run_sql("postgres", "DROP DATABASE restored").unwrap();

    // Nothing of it is believed.
    refused(&program::run(&mut fetched.command(&postgres)), 2, "--pubkey is missing");
    let change = |name: &str, change: fn(&mut Vec<u8>), code, words: &str| {
        let good = fs::read(fetched.path(name)).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(fetched.path(name), bad).unwrap();
        refused(&fetched.restore(&postgres, &[]), code, words);
        fs::write(fetched.path(name), good).unwrap();
        assert_eq!(
            postgres.query_one("postgres", "SELECT count(*) FROM pg_database WHERE NOT datistemplate").unwrap(),
            "2"
        );
        assert_eq!(fetched.left(), 0);
    };
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    change("a.dump", flip, 3, "the artifact has SHA-256");
    change("a.dump", |bytes| bytes.truncate(bytes.len() - 1), 2, "the manifest states");
    change("a.annex.jsonl.gz", flip, 3, "annex");
    change("a.manifest.json", flip, 3, "manifest is not good");
    refused(&fetched.restore(&postgres, &["--manifest", &"0".repeat(64)]), 2, "not the one named");
}

#[test]
fn a_download_alone_is_no_restore_and_restores_later_by_the_printed_command() {
    let postgres = Postgres::start(*Postgres::majors_available().last().expect("a Postgres")).unwrap();
    Sample::small().create(&postgres, "source").unwrap();
    let stack = Stack::start();
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
    let backup = stack.back_up(&stack.add_database("sample", &postgres.dsn("source"), gzip));
    let issued = stack.issue(&backup, Some("later"));
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin("walwarden"));
    command.env_clear().env("HOME", directory.path()).current_dir(directory.path());
    command.env("WALWARDEN_BASE_URL", &stack.api.url).env("WALWARDEN_TOKEN", &issued.token);
    command.args(["restore", "--manifest", &issued.manifest, "--mode", "new_database", "--created-database", "later"]);
    let said = program::run(command.args(["--download-only", "it's.dump"])).succeeded();
    assert!(!said.to_string().contains(&issued.token), "{said}");
    assert_eq!(fs::read(directory.path().join("it's.dump")).unwrap(), stack.artifact(&backup));

    // The service knows that nothing was restored, and says nothing else.
    let job = stack.restore_job(&issued);
    assert_eq!((&job["state"], &job["final"], &job["receiptHash"]), (&json!("cancelled"), &json!(true), &Value::Null));
    let evidence = stack.api.get(&format!("/api/v1/evidence/{}", backup.id)).ok();
    assert_eq!(evidence["restores"], json!([]), "{evidence:#}");
    let verified = Verification::of(&stack.bundle(&backup), &stack.public_keys()).passes();
    assert!(!verified.contains("RESTORED"), "{verified}");
    let again = program::run(command.args(["--work-dir", "other"]).arg("--json"));
    assert_eq!(again.code, 2, "{again}");

    let last: Value = serde_json::from_str(said.stdout().lines().last().expect("a last line")).expect("JSON");
    let printed = last["payload"]["restoreCommand"].as_str().expect("a command");
    drop(stack);
    let programs = bin("walwarden").parent().expect("a directory").to_owned();
    let mut later = Command::new("/bin/sh");
    later.env_clear().env("HOME", directory.path()).current_dir(directory.path());
    later.env("PATH", std::env::join_paths([programs, "/usr/bin".into()]).expect("paths"));
    later.env("WALWARDEN_TARGET", postgres.dsn("postgres")).env("WALWARDEN_PG_BIN", postgres.bin_dir());
    let said = program::run(later.arg("-c").arg(format!("{printed} --prove"))).succeeded();
    assert!(said.stderr.contains("identical: "), "{said}");
    assert_eq!(postgres.schema("source").unwrap(), postgres.schema("later").unwrap());
}
