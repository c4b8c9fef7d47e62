//! `walwarden-server up`: the whole product on this machine until it is stopped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use walwarden_tests::Seaweed;

use crate::{
    data::{DataDirectory, write_private},
    stack::{Stack, Wiring},
};

/// Bucket that `--demo-bucket` makes.
pub const DEMO_BUCKET: &str = "walwarden-demo";

/// curl's configuration with the operator's token, in the data directory.
const TOKEN_FILE: &str = "api.curl";

/// Flags of `up`; each may also come from the environment.
#[derive(Args)]
pub struct UpArguments {
    /// Where everything that must survive is kept
    #[arg(long, env = "WALWARDEN_DATA_DIR", default_value = ".walwarden")]
    data_dir: PathBuf,
    /// Address and port to listen on
    #[arg(long, env = "WALWARDEN_LISTEN", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Where clients reach this server, if not at that address (https://backups.example.com)
    #[arg(long, env = "WALWARDEN_PUBLIC_URL")]
    public_url: Option<String>,
    /// Start a local S3 server with a locked bucket, to try things out; not for backups you need
    #[arg(long)]
    demo_bucket: bool,
    /// A DynamoDB endpoint of your own instead of the embedded table (credentials from the environment)
    #[arg(long, env = "WALWARDEN_DYNAMODB_ENDPOINT")]
    dynamodb_endpoint: Option<String>,
    /// Directories with pg_dump of the majors you back up, colon-separated
    #[arg(long, env = "WALWARDEN_PG_BIN")]
    pg_bin: Option<String>,
    /// The runner's program [default: walwarden-runner beside this program]
    #[arg(long, env = "WALWARDEN_RUNNER")]
    runner: Option<PathBuf>,
    /// Refuse buckets and databases at private addresses, and plain HTTP
    #[arg(long)]
    public_addresses_only: bool,
    /// Crash tests only: abort at this step of sealing
    #[arg(long, env = "WALWARDEN_TEST_DIE_AT", hide = true)]
    die_at: Option<String>,
    /// Tests only: how far this server's clock is ahead of the machine's, to see leases lapse and tokens expire
    #[arg(long, env = "WALWARDEN_TEST_CLOCK_AHEAD_SECONDS", hide = true, default_value_t = 0)]
    clock_ahead_seconds: u32,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(arguments: UpArguments) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let data = DataDirectory::open(&arguments.data_dir)?;
    let bucket = match arguments.demo_bucket {
        true => Some(demo_bucket(&data)?),
        false => None,
    };
    let stack = Stack::start(
        &data,
        Wiring {
            listen: arguments.listen,
            public_url: arguments.public_url,
            dynamodb_endpoint: arguments.dynamodb_endpoint,
            runner: match arguments.runner {
                Some(path) => path,
                None => beside("walwarden-runner")?,
            },
            pg_bin: arguments.pg_bin,
            allow_private_addresses: !arguments.public_addresses_only,
            die_at: arguments.die_at,
            clock_ahead_seconds: arguments.clock_ahead_seconds,
        },
    )
    .await?;
    println!("Walwarden answers at {}", stack.base_url);
    println!("data directory: {}", data.join("").display());
    if let Some(token) = &stack.operator_token {
        first_run(&data, &stack.base_url, token.expose(), bucket.is_some())?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!("stopping");
    stack.stop().await;
    Ok(())
}

/// A program beside this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name(name);
    anyhow::ensure!(
        path.is_file(),
        "{} is not there\nhint: build it (cargo build -p {name}), or name another with --runner",
        path.display()
    );
    Ok(path)
}

/// Starts the local S3 server and writes the request that registers its bucket.
fn demo_bucket(data: &DataDirectory) -> Result<Seaweed> {
    let fresh = !data.join("bucket/server.json").exists();
    let seaweed = Seaweed::open(&data.join("bucket"))
        .context("could not start the demo bucket's S3 server\nhint: `make tools` installs it")?;
    if fresh {
        seaweed.create_locked_bucket(DEMO_BUCKET)?;
    }
    let request = json!({
        "name": "demo bucket",
        "provider": "s3_compatible",
        "endpoint": seaweed.endpoint(),
        "region": seaweed.region(),
        "bucket": DEMO_BUCKET,
        "accessKeyId": seaweed.access_key,
        "secretAccessKey": seaweed.secret_key,
    });
    write_private(&data.join("destination.json"), &serde_json::to_vec_pretty(&request)?)?;
    Ok(seaweed)
}

/// Writes curl's configuration with the operator's token, readable by the owner only.
pub fn keep_token(data: &DataDirectory, token: &str) -> Result<()> {
    let lines = format!("header = \"Authorization: Bearer {token}\"\nheader = \"Content-Type: application/json\"\n");
    write_private(&data.join(TOKEN_FILE), lines.as_bytes())
}

/// What a person needs who has just started it: the token, once, and the commands that come next.
fn first_run(data: &DataDirectory, url: &str, token: &str, has_bucket: bool) -> Result<()> {
    let config = data.join(TOKEN_FILE);
    let (destination, database) = (data.join("destination.json"), data.join("database.json"));
    if !has_bucket {
        let request = json!({
            "name": "my bucket", "provider": "s3_compatible", "endpoint": "https://s3.example.com",
            "region": "us-east-1", "bucket": "my-backups", "accessKeyId": "…", "secretAccessKey": "…",
        });
        write_private(&destination, &serde_json::to_vec_pretty(&request)?)?;
    }
    let request = json!({
        "name": "my database", "dsn": "postgresql://user:password@host:5432/dbname",
        "destinationId": "dst_… (from the first command's answer)", "schedule": "0 2 * * *",
    });
    if !database.exists() {
        write_private(&database, &serde_json::to_vec_pretty(&request)?)?;
    }
    let curl = format!("curl -sS -K {}", sh(&config));
    println!();
    println!("First start. The operator's API token, shown this once:");
    println!();
    println!("  {token}");
    println!();
    println!("It is also in {} (readable by you only), which the commands below use,", config.display());
    println!("so that no secret stands on a command line. Every mutation needs a fresh Idempotency-Key.");
    println!();
    if has_bucket {
        println!("1. Register the demo bucket:");
    } else {
        println!("1. Register a bucket with Object Lock: fill in {}, then", destination.display());
    }
    println!("   {curl} -H \"Idempotency-Key: $(date +%s%N)\" --data @{} {url}/api/v1/destinations", sh(&destination));
    println!("   {curl} -X POST {url}/api/v1/destinations/<dst_…>/preflight");
    println!("2. Register a database: fill in {}, then", database.display());
    println!("   {curl} -H \"Idempotency-Key: $(date +%s%N)\" --data @{} {url}/api/v1/databases", sh(&database));
    println!("3. Back it up:");
    println!("   {curl} -H \"Idempotency-Key: $(date +%s%N)\" -X POST {url}/api/v1/databases/<db_…>/backups");
    println!();
    Ok(())
}

fn sh(path: &Path) -> String {
    walwarden_contract::quote::sh(&path.display().to_string())
}
