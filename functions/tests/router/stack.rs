//! The functions in one process, as `server` wires them, with a clock that the test turns: both routers, an embedded
//! table of its own that speaks DynamoDB's wire protocol on loopback, a key file, and a launcher whose "runner" only
//! writes down the claim secret it was started with.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use axum::{Router, body::Body, http::Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tower::ServiceExt;
use walwarden_contract::{
    address::AddressPolicy,
    api::Database,
    ids::{BackupId, DatabaseId, DestinationId, OrgId},
    states::DestinationState,
    time,
};
use walwarden_core::{
    Domain, Settings,
    backups::{BackupJob, Publish},
    destinations::{Network, http_client},
    edge::Edge,
    keyring::{Keyring, LocalKeyring},
    sweep::Errand,
    table::{Item, Table, Write, keys},
};
use walwarden_functions::{
    api,
    callers::{DispatchCaller, WorkerCaller},
    dispatch::{ChildLauncher, Dispatch, DispatchCall, Launcher},
    worker,
};

/// Password in the connection string of every registered database.
pub const DSN_PASSWORD: &str = "correct-horse-battery-staple";

/// The real time and whatever the test put on top of it.
#[derive(Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    pub fn now_ms(&self) -> i64 {
        Edge::system().now_ms() + self.0.load(Ordering::SeqCst)
    }

    pub fn now(&self) -> String {
        time::format_ms(self.now_ms())
    }

    pub fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// Turns it forward to `at`, and no further.
    pub fn forward_to(&self, at: &str) {
        let at = time::parse_ms(at).expect("a time");
        self.0.fetch_add((at - self.now_ms()).max(0), Ordering::SeqCst);
    }
}

pub struct Stack {
    pub domain: Arc<Domain>,
    pub dispatch: Arc<Dispatch>,
    pub clock: Clock,
    pub org: OrgId,
    /// The operator's token.
    pub operator: String,
    pub engine: dynoxide::Database,
    router: Router,
    directory: TempDir,
    transcript: Mutex<Vec<(String, String)>>,
    _stop: watch::Sender<bool>,
}

impl Stack {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = dynoxide::Database::memory().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(dynoxide::server::serve_on(listener, engine.clone()));
        let table = Table::new(aws_sdk_dynamodb::Client::new(&loopback(&endpoint)), "walwarden");
        table.create_if_missing().await.unwrap();

        let clock = Clock::default();
        let turned = clock.clone();
        let edge = Edge::with_clock(move || turned.now_ms());
        let keyring = LocalKeyring::create(&directory.path().join("keys.json"), &edge.now()).unwrap();
        let settings = Settings {
            deployment: "test-deployment".into(),
            base_url: "https://walwarden.test".into(),
            epoch: 0,
            network: Network::new(AddressPolicy { allow_private: true }, true),
            die_at: None,
        };
        let domain = Arc::new(Domain::new(table, Keyring::Local(keyring), edge, settings));
        let (org, operator) = domain.create_organization("test").await.unwrap();

        let (stop, stopped) = watch::channel(false);
        let launcher = ChildLauncher {
            program: launcher_script(&directory),
            worker_url: "http://unused.test".into(),
            environment: vec![("LAUNCHES".into(), directory.path().display().to_string())],
            stopped,
        };
        let dispatch = Arc::new(Dispatch::new(Arc::clone(&domain), Launcher::Child(launcher)));
        let caller = WorkerCaller::Here(Arc::clone(&domain));
        let router = api::router(api::Api {
            domain: Arc::clone(&domain),
            worker: caller.clone(),
            dispatch: DispatchCaller::Here(Arc::clone(&dispatch)),
        })
        .merge(worker::router(worker::Worker { domain: Arc::clone(&domain), caller }));
        let operator = operator.expose().to_owned();
        Self {
            domain,
            dispatch,
            clock,
            org,
            operator,
            engine,
            router,
            directory,
            transcript: Mutex::default(),
            _stop: stop,
        }
    }

    pub fn get(&self, path: impl Into<String>) -> Call<'_> {
        self.call("GET", path)
    }

    pub fn post(&self, path: impl Into<String>) -> Call<'_> {
        self.call("POST", path)
    }

    pub fn put(&self, path: impl Into<String>) -> Call<'_> {
        self.call("PUT", path)
    }

    pub fn call(&self, method: &str, path: impl Into<String>) -> Call<'_> {
        Call { stack: self, method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Path and body of every answer so far.
    pub fn transcript(&self) -> Vec<(String, String)> {
        self.transcript.lock().unwrap().clone()
    }

    /// The claim secret that the last runner of a job was started with; each is given once.
    pub async fn launched(&self, job: &str) -> String {
        let path = self.directory.path().join(job);
        for _ in 0..1000 {
            if let Ok(secret) = std::fs::read_to_string(&path) {
                std::fs::remove_file(&path).unwrap();
                return secret;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no runner was launched for {job}");
    }

    /// From now on no runner starts.
    pub fn break_launcher(&self) {
        std::fs::rename(self.directory.path().join("runner"), self.directory.path().join("broken")).unwrap();
    }

    pub fn mend_launcher(&self) {
        std::fs::rename(self.directory.path().join("broken"), self.directory.path().join("runner")).unwrap();
    }

    /// Whether a runner was launched of which nobody took notice yet.
    pub fn has_launched(&self, job: &str) -> bool {
        self.directory.path().join(job).exists()
    }

    /// One sweep of the sentinel; its errands are run here and now, so that the test goes on when they are done.
    pub async fn sweep(&self) -> Vec<String> {
        let errands = self.domain.sweep().await.unwrap();
        self.run(errands).await
    }

    /// One look at the schedule.
    pub async fn ticks(&self) -> Vec<String> {
        let errands = self.domain.ticks().await.unwrap();
        self.run(errands).await
    }

    async fn run(&self, errands: Vec<Errand>) -> Vec<String> {
        let mut names = Vec::new();
        for errand in errands {
            let text = format!("{errand:?}");
            let name = text.trim_start_matches("Worker(").split([' ', '(']).next().unwrap_or_default();
            names.push(name.to_owned());
            match errand {
                Errand::Worker(call) => {
                    if let Err(error) = self.domain.carry_out(call).await {
                        names.push(format!("failed: {error}"));
                    }
                }
                Errand::Launch(org, job) => {
                    if let Err(error) = self.dispatch.carry_out(DispatchCall::Launch { org, job }).await {
                        names.push(format!("failed: {error}"));
                    }
                }
            }
        }
        names
    }

    /// A database whose destination is taken for verified, though its bucket is nowhere: for what never comes so far
    /// as to need one.
    pub async fn bucketless(&self) -> DatabaseId {
        let request = json!({
            "name": "nowhere", "provider": "s3_compatible", "endpoint": "http://127.0.0.1:9", "region": "us-east-1",
            "bucket": "nowhere", "accessKeyId": "AKNOWHERE", "secretAccessKey": "nowhere-secret",
        });
        let created = self.post("/api/v1/destinations").fresh().json(&request).send().await.expect(201);
        let id: DestinationId = created["id"].as_str().unwrap().parse().unwrap();
        self.pretend_verified(&id).await;
        self.database(id.as_str()).await
    }

    pub async fn pretend_verified(&self, id: &DestinationId) {
        let mut record = self.domain.destination(&self.org, id).await.unwrap();
        record.body.info.state = DestinationState::Verified;
        self.domain.table.write(Write::Replace(record.key, record.rev, Item::new(&record.body))).await.unwrap();
    }

    pub fn database_request(destination: &str) -> Value {
        json!({
            "name": "orders",
            "dsn": format!("postgresql://backup:{DSN_PASSWORD}@db.example.com:5432/orders"),
            "destinationId": destination,
        })
    }

    pub async fn database(&self, destination: &str) -> DatabaseId {
        let request = Self::database_request(destination);
        let created = self.post("/api/v1/databases").fresh().json(&request).send().await.expect(201);
        let database: Database = serde_json::from_value(created).unwrap();
        // Its check's runner is nobody's business here.
        self.launched(database.check.unwrap().id.as_str()).await;
        database.id
    }

    pub async fn trigger(&self, database: &DatabaseId) -> BackupId {
        let path = format!("/api/v1/databases/{database}/backups");
        let triggered = self.post(path).fresh().send().await.expect(202);
        triggered["backupJobId"].as_str().unwrap().parse().unwrap()
    }

    pub async fn backup(&self, id: &BackupId) -> BackupJob {
        self.domain.backup_by_id(&self.org, id).await.unwrap().body
    }

    /// The backup as the API shows it.
    pub async fn shown(&self, id: &BackupId) -> Value {
        self.get(format!("/api/v1/backups/{id}")).send().await.expect(200)
    }

    /// Waits for a seal that runs behind an answer: until the backup is no longer `finalizing` and, if it was
    /// completed, published.
    pub async fn sealed(&self, id: &BackupId) -> BackupJob {
        for _ in 0..3000 {
            let job = self.backup(id).await;
            let state = job.state.as_str();
            if state != "finalizing" && (state != "completed" || job.publish == Publish::Done) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} is not sealed after 30 s: {:?}", self.backup(id).await.seal);
    }

    /// Another token, with these scopes.
    pub async fn token(&self, scopes: &[&str], database: Option<&DatabaseId>) -> String {
        let request = json!({ "name": "test", "scopes": scopes, "databaseId": database });
        let created = self.post("/api/v1/tokens").fresh().json(&request).send().await.expect(201);
        created["token"].as_str().unwrap().to_owned()
    }

    /// The operator's token of another organization.
    pub async fn stranger(&self) -> String {
        self.domain.create_organization("another").await.unwrap().1.expose().to_owned()
    }

    pub fn job_path(&self, job: &str) -> String {
        format!("/worker/v1/{}/{job}", self.org)
    }

    pub async fn log_size(&self) -> u64 {
        self.domain.log.tip(&self.org).await.unwrap().0
    }

    /// Kinds of a job's entries, in order.
    pub async fn kinds(&self, job: &str) -> Vec<String> {
        let entries = self.entries_of(job).await;
        entries.iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// A job's entries, in order.
    pub async fn entries_of(&self, job: &str) -> Vec<Value> {
        let indexes = self.domain.log.job_indexes(&self.org, job).await.unwrap();
        self.entries(&indexes).await
    }

    /// The entries from index `from` on.
    pub async fn entries_since(&self, from: u64) -> Vec<Value> {
        let indexes: Vec<u64> = (from..self.log_size().await).collect();
        self.entries(&indexes).await
    }

    async fn entries(&self, indexes: &[u64]) -> Vec<Value> {
        let entries = self.domain.log.entries(&self.org, indexes).await.unwrap();
        entries.iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect()
    }

    /// The backup that holds the database's `ACTIVE`.
    pub async fn active(&self, database: &DatabaseId) -> Option<BackupId> {
        self.domain.table.get(&keys::active(&self.org, database)).await.unwrap().map(|record| record.body)
    }

    /// Every item of the table, as JSON of the wire.
    pub fn items(&self) -> Vec<String> {
        let mut items = Vec::new();
        let mut start: Option<Value> = None;
        loop {
            let mut request = json!({ "TableName": "walwarden" });
            if let Some(start) = start {
                request["ExclusiveStartKey"] = start;
            }
            let page = self.engine.scan(serde_json::from_value(request).unwrap()).unwrap();
            let page = serde_json::to_value(page).unwrap();
            items.extend(page["Items"].as_array().unwrap().iter().map(Value::to_string));
            match page.get("LastEvaluatedKey").filter(|key| !key.is_null()) {
                Some(next) => start = Some(next.clone()),
                None => return items,
            }
        }
    }
}

fn launcher_script(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("runner");
    let text = "#!/bin/sh\nexec 2>/dev/null\nprintf %s \"$WALWARDEN_CLAIM_SECRET\" > \"$LAUNCHES/.$$\"\nmv \"$LAUNCHES/.$$\" \"$LAUNCHES/$WALWARDEN_JOB_ID\"\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn loopback(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("embedded", "embedded", None, None, "embedded-table");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("local"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http_client())
        .endpoint_url(endpoint)
        .build()
}

/// A request, by the operator unless said otherwise.
#[must_use]
pub struct Call<'s> {
    stack: &'s Stack,
    method: String,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Call<'_> {
    pub fn bearer(mut self, token: &str) -> Self {
        self.headers.push(("authorization", format!("Bearer {token}")));
        self
    }

    /// Without any credentials.
    pub fn anonymous(mut self) -> Self {
        self.headers.push(("authorization", String::new()));
        self
    }

    pub fn key(mut self, key: &str) -> Self {
        self.headers.push(("idempotency-key", key.into()));
        self
    }

    /// Under an idempotency key that was never used.
    pub fn fresh(self) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = format!("fresh-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.key(&key)
    }

    pub fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    pub fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub async fn send(mut self) -> Reply {
        if !self.headers.iter().any(|(name, _)| *name == "authorization") {
            let operator = self.stack.operator.clone();
            self = self.bearer(&operator);
        }
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.path);
        for (name, value) in self.headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(self.body)).unwrap();
        let response = self.stack.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
        let bytes = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap().to_vec();
        let what = format!("{} {}", self.method, self.path);
        self.stack.transcript.lock().unwrap().push((what.clone(), String::from_utf8_lossy(&bytes).into_owned()));
        Reply { what, status, content_type, bytes }
    }
}

pub struct Reply {
    what: String,
    pub status: u16,
    pub content_type: Option<String>,
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text());
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// A refusal: this status and code, a message, and what to do. Gives the error.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let error = self.expect(status)["error"].clone();
        assert_eq!(self.content_type.as_deref(), Some("application/json"), "{}", self.what);
        assert_eq!(error["code"], code, "{}: {error}", self.what);
        for field in ["message", "hint"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{}: {error}", self.what);
        }
        error
    }
}
