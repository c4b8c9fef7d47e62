//! Tests that take their time or measure it: `cargo test -p walwarden-cli --test slow -- --ignored`.

mod support;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::{Backup, Postgres, Server, postgres, restore, said};

#[test]
#[ignore = "waits for half a minute"]
fn who_holds_a_lock_is_named_after_thirty_seconds() {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres.run("source", "CREATE TABLE t AS SELECT 1 AS a");
    let backup = Backup::of(&postgres, "source", "-Z6");
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let mut holder = postgres.client("psql", "source");
    holder
        .env("PGAPPNAME", "the holder")
        .args(["-c", "BEGIN; LOCK TABLE t; SELECT pg_sleep(34); COMMIT"])
        .stdout(Stdio::null());
    let mut holder = holder.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let output = restore(&server, &backup, &postgres.dsn("source"), "in_place", work.path())
        .args(["--confirm-destructive", "--prove"])
        .output()
        .unwrap();
    holder.wait().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("waited 30 s for a lock held by process") && said(&output).contains("the holder"),
        "{}",
        said(&output)
    );
}

#[test]
#[ignore = "measures"]
fn restoring_costs_little_more_than_curl_and_pg_restore() {
    let megabytes = std::env::var("MEGABYTES").unwrap_or_else(|_| "200".into());
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    postgres
        .run("source", &format!("SET shop.megabytes = {megabytes};\n{}", include_str!("../../tests/sample/shop.sql")));
    let backup = Backup::of(&postgres, "source", "-Z6");
    let server = Server::start(&backup);
    println!("artifact of {} bytes", backup.artifact.len());
    let (mut ours, mut theirs, mut proven) = (Vec::new(), Vec::new(), Vec::new());
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let timed = |command: &mut Command| {
            let begun = Instant::now();
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            begun.elapsed().as_secs_f64()
        };
        let drop_copy = || postgres.run("postgres", "DROP DATABASE copy");
        for (prove, times) in [(false, &mut ours), (true, &mut proven)] {
            let mut command = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", scratch.path());
            command.args(["--created-database", "copy", "--jobs", "2"]).args(prove.then_some("--prove"));
            times.push(timed(&mut command));
            drop_copy();
        }
        let file = scratch.path().join("file");
        let begun = Instant::now();
        postgres.run("postgres", "CREATE DATABASE copy TEMPLATE template0");
        timed(
            Command::new("curl")
                .args(["-sS", "-H", "x-amz-expected-bucket-owner: 123", "-o"])
                .arg(&file)
                .arg(format!("{}/bucket/artifact", server.url())),
        );
        timed(postgres.client("pg_restore", "copy").args(["--exit-on-error", "-j", "2", "-d", "copy"]).arg(&file));
        theirs.push(begun.elapsed().as_secs_f64());
        drop_copy();
    }
    println!("ours {ours:.1?}, with --prove {proven:.1?}, curl and pg_restore {theirs:.1?}");
}
