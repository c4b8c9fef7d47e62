//! `worker`: the protocol that runners and restores speak, and the calls of other functions. It alone
//! decrypts, assumes customer roles and signs.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    middleware::map_response,
    routing::{get, post},
};
use walwarden_contract::{
    errors::ErrorCode,
    ids::{DatabaseId, JobId, OrgId},
    states::{BackupState, RestoreState},
    worker::{
        ClaimRequest, ClaimResponse, DocumentRequest, Finish, Heartbeat, HeartbeatAction, HeartbeatResponse,
        InspectRequest, InspectResponse, Instructions, JobStatus, PartRequest, RestoreClaimRequest,
        RestoreClaimResponse, SignedRequest, Transition,
    },
};
use walwarden_core::{
    Domain,
    backups::{BackupJob, Started},
    calls::WorkerCall,
    checks::CheckJob,
    restores::RestoreJob,
    table::Record,
};
use walwarden_verifier::entry::AssertedBy;

use crate::{
    answer::{Answer, bearer, body, id, in_our_form, no_route, refuse},
    callers::WorkerCaller,
};

/// State of the router.
#[derive(Clone)]
pub struct Worker {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The way to itself: seals run after the answer.
    pub caller: WorkerCaller,
}

/// The router. Whoever serves it alone adds a fallback.
pub fn router(state: Worker) -> Router {
    Router::new()
        .route("/worker/v1/restores/inspect", post(inspect))
        .route("/worker/v1/restores/claim", post(claim_restore))
        .route("/worker/v1/{org}/{job}/claim", post(claim))
        .route("/worker/v1/{org}/{job}/instructions", get(instructions))
        .route("/worker/v1/{org}/{job}/part", post(part))
        .route("/worker/v1/{org}/{job}/document", post(document))
        .route("/worker/v1/{org}/{job}/heartbeat", post(heartbeat))
        .route("/worker/v1/{org}/{job}/transition", post(transition))
        .route("/worker/v1/{org}/{job}/finish", post(finish))
        .route("/worker/v1/{org}/{job}/state", get(state_of))
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(map_response(in_our_form))
        .with_state(state)
}

/// A job whose session was checked.
enum Job {
    Backup(Box<Record<BackupJob>>),
    Check(Box<Record<CheckJob>>),
    Restore(Box<Record<RestoreJob>>),
}

impl Job {
    fn status(&self) -> JobStatus {
        match self {
            Self::Backup(record) => record.body.status(),
            Self::Check(record) => record.body.status(),
            Self::Restore(record) => record.body.status(),
        }
    }
}

/// Finds the job of a path and refuses whoever does not hold its session.
async fn session(
    worker: &Worker,
    path: &(String, String),
    headers: &HeaderMap,
) -> Answer<(OrgId, DatabaseId, JobId, Job)> {
    let org: OrgId = id("organization", &path.0)?;
    let job: JobId = id("job", &path.1)?;
    let secret = bearer(headers)?;
    let database = worker.domain.database_of(&org, &job).await?;
    let found = match &job {
        JobId::Backup(backup) => {
            let record = worker.domain.backup(&org, &database, backup).await?;
            record.body.claim.check_session(secret)?;
            Job::Backup(Box::new(record))
        }
        JobId::Check(check) => {
            let record = worker.domain.check_job(&org, &database, check).await?;
            record.body.claim.check_session(secret)?;
            Job::Check(Box::new(record))
        }
        JobId::Restore(restore) => {
            let record = worker.domain.restore(&org, &database, restore).await?;
            record.body.claim.check_session(secret)?;
            Job::Restore(Box::new(record))
        }
    };
    Ok((org, database, job, found))
}

async fn claim(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    bytes: Bytes,
) -> Answer<Json<ClaimResponse>> {
    let org: OrgId = id("organization", &path.0)?;
    let job: JobId = id("job", &path.1)?;
    let request: ClaimRequest = body(&bytes)?;
    let database = worker.domain.database_of(&org, &job).await?;
    let attempt = match &job {
        JobId::Backup(backup) => {
            let secret = request.secret.expose();
            worker.domain.claim_backup(&org, &database, backup, secret, &request.session_sha256).await?.attempt
        }
        JobId::Check(check) => {
            worker.domain.claim_check(&org, &database, check, request.secret.expose(), &request.session_sha256).await?;
            1
        }
        JobId::Restore(_) => {
            return Err(refuse(
                ErrorCode::InvalidRequest,
                "a restore is claimed with its token",
                "use /worker/v1/restores/claim",
            ));
        }
    };
    Ok(Json(ClaimResponse { job_id: job, attempt, at: worker.domain.edge.now() }))
}

async fn inspect(State(worker): State<Worker>, bytes: Bytes) -> Answer<Json<InspectResponse>> {
    let request: InspectRequest = body(&bytes)?;
    Ok(Json(worker.domain.inspect_restore(request.token.expose()).await?))
}

async fn claim_restore(State(worker): State<Worker>, bytes: Bytes) -> Answer<Json<RestoreClaimResponse>> {
    let request: RestoreClaimRequest = body(&bytes)?;
    let claimed =
        worker.domain.claim_restore(request.token.expose(), &request.session_sha256, &request.worker_version).await?;
    Ok(Json(claimed))
}

async fn instructions(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Json<Instructions>> {
    let (.., job) = session(&worker, &path, &headers).await?;
    Ok(Json(match job {
        Job::Backup(record) => Instructions::Backup(Box::new(worker.domain.backup_instructions(&record.body).await?)),
        Job::Check(record) => Instructions::Check(worker.domain.check_instructions(&record.body).await?),
        Job::Restore(record) => Instructions::Restore(worker.domain.restore_instructions(&record.body).await?),
    }))
}

async fn part(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Json<SignedRequest>> {
    let (.., job) = session(&worker, &path, &headers).await?;
    let request: PartRequest = body(&bytes)?;
    match job {
        Job::Backup(record) => Ok(Json(worker.domain.part_url(&record.body, &request).await?)),
        _ => Err(not_a_backup()),
    }
}

async fn document(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Json<SignedRequest>> {
    let (.., job) = session(&worker, &path, &headers).await?;
    let request: DocumentRequest = body(&bytes)?;
    match job {
        Job::Backup(record) => Ok(Json(worker.domain.document_url(&record, &request).await?)),
        _ => Err(not_a_backup()),
    }
}

async fn heartbeat(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Json<HeartbeatResponse>> {
    let (org, database, id, job) = session(&worker, &path, &headers).await?;
    let mut beat: Heartbeat = body(&bytes)?;
    beat.phase = beat.phase.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(30).collect();
    let live = match &job {
        Job::Backup(record) => {
            matches!(record.body.state, BackupState::Claimed | BackupState::Running | BackupState::Finalizing)
        }
        Job::Check(record) => !record.body.status().r#final,
        // A restore that was given up may still complete late.
        Job::Restore(record) => !record.body.state.is_final() || record.body.state == RestoreState::TimedOut,
    };
    worker.domain.heartbeat(&org, &database, &id, beat).await?;
    Ok(Json(HeartbeatResponse { action: if live { HeartbeatAction::Continue } else { HeartbeatAction::Cancel } }))
}

async fn transition(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Json<JobStatus>> {
    let (org, database, _, job) = session(&worker, &path, &headers).await?;
    let step: Transition = body(&bytes)?;
    let domain = &worker.domain;
    Ok(Json(match (job, step) {
        (Job::Backup(record), Transition::Running { server_version, pg_dump_version, snapshot_at }) => {
            let started = Started { server_version, pg_dump_version, snapshot_at };
            domain.backup_running(&record, started).await?.status()
        }
        (Job::Backup(record), Transition::Failed { class, detail }) => {
            tracing::warn!(backup = %record.body.id, class = class.as_str(), detail, "runner reported a failure");
            let job = domain.backup_failed(&record, class).await?;
            let backup = job.id.clone();
            worker.caller.send(WorkerCall::ClearLeftovers { org, database, backup }).await;
            job.status()
        }
        (Job::Check(record), Transition::Failed { class, detail }) => {
            tracing::warn!(check = %record.body.id, class = class.as_str(), detail, "check failed");
            domain.finish_check(*record, Err(class), AssertedBy::Runner).await?
        }
        (Job::Restore(record), step) => domain.restore_step(&record, &step).await?.status(),
        _ => return Err(refuse(ErrorCode::InvalidRequest, "this job has no such step", "update the worker")),
    }))
}

async fn finish(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<JobStatus>)> {
    let (org, database, _, job) = session(&worker, &path, &headers).await?;
    let finish: Finish = body(&bytes)?;
    let domain = &worker.domain;
    let status = match (job, finish) {
        (Job::Backup(record), Finish::Backup(measured)) => {
            let job = domain.finish_backup(&record, *measured).await?;
            if job.state == BackupState::Finalizing {
                let backup = job.id.clone();
                worker.caller.send(WorkerCall::Seal { org, database, backup }).await;
            }
            job.status()
        }
        (Job::Check(record), Finish::Check(report)) => {
            domain.finish_check(*record, Ok(*report), AssertedBy::Runner).await?
        }
        (Job::Restore(record), Finish::Restore(report)) => {
            let job = domain.finish_restore(&record, *report).await?;
            let restore = job.id.clone();
            worker.caller.send(WorkerCall::PublishReceipt { org, database, restore }).await;
            job.status()
        }
        _ => return Err(refuse(ErrorCode::InvalidRequest, "this job does not end like that", "update the worker")),
    };
    let code = if status.r#final { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((code, Json(status)))
}

async fn state_of(
    State(worker): State<Worker>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Json<JobStatus>> {
    let (.., job) = session(&worker, &path, &headers).await?;
    Ok(Json(job.status()))
}

fn not_a_backup() -> crate::answer::Failure {
    refuse(ErrorCode::InvalidRequest, "only a backup uploads", "update the worker")
}
