//! Published keys. Fetching them from here trusts this server; pinning a copy does not.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use walwarden_contract::api::{KeyDocument, KeySetDocument};

use super::Api;

pub async fn pem(State(api): State<Api>) -> Response {
    let text = api.domain.keyring.public_keys().to_pem();
    ([(header::CONTENT_TYPE, "application/x-pem-file"), (header::CACHE_CONTROL, "public, max-age=300")], text)
        .into_response()
}

pub async fn set(State(api): State<Api>) -> Json<KeySetDocument> {
    let keys = api.domain.keyring.public_keys().keys().iter().map(|key| KeyDocument {
        id: key.id.clone(),
        r#use: key.key_use.map(|u| u.as_str().to_owned()).unwrap_or_default(),
        not_before: key.not_before.clone(),
        not_after: key.not_after.clone(),
        pem: key.to_pem(),
    });
    Json(KeySetDocument { keys: keys.collect() })
}
