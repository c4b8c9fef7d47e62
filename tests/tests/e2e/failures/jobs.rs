//! Asking for a backup that is going to fail, and looking at the failure from every side there is.

use serde_json::{Value, json};
use walwarden_contract::failure::FailureClass;

use super::{
    ledger,
    page::{JobRow, Row},
};
use crate::{
    patience,
    stack::{Stack, text},
};

/// What to provoke, and how.
pub struct Case<'a> {
    pub class: FailureClass,
    pub provoked: &'a str,
    /// What the database is called in the API.
    pub name: &'a str,
    pub dsn: String,
    /// What the request says besides.
    pub more: Value,
}

/// A database that was added and checked.
pub struct Added {
    pub id: String,
    check: Value,
}

/// How a backup's runner must have ended.
#[derive(Clone, Copy)]
pub enum Runner {
    /// With the exit code of the class.
    OfClass,
    /// So.
    So(&'static str),
    /// That is not known: its server was restarted, or there was no runner.
    Unseen,
}

/// What the exit code says of a class.
fn exit_of(class: FailureClass) -> &'static str {
    if class.is_retryable() { "1" } else { "3" }
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Fails the test unless a failure, as the API shows it, is what the list says of its class.
#[track_caller]
pub fn is_of(failure: &Value, class: FailureClass) {
    let listed = json!({ "class": class.as_str(), "retryable": class.is_retryable(), "remedy": class.remedy() });
    assert_eq!(*failure, listed);
}

impl Case<'_> {
    /// Adds the database and waits for the end of its check, whatever it is.
    pub fn add(&self, stack: &Stack) -> Added {
        let mut request = json!({ "name": self.name, "dsn": self.dsn, "destinationId": stack.destination });
        let more = self.more.as_object().cloned().unwrap_or_default();
        request.as_object_mut().expect("an object").extend(more);
        let id = text(&stack.api.post("/api/v1/databases", &request).ok()["id"]);
        let check = patience::expect(&format!("the check of {}", self.name), 90, || {
            let check = stack.api.get(&format!("/api/v1/databases/{id}")).ok()["check"].clone();
            (check["final"] == true).then_some(check)
        });
        Added { id, check }
    }

    /// The whole of a case in which nothing is to be done meanwhile.
    pub fn run(&self, stack: &Stack) -> Row {
        let added = self.add(stack);
        let backup = stack.trigger(&added.id);
        self.failed(stack, &added, &backup, Runner::OfClass)
    }

    /// Waits until the backup has failed and holds everything to the class; cancels what would be tried again.
    pub fn failed(&self, stack: &Stack, added: &Added, backup: &str, runner: Runner) -> Row {
        let (class, server) = (self.class, &stack.server);
        let check = self.checked(stack, &added.check);
        let job = patience::expect(&format!("{class}: the end of {backup}"), 120, || {
            Some(stack.backup(backup)).filter(|job| !job["failure"].is_null())
        });
        is_of(&job["failure"], class);
        let again = class.is_retryable();
        let state = if again { "failed_retryable" } else { "failed_terminal" };
        assert_eq!((&job["state"], &job["final"]), (&json!(state), &json!(!again)), "{job:#}");
        assert_eq!(job["nextAttemptAt"].is_string(), again, "{job:#}");

        let entry = ledger::entry(server, "backup.failed", backup);
        let said = json!({ "attempt": 1, "class": class.as_str(), "final": !again, "retryable": again });
        assert_eq!(entry["payload"], said, "{class}: {entry:#}");
        let ended = match runner {
            Runner::Unseen => "–".to_owned(),
            Runner::OfClass => {
                let ended = ledger::runner_ended(server, backup);
                assert_eq!(ended, exit_of(class), "{class}: the runner's exit code");
                ended
            }
            Runner::So(so) => {
                let ended = ledger::runner_ended(server, backup);
                assert_eq!(ended, so, "{class}: the runner's end");
                ended
            }
        };
        if again {
            let cancelled = stack.api.post(&format!("/api/v1/backups/{backup}/cancel"), &json!({})).ok();
            assert_eq!((&cancelled["state"], &cancelled["final"]), (&json!("cancelled"), &json!(true)));
        }
        ledger::is_no_backup(stack, &added.id, backup);
        Row::Job(JobRow {
            class: Some(class),
            provoked: self.provoked.to_owned(),
            check,
            backup: format!("`{state}`{}", if again { "" } else { ", final" }),
            runner: ended,
            entry: format!("`backup.failed`, retryable {}", yes_or_no(again)),
        })
    }

    /// What the check found: nothing, or the class.
    fn checked(&self, stack: &Stack, check: &Value) -> String {
        let problems = check["problems"].as_array().expect("a list");
        if check["state"] == "completed" && problems.is_empty() {
            assert_eq!(check["failure"], Value::Null, "{check:#}");
            return "ready".into();
        }
        is_of(&check["failure"], self.class);
        let entry = ledger::entry(&stack.server, "database.checked", &text(&check["id"]));
        let said = (&entry["payload"]["result"], &entry["payload"]["class"]);
        assert_eq!(said, (&json!("failed"), &json!(self.class.as_str())), "{entry:#}");
        if problems.is_empty() {
            assert_eq!(check["state"], "failed", "{check:#}");
            let ended = ledger::runner_ended(&stack.server, &text(&check["id"]));
            assert_eq!(ended, exit_of(self.class), "{}: the exit code of the check's runner", self.class);
            return "`failed`, the same class".into();
        }
        let is_sql = self.class != FailureClass::SourceSelection;
        let has_remedy =
            |problem: &Value| problem.as_str().is_some_and(|text| text.contains(": ") && text.ends_with(';') == is_sql);
        assert!(problems.iter().all(has_remedy), "{check:#}");
        match is_sql {
            true => "`completed`, with problems and the SQL to run".into(),
            false => "`completed`, with problems and what to change".into(),
        }
    }

    /// A backup that completes in spite of it.
    pub fn completes(&self, stack: &Stack, added: &Added, backup: &str) -> Row {
        let backup = stack.completed(backup);
        assert_eq!((&backup.job["attempt"], &backup.job["failure"]), (&json!(1), &Value::Null), "{:#}", backup.job);
        let ended = ledger::runner_ended(&stack.server, &backup.id);
        assert_eq!(ended, "0");
        assert!(!ledger::has_entry(&stack.server, "backup.failed", &backup.id));
        ledger::entry(&stack.server, "backup.completed", &backup.id);
        Row::Job(JobRow {
            class: None,
            provoked: self.provoked.to_owned(),
            check: self.checked(stack, &added.check),
            backup: "`completed`, final".into(),
            runner: ended,
            entry: "`backup.completed`".into(),
        })
    }
}
