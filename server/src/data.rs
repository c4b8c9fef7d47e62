//! The data directory: one process at a time, and everything that must survive it. Lose it, and what lies
//! in the customers' buckets still restores and verifies; the schedule and the log's future do not.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use walwarden_contract::ids::OrgId;

/// What the server remembers of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Name of this deployment: audience of its restore tokens, head of its log origins.
    pub deployment: String,
    /// The one organization of a self-hosted install; absent until it was created.
    pub org: Option<OrgId>,
}

/// An opened data directory.
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Opens or creates it, and keeps every other process out.
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("could not create the data directory {}", path.display()))?;
        let path = path.canonicalize()?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "the data directory {} is in use by another walwarden-server\nhint: stop it, or give this one another --data-dir",
                path.display()
            );
        }
        Ok(Self { path, _lock: lock })
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where runners keep what they write while they work. What a killed one left behind lies here, not in the
    /// system's directory for temporary files: an annex names tables.
    pub fn runners_directory(&self) -> Result<String> {
        let path = self.join("runners");
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => bail!("the data directory's path is not UTF-8"),
        }
    }

    /// Who this server is; made on the first start.
    pub fn identity(&self) -> Result<Identity> {
        let path = self.join("server.json");
        if path.exists() {
            let text = fs::read_to_string(&path)?;
            return serde_json::from_str(&text).with_context(|| format!("{} is not readable", path.display()));
        }
        let mut random = [0; 4];
        getrandom::fill(&mut random).context("no randomness from the operating system")?;
        let identity = Identity { deployment: format!("self-{}", hex::encode(random)), org: None };
        self.keep(&identity)?;
        Ok(identity)
    }

    /// Remembers who this server is.
    pub fn keep(&self, identity: &Identity) -> Result<()> {
        write_private(&self.join("server.json"), &serde_json::to_vec_pretty(identity)?)
    }
}

/// Writes a file that only its owner reads, all of it or nothing.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path).with_context(|| format!("could not write {}", path.display()))
}
