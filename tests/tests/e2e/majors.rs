//! The whole path on every installed major: back up, restore, prove, verify, and the same with stock tools alone.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use walwarden_tests::{Postgres, Sample};

use crate::{
    program::{self, Said},
    restore::Restore,
    stack::{Backup, Stack, Verification},
};

/// A name that every place which quotes must quote.
const SOURCE: &str = r#"sämple "db" = 1"#;

const TESTED: &[u8] = &[15, 16, 17, 18];

#[test]
fn postgres_15() {
    whole_path(15);
}

#[test]
fn postgres_16() {
    whole_path(16);
}

#[test]
fn postgres_17() {
    whole_path(17);
}

#[test]
fn postgres_18() {
    whole_path(18);
}

#[test]
fn no_installed_major_is_left_out() {
    let available = Postgres::majors_available();
    assert!(!available.is_empty(), "no Postgres is installed; run tests/tools/install.sh");
    let left_out: Vec<u8> = available.into_iter().filter(|major| !TESTED.contains(major)).collect();
    assert!(left_out.is_empty(), "add tests for {left_out:?}");
}

/// What is said although the test passes: print macros are kept from the terminal, this is not.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// gzip where this major's own client cannot read zstd, else what the product chooses.
fn compression(major: u8) -> (Value, &'static str) {
    match (major, Postgres::client_supports_zstd(major)) {
        (..16, _) => (json!({}), "gzip:6"),
        (_, true) => (json!({}), "zstd:3"),
        (_, false) => (json!({ "compression": { "codec": "gzip", "level": 6 } }), "gzip:6"),
    }
}

fn whole_path(major: u8) {
    if !Postgres::majors_available().contains(&major) {
        return report(&format!("majors: Postgres {major} is not installed: SKIPPED"));
    }
    let stack = Stack::shared();
    let (source, target) = (Postgres::start(major).unwrap(), Postgres::start(major).unwrap());
    Sample::small().create(&source, SOURCE).unwrap();
    target.run_sql("postgres", Sample::roles_sql()).unwrap();
    let (setting, codec) = compression(major);
    let database = stack.add_database("sample", &source.dsn(SOURCE), setting);
    let backup = stack.back_up(&database);
    assert_eq!(backup.job["artifact"]["compression"], codec);
    let version = source.query_one("postgres", "SHOW server_version").unwrap();
    report(&format!("majors: Postgres {version} with {codec}"));

    restored_and_proven(&stack, &backup, &source, &target);
    verified(&stack, &backup);

    let scratch = tempfile::tempdir().unwrap();
    let artifact = scratch.path().join("artifact.dump");
    std::fs::write(&artifact, stack.artifact(&backup)).unwrap();
    restored_by_stock_tools(&artifact, &source, &target);
    equal_to_pg_dumps_own(&artifact, &source, scratch.path());
}

fn restored_and_proven(stack: &Stack, backup: &Backup, source: &Postgres, target: &Postgres) {
    let issued = stack.issue(backup, None);
    let finished = Restore::new(&stack.api.url, &issued, target).args(&["--prove"]).run();
    finished.is_identical();
    let job = stack.restore_job(&issued);
    assert_eq!((&job["state"], &job["proof"]), (&json!("completed"), &json!("identical")), "{job:#}");
    assert_eq!(finished.state("completed").unwrap()["receiptHash"], job["receiptHash"]);
    assert_eq!(finished.state("completed").unwrap()["proof"]["rows"], backup.job["artifact"]["rows"]);

    similar("schema", &source.schema(SOURCE).unwrap(), &target.schema(SOURCE).unwrap());
    similar("properties", &properties(source, SOURCE), &properties(target, SOURCE));
    let databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'ww%'";
    assert_eq!(target.query_one("postgres", databases).unwrap(), "");
}

/// What a database has beside its contents.
fn properties(postgres: &Postgres, database: &str) -> String {
    let of_itself = "SELECT pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit, datacl,
        shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
    let settings = "SELECT setrole::regrole, setconfig FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";
    [of_itself, settings].map(|query| postgres.query_one(database, query).unwrap()).join("\n")
}

fn verified(stack: &Stack, backup: &Backup) {
    let (artifact, annex) = (stack.artifact(backup), stack.annex(backup));
    let all = Verification::of(&stack.bundle(backup), &stack.public_keys());
    let sentences = all.with("artifact", &artifact).with("annex", &annex).passes();
    for sentence in ["ARTIFACT: size and SHA-256 match", "ANNEX: ", "RESTORED (reported): "] {
        assert!(sentences.contains(sentence), "{sentence}: {sentences}");
    }
    assert!(sentences.contains("equal the artifact's."), "{sentences}");
}

/// Without a program of ours: serial, in parallel, and from a pipe.
fn restored_by_stock_tools(artifact: &Path, source: &Postgres, target: &Postgres) {
    let rows = "SELECT (SELECT count(*) FROM sample.customers), (SELECT count(*) FROM sample.equal_rows), (SELECT md5(string_agg(body, '' ORDER BY id)) FROM sample.hard_rows)";
    let expected = source.query_one(SOURCE, rows).unwrap();
    for (name, arguments) in [("serial", vec![]), ("parallel", vec!["-j", "4"]), ("piped", vec![])] {
        target.create_database(name).unwrap();
        let mut command = target.command("pg_restore", name);
        command.args(["--exit-on-error", "-d", name]).args(arguments);
        match name {
            "piped" => from_pipe(artifact, &mut command),
            _ => program::run(command.arg(artifact)),
        }
        .silently();
        assert_eq!(target.query_one(name, rows).unwrap(), expected, "{name}");
        similar(name, &source.schema(SOURCE).unwrap(), &target.schema(name).unwrap());
    }
}

/// `cat artifact | command`
fn from_pipe(artifact: &Path, command: &mut Command) -> Said {
    let mut cat = Command::new("cat").arg(artifact).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = cat.stdout.take().unwrap();
    let said = program::run_with_input(command, pipe);
    assert!(cat.wait().unwrap().success());
    said
}

/// What stock pg_restore makes of our archive is, byte for byte, what it makes of pg_dump's.
fn equal_to_pg_dumps_own(artifact: &Path, source: &Postgres, scratch: &Path) {
    let theirs = scratch.join("theirs.dump");
    program::run(source.command("pg_dump", SOURCE).args(["-Fc", "-f"]).arg(&theirs)).silently();
    let script = |archive: &Path, name: &str| -> PathBuf {
        let path = scratch.join(name);
        let mut command = source.command("pg_restore", SOURCE);
        // Recent versions draw a key for psql's restricted mode each time.
        command.arg("--restrict-key=walwarden").args(["-f", "-"]).arg(archive);
        let said = program::run(&mut command).silently();
        File::create(&path).unwrap().write_all(&said.stdout).unwrap();
        path
    };
    let (ours, theirs) = (script(artifact, "ours.sql"), script(&theirs, "theirs.sql"));
    let (ours, theirs) = (std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    assert!(ours.len() > 5_000_000, "only {} bytes", ours.len());
    if ours != theirs {
        let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
        let around = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + 200).min(bytes.len())]).into_owned()
        };
        panic!("the scripts differ at byte {at}:\n--- ours\n{}\n--- pg_dump's\n{}", around(&ours), around(&theirs));
    }
}

#[track_caller]
fn similar(what: &str, left: &str, right: &str) {
    if left != right {
        let difference = left.lines().zip(right.lines()).find(|(left, right)| left != right);
        panic!(
            "{what}: the source has {left_n} lines, the copy {right_n}; first difference: {difference:#?}",
            left_n = left.lines().count(),
            right_n = right.lines().count()
        );
    }
}

/// pg_restore of 16 and 18 here cannot read zstd. For a target of 18 another version can; for one of 16 none can, and
/// that is said before anything is spent.
#[test]
fn zstd_where_the_targets_own_client_lacks_it() {
    let majors = Postgres::majors_available();
    let lacks = |major: u8| majors.contains(&major) && !Postgres::client_supports_zstd(major);
    if !(lacks(16) && lacks(18) && Postgres::client_supports_zstd(17)) {
        return report("majors: the clients of 16 and 18 read zstd, or 17's does not: SKIPPED");
    }
    let stack = Stack::shared();
    let pg_17 = Postgres::start(17).unwrap();
    for major in [16, 18] {
        let (source, target) = (Postgres::start(major).unwrap(), Postgres::start(major).unwrap());
        source.create_database("plain").unwrap();
        source.run_sql("plain", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 1000) AS n").unwrap();
        let backup = stack.back_up(&stack.add_database("plain", &source.dsn("plain"), json!({})));
        assert_eq!(backup.job["artifact"]["compression"], "zstd:3");
        let issued = stack.issue(&backup, None);
        let restore = Restore::new(&stack.api.url, &issued, &target).args(&["--prove", "--pg-bin"]);
        let restore = restore.args(&[pg_17.bin_dir().to_str().unwrap()]);
        if major == 18 {
            restore.run().is_identical();
            similar("properties", &properties(&source, "plain"), &properties(&target, "plain"));
            report("majors: Postgres 18 with zstd:3 through pg_restore of 17");
        } else {
            restore.must_be_refused(2, "zstd");
            assert_eq!(stack.restore_job(&issued)["state"], "created");
        }
    }
}

/// What every major has, and what a few learned later.
const PLAIN: &str = "
    CREATE TABLE parent (id integer PRIMARY KEY, at timestamptz NOT NULL, note text, kind text GENERATED ALWAYS AS (left(note, 2)) STORED);
    CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY, parent integer REFERENCES parent, CHECK (parent > 0));
    INSERT INTO parent (id, at, note) SELECT n, now(), md5(n::text) FROM generate_series(1, 2000) AS n;
    INSERT INTO child (parent) SELECT id FROM parent;
    CREATE INDEX ON child (parent);
    CREATE VIEW both_of_them AS SELECT parent.id, note, kind FROM parent JOIN child ON child.parent = parent.id;
    CREATE MATERIALIZED VIEW counted AS SELECT kind, count(*) FROM both_of_them GROUP BY kind;
    CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN $1 * 2;";

/// Each major into every other one, with the clients of all of them at hand: into a later one always, into an earlier one
/// where a client exists that reads the archive and that the server accepts; else it is said before anything is spent.
#[test]
fn every_major_into_every_other() {
    let stack = Stack::shared();
    let servers: Vec<Postgres> =
        Postgres::majors_available().iter().map(|major| Postgres::start(*major).unwrap()).collect();
    let clients: Vec<&str> =
        servers.iter().flat_map(|server| ["--pg-bin", server.bin_dir().to_str().unwrap()]).collect();
    for source in &servers {
        source.create_database("plain").unwrap();
        source.run_sql("plain", PLAIN).unwrap();
        let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
        let backup = stack.back_up(&stack.add_database("plain", &source.dsn("plain"), gzip));
        for target in servers.iter().filter(|target| target.major() != source.major()) {
            let (from, to) = (source.major(), target.major());
            let copy = format!("from_{from}");
            let issued = stack.issue(&backup, Some(&copy));
            let restore = Restore::new(&stack.api.url, &issued, target).args(&["--prove", "--created-database", &copy]);
            let restore = restore.args(&clients);
            if to < 17 && from >= 17 {
                let refused = restore.must_be_refused(2, &format!("a server of version {to} refuses those"));
                assert!(refused.said.stderr.contains("server of version 17 or later"), "{}", refused.said);
                assert_eq!(stack.restore_job(&issued)["state"], "created", "{from} into {to}");
                continue;
            }
            let finished = restore.run();
            finished.is_identical();
            let told = format!("the target ({to}) is older than the source ({from})");
            assert_eq!(finished.said.stderr.contains(&told), to < from, "{from} into {to}: {}", finished.said);
            let view = "SELECT md5(string_agg(c::text, ',' ORDER BY c)) FROM counted AS c";
            let rows = |server: &Postgres, name: &str| server.query_one(name, view).unwrap();
            assert_eq!(rows(source, "plain"), rows(target, &copy), "{from} into {to}");
        }
    }
}

/// A target that knows nothing of the source's locale makes the database with its own, and says so; `--exact` refuses that.
#[test]
fn a_locale_that_the_target_lacks() {
    let stack = Stack::shared();
    let servers = || Postgres::majors_available().into_iter().map(|major| Postgres::start(major).unwrap());
    let knows_icu = |server: &Postgres| {
        let count = "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'";
        server.query_one("postgres", count).unwrap() == "t"
    };
    let (Some(source), Some(target)) = (servers().find(knows_icu), servers().find(|server| !knows_icu(server))) else {
        return report("majors: no Postgres with ICU, or none without: SKIPPED");
    };
    let create =
        "CREATE DATABASE plain TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LC_COLLATE 'C' LC_CTYPE 'C'";
    source.run_sql("postgres", create).unwrap();
    source.run_sql("plain", PLAIN).unwrap();
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
    let backup = stack.back_up(&stack.add_database("plain", &source.dsn("plain"), gzip));
    let issued = stack.issue(&backup, None);
    let restore = || Restore::new(&stack.api.url, &issued, &target).args(&["--prove"]);
    let refused = restore().args(&["--exact"]).must_be_refused(2, "cannot be restored");
    assert!(refused.said.stdout().contains("not_exact"), "{}", refused.said);

    let finished = restore().run();
    finished.is_identical();
    let told = "the target has not all of its locale, de-DE of ICU (";
    assert!(finished.said.stdout().contains(told), "{}", finished.said);
    let of = |database: &str| {
        let own = format!("SELECT datlocprovider, datcollate, datctype FROM pg_database WHERE datname = '{database}'");
        target.query_one("postgres", &own).unwrap()
    };
    assert_eq!(of("plain"), of("template0"));
}
