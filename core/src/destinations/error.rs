//! What can go wrong between us and a bucket.
//!
//! Policy: an SDK error is not kept as a source. Its `Debug` holds whole requests and responses, and with
//! them signatures; what is kept is the provider's code, or the root cause's own words, made safe to show.

use std::{error::Error as StdError, fmt};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use walwarden_verifier::ids::shown;

use super::network::AddressRefused;

/// A failed operation on a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}{}: {kind}{}", Of(.key), Detail(.detail))]
pub struct StorageError {
    /// The operation, in the provider's words (`PutObject`) or ours (`check destination`).
    pub operation: &'static str,
    /// Object key or prefix it was about, if any.
    pub key: Option<String>,
    /// What went wrong.
    pub kind: StorageErrorKind,
    /// What the provider or the network said: one line, escaped, at most 400 characters, without URLs.
    pub detail: Option<String>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageErrorKind {
    /// No answer, or one that says "not now" (5xx, throttling, an expired session).
    Unreachable,
    /// Refused, with the provider's code (`AccessDenied`) or the HTTP status where it gave none.
    Refused(String),
    /// No such object or version.
    NotFound,
    /// No such upload: completed, aborted or expired.
    NoSuchUpload,
    /// The object is there already.
    PreconditionFailed,
    /// The bytes there are not the bytes expected.
    Mismatch,
    /// What was asked for cannot be done anywhere: configuration, limits.
    Invalid,
}

impl fmt::Display for StorageErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("no answer"),
            Self::Refused(code) => write!(f, "refused ({code})"),
            Self::NotFound => f.write_str("no such object"),
            Self::NoSuchUpload => f.write_str("no such upload"),
            Self::PreconditionFailed => f.write_str("the object exists already"),
            Self::Mismatch => f.write_str("the bytes are not the ones expected"),
            Self::Invalid => f.write_str("not possible"),
        }
    }
}

struct Of<'a>(&'a Option<String>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |key| write!(f, " of {key}"))
    }
}

struct Detail<'a>(&'a Option<String>);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl StorageError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        self.kind == StorageErrorKind::Unreachable
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match &self.kind {
            StorageErrorKind::Unreachable => {
                "check the provider's status and that the endpoint can be reached from here"
            }
            StorageErrorKind::Refused(code) => hint_for(code),
            StorageErrorKind::NotFound => "check that nobody removed the object or its version",
            StorageErrorKind::NoSuchUpload => "check the bucket's life-cycle rules for incomplete uploads",
            StorageErrorKind::PreconditionFailed => "look for another writer in the bucket",
            StorageErrorKind::Mismatch => "look for another writer in the bucket, and at the network between",
            StorageErrorKind::Invalid => "correct the destination's settings",
        }
    }

    /// The provider's code, where it refused.
    pub fn code(&self) -> Option<&str> {
        match &self.kind {
            StorageErrorKind::Refused(code) => Some(code),
            _ => None,
        }
    }

    pub(super) fn new(operation: &'static str, key: Option<&str>, kind: StorageErrorKind) -> Self {
        Self { operation, key: key.map(str::to_owned), kind, detail: None }
    }

    pub(super) fn invalid(operation: &'static str, detail: &str) -> Self {
        Self::new(operation, None, StorageErrorKind::Invalid).with_detail(detail)
    }

    pub(super) fn mismatch(operation: &'static str, key: &str, detail: &str) -> Self {
        Self::new(operation, Some(key), StorageErrorKind::Mismatch).with_detail(detail)
    }

    pub(super) fn address_refused(operation: &'static str) -> Self {
        Self::invalid(operation, AddressRefused::TEXT)
    }

    pub(super) fn with_detail(mut self, detail: &str) -> Self {
        self.detail = presentable(detail);
        self
    }

    /// Whether the provider says that it does not know this operation.
    pub(super) fn is_unsupported(&self) -> bool {
        self.code().is_some_and(|code| matches!(code, "NotImplemented" | "501" | "MethodNotAllowed" | "405"))
    }

    /// Whether the provider says that these credentials may not do this.
    pub(super) fn is_denied(&self) -> bool {
        self.code().is_some_and(|code| matches!(code, "AccessDenied" | "403" | "Forbidden" | "AllAccessDisabled"))
    }

    /// From what the SDK gives.
    pub(super) fn from_sdk<E>(operation: &'static str, key: Option<&str>, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ConstructionFailure(inner) => {
                let error = Self::new(operation, key, StorageErrorKind::Invalid);
                // A credentials provider that fails ends here too, and its words may be about secrets.
                drop(inner);
                error.with_detail("the request could not be built")
            }
            SdkError::TimeoutError(_) => {
                Self::new(operation, key, StorageErrorKind::Unreachable).with_detail("timed out")
            }
            SdkError::DispatchFailure(failure) => {
                let source = failure.as_connector_error().map(|e| e as &(dyn StdError + 'static));
                Self::from_transport(operation, key, source)
            }
            SdkError::ResponseError(inner) => {
                let status = inner.raw().status().as_u16();
                Self::from_answer(operation, key, status, None, None)
            }
            SdkError::ServiceError(inner) => {
                let status = inner.raw().status().as_u16();
                Self::from_answer(operation, key, status, inner.err().code(), inner.err().message())
            }
            _ => Self::new(operation, key, StorageErrorKind::Unreachable),
        }
    }

    /// From a connection that did not come about or broke.
    pub(super) fn from_transport(
        operation: &'static str,
        key: Option<&str>,
        error: Option<&(dyn StdError + 'static)>,
    ) -> Self {
        let mut cause = error;
        let mut words = None;
        while let Some(inner) = cause {
            if inner.is::<AddressRefused>() {
                return Self { key: key.map(str::to_owned), ..Self::address_refused(operation) };
            }
            words = Some(inner.to_string());
            cause = inner.source();
        }
        Self::new(operation, key, StorageErrorKind::Unreachable).with_detail(words.as_deref().unwrap_or_default())
    }

    /// From a status and, where there is one, an error code [S3 "Error responses"].
    pub(super) fn from_answer(
        operation: &'static str,
        key: Option<&str>,
        status: u16,
        code: Option<&str>,
        message: Option<&str>,
    ) -> Self {
        let code = code.filter(|code| {
            !code.is_empty()
                && code.len() <= 64
                && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
        let kind = match (code.unwrap_or_default(), status) {
            ("NoSuchUpload", _) => StorageErrorKind::NoSuchUpload,
            ("NoSuchKey" | "NoSuchVersion" | "NotFound", _) => StorageErrorKind::NotFound,
            ("PreconditionFailed", _) | (_, 412) => StorageErrorKind::PreconditionFailed,
            ("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch", _) => {
                StorageErrorKind::Mismatch
            }
            (
                "SlowDown"
                | "SlowDownRead"
                | "SlowDownWrite"
                | "RequestTimeout"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "ExpiredToken"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded",
                _,
            )
            | (_, 429) => StorageErrorKind::Unreachable,
            ("NotImplemented", _) | (_, 501) => StorageErrorKind::Refused("NotImplemented".into()),
            ("InternalError" | "ServiceUnavailable", _) | (_, 500..=599) => StorageErrorKind::Unreachable,
            // Success by its status, and yet not an answer: cut off, or from something between us and the bucket.
            ("", 200..=299) => StorageErrorKind::Unreachable,
            ("", 404) => StorageErrorKind::NotFound,
            ("", _) => StorageErrorKind::Refused(status.to_string()),
            (code, _) => StorageErrorKind::Refused(code.to_owned()),
        };
        let error = Self::new(operation, key, kind);
        let said = message.unwrap_or_default();
        if error.is_passing() && said.is_empty() {
            return error.with_detail(&code.map_or_else(|| format!("status {status}"), str::to_owned));
        }
        error.with_detail(said)
    }
}

fn hint_for(code: &str) -> &'static str {
    match code {
        "AccessDenied" | "403" | "Forbidden" => "grant the permission to the role or key that the destination uses",
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidClientTokenId" | "401" => {
            "correct the destination's access key id and secret access key"
        }
        "NoSuchBucket" => "correct the destination's bucket name",
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "301"
        | "307" => "correct the destination's region",
        "RequestTimeTooSkewed" => "set this machine's clock",
        "InvalidRequest" | "InvalidBucketState" => "check that Object Lock is enabled on the bucket",
        "NotImplemented" => "this provider does not offer the operation",
        _ => "run the destination's preflight",
    }
}

// Words of a server or of the network, for people: one line, nothing invisible, no URLs.
fn presentable(text: &str) -> Option<String> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return None;
    }
    let words = line.split(' ').map(|word| if word.contains("://") { "[url]" } else { word });
    let safe = shown(&words.collect::<Vec<_>>().join(" "));
    Some(if safe.chars().count() > 400 { safe.chars().take(399).chain(['…']).collect() } else { safe })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: Option<&str>) -> StorageErrorKind {
        StorageError::from_answer("GetObject", Some("a"), status, code, None).kind
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(kind(404, Some("NoSuchUpload")), StorageErrorKind::NoSuchUpload);
        assert_eq!(kind(404, None), StorageErrorKind::NotFound);
        assert_eq!(kind(404, Some("NoSuchBucket")), StorageErrorKind::Refused("NoSuchBucket".into()));
        assert_eq!(kind(503, Some("SlowDown")), StorageErrorKind::Unreachable);
        assert_eq!(kind(502, None), StorageErrorKind::Unreachable);
        assert_eq!(kind(200, None), StorageErrorKind::Unreachable);
        assert_eq!(kind(501, None), StorageErrorKind::Refused("NotImplemented".into()));
        assert_eq!(kind(400, Some("ExpiredToken")), StorageErrorKind::Unreachable);
        assert_eq!(kind(412, None), StorageErrorKind::PreconditionFailed);
        assert_eq!(kind(409, Some("ConditionalRequestConflict")), StorageErrorKind::Unreachable);
        assert_eq!(kind(400, Some("BadDigest")), StorageErrorKind::Mismatch);
        assert_eq!(kind(403, Some("Access\nDenied")), StorageErrorKind::Refused("403".into()));
    }

    #[test]
    fn words_of_a_server_are_made_safe() {
        let said = "see https://evil.example/?X-Amz-Signature=1 \u{202e}now\nsecond line";
        let error = StorageError::from_answer("GetObject", Some("a/b"), 403, Some("AccessDenied"), Some(said));
        assert_eq!(error.to_string(), "GetObject of a/b: refused (AccessDenied): see [url] \\u{202e}now");
        assert!(error.is_denied() && !error.is_passing());
    }
}
