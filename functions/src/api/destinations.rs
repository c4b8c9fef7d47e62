//! Destinations.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use walwarden_contract::{
    api::{CreateDestinationRequest, Destination, Destinations, Preflight},
    errors::ErrorCode,
    ids::DestinationId,
    scopes::Scope,
};
use walwarden_core::calls::{WorkerCall, WorkerReply};

use super::{Api, once, principal};
use crate::answer::{Answer, body, id, refuse};

pub async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<Destination>)> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DestinationsWrite)?;
    who.require_unbound()?;
    let once = once(&api, &who, "createDestination", &headers, &bytes)?;
    let request: CreateDestinationRequest = body(&bytes)?;
    let created = api.domain.create_destination(&who, request, &once).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

pub async fn list(State(api): State<Api>, headers: HeaderMap) -> Answer<Json<Destinations>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DestinationsRead)?;
    Ok(Json(Destinations { destinations: api.domain.destinations(&who.org).await? }))
}

pub async fn read(State(api): State<Api>, headers: HeaderMap, Path(path): Path<String>) -> Answer<Json<Destination>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DestinationsRead)?;
    let destination: DestinationId = id("destination", &path)?;
    Ok(Json(api.domain.destination(&who.org, &destination).await?.body.info))
}

/// Safe to repeat: each run looks again.
pub async fn preflight(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(path): Path<String>,
) -> Answer<Json<Preflight>> {
    let who = principal(&api, &headers).await?;
    who.require(Scope::DestinationsWrite)?;
    who.require_unbound()?;
    let destination: DestinationId = id("destination", &path)?;
    api.domain.destination(&who.org, &destination).await?;
    let call = WorkerCall::Preflight { org: who.org.clone(), destination, actor: who.token.id.to_string() };
    match api.worker.call(call).await? {
        WorkerReply::Preflight(preflight) => Ok(Json(*preflight)),
        _ => Err(refuse(ErrorCode::Internal, "an unexpected fault", "please report it")),
    }
}
