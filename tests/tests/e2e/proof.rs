//! `--prove` finds what it must: the restored database is altered between pg_restore's last step and the proof.
//!
//! An event trigger in the target's `template0` does it, so that nobody races: it fires in pg_restore's own session
//! when the materialized views, which come last, are filled.

use serde_json::json;
use walwarden_tests::{Postgres, Sample};

use crate::{
    restore::{Restore, roles_and_databases},
    stack::Stack,
};

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
    ("sequence_moved", "SELECT setval('sample.bigint_seq', last_value + 1) FROM sample.bigint_seq", "sequence sample.bigint_seq"),
    ("sequence_called", "SELECT setval('sample.never_called_seq', 42, true)", "sequence sample.never_called_seq"),
    ("large_object_altered", "SELECT lo_put(900001, 250000, '\\x00')", "large object 900001"),
    ("large_object_missing", "SELECT lo_unlink(900003)", "large object 900003"),
];

#[test]
fn every_alteration_is_found() {
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
        let finished = restore.is_refused(3, unit);
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
    assert_eq!(target.query_one("source", "SELECT count(*) FROM pg_event_trigger WHERE evtname = 'sabotage'").unwrap(), "1");
}
