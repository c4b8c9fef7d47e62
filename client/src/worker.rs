//! A worker's side of the worker protocol: claim, then a session.

use getrandom::fill;
use sha2::{Digest, Sha256};
use walwarden_contract::{
    ids::{JobId, OrgId},
    secret::Secret,
    worker::{
        ClaimRequest, ClaimResponse, DocumentRequest, Finish, Heartbeat, HeartbeatResponse, InspectRequest,
        InspectResponse, Instructions, JobStatus, PartRequest, RestoreClaimRequest, RestoreClaimResponse,
        SESSION_SECRET_BYTES, SignedRequest, Transition,
    },
};

use crate::{ApiClient, ClientError};

/// A session secret that this process made; only its SHA-256 is sent with the claim.
#[derive(Clone)]
pub struct SessionSecret(Secret);

impl SessionSecret {
    /// A fresh one from the system's randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SESSION_SECRET_BYTES];
        fill(&mut bytes)?;
        Ok(Self(Secret::new(hex::encode(bytes))))
    }

    /// One kept from before, so that an interrupted job can go on.
    pub fn from_hex(text: &str) -> Self {
        Self(Secret::new(text.trim()))
    }

    /// As text, to keep in a 0600 file.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.0.expose()))
    }
}

/// Claims a runner's job.
pub async fn claim(
    client: &ApiClient,
    org: &OrgId,
    job: &JobId,
    secret: Secret,
    session: &SessionSecret,
    worker_version: &str,
) -> Result<(ClaimResponse, JobSession), ClientError> {
    let request = ClaimRequest { secret, session_sha256: session.fingerprint(), worker_version: worker_version.into() };
    let response = client.post("claim the job", &format!("/worker/v1/{org}/{job}/claim"), &request).await?;
    Ok((response, JobSession::new(client, org, job, session)))
}

/// Asks what a restore token leads to; spends nothing.
pub async fn inspect(client: &ApiClient, token: Secret) -> Result<InspectResponse, ClientError> {
    client.post("inspect the restore token", "/worker/v1/restores/inspect", &InspectRequest { token }).await
}

/// Spends a restore token and binds the session to its job.
pub async fn claim_restore(
    client: &ApiClient,
    token: Secret,
    session: &SessionSecret,
    worker_version: &str,
) -> Result<(RestoreClaimResponse, JobSession), ClientError> {
    let request =
        RestoreClaimRequest { token, session_sha256: session.fingerprint(), worker_version: worker_version.into() };
    let response: RestoreClaimResponse =
        client.post("claim the restore", "/worker/v1/restores/claim", &request).await?;
    let job = JobId::Restore(response.restore_id.clone());
    let session = JobSession::new(client, &response.org_id, &job, session);
    Ok((response, session))
}

/// A claimed job.
#[derive(Clone)]
pub struct JobSession {
    client: ApiClient,
    path: String,
}

impl JobSession {
    /// The session of a job claimed with `secret`, now or earlier.
    pub fn new(client: &ApiClient, org: &OrgId, job: &JobId, secret: &SessionSecret) -> Self {
        Self { client: client.with_bearer(secret.0.clone()), path: format!("/worker/v1/{org}/{job}") }
    }

    /// The same session, trying each call only as often as `retry` says.
    pub fn with_retry(&self, retry: crate::RetryPolicy) -> Self {
        Self { client: self.client.with_retry(retry), path: self.path.clone() }
    }

    /// What to do.
    pub async fn instructions(&self) -> Result<Instructions, ClientError> {
        self.client.get("read the instructions", &format!("{}/instructions", self.path)).await
    }

    /// A URL for one part.
    pub async fn part(&self, part: &PartRequest) -> Result<SignedRequest, ClientError> {
        self.client.post("ask for a part's URL", &format!("{}/part", self.path), part).await
    }

    /// A URL for the parts list or the annex.
    pub async fn document(&self, document: &DocumentRequest) -> Result<SignedRequest, ClientError> {
        self.client.post("ask for a document's URL", &format!("{}/document", self.path), document).await
    }

    /// A sign of life.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatResponse, ClientError> {
        self.client.post("report progress", &format!("{}/heartbeat", self.path), heartbeat).await
    }

    /// Reports a step.
    pub async fn transition(&self, transition: &Transition) -> Result<JobStatus, ClientError> {
        self.client.post("report a step", &format!("{}/transition", self.path), transition).await
    }

    /// Ends the job.
    pub async fn finish(&self, finish: &Finish) -> Result<JobStatus, ClientError> {
        self.client.post("finish the job", &format!("{}/finish", self.path), finish).await
    }

    /// Where the job stands.
    pub async fn state(&self) -> Result<JobStatus, ClientError> {
        self.client.get("read the job's state", &format!("{}/state", self.path)).await
    }
}
