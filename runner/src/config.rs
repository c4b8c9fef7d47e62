//! What the runner is told by its environment, read once.

use std::{env, num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use walwarden_contract::{
    ids::{JobId, OrgId},
    secret::Secret,
};

/// What concerns the machine, whatever the job.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `WALWARDEN_PG_BIN`: directories with `pg_dump`, separated by colons. Each server major needs one of its own.
    /// Default: `/usr/lib/postgresql/*/bin`, then `PATH`.
    pub pg_bin: Vec<PathBuf>,
    /// `WALWARDEN_WORK_DIR`: where the private temporary directory is made; it holds the annex, never a dump. Default:
    /// the system's.
    pub work_dir: PathBuf,
    /// `WALWARDEN_THREADS`: compressing threads. Default: as many as there are cores.
    pub threads: Option<NonZeroUsize>,
    /// `WALWARDEN_PG_DUMP_FLOOR`: `warn` (default) or `refuse` a pg_dump with known vulnerabilities.
    pub refuse_below_floor: bool,
    /// `WALWARDEN_OPAQUE_MAJORS`: majors, separated by commas, whose archives are passed on as pg_dump writes them, unread.
    /// Those this version does not know are, whatever this says.
    pub opaque_majors: Vec<u32>,
    /// `WALWARDEN_LOCK_WAIT_SECONDS`: how long pg_dump waits for a table that somebody holds exclusively. Default: 120.
    pub lock_wait: Duration,
    /// `WALWARDEN_BUCKET_WAIT_SECONDS`: how long an upload is repeated while the bucket does not answer, or answers that it
    /// cannot now. Default: 240.
    pub bucket_wait: Duration,
}

/// One job.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WALWARDEN_WORKER_URL`: `https://host[:port]` of the control plane's worker function.
    pub worker_url: String,
    /// `WALWARDEN_ORG_ID`: the organization whose job it is.
    pub org_id: OrgId,
    /// `WALWARDEN_JOB_ID`: the backup or check.
    pub job_id: JobId,
    /// `WALWARDEN_CLAIM_SECRET`: claims the job, once. No child sees it: children get an environment of their own.
    pub claim_secret: Secret,
    /// The machine.
    pub machine: Machine,
}

/// See [`Machine::lock_wait`].
const LOCK_WAIT: Duration = Duration::from_secs(120);
const BUCKET_WAIT: Duration = Duration::from_secs(240);

/// `WALWARDEN_SOURCE_DSN`: the database that `dump-to-file` reads.
pub const SOURCE_DSN: &str = "WALWARDEN_SOURCE_DSN";

/// `RUST_LOG`: what is logged, `tracing`'s filter syntax. Default: `info`.
pub fn log_filter() -> String {
    env::var("RUST_LOG").unwrap_or_else(|_| "info".into())
}

impl Machine {
    /// Reads the machine's part.
    pub fn from_env() -> anyhow::Result<Self> {
        let threads = match optional("WALWARDEN_THREADS")? {
            Some(text) => Some(text.parse().context("WALWARDEN_THREADS is not a number from 1")?),
            None => None,
        };
        let refuse_below_floor = match optional("WALWARDEN_PG_DUMP_FLOOR")?.as_deref() {
            None | Some("warn") => false,
            Some("refuse") => true,
            Some(_) => bail!("WALWARDEN_PG_DUMP_FLOOR is neither `warn` nor `refuse`"),
        };
        let pg_bin = match env::var_os("WALWARDEN_PG_BIN").filter(|text| !text.is_empty()) {
            Some(list) => env::split_paths(&list).collect(),
            None => installed(),
        };
        let opaque = optional("WALWARDEN_OPAQUE_MAJORS")?.unwrap_or_default();
        let majors = opaque.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::parse);
        let opaque_majors =
            majors.collect::<Result<_, _>>().context("WALWARDEN_OPAQUE_MAJORS is no list of numbers")?;
        let lock_wait = seconds("WALWARDEN_LOCK_WAIT_SECONDS", LOCK_WAIT)?;
        let bucket_wait = seconds("WALWARDEN_BUCKET_WAIT_SECONDS", BUCKET_WAIT)?;
        let work_dir = env::var_os("WALWARDEN_WORK_DIR").map_or_else(env::temp_dir, PathBuf::from);
        Ok(Self { pg_bin, work_dir, threads, refuse_below_floor, opaque_majors, lock_wait, bucket_wait })
    }
}

impl Config {
    /// Reads all of it.
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self {
            worker_url: required("WALWARDEN_WORKER_URL")?,
            org_id: required("WALWARDEN_ORG_ID")?.parse().context("WALWARDEN_ORG_ID")?,
            job_id: required("WALWARDEN_JOB_ID")?.parse().context("WALWARDEN_JOB_ID")?,
            claim_secret: Secret::new(required("WALWARDEN_CLAIM_SECRET")?),
            machine: Machine::from_env()?,
        })
    }
}

/// One second to a day.
fn seconds(name: &str, default: Duration) -> anyhow::Result<Duration> {
    match optional(name)?.map(|text| text.parse()) {
        None => Ok(default),
        Some(Ok(seconds @ 1..=86_400)) => Ok(Duration::from_secs(seconds)),
        Some(_) => bail!("{name} is not 1 to 86400"),
    }
}

fn required(name: &str) -> anyhow::Result<String> {
    optional(name)?.with_context(|| {
        format!("{name} is not set\nhint: the dispatcher sets it; to dump by hand use `walwarden-runner dump-to-file`")
    })
}

fn optional(name: &str) -> anyhow::Result<Option<String>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => bail!("{name} is not UTF-8"),
    }
}

fn installed() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        found.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    found.sort();
    found.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    found
}
