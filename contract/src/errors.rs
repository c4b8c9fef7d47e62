//! The error catalogue of API and worker protocol. Every refusal has a code, a status, a message that
//! says what failed and why, and what to do next. Clients act on `code`, never on text.

use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal, $exit:ident;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[doc = $text] #[serde(rename = $text)] $name,)* }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As sent.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Exit code of a command that ends with it.
            pub fn exit_code(self) -> ExitCode {
                match self { $(Self::$name => ExitCode::$exit,)* }
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid_request", 400, UserError;
    IdempotencyKeyRequired = "idempotency_key_required", 400, UserError;
    Unauthorized = "unauthorized", 401, UserError;
    TokenExpired = "token_expired", 401, UserError;
    TokenInvalid = "token_invalid", 401, UserError;
    TokenWrongAudience = "token_wrong_audience", 401, UserError;
    Forbidden = "forbidden", 403, UserError;
    NotFound = "not_found", 404, UserError;
    IdempotencyMismatch = "idempotency_mismatch", 409, UserError;
    SecretAlreadyRevealed = "secret_already_revealed", 409, UserError;
    BackupAlreadyActive = "backup_already_active", 409, UserError;
    AlreadyClaimed = "already_claimed", 409, UserError;
    TokenUsed = "token_used", 409, UserError;
    StateConflict = "state_conflict", 409, UserError;
    MeasurementsDiffer = "measurements_differ", 409, Terminal;
    DestinationNotVerified = "destination_not_verified", 412, UserError;
    BackupNotCompleted = "backup_not_completed", 412, UserError;
    ManifestMismatch = "manifest_mismatch", 412, UserError;
    PayloadTooLarge = "payload_too_large", 413, UserError;
    Unprocessable = "unprocessable", 422, UserError;
    RateLimited = "rate_limited", 429, Retryable;
    Internal = "internal", 500, Retryable;
    StorageUnavailable = "storage_unavailable", 503, Retryable;
    Unavailable = "unavailable", 503, Retryable;
}

/// Body of every error response: `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What a client learns of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDetail {
    /// Code, from the catalogue.
    pub code: ErrorCode,
    /// What failed and why.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Scope the token lacks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub required_scope: Option<String>,
    /// What a program can do next.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_action: Option<String>,
    /// Id of what the error is about, such as the backup that is already active.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource_id: Option<String>,
}

impl ErrorDetail {
    /// An error with a message and no more.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, required_scope: None, next_action: None, resource_id: None }
    }

    /// With advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// About a resource.
    pub fn about(mut self, id: impl Into<String>) -> Self {
        self.resource_id = Some(id.into());
        self
    }
}
