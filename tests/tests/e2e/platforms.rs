//! Restores that fit what people have: databases of managed platforms, where nobody is superuser and half the objects are
//! the platform's, into clusters of every kind. Every cell of the matrix is proven, and who can do what afterwards is
//! what the source gave, or less.

mod access;
mod kinds;

use serde_json::{Value, json};
use walwarden_tests::Postgres;

use self::kinds::{Kind, Platform};
use crate::{
    restore::{Finished, Restore},
    stack::{Backup, Stack},
};

/// A source, backed up by its customer.
struct Source {
    platform: Platform,
    backup: Backup,
}

fn back_up(stack: &Stack, kind: Kind, major: u8) -> Source {
    let platform = Platform::start(kind, major);
    platform.fill();
    let database = stack.add_database(
        &format!("{kind:?} {major}"),
        &platform.source_dsn(),
        json!({ "compression": { "codec": "gzip", "level": 6 } }),
    );
    Source { backup: stack.back_up(&database), platform }
}

/// The one-liner, with nothing added but the proof and a name that is free.
fn restore(stack: &Stack, source: &Source, target: &Platform, arguments: &[&str]) -> (Finished, Value) {
    let issued = stack.issue(&source.backup, None);
    let command = |more: &[&str]| {
        Restore::new(&stack.api.url, &issued, &target.server)
            .connect_as(&target.role, &target.password)
            .args(&["--prove", "--created-database", "restored"])
            .args(arguments)
            .args(more)
    };
    let planned = command(&["--plan"]).run();
    let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned());
    let plan = plan.unwrap_or_else(|| panic!("no plan: {}", planned.said));
    (command(&[]).run(), plan)
}

fn matrix(major: u8) {
    let stack = Stack::shared();
    for kind in Kind::ALL {
        let source = back_up(&stack, kind, major);
        source.platform.stock_restore_fails_as_it_does_in_the_field();
        let mut targets = vec![kind, Kind::PlainSuperuser, Kind::PlainOwner];
        targets.dedup();
        for target_kind in targets {
            let target = Platform::start(target_kind, major);
            let (finished, plan) = restore(&stack, &source, &target, &[]);
            let cell = format!("{kind:?} {major} into {target_kind:?}");
            println!("{cell}: {} {}", plan["outcome"], plan["counts"]);
            assert_eq!(finished.said.code, 0, "{cell}: {}\n{}", plan["refusals"], finished.said);
            finished.is_identical();
            access::is_no_wider(&cell, &source.platform, &target, &plan);
        }
    }
}

#[test]
fn every_platform_into_every_target_on_the_oldest_major() {
    matrix(*Postgres::majors_available().first().expect("a Postgres"));
}

#[test]
fn every_platform_into_every_target_on_the_newest_major() {
    matrix(*Postgres::majors_available().last().expect("a Postgres"));
}
