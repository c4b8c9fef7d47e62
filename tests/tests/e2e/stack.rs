//! A server, a locked bucket on a server of its own, and what a person does with the two through the public API.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use serde_json::{Value, json};
use walwarden_tests::{Seaweed, bin, seaweed::Version};

use crate::{
    api::Api,
    patience,
    program::{self, Said},
    server::Server,
};

pub const BUCKET: &str = "backups";

/// Everything but a database.
pub struct Stack {
    pub seaweed: Seaweed,
    pub server: Server,
    pub api: Api,
    /// The destination every database goes to where no other is asked for.
    pub destination: String,
}

/// A completed backup.
#[derive(Clone, Debug)]
pub struct Backup {
    pub id: String,
    /// The backup as the API shows it.
    pub job: Value,
}

impl Backup {
    /// Key of the artifact.
    pub fn key(&self) -> &str {
        self.job["artifact"]["key"].as_str().expect("a key")
    }

    /// What the keys of all its objects begin with.
    pub fn stem(&self) -> &str {
        self.key().strip_suffix(".dump").expect("an artifact's key")
    }

    pub fn manifest(&self) -> &str {
        self.job["artifact"]["manifest"]["sha256"].as_str().expect("a manifest hash")
    }
}

impl Stack {
    /// A stack that no other test touches.
    pub fn start() -> Stack {
        Self::start_with(&[])
    }

    /// As [`Stack::start`], with more in the server's environment.
    pub fn start_with(environment: &[(&str, &str)]) -> Stack {
        let seaweed = Seaweed::start().expect("an S3 server");
        seaweed.create_locked_bucket(BUCKET).expect("a locked bucket");
        let server = Server::start(environment);
        let api = Api { url: server.url(), token: server.operator_token() };
        let mut stack = Stack { seaweed, server, api, destination: String::new() };
        stack.destination = stack.add_destination(&stack.seaweed.endpoint());
        stack
    }

    /// One stack for all tests of this process that leave it as they found it, gone when the last of them ends.
    pub fn shared() -> Arc<Stack> {
        static SHARED: Mutex<Weak<Stack>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Stack::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    /// Kills the server at once and starts it again, its clock so far ahead of the machine's.
    pub fn restart(&mut self, ahead_seconds: u64) {
        self.server.kill();
        self.server.start_again(&[("WALWARDEN_TEST_CLOCK_AHEAD_SECONDS", &ahead_seconds.to_string())]);
    }

    /// Registers the bucket as it is reached at `endpoint`, and verifies it.
    pub fn add_destination(&self, endpoint: &str) -> String {
        self.add_destination_with(endpoint, json!({}))
    }

    /// As [`Stack::add_destination`]; `more` adds to the request.
    pub fn add_destination_with(&self, endpoint: &str, more: Value) -> String {
        let mut request = json!({
            "name": "a bucket of the tests", "provider": "s3_compatible", "endpoint": endpoint, "bucket": BUCKET,
            "region": self.seaweed.region(), "accessKeyId": self.seaweed.access_key,
            "secretAccessKey": self.seaweed.secret_key,
        });
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let id = text(&self.api.post("/api/v1/destinations", &request).ok()["id"]);
        let preflight = self.api.post(&format!("/api/v1/destinations/{id}/preflight"), &json!({})).ok();
        assert_eq!(preflight["result"], "verified", "{preflight:#}");
        id
    }

    /// Registers a database and waits until a runner has found that it can be backed up. `more` adds to the request.
    pub fn add_database(&self, name: &str, dsn: &str, more: Value) -> String {
        let mut request = json!({ "name": name, "dsn": dsn, "destinationId": self.destination });
        let more = more.as_object().expect("an object").clone();
        request.as_object_mut().expect("an object").extend(more);
        let id = text(&self.api.post("/api/v1/databases", &request).ok()["id"]);
        let check = patience::expect("the source check", 60, || {
            let check = self.api.get(&format!("/api/v1/databases/{id}")).ok()["check"].clone();
            (check["final"] == true).then_some(check)
        });
        assert_eq!((&check["state"], &check["problems"]), (&json!("completed"), &json!([])), "{check:#}");
        id
    }

    /// Asks for a backup.
    pub fn trigger(&self, database: &str) -> String {
        let triggered = self.api.post(&format!("/api/v1/databases/{database}/backups"), &json!({}));
        assert_eq!(triggered.status, 202, "{}", triggered.text());
        text(&triggered.json()["backupJobId"])
    }

    /// A backup as the API shows it.
    pub fn backup(&self, id: &str) -> Value {
        self.api.get(&format!("/api/v1/backups/{id}")).ok()
    }

    /// Waits for a backup to end, which it must do well.
    pub fn completed(&self, id: &str) -> Backup {
        let job = patience::within(90, || Some(self.backup(id)).filter(|job| job["final"] == true));
        let job = job.unwrap_or_else(|| panic!("backup {id} does not end: {:#}", self.backup(id)));
        assert_eq!(job["state"], "completed", "{job:#}");
        Backup { id: id.to_owned(), job }
    }

    /// Backs a database up.
    pub fn back_up(&self, database: &str) -> Backup {
        self.completed(&self.trigger(database))
    }

    /// Waits until checkpoint and bundle of a backup are in the bucket; gives the bundle.
    pub fn published_bundle(&self, backup: &Backup) -> Vec<u8> {
        let path = format!("/api/v1/evidence/{}", backup.id);
        let key = patience::expect("the bundle in the bucket", 60, || {
            self.api.get(&path).ok()["bundleKey"].as_str().map(str::to_owned)
        });
        self.seaweed.get(BUCKET, &key, None).expect("the published bundle")
    }

    /// A bundle of a backup as of now.
    pub fn bundle(&self, backup: &Backup) -> Vec<u8> {
        let answer = self.api.get(&format!("/api/v1/evidence/{}/bundle", backup.id));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.bytes
    }

    /// The published public keys.
    pub fn public_keys(&self) -> Vec<u8> {
        self.api.get("/.well-known/walwarden-pubkey.pem").bytes
    }

    /// The artifact in the bucket: exactly the version the API names.
    pub fn artifact(&self, backup: &Backup) -> Vec<u8> {
        let version = backup.job["artifact"]["versionId"].as_str();
        self.seaweed.get(BUCKET, backup.key(), version).expect("the artifact")
    }

    /// The annex in the bucket.
    pub fn annex(&self, backup: &Backup) -> Vec<u8> {
        self.seaweed.get(BUCKET, &format!("{}.annex.jsonl.gz", backup.stem()), None).expect("the annex")
    }

    /// All versions and delete markers of the keys that begin so.
    pub fn versions(&self, prefix: &str) -> Vec<Version> {
        self.seaweed.versions(BUCKET, prefix).expect("the bucket's versions")
    }
}

/// `walwarden-verifier` over a bundle and what else is given, each as a file.
pub struct Verification {
    directory: tempfile::TempDir,
    arguments: Vec<PathBuf>,
}

impl Verification {
    pub fn of(bundle: &[u8], public_keys: &[u8]) -> Verification {
        let directory = tempfile::Builder::new().prefix("ww-verify-").tempdir().expect("a directory");
        Verification { directory, arguments: Vec::new() }.with("bundle", bundle).with("pubkey", public_keys)
    }

    /// One more file, for the option of that name.
    pub fn with(mut self, option: &str, bytes: &[u8]) -> Verification {
        let path = self.directory.path().join(format!("{option}-{}", self.arguments.len()));
        std::fs::write(&path, bytes).expect("a file");
        self.arguments.extend([format!("--{option}").into(), path]);
        self
    }

    pub fn run(&self) -> Said {
        let mut command = std::process::Command::new(bin("walwarden-verifier"));
        program::run(command.env_clear().args(&self.arguments))
    }

    /// Fails the test unless everything is as it must be; gives the sentences.
    #[track_caller]
    pub fn passes(&self) -> String {
        let out = self.run().silently().stdout();
        for sentence in ["SIGNED: ", "LOGGED: ", "OK: 1 manifests verified, "] {
            assert!(out.lines().any(|line| line.starts_with(sentence)), "no {sentence:?} in:\n{out}");
        }
        out
    }

    /// Fails the test unless something at `place` is found wrong.
    #[track_caller]
    pub fn finds_bad(&self, place: &str) {
        let said = self.run();
        let found = said.stderr.starts_with(&format!("BAD EVIDENCE: {place}"));
        assert!(said.code == 1 && found && said.stdout.is_empty(), "not bad evidence at {place}: {said}");
    }

    /// Fails the test unless something could not be decided.
    #[track_caller]
    pub fn decides_nothing(&self) {
        let said = self.run();
        assert!(said.code == 2 && said.stderr.starts_with("NOT CHECKED: ") && said.stdout.is_empty(), "{said}");
    }
}

/// A member that must be text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not text: {value}")).to_owned()
}
