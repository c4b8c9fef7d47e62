//! What is refused before anyone is asked: exit code 2, and no connection is made.

mod support;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use support::walwarden;
use walwarden_contract::token::{self, RestoreMode, RestorePurpose, RestoreTokenPayload};

const MANIFEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TARGET: &str = "postgresql://u:hunter2hunter2@127.0.0.1:1/postgres";

fn token(mode: RestoreMode, exp: i64) -> String {
    token_for(MANIFEST, mode, exp)
}

fn token_for(manifest: &str, mode: RestoreMode, exp: i64) -> String {
    let payload = RestoreTokenPayload {
        v: 1,
        kid: "k".into(),
        aud: "test".into(),
        org_id: "org_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        database_id: "db_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        backup_id: "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap(),
        manifest_hash: manifest.into(),
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

/// A control plane that knows nobody, and counts who asks.
struct Stranger {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Stranger {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (url, asked) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let head = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in head {
                    if line.is_ok_and(|line| line.is_empty()) {
                        break;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}");
            }
        });
        Self { url, asked }
    }
}

/// One choice of everything that the guards look at.
#[derive(Debug, Clone, Copy)]
struct Combination {
    mode: Option<&'static str>,
    confirmed: bool,
    created: Option<&'static str>,
    target: Option<&'static str>,
    jobs: Option<&'static str>,
    json: bool,
    token: TokenFor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenFor {
    Nobody,
    NewDatabase,
    InPlace,
    AnotherBackup,
    Yesterday,
    Nothing,
}

impl Combination {
    /// The rules, once more: what each combination is refused for, if anything.
    fn refusals(&self) -> BTreeSet<&'static str> {
        let mut codes = BTreeSet::new();
        let overwrites = self.mode == Some("in_place");
        match self.mode {
            None => drop(codes.insert("mode_missing")),
            Some("new_database" | "in_place") => {}
            Some(_) => drop(codes.insert("mode_invalid")),
        }
        if overwrites && !self.confirmed {
            codes.insert("confirmation_missing");
        }
        match self.created {
            None => {}
            Some(_) if overwrites => drop(codes.insert("created_database_in_place")),
            Some("copy-1" | "_") => {}
            Some(_) => drop(codes.insert("created_database_invalid")),
        }
        if self.jobs.is_some_and(|jobs| !["1", "4", "64"].contains(&jobs)) {
            codes.insert("jobs_invalid");
        }
        match (self.token, self.mode) {
            (TokenFor::Nobody, _) => drop(codes.insert("token_missing")),
            (TokenFor::Nothing, _) => drop(codes.insert("token_malformed")),
            (TokenFor::AnotherBackup, _) => drop(codes.insert("manifest_mismatch")),
            (TokenFor::Yesterday, Some("new_database")) => drop(codes.insert("token_expired")),
            (TokenFor::NewDatabase, Some("new_database")) | (TokenFor::InPlace, Some("in_place")) => {}
            _ => drop(codes.insert("mode_mismatch")),
        }
        match self.target {
            None => drop(codes.insert("target_missing")),
            Some(target) if overwrites && !target.ends_with("/app") => drop(codes.insert("target_database_missing")),
            Some(_) => {}
        }
        codes
    }

    fn run(&self, stranger: &Stranger) -> Output {
        let mut command = walwarden();
        command.args(["restore", "--manifest", MANIFEST]).env("WALWARDEN_BASE_URL", &stranger.url);
        let options = [("--mode", self.mode), ("--created-database", self.created), ("--jobs", self.jobs)];
        for (flag, value) in options {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        command.args(self.confirmed.then_some("--confirm-destructive")).args(self.json.then_some("--json"));
        if let Some(target) = self.target {
            command.env("WALWARDEN_TARGET", target);
        }
        let token = match self.token {
            TokenFor::Nobody => None,
            TokenFor::NewDatabase => Some(good()),
            TokenFor::InPlace => Some(token(RestoreMode::InPlace, 4_000_000_000)),
            TokenFor::AnotherBackup => Some(token_for(&"b".repeat(64), RestoreMode::NewDatabase, 4_000_000_000)),
            TokenFor::Yesterday => Some(token(RestoreMode::NewDatabase, 1)),
            TokenFor::Nothing => Some("ww_live_hunter2".to_owned()),
        };
        if let Some(token) = token {
            command.env("WALWARDEN_TOKEN", token);
        }
        command.output().unwrap()
    }

    /// Either everything holds and the control plane is asked, or one line says what does not, and nobody is.
    fn check(&self, stranger: &Stranger) {
        let before = stranger.asked.load(Ordering::SeqCst);
        let output = self.run(stranger);
        let asked = stranger.asked.load(Ordering::SeqCst) > before;
        let why = support::said(&output);
        let codes = self.refusals();
        assert_eq!(asked, codes.is_empty(), "{self:?}, refused for {codes:?}: {why}");
        assert!(!why.contains("hunter2"), "{why}");
        let (out, err) =
            (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap());
        if self.json {
            assert_eq!((out.lines().count(), err.as_str()), (1, ""), "{self:?}: {why}");
            let (code, _) = support::error(&output);
            let last = support::events(&output).pop().unwrap();
            assert!(last["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{why}");
            assert!(codes.is_empty() || codes.contains(code.as_str()), "{self:?}, refused for {codes:?}: {why}");
        } else {
            let starting = |start: &str| err.lines().filter(|line| line.starts_with(start)).count();
            assert_eq!((out.as_str(), starting("error: ")), ("", 1), "{self:?}: {why}");
            assert!(
                codes.is_empty() || (starting("hint: ") >= 1 && err.lines().count() == 1 + starting("hint: ")),
                "{why}"
            );
        }
        if !codes.is_empty() {
            assert_eq!(output.status.code(), Some(2), "{self:?}: {why}");
        }
    }
}

/// Every pair of lists' elements.
fn times<A: Clone, B: Clone>(left: &[A], right: &[B]) -> Vec<(A, B)> {
    left.iter().flat_map(|a| right.iter().map(|b| (a.clone(), b.clone()))).collect()
}

#[test]
fn every_combination_passes_or_is_refused_before_anyone_is_asked() {
    let (named, unnamed) = ("postgresql://u:hunter2@127.0.0.1:1/app", "postgresql://u:hunter2@127.0.0.1:1");
    let switches = [false, true];
    let mut all = Vec::new();
    let modes = times(&[Some("new_database"), Some("in_place")], &switches);
    let names = times(&[None, Some("copy-1"), Some("1x")], &[Some(named), Some(unnamed)]);
    let numbers = times(&[Some("0"), Some("1"), Some("4"), Some("x")], &switches);
    let tokens = [TokenFor::NewDatabase, TokenFor::InPlace];
    for ((mode, confirmed), ((created, target), ((jobs, json), token))) in
        times(&modes, &times(&names, &times(&numbers, &tokens)))
    {
        all.push(Combination { mode, confirmed, created, target, jobs, json, token });
    }
    // What is missing or no value at all, against everything else that is right or wrong in one way.
    let modes = [None, Some(""), Some("over"), Some("NEW_DATABASE"), Some("new_database"), Some("in_place")];
    let tokens = [
        TokenFor::Nobody,
        TokenFor::Nothing,
        TokenFor::AnotherBackup,
        TokenFor::Yesterday,
        TokenFor::NewDatabase,
        TokenFor::InPlace,
    ];
    for ((mode, token), (target, json)) in times(&times(&modes, &tokens), &times(&[None, Some(named)], &switches)) {
        all.push(Combination { mode, confirmed: true, created: None, target, jobs: None, json, token });
    }
    let names = ["", " ", "1x", "a b", "a\"b", "a;b", "Ä", "copy-1", "_", &"x".repeat(64)].map(str::to_owned);
    for (created, jobs) in times(&names, &[None, Some("64"), Some("65"), Some("01x"), Some(""), Some("1.5")]) {
        let created = Some(&*created.leak());
        let (mode, token) = (Some("new_database"), TokenFor::NewDatabase);
        all.push(Combination { mode, confirmed: false, created, target: Some(named), jobs, json: true, token });
    }
    let (passing, all_of_them) = (all.iter().filter(|c| c.refusals().is_empty()).count(), all.len());
    assert!(passing > 30 && all_of_them > 500, "{passing} of {all_of_them}");
    std::thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(4)) {
            scope.spawn(move || {
                let stranger = Stranger::start();
                part.iter().for_each(|combination| combination.check(&stranger));
            });
        }
    });
}

#[test]
fn every_flag_without_its_value_twice_or_unusable_is_refused_before_anyone_is_asked() {
    let full = ["--manifest", MANIFEST, "--mode", "new_database"];
    let valued = [
        "--manifest",
        "--target",
        "--mode",
        "--created-database",
        "--jobs",
        "-j",
        "--pubkey",
        "--pg-bin",
        "--work-dir",
        "--api-url",
        "--report",
        "--leave-out",
        "--artifact",
        "--envelope",
        "--annex",
        "--download-only",
    ];
    let mut cases: Vec<Vec<&str>> = Vec::new();
    for flag in valued {
        cases.push([&full[..], &[flag]].concat());
        // Directories add up, and of two names for the database the last holds.
        if !["--pg-bin", "--created-database", "--leave-out"].contains(&flag) {
            cases.push([&full[..], &[flag, "x", flag, "x"]].concat());
        }
    }
    for switch in [
        "--confirm-destructive",
        "--prove",
        "--plan",
        "--keep-failed",
        "--refuse-superuser-target",
        "--exact",
        "--no-create-roles",
        "--adopt-definers",
        "--drop-dependents",
        "--json",
    ] {
        cases.push([&full[..], &[switch, switch]].concat());
        cases.push([&full[..], &[switch, "yes"]].concat());
    }
    for manifest in ["", "sha256:", &MANIFEST[1..], "sha256:sha256:x", &"g".repeat(64), &format!("{MANIFEST}a")] {
        cases.push(vec!["--manifest", manifest.to_owned().leak(), "--mode", "new_database"]);
    }
    for more in [
        &["--api-url", "ftp://h"][..],
        &["--api-url", "no url"],
        &["--pubkey", "/nonexistent/keys.pem"],
        &["--report", "/nonexistent/report.json"],
        &["--target", "postgresql://u:hunter2@h:99999/x"],
        &["--target", "hunter2"],
        &["--created-database", "a", "--created-database", "not a name"],
        &["--artifact", "/nonexistent.dump"],
        &["--download-only", "/"],
        &["--download-only", "/nonexistent/a.dump"],
        &["--download-only", "/tmp/a.dump", "--target", "postgresql://u:hunter2@h/x"],
        &["--download-only", "/tmp/a.dump", "--report", "/x"],
        &["--envelope", "/nonexistent.json"],
        &["--artifact", "/nonexistent", "--envelope", "/nonexistent", "--annex", "/nonexistent"],
        &["--target", ""],
        &["--target", "postgresql://u:hunter2@h/x?sslmode=maybe"],
    ] {
        cases.push([&full[..], more].concat());
    }
    cases.push(vec!["--report", "/nonexistent/report.json"]);
    for (arguments, json) in times(&cases, &[false, true]) {
        let stranger = Stranger::start();
        let output = walwarden()
            .arg("restore")
            .args(&arguments)
            .args(json.then_some("--json").filter(|_| !arguments.contains(&"--json")))
            .env("WALWARDEN_BASE_URL", &stranger.url)
            .env("WALWARDEN_TOKEN", good())
            .env("WALWARDEN_TARGET", TARGET)
            .output()
            .unwrap();
        let why = support::said(&output);
        assert_eq!((output.status.code(), stranger.asked.load(Ordering::SeqCst)), (Some(2), 0), "{arguments:?}: {why}");
        assert!(!why.contains("hunter2"), "{arguments:?}: {why}");
        let (errors, hints) = match json || arguments.contains(&"--json") {
            true => {
                let last = support::events(&output).pop().unwrap();
                (support::events(&output).len(), usize::from(last["error"]["hint"].is_string()))
            }
            false => {
                let lines = String::from_utf8(output.stderr.clone()).unwrap();
                let starting = |start: &str| lines.lines().filter(|line| line.starts_with(start)).count();
                (starting("error: "), starting("hint: "))
            }
        };
        assert!(errors == 1 && hints >= 1, "{arguments:?}: {why}");
    }
}
