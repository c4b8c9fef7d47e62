//! `api`: the public REST API v1 and the published keys. It may encrypt and MAC; what needs decryption,
//! customer roles or signatures it asks of `worker`.

mod backups;
mod databases;
mod destinations;
mod evidence;
mod keys;
mod restores;
mod tokens;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::HeaderMap,
    middleware::map_response,
    routing::{delete, get, post, put},
};
use walwarden_contract::{api::Profile, errors::ErrorCode};
use walwarden_core::{Domain, once::Once, organizations::Principal};

use crate::{
    answer::{Answer, bearer, in_our_form, no_route, refuse},
    callers::{DispatchCaller, WorkerCaller},
};

/// State of the router.
#[derive(Clone)]
pub struct Api {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The way to `worker`.
    pub worker: WorkerCaller,
    /// The way to `dispatch`.
    pub dispatch: DispatchCaller,
}

/// The router.
pub fn router(state: Api) -> Router {
    let v1 = Router::new()
        .route("/profile", get(profile))
        .route("/destinations", get(destinations::list).post(destinations::create))
        .route("/destinations/{destination}", get(destinations::read))
        .route("/destinations/{destination}/preflight", post(destinations::preflight))
        .route("/databases", get(databases::list).post(databases::create))
        .route("/databases/{database}", get(databases::read).patch(databases::update))
        .route("/databases/{database}/check", post(databases::check))
        .route("/databases/{database}/schedule", put(databases::set_schedule))
        .route("/databases/{database}/backups", get(backups::list).post(backups::trigger))
        .route("/backups/{backup}", get(backups::read))
        .route("/backups/{backup}/cancel", post(backups::cancel))
        .route("/evidence", get(evidence::list))
        .route("/evidence/{backup}", get(evidence::read))
        .route("/evidence/{backup}/bundle", get(evidence::bundle))
        .route("/restores", post(restores::create))
        .route("/restores/{restore}", get(restores::read))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{token}", delete(tokens::revoke))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(64 * 1024));
    Router::new()
        .nest("/api/v1", v1)
        .route("/.well-known/walwarden-pubkey.pem", get(keys::pem))
        .route("/.well-known/walwarden-keys.json", get(keys::set))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(map_response(in_our_form))
        .with_state(state)
}

/// Who is calling: authentication comes first in every handler, then scope, then replay.
async fn principal(api: &Api, headers: &HeaderMap) -> Answer<Principal> {
    Ok(api.domain.authenticate(bearer(headers)?).await?)
}

/// The idempotency key that every mutation must carry.
fn once(api: &Api, who: &Principal, operation: &str, headers: &HeaderMap, body: &Bytes) -> Answer<Once> {
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if key.is_empty() || key.len() > 200 {
        return Err(refuse(
            ErrorCode::IdempotencyKeyRequired,
            "the request has no Idempotency-Key header of 1 to 200 characters",
            "send a fresh random key per mutation, and the same key when you retry it",
        ));
    }
    Ok(Once::new(&api.domain, &who.org, who.token.id.as_str(), operation, key, body))
}

async fn profile(State(api): State<Api>, headers: HeaderMap) -> Answer<Json<Profile>> {
    let who = principal(&api, &headers).await?;
    Ok(Json(Profile {
        org_id: who.org,
        token_id: who.token.id,
        token_name: who.token.name,
        scopes: who.token.scopes,
        api_version: walwarden_contract::api::VERSION.into(),
        deployment: api.domain.settings.deployment.clone(),
    }))
}
