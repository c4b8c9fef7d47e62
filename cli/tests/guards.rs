//! What is refused before anyone is asked: exit code 2, and no connection is made.

mod support;

use std::{net::TcpListener, process::Output};

use support::walwarden;
use walwarden_contract::token::{self, RestoreMode, RestorePurpose, RestoreTokenPayload};

const MANIFEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TARGET: &str = "postgresql://u:hunter2hunter2@127.0.0.1:1/postgres";

fn token(mode: RestoreMode, exp: i64) -> String {
    let payload = RestoreTokenPayload {
        v: 1,
        kid: "k".into(),
        aud: "test".into(),
        org_id: "org_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        database_id: "db_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        backup_id: "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        manifest_hash: MANIFEST.into(),
        mode,
        purpose: RestorePurpose::Restore,
        job_intent_id: "rst_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        iat: 0,
        exp,
    };
    token::join(&payload.encode(), &[1; 32])
}

fn good() -> String {
    token(RestoreMode::NewDatabase, 4_000_000_000)
}

fn run(token: Option<&str>, arguments: &[&str]) -> Output {
    // Whoever connects to the control plane is found out.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut command = walwarden();
    command
        .arg("restore")
        .args(arguments)
        .env("WALWARDEN_BASE_URL", format!("http://{}", listener.local_addr().unwrap()));
    if let Some(token) = token {
        command.env("WALWARDEN_TOKEN", token);
    }
    let output = command.output().unwrap();
    assert!(listener.accept().is_err(), "it called the control plane");
    assert_eq!(output.status.code(), Some(2), "{}", support::said(&output));
    assert!(!support::said(&output).contains("hunter2"), "{}", support::said(&output));
    output
}

fn stderr(output: &Output) -> String {
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_guard_says_what_is_wrong_and_what_to_do() {
    let full = ["--manifest", MANIFEST, "--mode", "new_database", "--target", TARGET];
    let in_place = ["--manifest", MANIFEST, "--mode", "in_place"];
    let with = |more: &[&'static str]| [&full[..], more].concat();
    let good = good();
    let (expired, other_mode) = (token(RestoreMode::NewDatabase, 1), token(RestoreMode::InPlace, 4_000_000_000));
    let in_place_with = |more: &[&'static str]| [&in_place[..], more].concat();
    let cases: Vec<(&str, Option<&str>, Vec<&str>)> = vec![
        ("no manifest", Some(&good), vec!["--mode", "new_database"]),
        ("bad manifest", Some(&good), vec!["--manifest", "abc", "--mode", "new_database"]),
        ("no mode", Some(&good), vec!["--manifest", MANIFEST]),
        ("bad mode", Some(&good), vec!["--manifest", MANIFEST, "--mode", "over"]),
        ("in place, not confirmed", Some(&good), in_place.to_vec()),
        (
            "in place, created database",
            Some(&good),
            in_place_with(&["--confirm-destructive", "--created-database", "x"]),
        ),
        (
            "in place, no database",
            Some(&other_mode),
            in_place_with(&["--confirm-destructive", "--target", "postgresql://u@127.0.0.1"]),
        ),
        ("bad name", Some(&good), with(&["--created-database", "1x"])),
        ("bad jobs", Some(&good), with(&["--jobs", "0"])),
        ("no token", None, full.to_vec()),
        ("malformed token", Some("ww_live_key"), full.to_vec()),
        ("expired token", Some(&expired), full.to_vec()),
        ("token of another mode", Some(&other_mode), full.to_vec()),
        (
            "token of another backup",
            Some(&good),
            vec![
                "--manifest",
                "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
                "--mode",
                "new_database",
                "--target",
                TARGET,
            ],
        ),
        ("no target", Some(&good), vec!["--manifest", MANIFEST, "--mode", "new_database"]),
        (
            "refused target",
            Some(&good),
            vec!["--manifest", MANIFEST, "--mode", "new_database", "--target", "postgresql://u:hunter2@h/x?service=y"],
        ),
        (
            "pooled target",
            Some(&good),
            vec![
                "--manifest",
                MANIFEST,
                "--mode",
                "new_database",
                "--target",
                "postgresql://u:hunter2@ep-x-pooler.eu.aws.neon.tech/x",
            ],
        ),
        ("unknown flag", Some(&good), with(&["--force"])),
        ("misplaced target", Some(&good), vec!["--manifest", MANIFEST, "postgresql://u:hunter2@h/x"]),
    ];
    let mut text = String::new();
    for (what, token, arguments) in cases {
        text.push_str(&format!("-- {what}\n{}\n", stderr(&run(token, &arguments))));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn json_errors_are_the_last_line_of_stdout() {
    let output =
        run(None, &["--json", "--manifest", &format!("sha256:{}", MANIFEST.to_uppercase()), "--mode", "new_database"]);
    assert!(output.stderr.is_empty());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
    let output = run(None, &["--json", "--nonsense"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"exitCode\":2"));
}

#[test]
fn version_and_help() {
    let output = walwarden().arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), concat!("walwarden ", env!("CARGO_PKG_VERSION"), "\n"));
    let output = walwarden()
        .args(["restore", "--help"])
        .env("WALWARDEN_TOKEN", good())
        .env("WALWARDEN_TARGET", TARGET)
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !help.contains("hunter2"));
    insta::assert_snapshot!(help);
}

#[test]
fn without_a_command_the_commands_are_listed() {
    let output = walwarden().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let usage = stderr(&output);
    assert!(usage.contains("Usage: walwarden <COMMAND>") && !usage.contains("error:"), "{usage}");
    let help = walwarden().arg("--help").output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    assert_eq!(String::from_utf8(help.stdout).unwrap(), usage);
    let output = walwarden().arg("restor").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(format!("{usage}--\n{}", stderr(&output)));
}
