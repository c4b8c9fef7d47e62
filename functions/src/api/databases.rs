//! Protected databases.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use walwarden_contract::{
    api::{CreateDatabaseRequest, Database, Databases, SetScheduleRequest, UpdateDatabaseRequest},
    ids::{DatabaseId, JobId},
    scopes::Scope,
};
use walwarden_core::organizations::Principal;

use super::{Api, once, principal};
use crate::answer::{Answer, body, id};

pub async fn create(State(api): State<Api>, headers: HeaderMap, bytes: Bytes) -> Answer<(StatusCode, Json<Database>)> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DatabasesWrite)?;
    who.require_unbound()?;
    let once = once(&api, &who, "createDatabase", &headers, &bytes)?;
    let request: CreateDatabaseRequest = body(&bytes)?;
    let (database, check) = api.domain.create_database(&who, request, &once).await?;
    api.dispatch.launch(who.org, JobId::Check(check)).await;
    Ok((StatusCode::CREATED, Json(database)))
}

pub async fn list(State(api): State<Api>, headers: HeaderMap) -> Answer<Json<Databases>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DatabasesRead)?;
    Ok(Json(Databases { databases: api.domain.databases_shown(&who).await? }))
}

pub async fn read(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Database>> {
    let (who, database) = reader(&api, &headers, &path, Scope::DatabasesRead).await?;
    Ok(Json(api.domain.database_shown(&who.org, &database).await?))
}

/// Looks again whether the database can be backed up.
pub async fn check(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
) -> Answer<(StatusCode, Json<Database>)> {
    let (who, database) = reader(&api, &headers, &path, Scope::DatabasesWrite).await?;
    let check = api.domain.recheck_database(&who, &database).await?;
    api.dispatch.launch(who.org.clone(), JobId::Check(check)).await;
    Ok((StatusCode::ACCEPTED, Json(api.domain.database_shown(&who.org, &database).await?)))
}

/// Safe to repeat: settings are what was set last.
pub async fn update(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Answer<Json<Database>> {
    let (who, database) = reader(&api, &headers, &path, Scope::DatabasesWrite).await?;
    let request: UpdateDatabaseRequest = body(&bytes)?;
    Ok(Json(api.domain.update_database(&who, &database, request).await?))
}

/// Safe to repeat: the schedule is what was put last.
pub async fn set_schedule(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Answer<Json<Database>> {
    let (who, database) = reader(&api, &headers, &path, Scope::DatabasesWrite).await?;
    let request: SetScheduleRequest = body(&bytes)?;
    Ok(Json(api.domain.set_schedule(&who, &database, request.schedule).await?))
}

/// Authenticates, demands a scope, and finds the database of a path in the token's organization.
pub async fn reader(api: &Api, headers: &HeaderMap, path: &str, scope: Scope) -> Answer<(Principal, DatabaseId)> {
    let who = principal(api, headers).await?;
    who.require(scope)?;
    let database: DatabaseId = id("database", path)?;
    who.require_database(&database)?;
    api.domain.database(&who.org, &database).await?;
    Ok((who, database))
}
