//! How handlers answer. A refusal is sent as it is; anything else is logged here, once, and the client
//! learns only that it may try again.

use axum::{
    Json,
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use walwarden_contract::errors::{ErrorBody, ErrorCode, ErrorDetail};
use walwarden_core::error::DomainError;

/// Result of a handler.
pub type Answer<T> = Result<T, Failure>;

/// An error on its way to the client.
#[derive(Debug)]
pub struct Failure(pub ErrorDetail);

impl From<DomainError> for Failure {
    fn from(error: DomainError) -> Self {
        if !matches!(error, DomainError::Refused(_)) {
            tracing::error!(%error, "request failed");
        }
        Self(error.detail())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody { error: self.0 })).into_response();
        if matches!(status.as_u16(), 429 | 503) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

/// A refusal made by a handler.
pub fn refuse(code: ErrorCode, message: impl Into<String>, hint: &str) -> Failure {
    Failure(ErrorDetail::new(code, message).hint(hint))
}

/// Parses a JSON body; an empty one counts as `{}`. The error never quotes the body, which may hold a secret.
pub fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text).map_err(|e| {
        // Only the place and the kind of error: serde's own text can quote values.
        let kind = match e.classify() {
            serde_json::error::Category::Data => {
                let text = e.to_string();
                let named = ["unknown field", "missing field", "duplicate field"].iter().find(|k| text.starts_with(**k));
                match named {
                    Some(_) => text.split(" at line").next().unwrap_or_default().to_owned(),
                    None => "a value is of the wrong type or not allowed".to_owned(),
                }
            }
            _ => "not valid JSON".to_owned(),
        };
        refuse(
            ErrorCode::InvalidRequest,
            format!("request body: {kind} (line {}, column {})", e.line(), e.column()),
            "see the API reference for the body's fields",
        )
    })
}

/// The bearer secret of a request.
pub fn bearer(headers: &HeaderMap) -> Answer<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(str::trim)
        .ok_or_else(|| {
            refuse(ErrorCode::Unauthorized, "the request has no bearer token", "send Authorization: Bearer <token>")
        })
}

/// Parses an id from a path; a malformed one is an unknown one.
pub fn id<T: std::str::FromStr>(what: &str, text: &str) -> Answer<T> {
    text.parse().map_err(|_| {
        refuse(ErrorCode::NotFound, format!("there is no such {what}"), "check the id in the path")
    })
}

/// Answer to a path that no route has.
pub async fn no_route() -> Failure {
    refuse(ErrorCode::NotFound, "there is no such operation", "see the API reference for paths and methods")
}
