//! The functions of the product wired into one process: the same routers as on AWS, an embedded DynamoDB on
//! loopback, runners as child processes, and two loops in place of EventBridge.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use walwarden_contract::{address::AddressPolicy, secret::Secret};
use walwarden_core::{
    Domain, Settings,
    destinations::{Network, http_client},
    edge::Edge,
    keyring::{Keyring, LocalKeyring},
    table::Table,
};
use walwarden_functions::{
    api,
    callers::{DispatchCaller, WorkerCaller},
    dispatch::{ChildLauncher, Dispatch, Launcher},
    sentinel::Sentinel,
    worker,
};

use crate::data::DataDirectory;

const TABLE: &str = "walwarden";
const SWEEP_EVERY: Duration = Duration::from_secs(2);
const TICK_EVERY: Duration = Duration::from_secs(5);
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// How a stack is wired.
pub struct Wiring {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where clients reach it, if not there.
    pub public_url: Option<String>,
    /// A DynamoDB of one's own; else the embedded one.
    pub dynamodb_endpoint: Option<String>,
    /// The runner's program.
    pub runner: PathBuf,
    /// Directories with pg_dump, colon-separated.
    pub pg_bin: Option<String>,
    /// Whether buckets and databases may be at private addresses.
    pub allow_private_addresses: bool,
    /// Where the sealer is to die.
    pub die_at: Option<String>,
    /// How far the domain's clock is ahead of the machine's.
    pub clock_ahead_seconds: u32,
}

/// A running stack.
pub struct Stack {
    /// Where clients reach it.
    pub base_url: String,
    /// The operator's token, on the first start only.
    pub operator_token: Option<Secret>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Stack {
    /// Starts everything and returns when requests are answered.
    pub async fn start(data: &DataDirectory, wiring: Wiring) -> Result<Self> {
        let mut identity = data.identity()?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let aws = match &wiring.dynamodb_endpoint {
            Some(endpoint) => {
                aws_config::defaults(BehaviorVersion::latest())
                    .http_client(http_client())
                    .endpoint_url(endpoint)
                    .load()
                    .await
            }
            None => {
                let (endpoint, task) = embedded_dynamodb(data, stopped.clone()).await?;
                tasks.extend(task);
                loopback_config(&endpoint)
            }
        };
        let table = Table::new(aws_sdk_dynamodb::Client::new(&aws), TABLE);
        table.create_if_missing().await.context("could not create the table")?;

        let listener = TcpListener::bind(wiring.listen).await.map_err(|error| {
            anyhow::anyhow!("could not listen on {}: {error}\nhint: choose another port with --listen", wiring.listen)
        })?;
        let local_url = format!("http://{}", listener.local_addr()?);
        let base_url = wiring.public_url.clone().unwrap_or_else(|| local_url.clone());
        let edge = match i64::from(wiring.clock_ahead_seconds) * 1000 {
            0 => Edge::system(),
            ahead_ms => {
                tracing::warn!(ahead_ms, "the clock is turned, as asked: for tests only");
                let system = Edge::system();
                Edge::with_clock(move || system.now_ms() + ahead_ms)
            }
        };
        let keys = data.join("keyring.json");
        if identity.org.is_some() && !keys.exists() {
            bail!(
                "{} is missing, and what is stored was encrypted and signed with the keys in it\nhint: put it back from your copy; new keys would open nothing",
                keys.display()
            );
        }
        let keyring = LocalKeyring::open_or_create(&keys, &edge.now())?;
        let policy = AddressPolicy { allow_private: wiring.allow_private_addresses };
        let settings = Settings {
            deployment: identity.deployment.clone(),
            base_url: base_url.clone(),
            epoch: 0,
            network: Network::new(policy, wiring.allow_private_addresses),
            die_at: wiring.die_at.clone(),
        };
        let domain = Arc::new(Domain::new(table, Keyring::Local(keyring), edge, settings));
        let mut operator_token = None;
        if identity.org.is_none() {
            let (org, token) = domain.create_organization("self-hosted").await?;
            // The token is on disk before the organization is remembered: a process that dies between leaves an
            // organization nobody uses, and not an install that nobody can enter.
            crate::up::keep_token(data, token.expose())?;
            identity.org = Some(org);
            data.keep(&identity)?;
            operator_token = Some(token);
        }

        let worker_caller = WorkerCaller::Here(Arc::clone(&domain));
        let mut environment =
            vec![("RUST_LOG".to_owned(), std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))];
        environment.extend(wiring.pg_bin.clone().map(|dirs| ("WALWARDEN_PG_BIN".to_owned(), dirs)));
        environment.push(("WALWARDEN_WORK_DIR".to_owned(), data.runners_directory()?));
        let launcher = ChildLauncher {
            program: wiring.runner.clone(),
            worker_url: local_url,
            environment,
            stopped: stopped.clone(),
        };
        let dispatch = Arc::new(Dispatch::new(Arc::clone(&domain), Launcher::Child(launcher)));
        let dispatch_caller = DispatchCaller::Here(dispatch);
        let sentinel =
            Sentinel { domain: Arc::clone(&domain), worker: worker_caller.clone(), dispatch: dispatch_caller.clone() };
        let router = api::router(api::Api {
            domain: Arc::clone(&domain),
            worker: worker_caller.clone(),
            dispatch: dispatch_caller,
        })
        .merge(worker::router(worker::Worker { domain, caller: worker_caller }));
        let mut until = stopped.clone();
        tasks.push(tokio::spawn(async move {
            let ended = async move { drop(until.wait_for(|stop| *stop).await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
                tracing::error!(%error, "the server ended");
            }
        }));
        tasks.push(every(SWEEP_EVERY, stopped.clone(), sentinel.clone(), |s| async move { s.sweep().await }));
        tasks.push(every(TICK_EVERY, stopped, sentinel, |s| async move { s.ticks().await }));
        Ok(Self { base_url, operator_token, stop, tasks })
    }

    /// Stops everything: requests under way are answered first.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            if tokio::time::timeout(Duration::from_secs(10), task).await.is_err() {
                tracing::warn!("a task did not end in time");
            }
        }
    }
}

/// Runs a job again and again until the stack stops. A failure is logged; the next run comes all the same.
fn every<F>(
    pause: Duration,
    mut stopped: watch::Receiver<bool>,
    sentinel: Sentinel,
    job: impl Fn(Sentinel) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = walwarden_core::error::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            if let Err(error) = job(sentinel.clone()).await {
                tracing::error!(%error, "periodic work failed");
            }
        }
    })
}

/// The embedded engine: DynamoDB's wire protocol on a loopback port of its own. It checks no signatures, so
/// it must never listen anywhere else.
async fn embedded_dynamodb(
    data: &DataDirectory,
    stopped: watch::Receiver<bool>,
) -> Result<(String, Vec<JoinHandle<()>>)> {
    let path = data.join("table.sqlite");
    let Some(path) = path.to_str() else { bail!("the data directory's path is not UTF-8") };
    let database = dynoxide::Database::new(path).with_context(|| format!("could not open {path}"))?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (served, mut until) = (database.clone(), stopped.clone());
    let server = tokio::spawn(async move {
        // Requests may still write while the public port drains; the engine goes last.
        let ended = async move {
            drop(until.wait_for(|stop| *stop).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        if let Err(error) = dynoxide::server::serve_with_shutdown(listener, served, ended).await {
            tracing::error!(error, "the embedded table ended");
        }
    });
    let mut until = stopped;
    let expiry = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = until.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(EXPIRE_EVERY) => {}
            }
            let database = database.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || database.sweep_ttl()).await {
                tracing::error!(%error, "expired items were not removed");
            }
        }
    });
    Ok((endpoint, vec![server, expiry]))
}

fn loopback_config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("embedded", "embedded", None, None, "embedded-table");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("local"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http_client())
        .endpoint_url(endpoint)
        .build()
}
