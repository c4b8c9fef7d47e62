//! The commands of the documentation, run as they are written: each page in one shell, from its first block to its last,
//! against real servers. What a page writes for its readers' own (hosts, paths, keys) is put in from a fixed table; what
//! it shows to be printed must be printed.

mod guides;
mod page;
mod shell;
mod stage;

use std::{fs, path::Path, thread};

use serde_json::{Value, json};
use walwarden_contract::{errors::ErrorCode, exit::ExitCode};
use walwarden_tests::{bin, tools};
use walwarden_verifier::verify::Failure;

use self::{
    page::{Page, is_shown, missing},
    shell::Shell,
    stage::{APP, Stage, shown},
};
use crate::{
    patience, program,
    stack::{BUCKET, Stack, text},
};

/// The bucket's name in the pages that register one.
const MY_BUCKET: &str = "my-backups";
/// The role that every page makes, with the password it gives it.
const ROLE: &str =
    "CREATE ROLE walwarden_backup LOGIN PASSWORD 'choose-one'; GRANT pg_read_all_data TO walwarden_backup;";
/// Runs one page.
type Run = fn(&Stack) -> Result<(), String>;

#[test]
fn every_command_on_the_pages_runs_as_it_is_written() {
    let stack = Stack::start();
    stack.seaweed.create_locked_bucket(MY_BUCKET).unwrap();
    // As `make up` writes it for its bucket.
    let destination = json!({
        "name": "demo bucket", "provider": "s3_compatible", "endpoint": stack.seaweed.endpoint(), "bucket": BUCKET,
        "region": stack.seaweed.region(), "accessKeyId": stack.seaweed.access_key,
        "secretAccessKey": stack.seaweed.secret_key,
    });
    fs::write(stack.server.data().join("destination.json"), destination.to_string()).unwrap();

    let pages: [(&str, Run); 6] = [
        ("docs/getting-started.md", getting_started),
        ("docs/self-hosting.md", self_hosting),
        ("README.md", readme),
        ("docs/restore.md", restore),
        ("docs/exit-codes.md", exit_codes),
        ("docs/troubleshooting.md", troubleshooting),
    ];
    run_all(&stack, &pages);
}

/// Runs pages beside each other: mostly they wait.
fn run_all(stack: &Stack, pages: &[(&str, Run)]) {
    let failed: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = pages.iter().map(|(name, run)| (name, scope.spawn(move || run(stack)))).collect();
        let ended = running.into_iter();
        let ended = ended.map(|(name, page)| page.join().unwrap_or_else(|_| Err(format!("{name}: see above"))));
        ended.filter_map(Result::err).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

fn getting_started(stack: &Stack) -> Result<(), String> {
    Stage::without_server(stack).run(
        "docs/getting-started.md",
        &[
            "http://127.0.0.1:8787",
            "/var/lib/walwarden",
            "$PWD/target/release",
            "db.example.com:5432",
            "https://s3.example.com",
            "YOUR-ACCESS-KEY-ID",
            "YOUR-SECRET-ACCESS-KEY",
        ],
        &[],
    )
}

fn self_hosting(stack: &Stack) -> Result<(), String> {
    Stage::without_server(stack).run(
        "docs/self-hosting.md",
        &[
            "http://127.0.0.1:8787",
            "/var/lib/walwarden",
            "/var/lib",
            "target/release",
            "/usr/lib/postgresql/15/bin",
            "db.example.com:5432",
            "https://s3.example.com",
            "YOUR-ACCESS-KEY-ID",
            "YOUR-SECRET-ACCESS-KEY",
        ],
        &[],
    )
}

fn readme(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    let database = json!({
        "name": "my database", "dsn": stage.postgres.dsn_as("walwarden_backup", "choose-one", APP),
        "destinationId": "dst_… (from the first command's answer)", "schedule": "0 2 * * *",
    });
    fs::write(stack.server.data().join("database.json"), database.to_string()).unwrap();
    let literals = ["http://127.0.0.1:8787", "127.0.0.1:5432", "$PWD/target/debug", "target/debug"];
    stage.run("README.md", &literals, &[])
}

fn restore(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    stage.postgres.run_sql(APP, ROLE).unwrap();
    let backup = stack.back_up(&stage.database());
    stage.run("docs/restore.md", &["http://127.0.0.1:8787", "127.0.0.1:5432"], &[("BKP", backup.id)])
}

fn exit_codes(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    stage.postgres.run_sql(APP, ROLE).unwrap();
    let backup = stack.back_up(&stage.database());
    let literals = ["http://127.0.0.1:8787", "/var/lib/walwarden", "db.example.com:5432"];
    stage.run("docs/exit-codes.md", &literals, &[("BKP", backup.id)])
}

/// It begins with a backup that failed: row security hides a table's rows from the role.
fn troubleshooting(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    stage.postgres.run_sql(APP, ROLE).unwrap();
    stage.postgres.run_sql(APP, "ALTER TABLE customers ENABLE ROW LEVEL SECURITY").unwrap();
    let database = stage.database();
    let backup = stack.trigger(&database);
    let ended = || Some(()).filter(|()| stack.backup(&backup)["final"] == true);
    patience::expect("the backup's end", 60, ended);
    let checked = || Some(()).filter(|()| checked_database(stack, &database)["check"]["final"] == true);
    patience::expect("the source check", 60, checked);
    let literals = ["http://127.0.0.1:8787", "/var/lib/walwarden", "db.example.com:5432"];
    stage.run("docs/troubleshooting.md", &literals, &[("DB", database), ("BKP", backup)])?;
    every_check_of_a_bucket_is_on_the_page(stack)
}

fn checked_database(stack: &Stack, database: &str) -> Value {
    stack.api.get(&format!("/api/v1/databases/{database}")).ok()
}

fn every_check_of_a_bucket_is_on_the_page(stack: &Stack) -> Result<(), String> {
    let page = fs::read_to_string(tools::repository().join("docs/troubleshooting.md")).expect("the page");
    let destination = stack.api.get(&format!("/api/v1/destinations/{}", stack.destination)).ok();
    let checks = destination["preflight"]["checks"].as_array().expect("checks").iter();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let named = |name: &str| rows.iter().any(|row| row.contains(&format!("`{name}`")));
    let left: Vec<String> = checks.map(|check| text(&check["name"])).filter(|name| !named(name)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("docs/troubleshooting.md: no row for the checks {left:?}")) }
}

/// The messages that the page explains are those of the programs: each part between `…` stands in their source.
#[test]
fn the_messages_that_are_explained_are_the_programs_own() {
    let mut sources = String::new();
    for room in ["cli", "client", "contract", "core", "functions", "runner", "server"] {
        read_sources(&tools::repository().join(room).join("src"), &mut sources);
    }
    let sources = as_written(&sources);
    let page = Page::read(tools::repository(), "docs/troubleshooting.md");
    assert!(page.messages.len() > 40, "the messages are not found on the page");
    let parts = page.messages.iter().flat_map(|message| message.split('…')).map(str::trim);
    let unknown: Vec<&str> = parts.filter(|part| part.len() > 4 && !sources.contains(part)).collect();
    assert!(unknown.is_empty(), "no program says {unknown:#?}");
}

fn read_sources(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Source text with its string literals as they are printed: quotes plain, continued lines joined, and a placeholder's
/// braces as what ends a part.
fn as_written(source: &str) -> String {
    let mut joined = String::new();
    for line in source.lines() {
        match line.strip_suffix('\\') {
            Some(begun) => joined.push_str(if joined.ends_with('\n') { begun } else { begun.trim_start() }),
            None => {
                joined.push_str(if joined.ends_with('\n') { line } else { line.trim_start() });
                joined.push('\n');
            }
        }
    }
    joined.replace("\\\"", "\"")
}

/// The tables of codes are those of the code.
#[test]
fn the_documented_exit_codes_are_the_list() {
    let page = fs::read_to_string(tools::repository().join("docs/exit-codes.md")).expect("the page");
    let section = |name: &str| page.split(&format!("\n## {name}\n")).nth(1).and_then(|rest| rest.split("\n## ").next());
    let codes = section("The codes").expect("the codes");
    let rows: Vec<&str> = codes.lines().filter(|line| line.starts_with("| ")).collect();
    let named = rows.iter().filter_map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        Some((cells.next()?.parse::<u8>().ok()?, cells.next()?.strip_prefix('`')?.strip_suffix('`')?.to_owned()))
    });
    let named: Vec<(u8, String)> =
        named.filter(|(_, name)| name.chars().all(|c| c == '_' || c.is_uppercase())).collect();
    let list: Vec<(u8, String)> = ExitCode::ALL.iter().map(|code| (*code as u8, code.name().to_owned())).collect();
    assert_eq!(named, list);

    let with = |exit: ExitCode| {
        let codes = ErrorCode::ALL.iter().filter(|code| code.exit_code() == exit);
        let names: Vec<String> = codes.map(|code| format!("`{}`", code.as_str())).collect();
        format!("| {} | {} |", exit as u8, names.join(", "))
    };
    for exit in [ExitCode::Retryable, ExitCode::Terminal] {
        assert!(rows.contains(&with(exit).as_str()), "no row {}", with(exit));
    }
    let others = ErrorCode::ALL.iter().map(|code| code.exit_code());
    let mut others = others.filter(|exit| ![ExitCode::Retryable, ExitCode::Terminal].contains(exit));
    assert!(others.all(|exit| exit == ExitCode::UserError) && rows.contains(&"| 2 | any other |"));

    let verifier = section("walwarden-verifier").expect("the verifier's");
    for (failure, begins) in [(Failure::bad("x", "y"), "BAD EVIDENCE"), (Failure::not_checked("x"), "NOT CHECKED")] {
        assert!(failure.to_string().starts_with(begins));
        assert!(verifier.contains(&format!("\n| {} | `{begins}` |", failure.exit_code())), "{begins}");
    }
}

/// A program, its arguments, a variable, and its code.
type Case<'a> = (&'a str, &'a [&'a str], Option<(&'a str, &'a str)>, u8);

/// What the programs end with, where that takes no server.
#[test]
fn programs_end_with_the_documented_codes() {
    let nowhere = tempfile::tempdir().unwrap();
    let file = shown(&nowhere.path().join("a-file"));
    fs::write(&file, "").unwrap();
    let out = shown(&nowhere.path().join("out"));
    let dump = ["dump-to-file", "--out", &out];
    let source = |dsn: &'static str| Some(("WALWARDEN_SOURCE_DSN", dsn));
    let cases: [Case; 11] = [
        ("walwarden", &["--version"], None, 0),
        ("walwarden", &[], None, 2),
        ("walwarden", &["restore"], None, 2),
        ("walwarden", &["prove", "--envelope", &file, "--annex", &file, "--pubkey", &file], None, 2),
        ("walwarden-runner", &[], None, 2),
        ("walwarden-runner", &dump, source("postgresql://u@127.0.0.1:1/x"), 1),
        ("walwarden-runner", &dump, source("postgresql://u@x-pooler.eu.neon.tech/x"), 3),
        ("walwarden-verifier", &["--bundle", &file, "--pubkey", &file], None, 2),
        ("walwarden-verifier", &["--nonsense"], None, 2),
        ("walwarden-server", &["up", "--data-dir", &file], None, 1),
        ("walwarden-server", &["up", "--nonsense"], None, 2),
    ];
    for (name, arguments, variable, code) in cases {
        let mut command = std::process::Command::new(bin(name));
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(variable).args(arguments);
        let said = program::run(&mut command);
        assert_eq!(said.code, i32::from(code), "{name} {arguments:?}: {said}");
        assert!(code < 2 || !said.stderr.is_empty(), "{name} {arguments:?} says nothing");
    }
}

const EXAMPLE: &str = "\
Words.
```sh
echo \"one $OWN at db.example.com\"
```
```text
one … at here
```
<!-- the content of file.json -->
```json
{\"a\": 1}
```
<!-- not run: it would fail -->
```sh
false
```
1. In a list
   ```sh
   cat file.json
   false
   ```
# Another section
```text
not printed by anything
```
";

/// What the pages rely on: a command that fails is told with its block and without secrets, and so is what is not said.
#[test]
fn a_page_that_does_not_do_what_it_shows_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let shell = |literals: &[(&'static str, &str)]| Shell {
        directory: directory.path(),
        environment: vec![("PATH", "/usr/bin:/bin".into()), ("OWN", "hunter2".into())],
        literals: literals.iter().map(|(literal, own)| (*literal, (*own).to_owned())).collect(),
        secrets: vec!["hunter2".into()],
    };
    let here = [("db.example.com", "here")];
    let page = |text: &str| Page::parse("page.md", text).unwrap();
    let whole = page(EXAMPLE);
    assert_eq!(whole.messages, ["not printed by anything"]);
    let failed = shell(&here).run(&whole).unwrap_err();
    assert!(failed.starts_with("page.md:17: exit code 1\ncat file.json\nfalse\n--- it said"), "{failed}");
    assert!(failed.ends_with("{\"a\": 1}"), "{failed}");

    let good = EXAMPLE.replace("   false\n", "");
    assert_eq!(shell(&here).run(&page(&good)), Ok(()));
    let unsaid = shell(&here).run(&page(&good.replace("one …", "two …"))).unwrap_err();
    assert!(unsaid.contains("page.md:2: shown and not printed: two … at here"), "{unsaid}");
    assert!(unsaid.ends_with("one [redacted] at here"), "{unsaid}");
    let unused = shell(&[("nowhere", "x")]).run(&page(&good)).unwrap_err();
    assert!(unused.contains("[\"nowhere\"]"), "{unused}");

    for wrong in ["```bash\n```\n", "<!-- not run: -->\n```sh\n```\n", "```sh\n", "<!-- not run: why -->\nwords\n"] {
        assert!(Page::parse("page.md", wrong).is_err(), "{wrong:?} is understood");
    }
    assert!(is_shown("a … c", "a b c") && !is_shown("a … c", "a b d") && !is_shown("a", "a b"));
    assert_eq!(missing(&["2".into(), "1".into()], "1\n2\n"), Some("1"));
}
