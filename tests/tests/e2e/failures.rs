//! Every failure class, provoked through the whole product: what API, log, exit codes and bucket show of it is
//! `docs/failures.md`, which this test makes (`UPDATE_DOCS=1`) and holds to what it sees.

mod backups;
mod gate;
mod jobs;
mod ledger;
mod machines;
mod older;
mod page;
mod programs;
mod restores;

use std::{
    collections::VecDeque,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread,
};

use serde_json::json;
use walwarden_contract::failure::FailureClass;
use walwarden_tests::{Postgres, tools};

use self::{gate::Gate, page::Row, programs::FailingDump};
use crate::stack::Stack;

/// Provokes something and gives what it saw.
type Scenario<'a> = Box<dyn FnOnce() -> Vec<Row> + Send + 'a>;

/// The server says how its runners end.
const RUST_LOG: (&str, &str) = ("RUST_LOG", "warn,walwarden=info,walwarden_functions=info");

const AT_A_TIME: usize = 4;

#[test]
fn every_failure_class_is_told_as_the_page_says() {
    let mounts = programs::can_mount();
    assert!(
        mounts || std::env::var_os("WALWARDEN_NO_MOUNT").is_some(),
        "this machine lets nobody mount a file system, so no disk can be filled\n\
         hint: run the tests as root, or set WALWARDEN_NO_MOUNT=1 to leave that out"
    );
    let left_out: &[FailureClass] = if mounts { &[] } else { &[FailureClass::DiskFull] };
    let rows = provoke(mounts);
    page::is_complete(&rows, left_out);
    let made = page::render(&rows, left_out);
    let path = tools::repository().join("docs/failures.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        assert!(mounts, "without a full disk the page would lack rows");
        fs::write(&path, made).expect("the page");
        return;
    }
    let kept = page::without(&fs::read_to_string(&path).unwrap_or_default(), left_out);
    if kept != made {
        let differ = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
        let (kept, made) = differ.unwrap_or(("the page ends", "what was seen goes on, or the other way round"));
        panic!("docs/failures.md is not what was seen\nhint: UPDATE_DOCS=1 writes it anew\n- {kept}\n+ {made}");
    }
}

fn provoke(mounts: bool) -> Vec<Row> {
    let majors = Postgres::majors_available();
    let [first, .., last] = majors[..] else { panic!("two versions of Postgres are needed: tests/tools/install.sh") };
    let (source, other) = (Postgres::start(first).unwrap(), Postgres::start(last).unwrap());
    let dump = FailingDump::of(&source);
    let runner = dump.runner();
    let environment = [
        RUST_LOG,
        ("WALWARDEN_RUNNER", runner.to_str().expect("text")),
        ("WALWARDEN_LOCK_WAIT_SECONDS", backups::LOCK_WAIT_SECONDS),
        ("WALWARDEN_BUCKET_WAIT_SECONDS", backups::BUCKET_WAIT_SECONDS),
    ];
    let mut stack = Stack::start_with(&environment);
    let gate = Gate::before(&stack.seaweed.endpoint());
    stack.destination = stack.add_destination(&gate.url());
    let (stack, gate) = (&stack, &gate);
    let (source, other) = (&source, &other);
    backups::furnish(source);
    machines::furnish(source);
    let [backup, extended] = restores::furnish(source, other)
        .map(|name| stack.back_up(&stack.add_database(name, &source.dsn(name), json!({}))));

    let backups = backups::Scene { stack, gate, source, other };
    let restores = restores::Scene { stack, gate, source, other, backup, extended, mounts };
    // The longest first.
    let mut all: Vec<Scenario> =
        vec![Box::new(|| machines::lost_and_late(source)), Box::new(|| machines::small_machine(source, mounts))];
    all.extend(restores.scenarios());
    all.extend(backups.scenarios());
    some_at_a_time(all)
}

/// Runs all of them, whatever becomes of each; what they saw, in no order.
fn some_at_a_time(scenarios: Vec<Scenario>) -> Vec<Row> {
    let (waiting, seen) = (Mutex::new(VecDeque::from(scenarios)), Mutex::new(Vec::new()));
    let take = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(scenario) = take() {
            let rows = catch_unwind(AssertUnwindSafe(scenario));
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let (seen, failed): (Vec<_>, Vec<_>) =
        seen.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().partition(Result::is_ok);
    assert!(failed.is_empty(), "{} scenarios are not as they should be: see above", failed.len());
    seen.into_iter().flatten().flatten().collect()
}
