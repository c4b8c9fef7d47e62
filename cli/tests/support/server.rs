//! A control plane and a bucket in one small HTTP server: it answers as the protocol says, and misbehaves
//! as a test asks.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use walwarden_contract::token::{self, RestoreMode, RestorePurpose, RestoreTokenPayload};

use super::backup::{self, Backup};

const PIECE_BYTES: usize = 64 << 10;

pub const RESTORE: &str = "rst_01jd7z9k3m5n7p9r1t3v5x7z9a";
/// What the CLI asks for at a time.
pub const RANGE_BYTES: usize = 8 << 20;

/// Which bytes of the artifact were sent.
#[derive(Default)]
pub struct Sent {
    at_all: Vec<bool>,
    total: u64,
    first: u64,
}

impl Sent {
    fn note(&mut self, at: usize, bytes: usize, size: usize) {
        self.at_all.resize(size, false);
        let place = &mut self.at_all[at..at + bytes];
        self.total += bytes as u64;
        self.first += place.iter().filter(|sent| !**sent).count() as u64;
        place.fill(true);
    }
}

#[derive(Default)]
pub struct Behaviour {
    /// Every call of a session fails.
    pub session_down: AtomicBool,
    /// Heartbeats say cancel.
    pub cancel: AtomicBool,
    /// So many artifact requests are answered 403 before the URL is asked for again.
    pub forbid: AtomicU32,
    /// So many artifact answers end early.
    pub cut: AtomicU32,
    /// After so many artifact answers the next ones never end; 0 = none.
    pub stall_after: AtomicUsize,
    /// Answers with what is behind so many ranges of the artifact never come; 0 = all come.
    pub stall_behind: AtomicUsize,
    /// The artifact is sent a piece at a time, with a pause of so many milliseconds after each.
    pub pause_ms: AtomicU64,
    /// Raised: artifact answers that are under way end.
    pub drops: AtomicU64,
    /// Raised: URLs of the artifact that were given before are answered 403.
    pub expirations: AtomicU64,
    /// What was sent of the artifact.
    pub sent: Mutex<Sent>,
    /// Requests for the artifact so far.
    pub artifact_requests: AtomicUsize,
    /// Claims so far.
    pub claims: AtomicUsize,
    /// Results are taken and never answered.
    pub never_answer_results: AtomicBool,
    /// Results that came so far.
    pub results: AtomicUsize,
    /// What the session reported.
    pub reported: Mutex<Vec<Value>>,
}

pub struct Server {
    port: u16,
    backup: Arc<Mutex<Served>>,
    pub behaviour: Arc<Behaviour>,
}

#[derive(Clone)]
struct Served {
    artifact: Arc<Vec<u8>>,
    annex: Arc<Vec<u8>>,
    envelope: String,
    pem: String,
    manifest_hash: String,
}

impl Server {
    pub fn start(backup: &Backup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Served {
            artifact: Arc::new(backup.artifact.clone()),
            annex: Arc::new(backup.annex.clone()),
            envelope: backup.envelope.clone(),
            pem: backup.pem.clone(),
            manifest_hash: backup.manifest_hash.clone(),
        };
        let server = Self { port, backup: Arc::new(Mutex::new(served)), behaviour: Arc::default() };
        let (served, behaviour) = (server.backup.clone(), server.behaviour.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, behaviour) = (served.lock().unwrap().clone(), behaviour.clone());
                std::thread::spawn(move || drop(answer(stream, port, &served, &behaviour)));
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn token(&self, mode: &str) -> String {
        self.token_until(mode, jiff::Timestamp::now().as_second() + 3600)
    }

    pub fn token_until(&self, mode: &str, exp: i64) -> String {
        let payload = RestoreTokenPayload {
            v: 1,
            kid: "k".into(),
            aud: "test".into(),
            org_id: backup::ORG.parse().unwrap(),
            database_id: backup::DATABASE.parse().unwrap(),
            backup_id: backup::BACKUP.parse().unwrap(),
            manifest_hash: self.backup.lock().unwrap().manifest_hash.clone(),
            mode: if mode == "in_place" { RestoreMode::InPlace } else { RestoreMode::NewDatabase },
            purpose: RestorePurpose::Drill,
            job_intent_id: RESTORE.parse().unwrap(),
            iat: exp - 3600,
            exp,
        };
        token::join(&payload.encode(), &[0; 32])
    }

    /// Someone changed the artifact, the annex or the manifest.
    pub fn corrupt_artifact(&self) {
        let mut served = self.backup.lock().unwrap();
        let mut bytes = served.artifact.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        served.artifact = Arc::new(bytes);
    }

    pub fn corrupt_annex(&self) {
        let mut served = self.backup.lock().unwrap();
        let mut bytes = served.annex.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        served.annex = Arc::new(bytes);
    }

    pub fn corrupt_manifest(&self) {
        let mut served = self.backup.lock().unwrap();
        served.envelope = served.envelope.replacen("\"payload\":\"e", "\"payload\":\"f", 1);
    }

    /// Bytes of the artifact that were sent, and how many of them for the first time.
    pub fn sent(&self) -> (u64, u64) {
        let sent = self.behaviour.sent.lock().unwrap();
        (sent.total, sent.first)
    }

    pub fn reported(&self) -> Vec<Value> {
        self.behaviour.reported.lock().unwrap().clone()
    }

    pub fn reported_steps(&self) -> Vec<String> {
        self.reported()
            .iter()
            .map(|body| body["to"].as_str().or(body["kind"].as_str()).unwrap_or("?").to_owned())
            .collect()
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len())?;
    stream.write_all(body)
}

fn signed(port: u16, path: &str, serial: u64) -> Value {
    json!({ "method": "GET", "url": format!("http://127.0.0.1:{port}{path}?X-Amz-Signature=s3cr3tsignature&serial={serial}"), "headers": [["x-amz-expected-bucket-owner", "123"]], "expiresAt": "2030-01-01T00:00:00.000Z" })
}

fn answer(mut stream: TcpStream, port: u16, served: &Served, behaviour: &Behaviour) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let url = request.split(' ').nth(1).unwrap_or_default();
    let path = url.split('?').next().unwrap_or_default().to_owned();
    let serial: Option<u64> = url.split_once("serial=").and_then(|(_, serial)| serial.parse().ok());
    let (mut length, mut range, mut owner) = (0, None, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "range" => {
                range = value
                    .trim()
                    .strip_prefix("bytes=")
                    .and_then(|r| r.split_once('-'))
                    .and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)))
            }
            "x-amz-expected-bucket-owner" => owner = true,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let ok = |stream: &mut TcpStream, value: Value| {
        respond(stream, "200 OK", "content-type: application/json\r\n", value.to_string().as_bytes())
    };
    match path.as_str() {
        "/.well-known/walwarden-pubkey.pem" => return respond(&mut stream, "200 OK", "", served.pem.as_bytes()),
        "/bucket/annex" => return respond(&mut stream, "200 OK", "", &served.annex),
        "/bucket/artifact" => {
            let before = behaviour.artifact_requests.fetch_add(1, Ordering::Relaxed);
            let (from, to) = range.unwrap_or((0, served.artifact.len() - 1));
            let (after, behind) =
                (behaviour.stall_after.load(Ordering::Relaxed), behaviour.stall_behind.load(Ordering::Relaxed));
            if after > 0 && before >= after || behind > 0 && from >= behind * RANGE_BYTES {
                std::thread::sleep(Duration::from_secs(300));
            }
            if !owner
                || serial.is_none_or(|serial| serial < behaviour.expirations.load(Ordering::Relaxed))
                || behaviour.forbid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
            {
                return respond(&mut stream, "403 Forbidden", "", b"<Error/>");
            }
            let bytes = &served.artifact[from..=to];
            let drops = behaviour.drops.load(Ordering::Relaxed);
            let sent = match behaviour.cut.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) {
                Ok(_) => &bytes[..bytes.len() / 2],
                Err(_) => bytes,
            };
            let total = served.artifact.len();
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"e\"\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{to}/{total}\r\n\r\n",
                bytes.len()
            )?;
            for (piece, at) in sent.chunks(PIECE_BYTES).zip((from..).step_by(PIECE_BYTES)) {
                if behaviour.drops.load(Ordering::Relaxed) > drops {
                    return Ok(());
                }
                stream.write_all(piece)?;
                behaviour.sent.lock().unwrap().note(at, piece.len(), total);
                std::thread::sleep(Duration::from_millis(behaviour.pause_ms.load(Ordering::Relaxed)));
            }
            return Ok(());
        }
        "/worker/v1/restores/inspect" => {
            return ok(
                &mut stream,
                json!({
                    "orgId": backup::ORG, "restoreId": RESTORE, "backupId": backup::BACKUP, "databaseLabel": "shop", "purpose": "drill",
                    "mode": token::split(body["token"].as_str().unwrap_or_default()).map(|t| t.payload.mode.as_str()).unwrap_or("new_database"),
                    "envelope": served.envelope, "annex": signed(port, "/bucket/annex", 0), "expiresAt": "2030-01-01T00:00:00.000Z",
                }),
            );
        }
        "/worker/v1/restores/claim" => {
            behaviour.claims.fetch_add(1, Ordering::Relaxed);
            return ok(
                &mut stream,
                json!({ "orgId": backup::ORG, "restoreId": RESTORE, "at": "2026-11-24T08:00:00.000Z" }),
            );
        }
        _ => {}
    }
    if behaviour.session_down.load(Ordering::Relaxed) && !path.ends_with("/instructions") {
        return respond(&mut stream, "503 Service Unavailable", "", b"");
    }
    let status = json!({ "state": "x", "final": false, "attempt": 1 });
    match path.rsplit('/').next().unwrap_or_default() {
        "instructions" => ok(
            &mut stream,
            json!({ "kind": "restore", "restoreId": RESTORE, "artifact": signed(port, "/bucket/artifact", behaviour.expirations.load(Ordering::Relaxed)) }),
        ),
        "heartbeat" => {
            let action = if behaviour.cancel.load(Ordering::Relaxed) { "cancel" } else { "continue" };
            ok(&mut stream, json!({ "action": action }))
        }
        "finish" if behaviour.never_answer_results.load(Ordering::Relaxed) => {
            behaviour.results.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(300));
            Ok(())
        }
        "transition" | "finish" => {
            behaviour.reported.lock().unwrap().push(body);
            ok(&mut stream, status)
        }
        _ => respond(&mut stream, "404 Not Found", "", b"{}"),
    }
}
