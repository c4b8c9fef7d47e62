//! Restores by a role that is no superuser, of what belongs to other roles.

mod support;

use std::{path::Path, process::Output, sync::atomic::Ordering};

use support::{Backup, Postgres, Server, error, events, postgres, restore, said, same_schema};

/// Everything whose new owner must be allowed to create where it is.
const OBJECTS: &str = "CREATE TABLE t (id serial PRIMARY KEY, v text);
    INSERT INTO t (v) SELECT 'x' || n FROM generate_series(1, 100) n;
    CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS c FROM t;
    CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN d AS int; CREATE SEQUENCE s; CREATE STATISTICS st ON id, v FROM t;
    CREATE SCHEMA own; CREATE TABLE own.t AS SELECT 1 AS a; CREATE PUBLICATION p FOR TABLE t;
    SELECT lo_from_bytea(0, 'large');";

fn run(server: &Server, backup: &Backup, dsn: &str, work: &Path) -> Output {
    restore(server, backup, dsn, "new_database", work).args(["--prove", "--created-database", "copy"]).output().unwrap()
}

fn majors_with_a_closed_public() -> Vec<u32> {
    postgres::majors().into_iter().filter(|major| *major >= 15).collect()
}

#[test]
fn a_member_of_the_owner_restores_its_database() {
    for major in postgres::majors() {
        let postgres = Postgres::start(major);
        let dsn = postgres.login("mover", "NOSUPERUSER CREATEDB", "postgres");
        postgres.run(
            "postgres",
            "CREATE ROLE app; GRANT app TO mover; CREATE ROLE reader;
             CREATE DATABASE source OWNER app TEMPLATE template0;
             ALTER DATABASE source SET statement_timeout = '5s'; COMMENT ON DATABASE source IS 'it''s';
             SET ROLE app; REVOKE CONNECT ON DATABASE source FROM PUBLIC; GRANT CONNECT ON DATABASE source TO reader",
        );
        // The publication in a database that is not the restoring role's own.
        postgres.run(
            "source",
            &format!(
                "SET ROLE app; {}{OBJECTS}",
                if major < 15 { "RESET ROLE; GRANT CREATE ON SCHEMA public TO app; SET ROLE app;" } else { "" }
            ),
        );
        let backup = Backup::of(&postgres, "source", "-Z6");
        let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
        let output = run(&server, &backup, &dsn, work.path());
        assert!(output.status.success(), "{major}: {}", said(&output));
        assert_eq!(server.reported().last().unwrap()["proof"]["result"], "identical", "{major}");
        same_schema(&postgres, "source", "copy");
        let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()";
        assert_eq!(postgres.one("copy", owner), "app");
        // One that fails leaves nothing, though it was given away.
        let wrapper = tempfile::tempdir().unwrap();
        let bin = postgres.wrapped_pg_restore(wrapper.path(), Some("exit 1"), "");
        let output = restore(&server, &backup, &dsn, "new_database", work.path())
            .env_remove("WALWARDEN_PG_BIN")
            .args(["--created-database", "other", "--pg-bin"])
            .arg(bin)
            .output()
            .unwrap();
        assert_eq!(error(&output).0, "target_failed", "{}", said(&output));
        assert_eq!(postgres.databases(), ["copy", "postgres", "source"]);
    }
}

/// Refused before the claim with a remedy that, run by an administrator, makes the restore succeed.
fn refused_until_granted(postgres: &Postgres, dsn: &str, code: &str, remedy: &str) {
    let backup = Backup::of(postgres, "source", "-Z6");
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let output = run(&server, &backup, dsn, work.path());
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
    let plan = events(&output).into_iter().find(|event| !event["plan"].is_null()).unwrap();
    let refusals = plan["plan"]["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(refusals[0]["code"], code, "{refusals:?}");
    let given = refusals[0]["remedy"].as_str().unwrap();
    assert!(given.contains(remedy), "{given}");
    postgres.run("postgres", remedy);
    let output = run(&server, &backup, dsn, work.path());
    assert!(output.status.success(), "{}", said(&output));
    same_schema(postgres, "source", "copy");
}

#[test]
fn an_owner_that_may_not_create_there_yet_is_refused_with_the_grant() {
    for major in majors_with_a_closed_public() {
        let postgres = Postgres::start(major);
        let dsn = postgres.login("mover", "CREATEDB", "postgres");
        postgres.run(
            "postgres",
            "CREATE ROLE app; CREATE ROLE \"Other\"; GRANT app, \"Other\" TO mover; CREATE DATABASE source OWNER app TEMPLATE template0",
        );
        // In the backup the right to create comes after the objects.
        postgres.run(
            "source",
            "SET ROLE app; GRANT CREATE ON SCHEMA public TO \"Other\"; CREATE TABLE a AS SELECT 1 AS a;
             SET ROLE \"Other\"; CREATE TABLE b AS SELECT 1 AS b; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        );
        refused_until_granted(&postgres, &dsn, "owner_may_not_create", "GRANT \"app\" TO \"Other\";");
    }
}

#[test]
fn a_membership_that_gives_no_rights_is_refused_with_the_grant() {
    for major in majors_with_a_closed_public() {
        let postgres = Postgres::start(major);
        let dsn = postgres.login("mover", if major >= 16 { "CREATEDB" } else { "CREATEDB NOINHERIT" }, "postgres");
        let grant = if major >= 16 { "GRANT app TO mover WITH INHERIT FALSE" } else { "GRANT app TO mover" };
        postgres
            .run("postgres", &format!("CREATE ROLE app; {grant}; CREATE DATABASE source OWNER app TEMPLATE template0"));
        postgres.run("source", "SET ROLE app; CREATE TABLE a AS SELECT 1 AS a");
        let remedy = if major >= 16 {
            "GRANT \"app\" TO \"mover\" WITH INHERIT TRUE, SET TRUE;"
        } else {
            "ALTER ROLE \"mover\" INHERIT;"
        };
        refused_until_granted(&postgres, &dsn, "owner_not_settable", remedy);
    }
}
