//! Postgres refuses to run as root. Where the tests do, its programs run as somebody else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Gid, Uid, geteuid};
use tempfile::TempDir;

use super::run;

// There is always somebody called nobody.
const NOBODY: u32 = 65_534;

/// A command that runs `program` as a user who is not root.
pub(super) fn unprivileged(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups").arg(program);
    command
}

/// Makes the server's user the owner of a file or directory.
pub(super) fn give_to_server(path: &Path) -> anyhow::Result<()> {
    if geteuid().is_root() {
        rustix::fs::chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))?;
    }
    Ok(())
}

/// A directory the server's user owns and nobody else may enter. Short: a socket's path may have 107 bytes.
pub(super) fn scratch_directory(kind: &str) -> anyhow::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(&format!("ww-{kind}-")).tempdir()?;
    give_to_server(directory.path())?;
    Ok(directory)
}

/// The same programs at a place the server's user can reach: where the checkout lies in root's home, a copy.
pub(super) fn within_reach(bin: PathBuf) -> anyhow::Result<PathBuf> {
    let runs = |bin: &Path| {
        // Through a shell: setpriv itself still has root's rights when it starts its program, the program has not.
        let mut command = unprivileged(Path::new("/bin/sh"));
        command
            .args(["-c", "exec \"$0\" --version"])
            .arg(bin.join("initdb"))
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if runs(&bin) {
        return Ok(bin);
    }
    // .tools/packages/postgres-16/<module>/<folder>/bin; the libraries lie beside the module.
    let package = bin.ancestors().nth(3).context("Postgres lies too near the root directory")?;
    let inside = bin.strip_prefix(package)?;
    let directory = std::env::temp_dir().join(format!("walwarden-postgres-{}", geteuid().as_raw()));
    std::fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let copy = directory.join(package.file_name().context("Postgres lies in the root directory")?);
    let is_current = |copy: &Path| {
        let stamp = |path: &Path| std::fs::read(path.join(".installed")).ok();
        stamp(copy).is_some() && stamp(copy) == stamp(package)
    };
    if !is_current(&copy) {
        let _ = std::fs::remove_dir_all(&copy);
        let unfinished = copy.with_extension("new");
        let _ = std::fs::remove_dir_all(&unfinished);
        run(Command::new("cp").arg("-a").arg(package).arg(&unfinished))?;
        std::fs::rename(&unfinished, &copy)?;
    }
    let bin = copy.join(inside);
    anyhow::ensure!(
        runs(&bin),
        "the user who runs Postgres cannot run {}\nhint: set WALWARDEN_TOOLS to a directory everybody may enter, then run tests/tools/install.sh",
        bin.display()
    );
    Ok(bin)
}
