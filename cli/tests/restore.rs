//! Whole restores with the binary, a real pg_restore and a real Postgres.

mod support;

use support::{Backup, Postgres, Server, error, postgres, restore, said, sample, states};

fn compress(major: u32) -> &'static str {
    if major == 17 { "--compress=zstd:3" } else { "-Z6" }
}

#[test]
fn every_major_restores_identically_serially_and_in_parallel() {
    for major in postgres::majors() {
        let postgres = Postgres::start(major);
        sample(&postgres);
        let backup = Backup::of(&postgres, "source", compress(major));
        for jobs in ["1", "4"] {
            let server = Server::start(&backup);
            let work = tempfile::tempdir().unwrap();
            let name = format!("copy_{jobs}");
            let output = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
                .args(["--prove", "--jobs", jobs, "--created-database", &name])
                .output()
                .unwrap();
            assert!(output.status.success(), "{major}: {}", said(&output));
            assert_eq!(states(&output), ["inspected", "downloading", "verifying", "manifest_verified", "restoring", "finalizing", "completed"]);
            assert_eq!(server.reported_steps(), ["downloading", "verifying", "manifest_verified", "restoring", "finalizing", "restore"]);
            let completed = support::events(&output).pop().unwrap();
            assert_eq!(completed["payload"]["proof"]["result"], "identical", "{}", said(&output));
            assert_eq!(completed["payload"]["proof"]["tables"], backup.records.header.counts.tables);
            assert_eq!(completed["payload"]["proof"]["rows"], backup.records.header.counts.rows);
            assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
            same_schema(&postgres, "source", &name);
        }
        assert_eq!(postgres.databases(), ["copy_1", "copy_4", "postgres", "source"]);
    }
}

fn same_schema(postgres: &Postgres, left: &str, right: &str) {
    let settings = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C -c xmlbinary=base64";
    let schema = |database: &str| {
        let output = postgres.client("pg_dump", database).env("PGOPTIONS", settings).args(["--schema-only", "--create"]).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap().replace(database, "DATABASE");
        text.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (left, right) = (schema(left), schema(right));
    let difference = left.iter().zip(&right).find(|(l, r)| l != r);
    assert!(difference.is_none() && left.len() == right.len(), "{difference:?}");
}

#[test]
fn an_owner_that_is_no_superuser_restores_its_own_database() {
    let postgres = Postgres::start(postgres::usual_major());
    let dsn = postgres.login("owner", "CREATEDB", "postgres");
    postgres.run("postgres", "CREATE ROLE reader; CREATE DATABASE app OWNER owner TEMPLATE template0");
    postgres.run("app", "SET ROLE owner; CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) SELECT 'x' || n FROM generate_series(1, 1000) n; GRANT SELECT ON t TO reader; COMMENT ON DATABASE app IS 'it''s'; ALTER DATABASE app SET search_path = \"$user\", public; ALTER DATABASE app SET statement_timeout = '5s'; GRANT CONNECT ON DATABASE app TO reader; SELECT lo_from_bytea(0, 'large')");
    let backup = Backup::of(&postgres, "app", "-Z6");
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let output = restore(&server, &backup, &dsn, "new_database", work.path()).args(["--prove", "--created-database", "app_copy", "--refuse-superuser-target"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"));
    same_schema(&postgres, "app", "app_copy");
    assert_eq!(postgres.one("app_copy", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"), "owner");
}

#[test]
fn in_place_replaces_what_is_there_and_leaves_the_rest() {
    let postgres = Postgres::start(postgres::usual_major());
    sample(&postgres);
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run("source", "DELETE FROM sample.orders; DROP VIEW IF EXISTS nothing; CREATE TABLE public.mine AS SELECT 1 AS kept; SELECT setval('sample.unowned_seq', 9999)");
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let target = postgres.dsn("source");
    let plan = restore(&server, &backup, &target, "in_place", work.path()).args(["--confirm-destructive", "--plan"]).output().unwrap();
    assert!(plan.status.success() && said(&plan).contains("public.mine"), "{}", said(&plan));
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 0);
    let output = restore(&server, &backup, &target, "in_place", work.path()).args(["--confirm-destructive", "--prove"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(postgres.one("source", "SELECT kept FROM public.mine"), "1");

    // A view made since keeps its table from being dropped: said beforehand.
    postgres.run("source", "CREATE VIEW public.since AS SELECT * FROM sample.orders");
    let output = restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    let (code, text) = error(&output);
    assert_eq!((code.as_str(), output.status.code()), ("plan_refused", Some(2)));
    assert!(text.contains("public.since") && text.contains("DROP VIEW"), "{text}");

    postgres.run("source", "DROP VIEW public.since; CREATE TYPE sample.since AS ENUM ('a'); CREATE FUNCTION sample.since() RETURNS int LANGUAGE sql RETURN 1");
    let output = restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    let (code, text) = error(&output);
    assert_eq!(code, "plan_refused");
    assert!(text.contains("DROP TYPE") && text.contains("DROP FUNCTION"), "{text}");

    // What only pg_restore finds out changes nothing.
    postgres.run("source", "DROP TYPE sample.since; DROP FUNCTION sample.since; CREATE TABLE public.uses (m sample.mood); DELETE FROM sample.orders WHERE id > 10");
    let output = restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_failed", Some(3)), "{}", said(&output));
    assert_eq!(postgres.one("source", "SELECT count(*) FROM sample.orders"), "10");
    assert_eq!(server.reported().last().unwrap()["class"], "target_failed");
}

#[test]
fn newer_archives_do_not_go_into_older_servers() {
    let (Some(_), Some(_)) = (postgres::bin_dir(17), postgres::bin_dir(16)) else { return };
    let (newer, older) = (Postgres::start(17), Postgres::start(16));
    newer.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    older.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    let work = tempfile::tempdir().unwrap();
    let backup = Backup::of(&newer, "source", "-Z6");
    let output = restore(&Server::start(&backup), &backup, &older.dsn("postgres"), "new_database", work.path()).args(["--created-database", "x"]).output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("no_pg_restore", Some(2)), "{}", said(&output));
    // The other way round works.
    let backup = Backup::of(&older, "source", "-Z6");
    let output = restore(&Server::start(&backup), &backup, &newer.dsn("postgres"), "new_database", work.path()).args(["--created-database", "x", "--prove"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
