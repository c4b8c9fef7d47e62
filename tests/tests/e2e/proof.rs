//! `--prove` and `walwarden prove` find what they must in a restored database that was altered.

use std::process::Command;

use serde_json::json;
use walwarden_tests::{Postgres, Sample, bin};

use crate::{
    program,
    restore::{Finished, Restore, roles_and_databases},
    stack::{BUCKET, Stack},
};

/// Alters a database between pg_restore's last step and the proof, without a race: in the target's `template0`, it fires
/// in pg_restore's own session when the materialized views, which come last, are filled.
const SABOTEUR: &str = r#"
CREATE FUNCTION pg_catalog.sabotage() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('sabotage.statement', true) <> '' AND current_setting('sabotage.done', true) IS DISTINCT FROM 'yes' THEN
        PERFORM set_config('sabotage.done', 'yes', false);
        SET LOCAL session_replication_role = replica;
        EXECUTE current_setting('sabotage.statement');
    END IF;
END
$$;
CREATE EVENT TRIGGER sabotage ON ddl_command_end WHEN TAG IN ('REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION pg_catalog.sabotage();
"#;

/// Who does what, and what the proof must call it.
const ALTERATIONS: &[(&str, &str, &str)] = &[
    ("row_changed", "UPDATE sample.hard_rows SET body = body || ' ' WHERE id = 12", "sample.hard_rows"),
    ("row_missing", "DELETE FROM sample.every_type WHERE id = 2", "sample.every_type"),
    ("row_doubled", "INSERT INTO sample.equal_rows VALUES (1, 'same')", "sample.equal_rows"),
    (
        "row_in_place_of_its_like",
        "DELETE FROM sample.equal_rows WHERE a IS NULL; INSERT INTO sample.equal_rows VALUES (1, 'same')",
        "sample.equal_rows",
    ),
    ("row_of_no_columns_missing", "DELETE FROM sample.zero_columns WHERE ctid = '(0,1)'", "sample.zero_columns"),
    (
        "sequence_moved",
        "SELECT setval('sample.bigint_seq', last_value + 1) FROM sample.bigint_seq",
        "sequence sample.bigint_seq",
    ),
    ("sequence_called", "SELECT setval('sample.never_called_seq', 42, true)", "sequence sample.never_called_seq"),
    ("large_object_altered", "SELECT lo_put(900001, 250000, '\\x00')", "large object 900001"),
    ("large_object_missing", "SELECT lo_unlink(900003)", "large object 900003"),
    ("large_object_too_many", "SELECT lo_from_bytea(900099, 'x')", "large object 900099"),
    ("row_behind_row_security", "UPDATE sample.forced SET id = 4 WHERE id = 3", "sample.forced"),
    ("row_of_a_partition", "UPDATE sample.by_list SET body = 'x' WHERE id = 7", "sample.by_list_rest"),
    (
        "row_of_a_table_that_is_loaded_through_its_root",
        "UPDATE sample.by_hash_of_enum SET body = 'x' WHERE id = 7",
        "sample.by_hash_of_enum (sum of 3 partitions)",
    ),
    ("table_too_many", "CREATE TABLE sample.extra ()", "sample.extra"),
];

#[test]
fn a_restore_that_was_altered_is_not_completed() {
    let stack = Stack::shared();
    let major = *Postgres::majors_available().first().expect("a Postgres");
    let (source, target) = (Postgres::start(major).unwrap(), Postgres::start(major).unwrap());
    Sample::small().create(&source, "source").unwrap();
    target.run_sql("postgres", Sample::roles_sql()).unwrap();
    target.run_sql("postgres", "ALTER DATABASE template0 ALLOW_CONNECTIONS true").unwrap();
    target.run_sql("template0", SABOTEUR).unwrap();
    target.run_sql("postgres", "ALTER DATABASE template0 ALLOW_CONNECTIONS false").unwrap();
    let backup = stack.back_up(&stack.add_database("sample", &source.dsn("source"), json!({})));

    for (name, statement, unit) in ALTERATIONS {
        let password = target.create_login(name, "SUPERUSER").unwrap();
        let setting = format!("ALTER ROLE {name} SET sabotage.statement = $sql${statement}$sql$");
        target.run_sql("postgres", &setting).unwrap();
        let issued = stack.issue(&backup, None);
        let restore = Restore::new(&stack.api.url, &issued, &target).connect_as(name, &password).args(&["--prove"]);
        let finished = restore.must_be_refused(3, unit);
        let proof = finished.documents().into_iter().find(|document| document["verdict"] == "different");
        let proof = proof.unwrap_or_else(|| panic!("{name}: no verdict: {}", finished.said))["proof"].clone();
        let different = proof["different"].as_array().unwrap();
        assert!(different.len() == 1 && different[0][0] == *unit, "{name}: {proof:#}");
        assert!(!finished.said.stderr.contains("identical: "), "{name}: {}", finished.said);
        let job = stack.restore_job(&issued);
        let ended = (&job["state"], &job["failure"]["class"], &job["receiptHash"]);
        assert_eq!(ended, (&json!("failed_terminal"), &json!("proof_differs"), &json!(null)), "{name}");
    }

    // The same way without an alteration: it is not the trigger that is found.
    let issued = stack.issue(&backup, None);
    Restore::new(&stack.api.url, &issued, &target).args(&["--prove"]).run().is_identical();
    assert!(roles_and_databases(&target).contains("database source "));
    assert_eq!(
        target.query_one("source", "SELECT count(*) FROM pg_event_trigger WHERE evtname = 'sabotage'").unwrap(),
        "1"
    );
}

/// The same, long after the restore: a database that was whole is altered by SQL, and proven again from the bucket.
#[test]
fn a_database_that_was_altered_no_longer_proves() {
    let stack = Stack::shared();
    let major = *Postgres::majors_available().last().expect("a Postgres");
    let postgres = Postgres::start(major).unwrap();
    Sample::small().create(&postgres, "source").unwrap();
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 } });
    let backup = stack.back_up(&stack.add_database("sample", &postgres.dsn("source"), gzip));
    let issued = stack.issue(&backup, Some("copy"));
    Restore::new(&stack.api.url, &issued, &postgres).args(&["--created-database", "copy"]).run().said.succeeded();

    let files = tempfile::tempdir().unwrap();
    let manifest = stack.seaweed.get(BUCKET, &format!("{}.manifest.json", backup.stem()), None).unwrap();
    std::fs::write(files.path().join("envelope"), manifest).unwrap();
    std::fs::write(files.path().join("annex"), stack.annex(&backup)).unwrap();
    std::fs::write(files.path().join("pubkey"), stack.public_keys()).unwrap();
    let prove = |database: &str| {
        let mut command = Command::new(bin("walwarden"));
        command.env_clear().env("WALWARDEN_TARGET", postgres.dsn(database)).arg("prove");
        for file in ["envelope", "annex", "pubkey"] {
            command.arg(format!("--{file}")).arg(files.path().join(file));
        }
        Finished { said: program::run(&mut command), left: Vec::new() }
    };
    assert_eq!(prove("copy").said.succeeded().stderr.matches("identical: ").count(), 1);
    assert_eq!(prove("source").said.succeeded().stderr.matches("identical: ").count(), 1);
    for (name, statement, unit) in ALTERATIONS {
        postgres.run_sql("postgres", "CREATE DATABASE altered TEMPLATE copy").unwrap();
        let alone = format!("SET session_replication_role = replica; {statement}");
        postgres.run_sql("altered", &alone).unwrap();
        let finished = prove("altered");
        finished.failed(3, unit);
        assert!(!finished.said.stderr.contains("identical: "), "{name}: {}", finished.said);
        postgres.run_sql("postgres", "DROP DATABASE altered").unwrap();
    }
}
