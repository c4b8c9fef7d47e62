//! The two workers, runner and restore CLI, as far as the control plane sees them: they speak the protocol through
//! the router and send bytes to the bucket by the URLs they are given.

use std::sync::LazyLock;

use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use walwarden_contract::ids::BackupId;
use walwarden_verifier::parts::{self, Part, PartsList};

use crate::stack::{Reply, Stack};

static HTTP: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);

/// A claimed job.
pub struct Session<'s> {
    stack: &'s Stack,
    path: String,
    pub secret: String,
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn digests(bytes: &[u8]) -> Value {
    json!({ "sizeBytes": bytes.len(), "sha256": sha256(bytes), "md5": hex::encode(Md5::digest(bytes)) })
}

/// A session secret nobody had before.
pub fn session_secret() -> String {
    let mut bytes = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    hex::encode(bytes)
}

/// Something to upload, in parts: the control plane never looks into it. Every part but the last has S3's least size.
pub fn dump() -> Vec<Vec<u8>> {
    static PARTS: LazyLock<Vec<Vec<u8>>> =
        LazyLock::new(|| vec![b"PGDMP first part".repeat(5 << 16), b"and the last one".repeat(20)]);
    PARTS.clone()
}

impl<'s> Session<'s> {
    pub fn new(stack: &'s Stack, job: &str, secret: &str) -> Self {
        Self { stack, path: stack.job_path(job), secret: secret.into() }
    }

    /// Takes the claim secret of the last launch and claims with it.
    pub async fn claim(stack: &'s Stack, job: &str) -> Self {
        let launched = stack.launched(job).await;
        let session = Self::new(stack, job, &session_secret());
        session.claim_with(&launched).await.expect(200);
        session
    }

    pub async fn claim_with(&self, claim_secret: &str) -> Reply {
        let request = json!({
            "secret": claim_secret, "sessionSha256": sha256(self.secret.as_bytes()), "workerVersion": "0.1.0",
        });
        self.stack.post(format!("{}/claim", self.path)).anonymous().json(&request).send().await
    }

    /// Spends a restore token.
    pub async fn claim_restore(stack: &'s Stack, token: &str) -> Self {
        let secret = session_secret();
        let claimed = claim_restore(stack, token, &secret).await.expect(200);
        Self::new(stack, claimed["restoreId"].as_str().unwrap(), &secret)
    }

    async fn send(&self, what: &str, body: &Value) -> Reply {
        self.stack.post(format!("{}/{what}", self.path)).bearer(&self.secret).json(body).send().await
    }

    pub async fn instructions(&self) -> Reply {
        self.stack.get(format!("{}/instructions", self.path)).bearer(&self.secret).send().await
    }

    pub async fn state(&self) -> Reply {
        self.stack.get(format!("{}/state", self.path)).bearer(&self.secret).send().await
    }

    pub async fn part(&self, number: u32, bytes: &[u8]) -> Reply {
        let mut request = digests(bytes);
        request["number"] = number.into();
        self.send("part", &request).await
    }

    pub async fn document(&self, kind: &str, bytes: &[u8]) -> Reply {
        let mut request = digests(bytes);
        request["document"] = kind.into();
        self.send("document", &request).await
    }

    pub async fn heartbeat(&self, bytes: u64) -> Reply {
        self.send("heartbeat", &json!({ "phase": "dumping", "bytes": bytes, "bytesPerSecond": 1000 })).await
    }

    pub async fn transition(&self, step: &Value) -> Reply {
        self.send("transition", step).await
    }

    pub async fn fail(&self, class: &str) -> Reply {
        self.transition(&json!({ "to": "failed", "class": class, "detail": "it broke" })).await
    }

    pub async fn finish(&self, finish: &Value) -> Reply {
        self.send("finish", finish).await
    }

    pub async fn running(&self) -> Reply {
        let snapshot_at = self.stack.clock.now();
        self.transition(&json!({
            "to": "running", "serverVersion": "17.2 (Debian 17.2-1)", "pgDumpVersion": "17.2", "snapshotAt": snapshot_at,
        }))
        .await
    }

    /// pg_dump was started; gives when the snapshot was taken.
    pub async fn start(&self) -> String {
        self.running().await.expect(200);
        let id: BackupId = self.path.rsplit('/').next().unwrap().parse().unwrap();
        self.stack.backup(&id).await.started.unwrap().snapshot_at
    }

    /// Everything from `running` to the last document; gives what to finish with.
    pub async fn upload(&self, parts: &[Vec<u8>]) -> Value {
        let snapshot_at = self.start().await;
        for (number, bytes) in (1..).zip(parts) {
            put(&self.part(number, bytes).await.expect(200), bytes).await;
        }
        self.documents(parts, &snapshot_at).await
    }

    pub fn list_of(&self, parts: &[Vec<u8>], attempt: u32) -> Vec<u8> {
        let listed = (1..).zip(parts).map(|(number, bytes)| Part {
            number,
            size_bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        });
        let backup_id = self.path.rsplit('/').next().unwrap().to_owned();
        PartsList { v: parts::VERSION.into(), backup_id, attempt, parts: listed.collect() }.to_bytes().unwrap()
    }

    async fn documents(&self, parts: &[Vec<u8>], snapshot_at: &str) -> Value {
        let id: BackupId = self.path.rsplit('/').next().unwrap().parse().unwrap();
        let list = self.list_of(parts, self.stack.backup(&id).await.attempt);
        let annex = b"an annex, which the control plane never reads";
        for (kind, bytes) in [("annex", annex.as_slice()), ("partsList", &list)] {
            put(&self.document(kind, bytes).await.expect(200), bytes).await;
        }
        measurements(parts, &list, annex, snapshot_at)
    }
}

/// What to finish a dump with.
pub fn measurements(parts: &[Vec<u8>], list: &[u8], annex: &[u8], snapshot_at: &str) -> Value {
    let whole = parts.concat();
    json!({
        "kind": "backup",
        "checksumSha256": sha256(&whole),
        "sizeBytes": whole.len(),
        "parts": parts.len(),
        "partsList": digests(list),
        "annex": digests(annex),
        "annexUncompressedBytes": 100,
        "annexLines": 3,
        "contents": { "digest": sha256(b"contents"), "entries": 12, "tables": 2, "rows": 345 },
        "omissions": 0,
        "sourceDatabase": "orders",
        "serverVersion": "17.2 (Debian 17.2-1)",
        "pgDumpVersion": "17.2",
        "compression": "zstd:3",
        "snapshotAt": snapshot_at,
    })
}

/// Sends a body by a presigned request, exactly as told, and demands success.
pub async fn put(request: &Value, bytes: &[u8]) {
    let (status, text) = send_signed(request, bytes).await;
    assert!((200..300).contains(&status), "{status} {text}");
}

pub async fn send_signed(request: &Value, bytes: &[u8]) -> (u16, String) {
    let method = request["method"].as_str().unwrap().parse().unwrap();
    let mut sent = HTTP.request(method, request["url"].as_str().unwrap());
    for header in request["headers"].as_array().unwrap() {
        sent = sent.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    let response = sent.body(bytes.to_vec()).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap_or_default())
}

/// Reads by a presigned request.
pub async fn fetch(request: &Value) -> Vec<u8> {
    let response = HTTP.get(request["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.bytes().await.unwrap().to_vec()
}

pub async fn claim_restore(stack: &Stack, token: &str, session_secret: &str) -> Reply {
    let request = json!({
        "token": token, "sessionSha256": sha256(session_secret.as_bytes()), "workerVersion": "0.1.0",
    });
    stack.post("/worker/v1/restores/claim").anonymous().json(&request).send().await
}

pub async fn inspect(stack: &Stack, token: &str) -> Reply {
    stack.post("/worker/v1/restores/inspect").anonymous().json(&json!({ "token": token })).send().await
}

/// What a restore that went well reports.
pub fn report() -> Value {
    let whole = dump().concat();
    json!({
        "kind": "restore",
        "bytesRestored": whole.len(),
        "checksumSha256": sha256(&whole),
        "plan": { "restored": 12, "adapted": 0, "leftOut": 0 },
        "proof": {
            "result": "identical", "tables": 2, "rows": 345, "sequences": 1, "largeObjects": 0, "notCompared": 0,
        },
        "pgRestoreVersion": "17.2",
        "targetServerVersion": "17.2",
    })
}

/// A completed and published backup.
pub async fn completed(stack: &Stack, database: &walwarden_contract::ids::DatabaseId) -> BackupId {
    let id = stack.trigger(database).await;
    let session = Session::claim(stack, id.as_str()).await;
    let finish = session.upload(&dump()).await;
    session.finish(&finish).await.expect(202);
    let job = stack.sealed(&id).await;
    assert_eq!(job.state.as_str(), "completed", "{:?}", job.failure);
    id
}
