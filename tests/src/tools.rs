//! Where the pinned programs are.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// The directory `tests/tools/install.sh` fills: `.tools` in the repository, or `$WALWARDEN_TOOLS`.
pub fn directory() -> PathBuf {
    std::env::var_os("WALWARDEN_TOOLS").map_or_else(|| repository().join(".tools"), PathBuf::from)
}

/// A program below `.tools/bin`.
///
/// # Errors
/// When it is not installed; the message says how to.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = directory().join("bin").join(name);
    if !path.exists() {
        bail!("{} is not installed\nhint: run tests/tools/install.sh", path.display());
    }
    Ok(path)
}
