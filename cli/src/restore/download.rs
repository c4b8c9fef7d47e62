//! The artifact, from the bucket to a private file: ranges in parallel, hashed in order while they
//! arrive. What arrived is noted, so that an interrupted download goes on.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use reqwest::{Client, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use walwarden_client::{RetryPolicy, worker::JobSession};
use walwarden_contract::{
    failure::FailureClass,
    worker::{Instructions, SignedRequest},
};

use super::workspace::Workspace;
use crate::{failure::Failure, files, output::Output};

const RANGE_BYTES: u64 = 8 * 1024 * 1024;
const IN_FLIGHT: usize = 4;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1024 * 1024;
const HASH_BYTES: usize = 1024 * 1024;
/// Tries of one range before the download is given up.
const RETRY: RetryPolicy =
    RetryPolicy { attempts: 8, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) };

/// The artifact's file in a workspace.
pub const ARTIFACT: &str = "artifact.dump";
const RANGES: &str = "ranges";

/// A client for presigned URLs: they are secrets, so it follows no redirects.
pub fn bucket_client() -> Result<Client, Failure> {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        .user_agent(concat!("walwarden-cli/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Failure::internal(format!("no HTTP client: {}", error.without_url())))
}

/// A failed exchange, without its URL.
enum Fault {
    /// The URL is no longer good.
    Expired,
    /// Worth another try.
    Passing(String),
    /// Not worth one.
    Final(Failure),
}

fn passing(error: reqwest::Error) -> Fault {
    Fault::Passing(error.without_url().to_string())
}

fn signed(client: &Client, request: &SignedRequest) -> reqwest::RequestBuilder {
    let mut built = client.get(request.url.expose());
    for (name, value) in &request.headers {
        built = built.header(name, value);
    }
    built
}

/// A small object as a whole; its size must be exactly `size`.
pub async fn fetch_whole(client: &Client, request: &SignedRequest, size: u64) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::class(FailureClass::DownloadFailed, format!("could not read the annex from the bucket: {why}"));
    let mut response = signed(client, request).send().await.map_err(|error| failed(error.without_url().to_string()))?;
    if !response.status().is_success() {
        return Err(failed(format!("the bucket answered {}", response.status())));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(error.without_url().to_string()))? {
        if (bytes.len() + chunk.len()) as u64 > size {
            return Err(failed("it is larger than the manifest states".into()));
        }
        bytes.extend_from_slice(&chunk);
    }
    if bytes.len() as u64 != size {
        return Err(failed("it ended early".into()));
    }
    Ok(bytes)
}

/// Which ranges are on disk; the hash follows the first gap.
struct Arrived {
    ranges: Mutex<State>,
    changed: Condvar,
}

struct State {
    present: Vec<bool>,
    gap: usize,
    abandoned: bool,
}

impl Arrived {
    fn new(present: Vec<bool>) -> Self {
        let gap = present.iter().position(|there| !there).unwrap_or(present.len());
        Self { ranges: Mutex::new(State { present, gap, abandoned: false }), changed: Condvar::new() }
    }

    fn mark(&self, range: usize) {
        let mut state = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        state.present[range] = true;
        while state.present.get(state.gap) == Some(&true) {
            state.gap += 1;
        }
        self.changed.notify_all();
    }

    fn abandon(&self) {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).abandoned = true;
        self.changed.notify_all();
    }

    /// Waits until range `index` and all before it are there; false if the download was given up.
    fn wait_for(&self, index: usize) -> bool {
        let mut state = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        while state.gap <= index && !state.abandoned {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.gap > index
    }
}

/// Ends the hashing thread if the download is dropped.
struct Abandon(Arc<Arrived>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Downloads `size` bytes into the workspace and gives their SHA-256, computed from the file on disk.
pub async fn artifact(session: &JobSession, workspace: &Workspace, size: u64, output: &Output) -> Result<String, Failure> {
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
    let log = files::open_private(&workspace.path(RANGES)).map_err(|error| Failure::file("write", &workspace.path(RANGES), &error))?;
    let source = Source::new(session, size).await?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < IN_FLIGHT && let Some(range) = due.pop_front() {
            running.push(fetch_range(&source, &file, range, output));
        }
        let Some(done) = running.next().await else { break };
        let range = done?;
        log.write_all_at(b"1", range as u64).map_err(file_error)?;
        arrived.mark(range);
    }
    let digest = hashing.await.map_err(|error| Failure::internal(format!("hashing ended: {error}")))?;
    let digest = digest.map_err(|error| Failure::file("read", &path, &error))?;
    digest.ok_or_else(|| Failure::internal("the download was abandoned"))
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

fn kept_ranges(workspace: &Workspace, file: &File, size: u64, count: usize) -> Result<Vec<bool>, Failure> {
    let mut present = vec![false; count];
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if let Some(kept) = workspace.read(RANGES)? && length == size {
        for (range, byte) in present.iter_mut().zip(kept) {
            *range = byte == b'1';
        }
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

fn hash(file: &File, size: u64, arrived: &Arrived) -> std::io::Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BYTES];
    let mut at = 0;
    while at < size {
        let range = usize::try_from(at / RANGE_BYTES).unwrap_or(usize::MAX);
        if !arrived.wait_for(range) {
            return Ok(None);
        }
        let end = (at + range_length(range, size)).min(size);
        while at < end {
            let take = usize::try_from(end - at).unwrap_or(HASH_BYTES).min(HASH_BYTES);
            file.read_exact_at(&mut buffer[..take], at)?;
            hash.update(&buffer[..take]);
            at += take as u64;
        }
    }
    Ok(Some(hex::encode(hash.finalize())))
}

/// The object, by a URL that is renewed when it dies.
struct Source<'a> {
    session: &'a JobSession,
    client: Client,
    size: u64,
    current: tokio::sync::Mutex<(u64, SignedRequest)>,
    etag: Mutex<Option<String>>,
}

impl<'a> Source<'a> {
    async fn new(session: &'a JobSession, size: u64) -> Result<Self, Failure> {
        let first = ask(session).await?;
        Ok(Self { session, client: bucket_client()?, size, current: tokio::sync::Mutex::new((0, first)), etag: Mutex::new(None) })
    }

    async fn request(&self) -> (u64, SignedRequest) {
        self.current.lock().await.clone()
    }

    /// A new URL, unless another range asked for one meanwhile.
    async fn renew(&self, used: u64) -> Result<(), Failure> {
        let mut current = self.current.lock().await;
        if current.0 == used {
            *current = (used + 1, ask(self.session).await?);
        }
        Ok(())
    }

    /// Checks that an answer is that range of the object all other answers are of.
    fn check(&self, response: &Response, start: u64, length: u64) -> Result<(), Fault> {
        let changed = |what: &str| Fault::Final(Failure::class(FailureClass::ArtifactMismatch, format!("the artifact in the bucket is not what the manifest states: {what}")));
        let text = |name| response.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let whole = start == 0 && length == self.size;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let expected = format!("bytes {start}-{}/{}", start + length - 1, self.size);
                if text(header::CONTENT_RANGE) != Some(expected.as_str()) {
                    return Err(changed("another size"));
                }
            }
            StatusCode::OK if whole => {
                if response.content_length().is_some_and(|have| have != length) {
                    return Err(changed("another size"));
                }
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => return Err(Fault::Expired),
            StatusCode::BAD_REQUEST => return Err(Fault::Expired),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(changed("another size")),
            StatusCode::NOT_FOUND => return Err(Fault::Final(Failure::class(FailureClass::ArtifactMismatch, "the artifact is not in the bucket"))),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT => {
                return Err(Fault::Passing(format!("the bucket answered {status}")));
            }
            status => return Err(Fault::Final(Failure::class(FailureClass::DownloadFailed, format!("the bucket answered {status}")))),
        }
        if let Some(etag) = text(header::ETAG) {
            let mut known = self.etag.lock().unwrap_or_else(PoisonError::into_inner);
            match &*known {
                Some(known) if known != etag => return Err(changed("it changed during the download")),
                _ => *known = Some(etag.to_owned()),
            }
        }
        Ok(())
    }
}

async fn ask(session: &JobSession) -> Result<SignedRequest, Failure> {
    match session.instructions().await? {
        Instructions::Restore(restore) => Ok(restore.artifact),
        _ => Err(Failure::user("unexpected_answer", "the server's instructions are not those of a restore").hint("check WALWARDEN_BASE_URL")),
    }
}

async fn fetch_range(source: &Source<'_>, file: &Arc<File>, range: usize, output: &Output) -> Result<usize, Failure> {
    let start = range as u64 * RANGE_BYTES;
    let length = range_length(range, source.size);
    let mut failed = 0;
    let mut written = 0;
    loop {
        let (generation, request) = source.request().await;
        let why = match fetch_once(source, &request, file, start + written, length - written, output, &mut written).await {
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
            tokio::task::block_in_place(|| file.write_all_at(&gathered, at)).map_err(|error| {
                Fault::Final(Failure::file("write", std::path::Path::new(ARTIFACT), &error))
            })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_follows_ranges_in_whatever_order_they_arrive() {
        let size = 2 * RANGE_BYTES + 17;
        let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let arrived = Arc::new(Arrived::new(vec![false; 3]));
        let (reader, shared) = (file.try_clone().unwrap(), arrived.clone());
        let hashing = std::thread::spawn(move || hash(&reader, size, &shared).unwrap());
        for range in [2, 0, 1] {
            let start = range * RANGE_BYTES as usize;
            let end = start + range_length(range, size) as usize;
            file.write_all_at(&content[start..end], start as u64).unwrap();
            arrived.mark(range);
        }
        assert_eq!(hashing.join().unwrap(), Some(hex::encode(Sha256::digest(&content))));
    }

    #[test]
    fn a_download_given_up_ends_the_hash() {
        let arrived = Arc::new(Arrived::new(vec![false]));
        drop(Abandon(arrived.clone()));
        assert_eq!(hash(&tempfile::tempfile().unwrap(), 5, &arrived).unwrap(), None);
    }
}
