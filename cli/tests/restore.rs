//! Whole restores with the binary, a real pg_restore and a real Postgres.

mod support;

use support::{Backup, Postgres, Server, postgres, restore, said, states};

const ROLES: &str = include_str!("../../tests/sample/roles.sql");
const SMALL: &str = include_str!("../../tests/sample/small.sql");

fn sample(postgres: &Postgres) {
    postgres.run("postgres", ROLES);
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", SMALL);
}

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
