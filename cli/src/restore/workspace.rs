//! The private directory of one restore: session secret, evidence, download. What is kept here lets an
//! interrupted restore go on.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use walwarden_client::worker::SessionSecret;
use walwarden_contract::{
    secret::Secret,
    token::{self, RestoreMode},
};
use walwarden_verifier::ids;

use super::guards::Environment;
use crate::{failure::Failure, files};

/// `<work>/<restoreId>/`
pub struct Workspace {
    directory: PathBuf,
    _lock: File,
}

/// Where workspaces are: `--work-dir`, `WALWARDEN_WORK_DIR`, else the user's cache.
pub fn base(flag: Option<&Path>, environment: &Environment) -> PathBuf {
    let named = flag.map(Path::to_owned).or_else(|| environment.work_dir.clone());
    let cache = || {
        let cache =
            environment.cache_home.clone().or_else(|| environment.home.as_ref().map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("walwarden"))
    };
    named
        .or_else(cache)
        .unwrap_or_else(|| std::env::temp_dir().join(format!("walwarden-{}", rustix::process::geteuid().as_raw())))
}

/// Whether a session of this restore is kept below `base`: claimed, or perhaps claimed with the answer lost.
pub fn is_resumable(base: &Path, restore_id: &str) -> bool {
    base.join(restore_id).join(SESSION).is_file()
}

const SESSION: &str = "session";
const CLAIMED: &str = "claimed";
const TOKEN: &str = "token";
/// A result that the server was not told yet.
pub const REPORT: &str = "report.json";
/// Kept because the user asked for it.
const KEPT: &str = "kept";
/// A session serves its restore for a day after the claim; nothing of it is of use later.
const ABANDONED_AFTER: Duration = Duration::from_secs(25 * 3600);

/// A token that was spent, or perhaps spent with the answer lost, and by whom it was taken.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// The token.
    pub token: Secret,
    /// The server.
    pub base_url: String,
}

/// Workspaces below `base`.
fn all(base: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| ids::is_id("rst", name))).map(|e| e.path())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The token of the last restore of that backup, in that mode or any, which was interrupted here: one-liners set it for themselves alone, and
/// the command that goes on would lack it.
pub fn spent_token(base: &Path, manifest: &str, mode: Option<RestoreMode>) -> Option<Spent> {
    let spent = |directory: &PathBuf| {
        let private = files::is_private(directory).ok()?;
        let spent: Spent = serde_json::from_slice(&fs::read(directory.join(TOKEN)).ok()?).ok()?;
        let claims = token::split(spent.token.expose()).ok()?.payload;
        let it = private && claims.manifest_hash == manifest && mode.is_none_or(|mode| claims.mode == mode);
        it.then_some((modified(&directory.join(SESSION))?, spent))
    };
    let restores = all(base).filter(|directory| !directory.join(REPORT).exists() && !directory.join(KEPT).exists());
    restores.filter_map(|directory| spent(&directory)).max_by_key(|(at, _)| *at).map(|(_, spent)| spent)
}

/// Removes what restores left that nobody went on with: a download of any size would lie there for ever.
pub fn clear_abandoned(base: &Path, now: SystemTime) {
    for directory in all(base) {
        let wanted = directory.join(REPORT).exists() || directory.join(KEPT).exists();
        let begun = modified(&directory.join(SESSION));
        let old = begun.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED_AFTER));
        if wanted || !old {
            continue;
        }
        let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { continue };
        if let Ok(workspace) = Workspace::open(base, name) {
            workspace.remove();
        }
    }
}

impl Workspace {
    /// Opens or creates the directory of a restore; one process at a time.
    pub fn open(base: &Path, restore_id: &str) -> Result<Self, Failure> {
        let directory = base.join(restore_id);
        files::private_directory(&directory).map_err(|error| Failure::file("create", &directory, &error))?;
        let private = files::is_private(&directory).map_err(|error| Failure::file("look at", &directory, &error))?;
        if !private {
            return Err(Failure::user(
                "work_dir_not_private",
                format!("{} can be read or written by others", directory.display()),
            )
            .hint("remove it, or name another directory with --work-dir"));
        }
        let path = directory.join("lock");
        let lock = files::open_private(&path).map_err(|error| Failure::file("open", &path, &error))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::user("already_running", "another process on this machine is running this restore")
                .hint("wait for it, or end it first")
        })?;
        Ok(Self { directory, _lock: lock })
    }

    /// A file's path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a file whole, 0600.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        files::write_private(&path, bytes).map_err(|error| Failure::file("write", &path, &error))?;
        Ok(path)
    }

    /// Reads a file, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file("read", &path, &error)),
        }
    }

    /// The session secret, made and kept before the token is spent: a lost answer then costs nothing.
    pub fn session_secret(&self) -> Result<SessionSecret, Failure> {
        if let Some(kept) = self.read(SESSION)? {
            return Ok(SessionSecret::from_hex(&String::from_utf8_lossy(&kept)));
        }
        let secret = SessionSecret::generate().map_err(|error| Failure::internal(format!("no randomness: {error}")))?;
        self.write(SESSION, secret.expose().as_bytes())?;
        Ok(secret)
    }

    /// Whether the token was spent for the kept session.
    pub fn is_claimed(&self) -> bool {
        self.path(CLAIMED).is_file()
    }

    /// Notes that it was.
    pub fn mark_claimed(&self) -> Result<(), Failure> {
        self.write(CLAIMED, b"").map(drop)
    }

    /// Keeps the token that is about to be spent.
    pub fn keep_token(&self, spent: &Spent) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(spent).map_err(|error| Failure::internal(error.to_string()))?;
        self.write(TOKEN, &bytes).map(drop)
    }

    /// Keeps it until its owner removes it.
    pub fn keep(&self) {
        let _ = self.write(KEPT, b"");
    }

    /// Removes the directory and all in it.
    pub fn remove(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
