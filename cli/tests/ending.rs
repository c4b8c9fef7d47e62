//! A restore in place that fails or is interrupted says what became of the target, and that is what became of it.

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::Ordering,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{Backup, Postgres, Server, error, events, postgres, restore, said, wait_until};

const UNTOUCHED: &str = "the target is untouched";
const ROLLED_BACK: &str = "the target is as it was before: everything was rolled back";
const RESTORED: &str = "the target was overwritten: the backup is restored already";
const HALF: &str = "the target is half restored";
const ALL_OR_NOTHING: &str = "the target is either as it was before or restored already; which, is not known";
const PERHAPS_HALF: &str = "the target is either as it was before or half restored; which, is not known";

/// A database that has changed since its backup.
struct Stage {
    postgres: Postgres,
    backup: Backup,
    server: Server,
    work: tempfile::TempDir,
    wrapper: tempfile::TempDir,
}

fn stage() -> Stage {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run(
        "source",
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE t (id int PRIMARY KEY, v text, m mood); INSERT INTO t VALUES (1, 'backed up')",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run("source", "UPDATE t SET v = 'changed'");
    let server = Server::start(&backup);
    Stage { postgres, backup, server, work: tempfile::tempdir().unwrap(), wrapper: tempfile::tempdir().unwrap() }
}

impl Stage {
    fn command(&self, more: &[&str]) -> Command {
        let mut command =
            restore(&self.server, &self.backup, &self.postgres.dsn("source"), "in_place", self.work.path());
        command.arg("--confirm-destructive").args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// With a pg_restore that runs `instead` of the real one, or `then` after it.
    fn wrapped(&self, more: &[&str], instead: Option<&str>, then: &str) -> Command {
        let bin = self.postgres.wrapped_pg_restore(self.wrapper.path(), instead, then);
        let mut command = self.command(more);
        command.env_remove("WALWARDEN_PG_BIN").arg("--pg-bin").arg(bin);
        command
    }

    fn mark(&self) -> PathBuf {
        self.wrapper.path().join("mark")
    }

    fn content(&self) -> String {
        self.postgres.one("source", "SELECT string_agg(v, ',') FROM t")
    }

    /// A session that reads the table and stays: it keeps the table from being dropped.
    fn reader(&self) -> Child {
        let mut reader = self.postgres.client("psql", "source");
        let reader = reader
            .env("PGAPPNAME", "reader")
            .args(["-X", "-q", "-c", "BEGIN; LOCK TABLE t IN ACCESS SHARE MODE; SELECT pg_sleep(300)"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the table is read", || {
            self.sessions("application_name = 'reader' AND wait_event = 'PgSleep'") == 1
        });
        reader
    }

    fn sessions(&self, condition: &str) -> usize {
        let query = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
        self.postgres.one("postgres", &query).parse().unwrap()
    }

    fn wait_for_lock(&self, application: &str) {
        let condition = format!("application_name LIKE '{application}' AND wait_event_type = 'Lock'");
        wait_until("it waits for the table", || self.sessions(&condition) > 0);
    }

    /// pg_restore waits for the table, and the CLI has stopped asking for its transaction: it knows it.
    fn wait_for_its_transaction(&self) {
        self.wait_for_lock("walwarden rst%");
        let asks_no_more = "application_name = 'walwarden restore' AND query LIKE '%pg_stat_progress_copy%' AND query_start < clock_timestamp() - interval '250 ms'";
        wait_until("its transaction is known", || self.sessions(asks_no_more) == 1);
    }

    /// What a command that ended badly said of the target is `words`, to people and to programs.
    fn told(&self, output: &Output, code: &str, exit: i32, words: &str) {
        let (found, text) = error(output);
        assert_eq!((found.as_str(), output.status.code()), (code, Some(exit)), "{}", said(output));
        let message = events(output).pop().unwrap()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("; {words}")), "{text}");
        let word = match words {
            UNTOUCHED => "untouched",
            ROLLED_BACK => "rolled_back",
            RESTORED => "restored",
            HALF => "half_restored",
            _ => "unknown",
        };
        let last = events(output).into_iter().rfind(|event| !event["state"].is_null()).unwrap();
        assert!(["failed_terminal", "cancelled", "interrupted"].contains(&last["state"].as_str().unwrap()));
        assert_eq!(last["payload"]["target"], word, "{}", said(output));
    }
}

fn stop(child: Child, signal: Signal) -> Output {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait_with_output().unwrap()
}

fn end_session(stage: &Stage, mut reader: Child) {
    stage
        .postgres
        .run("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    reader.wait().unwrap();
}

fn wait_for(path: &Path) {
    wait_until("the mark is there", || path.exists());
}

/// The pg_restore that a command runs.
fn pg_restore_of(child: &Child) -> Pid {
    let parent = child.id().to_string();
    let of_it = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = (stat.split('(').nth(1)?.split(')').next()?, stat.rsplit(')').next()?);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        (name == "pg_restore" && fields[1] == parent).then(|| entry.file_name().to_string_lossy().parse().unwrap())
    };
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(of_it);
    Pid::from_raw(found.expect("a pg_restore")).unwrap()
}

#[test]
fn stopped_before_pg_restore_the_target_is_untouched() {
    let stage = stage();
    // Refused by the plan, or kept out: nothing was claimed.
    stage.postgres.run("source", "CREATE VIEW since AS SELECT * FROM t");
    let output = stage.command(&[]).output().unwrap();
    let (code, text) = error(&output);
    assert!(code == "plan_refused" && text.contains(&format!("; {UNTOUCHED}")), "{}", said(&output));
    stage.postgres.run("source", "DROP VIEW since");

    // During the download.
    stage.server.behaviour.artifact_requests.store(1, Ordering::Relaxed);
    stage.server.behaviour.stall_after.store(1, Ordering::Relaxed);
    let child = stage.command(&[]).spawn().unwrap();
    wait_until("it downloads", || stage.server.behaviour.artifact_requests.load(Ordering::Relaxed) > 1);
    stage.told(&stop(child, Signal::TERM), "interrupted", 4, UNTOUCHED);
    stage.server.behaviour.stall_after.store(0, Ordering::Relaxed);

    // When pg_restore had done nothing; a failure of that kind too, and with jobs.
    let hang = format!("touch '{}'; exec sleep 300", stage.mark().display());
    for jobs in ["1", "2"] {
        let child = stage.wrapped(&["--jobs", jobs], Some(&hang), "").spawn().unwrap();
        wait_for(&stage.mark());
        std::fs::remove_file(stage.mark()).unwrap();
        stage.told(&stop(child, Signal::INT), "cancelled", 4, UNTOUCHED);
        let output = stage.wrapped(&["--jobs", jobs], Some("exit 1"), "").output().unwrap();
        stage.told(&output, "target_failed", 3, UNTOUCHED);
    }
    stage.server.corrupt_artifact();
    stage.told(&stage.command(&[]).output().unwrap(), "artifact_mismatch", 3, UNTOUCHED);
    assert_eq!(stage.content(), "changed");
}

#[test]
fn stopped_in_its_one_transaction_the_target_is_as_it_was() {
    let stage = stage();
    let reader = stage.reader();
    for signal in [Signal::TERM, Signal::INT] {
        let child = stage.command(&[]).spawn().unwrap();
        stage.wait_for_its_transaction();
        stage.told(&stop(child, signal), "cancelled", 4, ROLLED_BACK);
    }
    // Someone else kills pg_restore; its session would wait for the table for ever.
    let child = stage.command(&[]).spawn().unwrap();
    stage.wait_for_its_transaction();
    kill_process(pg_restore_of(&child), Signal::KILL).unwrap();
    stage.told(&child.wait_with_output().unwrap(), "target_failed", 3, ROLLED_BACK);
    assert_eq!(stage.sessions("application_name LIKE 'walwarden rst%'"), 0);
    end_session(&stage, reader);
    assert_eq!(stage.content(), "changed");

    // An error of its own.
    stage.postgres.run("source", "CREATE CAST (mood AS text) WITH INOUT");
    stage.told(&stage.command(&[]).output().unwrap(), "target_failed", 3, ROLLED_BACK);
    assert_eq!(stage.content(), "changed");
}

#[test]
fn a_target_that_goes_down_amid_the_restore_is_as_it_was() {
    let mut stage = stage();
    let mut reader = stage.reader();
    let child = stage.command(&[]).spawn().unwrap();
    stage.wait_for_its_transaction();
    stage.postgres.crash();
    reader.wait().unwrap();
    stage.told(&child.wait_with_output().unwrap(), "target_failed", 3, ROLLED_BACK);
    stage.postgres.start_again();
    assert_eq!(stage.content(), "changed");
}

#[test]
fn what_was_committed_is_called_restored() {
    let stage = stage();
    let mark = stage.mark().display().to_string();
    let check = |output: &Output, code: &str, exit: i32| {
        stage.told(output, code, exit, RESTORED);
        assert_eq!(stage.content(), "backed up");
        stage.postgres.run("source", "UPDATE t SET v = 'changed'");
    };
    // Interrupted when pg_restore had committed and not yet ended: it ends with 0 all the same.
    let linger = format!("trap 'exit 0' TERM; touch '{mark}'; while :; do sleep 0.1; done");
    for jobs in ["1", "2"] {
        let child = stage.wrapped(&["--jobs", jobs], None, &linger).spawn().unwrap();
        wait_for(&stage.mark());
        std::fs::remove_file(&mark).unwrap();
        let output = stop(child, Signal::TERM);
        assert!(error(&output).1.contains("nothing has to be restored again"), "{}", said(&output));
        check(&output, "cancelled", 4);
    }
    // Killed when it had committed: the server is asked.
    let linger = format!("touch '{mark}'; exec sleep 300");
    let reader = stage.reader();
    let child = stage.wrapped(&[], None, &linger).spawn().unwrap();
    stage.wait_for_its_transaction();
    end_session(&stage, reader);
    wait_for(&stage.mark());
    check(&stop(child, Signal::TERM), "cancelled", 4);

    // It warned.
    let output = stage.wrapped(&[], None, "echo 'pg_restore: warning: something odd' >&2").output().unwrap();
    check(&output, "target_failed", 3);

    // During the proof.
    let hold = "\"$PSQL\" -X -q -d \"$DATABASE\" -c 'BEGIN; LOCK TABLE t; SELECT pg_sleep(300)' >/dev/null 2>&1 &
        until [ \"$(\"$PSQL\" -X -A -t -d \"$DATABASE\" -c \"SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock' AND granted\")\" = 1 ]; do sleep 0.05; done";
    let child = stage.wrapped(&["--prove"], None, hold).spawn().unwrap();
    stage.wait_for_lock("walwarden proof");
    let output = stop(child, Signal::INT);
    stage
        .postgres
        .run("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    assert!(error(&output).1.contains("walwarden prove"), "{}", said(&output));
    check(&output, "cancelled", 4);

    // The proof found a difference.
    let tamper = "\"$PSQL\" -X -q -d \"$DATABASE\" -c \"INSERT INTO t VALUES (2, 'planted')\" 2>/dev/null";
    let output = stage.wrapped(&["--prove"], None, tamper).output().unwrap();
    stage.told(&output, "proof_differs", 3, RESTORED);
    assert_eq!(stage.content(), "backed up,planted");
}

#[test]
fn what_cannot_be_known_is_not_claimed() {
    let stage = stage();
    // It says that it began and no more, and the server has no transaction of it.
    let silent = format!("echo 'pg_restore: dropping TABLE t' >&2; touch '{}'; exec sleep 300", stage.mark().display());
    for (jobs, words) in [("1", ALL_OR_NOTHING), ("2", PERHAPS_HALF)] {
        let child = stage.wrapped(&["--jobs", jobs], Some(&silent), "").spawn().unwrap();
        wait_for(&stage.mark());
        std::fs::remove_file(stage.mark()).unwrap();
        stage.told(&stop(child, Signal::TERM), "cancelled", 4, words);
    }
    let lost = "echo 'pg_restore: dropping TABLE t' >&2; echo 'pg_restore: error: could not commit database transaction: server closed the connection unexpectedly' >&2; exit 1";
    let output = stage.wrapped(&[], Some(lost), "").output().unwrap();
    stage.told(&output, "target_failed", 3, ALL_OR_NOTHING);
}

#[test]
fn with_jobs_it_may_be_half_restored_and_then_says_so() {
    let stage = stage();
    // The first thing to be dropped is waited for: nothing is known to have been done.
    let reader = stage.reader();
    let child = stage.command(&["--jobs", "2"]).spawn().unwrap();
    stage.wait_for_its_transaction();
    stage.told(&stop(child, Signal::TERM), "cancelled", 4, PERHAPS_HALF);
    end_session(&stage, reader);
    assert_eq!(stage.content(), "changed");
    // The table goes, its type cannot.
    stage.postgres.run("source", "CREATE CAST (mood AS text) WITH INOUT");
    let output = stage.command(&["--jobs", "2"]).output().unwrap();
    stage.told(&output, "target_failed", 3, HALF);
    assert_eq!(stage.postgres.one("source", "SELECT to_regclass('t') IS NULL"), "t");
}
