//! What the CLI's tests share: a real Postgres, a backup made from it by pg_dump, and a control plane
//! and bucket that answer as the protocol says (and, where a test wants it, badly).

#![allow(dead_code)]

pub mod backup;
pub mod postgres;
pub mod proxy;
pub mod server;

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

pub use backup::Backup;
pub use postgres::Postgres;
pub use server::Server;

/// Waits for something that must come to pass.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary in an otherwise empty environment.
pub fn walwarden() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walwarden"));
    command.env_clear().env("HOME", "/nonexistent").stdin(std::process::Stdio::null());
    command
}

/// `walwarden restore` of a backup into a target, with a work directory of its own.
pub fn restore(server: &Server, backup: &Backup, target: &str, mode: &str, work: &std::path::Path) -> Command {
    let mut command = walwarden();
    command
        .env("WALWARDEN_TOKEN", server.token(mode))
        .env("WALWARDEN_BASE_URL", server.url())
        .env("WALWARDEN_TARGET", target)
        .env("WALWARDEN_WORK_DIR", work)
        .env("WALWARDEN_PG_BIN", postgres::all_bin_dirs())
        .args(["restore", "--json", "--mode", mode, "--manifest", &backup.manifest_hash]);
    command
}

/// The sample database, as `source`.
pub fn sample(postgres: &Postgres) {
    postgres.run("postgres", include_str!("../../../tests/sample/roles.sql"));
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", include_str!("../../../tests/sample/small.sql"));
}

/// What pg_dump says of the two databases' schemas must be the same.
pub fn same_schema(postgres: &Postgres, left: &str, right: &str) {
    let settings = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C -c xmlbinary=base64";
    let schema = |database: &str| {
        let output = postgres
            .client("pg_dump", database)
            .env("PGOPTIONS", settings)
            .args(["--schema-only", "--create"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap().replace(database, "DATABASE");
        text.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (left, right) = (schema(left), schema(right));
    let difference = left.iter().zip(&right).find(|(l, r)| l != r);
    assert!(difference.is_none() && left.len() == right.len(), "{difference:?}");
}

/// What can happen to the sample database, how the proof calls what differs then, and what it says of it. `object` is
/// one of its large objects.
pub fn differences(object: u32) -> Vec<(String, String, String)> {
    let large = format!("large object {object}");
    let (put, unlink) = (format!("SELECT lo_put({object}, 0, 'x')"), format!("SELECT lo_unlink({object})"));
    let all: [(&str, &str, &str); 10] = [
        ("UPDATE sample.orders SET note = 'changed' WHERE id = 7", "sample.orders", "not the same ones"),
        ("DELETE FROM sample.orders WHERE id = 7", "sample.orders", "1,499 rows instead of 1,500"),
        (
            "ALTER TABLE sample.orders DROP CONSTRAINT orders_pkey CASCADE; DROP INDEX sample.orders_note; ALTER TABLE sample.orders DROP CONSTRAINT orders_period_excl; INSERT INTO sample.orders SELECT * FROM sample.orders WHERE id = 7",
            "sample.orders",
            "1,501 rows instead of 1,500",
        ),
        (
            "SELECT setval('sample.unowned_seq', 703, false)",
            "sequence sample.unowned_seq",
            "is at 703 (not yet used) instead of 702 (not yet used)",
        ),
        (
            "SELECT setval('sample.unowned_seq', 702, true)",
            "sequence sample.unowned_seq",
            "is at 702 instead of 702 (not yet used)",
        ),
        (&put, &large, ""),
        (&unlink, &large, "is missing"),
        ("SELECT lo_from_bytea(4000000000, 'new')", "large object 4000000000", "is not in the backup"),
        ("CREATE TABLE public.planted (a int)", "public.planted", "is not in the backup"),
        ("DROP TABLE sample.orders CASCADE", "sample.orders", "is missing"),
    ];
    all.map(|(sql, name, how)| (sql.to_owned(), name.to_owned(), how.to_owned())).into()
}

/// The error a command ended with: its code, and its whole text.
pub fn error(output: &Output) -> (String, String) {
    let last = events(output).pop().expect("a last line");
    assert_eq!(last["exitCode"].as_i64(), output.status.code().map(i64::from), "{}", said(output));
    (last["error"]["code"].as_str().unwrap().to_owned(), last.to_string())
}

/// JSON lines of stdout.
pub fn events(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

/// The states among them.
pub fn states(output: &Output) -> Vec<String> {
    events(output).iter().filter_map(|event| event["state"].as_str().map(str::to_owned)).collect()
}

/// What was said, for a failing test's message.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
