//! Restores that must not happen: each ends with the right exit code, one clear line and a hint, and nothing of it is
//! seen on the target.

use std::{sync::Barrier, thread};

use serde_json::json;
use walwarden_contract::{
    exit::ExitCode,
    token::{self, RestorePurpose, RestoreTokenPayload},
};
use walwarden_tests::Postgres;

use crate::{
    proxy::{Fault, Kind, Proxy},
    restore::{Issued, Restore, roles_and_databases},
    stack::{Backup, Stack},
};

const RETRYABLE: u8 = ExitCode::Retryable as u8;
const USER_ERROR: u8 = ExitCode::UserError as u8;
const TERMINAL: u8 = ExitCode::Terminal as u8;

/// A cluster with a small database: some megabytes that hardly compress, and what makes an annex of some kilobytes.
fn cluster() -> Postgres {
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    postgres.create_database("ledger").unwrap();
    postgres
        .run_sql(
            "ledger",
            "SELECT format('CREATE TABLE t%s (id integer PRIMARY KEY, body text)', n) FROM generate_series(1, 40) AS n \\gexec
             INSERT INTO t1 SELECT n, md5(n::text) || md5((n * 7)::text) FROM generate_series(1, 30000) AS n;",
        )
        .unwrap();
    postgres
}

fn back_up(stack: &Stack, postgres: &Postgres) -> Backup {
    stack.back_up(&stack.add_database("ledger", &postgres.dsn("ledger"), json!({})))
}

/// A token that says something else; its MAC stays as it was.
fn forged(issued: &Issued, change: impl FnOnce(&mut RestoreTokenPayload)) -> String {
    let parts = token::split(&issued.token).unwrap();
    let mut payload = parts.payload;
    let before = payload.clone();
    change(&mut payload);
    assert_ne!(payload, before, "nothing was changed");
    token::join(&payload.encode(), &parts.mac)
}

#[test]
fn wrong_forged_swapped_and_used_tokens() {
    let stack = Stack::shared();
    let postgres = cluster();
    let (one, other) = (back_up(&stack, &postgres), back_up(&stack, &postgres));
    let issued = stack.issue(&one, Some("copy"));
    let swapped = stack.issue(&other, Some("copy"));
    let restore =
        |issued: &Issued| Restore::new(&stack.api.url, issued, &postgres).args(&["--created-database", "copy"]);
    let with_token = |token: String| restore(&Issued { token, ..issued.clone() });

    // Seen by the CLI itself.
    restore(&Issued { manifest: "0".repeat(64), ..issued.clone() }).must_be_refused(USER_ERROR, "another backup");
    with_token(swapped.token.clone()).must_be_refused(USER_ERROR, "another backup");
    with_token(stack.api.token.clone()).must_be_refused(USER_ERROR, "does not hold a restore token");
    let forged = |change: fn(&mut RestoreTokenPayload)| forged(&issued, change);
    with_token(forged(|payload| payload.exp = payload.iat - 1)).must_be_refused(USER_ERROR, "expired");

    // Seen by the server, whatever was changed.
    with_token(forged(|payload| payload.exp += 3600)).must_be_refused(USER_ERROR, "not genuine");
    with_token(forged(|payload| payload.purpose = RestorePurpose::Drill)).must_be_refused(USER_ERROR, "not genuine");
    with_token(forged(|payload| payload.kid = "another".into())).must_be_refused(USER_ERROR, "not genuine");
    with_token(forged(|payload| payload.aud = "another".into())).must_be_refused(USER_ERROR, "another server");
    let (payload, _) = issued.token.split_once('.').unwrap();
    let (_, mac) = swapped.token.split_once('.').unwrap();
    with_token(format!("{payload}.{mac}")).must_be_refused(USER_ERROR, "not genuine");
    assert_eq!(stack.restore_job(&issued)["state"], "created", "a refused token was spent");

    // Nothing of that kept the token from being good, once.
    restore(&issued).args(&["--prove"]).run().is_identical();
    restore(&issued).must_be_refused(USER_ERROR, "already used");
    Restore::new(&stack.api.url, &issued, &postgres)
        .args(&["--created-database", "third"])
        .must_be_refused(USER_ERROR, "already used");
    let job = stack.restore_job(&issued);
    assert_eq!((&job["state"], &job["proof"]), (&json!("completed"), &json!("identical")));

    // A name that is taken is said before the token is spent.
    let taken = restore(&swapped).must_be_refused(USER_ERROR, "cannot be restored into");
    assert!(taken.said.stderr.contains("a database called \"copy\" exists"), "{}", taken.said);
    assert_eq!(stack.restore_job(&swapped)["state"], "created");
}

#[test]
fn one_token_two_restores_at_once() {
    let stack = Stack::shared();
    let postgres = cluster();
    let backup = back_up(&stack, &postgres);
    let issued = stack.issue(&backup, None);
    let before = roles_and_databases(&postgres);
    let start = Barrier::new(2);
    let run = |name: &'static str| {
        let restore = Restore::new(&stack.api.url, &issued, &postgres).args(&["--prove", "--created-database", name]);
        start.wait();
        (name, restore.run())
    };
    let both = thread::scope(|scope| {
        ["copy_one", "copy_two"].map(|name| scope.spawn(move || run(name))).map(|t| t.join().unwrap())
    });
    let (won, lost): (Vec<_>, Vec<_>) = both.iter().partition(|(_, finished)| finished.said.code == 0);
    assert_eq!(won.len(), 1, "{}\n{}", both[0].1.said, both[1].1.said);
    won[0].1.is_identical();
    lost[0].1.failed(USER_ERROR, "already used");
    let added = format!("database {} ", won[0].0);
    assert_eq!(roles_and_databases(&postgres).replace(&added, ""), before);
}

#[test]
fn what_is_corrupted_on_the_way_is_found() {
    let stack = Stack::shared();
    let postgres = cluster();
    let bucket = Proxy::before(&stack.seaweed.endpoint());
    let destination = stack.add_destination(&bucket.url());
    let database = stack.add_database("ledger", &postgres.dsn("ledger"), json!({ "destinationId": destination }));
    let backup = stack.back_up(&database);
    let server = Proxy::before(&stack.api.url);
    let fault = |request, marker, after, kind| Fault { request, marker, after, kind, times: usize::MAX };

    // The answers about the backup, before the token is spent.
    let issued = stack.issue(&backup, Some("copy"));
    let restore = || Restore::new(&server.url(), &issued, &postgres).args(&["--created-database", "copy"]);
    let envelope = r#"\"payload\":\""#;
    for after in [40, 700] {
        server.make(fault("POST /worker/v1/restores/inspect", envelope, after, Kind::Letter));
        restore().must_be_refused(TERMINAL, "the manifest is not good");
        assert_eq!(server.mend(), 1);
    }
    server.make(fault("POST /worker/v1/restores/inspect", r#"\"sig\":\""#, 20, Kind::Letter));
    restore().must_be_refused(TERMINAL, "the manifest is not good");
    assert_eq!(server.mend(), 1);
    for after in [0, 300] {
        bucket.make(fault(".annex.jsonl.gz?", "\r\n\r\n", after, Kind::Flip));
        restore().must_be_refused(TERMINAL, "the annex is not what the manifest states");
        assert_eq!(bucket.mend(), 1);
    }
    bucket.make(fault(".annex.jsonl.gz?", "\r\n\r\n", 300, Kind::Cut));
    restore().must_be_refused(RETRYABLE, "could not read the annex");
    assert!(bucket.mend() > 1, "the annex was asked for once only");
    assert_eq!(stack.restore_job(&issued)["state"], "created", "the token was spent before the evidence was verified");

    // The artifact: the token is spent then, and nothing was written.
    for after in [0, 100_000] {
        let issued = stack.issue(&backup, Some("copy"));
        bucket.make(fault(".dump?", "\r\n\r\n", after, Kind::Flip));
        let restore = Restore::new(&server.url(), &issued, &postgres).args(&["--created-database", "copy"]);
        let finished = restore.must_be_refused(TERMINAL, "the manifest states");
        assert_eq!(bucket.mend(), 1);
        assert!(finished.state("restoring").is_none(), "{}", finished.said);
        let job = stack.restore_job(&issued);
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed_terminal"), &json!("artifact_mismatch")));
    }

    // A connection that ends early is no corruption: it is asked again from there.
    bucket.make(Fault { times: 3, ..fault(".dump?", "\r\n\r\n", 50_000, Kind::Cut) });
    restore().args(&["--prove"]).run().is_identical();
    assert!(bucket.mend() >= 3);
}

#[test]
fn expired_tokens_and_tokens_of_another_server() {
    let mut own = Stack::start();
    let postgres = cluster();
    let backup = back_up(&own, &postgres);
    let (early, late) = (own.issue(&backup, Some("copy")), own.issue(&backup, Some("copy")));
    let shared = Stack::shared();
    Restore::new(&shared.api.url, &early, &postgres).must_be_refused(USER_ERROR, "issued by another server");

    own.restart(3500);
    Restore::new(&own.api.url, &early, &postgres).args(&["--created-database", "copy"]).run().said.succeeded();
    own.restart(3601);
    Restore::new(&own.api.url, &late, &postgres)
        .args(&["--created-database", "later"])
        .must_be_refused(USER_ERROR, "expired");
    let job = own.restore_job(&late);
    assert!(["created", "cancelled"].contains(&job["state"].as_str().unwrap()), "{job:#}");
    // The expiry gates the claim only: what was claimed in time is still what it was.
    assert_eq!(own.restore_job(&early)["state"], "completed");
}
