//! Clusters fresh from initdb, made once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::unprivileged::{give_to_server, scratch_directory, unprivileged};
use super::{SUPERUSER, clean_environment, run};
use crate::{random, tools};

/// A data directory fresh from initdb, kept below `.tools/cache`: copying it takes a tenth of the time of making it.
pub(super) struct Template {
    pub(super) data: PathBuf,
    pub(super) password: String,
}

impl Template {
    pub(super) fn of(major: u8, bin_dir: &Path) -> anyhow::Result<Template> {
        let version = run(Command::new(bin_dir.join("postgres")).arg("--version"))?;
        let version = String::from_utf8_lossy(&version.stdout)
            .trim()
            .replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_");
        let name = format!("{version}-by-{}", geteuid().as_raw());
        let (cache, lock) = Self::cache(&name)?;
        let kept = cache.join(&name);
        flock(&lock, FlockOperation::LockExclusive)?;
        if !kept.exists() {
            Self::make(bin_dir, &kept)
                .with_context(|| format!("could not initialise a cluster of Postgres {major}"))?;
        }
        let password = std::fs::read_to_string(kept.join("password"))?.trim().to_owned();
        Ok(Template { data: kept.join("data"), password })
    }

    /// Below `.tools`, or where that belongs to somebody else, in the directory for temporary files.
    fn cache(name: &str) -> anyhow::Result<(PathBuf, File)> {
        let own = std::env::temp_dir().join(format!("walwarden-cache-{}", geteuid().as_raw()));
        let mut refused = None;
        for directory in [tools::directory().join("cache"), own] {
            let lock =
                std::fs::create_dir_all(&directory).and_then(|()| File::create(directory.join(format!("{name}.lock"))));
            match lock {
                Ok(lock) => return Ok((directory, lock)),
                Err(error) => {
                    refused =
                        Some(anyhow::Error::new(error).context(format!("could not write in {}", directory.display())))
                }
            }
        }
        Err(refused.expect("two refusals"))
    }

    fn make(bin_dir: &Path, kept: &Path) -> anyhow::Result<()> {
        let scratch = scratch_directory("initdb")?;
        let scratch = scratch.path();
        let password_file = scratch.join("password");
        std::fs::write(&password_file, format!("{}\n", random::hex(16)))?;
        give_to_server(&password_file)?;
        let mut command = unprivileged(&bin_dir.join("initdb"));
        command.arg("-D").arg(scratch.join("data")).arg("--pwfile").arg(&password_file);
        command.args(["-U", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        clean_environment(&mut command);
        run(command.current_dir(scratch))?;
        // Another file system, perhaps: copy, then appear at once under the final name.
        let unfinished = kept.with_extension("new");
        let _ = std::fs::remove_dir_all(&unfinished);
        run(Command::new("cp").arg("-a").arg(scratch).arg(&unfinished))?;
        std::fs::rename(&unfinished, kept)?;
        Ok(())
    }
}
