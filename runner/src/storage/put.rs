//! One upload by presigned URL: asked for, sent, judged, repeated where that can help.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Body, Method, Response, StatusCode, header::CONTENT_LENGTH};
use walwarden_client::{RetryPolicy, worker::JobSession};
use walwarden_contract::{
    failure::FailureClass,
    worker::{DocumentRequest, PartRequest, SignedRequest},
};

use super::Bucket;
use crate::fault::{Ended, Fault};

/// Pauses between attempts; how long they go on is the [`Bucket`]'s to say.
const PAUSES: RetryPolicy =
    RetryPolicy { attempts: u32::MAX, first_pause: Duration::from_millis(500), longest_pause: Duration::from_secs(30) };
/// How often a refusal is put down to the URL's age, or a digest that did not match to the way.
const PATIENCE: u32 = 4;
/// Slower than this is as good as dead.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// Largest error body that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// What is uploaded.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Part(PartRequest),
    Document(DocumentRequest),
}

impl Target {
    pub(super) async fn ask(&self, session: &JobSession) -> Result<SignedRequest, Ended> {
        Ok(match self {
            Self::Part(part) => session.part(part).await?,
            Self::Document(document) => session.document(document).await?,
        })
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Part(part) => part.bytes.size_bytes,
            Self::Document(document) => document.bytes.size_bytes,
        }
    }
}

/// The bytes, made anew for each attempt.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Memory(Bytes),
    File(&'a Path),
}

impl Content<'_> {
    async fn body(&self) -> io::Result<Body> {
        Ok(match self {
            Self::Memory(bytes) => Body::from(bytes.clone()),
            Self::File(path) => Body::from(tokio::fs::File::open(path).await?),
        })
    }
}

/// How an upload ended that did not fail.
#[derive(Debug)]
pub(super) enum Stored {
    /// The bucket took the bytes.
    Taken,
    /// An object of that name is there already. With the request that was refused.
    AlreadyThere(SignedRequest),
}

/// What an answer calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    AlreadyThere,
    /// Passing trouble: wait and repeat.
    Repeat(FailureClass),
    /// May be the URL's age or the way's fault: repeat a few times.
    Doubt(FailureClass),
    Refused(FailureClass),
}

/// What has gone wrong with one request so far, and whether to go on.
#[derive(Default)]
pub(super) struct Trouble {
    failed: u32,
    doubts: u32,
    since: Option<Instant>,
}

impl Trouble {
    /// Waits before the next attempt, or gives up: after `wait` of passing trouble, or what was doubtful a few times.
    pub(super) async fn met(&mut self, verdict: Verdict, why: String, wait: Duration) -> Result<(), Fault> {
        let (class, doubt) = match verdict {
            Verdict::Repeat(class) => (class, false),
            Verdict::Doubt(class) => (class, true),
            Verdict::Refused(class) => return Err(Fault::new(class, why)),
            Verdict::Taken | Verdict::AlreadyThere => return Ok(()),
        };
        self.failed += 1;
        self.doubts += u32::from(doubt);
        let pause = PAUSES.pause(self.failed);
        let lasted = self.since.get_or_insert_with(Instant::now).elapsed();
        if self.doubts >= PATIENCE || lasted + pause > wait {
            return Err(Fault::new(class, why));
        }
        tracing::warn!("a request to the bucket is repeated: {why}");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Bucket {
    /// Uploads `content` as `target`.
    pub(super) async fn put(&self, target: &Target, content: Content<'_>) -> Result<Stored, Ended> {
        let mut trouble = Trouble::default();
        loop {
            // URLs live for minutes; after a pause a fresh one is always right.
            let request = target.ask(&self.session).await?;
            let body = content.body().await.map_err(|e| Fault::internal("reading what is to be uploaded", e))?;
            match attempt(&self.http, &request, body, target.size_bytes()).await? {
                (Verdict::Taken, _) => return Ok(Stored::Taken),
                (Verdict::AlreadyThere, _) => return Ok(Stored::AlreadyThere(request)),
                (verdict, why) => trouble.met(verdict, why, self.wait).await?,
            }
        }
    }
}

async fn attempt(
    http: &reqwest::Client,
    request: &SignedRequest,
    body: Body,
    size_bytes: u64,
) -> Result<(Verdict, String), Fault> {
    let time_out = Duration::from_secs(60 + size_bytes / SLOWEST_BYTES_PER_SECOND);
    let mut builder = signed(http, request)?.timeout(time_out).body(body);
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        // A body read from a file would go in chunks, which S3 refuses.
        builder = builder.header(CONTENT_LENGTH, size_bytes);
    }
    Ok(match builder.send().await {
        Ok(response) => judge(response).await,
        Err(error) => unanswered(&error),
    })
}

pub(super) fn unanswered(error: &reqwest::Error) -> (Verdict, String) {
    // Not the error itself: it holds the URL.
    let what = if error.is_timeout() { "timed out" } else { "could not be reached, or broke off" };
    (Verdict::Repeat(FailureClass::StorageUnreachable), format!("the bucket's endpoint {what}"))
}

/// A request with exactly the signed headers.
pub(super) fn signed(http: &reqwest::Client, request: &SignedRequest) -> Result<reqwest::RequestBuilder, Fault> {
    let unusable = |what: &str| Fault::new(FailureClass::Internal, format!("the control plane sent {what}"));
    let method: Method = request.method.parse().map_err(|_| unusable("a method that is none"))?;
    let url: reqwest::Url = request.url.expose().parse().map_err(|_| unusable("a URL that is none"))?;
    let mut builder = http.request(method, url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    Ok(builder)
}

pub(super) async fn judge(mut response: Response) -> (Verdict, String) {
    let status = response.status();
    let mut body = Vec::new();
    if !status.is_success() {
        // What does not arrive of an error's body is not missed.
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > MAX_ERROR_BYTES {
                break;
            }
            body.extend_from_slice(&chunk);
        }
    }
    let code = error_code(&String::from_utf8_lossy(&body)).to_owned();
    (verdict(status, &code), format!("the bucket answered {} {code}", status.as_u16()).trim_end().to_owned())
}

fn verdict(status: StatusCode, code: &str) -> Verdict {
    use FailureClass::*;
    match (status.as_u16(), code) {
        (200..300, _) => Verdict::Taken,
        (412, _) => Verdict::AlreadyThere,
        (404, "NoSuchUpload") => Verdict::Refused(SealUploadLost),
        (400, "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch") => {
            Verdict::Doubt(StorageDigestMismatch)
        }
        (400, "RequestTimeout" | "RequestTimeTooSkewed" | "IncompleteBody" | "ExpiredToken") => {
            Verdict::Repeat(StorageUnreachable)
        }
        (408 | 425 | 429 | 500..600, _) => Verdict::Repeat(StorageUnreachable),
        // Another writer at the same key, this moment.
        (409, _) => Verdict::Doubt(StorageRefused),
        // An expired URL and a missing permission look alike.
        (401 | 403, _) => Verdict::Doubt(StorageRefused),
        // Some stores say only that it was bad.
        (400, _) => Verdict::Doubt(StorageRefused),
        _ => Verdict::Refused(StorageRefused),
    }
}

/// S3's error documents are XML with one `Code`, a word.
fn error_code(body: &str) -> &str {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    code.filter(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        use FailureClass::*;
        for (status, code, expected) in [
            (200, "", Verdict::Taken),
            (412, "PreconditionFailed", Verdict::AlreadyThere),
            (403, "AccessDenied", Verdict::Doubt(StorageRefused)),
            (400, "BadDigest", Verdict::Doubt(StorageDigestMismatch)),
            (400, "RequestTimeout", Verdict::Repeat(StorageUnreachable)),
            (503, "SlowDown", Verdict::Repeat(StorageUnreachable)),
            (404, "NoSuchUpload", Verdict::Refused(SealUploadLost)),
            (404, "NoSuchBucket", Verdict::Refused(StorageRefused)),
            (301, "PermanentRedirect", Verdict::Refused(StorageRefused)),
        ] {
            assert_eq!(verdict(StatusCode::from_u16(status).unwrap(), code), expected, "{status} {code}");
        }
    }

    #[test]
    fn error_documents() {
        assert_eq!(error_code("<?xml?><Error><Code>BadDigest</Code><Message>x</Message></Error>"), "BadDigest");
        assert_eq!(error_code("<Code>two words</Code>"), "");
        assert_eq!(error_code("<html>"), "");
    }
}
