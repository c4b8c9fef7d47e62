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
    // serde would read an array as a struct's fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        let message = "request body: not a JSON object";
        return Err(refuse(ErrorCode::InvalidRequest, message, "see the API reference for the body's fields"));
    }
    serde_json::from_slice(text).map_err(|e| {
        // Only the place and the kind of error: serde's own text can quote values.
        let kind = match e.classify() {
            serde_json::error::Category::Data => {
                let text = e.to_string();
                named_field(&text).unwrap_or_else(|| "a value is of the wrong type or not allowed".to_owned())
            }
            _ => "not valid JSON".to_owned(),
        };
        // Inside a tagged value serde has lost its place.
        let place = if e.line() > 0 { format!(" (line {}, column {})", e.line(), e.column()) } else { String::new() };
        refuse(
            ErrorCode::InvalidRequest,
            format!("request body: {kind}{place}"),
            "see the API reference for the body's fields",
        )
    })
}

/// What serde says of a field that is unknown, missing or there twice, as far as it is about the field's name. An
/// unknown name is the client's own words: one that no field could have is not repeated.
fn named_field(text: &str) -> Option<String> {
    let kind = ["unknown field", "missing field", "duplicate field"].into_iter().find(|kind| text.starts_with(kind))?;
    let name = text[kind.len()..].trim_start().strip_prefix('`')?.split('`').next()?;
    let is_name = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    Some(if is_name { format!("{kind} `{name}`") } else { kind.to_owned() })
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
    text.parse()
        .map_err(|_| refuse(ErrorCode::NotFound, format!("there is no such {what}"), "check the id in the path"))
}

/// What the framework refuses by itself (a body that is too large, a query or path that is none) in the form of every
/// other refusal. Its own words may quote the request, and are dropped.
pub async fn in_our_form(response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    match response.status() {
        _ if is_json => response,
        StatusCode::PAYLOAD_TOO_LARGE => {
            refuse(ErrorCode::PayloadTooLarge, "the request's body is larger than 64 KiB", "send less").into_response()
        }
        status if status.is_client_error() => refuse(
            ErrorCode::InvalidRequest,
            "the request's path or query is malformed",
            "see the API reference for the parameters",
        )
        .into_response(),
        _ => response,
    }
}

/// Answer to a path that no route has, or not with that method.
pub async fn no_route() -> Failure {
    refuse(ErrorCode::NotFound, "there is no such operation", "see the API reference for paths and methods")
}
