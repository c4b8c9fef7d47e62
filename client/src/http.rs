//! One request, retried where that is safe: network faults, 429 and 5xx, with jittered backoff.

use std::time::Duration;

use reqwest::{Method, StatusCode, header::RETRY_AFTER};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use walwarden_contract::{
    errors::{ErrorBody, ErrorCode, ErrorDetail},
    exit::ExitCode,
    secret::Secret,
};

/// Largest response body that is read.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// How often, how long.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all.
    pub attempts: u32,
    /// Pause after the first failure; doubles, with jitter.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, first_pause: Duration::from_millis(250), longest_pause: Duration::from_secs(8) }
    }
}

impl RetryPolicy {
    /// One try.
    pub const ONCE: Self = Self { attempts: 1, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };

    /// Full-jitter pause after failure number `failed` (from 1).
    pub fn pause(&self, failed: u32) -> Duration {
        let ceiling = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(self.longest_pause);
        let mut random = [0; 4];
        let _ = getrandom::fill(&mut random);
        ceiling.mul_f64(0.5 + f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX) / 2.0)
    }
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The server answered with an error of the catalogue.
    #[error("{}", .0.message)]
    Api(Box<ErrorDetail>),
    /// The server could not be reached, or the answer did not arrive whole.
    #[error("{what}: no answer from {origin}: {reason}")]
    Network {
        /// Which call.
        what: &'static str,
        /// Scheme, host and port.
        origin: String,
        /// Why; never holds a URL.
        reason: String,
    },
    /// The answer is not of the expected shape.
    #[error("{what}: {origin} answered {status} with something that is not Walwarden's")]
    Unexpected {
        /// Which call.
        what: &'static str,
        /// Scheme, host and port.
        origin: String,
        /// HTTP status.
        status: u16,
    },
}

impl ClientError {
    /// Code of the catalogue, where the server gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(detail) => Some(detail.code),
            _ => None,
        }
    }

    /// Exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Api(detail) => detail.code.exit_code(),
            Self::Network { .. } => ExitCode::Retryable,
            Self::Unexpected { status, .. } if *status >= 500 || *status == 429 => ExitCode::Retryable,
            Self::Unexpected { .. } => ExitCode::UserError,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api(detail) => detail.hint.clone(),
            Self::Network { .. } => {
                Some("check that the server runs and that this machine reaches it; then run the command again".into())
            }
            Self::Unexpected { .. } => Some("check WALWARDEN_BASE_URL: something else may answer there".into()),
        }
    }

    fn is_retryable(&self) -> bool {
        self.exit_code() == ExitCode::Retryable
    }
}

/// A client for one server.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base_url: String,
    origin: String,
    bearer: Option<Secret>,
    retry: RetryPolicy,
}

impl ApiClient {
    /// A client for `base_url` (`https://host[:port]`), with a time-out per request.
    pub fn new(base_url: &str, user_agent: &str, timeout: Duration) -> Result<Self, ClientError> {
        let unusable = |reason: String| ClientError::Network { what: "connect", origin: "the server".into(), reason };
        let url: reqwest::Url = base_url.parse().map_err(|_| unusable("the base URL is not a URL".into()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(unusable("the base URL is not an http(s) URL".into()));
        }
        let http = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(Duration::from_secs(10))
            .timeout(timeout)
            // A redirect would carry the bearer elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| unusable(plain(&e)))?;
        Ok(Self {
            http,
            base_url: base_url.trim_end_matches('/').into(),
            origin: url.origin().ascii_serialization(),
            bearer: None,
            retry: RetryPolicy::default(),
        })
    }

    /// The same client with a bearer secret.
    pub fn with_bearer(&self, bearer: Secret) -> Self {
        Self { bearer: Some(bearer), ..self.clone() }
    }

    /// The same client with another retry policy.
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// Scheme, host and port of the server.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// `GET path`
    pub async fn get<T: DeserializeOwned>(&self, what: &'static str, path: &str) -> Result<T, ClientError> {
        self.send(what, Method::GET, path, None::<&()>, None).await
    }

    /// `POST path` for an operation that may be repeated: the worker protocol's calls all are.
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(what, Method::POST, path, Some(body), None).await
    }

    /// A mutation of the public API under an idempotency key, so that a retry cannot do it twice.
    pub async fn mutate<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: &B,
        idempotency_key: &str,
    ) -> Result<T, ClientError> {
        self.send(what, method, path, Some(body), Some(idempotency_key)).await
    }

    /// `GET path` as bytes: evidence bundles, PEM files.
    pub async fn get_bytes(&self, what: &'static str, path: &str) -> Result<Vec<u8>, ClientError> {
        self.attempt(what, || self.request(Method::GET, path, None::<&()>, None)).await
    }

    async fn send<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Option<&B>,
        idempotency_key: Option<&str>,
    ) -> Result<T, ClientError> {
        let bytes = self.attempt(what, || self.request(method.clone(), path, body, idempotency_key)).await?;
        serde_json::from_slice(&bytes).map_err(|_| ClientError::Unexpected {
            what,
            origin: self.origin.clone(),
            status: 200,
        })
    }

    fn request<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        idempotency_key: Option<&str>,
    ) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base_url));
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer.expose());
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request
    }

    async fn attempt(
        &self,
        what: &'static str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, ClientError> {
        let mut failed = 0;
        loop {
            let (error, wait) = match self.once(what, request()).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            failed += 1;
            if failed >= self.retry.attempts || !error.is_retryable() {
                return Err(error);
            }
            let pause = self.retry.pause(failed);
            tokio::time::sleep(wait.map_or(pause, |w| w.min(Duration::from_secs(30)).max(pause))).await;
        }
    }

    async fn once(
        &self,
        what: &'static str,
        request: reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, (ClientError, Option<Duration>)> {
        let network =
            |e: reqwest::Error| (ClientError::Network { what, origin: self.origin.clone(), reason: plain(&e) }, None);
        let mut response = request.send().await.map_err(network)?;
        let status = response.status();
        let wait =
            response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            if bytes.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err((self.unexpected(what, status), None));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let error = match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => ClientError::Api(Box::new(body.error)),
            Err(_) => self.unexpected(what, status),
        };
        Err((error, wait))
    }

    fn unexpected(&self, what: &'static str, status: StatusCode) -> ClientError {
        ClientError::Unexpected { what, origin: self.origin.clone(), status: status.as_u16() }
    }
}

/// A reqwest error as text without its URL, which may be a presigned one.
fn plain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".into();
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut text = if error.is_connect() { "could not connect".to_owned() } else { "the exchange broke".to_owned() };
    while let Some(inner) = source {
        if inner.source().is_none() {
            text = format!("{text}: {inner}");
        }
        source = inner.source();
    }
    text
}
