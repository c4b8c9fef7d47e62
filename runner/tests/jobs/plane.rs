//! A control plane and a bucket of which a test decides what they answer. Real ones are in the workspace's end-to-end
//! tests; here it is about faults, which real ones make too seldom.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode},
    routing::{any, get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use md5::Digest;
use serde_json::{Value, json};

/// How a request to the bucket is answered instead.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Status and S3 error code.
    Error(u16, &'static str),
    /// Never, until [`Plane::go_on`].
    Wait,
    /// The bytes are taken and the answer is lost: a gateway's error arrives instead.
    TakenButLost,
}

type Script = dyn Fn(&str, u32) -> Option<Answer> + Send + Sync;

/// The control plane.
pub struct Plane {
    pub address: SocketAddr,
    state: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    address: Mutex<Option<SocketAddr>>,
    instructions: Value,
    script: Box<Script>,
    calls: Mutex<Vec<(String, Value)>>,
    seen: Mutex<BTreeMap<String, u32>>,
    objects: Mutex<BTreeMap<String, Bytes>>,
    action: Mutex<&'static str>,
    go_on: tokio::sync::watch::Sender<bool>,
}

pub const ORG: &str = "org_01jd7z9k3m5n7p9r1t3v5x7z9a";
pub const BACKUP: &str = "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a";
pub const CHECK: &str = "chk_01jd7z9k3m5n7p9r1t3v5x7z9a";
pub const DATABASE: &str = "db_01jd7z9k3m5n7p9r1t3v5x7z9a";

impl Plane {
    /// One whose bucket answers by `script`: object name (behind `head/` if it is only looked at) and how often it was asked for before,
    /// counted from 0.
    pub fn start(instructions: Value, script: impl Fn(&str, u32) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = Arc::new(Shared {
            address: Mutex::new(None),
            instructions,
            script: Box::new(script),
            calls: Mutex::default(),
            seen: Mutex::default(),
            objects: Mutex::default(),
            action: Mutex::new("continue"),
            go_on: tokio::sync::watch::Sender::new(false),
        });
        let app = Router::new()
            .route("/worker/v1/{org}/{job}/{call}", post(call).get(call_without_body))
            .route("/bucket/{*name}", any(bucket))
            .route("/", get(async || "control plane"))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(state.clone());
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            address
        });
        *state.address.lock().unwrap() = Some(address);
        Self { address, state, _runtime: runtime }
    }

    /// Instructions of a backup with everything at its usual value.
    pub fn backup(dsn: &str) -> Value {
        json!({
            "kind": "backup", "backupId": BACKUP, "databaseId": DATABASE, "attempt": 1, "dsn": dsn,
            "allowPrivateAddresses": true, "partCap": 10_000, "partDigest": "sha256",
            "maxBytes": 1u64 << 40, "maxHours": 1,
        })
    }

    /// Instructions of a check.
    pub fn check(dsn: &str) -> Value {
        json!({
            "kind": "check", "checkId": CHECK, "databaseId": DATABASE, "dsn": dsn, "allowPrivateAddresses": true,
        })
    }

    /// Bodies of all calls of a kind, in order.
    pub fn calls(&self, kind: &str) -> Vec<Value> {
        let calls = self.state.calls.lock().unwrap();
        calls.iter().filter(|(name, _)| name == kind).map(|(_, body)| body.clone()).collect()
    }

    /// Waits until a condition over the plane holds.
    pub fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..400 {
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("waited in vain for {what}; calls: {:?}", self.state.calls.lock().unwrap());
    }

    /// What the next heartbeats are answered: `continue`, `cancel`, or `refuse` for an error.
    pub fn order(&self, action: &'static str) {
        *self.state.action.lock().unwrap() = action;
    }

    /// Lets waiting requests pass.
    pub fn go_on(&self) {
        self.state.go_on.send_replace(true);
    }

    /// An object, as uploaded.
    pub fn object(&self, name: &str) -> Option<Bytes> {
        self.state.objects.lock().unwrap().get(name).cloned()
    }

    /// Puts an object there beforehand.
    pub fn plant(&self, name: &str, bytes: &[u8]) {
        self.state.objects.lock().unwrap().insert(name.into(), Bytes::copy_from_slice(bytes));
    }

    /// The parts, joined.
    pub fn artifact(&self) -> Vec<u8> {
        let objects = self.state.objects.lock().unwrap();
        let mut parts: Vec<_> = objects
            .iter()
            .filter_map(|(name, bytes)| Some((name.strip_prefix("part/")?.parse::<u32>().ok()?, bytes)))
            .collect();
        parts.sort_by_key(|(number, _)| *number);
        parts.into_iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    /// How often an object was asked for.
    pub fn requests(&self, name: &str) -> u32 {
        self.state.seen.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

async fn call_without_body(
    state: State<Arc<Shared>>,
    path: Path<(String, String, String)>,
) -> (StatusCode, Json<Value>) {
    call(state, path, Bytes::new()).await
}

async fn call(
    State(state): State<Arc<Shared>>,
    Path((_, job, call)): Path<(String, String, String)>,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    state.calls.lock().unwrap().push((call.clone(), body.clone()));
    let status = json!({"state": "running", "final": false, "attempt": 1});
    let answer = match call.as_str() {
        "claim" => json!({"jobId": job, "attempt": 1, "at": "2026-11-24T07:59:50.001Z"}),
        "instructions" => state.instructions.clone(),
        "part" => state.signed(&format!("part/{}", body["number"]), &body),
        "document" => {
            let name = format!("document/{}", body["document"].as_str().unwrap());
            let mut request = state.signed(&name, &body);
            let mut head = request.clone();
            head["method"] = "HEAD".into();
            head["headers"] = json!([]);
            request["head"] = head;
            request
        }
        "heartbeat" => json!({"action": *state.action.lock().unwrap()}),
        "finish" => json!({"state": "finalizing", "final": false, "attempt": 1}),
        "state" => json!({"state": "completed", "final": true, "attempt": 1}),
        _ => status,
    };
    if call == "heartbeat" && answer["action"] == "refuse" {
        let error = json!({"error": {"code": "unauthorized", "message": "another runner has the job"}});
        return (StatusCode::UNAUTHORIZED, Json(error));
    }
    (StatusCode::OK, Json(answer))
}

impl Shared {
    fn signed(&self, name: &str, body: &Value) -> Value {
        let base64 = |field: &str| STANDARD.encode(hex::decode(body[field].as_str().unwrap()).unwrap());
        let address = self.address.lock().unwrap().unwrap();
        json!({
            "method": "PUT",
            "url": format!("http://{address}/bucket/{name}?X-Amz-Signature=secret"),
            "headers": [
                ["content-length", body["sizeBytes"].to_string()],
                ["content-md5", base64("md5")],
                ["x-amz-checksum-sha256", base64("sha256")],
            ],
            "expiresAt": "2026-11-24T07:59:50.001Z",
        })
    }
}

async fn bucket(
    State(state): State<Arc<Shared>>,
    Path(name): Path<String>,
    method: axum::http::Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let refuse = |status: u16, code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message></Error>");
        Response::builder().status(status).body(Body::from(body)).unwrap()
    };
    let sha256 = |bytes: &[u8]| STANDARD.encode(sha2::Sha256::digest(bytes));
    let asked = if method == "HEAD" { format!("head/{name}") } else { name.clone() };
    let before = {
        let mut seen = state.seen.lock().unwrap();
        let count = seen.entry(asked.clone()).or_default();
        *count += 1;
        *count - 1
    };
    match (state.script)(&asked, before) {
        Some(Answer::Error(status, code)) => return refuse(status, code),
        Some(Answer::Wait) => {
            let _ = state.go_on.subscribe().wait_for(|go| *go).await;
        }
        Some(Answer::TakenButLost) => {
            state.objects.lock().unwrap().insert(name, body);
            return refuse(504, "GatewayTimeout");
        }
        None => {}
    }
    if method == "HEAD" {
        let Some(bytes) = state.objects.lock().unwrap().get(&name).cloned() else { return refuse(404, "NoSuchKey") };
        let builder = Response::builder().header("x-amz-checksum-sha256", sha256(&bytes));
        return builder.header("content-length", bytes.len()).body(Body::empty()).unwrap();
    }
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let md5 = STANDARD.encode(md5::Md5::digest(&body));
    if value("x-amz-checksum-sha256") != sha256(&body) || value("content-md5") != md5 {
        return refuse(400, "BadDigest");
    }
    if value("content-length") != body.len().to_string() || headers.contains_key("transfer-encoding") {
        return refuse(411, "MissingContentLength");
    }
    let mut objects = state.objects.lock().unwrap();
    if name.starts_with("document/") && objects.contains_key(&name) {
        return refuse(412, "PreconditionFailed");
    }
    objects.insert(name, body);
    Response::new(Body::empty())
}
