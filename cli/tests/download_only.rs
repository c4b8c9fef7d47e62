//! `--download-only`: a verified file or none, with nothing overwritten, nothing restored and nothing said to be.

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::Ordering,
};

use serde_json::{Value, json};
use support::{Backup, Postgres, Server, error, events, postgres, said, states, wait_until, walwarden};

const ENDINGS: [&str; 4] = [".annex.jsonl.gz", ".dump", ".manifest.json", ".pubkey.pem"];

fn backup(postgres: &Postgres) -> Backup {
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run(
        "source",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 1000) n",
    );
    Backup::of(postgres, "source", "-Z6")
}

/// A one-liner with the flag appended: no target, no pg_restore, no PATH.
fn download(server: &Server, backup: &Backup, work: &Path, file: &Path) -> Command {
    let mut command = walwarden();
    command.env("WALWARDEN_TOKEN", server.token("new_database")).env("WALWARDEN_BASE_URL", server.url());
    command.env("WALWARDEN_WORK_DIR", work);
    command.args(["restore", "--json", "--manifest", &backup.manifest_hash, "--mode", "new_database"]);
    command.args(["--created-database", "copy", "--download-only"]).arg(file);
    command
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_refused(output: &Output, code: &str) {
    let (found, text) = error(output);
    assert_eq!((found.as_str(), output.status.code()), (code, Some(2)), "{text}");
    let hint = events(output).pop().unwrap()["error"]["hint"].clone();
    assert!(hint.as_str().is_some_and(|hint| !hint.is_empty()), "{text}");
}

/// A printed command, as a person would run it.
fn shell(line: &str, directory: &Path) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_walwarden"));
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("HOME", "/nonexistent").env("PATH", program.parent().unwrap());
    command.stdin(Stdio::null()).current_dir(directory).arg("-c").arg(format!("exec {line}"));
    command
}

#[test]
fn the_verified_artifact_is_a_file_that_restores_later_without_token_and_server() {
    let postgres = Postgres::start(postgres::usual_major());
    let backup = backup(&postgres);
    let server = Server::start(&backup);
    let (work, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = download(&server, &backup, work.path(), Path::new("kept.dump"))
        .current_dir(place.path())
        // A target in the environment is not asked.
        .env("WALWARDEN_TARGET", "postgresql://u@127.0.0.1:1/postgres")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    assert_eq!(states(&output), ["inspected", "downloading", "verifying", "manifest_verified", "downloaded"]);
    assert_eq!(server.reported_steps(), ["downloading", "verifying", "manifest_verified", "cancelled"]);
    assert_eq!(server.reported().last().unwrap()["reason"], "requested");
    assert_eq!(names(place.path()), ENDINGS.map(|ending| format!("kept{ending}")));
    let read = |ending: &str| fs::read(place.path().join(format!("kept{ending}"))).unwrap();
    let made = [&backup.annex, &backup.artifact, backup.envelope.as_bytes(), backup.pem.as_bytes()];
    for (ending, bytes) in ENDINGS.into_iter().zip(made) {
        assert!(read(ending) == bytes, "{ending}");
        let mode = fs::metadata(place.path().join(format!("kept{ending}"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{ending}");
    }
    assert_eq!(names(work.path()), [""; 0]);

    let payload = events(&output).pop().unwrap()["payload"].clone();
    let expected = json!({
        "restoreId": support::server::RESTORE, "file": "kept.dump", "bytes": backup.artifact.len(),
        "checksumSha256": hex(&backup.artifact), "envelope": "kept.manifest.json", "annex": "kept.annex.jsonl.gz",
        "pubkey": "kept.pubkey.pem", "listCommand": "pg_restore -l kept.dump",
        "restoreCommand": payload["restoreCommand"],
    });
    assert_eq!(payload, expected);
    drop(server);
    let restored = shell(payload["restoreCommand"].as_str().unwrap(), place.path())
        .env("WALWARDEN_TARGET", postgres.dsn("postgres"))
        .env("WALWARDEN_PG_BIN", postgres::all_bin_dirs())
        .env("WALWARDEN_WORK_DIR", work.path())
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", said(&restored));
    assert_eq!(postgres.one("copy", "SELECT count(*) FROM t"), "1000");
}

fn hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn it_says_to_a_person_what_there_is_and_takes_a_token_of_either_mode() {
    let postgres = Postgres::start(postgres::usual_major());
    let backup = backup(&postgres);
    let server = Server::start(&backup);
    let (work, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let keys = place.path().join("trusted keys.pem");
    fs::write(&keys, &backup.pem).unwrap();
    // In place nothing is dropped, so nothing has to be confirmed; and without a mode the token's is nobody's concern.
    for (number, mode) in [&["--mode", "in_place"][..], &[]].into_iter().enumerate() {
        let file = place.path().join(format!("a {number}"));
        let mut command = walwarden();
        command.env("WALWARDEN_TOKEN", server.token("in_place")).env("WALWARDEN_BASE_URL", server.url());
        command.env("WALWARDEN_WORK_DIR", work.path()).env("WALWARDEN_PUBKEY", &keys);
        command.args(["restore", "--manifest", &backup.manifest_hash]).args(mode).arg("--download-only").arg(&file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let words = String::from_utf8(output.stderr.clone()).unwrap();
        let shown = file.display().to_string();
        for line in [
            "nothing was restored".to_owned(),
            format!("look into it with: pg_restore -l '{shown}'"),
            format!("-t TABLE '{shown}'"),
            format!(
                "--artifact '{shown}' --envelope '{shown}.manifest.json' --annex '{shown}.annex.jsonl.gz' --pubkey '{}' --mode new_database",
                keys.display()
            ),
        ] {
            assert!(words.contains(&line), "no {line:?} in:\n{words}");
        }
        assert!(!words.contains("restored  ") && !words.contains(&server.token("in_place")), "{words}");
        // Keys that were named are not copied.
        assert!(!place.path().join(format!("a {number}.pubkey.pem")).exists());
        assert_eq!(fs::read(&file).unwrap(), backup.artifact);
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_spent_for_it() {
    let postgres = Postgres::start(postgres::usual_major());
    let backup = backup(&postgres);
    let server = Server::start(&backup);
    let (work, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = place.path().join("kept.dump");
    let run = || download(&server, &backup, work.path(), &file).output().unwrap();

    fs::write(&file, "mine").unwrap();
    is_refused(&run(), "file_exists");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/nowhere", &file).unwrap();
    is_refused(&run(), "file_exists");
    fs::remove_file(&file).unwrap();
    let annex = place.path().join("kept.annex.jsonl.gz");
    fs::write(&annex, "mine").unwrap();
    is_refused(&run(), "file_exists");
    assert_eq!((fs::read(&annex).unwrap(), names(place.path()).len()), (b"mine".to_vec(), 1));
    let absent = place.path().join("absent/kept.dump");
    is_refused(&download(&server, &backup, work.path(), &absent).output().unwrap(), "directory_missing");
    for (flags, named) in [
        (&["--target", "postgresql://u:hunter2@h/x"][..], "--target is given"),
        (&["--prove"], "--prove is given"),
        (&["--plan"], "--plan is given"),
        (&["--jobs", "2", "--exact"], "--jobs, --exact are given"),
        (&["--leave-out", "event-trigger"], "--leave-out is given"),
    ] {
        let output = download(&server, &backup, work.path(), &file).args(flags).output().unwrap();
        is_refused(&output, "download_only_with_restore");
        assert!(said(&output).contains(named) && !said(&output).contains("hunter2"), "{}", said(&output));
    }
    let artifact = ["--artifact", "/x", "--envelope", "/x", "--annex", "/x"];
    is_refused(&download(&server, &backup, work.path(), &file).args(artifact).output().unwrap(), "invalid_arguments");
    assert_eq!((server.behaviour.claims.load(Ordering::Relaxed), server.reported()), (0, vec![]));

    // What is the same already is no obstacle.
    fs::write(&annex, &backup.annex).unwrap();
    assert!(run().status.success());
    assert_eq!(names(place.path()), ENDINGS.map(|ending| format!("kept{ending}")));
}

#[test]
fn bytes_that_were_not_signed_are_given_no_name() {
    let postgres = Postgres::start(postgres::usual_major());
    let backup = backup(&postgres);
    let server = Server::start(&backup);
    server.corrupt_artifact();
    let (work, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = download(&server, &backup, work.path(), &place.path().join("kept.dump")).output().unwrap();
    let (code, text) = error(&output);
    assert_eq!((code.as_str(), output.status.code()), ("artifact_mismatch", Some(3)), "{text}");
    assert_eq!((names(place.path()), names(work.path())), (vec![], vec![]));
    assert_eq!(server.reported_steps().last().unwrap(), "failed");
}

/// A directory on another file system than the usual one for temporary files, where there is one.
fn elsewhere() -> Option<tempfile::TempDir> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let other = Path::new("/dev/shm");
    let differs = device(other).is_some() && device(other) != device(&std::env::temp_dir());
    differs.then(|| tempfile::tempdir_in(other).unwrap())
}

#[test]
fn it_goes_on_after_an_interruption_and_onto_another_file_system() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", "CREATE TABLE t (id int, v bytea); INSERT INTO t SELECT n, sha512(n::text::bytea) || sha512((-n)::text::bytea) FROM generate_series(1, 80000) n");
    let backup = Backup::of(&postgres, "source", "-Z0");
    let size = backup.artifact.len() as u64;
    let server = Server::start(&backup);
    server.behaviour.pause_ms.store(12, Ordering::Relaxed);
    let place = elsewhere().unwrap_or_else(|| tempfile::tempdir().unwrap());
    let (work, file) = (tempfile::tempdir().unwrap(), place.path().join("kept.dump"));

    let mut command = download(&server, &backup, work.path(), &file);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("half of it was sent", || server.sent().1 > size / 2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("interrupted", Some(4)), "{}", said(&output));
    assert_eq!(names(place.path()), [""; 0]);
    let interrupted: Value = events(&output).into_iter().find(|event| event["state"] == "interrupted").unwrap();
    let again = interrupted["payload"]["resume"].as_str().unwrap().to_owned();

    // Somebody makes the file while the rest is fetched: theirs stays, and nothing of ours is beside it.
    let environment: Vec<_> = command.get_envs().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut resumed = shell(&again, place.path());
    let program = Path::new(env!("CARGO_BIN_EXE_walwarden")).parent().unwrap();
    resumed.envs(environment.iter().copied()).env("PATH", program);
    let child = resumed.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let asked = server.behaviour.artifact_requests.load(Ordering::Relaxed);
    wait_until("more is asked for", || server.behaviour.artifact_requests.load(Ordering::Relaxed) > asked);
    fs::write(&file, "mine").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("file_error", Some(1)), "{}", said(&output));
    assert!(error(&output).1.contains("exists"), "{}", said(&output));
    assert_eq!((names(place.path()), fs::read(&file).unwrap()), (vec!["kept.dump".to_owned()], b"mine".to_vec()));

    // Under another name it is done, with nothing fetched again.
    let sent = server.sent().0;
    let other = place.path().join("other.dump");
    let output = download(&server, &backup, work.path(), &other).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.sent().0, sent);
    assert!(fs::read(&other).unwrap() == backup.artifact);
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
    let mut expected: Vec<String> = ENDINGS.map(|ending| format!("other{ending}")).into();
    expected.insert(0, "kept.dump".to_owned());
    assert_eq!(names(place.path()), expected);
    assert_eq!((server.behaviour.claims.load(Ordering::Relaxed), names(work.path())), (1, vec![]));
    let steps = server.reported_steps();
    assert_eq!(steps.iter().filter(|step| ["failed", "cancelled"].contains(&step.as_str())).count(), 1, "{steps:?}");
}
