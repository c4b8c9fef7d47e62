//! Whole jobs through the front door: the real binary, a real Postgres, and a control plane that a test scripts.

mod plane;

use std::{
    io::BufReader,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use plane::{Answer, BACKUP, CHECK, ORG, Plane};
use serde_json::Value;
use walwarden_tests::{Postgres, Sample};
use walwarden_verifier::{
    annex::{Annex, AnnexSize},
    archive,
    parts::PartsList,
};

/// The distribution's, with the sample in a database called `sample`.
static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| {
    let postgres = Postgres::start(15).unwrap();
    Sample::small().create(&postgres, "sample").unwrap();
    // Rows that do not compress, for parts that fill.
    postgres.create_database("bulky").unwrap();
    let fill = "CREATE TABLE bulk (id integer, noise bytea); ALTER TABLE bulk ALTER noise SET STORAGE EXTERNAL; \
                INSERT INTO bulk SELECT n, decode(string_agg(md5(n || '/' || m), ''), 'hex') \
                FROM generate_series(1, 1200) n, generate_series(1, 4000) m GROUP BY n;";
    postgres.run_sql("bulky", fill).unwrap();
    postgres
});

fn runner(plane: &Plane, job: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walwarden-runner"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("WALWARDEN_WORKER_URL", format!("http://{}", plane.address))
        .env("WALWARDEN_ORG_ID", ORG)
        .env("WALWARDEN_JOB_ID", job)
        .env("WALWARDEN_CLAIM_SECRET", "a claim secret")
        .env("WALWARDEN_PG_BIN", POSTGRES.bin_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Runs a job to its end: exit code and log.
fn run(plane: &Plane, job: &str) -> (i32, String) {
    ended(runner(plane, job).spawn().unwrap())
}

fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    for secret in [POSTGRES.password(), "X-Amz-Signature", "a claim secret"] {
        assert!(!log.contains(secret), "the log holds a secret: {log}");
    }
    (output.status.code().unwrap_or(-1), log)
}

fn no_faults(_: &str, _: u32) -> Option<Answer> {
    None
}

/// The one failure that was reported.
fn failure(plane: &Plane) -> (String, String) {
    let failed: Vec<Value> = plane.calls("transition").into_iter().filter(|call| call["to"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(plane.calls("finish").is_empty());
    let text = |field: &str| failed[0][field].as_str().unwrap_or_default().to_owned();
    (text("class"), text("detail"))
}

/// A login for one test, whose sessions are told from those of tests that run beside it.
struct Login {
    name: &'static str,
    dsn: String,
}

impl Login {
    fn of(name: &'static str) -> Self {
        let password = POSTGRES.create_login(name, "SUPERUSER").unwrap();
        Self { name, dsn: POSTGRES.dsn_as(name, &password, "bulky") }
    }

    fn sessions(&self, condition: &str) -> String {
        let name = self.name;
        let query = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{name}' AND {condition}");
        POSTGRES.query_one("postgres", &query).unwrap()
    }

    fn wait_until_gone(&self) {
        let begun = Instant::now();
        while self.sessions("true") != "0" {
            assert!(begun.elapsed() < Duration::from_secs(10), "a session of pg_dump is still there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Everything a finished backup says of itself agrees.
fn check_backup(plane: &Plane) -> Annex {
    let finish = plane.calls("finish");
    assert_eq!(finish.len(), 1);
    let measured = &finish[0];
    assert_eq!(measured["kind"], "backup");
    let artifact = plane.artifact();
    let hex_of = |bytes: &[u8]| {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(bytes))
    };
    assert_eq!(measured["checksumSha256"], hex_of(&artifact));
    assert_eq!(measured["sizeBytes"], artifact.len());

    let annex = plane.object("document/annex").unwrap();
    assert_eq!(measured["annex"]["sha256"], hex_of(&annex));
    let size = AnnexSize {
        uncompressed_bytes: measured["annexUncompressedBytes"].as_u64().unwrap(),
        lines: measured["annexLines"].as_u64().unwrap(),
    };
    let annex = Annex::read(BufReader::new(&annex[..]), size).unwrap();

    let list = plane.object("document/partsList").unwrap();
    assert_eq!(measured["partsList"]["sha256"], hex_of(&list));
    let list = PartsList::from_bytes(&list).unwrap();
    assert_eq!(list.backup_id, BACKUP);
    assert_eq!(measured["parts"], list.parts.len());
    for part in &list.parts {
        let bytes = plane.object(&format!("part/{}", part.number)).unwrap();
        assert_eq!((part.size_bytes, &part.sha256), (bytes.len() as u64, &hex_of(&bytes)));
    }

    // The artifact says by itself what was measured in flight.
    let key = hex::decode(&annex.header.row_key).unwrap().try_into().unwrap();
    let survey = archive::survey(&artifact[..], &key, |_| {}).unwrap();
    assert_eq!(measured["contents"]["digest"], hex::encode(survey.contents_digest));
    assert_eq!(measured["contents"]["rows"], survey.rows());
    assert_eq!(measured["contents"]["tables"], survey.tables.len());
    assert_eq!(measured["contents"]["entries"], survey.entries);
    assert_eq!(annex.entries.len() as u64, survey.entries);
    for (described, found) in annex.tables.iter().zip(&survey.tables) {
        assert_eq!(described.dump_id, i64::from(found.dump_id));
        assert_eq!((described.rows, &described.digest), (found.rows.rows, &hex::encode(found.rows.digest())));
    }
    for (described, found) in annex.large_objects.iter().zip(&survey.large_objects) {
        assert_eq!((described.oid, &described.digest), (found.oid, &hex::encode(found.digest)));
    }
    assert_eq!((annex.tables.len(), annex.large_objects.len()), (survey.tables.len(), survey.large_objects.len()));
    annex
}

#[test]
fn a_backup_agrees_with_itself_and_describes_the_source() {
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    let annex = check_backup(&plane);

    let running = &plane.calls("transition")[0];
    assert_eq!(running["to"], "running");
    assert!(running["pgDumpVersion"].as_str().unwrap().starts_with("15."));
    assert!(!plane.calls("heartbeat").is_empty());

    let setting = |name: &str| annex.settings.iter().find(|setting| setting.name == name).unwrap().value.as_str();
    assert_eq!(setting("bytea_output"), "escape");
    assert_eq!(setting("TimeZone"), "Asia/Kolkata");
    assert_eq!(setting("DateStyle"), "ISO");
    assert_eq!(setting("client_encoding"), "UTF8");
    assert_eq!(annex.database.name, "sample");
    assert!(annex.database.settings.iter().any(|setting| setting.name == "IntervalStyle"));
    let roles: Vec<&str> = annex.roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(roles, ["pg_database_owner", "postgres", "sample_app", "sample_owner", "sample_reader"]);
    let entry = |kind: &str, name: &str| annex.entries.iter().find(|e| e.kind == kind && e.name == name).unwrap();
    assert!(entry("FUNCTION", "privileged()").security_definer);
    assert_eq!(entry("POLICY", "customers readers_see_happy").policy_roles, ["sample_reader"]);
    assert!(entry("TABLE", "orders").acl.as_ref().unwrap().iter().any(|item| item.starts_with("sample_app=")));
    let sequence = annex.sequences.iter().find(|sequence| sequence.name == "never_called_seq").unwrap();
    assert_eq!((sequence.last_value.as_str(), sequence.is_called), ("42", false));
}

#[test]
fn passing_trouble_of_the_bucket_is_ridden_out() {
    let faults = |name: &str, before| match (name, before) {
        ("part/1" | "document/annex", 0) => Some(Answer::Error(503, "SlowDown")),
        ("part/1", 1) | ("part/2", 0) => Some(Answer::Error(403, "AccessDenied")),
        ("part/3", 0) => Some(Answer::Error(400, "BadDigest")),
        ("document/partsList", 0) => Some(Answer::Error(500, "InternalError")),
        _ => None,
    };
    let mut instructions = Plane::backup(&POSTGRES.dsn("bulky"));
    instructions["partDigest"] = "md5".into();
    let plane = Plane::start(instructions, faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
    assert_eq!((plane.requests("part/1"), plane.requests("part/2"), plane.requests("part/3")), (3, 2, 2));
}

#[test]
fn bytes_that_do_not_arrive_as_sent_fail_the_backup() {
    let login = Login::of("garbler");
    let faults = |name: &str, _| name.starts_with("part/2").then_some(Answer::Error(400, "BadDigest"));
    let plane = Plane::start(Plane::backup(&login.dsn), faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 1, "{log}");
    assert_eq!(failure(&plane).0, "storage_digest_mismatch");
    login.wait_until_gone();
}

#[test]
fn a_bucket_that_refuses_fails_the_backup() {
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), |_, _| Some(Answer::Error(403, "AccessDenied")));
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 3, "{log}");
    let (class, detail) = failure(&plane);
    assert_eq!(class, "storage_refused");
    assert!(detail.contains("403 AccessDenied"), "{detail}");

    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), |_, _| Some(Answer::Error(404, "NoSuchUpload")));
    assert_eq!(run(&plane, BACKUP).0, 1);
    assert_eq!(failure(&plane).0, "seal_upload_lost");
}

#[test]
fn a_document_that_is_there_already_must_be_the_same() {
    // A lost answer: the second attempt finds what the first one wrote, though the bucket is slow to show it.
    let lost = |name: &str, before| match name.split('/').next() {
        Some("document") if before == 0 => Some(Answer::TakenButLost),
        Some("head") if before == 0 => Some(Answer::Error(503, "")),
        _ => None,
    };
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), lost);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
    for name in ["document/annex", "document/partsList", "head/document/annex", "head/document/partsList"] {
        assert_eq!(plane.requests(name), 2, "{name}");
    }

    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), no_faults);
    plane.plant("document/partsList", b"another");
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 3, "{log}");
    assert_eq!(failure(&plane).0, "storage_refused");
}

#[test]
fn cancelling_ends_pg_dump_and_reports_nothing() {
    let login = Login::of("canceller");
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    let child = runner(&plane, BACKUP).spawn().unwrap();
    plane.wait("an upload", |plane| plane.requests("part/1") > 0);
    plane.order("cancel");
    let (code, log) = ended(child);
    assert_eq!(code, 4, "{log}");
    assert!(plane.calls("finish").is_empty());
    assert!(plane.calls("transition").iter().all(|call| call["to"] != "failed"));
    login.wait_until_gone();

    // The same where the job was given to another runner.
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    plane.order("refuse");
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 4, "{log}");
    assert!(plane.calls("transition").iter().all(|call| call["to"] != "failed"));
    login.wait_until_gone();
}

#[test]
fn a_host_that_stops_the_runner_is_obeyed_within_seconds() {
    let login = Login::of("stopper");
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    let child = runner(&plane, BACKUP).spawn().unwrap();
    plane.wait("an upload", |plane| plane.requests("part/1") > 0);
    let begun = Instant::now();
    signal(&child, rustix::process::Signal::TERM);
    let (code, log) = ended(child);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(code, 1, "{log}");
    assert_eq!(failure(&plane).0, "runner_terminated");
    login.wait_until_gone();
}

#[test]
fn a_killed_runner_leaves_no_pg_dump_behind() {
    let login = Login::of("killer");
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    let child = runner(&plane, BACKUP).spawn().unwrap();
    plane.wait("an upload", |plane| plane.requests("part/1") > 0);
    assert_ne!(login.sessions("true"), "0");
    signal(&child, rustix::process::Signal::KILL);
    ended(child);
    login.wait_until_gone();
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_slow_bucket_holds_pg_dump_back_and_memory_stays_bounded() {
    let login = Login::of("waiter");
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    let child = runner(&plane, BACKUP).spawn().unwrap();
    plane.wait("two uploads", |plane| plane.requests("part/1") + plane.requests("part/2") == 2);
    let mut bytes = 0;
    plane.wait("a dump that stands still", |plane| {
        std::thread::sleep(Duration::from_secs(6));
        let last = plane.calls("heartbeat").last().unwrap()["bytes"].as_u64().unwrap();
        std::mem::replace(&mut bytes, last) == last && last > 0
    });
    assert!(bytes < 100 << 20, "{bytes} bytes were read ahead");
    assert_eq!(plane.requests("part/3"), 0);
    // The snapshot was let go when pg_dump began to write.
    assert_eq!(login.sessions("state = 'idle in transaction'"), "0");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    assert!(peak < 96 << 10, "{peak} KiB");
    println!("peak RSS {peak} KiB");
    plane.go_on();
    let (code, log) = ended(child);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
}

#[test]
fn a_connection_lost_in_the_middle_never_finishes() {
    let login = Login::of("loser");
    let plane = Plane::start(Plane::backup(&login.dsn), |_, _| Some(Answer::Wait));
    let child = runner(&plane, BACKUP).spawn().unwrap();
    plane.wait("an upload", |plane| plane.requests("part/1") > 0);
    assert_eq!(login.sessions("query LIKE 'COPY%' AND pg_terminate_backend(pid)"), "1");
    plane.go_on();
    let (code, log) = ended(child);
    assert_eq!(code, 1, "{log}");
    assert_eq!(failure(&plane).0, "source_connection_lost");
}

#[test]
fn limits_end_a_dump() {
    let mut instructions = Plane::backup(&POSTGRES.dsn("bulky"));
    instructions["maxBytes"] = (10 << 20).into();
    let plane = Plane::start(instructions, |_, _| Some(Answer::Wait));
    assert_eq!(run(&plane, BACKUP).0, 3);
    assert_eq!(failure(&plane).0, "dump_too_large");

    let mut instructions = Plane::backup(&POSTGRES.dsn("bulky"));
    instructions["partCap"] = 1.into();
    let plane = Plane::start(instructions, no_faults);
    assert_eq!(run(&plane, BACKUP).0, 3);
    assert_eq!(failure(&plane).0, "dump_too_large");

    let mut instructions = Plane::backup(&POSTGRES.dsn("bulky"));
    instructions["maxHours"] = 0.into();
    let plane = Plane::start(instructions, |_, _| Some(Answer::Wait));
    assert_eq!(run(&plane, BACKUP).0, 3);
    assert_eq!(failure(&plane).0, "dump_too_long");
}

#[test]
fn what_the_role_may_not_read_is_named() {
    let password = POSTGRES.create_login("stranger", "").unwrap();
    let dsn = POSTGRES.dsn_as("stranger", &password, "sample");
    let plane = Plane::start(Plane::backup(&dsn), no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 3, "{log}");
    let (class, detail) = failure(&plane);
    assert_eq!(class, "source_permission");
    assert!(detail.starts_with("cannot read ") && detail.contains("schema"), "{detail}");
    assert!(plane.calls("part").is_empty());

    let plane = Plane::start(Plane::check(&dsn), no_faults);
    assert_eq!(run(&plane, CHECK).0, 0);
    let report = &plane.calls("finish")[0];
    let problems: Vec<&str> = report["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(problems.iter().any(|p| p.ends_with("GRANT USAGE ON SCHEMA \"sample\" TO \"stranger\";")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("row security")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("large objects")), "{problems:?}");

    // What the problems say to run is enough, but for large objects, which have a grant each.
    for problem in &problems {
        if let Some((_, sql)) = problem.split_once(": ").filter(|(_, sql)| sql.ends_with(';')) {
            POSTGRES.run_sql("sample", sql).unwrap();
        }
    }
    let grants = "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP \
                  EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO stranger', o); END LOOP; END $$;";
    POSTGRES.run_sql("sample", grants).unwrap();
    let plane = Plane::start(Plane::check(&dsn), no_faults);
    assert_eq!(run(&plane, CHECK).0, 0);
    let report = &plane.calls("finish")[0];
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["databaseName"], "sample");
    let plane = Plane::start(Plane::backup(&dsn), no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
}

#[test]
fn sources_that_cannot_be_reached_have_their_classes() {
    let good = POSTGRES.dsn("sample");
    let port = POSTGRES.port();
    for (dsn, class) in [
        (good.replace(POSTGRES.password(), "wrong"), "source_auth_failed"),
        (POSTGRES.dsn("absent"), "source_dsn_invalid"),
        (good.replace("sslmode=disable", "sslmode=require"), "source_tls_failed"),
        (format!("postgres://postgres@127.0.0.1:{port}/sample"), "source_auth_failed"),
        (format!("postgres://u@169.254.169.254:{port}/sample"), "source_address_refused"),
        ("postgres://u@ep-x-pooler.eu.aws.neon.tech/db".into(), "source_pooled"),
        ("postgres://u@h/x?service=s".into(), "source_dsn_invalid"),
        (format!("postgres://127.0.0.1:{port}/sample"), "source_dsn_invalid"),
    ] {
        let plane = Plane::start(Plane::check(&dsn), no_faults);
        let (code, log) = run(&plane, CHECK);
        assert_eq!((failure(&plane).0.as_str(), code), (class, 3), "{dsn}: {log}");
    }
    let mut instructions = Plane::check(&good);
    instructions["allowPrivateAddresses"] = false.into();
    let plane = Plane::start(instructions, no_faults);
    assert_eq!(run(&plane, CHECK).0, 3);
    assert_eq!(failure(&plane).0, "source_address_refused");
}

/// Holds a table exclusively for as long as it lives.
struct Holder(Child);

impl Holder {
    fn of(database: &str, table: &str) -> Self {
        use std::io::BufRead;
        let mut psql = POSTGRES.command("psql", database);
        psql.args(["-X", "-q", "-A", "-t"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        let input = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'held';\n");
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), input.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "held");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_table_that_is_held_exclusively_is_waited_for_and_then_its_own_class() {
    POSTGRES.create_database("locked").unwrap();
    POSTGRES.run_sql("locked", "CREATE TABLE held (n integer)").unwrap();
    let holder = Holder::of("locked", "held");
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("locked")), no_faults);
    let (code, log) = ended(runner(&plane, BACKUP).env("WALWARDEN_LOCK_WAIT_SECONDS", "1").spawn().unwrap());
    assert_eq!((failure(&plane).0.as_str(), code), ("source_locked", 1), "{log}");
    // What an archive that nobody reads fails at is told all the same.
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("locked")), no_faults);
    let mut unread = runner(&plane, BACKUP);
    unread.env("WALWARDEN_LOCK_WAIT_SECONDS", "1").env("WALWARDEN_OPAQUE_MAJORS", "15");
    let (code, log) = ended(unread.spawn().unwrap());
    assert_eq!((failure(&plane).0.as_str(), code), ("source_locked", 1), "{log}");

    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("locked")), no_faults);
    let child = runner(&plane, BACKUP).spawn().unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'locked' AND wait_event_type = 'Lock'";
    plane.wait("pg_dump to wait", |_| POSTGRES.query_one("postgres", waiting).unwrap() != "0");
    drop(holder);
    let (code, log) = ended(child);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
}

#[test]
fn a_table_that_is_dropped_meanwhile_is_a_matter_for_another_attempt() {
    POSTGRES.create_database("dropped").unwrap();
    POSTGRES.run_sql("dropped", "CREATE TABLE staging (n integer)").unwrap();
    let mut holder = Holder::of("dropped", "staging");
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("dropped")), no_faults);
    let child = runner(&plane, BACKUP).spawn().unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'dropped' AND wait_event_type = 'Lock'";
    plane.wait("pg_dump to wait", |_| POSTGRES.query_one("postgres", waiting).unwrap() != "0");
    std::io::Write::write_all(holder.0.stdin.as_mut().unwrap(), b"DROP TABLE staging; COMMIT;\n").unwrap();
    let (code, log) = ended(child);
    assert_eq!((failure(&plane).0.as_str(), code), ("dump_incomplete", 1), "{log}");
}

#[test]
fn no_pg_dump_of_the_servers_version_is_its_own_class() {
    let plane = Plane::start(Plane::check(&POSTGRES.dsn("sample")), no_faults);
    let (code, _) = ended(runner(&plane, CHECK).env("WALWARDEN_PG_BIN", "/nonexistent").spawn().unwrap());
    assert_eq!(code, 3);
    assert_eq!(failure(&plane).0, "source_version_unsupported");
}

#[test]
fn names_that_look_like_connection_strings_are_names() {
    let odd = "a=b 'c' \\ \"d\" ü";
    POSTGRES.create_database(odd).unwrap();
    POSTGRES.run_sql(odd, "CREATE TABLE t AS SELECT 1 AS one").unwrap();
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn(odd)), no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    assert_eq!(check_backup(&plane).database.name, odd);
    assert_eq!(plane.calls("finish")[0]["sourceDatabase"], odd);
}

/// A server whose certificate a private authority signed for the name `localhost`.
#[test]
fn certificates_are_checked_as_sslmode_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate, authority) = (path("server.key"), path("server.crt"), path("ca.crt"));
    let script = "set -e; cd \"$1\"; \
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=authority -days 2; \
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost; \
        echo subjectAltName=DNS:localhost >names; \
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names; \
        chmod 755 .; chmod 600 server.key; [ \"$(id -u)\" != 0 ] || chown nobody server.key";
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let settings = [("ssl", "on"), ("ssl_cert_file", certificate.as_str()), ("ssl_key_file", key.as_str())];
    let server = Postgres::start_with(15, &settings).unwrap();
    server.run_sql("postgres", "CREATE TABLE t AS SELECT 1 AS one").unwrap();

    let backup = |host: &str, mode: &str, authority: Option<&str>| {
        let dsn = server.dsn("postgres").replace("127.0.0.1", host).replace("disable", mode);
        let plane = Plane::start(Plane::backup(&dsn), no_faults);
        let mut command = runner(&plane, BACKUP);
        // What the system trusts, as OpenSSL and our own client read it.
        command.envs(authority.map(|path| ("SSL_CERT_FILE", path)));
        let (code, log) = ended(command.spawn().unwrap());
        if code == 0 { Ok(()) } else { Err((failure(&plane).0, log)) }
    };
    let trusted = Some(authority.as_str());
    for (host, mode, authority) in [
        ("127.0.0.1", "disable", None),
        ("127.0.0.1", "allow", None),
        ("127.0.0.1", "prefer", None),
        ("127.0.0.1", "require", None),
        ("127.0.0.1", "verify-ca", trusted),
        ("localhost", "verify-full", trusted),
        ("localhost", "verify-full&sslrootcert=system", trusted),
    ] {
        backup(host, mode, authority).unwrap_or_else(|error| panic!("{host} {mode}: {error:?}"));
    }
    for (host, mode, authority) in
        [("127.0.0.1", "verify-ca", None), ("localhost", "verify-full", None), ("127.0.0.1", "verify-full", trusted)]
    {
        assert_eq!(backup(host, mode, authority).unwrap_err().0, "source_tls_failed", "{host} {mode}");
    }
}

/// One dump of each server there is, read back by that server's own pg_restore.
#[test]
fn dumps_to_a_file_are_what_pg_dump_writes() {
    let folder = tempfile::tempdir().unwrap();
    for major in Postgres::majors_available() {
        let server = Postgres::start(major).unwrap();
        Sample::small().create(&server, "source").unwrap();
        let own = folder.path().join("own");
        let output = server.command("pg_dump", "source").args(["-Fc", "-Z0", "-f"]).arg(&own).output().unwrap();
        assert!(output.status.success());
        let mut codecs = vec!["gzip:6"];
        codecs.extend((major >= 16 && Postgres::client_supports_zstd(major)).then_some("zstd:3"));
        for codec in codecs {
            let ours = folder.path().join("ours");
            let annex = folder.path().join("annex");
            let mut command = Command::new(env!("CARGO_BIN_EXE_walwarden-runner"));
            command.args(["dump-to-file", "--compression", codec, "--out"]).arg(&ours).arg("--annex").arg(&annex);
            command.env("WALWARDEN_SOURCE_DSN", server.dsn("source")).env("WALWARDEN_PG_BIN", server.bin_dir());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
            let size = AnnexSize {
                uncompressed_bytes: measured["annexBytes"].as_u64().unwrap(),
                lines: measured["annexLines"].as_u64().unwrap(),
            };
            let file = BufReader::new(std::fs::File::open(&annex).unwrap());
            let annex = Annex::read(file, size).unwrap();
            assert_eq!(annex.header.counts.rows, measured["rows"].as_u64().unwrap());

            assert_eq!(script(&server, &ours), script(&server, &own), "Postgres {major}, {codec}");
            let database = format!("restored {codec}");
            server.create_database(&database).unwrap();
            let mut restore = server.command("pg_restore", "postgres");
            restore.args(["--exit-on-error", "--jobs=4", "--dbname"]).arg(format!("dbname='{database}'")).arg(&ours);
            let output = restore.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// What pg_restore makes of an archive, without what it draws anew for each run.
fn script(server: &Postgres, archive: &std::path::Path) -> Vec<u8> {
    let output = server.command("pg_restore", "postgres").args(["-f", "-"]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split_inclusive(|byte| *byte == b'\n');
    let drawn = |line: &&[u8]| line.starts_with(b"\\restrict") || line.starts_with(b"\\unrestrict");
    lines.filter(|line| !drawn(line)).flatten().copied().collect()
}

#[test]
fn databases_in_other_encodings_are_dumped_as_they_are() {
    let create = "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'; \
                  CREATE DATABASE \"Gr\u{f6}\u{df}e\" TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'";
    for statement in create.split("; ") {
        POSTGRES.run_sql("postgres", statement).unwrap();
    }
    POSTGRES.run_sql("latin", "SET client_encoding = 'UTF8'; CREATE TABLE \"größe\" AS SELECT 1 AS n").unwrap();
    // CREATE TABLE "ö" (a text); with the letter as one byte, which no UTF-8 has.
    let bytes = "\\x435245415445205441424c452022f6222028612074657874293b";
    let create = format!("DO $$ BEGIN EXECUTE convert_from('{bytes}', 'SQL_ASCII'); END $$");
    POSTGRES.run_sql("Gr\u{f6}\u{df}e", &create).unwrap();
    for (database, encoding) in [("latin", "LATIN1"), ("Gr\u{f6}\u{df}e", "SQL_ASCII")] {
        let plane = Plane::start(Plane::backup(&POSTGRES.dsn(database)), no_faults);
        let (code, log) = run(&plane, BACKUP);
        assert_eq!(code, 0, "{log}");
        let annex = check_backup(&plane);
        let setting = |name: &str| annex.settings.iter().find(|setting| setting.name == name).unwrap().value.as_str();
        assert_eq!((setting("client_encoding"), setting("server_encoding")), (encoding, encoding));
        assert!(annex.tables[0].name.contains('\u{fffd}'));
    }
}

/// A database of which `poor` may read some.
const PARTLY_READABLE: &str = "
    CREATE ROLE poor_owner;
    CREATE TABLE open (id integer PRIMARY KEY);
    INSERT INTO open SELECT generate_series(1, 10);
    CREATE TABLE \"se\"\"cr.et\" (id integer PRIMARY KEY);
    INSERT INTO \"se\"\"cr.et\" SELECT generate_series(1, 10);
    CREATE TABLE refers (id integer, secret integer CONSTRAINT to_secret REFERENCES \"se\"\"cr.et\");
    INSERT INTO refers SELECT n, n FROM generate_series(1, 10) n;
    CREATE VIEW on_secret AS SELECT * FROM \"se\"\"cr.et\";
    CREATE MATERIALIZED VIEW on_view AS SELECT count(*) FROM on_secret;
    CREATE FUNCTION of_secret() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM \"se\"\"cr.et\"; END;
    CREATE TABLE hidden (id integer PRIMARY KEY, owner text);
    INSERT INTO hidden SELECT n, 'x' FROM generate_series(1, 10) n;
    ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON hidden USING (owner = current_user);
    CREATE TABLE refers_hidden (hidden integer CONSTRAINT to_hidden REFERENCES hidden);
    INSERT INTO refers_hidden SELECT generate_series(1, 10);
    CREATE SEQUENCE counter START 40;
    CREATE TABLE parts (id integer) PARTITION BY RANGE (id);
    CREATE TABLE part_one PARTITION OF parts FOR VALUES FROM (1) TO (100);
    INSERT INTO parts SELECT generate_series(1, 10);
    CREATE SCHEMA closed;
    CREATE TABLE closed.inside (id integer);
    SELECT lo_from_bytea(7001, 'text');
    GRANT SELECT ON open, refers, on_secret, on_view, hidden, refers_hidden, part_one TO poor;";

#[test]
fn what_may_be_left_out_is_left_out_and_recorded() {
    let password = POSTGRES.create_login("poor", "").unwrap();
    POSTGRES.create_database("partly").unwrap();
    POSTGRES.run_sql("partly", PARTLY_READABLE).unwrap();
    let dsn = POSTGRES.dsn_as("poor", &password, "partly");

    let mut instructions = Plane::check(&dsn);
    let plane = Plane::start(instructions.clone(), no_faults);
    assert_eq!(run(&plane, CHECK).0, 0);
    let texts = |plane: &Plane, field: &str| {
        let found = plane.calls("finish")[0][field].as_array().unwrap().clone();
        found.iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(texts(&plane, "problems").len() > 4);
    let also =
        |warnings: &[String], begins: &str| warnings.iter().any(|w| w.starts_with(begins) && w.contains("on_view"));
    assert!(also(&texts(&plane, "warnings"), "a backup without that also lacks: "), "{:?}", texts(&plane, "warnings"));
    instructions["omitUnreadable"] = true.into();
    let plane = Plane::start(instructions, no_faults);
    assert_eq!(run(&plane, CHECK).0, 0);
    assert_eq!(texts(&plane, "problems"), [""; 0]);
    assert!(also(&texts(&plane, "warnings"), "also left out, for it depends on that: "));

    let mut instructions = Plane::backup(&dsn);
    instructions["omitUnreadable"] = true.into();
    let plane = Plane::start(instructions, no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    let annex = check_backup(&plane);
    let mut omissions: Vec<String> = annex
        .omissions
        .iter()
        .map(|o| format!("{} {}: {}", o.kind, [&*o.schema, &*o.name].join("."), o.reason))
        .collect();
    omissions.sort();
    assert_eq!(
        omissions,
        [
            "BLOBS .all large objects: 1 cannot be read: notReadable",
            "FK CONSTRAINT public.refers to_secret: dependsOnOmitted",
            "FK CONSTRAINT public.refers_hidden to_hidden: dependsOnOmitted",
            "FUNCTION public.of_secret(): dependsOnOmitted",
            "MATERIALIZED VIEW public.on_view: dependsOnOmitted",
            "SEQUENCE SET public.counter: notReadable",
            "TABLE DATA public.hidden: rowSecurity",
            "TABLE closed.inside: notReadable",
            "TABLE public.part_one: dependsOnOmitted",
            "TABLE public.parts: notReadable",
            "TABLE public.se\"cr.et: notReadable",
            "VIEW public.on_secret: dependsOnOmitted",
        ]
    );
    assert_eq!(plane.calls("finish")[0]["omissions"], annex.omissions.len());
    let rows: Vec<_> = annex.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    assert_eq!(rows, [("open", 10), ("refers", 10), ("refers_hidden", 10)]);

    // What is there can be restored, without the entries that the annex names.
    let folder = tempfile::tempdir().unwrap();
    let (archive, list) = (folder.path().join("archive"), folder.path().join("list"));
    std::fs::write(&archive, plane.artifact()).unwrap();
    let named = |entry: &walwarden_verifier::annex::Entry| {
        annex.omissions.iter().any(|o| (&o.kind, &o.schema, &o.name) == (&entry.kind, &entry.schema, &entry.name))
    };
    let kept = annex.entries.iter().filter(|entry| !named(entry) && entry.kind != "ACL");
    std::fs::write(&list, kept.map(|entry| format!("{};\n", entry.dump_id)).collect::<String>()).unwrap();
    POSTGRES.create_database("partly restored").unwrap();
    let mut restore = POSTGRES.command("pg_restore", "postgres");
    restore.args(["--exit-on-error", "--dbname=dbname='partly restored'"]).arg("--use-list").arg(&list).arg(&archive);
    let output = restore.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count = "SELECT (SELECT count(*) FROM refers) + (SELECT count(*) FROM hidden)";
    assert_eq!(POSTGRES.query_one("partly restored", count).unwrap(), "10");
}

#[test]
fn archives_that_are_not_to_be_understood_are_passed_on_as_they_are() {
    let plane = Plane::start(Plane::backup(&POSTGRES.dsn("sample")), no_faults);
    let (code, log) = ended(runner(&plane, BACKUP).env("WALWARDEN_OPAQUE_MAJORS", "14, 15").spawn().unwrap());
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("passed on unread"), "{log}");
    let measured = &plane.calls("finish")[0];
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let contents = serde_json::json!({ "digest": nothing, "entries": 0, "tables": 0, "rows": 0 });
    assert_eq!((&measured["compression"], &measured["contents"]), (&"pg_dump".into(), &contents));
    assert_eq!(measured["sourceDatabase"], "sample");
    let size = AnnexSize {
        uncompressed_bytes: measured["annexUncompressedBytes"].as_u64().unwrap(),
        lines: measured["annexLines"].as_u64().unwrap(),
    };
    let annex = Annex::read(BufReader::new(&plane.object("document/annex").unwrap()[..]), size).unwrap();
    assert_eq!((annex.header.archive_version.as_str(), annex.header.compression.as_str()), ("unknown", "pg_dump"));
    assert_eq!((annex.entries.len(), annex.tables.len(), annex.database.name.as_str()), (0, 0, "sample"));
    assert!(annex.roles.iter().any(|role| role.name == "sample_owner"));

    let folder = tempfile::tempdir().unwrap();
    let (kept, own) = (folder.path().join("kept"), folder.path().join("own"));
    std::fs::write(&kept, plane.artifact()).unwrap();
    let output = POSTGRES.command("pg_dump", "sample").args(["-Fc", "-f"]).arg(&own).output().unwrap();
    assert!(output.status.success());
    assert_eq!(script(&POSTGRES, &kept), script(&POSTGRES, &own));
}

#[test]
fn few_parts_suffice_because_they_grow() {
    let mut instructions = Plane::backup(&POSTGRES.dsn("bulky"));
    instructions["partCap"] = 20.into();
    let plane = Plane::start(instructions, no_faults);
    let (code, log) = run(&plane, BACKUP);
    assert_eq!(code, 0, "{log}");
    check_backup(&plane);
    let list = PartsList::from_bytes(&plane.object("document/partsList").unwrap()).unwrap();
    let (last, full) = list.parts.split_last().unwrap();
    let sizes: Vec<u64> = full.iter().map(|part| part.size_bytes >> 20).collect();
    assert!(sizes.len() >= 4 && last.size_bytes > 0, "{sizes:?}");
    assert_eq!(sizes, [8, 8, 16, 16, 32, 32][..sizes.len()]);
}
