//! Ports that no other test, in this process or another, is using or about to use.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use crate::random;

/// Ten consecutive ports, and the ten that lie 10,000 above them (SeaweedFS derives its second port of each kind so).
///
/// Probing a port and binding it later is a race; a lock file for each block, held as long as the block is in use,
/// settles it among tests. All lie below the range from which systems take ports of outgoing connections.
pub(crate) struct PortBlock {
    first: u16,
    _lock: File,
}

const LOWEST: u16 = 12_000;
const BLOCKS: u16 = 1_000;
const SIZE: u16 = 10;

impl PortBlock {
    pub(crate) fn take() -> anyhow::Result<PortBlock> {
        let directory = lock_directory()?;
        let start = random::below(BLOCKS);
        for step in 0..BLOCKS {
            let first = LOWEST + (start + step) % BLOCKS * SIZE;
            let path = directory.join(first.to_string());
            let Ok(lock) = File::create(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let ports = (first..first + SIZE).chain(first + 10_000..first + 10_000 + SIZE);
            if ports.into_iter().all(free) {
                return Ok(PortBlock { first, _lock: lock });
            }
        }
        bail!("no free block of {SIZE} ports from {LOWEST} on");
    }

    /// The block that begins at `first`, or an error where something else uses it.
    pub(crate) fn take_at(first: u16) -> anyhow::Result<PortBlock> {
        let lock = File::create(lock_directory()?.join(first.to_string()))?;
        let held = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !held || !(first..first + SIZE).all(free) {
            bail!("ports {first} to {} are in use", first + SIZE - 1);
        }
        Ok(PortBlock { first, _lock: lock })
    }

    /// The nth port of the block, from 0 to 9.
    pub(crate) fn port(&self, nth: u16) -> u16 {
        assert!(nth < SIZE);
        self.first + nth
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn lock_directory() -> anyhow::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let directory = std::env::temp_dir().join(format!("walwarden-ports-{user}"));
    std::fs::create_dir_all(&directory).with_context(|| format!("could not create {}", directory.display()))?;
    Ok(directory)
}
