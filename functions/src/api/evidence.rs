//! Evidence: what may be said of a backup, and the bundle that proves it offline.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use walwarden_contract::{
    api::{Evidence, EvidenceList},
    errors::ErrorCode,
    ids::{BackupId, DatabaseId},
    scopes::Scope,
};
use walwarden_core::calls::WorkerCall;

use super::{Api, principal};
use crate::answer::{Answer, id, refuse};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListQuery {
    database_id: Option<String>,
}

pub async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Answer<Json<EvidenceList>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::EvidenceRead)?;
    let databases: Vec<DatabaseId> = match query.database_id {
        Some(text) => {
            let database: DatabaseId = id("database", &text)?;
            who.require_database(&database)?;
            api.domain.database(&who.org, &database).await?;
            vec![database]
        }
        None => api.domain.databases_shown(&who).await?.into_iter().map(|d| d.id).collect(),
    };
    let mut evidence = Vec::new();
    for database in databases {
        evidence.extend(api.domain.evidence_list(&who.org, &database).await?);
    }
    evidence.sort_by(|a, b| b.backup_job_id.cmp(&a.backup_job_id));
    Ok(Json(EvidenceList { evidence }))
}

pub async fn read(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Evidence>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::EvidenceRead)?;
    let backup: BackupId = id("backup", &path)?;
    who.require_database(&api.domain.backup_by_id(&who.org, &backup).await?.body.database_id)?;
    Ok(Json(api.domain.show_evidence(&who.org, &backup).await?))
}

/// The bundle as of now. Audited: what is handed out is in the log.
pub async fn bundle(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Response> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::EvidenceExport)?;
    let backup: BackupId = id("backup", &path)?;
    let job = api.domain.backup_by_id(&who.org, &backup).await?.body;
    who.require_database(&job.database_id)?;
    api.domain.show_evidence(&who.org, &backup).await?;
    api.domain.record_export(&who.org, &backup, who.token.id.as_str()).await?;
    let call = WorkerCall::Bundle { org: who.org, database: job.database_id, backup };
    let reply = api.worker.call(call).await?;
    let bytes = reply.bundle().ok_or_else(|| refuse(ErrorCode::Internal, "an unexpected fault", "please report it"))?;
    let mut response = bytes.into_response();
    let name = format!("attachment; filename=\"{path}.evidence.tgz\"");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    if let Ok(value) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
