//! Whatever changes between pg_restore and the proof is found.

mod support;

use support::{Backup, Postgres, Server, differences, error, events, postgres, restore, said, sample, states};

#[test]
fn every_kind_of_difference_is_found_and_named() {
    let postgres = Postgres::start(postgres::usual_major());
    sample(&postgres);
    let backup = Backup::of(&postgres, "source", "-Z6");
    let object = backup.records.large_objects[1].oid;
    let server = Server::start(&backup);
    for (sql, name, how) in &differences(object) {
        let (work, wrapper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let script = wrapper.path().join("tamper.sql");
        std::fs::write(&script, sql).unwrap();
        let then = format!(
            "exec \"$PSQL\" -X -q -o /dev/null -v ON_ERROR_STOP=1 -d \"$DATABASE\" -f '{}' 2>/dev/null",
            script.display()
        );
        let bin = postgres.wrapped_pg_restore(wrapper.path(), None, &then);
        let output = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
            .args(["--prove", "--created-database", "copy", "--pg-bin"])
            .arg(bin)
            .output()
            .unwrap();
        assert_eq!(
            (error(&output).0.as_str(), output.status.code()),
            ("proof_differs", Some(3)),
            "{sql}: {}",
            said(&output)
        );
        let proof = events(&output).into_iter().find(|event| !event["proof"].is_null()).unwrap();
        let different = proof["proof"]["different"].to_string();
        assert!(different.contains(name) && different.contains(how), "{sql}: {different}");
        assert!(!states(&output).contains(&"completed".to_owned()));
        assert_eq!(postgres.databases(), ["postgres", "source"]);
        assert_eq!(server.reported().last().unwrap()["class"], "proof_differs");
    }
}

#[test]
fn a_hostile_annex_is_not_run() {
    let postgres = Postgres::start(postgres::usual_major());
    sample(&postgres);
    let honest = Backup::of(&postgres, "source", "-Z6");
    let backup = honest.with(|annex| {
        let table = annex.tables.iter_mut().find(|table| table.name == "orders").unwrap();
        table.columns = "(id) TO PROGRAM 'touch /tmp/walwarden-pwned'".into();
        annex.sequences[0].name = "x\"; DROP TABLE t; --".into();
    });
    let work = tempfile::tempdir().unwrap();
    let server = Server::start(&backup);
    let output = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
        .args(["--prove", "--created-database", "copy"])
        .output()
        .unwrap();
    assert_eq!(error(&output).0, "proof_differs", "{}", said(&output));
    assert!(said(&output).contains("not understood"));
    assert!(!std::path::Path::new("/tmp/walwarden-pwned").exists());
}

#[test]
fn what_cannot_be_compared_is_not_called_identical() {
    let postgres = Postgres::start(postgres::usual_major());
    sample(&postgres);
    let backup = Backup::of(&postgres, "source", "-Z6").with(|annex| {
        let table = annex.tables.iter_mut().find(|table| table.name == "orders").unwrap();
        table.load_target = "sample.orders; DROP TABLE x".into();
    });
    let work = tempfile::tempdir().unwrap();
    let server = Server::start(&backup);
    let output = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
        .args(["--prove", "--created-database", "copy"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("identical"));
    assert_eq!(server.reported().last().unwrap()["proof"]["result"], "notProven");
    assert_eq!(server.reported().last().unwrap()["proof"]["notCompared"], 1);
}
