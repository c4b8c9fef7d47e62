//! Restores: the token is issued here; what it does is told through the worker protocol.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use walwarden_contract::{
    api::{CreateRestoreRequest, CreatedRestore, Restore},
    ids::RestoreId,
    scopes::Scope,
};

use super::{Api, once, principal};
use crate::answer::{Answer, body, id};

pub async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<CreatedRestore>)> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::RestoresWrite)?;
    let once = once(&api, &who, "createRestore", &headers, &bytes)?;
    let request: CreateRestoreRequest = body(&bytes)?;
    let created = api.domain.create_restore(&who, request, &once).await?;
    Ok((StatusCode::ACCEPTED, Json(created)))
}

pub async fn read(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Restore>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::RestoresRead)?;
    let restore: RestoreId = id("restore", &path)?;
    let record = api.domain.restore_by_id(&who.org, &restore).await?;
    who.require_database(&record.body.database_id)?;
    Ok(Json(api.domain.show_restore(&record.body).await?))
}
