//! Backups that hold less than the usual: one without what its role could not read, and one of an archive that nobody
//! read. Both say so wherever they are looked at.

use std::process::Command;

use serde_json::json;
use walwarden_contract::exit::ExitCode;
use walwarden_tests::Postgres;

use crate::{
    restore::Restore,
    stack::{Stack, Verification},
};

/// What a role called `part_reader` may read of it, and what not: a table, and so its view, a key to it and a function
/// over it; the rows of another, which row security hides.
const SCHEMA: &str = "
    CREATE TABLE open (id integer PRIMARY KEY, secret integer);
    CREATE TABLE secret (id integer PRIMARY KEY);
    CREATE TABLE hidden (id integer PRIMARY KEY);
    INSERT INTO secret SELECT generate_series(1, 100);
    INSERT INTO open SELECT n, n FROM generate_series(1, 100) n;
    INSERT INTO hidden SELECT generate_series(1, 100);
    ALTER TABLE open ADD CONSTRAINT to_secret FOREIGN KEY (secret) REFERENCES secret;
    CREATE VIEW on_secret AS SELECT * FROM secret;
    CREATE FUNCTION of_secret() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM secret; END;
    COMMENT ON FUNCTION of_secret() IS 'goes with it';
    ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON open, hidden TO part_reader;";

#[test]
fn what_a_role_may_not_read_is_left_out_only_where_that_was_asked_for() {
    let stack = Stack::shared();
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    let password = postgres.create_login("part_reader", "").unwrap();
    postgres.create_database("partly").unwrap();
    postgres.run_sql("partly", SCHEMA).unwrap();
    let dsn = postgres.dsn_as("part_reader", &password, "partly");

    // Not asked for: the list, and no backup.
    let whole = json!({ "name": "whole", "dsn": dsn, "destinationId": stack.destination });
    let whole = crate::stack::text(&stack.api.post("/api/v1/databases", &whole).ok()["id"]);
    let failed = stack.trigger(&whole);
    let job = crate::patience::expect("the backup to fail", 60, || {
        Some(stack.backup(&failed)).filter(|job| job["final"] == true)
    });
    assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed_terminal"), &json!("source_permission")));

    let database = stack.add_database("partly", &dsn, json!({ "omitUnreadable": true }));
    let shown = stack.api.get(&format!("/api/v1/databases/{database}")).ok();
    let warnings = shown["check"]["warnings"].to_string();
    assert!(warnings.contains("left out, as omitUnreadable says: ") && warnings.contains("on_secret"), "{warnings}");
    let backup = stack.back_up(&database);
    assert_eq!(backup.job["artifact"]["omissions"], 5, "{:#}", backup.job);

    // The manifest counts them, the annex names them, and both verify.
    let bundle = stack.published_bundle(&backup);
    let evidence = Verification::of(&bundle, &stack.public_keys());
    evidence.with("artifact", &stack.artifact(&backup)).with("annex", &stack.annex(&backup)).passes();

    let issued = stack.issue(&backup, Some("partly_copy"));
    let arguments = ["--created-database", "partly_copy"];
    let planned = Restore::new(&stack.api.url, &issued, &postgres).args(&arguments).args(&["--plan", "--json"]).run();
    let plan = &planned.documents().pop().expect("a plan")["plan"];
    assert_eq!(plan["omissions"].as_array().map(Vec::len), Some(5), "{plan:#}");
    let left_out = plan["leftOut"].to_string();
    for name in ["to_secret", "of_secret()"] {
        assert!(left_out.contains(name), "{left_out}");
    }
    let restored = Restore::new(&stack.api.url, &issued, &postgres).args(&arguments).args(&["--prove"]).run();
    restored.is_identical();
    let counts = "SELECT (SELECT count(*) FROM open) || ' ' || (SELECT count(*) FROM hidden)";
    assert_eq!(postgres.query_one("partly_copy", counts).unwrap(), "100 0");
}

/// Names that mean something to pg_dump's patterns, with neighbours that such a pattern would take as well.
const CHOSEN: &str = r#"
    CREATE SCHEMA app;
    CREATE SCHEMA "od""d.*";
    CREATE SCHEMA odddx;
    CREATE SCHEMA "scr atch";
    CREATE TABLE "od""d.*".t (id integer);
    CREATE TABLE odddx.t (id integer);
    CREATE TABLE app.events (id integer PRIMARY KEY, payload text);
    CREATE TABLE app.notes (id integer PRIMARY KEY, event integer REFERENCES app.events);
    CREATE TABLE app.parted (id integer) PARTITION BY RANGE (id);
    CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE "scr atch".parted_2 PARTITION OF app.parted FOR VALUES FROM (100) TO (200);
    CREATE VIEW app.on_parted AS SELECT count(*) FROM app.parted;
    CREATE TABLE app."Ev?nts|a.b$" (id integer);
    CREATE TABLE app."evants" (id integer);
    CREATE FUNCTION "scr atch".touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON app.notes FOR EACH ROW EXECUTE FUNCTION "scr atch".touch();
    CREATE TABLE "scr atch".junk (id integer GENERATED ALWAYS AS IDENTITY);
    INSERT INTO app.events SELECT n, 'rows that are too many' FROM generate_series(1, 100) n;
    INSERT INTO app.notes SELECT n, n FROM generate_series(1, 100) n;
    INSERT INTO app.parted SELECT generate_series(1, 150);
    INSERT INTO app."Ev?nts|a.b$" VALUES (1);
    INSERT INTO app.evants VALUES (1);
    INSERT INTO "scr atch".junk SELECT FROM generate_series(1, 10);"#;

#[test]
fn what_a_selection_does_not_take_is_said_everywhere_and_the_rest_is_restored() {
    let stack = Stack::shared();
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    postgres.create_database("chosen").unwrap();
    postgres.run_sql("chosen", CHOSEN).unwrap();
    let selection = json!({
        "excludeSchemas": ["\"scr atch\"", "\"od\"\"d.*\""],
        "excludeTables": ["APP.Parted", "app.\"Ev?nts|a.b$\"", "app.not_there"],
        "excludeTableData": ["app.events"],
    });
    let database = stack.add_database("chosen", &postgres.dsn("chosen"), json!({ "selection": selection }));
    let shown = stack.api.get(&format!("/api/v1/databases/{database}")).ok();
    assert_eq!(shown["selection"]["excludeTables"][2], "app.parted", "in its one form: {shown:#}");
    let warnings: Vec<&str> =
        shown["check"]["warnings"].as_array().unwrap().iter().filter_map(|w| w.as_str()).collect();
    for said in [
        r#"not in the backup, as the selection says: schema "scr atch""#,
        r#"not in the backup, as the selection says: table "app"."parted""#,
        r#"not in the backup, as the selection says: rows of table "app"."events""#,
        "nothing is called as the selection says in excludeTables: app.not_there",
    ] {
        assert!(warnings.contains(&said), "{said} in {warnings:#?}");
    }
    assert!(
        warnings.iter().any(|w| w.starts_with(r#"nor what depends on that: view "app"."on_parted""#)),
        "{warnings:#?}"
    );

    let backup = stack.back_up(&database);
    let bundle = stack.published_bundle(&backup);
    let evidence = Verification::of(&bundle, &stack.public_keys());
    evidence.with("artifact", &stack.artifact(&backup)).with("annex", &stack.annex(&backup)).passes();
    let issued = stack.issue(&backup, Some("chosen_copy"));
    let planned = Restore::new(&stack.api.url, &issued, &postgres);
    let planned = planned.args(&["--created-database", "chosen_copy", "--plan", "--json"]).run();
    let plan = &planned.documents().pop().expect("a plan")["plan"];
    let omission = |o: &serde_json::Value| {
        let part = |name: &str| o[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}: {}", part("kind"), part("schema"), part("name"), part("reason"))
    };
    let mut omissions: Vec<String> = plan["omissions"].as_array().expect("omissions").iter().map(omission).collect();
    omissions.sort_unstable();
    let expected = [
        "FK CONSTRAINT app notes notes_event_fkey: dependsOnOmitted",
        r#"SCHEMA od"d.* od"d.*: excluded"#,
        "SCHEMA scr atch scr atch: excluded",
        "TABLE DATA app events: excluded",
        r"TABLE app Ev?nts|a.b$: excluded",
        "TABLE app parted: excluded",
        "TABLE app parted_1: excluded",
        "TRIGGER app notes touched: dependsOnOmitted",
        "VIEW app on_parted: dependsOnOmitted",
    ];
    assert_eq!(omissions, expected);
    assert_eq!(backup.job["artifact"]["omissions"], expected.len(), "{:#}", backup.job);

    let restore = Restore::new(&stack.api.url, &issued, &postgres);
    restore.args(&["--created-database", "chosen_copy", "--prove"]).run().is_identical();
    let there = "SELECT string_agg(relname || ' ' || relkind::text, ', ' ORDER BY relname COLLATE \"C\") FROM pg_class
                 WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_|^info') AND relkind <> 'i'";
    assert_eq!(postgres.query_one("chosen_copy", there).unwrap(), "evants r, events r, notes r, t r");
    let counts = "SELECT (SELECT count(*) FROM app.events) || ' ' || (SELECT count(*) FROM app.notes) || ' '
                  || (SELECT count(*) FROM pg_trigger WHERE tgname = 'touched') || ' '
                  || (SELECT count(*) FROM pg_constraint WHERE contype = 'f')";
    assert_eq!(postgres.query_one("chosen_copy", counts).unwrap(), "0 100 0 0");

    // In place, what the backup has not stays: tables, and rows of tables.
    postgres
        .run_sql("chosen", "DELETE FROM app.notes WHERE id > 3; INSERT INTO app.events VALUES (101, 'since')")
        .unwrap();
    let issued = stack.issue_in_place(&backup);
    let restore = || Restore::in_place(&stack.api.url, &issued, &postgres).connect_by(&postgres.dsn("chosen"));
    let planned = restore().args(&["--plan", "--json"]).run();
    let plan = &planned.documents().pop().expect("a plan")["plan"];
    let told = "whether it is as it was at the backup is not known: its rows are not in the backup";
    assert!(plan["notes"].to_string().contains(told), "{plan:#}");
    let restored = restore().args(&["--prove", "--json"]).run();
    assert_eq!(restored.said.code, 0, "{}", restored.said);
    let counts = "SELECT (SELECT count(*) FROM app.events) || ' ' || (SELECT count(*) FROM app.notes) || ' '
                  || (SELECT count(*) FROM app.parted) || ' ' || (SELECT count(*) FROM \"scr atch\".junk) || ' '
                  || (SELECT count(*) FROM pg_trigger WHERE tgname = 'touched') || ' '
                  || (SELECT count(*) FROM pg_constraint WHERE contype = 'f')";
    // And what needs that is restored, for it is there.
    assert_eq!(postgres.query_one("chosen", counts).unwrap(), "101 100 150 10 1 1");
}

#[test]
fn a_partition_without_rows_in_the_backup_is_taken_out_and_put_back() {
    let stack = Stack::shared();
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    postgres.create_database("parted").unwrap();
    let tables = "
        CREATE TABLE events (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE events_new PARTITION OF events FOR VALUES FROM (100) TO (200);
        CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (0) TO (100);
        CREATE TABLE log (id integer) PARTITION BY RANGE (id);
        CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100);
        CREATE TABLE notes (event integer REFERENCES events);
        INSERT INTO events SELECT generate_series(0, 199);
        INSERT INTO notes VALUES (150);
        INSERT INTO log SELECT generate_series(0, 99);";
    postgres.run_sql("parted", tables).unwrap();
    let selection = json!({ "selection": { "excludeTableData": ["public.events_old", "public.log_1"] } });
    let backup = stack.back_up(&stack.add_database("parted", &postgres.dsn("parted"), selection));
    postgres.run_sql("parted", "DELETE FROM events WHERE id > 170; DELETE FROM log WHERE id > 50").unwrap();
    let issued = stack.issue_in_place(&backup);
    let restore = || Restore::in_place(&stack.api.url, &issued, &postgres).connect_by(&postgres.dsn("parted"));
    let planned = restore().args(&["--plan", "--json"]).run();
    let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned()).expect("a plan");
    let remedy = plan["refusals"][0]["remedy"].as_str().expect("a refusal").split(';').next().expect("a statement");
    assert_eq!(plan["refusals"].as_array().map(Vec::len), Some(1), "the log stays whole: {plan:#}");
    assert_eq!(remedy, r#"ALTER TABLE "public"."events" DETACH PARTITION "public"."events_old""#);
    postgres.run_sql("parted", remedy).unwrap();
    restore().args(&["--prove"]).run().is_identical();
    let rows = "SELECT (SELECT count(*) FROM events) || ' ' || (SELECT count(*) FROM log) || ' '
                || (SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r')";
    assert_eq!(postgres.query_one("parted", rows).unwrap(), "200 51 3");
    // With its key, which is whole again.
    assert_eq!(postgres.query_one("parted", "SELECT bool_and(indisvalid) FROM pg_index").unwrap(), "t");
    assert_eq!(postgres.query_one("parted", "SELECT count(*) FROM notes").unwrap(), "1");
}

/// Extensions that a table whose rows are not in the backup uses, one that nothing of the kind does, one that needs
/// another, one with configuration.
const EXTENDED: &str = "
    CREATE SCHEMA extensions;
    CREATE EXTENSION citext SCHEMA extensions;
    CREATE EXTENSION pg_trgm SCHEMA extensions;
    CREATE EXTENSION hstore SCHEMA extensions;
    CREATE EXTENSION earthdistance CASCADE;
    CREATE EXTENSION walwarden_sample;
    INSERT INTO walwarden_sample.setting VALUES ('then', 'yes');
    CREATE TABLE users (email extensions.citext PRIMARY KEY, more extensions.hstore);
    CREATE TABLE log (line text, by extensions.citext);
    CREATE INDEX ON log USING gin (line extensions.gin_trgm_ops);
    INSERT INTO users VALUES ('One', 'a=>1'), ('two', NULL);
    INSERT INTO log VALUES ('line', 'ONE');";

#[test]
fn an_extension_that_what_stays_uses_is_left_alone() {
    let stack = Stack::shared();
    let postgres = Postgres::start(*Postgres::majors_available().last().expect("a Postgres")).unwrap();
    postgres.create_database("extended").unwrap();
    postgres.run_sql("extended", EXTENDED).unwrap();
    let settings =
        json!({ "selection": { "excludeTableData": ["public.log"] }, "compression": { "codec": "gzip", "level": 1 } });
    let backup = stack.back_up(&stack.add_database("extended", &postgres.dsn("extended"), settings));
    let since = "
        DELETE FROM users WHERE email = 'one';
        INSERT INTO log VALUES ('since', 'two');
        CREATE TABLE places (at earth);
        INSERT INTO places VALUES (ll_to_earth(1, 1));
        CREATE VIEW settings AS SELECT * FROM walwarden_sample.setting;
        UPDATE walwarden_sample.setting SET name = 'now';
        ALTER EXTENSION citext SET SCHEMA public;";
    postgres.run_sql("extended", since).unwrap();
    let oids =
        "SELECT string_agg(extname || ' ' || oid, ', ' ORDER BY extname) FROM pg_extension WHERE extname <> 'hstore'";
    let hstore = "SELECT oid FROM pg_extension WHERE extname = 'hstore'";
    let (before, replaced) =
        (postgres.query_one("extended", oids).unwrap(), postgres.query_one("extended", hstore).unwrap());

    let issued = stack.issue_in_place(&backup);
    let restore = || Restore::in_place(&stack.api.url, &issued, &postgres).connect_by(&postgres.dsn("extended"));
    let planned = restore().args(&["--plan", "--json"]).run();
    assert_eq!(planned.said.code, i32::from(ExitCode::UserError as u8), "{}", planned.said);
    let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned()).expect("a plan");
    let refusals: Vec<(&str, &str)> = plan["refusals"]
        .as_array()
        .expect("refusals")
        .iter()
        .map(|refusal| (refusal["code"].as_str().unwrap(), refusal["remedy"].as_str().unwrap()))
        .collect();
    assert_eq!(
        refusals,
        [
            ("extension_elsewhere", "ALTER EXTENSION \"citext\" SET SCHEMA \"extensions\";"),
            ("extension_data", "restore into a new database, or without it: --leave-out extension-data"),
        ],
        "{plan:#}"
    );
    postgres.run_sql("extended", refusals[0].1).unwrap();
    let restored = restore().args(&["--leave-out", "extension-data", "--prove"]).run();
    restored.is_identical();

    assert_eq!(postgres.query_one("extended", oids).unwrap(), before);
    assert_ne!(postgres.query_one("extended", hstore).unwrap(), replaced, "nothing that stays uses it");
    let rows = "SELECT (SELECT count(*) FROM users) || ' ' || (SELECT string_agg(by::text, ' ') FROM log) || ' '
                || (SELECT count(*) FROM places) || ' ' || (SELECT string_agg(name, ' ') FROM settings)";
    assert_eq!(postgres.query_one("extended", rows).unwrap(), "2 ONE two 1 now");

    // A new database can go without an extension that is named, and without its configuration.
    let issued = stack.issue(&backup, Some("plainer"));
    let restore = Restore::new(&stack.api.url, &issued, &postgres);
    let arguments = ["--created-database", "plainer", "--leave-out", "extension:walwarden_sample", "--prove"];
    restore.args(&arguments).run().is_identical();
    let left =
        "SELECT (SELECT count(*) FROM users) || ' ' || (SELECT count(*) FROM pg_extension WHERE extname ~ 'walwarden')";
    assert_eq!(postgres.query_one("plainer", left).unwrap(), "2 0");
}

#[test]
fn an_archive_that_nobody_read_is_kept_and_restored_and_never_called_identical() {
    let major = *Postgres::majors_available().first().expect("a Postgres");
    let stack = Stack::start_with(&[("WALWARDEN_OPAQUE_MAJORS", &major.to_string())]);
    let postgres = Postgres::start(major).unwrap();
    postgres.create_database("unread").unwrap();
    postgres
        .run_sql("unread", "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
        .unwrap();
    let database = stack.add_database("unread", &postgres.dsn("unread"), json!({}));
    let shown = stack.api.get(&format!("/api/v1/databases/{database}")).ok();
    assert!(shown["check"]["warnings"].to_string().contains("unread: no rows are counted"), "{shown:#}");
    let backup = stack.back_up(&database);
    let artifact = &backup.job["artifact"];
    assert_eq!((&artifact["compression"], &artifact["rows"]), (&json!("pg_dump"), &json!(0)));

    let bundle = stack.published_bundle(&backup);
    let evidence = Verification::of(&bundle, &stack.public_keys());
    let sentences = evidence.with("artifact", &stack.artifact(&backup)).with("annex", &stack.annex(&backup)).passes();
    assert!(
        sentences.contains("ARTIFACT: size and SHA-256 match; kept as pg_dump wrote it, its contents were not read")
    );
    assert!(!sentences.contains("equal the artifact's"), "{sentences}");
    let mut other = stack.artifact(&backup);
    *other.last_mut().expect("bytes") ^= 1;
    Verification::of(&bundle, &stack.public_keys()).with("artifact", &other).finds_bad("artifact");

    let issued = stack.issue(&backup, Some("unread_copy"));
    let restore = Restore::new(&stack.api.url, &issued, &postgres);
    let restored = restore.args(&["--created-database", "unread_copy", "--prove", "--json"]).run();
    let completed = restored.state("completed").unwrap_or_else(|| panic!("{}", restored.said));
    assert_eq!(completed["proof"]["result"], "notProven", "{completed:#}");
    assert!(!restored.said.stderr.contains("identical: "), "{}", restored.said);
    assert_eq!(restored.said.code, i32::from(ExitCode::Ok as u8), "{}", restored.said);
    assert_eq!(postgres.query_one("unread_copy", "SELECT count(*) FROM t").unwrap(), "1000");

    // Nothing of it can be dropped in place, for nobody knows what it would drop.
    let request = json!({ "backupJobId": backup.id, "mode": "in_place" });
    let answer = stack.api.post("/api/v1/restores", &request).json();
    let mut command = Command::new(walwarden_tests::bin("walwarden"));
    let work = tempfile::tempdir().unwrap();
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", work.path()).env("WALWARDEN_WORK_DIR", work.path());
    command.env("WALWARDEN_BASE_URL", &stack.api.url).env("WALWARDEN_TOKEN", answer["token"].as_str().unwrap());
    command.env("WALWARDEN_TARGET", postgres.dsn("unread")).env("WALWARDEN_PG_BIN", postgres.bin_dir());
    command.args(["restore", "--mode", "in_place", "--confirm-destructive", "--json", "--manifest", backup.manifest()]);
    let said = crate::program::run(&mut command);
    assert_eq!(said.code, i32::from(ExitCode::UserError as u8), "{said}");
    assert!(said.stdout().contains("opaque_in_place"), "{said}");
    assert_eq!(postgres.query_one("unread", "SELECT count(*) FROM t").unwrap(), "1000");
}
