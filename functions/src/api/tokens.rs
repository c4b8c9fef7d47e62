//! API tokens. The plaintext is in the answer to the request that issued it, and nowhere else.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use walwarden_contract::{
    api::{CreateTokenRequest, CreatedToken, Token, Tokens},
    ids::TokenId,
};
use walwarden_core::once::{Once, Replay};

use super::{Api, once, principal};
use crate::answer::{Answer, body, id};

pub async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<CreatedToken>)> {
    let who = principal(&api, &headers).await?;
    who.require_operator()?;
    let once = once(&api, &who, "createToken", &headers, &bytes)?;
    let request: CreateTokenRequest = body(&bytes)?;
    if let Replay::Revealed(token) = once.replay::<()>(&api.domain).await? {
        return Err(Once::already_revealed(&token).into());
    }
    let created = api.domain.issue_token(&who, request, &once).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

pub async fn list(State(api): State<Api>, headers: HeaderMap) -> Answer<Json<Tokens>> {
    let who = principal(&api, &headers).await?;
    Ok(Json(Tokens { tokens: api.domain.tokens(&who).await? }))
}

/// Safe to repeat: a revoked token stays revoked.
pub async fn revoke(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Token>> {
    let who = principal(&api, &headers).await?;
    let token: TokenId = id("token", &path)?;
    Ok(Json(api.domain.revoke_token(&who, &token).await?))
}
