//! The artifact, from the bucket to a private file: ranges in parallel, hashed in order while they
//! arrive. How far each range is on disk is noted, so that an interrupted download goes on there.

mod hash;
mod source;

use std::{collections::VecDeque, fs::File, os::unix::fs::FileExt, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use reqwest::header;
use walwarden_client::{RetryPolicy, worker::JobSession};
use walwarden_contract::{failure::FailureClass, worker::SignedRequest};

use self::{
    hash::{Abandon, Arrived, hash},
    source::{Fault, Source, passing, signed},
};
use super::workspace::Workspace;
use crate::{failure::Failure, files, output::Output};

pub use source::{bucket_client, fetch_whole};

const RANGE_BYTES: u64 = 8 * 1024 * 1024;
const IN_FLIGHT: usize = 4;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1024 * 1024;
/// What is gathered and not yet written is all that an interruption loses: less than one range.
const _: () = assert!(IN_FLIGHT * 2 * WRITE_BYTES <= RANGE_BYTES as usize);
/// Tries of one range before the download is given up.
const RETRY: RetryPolicy =
    RetryPolicy { attempts: 8, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) };

/// The artifact's file in a workspace.
pub const ARTIFACT: &str = "artifact.dump";
/// How many bytes of each range are on disk, from its start: a little-endian `u32` a range.
const ARRIVED: &str = "arrived";
const NOTE_BYTES: usize = 4;

/// What a download gave.
pub struct Downloaded {
    /// SHA-256, computed from the file on disk.
    pub sha256: String,
    /// Some of it was there from before.
    pub resumed: bool,
}

/// Downloads `size` bytes into the workspace.
pub async fn artifact(
    session: &JobSession,
    workspace: &Workspace,
    size: u64,
    output: &Output,
) -> Result<Downloaded, Failure> {
    let path = workspace.path(ARTIFACT);
    let file_error = |error: std::io::Error| Failure::file("write", &path, &error);
    let file = files::open_private(&path).map_err(file_error)?;
    let count = usize::try_from(size.div_ceil(RANGE_BYTES)).unwrap_or(usize::MAX);
    let kept = kept_bytes(workspace, &file, size, count)?;
    allocate(&file, size).map_err(file_error)?;
    let present: Vec<bool> = (0..count).map(|range| kept[range] == range_length(range, size)).collect();
    let (file, arrived) = (Arc::new(file), Arc::new(Arrived::new(present.clone())));
    let hashing = {
        let (file, arrived) = (file.clone(), arrived.clone());
        tokio::task::spawn_blocking(move || hash(&file, size, &arrived))
    };
    let _abandon = Abandon(arrived.clone());

    let mut due: VecDeque<usize> = (0..count).filter(|range| !present[*range]).collect();
    output.advance(kept.iter().sum());
    let notes = files::open_private(&workspace.path(ARRIVED))
        .map_err(|error| Failure::file("write", &workspace.path(ARRIVED), &error))?;
    let disk = Disk { artifact: file.clone(), notes };
    let source = Source::new(session, size).await?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(range) = due.pop_front()
        {
            running.push(fetch_range(&source, &disk, range, kept[range], output));
        }
        let Some(done) = running.next().await else { break };
        arrived.mark(done?);
    }
    let digest = hashing.await.map_err(|error| Failure::internal(format!("hashing ended: {error}")))?;
    let digest = digest.map_err(|error| Failure::file("read", &path, &error))?;
    let sha256 = digest.ok_or_else(|| Failure::internal("the download was abandoned"))?;
    Ok(Downloaded { sha256, resumed: kept.iter().any(|bytes| *bytes > 0) })
}

/// Forgets what arrived: the bytes were not the right ones.
pub fn forget(workspace: &Workspace) {
    let _ = std::fs::remove_file(workspace.path(ARRIVED));
    let _ = std::fs::remove_file(workspace.path(ARTIFACT));
}

fn range_length(range: usize, size: u64) -> u64 {
    let start = range as u64 * RANGE_BYTES;
    RANGE_BYTES.min(size - start)
}

/// What an earlier try noted, if it is of this file.
fn kept_bytes(workspace: &Workspace, file: &File, size: u64, count: usize) -> Result<Vec<u64>, Failure> {
    let mut kept = vec![0; count];
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length != size {
        let _ = std::fs::remove_file(workspace.path(ARRIVED));
    }
    let noted = workspace.read(ARRIVED)?.unwrap_or_default();
    for (range, note) in noted.chunks_exact(NOTE_BYTES).take(count).enumerate() {
        let bytes = u32::from_le_bytes([note[0], note[1], note[2], note[3]]).into();
        if bytes <= range_length(range, size) {
            kept[range] = bytes;
        }
    }
    Ok(kept)
}

/// Takes the room at once, so that a full disk is found before the download and not by it.
fn allocate(file: &File, size: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    file.set_len(size)
}

/// The artifact's file, and beside it how much of each range is in it.
struct Disk {
    artifact: Arc<File>,
    notes: File,
}

impl Disk {
    /// Writes more of a range, and only then notes that it is there.
    fn write(&self, range: usize, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        let there = at + bytes.len() as u64 - range as u64 * RANGE_BYTES;
        let note = u32::try_from(there).unwrap_or(0).to_le_bytes();
        let written = self.artifact.write_all_at(bytes, at).map_err(|error| (ARTIFACT, error)).and_then(|()| {
            self.notes.write_all_at(&note, (range * NOTE_BYTES) as u64).map_err(|error| (ARRIVED, error))
        });
        written.map_err(|(name, error)| Failure::file("write", std::path::Path::new(name), &error))
    }
}

/// Fetches what is missing of a range of which `written` bytes are there.
async fn fetch_range(
    source: &Source<'_>,
    disk: &Disk,
    range: usize,
    mut written: u64,
    output: &Output,
) -> Result<usize, Failure> {
    let length = range_length(range, source.size);
    let mut failed = 0;
    loop {
        let before = written;
        let (generation, request) = source.request().await;
        let why = match fetch_once(source, &request, disk, range, &mut written, output).await {
            Ok(()) => return Ok(range),
            Err(Fault::Final(failure)) => return Err(failure),
            Err(Fault::Passing(why)) if written == length => {
                tracing::debug!(range, why, "a range arrived whole all the same");
                return Ok(range);
            }
            Err(Fault::Passing(why)) => why,
            Err(Fault::Expired) => {
                source.renew(generation).await?;
                "the bucket refuses the URL".into()
            }
        };
        // A way that breaks often and brings something each time is slow, not dead.
        failed = if written > before { 1 } else { failed + 1 };
        tracing::debug!(range, failed, why, "a range failed");
        if failed >= RETRY.attempts {
            return Err(Failure::class(FailureClass::DownloadFailed, format!("the download did not complete: {why}")));
        }
        tokio::time::sleep(RETRY.pause(failed)).await;
    }
}

async fn fetch_once(
    source: &Source<'_>,
    request: &SignedRequest,
    disk: &Disk,
    range: usize,
    written: &mut u64,
    output: &Output,
) -> Result<(), Fault> {
    let start = range as u64 * RANGE_BYTES + *written;
    let length = range_length(range, source.size) - *written;
    let end = start + length;
    let asked = format!("bytes={start}-{}", end - 1);
    let mut response = signed(&source.client, request).header(header::RANGE, asked).send().await.map_err(passing)?;
    source.check(&response, start, length)?;
    let mut gathered = Vec::with_capacity(WRITE_BYTES + 64 * 1024);
    let mut at = start;
    loop {
        let chunk = response.chunk().await.map_err(passing);
        let ended = !matches!(chunk, Ok(Some(_)));
        if let Ok(Some(chunk)) = &chunk {
            gathered.extend_from_slice(chunk);
        }
        if at + gathered.len() as u64 > end {
            return Err(Fault::Passing("the bucket sent more than was asked for".into()));
        }
        if (ended && !gathered.is_empty()) || gathered.len() >= WRITE_BYTES {
            tokio::task::block_in_place(|| disk.write(range, at, &gathered)).map_err(Fault::Final)?;
            at += gathered.len() as u64;
            *written += gathered.len() as u64;
            output.advance(gathered.len() as u64);
            gathered.clear();
        }
        if ended {
            chunk?;
            return if at == end { Ok(()) } else { Err(Fault::Passing("the answer ended early".into())) };
        }
    }
}
