//! GETs from the bucket. Presigned URLs are secrets: no redirect is followed and no error quotes one.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, header};
use walwarden_client::worker::JobSession;
use walwarden_contract::{
    failure::FailureClass,
    worker::{Instructions, SignedRequest},
};

use crate::failure::Failure;

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
pub enum Fault {
    /// The URL is no longer good.
    Expired,
    /// Worth another try.
    Passing(String),
    /// Not worth one.
    Final(Failure),
}

/// An exchange that broke.
pub fn passing(error: reqwest::Error) -> Fault {
    Fault::Passing(error.without_url().to_string())
}

/// A GET as it was signed.
pub fn signed(client: &Client, request: &SignedRequest) -> reqwest::RequestBuilder {
    let mut built = client.get(request.url.expose());
    for (name, value) in &request.headers {
        built = built.header(name, value);
    }
    built
}

/// A small object as a whole; its size must be exactly `size`.
pub async fn fetch_whole(client: &Client, request: &SignedRequest, size: u64) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| {
        Failure::class(FailureClass::DownloadFailed, format!("could not read the annex from the bucket: {why}"))
    };
    let mut response = signed(client, request).send().await.map_err(|error| failed(error.without_url().to_string()))?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Failure::class(FailureClass::ArtifactMismatch, "the backup's annex is not in the bucket"));
    }
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

/// The object, by a URL that is renewed when it dies.
pub struct Source<'a> {
    session: &'a JobSession,
    /// Sends the requests.
    pub client: Client,
    /// Size of the object.
    pub size: u64,
    current: tokio::sync::Mutex<(u64, SignedRequest)>,
    etag: Mutex<Option<String>>,
}

impl<'a> Source<'a> {
    /// Asks for a first URL.
    pub async fn new(session: &'a JobSession, size: u64) -> Result<Self, Failure> {
        let first = ask(session).await?;
        Ok(Self {
            session,
            client: bucket_client()?,
            size,
            current: tokio::sync::Mutex::new((0, first)),
            etag: Mutex::new(None),
        })
    }

    /// The present URL and its number.
    pub async fn request(&self) -> (u64, SignedRequest) {
        self.current.lock().await.clone()
    }

    /// A new URL, unless another range asked for one meanwhile.
    pub async fn renew(&self, used: u64) -> Result<(), Failure> {
        let mut current = self.current.lock().await;
        if current.0 == used {
            *current = (used + 1, ask(self.session).await?);
        }
        Ok(())
    }

    /// Checks that an answer is that range of the object all other answers are of.
    pub fn check(&self, response: &Response, start: u64, length: u64) -> Result<(), Fault> {
        let changed = |what: &str| {
            Fault::Final(Failure::class(
                FailureClass::ArtifactMismatch,
                format!("the artifact in the bucket is not what the manifest states: {what}"),
            ))
        };
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
            StatusCode::NOT_FOUND => {
                return Err(Fault::Final(Failure::class(
                    FailureClass::ArtifactMismatch,
                    "the artifact is not in the bucket",
                )));
            }
            status
                if status.is_server_error()
                    || status == StatusCode::TOO_MANY_REQUESTS
                    || status == StatusCode::REQUEST_TIMEOUT =>
            {
                return Err(Fault::Passing(format!("the bucket answered {status}")));
            }
            status => {
                return Err(Fault::Final(Failure::class(
                    FailureClass::DownloadFailed,
                    format!("the bucket answered {status}"),
                )));
            }
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
        _ => Err(Failure::user("unexpected_answer", "the server's instructions are not those of a restore")
            .hint("check WALWARDEN_BASE_URL")),
    }
}
