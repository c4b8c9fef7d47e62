//! Restores by a role that is no superuser, of what belongs to other roles.

mod support;

use std::{path::Path, process::Output, sync::atomic::Ordering};

use serde_json::Value;
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

/// The restore's plan, and that it is what happens.
fn planned(postgres: &Postgres, dsn: &str, arguments: &[&str]) -> (Output, Value) {
    let backup = Backup::of(postgres, "source", "-Z6");
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let command = || {
        let mut command = restore(&server, &backup, dsn, "new_database", work.path());
        command.args(["--prove", "--created-database", "copy"]).args(arguments);
        command
    };
    let plan = command().arg("--plan").output().unwrap();
    let plan = events(&plan).into_iter().find(|event| !event["plan"].is_null()).unwrap()["plan"].clone();
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
    let output = command().output().unwrap();
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed) == 0, plan["outcome"] == "refused", "{}", said(&output));
    (output, plan)
}

#[test]
fn an_owner_that_may_create_by_a_grant_of_the_backup_gets_its_objects_afterwards() {
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
        let (output, plan) = planned(&postgres, &dsn, &["--exact"]);
        assert!(output.status.success(), "{major}: {}", said(&output));
        assert_eq!(plan["outcome"], "exact", "{plan:#}");
        same_schema(&postgres, "source", "copy");
    }
}

#[test]
fn what_cannot_be_given_to_its_owner_belongs_to_who_restores_it() {
    for major in majors_with_a_closed_public() {
        let postgres = Postgres::start(major);
        let dsn = postgres.login("mover", if major >= 16 { "CREATEDB" } else { "CREATEDB NOINHERIT" }, "postgres");
        let grant = if major >= 16 { "GRANT app TO mover WITH INHERIT FALSE" } else { "GRANT app TO mover" };
        postgres
            .run("postgres", &format!("CREATE ROLE app; {grant}; CREATE DATABASE source OWNER app TEMPLATE template0"));
        postgres.run("source", "SET ROLE app; CREATE TABLE a AS SELECT 1 AS a");
        let (output, plan) = planned(&postgres, &dsn, &["--exact"]);
        assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
        let refusals = plan["refusals"].as_array().unwrap();
        assert!(refusals.iter().any(|refusal| refusal["code"] == "not_exact"), "{plan:#}");
        if major == 15 {
            assert!(refusals.iter().any(|refusal| refusal["code"] == "no_inherit"), "{plan:#}");
            continue;
        }
        let (output, plan) = planned(&postgres, &dsn, &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(plan["outcome"], "adapted");
        let adapted = plan["adapted"].as_array().unwrap();
        assert_eq!(adapted, &["table public.a: belongs to \"mover\" instead of \"app\""], "{plan:#}");
        let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'a'";
        assert_eq!(postgres.one("copy", owner), "mover");
        postgres.run("postgres", "DROP DATABASE copy");

        // With the right, it is as it was.
        let grant =
            if major >= 16 { "GRANT app TO mover WITH INHERIT TRUE, SET TRUE" } else { "ALTER ROLE mover INHERIT" };
        postgres.run("postgres", grant);
        let (output, plan) = planned(&postgres, &dsn, &["--exact"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(plan["outcome"], "exact");
        same_schema(&postgres, "source", "copy");
    }
}

#[test]
fn a_large_object_of_others_is_named_before_the_claim() {
    for major in [postgres::majors()[0], *postgres::majors().last().unwrap()] {
        let postgres = Postgres::start(major);
        postgres.login("mover", "", "postgres");
        postgres.run("postgres", "CREATE ROLE app; CREATE DATABASE source OWNER mover TEMPLATE template0");
        let objects = "SELECT lo_from_bytea(70001, 'mine'); SELECT lo_from_bytea(70002, 'theirs');
            ALTER LARGE OBJECT 70001 OWNER TO mover; ALTER LARGE OBJECT 70002 OWNER TO app;";
        postgres.run("source", objects);
        let backup = Backup::of(&postgres, "source", "-Z6");
        let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
        let dsn = format!("postgresql://mover:hunter2hunter2@127.0.0.1:{}/source", postgres.port());
        let run = || {
            let mut command = restore(&server, &backup, &dsn, "in_place", work.path());
            command.args(["--confirm-destructive", "--prove"]).output().unwrap()
        };
        let output = run();
        assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
        assert!(
            said(&output).contains("large object 70002: on the target it belongs to a role that"),
            "{}",
            said(&output)
        );
        assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
        // With the owner's rights it is restored with the rest.
        postgres.run("source", "GRANT app TO mover; SELECT lo_put(70002, 0, 'changed')");
        let output = run();
        assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    }
}

/// pg_restore drops a table with its partitions: one that is to stay has to be taken out first.
#[test]
fn partitions_and_children_that_stay_are_not_dropped_with_their_table() {
    let postgres = Postgres::start(postgres::usual_major());
    let dsn = postgres.login("mover", "", "postgres").replace("/postgres", "/source");
    postgres.run("postgres", "CREATE DATABASE source OWNER mover TEMPLATE template0");
    postgres.run(
        "source",
        "CREATE SCHEMA app AUTHORIZATION mover; CREATE SCHEMA plat; GRANT USAGE ON SCHEMA plat TO mover;
         SET ROLE mover;
         CREATE TABLE app.p (id int) PARTITION BY RANGE (id);
         CREATE TABLE app.p_new PARTITION OF app.p FOR VALUES FROM (100) TO (200);
         CREATE TABLE app.base (id int);
         RESET ROLE;
         CREATE TABLE plat.arch (id int);
         ALTER TABLE app.p ATTACH PARTITION plat.arch FOR VALUES FROM (0) TO (100);
         CREATE TABLE plat.kid () INHERITS (app.base);
         INSERT INTO app.p SELECT generate_series(0, 199); INSERT INTO plat.kid VALUES (1)",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run("source", "INSERT INTO plat.arch VALUES (55); DELETE FROM app.p_new");
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let run = || {
        let mut command = restore(&server, &backup, &dsn, "in_place", work.path());
        command.args(["--confirm-destructive", "--leave-out", "data:plat", "--prove"]).output().unwrap()
    };
    let output = run();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
    let plan = events(&output).into_iter().find(|event| !event["plan"].is_null()).unwrap();
    let refusals: Vec<(&str, &str)> = plan["plan"]["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["code"].as_str().unwrap(), r["remedy"].as_str().unwrap().split(';').next().unwrap()))
        .collect();
    assert_eq!(
        refusals,
        [
            ("partition_stays", "ALTER TABLE \"app\".\"p\" DETACH PARTITION \"plat\".\"arch\""),
            ("dependent_object", "ALTER TABLE \"plat\".\"kid\" NO INHERIT \"app\".\"base\""),
        ],
        "{plan:#}"
    );
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 0);
    for (_, remedy) in refusals {
        postgres.run("source", remedy);
    }
    let output = run();
    assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    let rows = "SELECT (SELECT count(*) FROM plat.arch) || ' ' || (SELECT count(*) FROM plat.kid) || ' ' || (SELECT count(*) FROM app.p)";
    assert_eq!(postgres.one("source", rows), "101 1 100");
}

#[test]
fn foreign_servers_and_their_users() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0; CREATE ROLE mapped");
    postgres.run(
        "source",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
         CREATE USER MAPPING FOR mapped SERVER elsewhere; CREATE TABLE t AS SELECT 1 AS a",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    let target = Postgres::start(postgres::usual_major());
    let server = Server::start(&backup);
    let run = |dsn: &str, arguments: &[&str]| {
        let work = tempfile::tempdir().unwrap();
        restore(&server, &backup, dsn, "new_database", work.path()).arg("--prove").args(arguments).output().unwrap()
    };
    let output = run(&target.dsn("postgres"), &["--created-database", "whole", "--no-create-roles"]);
    assert!(
        said(&output).contains("the role \\\"mapped\\\" does not exist on the target, and user mapping"),
        "{}",
        said(&output)
    );
    // The role is made, for the mapping names it.
    let output = run(&target.dsn("postgres"), &["--created-database", "whole"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(target.one("whole", "SELECT usename || ' ' || srvname FROM pg_user_mappings"), "mapped elsewhere");
    // Without the extension there is neither.
    let arguments = ["--created-database", "less", "--leave-out", "extension:postgres_fdw"];
    let output = run(&target.dsn("postgres"), &arguments);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(target.one("less", "SELECT count(*) FROM pg_foreign_server"), "0");
}

/// What was passed on with ALL before 17 is not MAINTAIN afterwards, whoever passed it on.
#[test]
fn all_that_was_passed_on_does_not_become_maintain() {
    let (oldest, newest) = (postgres::majors()[0], *postgres::majors().last().unwrap());
    assert!(oldest < 17 && newest >= 17, "{oldest} and {newest}");
    let (source, target) = (Postgres::start(oldest), Postgres::start(newest));
    let roles = "CREATE ROLE app; CREATE ROLE bob; CREATE ROLE alice";
    source.run("postgres", &format!("{roles}; CREATE ROLE gone; CREATE DATABASE source OWNER app TEMPLATE template0"));
    target.run("postgres", roles);
    source.run(
        "source",
        "CREATE EXTENSION pg_buffercache; GRANT ALL ON pg_buffercache TO alice;
         SET ROLE app; CREATE TABLE public.t AS SELECT 1 AS a; GRANT ALL ON t TO bob WITH GRANT OPTION;
         CREATE TABLE public.u AS SELECT 1 AS a; GRANT SELECT ON u TO gone; SET ROLE bob; GRANT ALL ON t TO alice",
    );
    let backup = Backup::of(&source, "source", "-Z6");
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let output = restore(&server, &backup, &target.dsn("postgres"), "new_database", work.path())
        .args(["--created-database", "copy", "--prove", "--no-create-roles"])
        .output()
        .unwrap();
    assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    // Whoever owns it can maintain it, though its rights are given anew.
    assert_eq!(target.one("copy", "SELECT has_table_privilege('app', 'u', 'MAINTAIN')"), "t");
    let rights = "SELECT string_agg(r || ' ' || p || ' ' || has_table_privilege(r, t, p), ', ' ORDER BY t, r, p)
                    FROM unnest(ARRAY['alice', 'bob']) r, unnest(ARRAY['MAINTAIN', 'TRUNCATE']) p, unnest(ARRAY['pg_buffercache', 't']) t
                   WHERE t = 't' OR r = 'alice'";
    assert_eq!(
        target.one("copy", rights),
        "alice MAINTAIN false, alice TRUNCATE true, alice MAINTAIN false, alice TRUNCATE true, bob MAINTAIN false, bob TRUNCATE true"
    );
}

/// Rights that default privileges of the target would change are as they were: no more, on columns too, and no less.
#[test]
fn default_privileges_of_the_target_change_nothing_in_place() {
    for major in [postgres::majors()[0], *postgres::majors().last().unwrap()] {
        let postgres = Postgres::start(major);
        let dsn = postgres.login("mover", "", "postgres").replace("/postgres", "/source");
        postgres.run("postgres", "CREATE ROLE mid; CREATE DATABASE source OWNER mover TEMPLATE template0");
        postgres.run(
            "source",
            "SET ROLE mover; CREATE SCHEMA app; SET search_path = app;
             CREATE TABLE t (a int, b int); GRANT SELECT (a), UPDATE (b) ON t TO mid;
             CREATE TABLE u (a int); GRANT SELECT ON u TO mid;
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE y AS ENUM ('a');
             SELECT lo_from_bytea(70001, 'mine')",
        );
        let backup = Backup::of(&postgres, "source", "-Z6");
        let large = if major >= 18 { "ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO mid;" } else { "" };
        postgres.run(
            "source",
            &format!(
                "SET ROLE mover; {large} ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO mid WITH GRANT OPTION;
                 ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
                 ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC"
            ),
        );
        let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
        let output = restore(&server, &backup, &dsn, "in_place", work.path())
            .args(["--confirm-destructive", "--prove"])
            .output()
            .unwrap();
        assert!(output.status.success() && said(&output).contains("identical"), "{major}: {}", said(&output));
        let rights = "SELECT (SELECT string_agg(relname || ' ' || coalesce(relacl::text, '-'), ', ' ORDER BY relname) FROM pg_class WHERE relname IN ('t', 'u'))
                      || '; ' || (SELECT string_agg(attname || ' ' || attacl::text, ', ' ORDER BY attname) FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid = 'app.t'::regclass)
                      || '; ' || has_function_privilege('mid', 'app.f()', 'EXECUTE') || ' ' || has_type_privilege('mid', 'app.y', 'USAGE')
                      || '; ' || (SELECT coalesce(lomacl::text, '-') FROM pg_largeobject_metadata WHERE oid = 70001)";
        let now = postgres.one("source", rights);
        let maintain = if major >= 17 { "m" } else { "" };
        let own = format!("mover=arwdDxt{maintain}/mover");
        let large = if major >= 18 { "{mover=rw/mover}" } else { "-" };
        assert_eq!(
            now,
            format!("t {{{own}}}, u {{{own},mid=r/mover}}; a {{mid=r/mover}}, b {{mid=w/mover}}; true true; {large}"),
            "{major}"
        );
    }
}

/// The same for a superuser, whose pg_restore passes rights on as they were passed on.
#[test]
fn rights_that_were_passed_on_are_no_wider_under_default_privileges() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE ROLE own; CREATE ROLE g1; CREATE ROLE g2; CREATE ROLE g3; CREATE DATABASE source OWNER own TEMPLATE template0");
    postgres.run(
        "source",
        "SET ROLE own; CREATE TABLE t1 (a int, b int); CREATE TABLE t2 (a int);
         CREATE FUNCTION f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1';
         REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC; GRANT EXECUTE ON FUNCTION f() TO g2 WITH GRANT OPTION;
         GRANT SELECT ON t2 TO g1 WITH GRANT OPTION; GRANT UPDATE (b) ON t1 TO g2 WITH GRANT OPTION;
         RESET ROLE; SET ROLE g1; GRANT SELECT ON t2 TO g3;
         RESET ROLE; SET ROLE g2; GRANT EXECUTE ON FUNCTION f() TO g3; GRANT UPDATE (b) ON t1 TO g3",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    let rights = "SELECT string_agg(r || ' ' || w || ' ' || h, ', ' ORDER BY r, w) FROM unnest(ARRAY['g1', 'g2', 'g3']) r,
        LATERAL (VALUES ('t1', has_table_privilege(r, 't1', 'SELECT, UPDATE, INSERT')), ('t1.b', has_column_privilege(r, 't1', 'b', 'UPDATE')),
            ('t2', has_table_privilege(r, 't2', 'SELECT')), ('t2+', has_table_privilege(r, 't2', 'INSERT, SELECT WITH GRANT OPTION')),
            ('f', has_function_privilege(r, 'f()', 'EXECUTE'))) p (w, h)";
    let before = postgres.one("source", rights);
    postgres.run(
        "source",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO g1, g2 WITH GRANT OPTION;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO g1, g3 WITH GRANT OPTION;
         ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    );
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let output = restore(&server, &backup, &postgres.dsn("source"), "in_place", work.path())
        .args(["--confirm-destructive", "--prove"])
        .output()
        .unwrap();
    assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    assert_eq!(postgres.one("source", rights), before);
}

/// A materialized view shows what its owner may see: it is filled by that one or stays empty.
#[test]
fn materialized_views_under_row_security_are_filled_by_their_owners() {
    let postgres = Postgres::start(postgres::usual_major());
    let dsn = postgres.login("mover", "CREATEDB", "postgres");
    postgres.run(
        "postgres",
        "CREATE ROLE reporter; CREATE ROLE other; GRANT reporter TO mover; CREATE DATABASE source OWNER mover TEMPLATE template0",
    );
    postgres.run(
        "source",
        "GRANT CREATE ON SCHEMA public TO reporter, other;
         SET ROLE mover; CREATE TABLE t (who text); INSERT INTO t VALUES ('pub'), ('secret');
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY pub ON t USING (who = 'pub');
         GRANT SELECT ON t TO reporter, other;
         RESET ROLE; SET ROLE reporter; CREATE MATERIALIZED VIEW rep AS SELECT * FROM t; GRANT SELECT ON rep TO PUBLIC;
         RESET ROLE; SET ROLE other; CREATE MATERIALIZED VIEW els AS SELECT * FROM t; GRANT SELECT ON els TO PUBLIC",
    );
    let counts =
        "SELECT (SELECT count(*) FROM rep) || ' ' || (SELECT relispopulated FROM pg_class WHERE relname = 'els')";
    assert_eq!(postgres.one("source", counts), "1 true");
    let (output, plan) = planned(&postgres, &dsn, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(postgres.one("copy", counts), "1 false", "{plan:#}");
    assert!(plan["leftOut"].to_string().contains("els: left empty"), "{plan:#}");
    assert!(plan["commands"].to_string().contains("REFRESH MATERIALIZED VIEW"), "{plan:#}");
}
