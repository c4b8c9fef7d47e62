//! Which versions are there, and where.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;

use super::unprivileged::within_reach;
use crate::tools;

/// The majors that are complete, with their directories of programs.
pub(super) fn installed() -> BTreeMap<u8, PathBuf> {
    let mut found = BTreeMap::new();
    // The later one wins: a pinned build over the distribution's.
    for directory in [PathBuf::from("/usr/lib/postgresql"), tools::directory().join("pg")] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let bin = entry.path().join("bin");
            let complete =
                ["initdb", "postgres", "psql", "pg_dump", "pg_restore"].iter().all(|name| bin.join(name).exists());
            if let Some(major) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && complete
            {
                found.insert(major, bin);
            }
        }
    }
    found
}

/// The directory of a major's programs, where the server's user can run them.
pub(super) fn bin_dir(major: u8) -> anyhow::Result<PathBuf> {
    let mut installed = installed();
    let Some(bin) = installed.remove(&major) else {
        bail!("Postgres {major} is not installed\nhint: run tests/tools/install.sh");
    };
    // Behind its link: initdb looks for its neighbours there, past directories it may not enter.
    within_reach(bin.canonicalize()?)
}
