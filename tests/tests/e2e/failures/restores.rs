//! Restores that fail: each as a person pastes it, with what the command says, how it ends, and what is left.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde_json::{Value, json};
use walwarden_contract::failure::FailureClass;
use walwarden_tests::{Postgres, bin, postgres::Pooler};

use super::{
    Scenario,
    gate::{Gate, Mischief},
    jobs::is_of,
    ledger,
    page::{RestoreRow, Row, steady},
    programs::{PgRestore, with_little_room},
};
use crate::{
    patience,
    program::{self, Said},
    proxy::{Fault, Kind, Proxy},
    restore::Issued,
    stack::{Backup, Stack},
};

/// Where it happens.
pub struct Scene<'a> {
    pub stack: &'a Stack,
    /// Before the bucket.
    pub gate: &'a Gate,
    /// The source's server, and the target.
    pub source: &'a Postgres,
    /// Another version, newer.
    pub other: &'a Postgres,
    /// Of a database with a table `t`.
    pub backup: Backup,
    /// Of a database with an extension that `other` does not offer.
    pub extended: Backup,
    /// Whether a small file system can be mounted.
    pub mounts: bool,
}

const ALWAYS: usize = usize::MAX;
/// Room for an empty cluster and not for the rows of `bulk`.
const SMALL_DISK_MEGABYTES: u32 = 96;
const TO_RESTORE: &str = "to_restore";
/// Whatever a server answers, its connection ends instead.
const CUT: Fault = Fault { request: "", marker: "", after: 0, kind: Kind::Cut, times: ALWAYS };

/// Makes the databases to restore; gives their names.
pub fn furnish(source: &Postgres, other: &Postgres) -> [&'static str; 2] {
    let offered = |postgres: &Postgres| {
        let names = postgres.query_one("postgres", "SELECT name FROM pg_available_extensions ORDER BY name").unwrap();
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let theirs = offered(other);
    let mut only_here = offered(source).into_iter().filter(|name| !theirs.contains(name));
    let extension = only_here.next().expect("an extension that one of two versions lacks");
    for name in [TO_RESTORE, "extended"] {
        source.create_database(name).unwrap();
        source.run_sql(name, "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 3000) AS n").unwrap();
    }
    source.run_sql("extended", &format!("CREATE EXTENSION \"{extension}\"")).unwrap();
    [TO_RESTORE, "extended"]
}

/// A restore about to be run, perhaps more than once.
struct Attempt<'a> {
    scene: &'a Scene<'a>,
    target: &'a Postgres,
    issued: Issued,
    dsn: String,
    api_url: String,
    pg_bin: PathBuf,
    /// Name of the new database.
    name: &'a str,
    prove: bool,
    work: tempfile::TempDir,
}

/// What became of the restore.
#[derive(PartialEq)]
enum Left {
    /// Nothing was spent: the token is good.
    Unspent,
    /// It goes on when the command is run again.
    GoesOn(&'static str),
    /// It failed for good, with its class.
    Failed,
}

impl<'a> Attempt<'a> {
    fn of(scene: &'a Scene<'a>, backup: &Backup, target: &'a Postgres, name: &'a str) -> Attempt<'a> {
        Attempt {
            scene,
            target,
            issued: scene.stack.issue(backup, Some(name)),
            dsn: target.dsn("postgres"),
            api_url: scene.stack.api.url.clone(),
            pg_bin: target.bin_dir().to_owned(),
            name,
            prove: false,
            work: tempfile::Builder::new().prefix("ww-restore-").tempdir().expect("a directory"),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(bin("walwarden"));
        self.complete(&mut command);
        command
    }

    fn complete(&self, command: &mut Command) {
        let directory = self.work.path();
        command
            .env_clear()
            .env("HOME", directory.join("no-home"))
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", directory);
        command.env("WALWARDEN_BASE_URL", &self.api_url).env("WALWARDEN_TOKEN", &self.issued.token);
        command.env("WALWARDEN_TARGET", &self.dsn).env("WALWARDEN_PG_BIN", &self.pg_bin);
        command.env("WALWARDEN_WORK_DIR", directory.join("work"));
        command.args(["restore", "--mode", "new_database", "--created-database", self.name]);
        command.args(["--manifest", &self.issued.manifest]).args(self.prove.then_some("--prove"));
    }

    fn run(&self) -> Said {
        self.quiet(program::run(&mut self.command()))
    }

    /// Whatever comes of it, no secret was said.
    fn quiet(&self, said: Said) -> Said {
        for secret in [self.issued.token.as_str(), self.target.password()] {
            assert!(!said.stdout().contains(secret) && !said.stderr.contains(secret), "a secret was said:\n{said}");
        }
        said
    }

    /// Reaches the target through a proxy from now on.
    fn by_proxy(&mut self) -> Proxy {
        let proxy = Proxy::before(&format!("http://127.0.0.1:{}", self.target.port()));
        let port = proxy.url().rsplit(':').next().expect("a port").to_owned();
        self.dsn = self.dsn.replace(&format!(":{}/", self.target.port()), &format!(":{port}/"));
        proxy
    }

    fn job(&self) -> Value {
        self.scene.stack.restore_job(&self.issued)
    }

    /// What a person saw of a failure, held to what is left of it.
    fn row(&self, class: &str, provoked: &str, exit: i32, said: &Said, left: Left) -> Row {
        let lines = |prefix: &str| {
            let lines = said.stderr.lines().enumerate();
            let lines = lines.filter_map(|(nth, line)| Some((nth, line.strip_prefix(prefix)?.to_owned())));
            lines.collect::<Vec<_>>()
        };
        let (errors, hints) = (lines("error: "), lines("hint: "));
        assert!(said.code == exit && errors.len() == 1 && !hints.is_empty(), "{provoked}: not exit {exit}: {said}");
        assert!(errors[0].0 < hints[0].0, "{provoked}: the hint comes before the error: {said}");
        let ([(_, error)], [(_, hint), ..]) = (errors.as_slice(), hints.as_slice()) else { unreachable!() };

        let (server, id) = (&self.scene.stack.server, &self.issued.restore_id);
        let job = self.job();
        let (state, entry) = match left {
            Left::Failed => {
                let listed = FailureClass::ALL.iter().find(|listed| listed.as_str() == class).expect("a class");
                is_of(&job["failure"], *listed);
                assert_eq!((&job["state"], &job["final"]), (&json!("failed_terminal"), &json!(true)), "{job:#}");
                assert!(!listed.is_retryable() && exit == 3, "{class}: exit {exit}");
                let entry = ledger::entry(server, "restore.failed", id);
                assert_eq!(entry["payload"], json!({ "class": class, "retryable": false }), "{entry:#}");
                ("failed_terminal", "`restore.failed`, retryable no")
            }
            Left::Unspent => ("created", "nothing"),
            Left::GoesOn(state) => {
                assert_eq!(exit, 1, "{class}: what goes on is exit 1");
                (state, "nothing")
            }
        };
        if left != Left::Failed {
            assert_eq!((&job["state"], &job["failure"]), (&json!(state), &Value::Null), "{provoked}: {job:#}");
            assert!(!ledger::has_entry(server, "restore.failed", id), "{provoked}");
            assert_eq!(ledger::has_entry(server, "restore.claimed", id), left != Left::Unspent, "{provoked}");
        }
        assert_eq!(job["receiptHash"], Value::Null, "{job:#}");
        Row::Restore(RestoreRow {
            class: class.to_owned(),
            provoked: provoked.to_owned(),
            exit,
            error: steady(error),
            hint: steady(hint),
            state: format!("`{state}`"),
            entry: entry.to_owned(),
        })
    }

    /// Runs what is refused before anything is spent: twice, for programs are told by a code.
    fn refused(&self, class: &str, code: &str, provoked: &str, exit: i32) -> Row {
        let databases = || (self.exists(self.name), self.exists(&self.temporary()));
        let before = databases();
        let row = self.row(class, provoked, exit, &self.run(), Left::Unspent);
        let said = program::run(self.command().arg("--json"));
        let last: Value = serde_json::from_str(said.stdout().lines().last().unwrap_or_default()).unwrap_or_default();
        let told = (&last["error"]["code"], &last["exitCode"], said.code);
        assert_eq!(told, (&json!(code), &json!(exit), exit), "{provoked}: {said}");
        assert_eq!(databases(), before, "{provoked}: something was written to the target");
        row
    }

    /// Runs the same command again, which now does it.
    fn goes_on(&self) {
        self.run().succeeded();
        assert_eq!(self.job()["state"], "completed");
        assert!(self.exists(self.name));
        assert!(!self.exists(&self.temporary()));
    }

    fn exists(&self, name: &str) -> bool {
        let count = format!("SELECT count(*) > 0 FROM pg_database WHERE datname = '{name}'");
        self.target.query_one("postgres", &count).unwrap() == "t"
    }

    /// The temporary database of this restore.
    fn temporary(&self) -> String {
        format!("ww_{}", self.issued.restore_id)
    }

    /// Nothing of it is left on the target.
    fn is_gone(&self) {
        assert!(!self.exists(self.name) && !self.exists(&self.temporary()), "{} is there", self.name);
    }
}

impl<'a> Scene<'a> {
    fn attempt(&'a self, name: &'a str) -> Attempt<'a> {
        Attempt::of(self, &self.backup, self.source, name)
    }

    pub fn scenarios(&'a self) -> Vec<Scenario<'a>> {
        let mut all: Vec<Scenario> = vec![
            Box::new(|| self.download_fails()),
            Box::new(|| self.no_server()),
            Box::new(|| self.pooled()),
            Box::new(|| self.target_gone_after_the_claim()),
            Box::new(|| self.target_gone_during_pg_restore()),
            Box::new(|| self.name_taken_meanwhile()),
            Box::new(|| self.another_database()),
            Box::new(|| self.another_artifact()),
            Box::new(|| self.another_manifest()),
            Box::new(|| self.plans()),
            Box::new(|| self.target_fails_midway()),
        ];
        if self.mounts {
            all.push(Box::new(|| self.no_room()));
        }
        all
    }

    fn pooled(&'a self) -> Vec<Row> {
        let pooler = Pooler::before(self.source, "transaction").unwrap();
        let mut attempt = self.attempt("pooled");
        attempt.dsn = pooler.dsn(&attempt.dsn);
        vec![attempt.refused("target_pooled", "target_pooled", "pgbouncer with `pool_mode = transaction`", 2)]
    }

    fn no_server(&'a self) -> Vec<Row> {
        let mut attempt = self.attempt("nowhere");
        attempt.api_url = "http://127.0.0.1:1".into();
        vec![attempt.refused("control_plane_unreachable", "network", "the server does not answer", 1)]
    }

    fn another_manifest(&'a self) -> Vec<Row> {
        let proxy = Proxy::before(&self.stack.api.url);
        let request = "POST /worker/v1/restores/inspect";
        proxy.make(Fault { request, marker: r#"\"sig\":\""#, after: 20, kind: Kind::Letter, times: ALWAYS });
        let mut attempt = self.attempt("nothing");
        attempt.api_url = proxy.url();
        let provoked = "a letter of the manifest's signature is changed on its way";
        vec![attempt.refused("manifest_invalid", "manifest_invalid", provoked, 3)]
    }

    fn another_artifact(&'a self) -> Vec<Row> {
        let backup = self.own_backup("altered");
        let _flipped = self.gate.spoil("GET", &[backup.key()], ALWAYS, Mischief::FlipAnswer);
        let attempt = Attempt::of(self, &backup, self.source, "altered");
        let provoked = "a bit of the artifact is changed on its way";
        let row = attempt.row("artifact_mismatch", provoked, 3, &attempt.run(), Left::Failed);
        attempt.is_gone();
        vec![row]
    }

    /// A backup whose objects nobody else asks for.
    fn own_backup(&self, name: &str) -> Backup {
        self.stack.back_up(&self.stack.add_database(name, &self.source.dsn(TO_RESTORE), json!({})))
    }

    fn download_fails(&'a self) -> Vec<Row> {
        let backup = self.own_backup("downloaded");
        let away = self.gate.spoil("GET", &[backup.key()], ALWAYS, Mischief::Drop);
        let attempt = Attempt::of(self, &backup, self.source, "downloaded");
        let provoked = "the bucket stays away from the download; then the same command again";
        let said = attempt.run();
        let row = attempt.row("download_failed", provoked, 1, &said, Left::GoesOn("downloading"));
        attempt.is_gone();
        drop(away);
        attempt.goes_on();
        vec![row]
    }

    fn target_gone_after_the_claim(&'a self) -> Vec<Row> {
        let mut unreached = self.attempt("unreached");
        unreached.dsn = "postgresql://u:p@127.0.0.1:1/postgres".into();
        let provoked = "nothing listens there";
        let before = unreached.refused("target_unreachable", "target_unreachable", provoked, 2);

        let backup = self.own_backup("interrupted");
        let held = self.gate.spoil("GET", &[backup.key()], ALWAYS, Mischief::Hold);
        let mut attempt = Attempt::of(self, &backup, self.source, "interrupted");
        let proxy = attempt.by_proxy();
        let said = thread::scope(|scope| {
            let running = scope.spawn(|| attempt.run());
            held.wait("the download");
            proxy.make(CUT);
            drop(held);
            running.join().expect("a restore")
        });
        let provoked = "the target's connections break after the download; then the same command again";
        let after = attempt.row("target_unreachable", provoked, 1, &said, Left::GoesOn("restoring"));
        proxy.mend();
        assert!(!attempt.exists(attempt.name));
        attempt.goes_on();
        vec![before, after]
    }

    /// Runs a restore whose pg_restore waits until something was done.
    fn meanwhile(&'a self, attempt: &mut Attempt<'a>, act: impl FnOnce()) -> Said {
        let pg_restore = PgRestore::waiting(self.source);
        attempt.pg_bin = pg_restore.directory().to_owned();
        thread::scope(|scope| {
            let running = scope.spawn(|| attempt.run());
            pg_restore.wait();
            act();
            pg_restore.go();
            running.join().expect("a restore")
        })
    }

    fn target_gone_during_pg_restore(&'a self) -> Vec<Row> {
        let mut attempt = self.attempt("broken_off");
        let proxy = attempt.by_proxy();
        let said = self.meanwhile(&mut attempt, || proxy.make(CUT));
        let provoked = "the target's connections break before pg_restore writes";
        let row = attempt.row("target_failed", provoked, 3, &said, Left::Failed);
        // What could not be removed is named with the command that does.
        let temporary = attempt.temporary();
        assert!(!attempt.exists(attempt.name) && attempt.exists(&temporary));
        assert!(
            said.stderr.contains("could not be dropped; remove it with: ") && said.stderr.contains(&temporary),
            "{said}"
        );
        self.source.run_sql("postgres", &format!("DROP DATABASE {temporary}")).unwrap();
        vec![row]
    }

    /// Servers of their own that break while rows are loaded.
    fn target_fails_midway(&'a self) -> Vec<Row> {
        let backup = self.stack.back_up(&self.stack.add_database("loaded", &self.source.dsn("loaded"), json!({})));
        let target = Postgres::start(self.source.major()).unwrap();
        let mut attempt = Attempt::of(self, &backup, &target, "crashed");
        attempt.pg_bin = self.source.bin_dir().to_owned();
        let said = thread::scope(|scope| {
            let running = scope.spawn(|| attempt.run());
            let loading = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY %' AND state = 'active'";
            patience::expect("rows on their way", 60, || {
                (target.query_one("postgres", loading).unwrap() == "1").then_some(())
            });
            target.crash().unwrap();
            running.join().expect("a restore")
        });
        assert!(said.stderr.contains("could not be dropped; remove it with: "), "{said}");
        let provoked = "the target's server crashes while rows are loaded";
        let mut rows = vec![attempt.row("target_failed", provoked, 3, &said, Left::Failed)];
        if self.mounts {
            let target = Postgres::start_on_a_small_disk(self.source.major(), SMALL_DISK_MEGABYTES).unwrap();
            let mut attempt = Attempt::of(self, &backup, &target, "too_large");
            attempt.pg_bin = self.source.bin_dir().to_owned();
            let said = attempt.run();
            rows.push(attempt.row("target_failed", "the target's disk is full", 3, &said, Left::Failed));
            attempt.is_gone();
        }
        rows
    }

    fn name_taken_meanwhile(&'a self) -> Vec<Row> {
        let mut attempt = self.attempt("taken");
        let said = self.meanwhile(&mut attempt, || self.source.create_database("taken").unwrap());
        let provoked = "somebody creates a database of that name meanwhile";
        let row = attempt.row("target_exists", provoked, 3, &said, Left::Failed);
        assert!(!attempt.exists(&attempt.temporary()));
        let foreign = "SELECT count(*) FROM pg_class WHERE relname = 't'";
        assert_eq!(self.source.query_one("taken", foreign).unwrap(), "0", "the other's database was written to");
        vec![row]
    }

    fn another_database(&'a self) -> Vec<Row> {
        let pg_restore = PgRestore::meddling(self.source);
        let mut attempt = self.attempt("meddled_with");
        attempt.pg_bin = pg_restore.directory().to_owned();
        attempt.prove = true;
        let said = attempt.run();
        assert!(!said.stderr.contains("identical: "), "{said}");
        let provoked = "a row is deleted between pg_restore and `--prove`";
        let row = attempt.row("proof_differs", provoked, 3, &said, Left::Failed);
        attempt.is_gone();
        vec![row]
    }

    fn no_room(&'a self) -> Vec<Row> {
        let attempt = self.attempt("no_room");
        let work = attempt.work.path().join("work");
        std::fs::create_dir(&work).expect("a directory");
        let mut command = with_little_room("1m", Path::new(&work));
        command.arg(bin("walwarden"));
        attempt.complete(&mut command);
        let said = attempt.quiet(program::run(&mut command));
        let row = attempt.row("disk_full", "`--work-dir` has no room for the artifact", 2, &said, Left::Unspent);
        attempt.is_gone();
        vec![row]
    }

    fn plans(&'a self) -> Vec<Row> {
        let exists = self.attempt(TO_RESTORE);
        let exists = exists.refused("plan_refused", "plan_refused", "a database of that name exists on the target", 2);
        let mut lacks = Attempt::of(self, &self.extended, self.other, "lacking");
        // The version that reads the archive whatever the target's own was built with.
        lacks.pg_bin = self.source.bin_dir().to_owned();
        let provoked = "the target does not offer an extension of the backup";
        let said = lacks.run();
        assert!(said.stderr.contains("extension"), "{said}");
        vec![exists, lacks.refused("plan_refused", "plan_refused", provoked, 2)]
    }
}
