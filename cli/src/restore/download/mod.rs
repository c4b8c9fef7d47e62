//! The artifact, from the bucket to a private file: ranges in parallel, hashed in order while they
//! arrive. What arrived is noted, so that an interrupted download goes on.

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
/// Tries of one range before the download is given up.
const RETRY: RetryPolicy =
    RetryPolicy { attempts: 8, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) };

/// The artifact's file in a workspace.
pub const ARTIFACT: &str = "artifact.dump";
const RANGES: &str = "ranges";

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
    let present = kept_ranges(workspace, &file, size, count)?;
    allocate(&file, size).map_err(file_error)?;
    let (file, arrived) = (Arc::new(file), Arc::new(Arrived::new(present.clone())));
    let hashing = {
        let (file, arrived) = (file.clone(), arrived.clone());
        tokio::task::spawn_blocking(move || hash(&file, size, &arrived))
    };
    let _abandon = Abandon(arrived.clone());

    let mut due: VecDeque<usize> = (0..count).filter(|range| !present[*range]).collect();
    output.advance(size - due.iter().map(|range| range_length(*range, size)).sum::<u64>());
    let log = files::open_private(&workspace.path(RANGES))
        .map_err(|error| Failure::file("write", &workspace.path(RANGES), &error))?;
    let source = Source::new(session, size).await?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(range) = due.pop_front()
        {
            running.push(fetch_range(&source, &file, range, output));
        }
        let Some(done) = running.next().await else { break };
        let range = done?;
        log.write_all_at(b"1", range as u64).map_err(file_error)?;
        arrived.mark(range);
    }
    let digest = hashing.await.map_err(|error| Failure::internal(format!("hashing ended: {error}")))?;
    let digest = digest.map_err(|error| Failure::file("read", &path, &error))?;
    let sha256 = digest.ok_or_else(|| Failure::internal("the download was abandoned"))?;
    Ok(Downloaded { sha256, resumed: present.contains(&true) })
}

/// Forgets what arrived: the bytes were not the right ones.
pub fn forget(workspace: &Workspace) {
    let _ = std::fs::remove_file(workspace.path(RANGES));
    let _ = std::fs::remove_file(workspace.path(ARTIFACT));
}

fn range_length(range: usize, size: u64) -> u64 {
    let start = range as u64 * RANGE_BYTES;
    RANGE_BYTES.min(size - start)
}

/// What an earlier try noted, if it is of this file.
fn kept_ranges(workspace: &Workspace, file: &File, size: u64, count: usize) -> Result<Vec<bool>, Failure> {
    let mut present = vec![false; count];
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length != size {
        let _ = std::fs::remove_file(workspace.path(RANGES));
    }
    for (range, byte) in present.iter_mut().zip(workspace.read(RANGES)?.unwrap_or_default()) {
        *range = byte == b'1';
    }
    Ok(present)
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

async fn fetch_range(source: &Source<'_>, file: &Arc<File>, range: usize, output: &Output) -> Result<usize, Failure> {
    let start = range as u64 * RANGE_BYTES;
    let length = range_length(range, source.size);
    let mut failed = 0;
    let mut written = 0;
    loop {
        let (generation, request) = source.request().await;
        let why =
            match fetch_once(source, &request, file, start + written, length - written, output, &mut written).await {
                Ok(()) => return Ok(range),
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::Passing(why)) => why,
                Err(Fault::Expired) => {
                    source.renew(generation).await?;
                    "the bucket refuses the URL".into()
                }
            };
        failed += 1;
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
    file: &Arc<File>,
    start: u64,
    length: u64,
    output: &Output,
    written: &mut u64,
) -> Result<(), Fault> {
    let range = format!("bytes={start}-{}", start + length - 1);
    let mut response = signed(&source.client, request).header(header::RANGE, range).send().await.map_err(passing)?;
    source.check(&response, start, length)?;
    let mut gathered = Vec::with_capacity(WRITE_BYTES + 64 * 1024);
    let mut at = start;
    let end = start + length;
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
            tokio::task::block_in_place(|| file.write_all_at(&gathered, at))
                .map_err(|error| Fault::Final(Failure::file("write", std::path::Path::new(ARTIFACT), &error)))?;
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
