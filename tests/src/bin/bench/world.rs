//! A server and a bucket of its own, and what a person does with them: back up, and restore by the CLI.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walwarden_tests::{Postgres, Seaweed};

use super::measure::release;

/// The bucket's name.
pub const BUCKET: &str = "bench";

/// A slower backup is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The server and its bucket; both end with it.
pub struct World {
    server: Child,
    pub bucket: Seaweed,
    url: String,
    token: String,
    directory: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A backup, and how a person with only the bucket would fetch it.
pub struct BackedUp {
    pub id: String,
    pub key: String,
    pub seconds: f64,
    /// As the API tells it.
    pub artifact: Value,
}

impl World {
    /// Starts both. Whatever they and the restores write lies in `directory`.
    pub fn start(bin_dir: &Path, directory: &Path) -> Result<Self> {
        let bucket = Seaweed::start()?;
        bucket.create_locked_bucket(BUCKET)?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let data = directory.join("data");
        let server = Command::new(walwarden_tests::bin("walwarden-server"))
            .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(&data)
            .arg("--runner")
            .arg(release("walwarden-runner")?)
            .env("WALWARDEN_PG_BIN", bin_dir)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("server.log"))?)
            .spawn()?;
        let url = format!("http://127.0.0.1:{port}");
        let mut world = Self { server, bucket, url, token: String::new(), directory: directory.to_owned() };
        let begun = Instant::now();
        let config = data.join("api.curl");
        while !config.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the server did not come up");
            thread::sleep(Duration::from_millis(50));
        }
        let text = fs::read_to_string(&config)?;
        world.token = text.split("Bearer ").nth(1).and_then(|t| t.split('"').next()).context("no token")?.to_owned();
        Ok(world)
    }

    /// The server's process; runners are below it.
    pub fn server(&self) -> u32 {
        self.server.id()
    }

    /// The bucket, registered; as one that takes no more than so many parts.
    pub fn destination(&self, part_cap: Option<u32>) -> Result<String> {
        let (bucket, name) = (&self.bucket, format!("{BUCKET} {}", part_cap.unwrap_or_default()));
        let mut request = json!({
            "name": name, "provider": "s3_compatible", "endpoint": bucket.endpoint(), "region": bucket.region(),
            "bucket": BUCKET, "accessKeyId": bucket.access_key, "secretAccessKey": bucket.secret_key,
        });
        if let Some(cap) = part_cap {
            request["partCap"] = cap.into();
        }
        let id = field(&self.call("POST", "/destinations", request)?, "/id")?;
        self.call("POST", &format!("/destinations/{id}/preflight"), Value::Null)?;
        Ok(id)
    }

    /// A database, registered; compressed as the product does by itself if nothing is said.
    pub fn database(&self, name: &str, dsn: &str, destination: &str, compression: Option<Value>) -> Result<String> {
        let mut request = json!({ "name": name, "dsn": dsn, "destinationId": destination });
        if let Some(compression) = compression {
            request["compression"] = compression;
        }
        field(&self.call("POST", "/databases", request)?, "/id")
    }

    /// Backs a database up, from the order to the seal.
    pub fn backup(&self, database: &str) -> Result<BackedUp> {
        let triggered = self.call("POST", &format!("/databases/{database}/backups"), Value::Null)?;
        let id = field(&triggered, "/backupJobId")?;
        let begun = Instant::now();
        loop {
            let mut job = self.call("GET", &format!("/backups/{id}"), Value::Null)?;
            let seconds = begun.elapsed().as_secs_f64();
            if job["final"] == true {
                ensure!(job["state"] == "completed", "backup: {job}");
                return Ok(BackedUp {
                    id,
                    key: field(&job, "/artifact/key")?,
                    seconds,
                    artifact: job["artifact"].take(),
                });
            }
            ensure!(begun.elapsed() < PATIENCE, "the backup did not end: {job}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A restore into a new database: the command of the one-liner, ready to run.
    pub fn restore(&self, backup: &BackedUp, target: &Postgres, name: &str, prove: bool) -> Result<Command> {
        let mut command = self.restore_by_mode("new_database", backup, target, "postgres")?;
        command.args(["--created-database", name, "--jobs", "2"]).args(prove.then_some("--prove"));
        Ok(command)
    }

    /// The same over a database.
    pub fn restore_in_place(&self, backup: &BackedUp, target: &Postgres, database: &str) -> Result<Command> {
        let mut command = self.restore_by_mode("in_place", backup, target, database)?;
        command.arg("--confirm-destructive");
        Ok(command)
    }

    fn restore_by_mode(&self, mode: &str, backup: &BackedUp, target: &Postgres, connect: &str) -> Result<Command> {
        let created = self.call("POST", "/restores", json!({ "backupJobId": backup.id, "mode": mode }))?;
        let mut command = Command::new(release("walwarden")?);
        command.args(["restore", "--mode", mode, "--manifest"]).arg(field(&created, "/manifestHash")?);
        command.arg("--pg-bin").arg(target.bin_dir());
        command.env("WALWARDEN_TOKEN", field(&created, "/token")?).env("WALWARDEN_BASE_URL", &self.url);
        command.env("WALWARDEN_TARGET", target.dsn(connect)).env("TMPDIR", &self.directory);
        command.env("WALWARDEN_WORK_DIR", self.directory.join("restores"));
        Ok(command)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let (url, token, method) = (format!("{}/api/v1{path}", self.url), self.token.clone(), method.parse()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut request = reqwest::Client::new().request(method, url).bearer_auth(token);
            request = request.header("idempotency-key", format!("{:?}", Instant::now()));
            if !body.is_null() {
                request = request.json(&body);
            }
            let response = request.send().await?;
            let (status, value) = (response.status(), response.json::<Value>().await?);
            ensure!(status.is_success(), "{status}: {value}");
            Ok(value)
        })
    }
}

fn field(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no {pointer} in {value}"))
}
