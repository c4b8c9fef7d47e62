//! `walwarden-server demo`: the product's main job, from nothing to a proven restore, through the public
//! doors only. Each command is printed as it runs, so that a reader can repeat it; secrets stay in files
//! and in the environment, never on a command line.

mod shell;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use walwarden_tests::{Postgres, Sample};

use self::shell::Shell;
use crate::{data::write_private, up::beside};

/// Flags of `demo`.
#[derive(Args)]
pub struct DemoArguments {
    /// Major version of the throwaway Postgres servers [default: the lowest installed]
    #[arg(long)]
    major: Option<u8>,
    /// Keep the working directory
    #[arg(long)]
    keep: bool,
}

/// Runs the demo and stops everything it started, whatever happens.
pub async fn run(arguments: DemoArguments) -> Result<()> {
    // The demo blocks: it waits for programs, as a person would.
    tokio::task::spawn_blocking(move || {
        let directory = tempfile::Builder::new().prefix("walwarden-demo-").tempdir()?;
        let result = Demo::new(directory.path(), arguments.major).and_then(|demo| demo.run());
        if arguments.keep {
            println!("kept: {}", directory.keep().display());
        }
        result
    })
    .await?
}

struct Demo {
    directory: PathBuf,
    major: u8,
    url: String,
    port: u16,
    begun: Instant,
}

impl Demo {
    fn new(directory: &Path, major: Option<u8>) -> Result<Self> {
        let available = Postgres::majors_available();
        let lowest = available
            .first()
            .copied()
            .context("no Postgres server is installed\nhint: `make tools` installs what the demo needs")?;
        let major = major.unwrap_or(lowest);
        ensure!(available.contains(&major), "Postgres {major} is not installed\nhint: installed are {available:?}");
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self {
            directory: directory.into(),
            major,
            url: format!("http://127.0.0.1:{port}"),
            port,
            begun: Instant::now(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn run(&self) -> Result<()> {
        let shell = Shell::new(&self.directory);
        shell.heading("A database to protect, and another machine's server to restore to");
        let source = Postgres::start(self.major)?;
        Sample::demo().create(&source, "shop")?;
        let target = Postgres::start(self.major)?;
        // Owners and grantees must exist where a restore is to be exact.
        target.run_sql("postgres", Sample::roles_sql())?;
        shell.say(&format!(
            "Postgres {}: {} tables, {} of sample data on port {}; an empty server on port {}",
            source.query_one("shop", "SHOW server_version")?,
            source.query_one("shop", "SELECT count(*) FROM pg_class WHERE relkind IN ('r','p') AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'")?,
            source.query_one("shop", "SELECT pg_size_pretty(pg_database_size(current_database()))")?,
            source.port(),
            target.port(),
        ));

        shell.heading("Walwarden as one process, with a locked bucket");
        let server = beside("walwarden-server")?;
        let arguments = format!("up --data-dir data --demo-bucket --listen 127.0.0.1:{}", self.port);
        let _server =
            shell.background(&server, &arguments, &[("WALWARDEN_PG_BIN", &source.bin_dir().display().to_string())])?;
        self.wait_for_server()?;

        shell.heading("Register bucket and database");
        let destination = self.post(
            &shell,
            "destination",
            "--data @data/destination.json",
            "/api/v1/destinations",
            &["id", "provider", "bucket", "state"],
        )?;
        let destination = text(&destination, "/id")?;
        let preflight =
            self.post(&shell, "preflight", "", &format!("/api/v1/destinations/{destination}/preflight"), &["result"])?;
        for check in preflight["checks"].as_array().into_iter().flatten() {
            shell.say(&format!(
                "  {:<22} {}",
                check["name"].as_str().unwrap_or(""),
                check["outcome"].as_str().unwrap_or("")
            ));
        }
        ensure!(preflight["result"] == "verified", "the bucket is not verified");
        let mut request =
            json!({ "name": "shop", "dsn": source.dsn("shop"), "destinationId": destination, "schedule": "0 2 * * *" });
        if self.major >= 16 && !Postgres::client_supports_zstd(self.major) {
            shell.say("this build of pg_restore cannot read zstd: the archive is compressed with gzip");
            request["compression"] = json!({ "codec": "gzip", "level": 6 });
        }
        write_private(&self.file("database.json"), &serde_json::to_vec_pretty(&request)?)?;
        let database = self.post(
            &shell,
            "database",
            "--data @database.json",
            "/api/v1/databases",
            &["id", "redactedDsn", "schedule", "nextRunAt"],
        )?;
        let database = text(&database, "/id")?;
        self.wait_for_check(&shell, &database)?;

        shell.heading("Back up");
        let triggered = self.post(
            &shell,
            "backup",
            "",
            &format!("/api/v1/databases/{database}/backups"),
            &["backupJobId", "state"],
        )?;
        let backup = text(&triggered, "/backupJobId")?;
        let done = self.wait_for_backup(&shell, &backup)?;
        let evidence = self.get(
            &shell,
            &format!("/api/v1/evidence/{backup}"),
            &["checksumSha256", "manifest", "integrityVerification", "snapshotAt"],
        )?;
        let manifest = text(&evidence, "/manifest/sha256")?;

        shell.heading("Restore it on the other machine, by the one-liner, and prove it row for row");
        let request = json!({ "backupJobId": backup, "mode": "new_database", "createdDatabase": "shop_restored", "purpose": "drill" });
        fs::write(self.file("restore.json"), request.to_string())?;
        let restore = self.post(
            &shell,
            "restore",
            "--data @restore.json",
            "/api/v1/restores",
            &["restoreJobId", "manifestHash", "expiresAt"],
        )?;
        let one_liner = text(&restore, "/oneLiner/native")?;
        shell.restore(
            &one_liner,
            &target.dsn("postgres"),
            &format!("--prove --pg-bin {}", target.bin_dir().display()),
            &beside("walwarden")?,
        )?;
        let restored = target.query_one("shop_restored", "SELECT count(*) FROM shop.orders")?;
        let original = source.query_one("shop", "SELECT count(*) FROM shop.orders")?;
        shell.say(&format!("orders in the source: {original}, in shop_restored: {restored}"));
        ensure!(restored == original, "the restored database has other rows");
        let job = self.get(
            &shell,
            &format!("/api/v1/restores/{}", text(&restore, "/restoreJobId")?),
            &["state", "proof", "receiptHash"],
        )?;
        ensure!(job["state"] == "completed" && job["proof"] == "identical", "the restore was not recorded as proven");

        shell.heading("The evidence, verified offline");
        shell
            .run(&format!("curl -sS -K data/api.curl -o evidence.tgz {}/api/v1/evidence/{backup}/bundle", self.url))?;
        shell.run(&format!("curl -sS -o pubkey.pem {}/.well-known/walwarden-pubkey.pem", self.url))?;
        let verifier = beside("walwarden-verifier")?;
        shell.say("the artifact itself, from the bucket, with the bucket owner's own credentials:");
        let key = text(&done, "/artifact/key")?;
        let bucket: Value = serde_json::from_slice(&fs::read(self.file("data/destination.json"))?)?;
        let credentials =
            format!("user = \"{}:{}\"\n", text(&bucket, "/accessKeyId")?, text(&bucket, "/secretAccessKey")?);
        write_private(&self.file("bucket.curl"), credentials.as_bytes())?;
        let from = format!("{}/{}/{key}", text(&bucket, "/endpoint")?, text(&bucket, "/bucket")?);
        shell.run(&format!(
            "curl -sS -K bucket.curl --aws-sigv4 aws:amz:{}:s3 -o artifact.dump {from}",
            text(&bucket, "/region")?
        ))?;
        shell.verify(&verifier, "--bundle evidence.tgz --pubkey pubkey.pem --artifact artifact.dump", 0)?;

        shell.heading("A copy with one byte changed is refused");
        shell.run("cp artifact.dump tampered.dump && printf X | dd of=tampered.dump bs=1 seek=1000000 conv=notrunc status=none")?;
        shell.verify(&verifier, "--bundle evidence.tgz --pubkey pubkey.pem --artifact tampered.dump", 1)?;

        shell.heading("Done");
        shell.say(&format!(
            "{} backed up, signed, locked, restored, proven and verified in {:.0} s; manifest {manifest}",
            size(done.pointer("/artifact/sizeBytes").and_then(Value::as_u64).unwrap_or_default()),
            self.begun.elapsed().as_secs_f64(),
        ));
        Ok(())
    }

    fn wait_for_server(&self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.file("data/api.curl").exists() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the server did not come up: {}", fs::read_to_string(self.file("server.log")).unwrap_or_default())
    }

    fn post(&self, shell: &Shell, key: &str, data: &str, path: &str, shown: &[&str]) -> Result<Value> {
        let body = if data.is_empty() { "-X POST" } else { data };
        let command = format!("curl -sS -K data/api.curl -H 'Idempotency-Key: demo-{key}' {body} {}{path}", self.url);
        shell.json(&command, shown)
    }

    fn get(&self, shell: &Shell, path: &str, shown: &[&str]) -> Result<Value> {
        shell.json(&format!("curl -sS -K data/api.curl {}{path}", self.url), shown)
    }

    fn wait_for_check(&self, shell: &Shell, database: &str) -> Result<()> {
        let command = format!("curl -sS -K data/api.curl {}/api/v1/databases/{database}", self.url);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let check = shell.quiet_json(&command)?["check"].clone();
            if check["final"] == true {
                shell.say(&format!(
                    "  source check: {} (server {})",
                    check["state"].as_str().unwrap_or(""),
                    check["serverVersion"].as_str().unwrap_or("?")
                ));
                ensure!(
                    check["state"] == "completed" && check["failure"].is_null(),
                    "the source check failed: {check}"
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the source check did not end")
    }

    fn wait_for_backup(&self, shell: &Shell, backup: &str) -> Result<Value> {
        let command = format!("curl -sS -K data/api.curl {}/api/v1/backups/{backup}", self.url);
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < Duration::from_secs(120) {
            let job = shell.quiet_json(&command)?;
            let state = job["state"].as_str().unwrap_or("").to_owned();
            let bytes = job.pointer("/progress/bytes").and_then(Value::as_u64).unwrap_or_default();
            let line = if bytes > 0 && job["final"] == false {
                format!("{state}: {} read", size(bytes))
            } else {
                state.clone()
            };
            if line != last {
                shell.say(&format!("  {line}"));
                last = line;
            }
            if job["final"] == true {
                ensure!(state == "completed", "the backup is {state}: {}", job["failure"]);
                shell.say(&format!(
                    "  artifact: {} ({}), {} rows in {} tables, locked until {}",
                    size(job.pointer("/artifact/sizeBytes").and_then(Value::as_u64).unwrap_or_default()),
                    text(&job, "/artifact/compression")?,
                    job.pointer("/artifact/rows").unwrap_or(&Value::Null),
                    job.pointer("/artifact/tables").unwrap_or(&Value::Null),
                    text(&job, "/artifact/retainUntil")?,
                ));
                return Ok(job);
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        bail!("the backup did not end")
    }
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {pointer}: {value}"))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
