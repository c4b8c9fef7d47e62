//! The real CLI, as its one-liner is pasted, and what may not come of it.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use walwarden_tests::{Postgres, bin};

use crate::{
    patience,
    program::{self, Said},
    stack::{Backup, Stack, text},
};

/// A restore token, and what goes with it.
#[derive(Clone, Debug)]
pub struct Issued {
    pub restore_id: String,
    pub token: String,
    pub manifest: String,
}

impl Stack {
    /// Issues a token for a new database of that name, or of the source's name.
    pub fn issue(&self, backup: &Backup, name: Option<&str>) -> Issued {
        let mut request = json!({ "backupJobId": backup.id, "mode": "new_database" });
        if let Some(name) = name {
            request["createdDatabase"] = name.into();
        }
        let answer = self.api.post("/api/v1/restores", &request);
        assert_eq!(answer.status, 202, "{}", answer.text());
        let answer = answer.json();
        let issued = Issued {
            restore_id: text(&answer["restoreJobId"]),
            token: text(&answer["token"]),
            manifest: text(&answer["manifestHash"]),
        };
        assert_eq!(issued.manifest, backup.manifest());
        issued
    }

    /// Issues a token for a restore over a database.
    pub fn issue_in_place(&self, backup: &Backup) -> Issued {
        let answer = self.api.post("/api/v1/restores", &json!({ "backupJobId": backup.id, "mode": "in_place" }));
        assert_eq!(answer.status, 202, "{}", answer.text());
        let answer = answer.json();
        Issued {
            restore_id: text(&answer["restoreJobId"]),
            token: text(&answer["token"]),
            manifest: text(&answer["manifestHash"]),
        }
    }

    /// A restore as the API shows it.
    pub fn restore_job(&self, issued: &Issued) -> Value {
        self.api.get(&format!("/api/v1/restores/{}", issued.restore_id)).ok()
    }
}

/// `walwarden restore`, about to be run against a cluster.
pub struct Restore<'a> {
    target: &'a Postgres,
    command: Command,
    work: tempfile::TempDir,
    secrets: Vec<String>,
}

impl<'a> Restore<'a> {
    /// A restore into a new database, by the server at `url`, with pg_restore of the target's own version.
    pub fn new(url: &str, issued: &Issued, target: &'a Postgres) -> Restore<'a> {
        Self::by_mode(url, issued, target, "new_database").args(&["--manifest", &issued.manifest])
    }

    /// A restore over the database that [`Self::connect_to`] names.
    pub fn in_place(url: &str, issued: &Issued, target: &'a Postgres) -> Restore<'a> {
        let restore = Self::by_mode(url, issued, target, "in_place");
        restore.args(&["--manifest", &issued.manifest, "--confirm-destructive"])
    }

    fn by_mode(url: &str, issued: &Issued, target: &'a Postgres, mode: &str) -> Restore<'a> {
        let work = tempfile::Builder::new().prefix("ww-restore-").tempdir().expect("a directory");
        let mut command = Command::new(bin("walwarden"));
        command.env_clear().env("HOME", work.path().join("no-home")).env("PATH", "/usr/bin:/bin");
        command.env("TMPDIR", work.path());
        command.env("WALWARDEN_BASE_URL", url).env("WALWARDEN_TOKEN", &issued.token);
        command.env("WALWARDEN_TARGET", target.dsn("postgres")).env("WALWARDEN_PG_BIN", target.bin_dir());
        command.env("WALWARDEN_WORK_DIR", work.path().join("work"));
        command.args(["restore", "--mode", mode]);
        let secrets = vec![issued.token.clone(), target.password().to_owned()];
        Restore { target, command, work, secrets }
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Connects as another role.
    pub fn connect_as(self, user: &str, password: &str) -> Self {
        self.connect_to(user, password, "postgres")
    }

    /// Connects as another role, to that database.
    pub fn connect_to(mut self, user: &str, password: &str, database: &str) -> Self {
        self.command.env("WALWARDEN_TARGET", self.target.dsn_as(user, password, database));
        self.secrets.push(password.to_owned());
        self
    }

    /// Connects by that connection string of the superuser.
    pub fn connect_by(mut self, dsn: &str) -> Self {
        self.command.env("WALWARDEN_TARGET", dsn);
        self
    }

    /// Runs it. Whatever comes of it, it has said no secret.
    pub fn run(mut self) -> Finished {
        let said = program::run(&mut self.command);
        for secret in &self.secrets {
            let spoken = said.stdout().contains(secret.as_str()) || said.stderr.contains(secret.as_str());
            assert!(!spoken, "a secret was said:\n{said}");
        }
        let left = std::fs::read_dir(self.work.path().join("work")).into_iter().flatten().flatten();
        let left = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        Finished { said, left }
    }

    /// Starts it, and kills it with SIGKILL as soon as `moment` says so of the lines it has written to standard output.
    /// Returns whether it was killed before it had ended.
    pub fn kill_at(mut self, moment: impl Fn(&str) -> bool) -> bool {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = self.command.spawn().expect("walwarden");
        let out = child.stdout.take().expect("standard output");
        let said = Arc::new(Mutex::new(String::new()));
        let reader = thread::spawn({
            let said = said.clone();
            move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    said.lock().expect("the lines").push_str(&format!("{line}\n"));
                }
            }
        });
        let killed = patience::expect("the moment, or the end", 120, || {
            if child.try_wait().expect("the child").is_some() {
                return Some(false);
            }
            let now = moment(&said.lock().expect("the lines"));
            now.then(|| child.kill().is_ok())
        });
        child.wait().expect("the child");
        reader.join().expect("the reader");
        killed
    }

    /// Runs it, to be refused with that exit code and error: one clear line, a hint, nothing written to the target and
    /// nothing left on this machine.
    #[track_caller]
    pub fn must_be_refused(self, exit: u8, line: &str) -> Finished {
        let (target, before) = (self.target, roles_and_databases(self.target));
        let finished = self.run();
        finished.failed(exit, line);
        assert_eq!(roles_and_databases(target), before, "something was written to the target: {}", finished.said);
        assert!(finished.left.is_empty(), "left behind: {:?}", finished.left);
        finished
    }
}

/// An ended `walwarden restore`.
pub struct Finished {
    pub said: Said,
    /// What lies in its work directory.
    pub left: Vec<String>,
}

impl Finished {
    /// Fails the test unless it ended with that exit code, one error line and a hint.
    #[track_caller]
    pub fn failed(&self, exit: u8, line: &str) {
        let said = &self.said;
        let lines = |prefix: &str| said.stderr.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>();
        let (errors, hints) = (lines("error: "), lines("hint: "));
        let clear = errors.len() == 1 && errors[0].contains(line) && !hints.is_empty();
        assert!(said.code == i32::from(exit) && clear, "not exit {exit} with {line:?} and a hint: {said}");
    }

    /// The JSON documents it wrote.
    pub fn documents(&self) -> Vec<Value> {
        let out = self.said.stdout();
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// What it said of a state it reached.
    pub fn state(&self, name: &str) -> Option<Value> {
        self.documents().into_iter().find(|document| document["state"] == name).map(|state| state["payload"].clone())
    }

    /// Fails the test unless everything was restored and proven.
    #[track_caller]
    pub fn is_identical(&self) {
        let completed = self.state("completed").unwrap_or_else(|| panic!("not completed: {}", self.said));
        assert!(self.said.code == 0 && completed["proof"]["result"] == "identical", "{}", self.said);
        assert!(self.said.stderr.lines().any(|line| line.starts_with("identical: ")), "{}", self.said);
        assert!(completed["sealed"] == true && self.left.is_empty(), "{completed:#}; left: {:?}", self.left);
    }
}

/// What a cluster has that no restore may touch unless it succeeds.
pub fn roles_and_databases(target: &Postgres) -> String {
    let all = "SELECT string_agg(kind || quote_ident(name), ' ' ORDER BY kind, name) FROM (SELECT 'database ' AS kind, datname::text AS name FROM pg_database UNION ALL SELECT 'role ', rolname FROM pg_roles) AS all_of_them";
    target.query_one("postgres", all).expect("what the target has")
}
