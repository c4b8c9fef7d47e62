//! What is left of a failure: the log's entry, the runner's exit code, objects and uploads in the bucket. The API shows no
//! entries of a backup that did not complete, so the log is read where the server keeps it.

use std::fs;

use serde_json::Value;

use crate::{
    patience,
    server::Server,
    stack::{BUCKET, Stack},
};

/// An entry has less than a kilobyte, with the backslashes of text in text.
const ENTRY_BYTES: usize = 2000;

/// The log's entries that name a job, in no order, some of them more than once.
fn entries(server: &Server, about: &str) -> Vec<Value> {
    let files = ["table.sqlite", "table.sqlite-wal"];
    let bytes: Vec<u8> = files.iter().flat_map(|name| fs::read(server.data().join(name)).unwrap_or_default()).collect();
    let pages = String::from_utf8_lossy(&bytes);
    let mut found = Vec::new();
    for (at, _) in pages.match_indices(about) {
        let around =
            pages.floor_char_boundary(at.saturating_sub(ENTRY_BYTES))..pages.ceil_char_boundary(at + ENTRY_BYTES);
        // What is looked for holds nothing that needs a backslash.
        let text = pages[around].replace('\\', "");
        let starts = text.match_indices(r#"{"actor":""#).map(|(at, _)| at);
        found.extend(starts.filter_map(|at| -> Option<Value> {
            serde_json::Deserializer::from_str(&text[at..]).into_iter().next()?.ok()
        }));
    }
    found.retain(|entry| entry["jobId"] == about || entry["actor"] == about);
    found
}

/// An entry of a kind about a job, or caused by it; waited for.
pub fn entry(server: &Server, kind: &str, about: &str) -> Value {
    patience::expect(&format!("{kind} of {about} in the log"), 20, || {
        entries(server, about).into_iter().find(|entry| entry["kind"] == kind)
    })
}

/// Whether the log has such an entry.
pub fn has_entry(server: &Server, kind: &str, about: &str) -> bool {
    entries(server, about).iter().any(|entry| entry["kind"] == kind)
}

fn log(server: &Server) -> String {
    let path = server.data().with_file_name("log");
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A word that the server's own log has after `name=` in the last line with `what` about a job.
fn logged(server: &Server, what: &str, job: &str, name: &str) -> String {
    let job = format!("job={job}");
    patience::expect(&format!("{what:?} of {job}"), 90, || {
        let log = log(server);
        let line = log.lines().rfind(|line| line.contains(what) && line.contains(&job))?;
        Some(line.split_once(&format!(" {name}="))?.1.to_owned())
    })
}

/// How a job's runner ended: its exit code, or the signal that ended it.
pub fn runner_ended(server: &Server, job: &str) -> String {
    let status = logged(server, "runner ended", job, "status");
    let code = status.strip_prefix("exit status: ").map(|code| code.trim().to_owned());
    code.unwrap_or_else(|| status.split(' ').next_back().unwrap_or_default().trim_matches(['(', ')']).to_owned())
}

/// The process id of a job's runner.
pub fn runner_pid(server: &Server, job: &str) -> i32 {
    let pid = logged(server, "runner started", job, "pid");
    pid.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a pid")
}

/// Nothing of a backup that failed is called one, and no upload of it is left open.
#[track_caller]
pub fn is_no_backup(stack: &Stack, database: &str, backup: &str) {
    let shown = stack.api.get(&format!("/api/v1/databases/{database}")).ok();
    assert_eq!((&shown["protectedUntil"], &shown["lastCompletedBackupId"]), (&Value::Null, &Value::Null), "{shown:#}");
    stack.api.get(&format!("/api/v1/evidence/{backup}")).refused(412, "backup_not_completed");
    assert!(!has_entry(&stack.server, "backup.completed", backup), "{backup}");
    let keys = stack.seaweed.keys(BUCKET, "org/").expect("the bucket's keys");
    let manifest = keys.iter().find(|key| key.contains(backup) && key.ends_with(".manifest.json"));
    assert_eq!(manifest, None, "a manifest of a backup that failed");
    has_no_upload(stack, backup);
}

/// No upload of a backup is left open, a moment later.
#[track_caller]
pub fn has_no_upload(stack: &Stack, backup: &str) {
    let closed = patience::within(30, || {
        let uploads = stack.seaweed.unfinished_uploads(BUCKET).expect("the bucket's uploads");
        (!uploads.iter().any(|(key, _)| key.contains(backup))).then_some(())
    });
    assert!(closed.is_some(), "an upload of {backup} is left open");
}
