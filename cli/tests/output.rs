//! What people and programs are told: every documented line, lines that fit a screen, and nothing that moves a cursor
//! where there is no terminal.

mod support;

use std::{
    collections::BTreeSet,
    process::{Command, Output, Stdio},
    sync::atomic::Ordering,
};

use support::{Backup, Postgres, Server, error, events, postgres, restore, said, wait_until};
use walwarden_contract::quote;
use walwarden_verifier::annex::Omission;

const SCREEN: usize = 80;

fn names() -> (String, String) {
    (format!("sch{}", "e".repeat(60)), format!("t\u{1b}[2J\n\u{202e}{}", "a".repeat(50)))
}

/// A database whose names are long and full of control characters.
fn stage() -> (Postgres, Backup) {
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    let (schema, table) = names();
    let (schema, table) = (quote::ident(&schema), quote::ident(&table));
    let statements = format!(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} (id serial PRIMARY KEY, v bytea);
         INSERT INTO {schema}.{table} (v) SELECT sha512(n::text::bytea) FROM generate_series(1, 20000) n;
         CREATE MATERIALIZED VIEW {schema}.m AS SELECT count(*) FROM {schema}.{table}"
    );
    postgres.run("source", &statements);
    let backup = Backup::of(&postgres, "source", "-Z1").with(|annex| {
        annex.omissions = vec![Omission {
            kind: "SUBSCRIPTION".into(),
            schema: String::new(),
            name: "from\u{1b}[1m elsewhere".into(),
            reason: "notReadable".into(),
        }];
        annex.header.counts.omissions = 1;
    });
    (postgres, backup)
}

/// A restore without --json.
fn plainly(server: &Server, backup: &Backup, postgres: &Postgres, work: &std::path::Path, name: &str) -> Command {
    let json = restore(server, backup, &postgres.dsn("postgres"), "new_database", work);
    let mut command = Command::new(json.get_program());
    command.env_clear().stdin(Stdio::null());
    command.envs(json.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(json.get_args().filter(|argument| *argument != "--json"));
    command.args(["--created-database", name, "--prove"]);
    command
}

#[test]
fn every_documented_line_is_written_and_is_json() {
    let (postgres, backup) = stage();
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut command = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path());
        command.args(["--created-database", "copy"]).args(more).output().unwrap()
    };
    let keys = |event: &serde_json::Value| -> BTreeSet<String> { event.as_object().unwrap().keys().cloned().collect() };
    let find = |output: &Output, has: &dyn Fn(&serde_json::Value) -> bool| {
        let found = events(output).into_iter().find(|event| has(event));
        found.unwrap_or_else(|| panic!("{}", said(output)))
    };
    let state = |output: &Output, name: &str| find(output, &|event| event["state"] == name);
    let holds = |value: &serde_json::Value, fields: &[&str]| {
        for field in fields {
            assert!(!value[*field].is_null() || ["receiptHash", "reportCommand"].contains(field), "{field}: {value}");
        }
    };

    let plan = find(&run(&["--plan"]), &|event| !event["plan"].is_null());
    holds(&plan, &["plan", "pgRestore", "keySource", "keyId"]);
    let of_a_plan = [
        "outcome",
        "mode",
        "database",
        "temporaryDatabase",
        "counts",
        "kinds",
        "adapted",
        "leftOut",
        "rolesMade",
        "dropped",
        "commands",
        "entries",
        "omissions",
        "refusals",
        "notes",
    ];
    holds(&plan["plan"], &of_a_plan);
    let of_an_entry = ["dumpId", "kind", "schema", "name", "becomes"];
    holds(&plan["plan"]["entries"][0], &of_an_entry);
    let restored = run(&["--prove"]);
    assert!(restored.status.success(), "{}", said(&restored));
    holds(&state(&restored, "inspected")["payload"], &["keySource", "keyId", "manifestHash"]);
    holds(&state(&restored, "manifest_verified")["payload"], &["checksumSha256"]);
    let steps = ["downloading", "verifying", "restoring", "finalizing"].map(|name| state(&restored, name));
    assert!(steps.iter().all(|event| keys(event) == ["at", "payload", "state"].map(str::to_owned).into()));
    let proof = find(&restored, &|event| !event["proof"].is_null());
    assert_eq!(proof["verdict"], "identical");
    let of_a_proof =
        ["tables", "rows", "sequences", "largeObjects", "notCompared", "different", "notProven", "recomputed"];
    holds(&proof["proof"], &of_a_proof);
    assert_eq!(proof["proof"]["recomputed"].as_array().unwrap().len(), 1);
    let of_a_completion = [
        "restoreId",
        "database",
        "bytesRestored",
        "checksumSha256",
        "plan",
        "proof",
        "pgRestore",
        "sealed",
        "receiptHash",
        "reportCommand",
        "look",
    ];
    let payload = state(&restored, "completed")["payload"].clone();
    assert_eq!(keys(&payload), of_a_completion.map(str::to_owned).into());
    holds(&payload, &of_a_completion);
    // Refused: the plan, and the error last.
    let refused = run(&["--prove"]);
    let plan = find(&refused, &|event| !event["plan"].is_null());
    holds(&plan["plan"]["refusals"][0], &["code", "reason", "remedy"]);
    let last = events(&refused).pop().unwrap();
    assert_eq!(
        (keys(&last["error"]), &last["exitCode"]),
        (["code", "hint", "message"].map(str::to_owned).into(), &2.into())
    );
    // Ended otherwise.
    let wrapper = tempfile::tempdir().unwrap();
    let bin = postgres.wrapped_pg_restore(wrapper.path(), Some("exit 1"), "").display().to_string();
    let failed = run(&["--mode", "new_database"]);
    // Twice the same flag is refused.
    assert_eq!(error(&failed).0, "invalid_arguments");
    postgres.run("postgres", "DROP DATABASE copy");
    let failed = run(&["--pg-bin", &bin]);
    holds(&state(&failed, "failed_terminal")["payload"], &["class"]);
    server.behaviour.cancel.store(true, Ordering::Relaxed);
    server.behaviour.stall_after.store(1, Ordering::Relaxed);
    state(&run(&[]), "cancelled");
    server.behaviour.cancel.store(false, Ordering::Relaxed);
    let asked = server.behaviour.artifact_requests.load(Ordering::Relaxed);
    let child = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
        .args(["--created-database", "copy"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it downloads", || server.behaviour.artifact_requests.load(Ordering::Relaxed) > asked);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let stopped = child.wait_with_output().unwrap();
    holds(&state(&stopped, "interrupted")["payload"], &["resume"]);

    server.behaviour.stall_after.store(0, Ordering::Relaxed);
    let file = work.path().join("only.dump");
    let only = run(&["--download-only", file.to_str().unwrap()]);
    let of_a_file = [
        "restoreId",
        "file",
        "bytes",
        "checksumSha256",
        "envelope",
        "annex",
        "pubkey",
        "listCommand",
        "restoreCommand",
    ];
    let payload = state(&only, "downloaded")["payload"].clone();
    assert_eq!(keys(&payload), of_a_file.map(str::to_owned).into());
    holds(&payload, &of_a_file);

    // And no others are documented.
    let page = include_str!("../../docs/restore.md");
    let section = page.split("## Output for programs").nth(1).unwrap().split("\n## ").next().unwrap();
    let seen: Vec<&str> = ["inspected", "downloading", "verifying", "manifest_verified", "restoring", "finalizing"]
        .into_iter()
        .chain(["completed", "downloaded", "failed_terminal", "cancelled", "interrupted"])
        .collect();
    for documented in section.split("\"state\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(seen.contains(&documented), "{documented} is documented and was never seen");
    }
    let rows = ["| `{\"plan\"", "| `{\"state\":\"completed\"", "| `{\"state\":\"downloaded\""];
    for row in section.lines().filter(|line| rows.iter().any(|row| line.starts_with(row))) {
        for word in row.split('`').skip(1).step_by(2).filter(|word| word.bytes().all(|b| b.is_ascii_alphanumeric())) {
            let known = [&of_a_plan[..], &of_a_completion, &of_an_entry, &of_a_file].concat().contains(&word);
            let values = [
                "exact",
                "adapted",
                "refused",
                "unread",
                "restored",
                "leftOut",
                "code",
                "reason",
                "remedy",
                "kind",
                "schema",
                "name",
                "plan",
                "true",
                "false",
                "what",
                "statement",
                "definition",
            ];
            assert!(known || values.contains(&word), "`{word}` is documented and was never seen");
        }
    }
}

#[test]
fn what_a_backup_lacks_is_shown_before_the_claim() {
    let (postgres, backup) = stage();
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let output = plainly(&server, &backup, &postgres, work.path(), "copy").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let lines = String::from_utf8(output.stderr).unwrap();
    let at = |start: &str| lines.lines().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{lines}"));
    assert!(
        at("lacks     subscription from\\u{1b}[1m elsewhere: it could not be read when") < at("claimed "),
        "{lines}"
    );
    let plan = restore(&server, &backup, &postgres.dsn("postgres"), "new_database", work.path())
        .args(["--created-database", "other", "--plan"])
        .output()
        .unwrap();
    let told = events(&plan).into_iter().find(|event| !event["plan"].is_null()).unwrap();
    assert_eq!(told["plan"]["omissions"][0]["kind"], "SUBSCRIPTION");
    assert_eq!(told["plan"]["omissions"][0]["reason"], "notReadable");
}

#[test]
fn without_a_terminal_nothing_moves_a_cursor() {
    let (postgres, backup) = stage();
    let server = Server::start(&backup);
    let work = tempfile::tempdir().unwrap();
    let whole = plainly(&server, &backup, &postgres, work.path(), "copy").output().unwrap();
    assert!(whole.status.success(), "{}", said(&whole));
    // A failure quotes the names, too.
    let (schema, table) = names();
    let wrapper = tempfile::tempdir().unwrap();
    let spoil = wrapper.path().join("spoil.sql");
    let (schema, table) = (quote::ident(&schema), quote::ident(&table));
    std::fs::write(&spoil, format!("DELETE FROM {schema}.{table} WHERE id = 7")).unwrap();
    let then = format!(
        "\"$PSQL\" -X -q -d \"$DATABASE\" -f '{}'; printf 'a\\033[2Jb\\rc\\n' >&2; echo 'pg_restore: warning: \\033[2J' >&2",
        spoil.display()
    );
    let bin = postgres.wrapped_pg_restore(wrapper.path(), None, &then);
    let warned = plainly(&server, &backup, &postgres, work.path(), "other").arg("--pg-bin").arg(&bin).output().unwrap();
    assert_eq!(warned.status.code(), Some(3), "{}", said(&warned));
    let bin = postgres.wrapped_pg_restore(wrapper.path(), None, then.split("; printf").next().unwrap());
    let differs =
        plainly(&server, &backup, &postgres, work.path(), "third").arg("--pg-bin").arg(&bin).output().unwrap();
    assert_eq!(differs.status.code(), Some(3), "{}", said(&differs));
    assert!(said(&differs).contains("19,999 rows instead of 20,000"), "{}", said(&differs));
    for output in [&whole, &warned, &differs] {
        events(output);
        for text in [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap()) {
            let moving = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(moving, None, "{text}");
        }
        let lines = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(lines.contains("plan      exact") && lines.contains("claimed   rst_"), "{lines}");
    }
}

/// Rows of a screen as they were drawn, without what moves the cursor or colours.
fn drawn(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut rows = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                assert_eq!(chars.next(), Some('['), "{text:?}");
                while !chars.next().unwrap().is_ascii_alphabetic() {}
            }
            '\r' | '\n' => rows.push(String::new()),
            c => {
                assert!(!c.is_control(), "{c:?} in {text:?}");
                rows.last_mut().unwrap().push(c);
            }
        }
    }
    rows.retain(|row| !row.is_empty());
    rows
}

#[test]
fn on_a_terminal_of_eighty_columns_every_row_fits() {
    if !std::path::Path::new("/usr/bin/script").exists() {
        return;
    }
    let (postgres, backup) = stage();
    let server = Server::start(&backup);
    server.behaviour.pause_ms.store(40, Ordering::Relaxed);
    let work = tempfile::Builder::new().prefix("w").tempdir_in("/tmp").unwrap();
    let wrapper = tempfile::tempdir().unwrap();
    // Its last words stay on the screen for a while.
    let bin = postgres.wrapped_pg_restore(wrapper.path(), None, "sleep 0.5");
    let mut plain = plainly(&server, &backup, &postgres, work.path(), "copy");
    plain.arg("--pg-bin").arg(bin);
    let words: Vec<String> = std::iter::once(plain.get_program())
        .chain(plain.get_args())
        .map(|word| quote::sh(word.to_str().unwrap()))
        .collect();
    let mut script = Command::new("/usr/bin/script");
    script
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .envs([("SHELL", "/bin/sh"), ("PATH", "/usr/bin:/bin"), ("TERM", "xterm")])
        .args(["-q", "-e", "-c", &format!("stty cols {SCREEN} rows 24; exec {}", words.join(" ")), "/dev/null"])
        .stdin(Stdio::null());
    let output = script.output().unwrap();
    let rows = drawn(&output.stdout);
    let all = rows.join("\n");
    assert!(output.status.success(), "{all}");
    for row in &rows {
        // A command is to be copied whole, and the path of a program is one word.
        let whole = row.starts_with("look at it with: ") || row.trim_start().starts_with('/');
        assert!(whole || row.chars().count() <= SCREEN, "{} columns: {row}\n{all}", row.chars().count());
    }
    let bar = |start: &str| rows.iter().any(|row| row.starts_with(start) && row.contains(" of "));
    assert!(bar("download  [") && bar("restore   ["), "{all}");
    assert!(rows.iter().any(|row| row.starts_with("restore   [") && row.contains("loading scheee")), "{all}");
    assert!(rows.iter().any(|row| row.starts_with("identical: 1 table")), "{all}");
}
