//! What goes wrong, and what is left of it: nothing on the target, and one clear line.

mod support;

use std::{
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
};

use support::{Backup, Postgres, Server, error, postgres, proxy, restore, said, sample, states, wait_until};
use walwarden_verifier::annex::{AnnexSize, Role, RoleSetting, Setting};

struct Stage {
    postgres: Postgres,
    backup: Backup,
    server: Server,
    work: tempfile::TempDir,
}

fn stage() -> Stage {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE ROLE app; CREATE DATABASE source TEMPLATE template0");
    // Random bytes do not compress: the artifact has several ranges.
    postgres.run("source", "CREATE TABLE t (id int, v bytea); INSERT INTO t SELECT n, sha512(n::text::bytea) || sha512((-n)::text::bytea) FROM generate_series(1, 150000) n; GRANT SELECT ON t TO app");
    let backup = Backup::of(&postgres, "source", "-Z6");
    assert!(backup.artifact.len() > 16 << 20, "{} bytes", backup.artifact.len());
    let server = Server::start(&backup);
    Stage { postgres, backup, server, work: tempfile::tempdir().unwrap() }
}

impl Stage {
    fn command(&self) -> std::process::Command {
        let mut command =
            restore(&self.server, &self.backup, &self.postgres.dsn("postgres"), "new_database", self.work.path());
        command.args(["--created-database", "copy"]);
        command
    }

    fn untouched(&self) {
        assert_eq!(self.postgres.databases(), ["postgres", "source"]);
    }

    /// Ranges that a download has noted as whole.
    fn whole_ranges(&self) -> usize {
        let noted = self.work.path().join(support::server::RESTORE).join("arrived");
        let notes = std::fs::read(noted).unwrap_or_default();
        let whole = |note: &[u8]| u32::from_le_bytes(note.try_into().unwrap()) == 8 << 20;
        notes.chunks_exact(4).filter(|note| whole(note)).count()
    }

    fn claims(&self) -> usize {
        self.server.behaviour.claims.load(Ordering::Relaxed)
    }
}

#[test]
fn tampering_is_found_before_pg_restore_runs() {
    let stage = stage();
    let pinned = stage.work.path().join("other.pem");
    std::fs::write(&pinned, "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n").unwrap();
    let output = stage.command().arg("--pubkey").arg(&pinned).output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("manifest_invalid", Some(3)), "{}", said(&output));

    stage.server.corrupt_artifact();
    let output = stage.command().output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("artifact_mismatch", Some(3)), "{}", said(&output));
    assert_eq!(states(&output), ["inspected", "downloading", "verifying", "failed_terminal"]);
    assert_eq!(stage.server.reported().last().unwrap()["class"], "artifact_mismatch");
    assert_eq!(stage.claims(), 1);

    stage.server.corrupt_annex();
    let output = stage.command().output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("manifest_invalid", Some(3)), "{}", said(&output));

    stage.server.corrupt_manifest();
    let output = stage.command().output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("manifest_invalid", Some(3)), "{}", said(&output));
    // Neither of the last two spent the token.
    assert_eq!(stage.claims(), 1);
    stage.untouched();
}

#[test]
fn a_bad_network_is_ridden_out() {
    let stage = stage();
    stage.server.behaviour.forbid.store(2, Ordering::Relaxed);
    stage.server.behaviour.cut.store(3, Ordering::Relaxed);
    let output = stage.command().arg("--prove").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn an_interrupted_download_goes_on() {
    let stage = stage();
    stage.server.behaviour.stall_behind.store(2, Ordering::Relaxed);
    let mut child = stage.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("two ranges have arrived", || stage.whole_ranges() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    stage.server.behaviour.stall_behind.store(0, Ordering::Relaxed);
    let before = stage.server.behaviour.artifact_requests.swap(0, Ordering::Relaxed);
    // The token has expired meanwhile; the session has not.
    let expired = stage.server.token_until("new_database", 1000);
    let output = stage.command().env("WALWARDEN_TOKEN", expired).arg("--prove").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.claims(), 1);
    let ranges = stage.backup.artifact.len().div_ceil(support::server::RANGE_BYTES);
    assert_eq!(stage.server.behaviour.artifact_requests.load(Ordering::Relaxed), ranges - 2, "{before} before");
}

#[test]
fn what_was_kept_of_a_download_is_not_trusted() {
    let stage = stage();
    stage.server.behaviour.stall_behind.store(2, Ordering::Relaxed);
    let mut child = stage.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let directory = stage.work.path().join(support::server::RESTORE);
    wait_until("a range has arrived", || stage.whole_ranges() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    stage.server.behaviour.stall_behind.store(0, Ordering::Relaxed);
    let artifact = std::fs::OpenOptions::new().write(true).open(directory.join("artifact.dump")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&artifact, &vec![0; 16 << 20], 0).unwrap();
    let output = stage.command().arg("--prove").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_dead_control_plane_does_not_stop_a_restore() {
    let stage = stage();
    stage.server.behaviour.session_down.store(true, Ordering::Relaxed);
    let output = stage.command().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let completed = support::events(&output).pop().unwrap();
    assert_eq!(completed["payload"]["sealed"], false);
    let command = completed["payload"]["reportCommand"].as_str().unwrap().to_owned();
    let file = command.strip_prefix("walwarden restore --report ").unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!stage.work.path().join(support::server::RESTORE).join("artifact.dump").exists());
    stage.server.behaviour.session_down.store(false, Ordering::Relaxed);
    let output = support::walwarden().args(["restore", "--json", "--report", file]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.server.reported_steps(), ["restore"]);
    assert!(!Path::new(file).exists());
}

#[test]
fn an_interrupted_report_is_kept_and_the_restore_stands() {
    let stage = stage();
    stage.server.behaviour.never_answer_results.store(true, Ordering::Relaxed);
    let child = stage.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the result was sent", || stage.server.behaviour.results.load(Ordering::Relaxed) > 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let completed = support::events(&output).pop().unwrap();
    assert_eq!((&completed["state"], &completed["payload"]["sealed"]), (&"completed".into(), &false.into()));
    assert_eq!(stage.postgres.databases(), ["copy", "postgres", "source"]);
    stage.server.behaviour.never_answer_results.store(false, Ordering::Relaxed);
    let command = completed["payload"]["reportCommand"].as_str().unwrap();
    let file = command.strip_prefix("walwarden restore --report ").unwrap();
    let output = support::walwarden().args(["restore", "--json", "--report", file]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.server.reported_steps().last().unwrap(), "restore");
}

#[test]
fn a_database_that_got_its_name_is_restored_though_the_answer_is_lost() {
    let stage = stage();
    let (port, lost) = proxy::losing_the_answer_to(stage.postgres.port(), &["RENAME TO", "COMMIT"]);
    let target = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    let output = stage.command().env("WALWARDEN_TARGET", target).arg("--prove").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lost.load(Ordering::SeqCst), 1);
    assert_eq!(stage.postgres.databases(), ["copy", "postgres", "source"]);
    assert_eq!(stage.server.reported_steps().last().unwrap(), "restore");
}

#[test]
fn what_nobody_went_on_with_is_removed_after_a_day() {
    let stage = stage();
    let day = std::time::Duration::from_secs(24 * 3600);
    let left = |id: &str, age: std::time::Duration, also: &[&str]| {
        let directory = stage.work.path().join(id);
        std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        for name in ["session", "artifact.dump"].iter().chain(also) {
            let file = std::fs::File::create(directory.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        }
        directory
    };
    let old = left("rst_01jd7z9k3m5n7p9r1t3v5x7z00", day * 2, &["claimed", "lock"]);
    let kept = [
        left("rst_01jd7z9k3m5n7p9r1t3v5x7z01", day, &["claimed"]),
        left("rst_01jd7z9k3m5n7p9r1t3v5x7z02", day * 2, &["report.json"]),
        left("rst_01jd7z9k3m5n7p9r1t3v5x7z03", day * 2, &["kept"]),
        left("somebodys", day * 2, &[]),
    ];
    let output = stage.command().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!old.exists());
    assert!(kept.iter().all(|directory| directory.join("artifact.dump").exists()));
}

#[test]
fn cancelling_ends_it_before_the_target_is_touched() {
    let stage = stage();
    stage.server.behaviour.cancel.store(true, Ordering::Relaxed);
    stage.server.behaviour.stall_after.store(1, Ordering::Relaxed);
    let output = stage.command().output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("cancelled", Some(4)), "{}", said(&output));
    assert!(!stage.server.reported_steps().contains(&"cancelled".to_owned()));
    stage.untouched();
}

fn is_running(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn signals_end_children_and_clean_up() {
    let stage = stage();
    let wrapper = tempfile::tempdir().unwrap();
    let pid_file = wrapper.path().join("pid");
    let hang = format!(
        "printf '%s\\n' \"$@\" > '{}'; echo $$ > '{}'; exec sleep 120",
        wrapper.path().join("arguments").display(),
        pid_file.display()
    );
    let bin = stage.postgres.wrapped_pg_restore(wrapper.path(), Some(&hang), "");
    let start = |signal: rustix::process::Signal| {
        let _ = std::fs::remove_file(&pid_file);
        let child =
            stage.command().arg("--pg-bin").arg(&bin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("pg_restore runs", || std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')));
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        assert!(is_running(pid));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        (child.wait_with_output().unwrap(), pid)
    };
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let (output, pid) = start(signal);
        assert_eq!((error(&output).0.as_str(), output.status.code()), ("cancelled", Some(4)), "{}", said(&output));
        assert!(!is_running(pid));
        assert_eq!(stage.server.reported_steps().last().unwrap(), "cancelled");
        stage.untouched();
        assert!(!stage.work.path().join(support::server::RESTORE).exists());
    }
    // Killed: pg_restore ends too, and the next run begins by removing what was left.
    let (_, pid) = start(rustix::process::Signal::KILL);
    wait_until("pg_restore has ended", || !is_running(pid));
    let left = format!("ww_{}", support::server::RESTORE);
    assert_eq!(stage.postgres.databases(), ["postgres", "source", left.as_str()]);
    let output = stage.command().arg("--prove").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.postgres.databases(), ["copy", "postgres", "source"]);
}

#[test]
fn a_failing_pg_restore_is_told_and_leaves_nothing_unless_asked() {
    let stage = stage();
    let wrapper = tempfile::tempdir().unwrap();
    let bin = stage.postgres.wrapped_pg_restore(
        wrapper.path(),
        Some("echo 'pg_restore: warning: something odd' >&2; exit 0"),
        "",
    );
    let output = stage.command().arg("--pg-bin").arg(&bin).output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_failed", Some(3)), "{}", said(&output));
    assert!(said(&output).contains("  | pg_restore: warning: something odd"));
    stage.untouched();
    let output = stage.command().arg("--keep-failed").arg("--pg-bin").arg(&bin).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stage.postgres.databases().len(), 3);
    assert!(stage.work.path().join(support::server::RESTORE).join("artifact.dump").exists());
}

#[test]
fn the_plan_refuses_with_reasons_before_the_token_is_spent() {
    let source = Postgres::start(postgres::usual_major());
    sample(&source);
    let backup = Backup::of(&source, "source", "-Z6").with(|annex| {
        let index = annex.entries.iter().position(|entry| entry.kind == "EXTENSION");
        assert!(index.is_none_or(|at| !annex.entries[at].name.is_empty()));
    });
    let server = Server::start(&backup);
    let target = Postgres::start(postgres::usual_major());
    let work = tempfile::tempdir().unwrap();
    let plain = target.login("plain", "", "postgres");
    let output = restore(&server, &backup, &plain, "new_database", work.path())
        .args(["--created-database", "template1"])
        .output()
        .unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
    let plan = support::events(&output).into_iter().find(|event| !event["plan"].is_null()).unwrap();
    let codes: std::collections::BTreeSet<&str> =
        plan["plan"]["refusals"].as_array().unwrap().iter().map(|refusal| refusal["code"].as_str().unwrap()).collect();
    for code in ["no_createdb", "database_exists"] {
        assert!(codes.contains(code), "{code}: {codes:?}");
    }
    assert!(plan["plan"]["refusals"].to_string().contains("ALTER ROLE \\\"plain\\\" CREATEDB;"));
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
    assert_eq!(target.databases(), ["postgres"]);
}

#[test]
fn a_second_restore_into_the_same_database_is_kept_out() {
    let stage = stage();
    stage.server.behaviour.stall_after.store(1, Ordering::Relaxed);
    let mut first = stage.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it has claimed", || stage.claims() == 1);
    let elsewhere = tempfile::tempdir().unwrap();
    let output = stage.command().env("WALWARDEN_WORK_DIR", elsewhere.path()).output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_busy", Some(2)), "{}", said(&output));
    let output = stage.command().output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("already_running", Some(2)), "{}", said(&output));
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn unreachable_targets_cost_nothing() {
    let stage = stage();
    for (target, code) in [
        ("postgresql://u@127.0.0.1:1/postgres".to_owned(), "target_unreachable"),
        ("postgresql://u@no-such-host.invalid/postgres".to_owned(), "target_unreachable"),
        (stage.postgres.dsn("absent"), "target_database_unknown"),
        (format!("postgresql://stranger:wrong@127.0.0.1:{}/postgres", stage.postgres.port), "target_auth_failed"),
        (format!("postgresql://stranger@127.0.0.1:{}/postgres", stage.postgres.port), "target_password_missing"),
    ] {
        let output = stage.command().env("WALWARDEN_TARGET", &target).output().unwrap();
        assert_eq!((error(&output).0.as_str(), output.status.code()), (code, Some(2)), "{}", said(&output));
    }
    assert_eq!(stage.claims(), 0);
}

/// Nothing that an annex says becomes a right, a setting that loads code, a statement of its own, or a terminal's escape
/// sequence.
#[test]
fn a_hostile_description_gains_nothing() {
    const EVIL: &str = "evil\u{1b}]0;owned\u{7}\"; ALTER ROLE app SUPERUSER; --\n$(id)";
    let source = Postgres::start(postgres::usual_major());
    let evil = walwarden_contract::quote::ident(EVIL);
    source.run("postgres", &format!("CREATE ROLE app; CREATE ROLE {evil}; CREATE DATABASE source TEMPLATE template0"));
    let schema = format!(
        "CREATE SCHEMA {evil} AUTHORIZATION {evil}; CREATE TABLE {evil}.{evil} (id int PRIMARY KEY);
         INSERT INTO {evil}.{evil} VALUES (1); GRANT SELECT ON {evil}.{evil} TO app; COMMENT ON SCHEMA {evil} IS 'x'"
    );
    source.run("source", &schema);
    let loading = ["session_preload_libraries", "local_preload_libraries", "dynamic_library_path"];
    let backup = Backup::of(&source, "source", "-Z6").with(|annex| {
        let setting = |name: &str| Setting { name: name.to_owned(), value: "/tmp/evil".to_owned() };
        annex.roles = ["app", EVIL]
            .map(|name| Role {
                name: name.into(),
                superuser: true,
                create_role: true,
                bypass_rls: true,
                settings: loading.map(setting).to_vec(),
                ..Role::default()
            })
            .to_vec();
        annex.header.counts.roles = 2;
        annex.database.settings = loading.map(setting).to_vec();
        annex.database.settings.push(setting("work_mem' TO 1; ALTER ROLE app SUPERUSER; --"));
        annex.database.role_settings = vec![RoleSetting {
            role: "app".into(),
            name: "session_preload_libraries".into(),
            value: "/tmp/evil".into(),
        }];
        annex.database.comment = Some("'; ALTER ROLE app SUPERUSER; --\u{1b}]0;owned\u{7}".into());
    });
    let server = Server::start(&backup);
    let target = Postgres::start(postgres::usual_major());
    let work = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        restore(&server, &backup, &target.dsn("postgres"), "new_database", work.path())
            .args(["--created-database", "copy"])
            .args(arguments)
            .output()
            .unwrap()
    };
    for output in [run(&["--plan"]), run(&["--prove"])] {
        assert!(output.status.success(), "{}", said(&output));
        let bytes = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        assert!(!bytes.contains(&0x1b) && !bytes.contains(&7), "{}", said(&output));
    }
    assert_eq!(target.databases(), ["copy", "postgres"]);
    let table = walwarden_contract::quote::qualified(EVIL, EVIL);
    assert_eq!(target.one("copy", &format!("SELECT count(*) FROM {table}")), "1");
    let made = "SELECT count(*) FROM pg_roles WHERE (rolname = 'app' OR rolname LIKE 'evil%') AND NOT (
                   rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication OR rolcanlogin)";
    assert_eq!(target.one("postgres", made), "2");
    assert_eq!(target.one("postgres", "SELECT count(*) FROM pg_db_role_setting"), "0");
}

/// The description was refused, for that reason and before the claim.
fn is_no_description(output: &std::process::Output, words: &str, server: &Server) {
    let told = said(output);
    assert_eq!((error(output).0.as_str(), output.status.code()), ("manifest_invalid", Some(3)), "{told}");
    assert!(told.contains(words), "{words}: {told}");
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
}

/// What a key's holder signed is read no further than the limits, however well it packs.
#[test]
fn an_annex_of_a_gigabyte_of_zeros_is_refused_in_little_memory() {
    let stage = stage();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0; 1 << 20];
    (0..1024).for_each(|_| packed.write_all(&zeros).unwrap());
    let packed = packed.finish().unwrap();
    let (not_as_stated, too_large) = ("the annex is not what the manifest states", "larger than 1 GiB uncompressed");
    let stated = [(1 << 30, 1, not_as_stated), (1 << 40, 1, too_large), (1 << 30, 1 << 40, not_as_stated)];
    for (uncompressed_bytes, lines, words) in stated {
        let backup = stage.backup.with_annex_file(packed.clone(), AnnexSize { uncompressed_bytes, lines });
        let server = Server::start(&backup);
        let inner = restore(&server, &backup, &stage.postgres.dsn("postgres"), "new_database", stage.work.path());
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -d 200000; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
        limited.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = limited.args(["--created-database", "copy"]).output().unwrap();
        is_no_description(&output, words, &server);
    }
    stage.untouched();
}

/// The annex is of this archive or of none: whichever of the two says otherwise, nothing is claimed.
#[test]
fn an_annex_that_disagrees_with_the_archive_is_refused() {
    let stage = stage();
    type Change = fn(&mut walwarden_verifier::annex::Annex);
    let changes: [(&str, Change); 4] = [
        ("other entries", |annex| annex.entries.swap(0, 1)),
        ("other entries", |annex| annex.entries[0].owner = "somebody".into()),
        ("another compression", |annex| annex.header.compression = "none".into()),
        ("another database", |annex| annex.database.name = "other".into()),
    ];
    for (words, change) in changes {
        let changed = stage.backup.with(change);
        let backup = stage.backup.with_annex_file(changed.annex, changed.annex_size);
        let server = Server::start(&backup);
        let output = restore(&server, &backup, &stage.postgres.dsn("postgres"), "new_database", stage.work.path())
            .args(["--created-database", "copy"])
            .output()
            .unwrap();
        is_no_description(&output, words, &server);
    }
    stage.untouched();
}
