//! Whole restores with the binary, a real pg_restore and a real Postgres.

mod support;

use support::{Backup, Postgres, Server, error, events, postgres, restore, said, same_schema, sample, states};

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
            assert_eq!(
                states(&output),
                ["inspected", "downloading", "verifying", "manifest_verified", "restoring", "finalizing", "completed"]
            );
            assert_eq!(
                server.reported_steps(),
                ["downloading", "verifying", "manifest_verified", "restoring", "finalizing", "restore"]
            );
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

#[test]
fn an_owner_that_is_no_superuser_restores_its_own_database() {
    let postgres = Postgres::start(postgres::usual_major());
    let dsn = postgres.login("owner", "CREATEDB", "postgres");
    postgres.run("postgres", "CREATE ROLE reader; CREATE DATABASE app OWNER owner TEMPLATE template0");
    postgres.run("app", "SET ROLE owner; CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) SELECT 'x' || n FROM generate_series(1, 1000) n; GRANT SELECT ON t TO reader; COMMENT ON DATABASE app IS 'it''s'; ALTER DATABASE app SET search_path = \"$user\", public; ALTER DATABASE app SET statement_timeout = '5s'; GRANT CONNECT ON DATABASE app TO reader; SELECT lo_from_bytea(0, 'large')");
    let backup = Backup::of(&postgres, "app", "-Z6");
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let output = restore(&server, &backup, &dsn, "new_database", work.path())
        .args(["--prove", "--created-database", "app_copy", "--refuse-superuser-target"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"));
    same_schema(&postgres, "app", "app_copy");
    assert_eq!(
        postgres.one("app_copy", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"),
        "owner"
    );
}

#[test]
fn in_place_works_on_every_major() {
    for major in postgres::majors() {
        let postgres = Postgres::start(major);
        sample(&postgres);
        let backup = Backup::of(&postgres, "source", compress(major));
        let before = postgres.one("source", "SELECT count(*) FROM pg_class");
        postgres.run("source", "DELETE FROM sample.orders; SELECT setval('sample.unowned_seq', 9999)");
        for jobs in [&[][..], &["--jobs", "3"]] {
            let server = Server::start(&backup);
            let work = tempfile::tempdir().unwrap();
            let mut command = restore(&server, &backup, &postgres.dsn("source"), "in_place", work.path());
            let output = command.args(["--confirm-destructive", "--prove"]).args(jobs).output().unwrap();
            assert!(output.status.success(), "{major}: {}", said(&output));
            assert_eq!(server.reported().last().unwrap()["proof"]["result"], "identical", "{major}: {}", said(&output));
            assert_eq!(postgres.one("source", "SELECT count(*) FROM pg_class"), before);
        }
    }
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
    let plan = restore(&server, &backup, &target, "in_place", work.path())
        .args(["--confirm-destructive", "--plan"])
        .output()
        .unwrap();
    assert!(plan.status.success() && said(&plan).contains("public.mine"), "{}", said(&plan));
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 0);
    let output = restore(&server, &backup, &target, "in_place", work.path())
        .args(["--confirm-destructive", "--prove"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(postgres.one("source", "SELECT kept FROM public.mine"), "1");

    // A view made since keeps its table from being dropped: said beforehand.
    postgres.run("source", "CREATE VIEW public.since AS SELECT * FROM sample.orders");
    let output =
        restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    let (code, text) = error(&output);
    assert_eq!((code.as_str(), output.status.code()), ("plan_refused", Some(2)));
    assert!(text.contains("public.since") && text.contains("DROP VIEW"), "{text}");

    // Whatever else keeps something from being dropped: said, too.
    postgres.run(
        "source",
        "DROP VIEW public.since; CREATE TABLE public.uses (m sample.mood); DELETE FROM sample.orders WHERE id > 10",
    );
    let output =
        restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    let (code, text) = error(&output);
    assert_eq!(code, "plan_refused");
    assert!(text.contains("column m of public.uses is not in the backup and depends on sample.mood"), "{text}");
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 1);

    // What only pg_restore finds out changes nothing.
    postgres.run("source", "DROP TABLE public.uses; CREATE CAST (sample.mood AS text) WITH INOUT");
    let output =
        restore(&server, &backup, &target, "in_place", work.path()).arg("--confirm-destructive").output().unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_failed", Some(3)), "{}", said(&output));
    assert_eq!(postgres.one("source", "SELECT count(*) FROM sample.orders"), "10");
    assert_eq!(server.reported().last().unwrap()["class"], "target_failed");
}

/// What has been made since the backup: some of it in the way, some of it not, some of it gone with its table.
#[test]
fn what_was_made_since_stays_goes_or_is_dropped_when_that_is_said() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source");
    postgres.run(
        "source",
        "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a', 'b');
         CREATE TABLE app.t (id integer PRIMARY KEY, m app.mood, old text);
         CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TABLE app.parted (id integer) PARTITION BY RANGE (id);
         CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (10);
         INSERT INTO app.t SELECT n, 'a' FROM generate_series(1, 10) n; INSERT INTO app.parted VALUES (1)",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run(
        "source",
        "CREATE VIEW app.since AS SELECT id, m FROM app.t; CREATE VIEW public.on_since AS SELECT * FROM app.since;
         CREATE MATERIALIZED VIEW public.stored AS SELECT * FROM app.t;
         CREATE TABLE app.new (id integer, t integer REFERENCES app.t, kept text DEFAULT 'x');
         CREATE TRIGGER touched BEFORE UPDATE ON app.new FOR EACH ROW EXECUTE FUNCTION app.touch();
         CREATE TRIGGER goes BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.touch();
         CREATE FUNCTION app.of(app.t) RETURNS integer LANGUAGE sql AS 'SELECT $1.id';
         CREATE FUNCTION app.harmless() RETURNS integer LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE app.parted_2 PARTITION OF app.parted FOR VALUES FROM (10) TO (20); INSERT INTO app.parted VALUES (11);
         ALTER TABLE app.t ADD nick text; ALTER TABLE app.t RENAME old TO older;
         INSERT INTO app.new VALUES (1, 3); DELETE FROM app.t WHERE id > 5; INSERT INTO app.t VALUES (77, 'b')",
    );
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let target = postgres.dsn("source");
    let run = |more: &[&str]| {
        let mut command = restore(&server, &backup, &target, "in_place", work.path());
        command.arg("--confirm-destructive").args(more).output().unwrap()
    };
    let before =
        postgres.one("source", "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE oid >= 16384");
    let refused = run(&[]);
    assert_eq!((error(&refused).0.as_str(), refused.status.code()), ("plan_refused", Some(2)), "{}", said(&refused));
    let text = said(&refused);
    for name in [
        "view app.since",
        "view public.on_since",
        "materialized view public.stored",
        "foreign key new_t_fkey of app.new",
        "trigger touched of app.new",
        "function app.of(app.t)",
        "--drop-dependents",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!text.contains("harmless() is not") && !text.contains("the trigger goes"), "{text}");
    assert!(text.contains("trigger goes of app.t"), "it is told that it goes with its table: {text}");
    assert_eq!(
        before,
        postgres.one("source", "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE oid >= 16384")
    );

    let plan = run(&["--drop-dependents", "--plan"]);
    assert!(plan.status.success(), "{}", said(&plan));
    let plan = &events(&plan).pop().unwrap()["plan"];
    let definitions: Vec<&str> =
        plan["dropped"].as_array().unwrap().iter().filter_map(|d| d["definition"].as_str()).collect();
    assert_eq!(definitions.len(), 6, "{plan:#}");
    let notes = plan["notes"].to_string();
    for note in [
        "not in the backup, and dropped with the table that they are partitions of: app.parted_2",
        "not in the backup, stay as they are: app.new, function app.harmless()\"",
        "columns that the backup has not, lost with their contents: app.t.older, app.t.nick",
        "columns that are gone or renamed, made again: app.t.old",
    ] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 0);

    let restored = run(&["--drop-dependents", "--prove"]);
    assert!(restored.status.success(), "{}", said(&restored));
    assert_eq!(server.reported().last().unwrap()["proof"]["result"], "identical", "{}", said(&restored));
    let now = "SELECT (SELECT count(*) FROM app.t) || ' ' || (SELECT count(*) FROM app.parted) || ' ' || app.harmless() || ' '
                   || (SELECT kept FROM app.new) || ' ' || count(*) FROM pg_class
                WHERE relname IN ('since', 'on_since', 'stored', 'parted_2')";
    assert_eq!(postgres.one("source", now), "10 1 1 x 0");
    // And made again by what the plan said, views in the order in which they depend on each other.
    for definition in definitions.iter().rev().filter(|definition| !definition.contains("stored")) {
        postgres.run("source", definition);
    }
}

#[test]
fn newer_archives_do_not_go_into_older_servers() {
    let (Some(_), Some(_)) = (postgres::bin_dir(17), postgres::bin_dir(16)) else { return };
    let (newer, older) = (Postgres::start(17), Postgres::start(16));
    newer.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    older.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    let work = tempfile::tempdir().unwrap();
    let backup = Backup::of(&newer, "source", "-Z6");
    let output = restore(&Server::start(&backup), &backup, &older.dsn("postgres"), "new_database", work.path())
        .args(["--created-database", "x"])
        .output()
        .unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("no_pg_restore", Some(2)), "{}", said(&output));
    // The other way round works.
    let backup = Backup::of(&older, "source", "-Z6");
    let output = restore(&Server::start(&backup), &backup, &newer.dsn("postgres"), "new_database", work.path())
        .args(["--created-database", "x", "--prove"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn partitions_that_load_through_their_root_compare_as_a_sum() {
    let postgres = Postgres::start(*postgres::majors().last().unwrap());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run(
        "source",
        "CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
         CREATE TABLE by_colour (id int, c colour, \"n\"\"q\" text) PARTITION BY HASH (c);
         CREATE TABLE by_colour_0 PARTITION OF by_colour FOR VALUES WITH (MODULUS 3, REMAINDER 0);
         CREATE TABLE by_colour_1 PARTITION OF by_colour FOR VALUES WITH (MODULUS 3, REMAINDER 1);
         CREATE TABLE by_colour_2 PARTITION OF by_colour FOR VALUES WITH (MODULUS 3, REMAINDER 2);
         INSERT INTO by_colour SELECT n, (enum_range(NULL::colour))[1 + n % 3], 'v' || n FROM generate_series(1, 300) n;
         CREATE TABLE by_range (id int) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF by_range FOR VALUES FROM (0) TO (100);
         CREATE TABLE high (other text, id int); ALTER TABLE high DROP COLUMN other;
         ALTER TABLE by_range ATTACH PARTITION high FOR VALUES FROM (100) TO (200);
         INSERT INTO by_range SELECT n FROM generate_series(0, 199) n",
    );
    for more in [&[][..], &["--load-via-partition-root"]] {
        let backup = Backup::of_with(&postgres, "source", "-Z6", more);
        let moved = backup.records.tables.iter().filter(|table| !table.load_target.ends_with(&table.name)).count();
        assert_eq!(moved, if more.is_empty() { 3 } else { 5 });
        let server = Server::start(&backup);
        let work = tempfile::tempdir().unwrap();
        let output = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
            .args(["--prove", "--created-database", "copy"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let report = server.reported().pop().unwrap();
        assert_eq!(
            (report["proof"]["result"].as_str(), report["proof"]["tables"].as_u64(), report["proof"]["rows"].as_u64()),
            (Some("identical"), Some(5), Some(500)),
            "{}",
            said(&output)
        );
        postgres.run("postgres", "DROP DATABASE copy");
    }
}

#[test]
fn encrypted_targets_are_checked_as_far_as_sslmode_says() {
    if !std::path::Path::new("/usr/bin/openssl").exists() {
        return;
    }
    let postgres = Postgres::start(postgres::usual_major());
    let certificate = postgres.with_tls();
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", "CREATE TABLE t AS SELECT 1 AS a");
    let dsn = postgres.login("owner", "SUPERUSER", "postgres");
    let backup = Backup::of(&postgres, "source", "-Z6");
    let server = Server::start(&backup);
    let file = percent_encoding::utf8_percent_encode(certificate.to_str().unwrap(), percent_encoding::NON_ALPHANUMERIC)
        .to_string();
    for (query, code) in [
        ("sslmode=require".to_owned(), None),
        (format!("sslmode=verify-ca&sslrootcert={file}"), None),
        // The certificate is another host's.
        (format!("sslmode=verify-full&sslrootcert={file}"), Some("target_tls_failed")),
        ("sslmode=verify-ca&sslrootcert=system".to_owned(), Some("target_tls_failed")),
        ("sslmode=verify-ca&sslrootcert=%2Fnowhere".to_owned(), Some("sslrootcert_invalid")),
    ] {
        let work = tempfile::tempdir().unwrap();
        let mut command = restore(&server, &backup, &format!("{dsn}?{query}"), "new_database", work.path());
        let output = command.args(["--created-database", "copy", "--prove"]).output().unwrap();
        match code {
            None => {
                assert!(output.status.success(), "{query}: {}", said(&output));
                postgres.run("postgres", "DROP DATABASE copy");
            }
            Some(code) => assert_eq!(
                (error(&output).0.as_str(), output.status.code()),
                (code, Some(2)),
                "{query}: {}",
                said(&output)
            ),
        }
    }
}

#[test]
fn more_tables_than_the_target_can_lock_at_once() {
    let source = Postgres::start_with(postgres::usual_major(), &["max_locks_per_transaction=256"]);
    source.run("postgres", "CREATE DATABASE source TEMPLATE template0; CREATE ROLE app; CREATE ROLE other");
    let tables = "DO $$ BEGIN FOR n IN 1..1500 LOOP
            EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, name text)', n);
            EXECUTE format('INSERT INTO t%s VALUES (%s, ''x'')', n, n);
            EXECUTE format('ALTER TABLE t%s OWNER TO %s', n, CASE WHEN n = 1 THEN 'other' ELSE 'app' END);
        END LOOP; END $$";
    source.run("source", "GRANT CREATE ON SCHEMA public TO app, other");
    source.run("source", tables);
    let backup = Backup::of(&source, "source", "-Z6");
    let server = Server::start(&backup);
    let target = Postgres::start_with(postgres::usual_major(), &["max_locks_per_transaction=10", "max_connections=20"]);
    let plain = target.login("plain", "CREATEDB", "postgres");
    target.run("postgres", "CREATE ROLE app; CREATE ROLE other; GRANT app TO plain");
    let work = tempfile::tempdir().unwrap();

    // Some tables can be given to their owner, afterwards, and one not. Each is proven for itself.
    let output = restore(&server, &backup, &plain, "new_database", work.path())
        .args(["--created-database", "copy", "--prove"])
        .output()
        .unwrap();
    assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    let owners = "SELECT string_agg(o, ', ') FROM (SELECT tableowner || ' ' || count(*) AS o FROM pg_tables
                   WHERE schemaname = 'public' GROUP BY tableowner ORDER BY 1) owners";
    assert_eq!(target.one("copy", owners), "app 1499, plain 1");

    let output = restore(&server, &backup, &target.dsn("copy"), "in_place", work.path())
        .arg("--confirm-destructive")
        .output()
        .unwrap();
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("plan_refused", Some(2)), "{}", said(&output));
    let plan = events(&output).into_iter().find(|event| !event["plan"].is_null()).unwrap();
    let refusal = &plan["plan"]["refusals"][0];
    assert_eq!(refusal["code"], "too_few_locks", "{plan:#}");
    assert!(refusal["remedy"].as_str().unwrap().contains("set max_locks_per_transaction to "), "{refusal:#}");
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_materialized_view_over_a_table_with_forced_row_security() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE ROLE app; CREATE DATABASE source OWNER app TEMPLATE template0");
    postgres.run(
        "source",
        "SET ROLE app; CREATE TABLE t AS SELECT generate_series(1, 10) AS a;
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE POLICY part ON t USING (a > 4); CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let run = |more: &[&str]| {
        restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
            .args(["--created-database", "copy", "--prove"])
            .args(more)
            .output()
            .unwrap()
    };
    // Stock pg_restore refuses to compute it; what goes without it is named.
    let output = run(&[]);
    assert_eq!((error(&output).0.as_str(), output.status.code()), ("target_failed", Some(3)), "{}", said(&output));
    assert!(said(&output).contains("--leave-out materialized-view-data"), "{}", said(&output));
    let output = run(&["--leave-out", "materialized-view-data"]);
    assert!(output.status.success() && said(&output).contains("identical"), "{}", said(&output));
    postgres.run("copy", "REFRESH MATERIALIZED VIEW m");
    let counts = "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM m)";
    assert_eq!((postgres.one("source", counts), postgres.one("copy", counts)), ("10 6".into(), "10 6".into()));
}

/// What a table got since, and a generated column that nothing but its table could be dropped with.
#[test]
fn what_goes_with_a_table_is_named() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run(
        "source",
        "CREATE TABLE t (a int); CREATE INDEX kept ON t (a); CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE TABLE u (a int); ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY kept ON u USING (true);
         CREATE PUBLICATION kept FOR TABLE t",
    );
    let backup = Backup::of(&postgres, "source", "-Z6");
    postgres.run(
        "source",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY strict ON t USING (false); CREATE INDEX since ON t (a);
         CREATE PUBLICATION since FOR TABLE t; CREATE TABLE made (d int, e int GENERATED ALWAYS AS (f(1)) STORED)",
    );
    let (server, work) = (Server::start(&backup), tempfile::tempdir().unwrap());
    let run = |arguments: &[&str]| {
        restore(&server, &backup, &postgres.dsn("source"), "in_place", work.path())
            .args(["--confirm-destructive"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let output = run(&["--drop-dependents", "--plan"]);
    let plan = events(&output).into_iter().find(|event| !event["plan"].is_null()).unwrap()["plan"].clone();
    let refusals = plan["refusals"].to_string();
    assert!(
        refusals.contains("the column e of public.made is not in the backup and depends on public.f(integer)"),
        "{plan:#}"
    );
    let notes = plan["notes"].to_string();
    let lost = "lost with the table that is loaded again: index since of public.t, policy strict of public.t, public.t in the publication since, row security of public.t\"";
    assert!(notes.contains(lost), "{plan:#}");
    postgres.run("source", "DROP TABLE made");
    assert!(run(&[]).status.success());
}
