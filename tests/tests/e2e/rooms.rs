//! The arrows between the rooms, as the design has them, held to what cargo builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use walwarden_tests::tools;

use crate::program;

/// A room and what it may use.
struct Room {
    name: &'static str,
    /// Other rooms it may use.
    rooms: &'static [&'static str],
    /// Crates of others that it may not have in its tree: exactly that name, or with `*` all that begin so.
    never: &'static [&'static str],
}

const NETWORK: &[&str] = &["tokio", "reqwest", "hyper", "axum", "rustls", "tokio-postgres", "aws-*", "dynoxide-rs"];
const AWS_OR_TABLE: &[&str] = &["aws-*", "axum", "dynoxide-rs", "rusqlite"];

const ROOMS: &[Room] = &[
    Room { name: "verifier", rooms: &[], never: NETWORK },
    Room { name: "contract", rooms: &["verifier"], never: NETWORK },
    Room { name: "client", rooms: &["contract", "verifier"], never: AWS_OR_TABLE },
    Room {
        name: "core",
        rooms: &["contract", "verifier"],
        never: &["axum", "tower-http", "dynoxide-rs", "rusqlite", "lambda_runtime"],
    },
    Room { name: "functions", rooms: &["core", "contract", "verifier"], never: &["dynoxide-rs", "rusqlite"] },
    Room { name: "runner", rooms: &["client", "contract", "verifier"], never: AWS_OR_TABLE },
    Room { name: "cli", rooms: &["client", "contract", "verifier"], never: AWS_OR_TABLE },
    Room { name: "server", rooms: &["functions", "core", "client", "contract", "verifier", "tests"], never: &[] },
    Room { name: "tests", rooms: &["client", "contract", "verifier"], never: &["axum", "dynoxide-rs", "rusqlite"] },
];

/// SDKs `core` may have, of all that AWS offers.
const CORE_SDKS: &[&str] = &["aws-sdk-dynamodb", "aws-sdk-s3", "aws-sdk-sts", "aws-sdk-kms"];
/// A cryptography library with an unlucky name.
const NOT_AWS: &[&str] = &["aws-lc-rs", "aws-lc-sys"];
const OURS: &str = "walwarden-";

/// What in a room's tree may not be there.
fn violations(room: &Room, tree: &BTreeSet<String>) -> Vec<String> {
    let wrong = |name: &&String| match name.strip_prefix(OURS) {
        Some(other) => other != room.name && !room.rooms.contains(&other),
        None if NOT_AWS.contains(&name.as_str()) => false,
        None => {
            let never = room.never.iter().any(|rule| match rule.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *rule == name.as_str(),
            });
            let sdk_too_many =
                room.name == "core" && name.starts_with("aws-sdk-") && !CORE_SDKS.contains(&name.as_str());
            never || sdk_too_many
        }
    };
    tree.iter().filter(wrong).map(|name| format!("{} has {name}", room.name)).collect()
}

/// The crates a room is built of, without what only its tests use; or its direct dependencies of some kind.
fn tree(room: &str, more: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tools::repository()).args([
        "tree",
        "--offline",
        "--locked",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    cargo.args(["-p", &format!("{OURS}{room}")]).args(more);
    let out = program::run(&mut cargo).succeeded().stdout();
    out.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn members() -> BTreeMap<String, Vec<String>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tools::repository());
    cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_slice(&program::run(&mut cargo).succeeded().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let names = dependencies.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
            (package["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

#[test]
fn every_room_uses_only_what_it_may() {
    let wrong: Vec<String> =
        ROOMS.iter().flat_map(|room| violations(room, &tree(room.name, &["--edges", "normal,build"]))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tests_of_a_room_use_only_what_the_room_may_and_the_test_support() {
    for room in ROOMS {
        let direct = tree(room.name, &["--edges", "dev", "--depth", "1"]);
        let ours = direct.iter().filter_map(|name| name.strip_prefix(OURS));
        let wrong: Vec<&str> =
            ours.filter(|other| *other != room.name && *other != "tests" && !room.rooms.contains(other)).collect();
        assert!(wrong.is_empty(), "the tests of {} use {wrong:?}", room.name);
    }
}

#[test]
fn every_package_is_a_room() {
    let members = members();
    let rooms: BTreeSet<String> = ROOMS.iter().map(|room| format!("{OURS}{}", room.name)).collect();
    assert_eq!(members.keys().cloned().collect::<BTreeSet<_>>(), rooms, "a package that is no room of the design");
    for (member, dependencies) in members {
        let ends = ["walwarden-cli", "walwarden-runner", "walwarden-server"];
        let wrong = dependencies.iter().find(|name| ends.contains(&name.as_str()));
        assert_eq!(wrong, None, "{member} uses a program as a library");
    }
}

#[test]
fn a_wrong_arrow_is_seen() {
    let room = |name: &str| ROOMS.iter().find(|room| room.name == name).unwrap();
    for (name, bad) in [
        ("verifier", "walwarden-contract"),
        ("verifier", "tokio"),
        ("contract", "walwarden-core"),
        ("client", "walwarden-core"),
        ("core", "axum"),
        ("core", "aws-sdk-ecs"),
        ("functions", "walwarden-client"),
        ("functions", "dynoxide-rs"),
        ("cli", "aws-config"),
        ("runner", "aws-sdk-s3"),
        ("server", "walwarden-cli"),
        ("tests", "walwarden-server"),
    ] {
        assert_eq!(violations(room(name), &BTreeSet::from([bad.to_owned()])).len(), 1, "{name} {bad}");
    }
    let fine = ["aws-lc-rs", "aws-sdk-kms", "walwarden-verifier", "walwarden-core"].map(str::to_owned);
    assert!(violations(room("core"), &BTreeSet::from(fine)).is_empty());
}
