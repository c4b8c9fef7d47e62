//! What the CLI's tests share: a real Postgres, a backup made from it by pg_dump, and a control plane
//! and bucket that answer as the protocol says (and, where a test wants it, badly).

#![allow(dead_code)]

pub mod backup;
pub mod postgres;
pub mod server;

use std::process::{Command, Output};

use serde_json::Value;

pub use backup::Backup;
pub use postgres::Postgres;
pub use server::Server;

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
