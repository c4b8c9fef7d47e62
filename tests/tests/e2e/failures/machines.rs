//! What goes wrong around the runner: its disk, its end, its server's patience. Here servers are killed and their clocks
//! turned, so each of these has a server of its own.

use serde_json::json;
use walwarden_contract::failure::FailureClass;
use walwarden_tests::Postgres;

use super::{
    gate::{Gate, Mischief},
    jobs::{Case, Runner},
    ledger,
    page::Row,
    programs::SmallMachine,
};
use crate::{
    patience,
    stack::{Stack, text},
};

const ALWAYS: usize = usize::MAX;
/// A little more than a runner's silence.
const SILENCE_SECONDS: u64 = 125;
/// A little more than the sealer's patience.
const SIX_HOURS_SECONDS: u64 = 6 * 3600 + 300;

pub fn furnish(source: &Postgres) {
    // Each large object leaves a digest in the annex, which so has some 60 kB however it is compressed.
    source.create_database("crowded").unwrap();
    let objects = "SELECT count(lo_from_bytea(0, n::text::bytea)) FROM generate_series(1, 1500) AS n";
    source.run_sql("crowded", objects).unwrap();
    source.create_database("misreported").unwrap();
    source.run_sql("misreported", "CREATE TABLE t AS SELECT 1 AS n").unwrap();
}

fn case<'a>(class: FailureClass, provoked: &'a str, dsn: String) -> Case<'a> {
    Case { class, provoked, name: class.as_str(), dsn, more: json!({}) }
}

/// A runner without room for an annex, and one whose report is altered on its way.
pub fn small_machine(source: &Postgres, mounts: bool) -> Vec<Row> {
    let machine = SmallMachine::new(mounts);
    let runner = machine.runner();
    let environment = [("WALWARDEN_RUNNER", runner.to_str().expect("text")), super::RUST_LOG];
    let stack = Stack::start_with(&environment);
    let gate = Gate::before(&stack.api.url);
    machine.talks_to(&gate.url());
    let mut rows = Vec::new();
    if mounts {
        let provoked = "the runner's work directory has no room for the annex";
        rows.push(case(FailureClass::DiskFull, provoked, source.dsn("crowded")).run(&stack));
    }
    let provoked = "the runner's report says that there were no parts";
    let case = case(FailureClass::SealImpossible, provoked, source.dsn("misreported"));
    let added = case.add(&stack);
    let spoiled = gate.spoil("POST", &["/finish"], ALWAYS, Mischief::Reword("\"parts\":1,", "\"parts\":0,"));
    let backup = stack.trigger(&added.id);
    rows.push(case.failed(&stack, &added, &backup, Runner::OfClass));
    assert!(spoiled.made() > 0);
    rows
}

/// A runner that is killed, a bucket that stays away from the sealer, runners that do not start.
pub fn lost_and_late(source: &Postgres) -> Vec<Row> {
    let mut stack = Stack::start_with(&[super::RUST_LOG]);
    let gate = Gate::before(&stack.seaweed.endpoint());
    stack.destination = stack.add_destination(&gate.url());
    let dsn = || source.dsn("misreported");
    let lost = case(FailureClass::RunnerLost, "SIGKILL to the runner during the upload", dsn());
    let late = case(FailureClass::SealUnreachable, "the bucket stays away from the sealer for six hours", dsn());
    let idle = case(FailureClass::NeverClaimed, "the runner's program cannot be started for half an hour", dsn());
    let [lost_added, late_added, idle_added] = [&lost, &late, &idle].map(|case| case.add(&stack));
    let mut rows = Vec::new();

    let held = gate.spoil("PUT", &[&lost_added.id, "partNumber="], ALWAYS, Mischief::Hold);
    let lost_backup = stack.trigger(&lost_added.id);
    held.wait("a part on its way");
    assert_eq!(stack.server.kill_runners(), 1);
    let killed = Runner::So("SIGKILL");
    ledger::runner_ended(&stack.server, &lost_backup);
    drop(held);

    let away = gate.spoil("GET", &[&late_added.id, ".parts.json"], ALWAYS, Mischief::Drop);
    let late_backup = stack.trigger(&late_added.id);
    away.wait("the sealer's first look");

    let restarted = |stack: &mut Stack, ahead: u64, more: &[(&str, &str)]| {
        stack.server.kill();
        let ahead = ahead.to_string();
        let turned = [super::RUST_LOG, ("WALWARDEN_TEST_CLOCK_AHEAD_SECONDS", ahead.as_str())];
        stack.server.start_again(&[&turned, more].concat());
    };
    restarted(&mut stack, SILENCE_SECONDS, &[]);
    rows.push(lost.failed(&stack, &lost_added, &lost_backup, killed));

    let nowhere = [("WALWARDEN_RUNNER", "/nonexistent/walwarden-runner")];
    restarted(&mut stack, SILENCE_SECONDS, &nowhere);
    rows.push(check_is_never_claimed(&stack, &idle_added.id));
    let idle_backup = stack.trigger(&idle_added.id);
    restarted(&mut stack, SIX_HOURS_SECONDS, &nowhere);
    rows.push(idle.failed(&stack, &idle_added, &idle_backup, Runner::Unseen));
    let failed = patience::within(60, || (!stack.backup(&late_backup)["failure"].is_null()).then_some(()));
    assert!(failed.is_some(), "{:#}", stack.backup(&late_backup));

    // Back again, and of the machine's time: no bucket takes requests of another.
    drop(away);
    restarted(&mut stack, 0, &[]);
    rows.push(late.failed(&stack, &late_added, &late_backup, Runner::Unseen));
    rows
}

/// A check says so at once: a person waits for it.
fn check_is_never_claimed(stack: &Stack, database: &str) -> Row {
    let class = FailureClass::NeverClaimed;
    let asked = stack.api.post(&format!("/api/v1/databases/{database}/check"), &json!({})).ok();
    let check = patience::expect("the end of a check without a runner", 30, || {
        let check = stack.api.get(&format!("/api/v1/databases/{database}")).ok()["check"].clone();
        (check["final"] == true && check["id"] == asked["check"]["id"]).then_some(check)
    });
    assert_eq!(check["state"], "failed", "{check:#}");
    super::jobs::is_of(&check["failure"], class);
    let entry = ledger::entry(&stack.server, "database.checked", &text(&check["id"]));
    let said = (&entry["payload"]["result"], &entry["payload"]["class"]);
    assert_eq!(said, (&json!("failed"), &json!(class.as_str())), "{entry:#}");
    Row::Job(super::page::JobRow {
        class: Some(class),
        provoked: "the runner's program cannot be started, for a check".into(),
        check: "`failed`, the same class".into(),
        backup: "–".into(),
        runner: "–".into(),
        entry: "`database.checked`, `failed`".into(),
    })
}
