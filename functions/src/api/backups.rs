//! Backups.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use walwarden_contract::{
    api::{Backup, Backups, TriggerBackupRequest, TriggeredBackup},
    errors::ErrorCode,
    ids::{BackupId, JobId},
    scopes::Scope,
};
use walwarden_core::calls::WorkerCall;

use super::{Api, databases::reader, once, principal};
use crate::answer::{Answer, body, id, refuse};

pub async fn trigger(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<TriggeredBackup>)> {
    let (who, database) = reader(&api, &headers, &path, Scope::BackupsTrigger).await?;
    let once = once(&api, &who, &format!("triggerBackup:{database}"), &headers, &bytes)?;
    let request: TriggerBackupRequest = body(&bytes)?;
    if request.trigger.as_deref().is_some_and(|t| t != "adhoc") {
        return Err(refuse(ErrorCode::InvalidRequest, "trigger may only be adhoc", "leave it out"));
    }
    let triggered = api.domain.trigger_backup(&who.org, &database, "adhoc", who.token.id.as_str(), Some(&once)).await?;
    api.dispatch.launch(who.org, JobId::Backup(triggered.backup_job_id.clone())).await;
    Ok((StatusCode::ACCEPTED, Json(triggered)))
}

#[derive(Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<i32>,
}

pub async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Backups>> {
    let (who, database) = reader(&api, &headers, &path, Scope::DatabasesRead).await?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(refuse(ErrorCode::InvalidRequest, "limit must be 1 to 200", "leave it out for 50"));
    }
    let cursor = match query.cursor.as_deref() {
        Some(text) => Some(text.parse::<BackupId>().map_err(|_| {
            refuse(ErrorCode::InvalidRequest, "cursor is not one of this list", "use nextCursor as it was given")
        })?),
        None => None,
    };
    Ok(Json(api.domain.backups_shown(&who.org, &database, cursor.as_ref().map(BackupId::as_str), limit).await?))
}

pub async fn read(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Backup>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DatabasesRead)?;
    let backup: BackupId = id("backup", &path)?;
    let record = api.domain.backup_by_id(&who.org, &backup).await?;
    who.require_database(&record.body.database_id)?;
    Ok(Json(api.domain.show_backup(&record.body).await?))
}

/// Safe to repeat: a cancelled backup stays cancelled.
pub async fn cancel(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Backup>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::BackupsTrigger)?;
    let backup: BackupId = id("backup", &path)?;
    let record = api.domain.backup_by_id(&who.org, &backup).await?;
    who.require_database(&record.body.database_id)?;
    let job = api.domain.cancel_backup(&record, who.token.id.as_str()).await?;
    let call = WorkerCall::ClearLeftovers { org: who.org, database: job.database_id.clone(), backup: job.id.clone() };
    api.worker.send(call).await;
    Ok(Json(api.domain.show_backup(&job).await?))
}
