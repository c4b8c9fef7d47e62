//! From the claim to an artifact on this machine whose bytes and contents are what was signed.

use std::path::Path;

use serde_json::json;
use walwarden_client::{
    ApiClient,
    worker::{self, JobSession, SessionSecret},
};
use walwarden_contract::{failure::FailureClass, ids::JobId, worker::Transition};

use super::{
    artifact::{self, Contents},
    download,
    evidence::{Evidence, is_opaque},
    guards::Service,
    later,
    session::Reporter,
    workspace::{Spent, Workspace},
};
use crate::{failure::Failure, format, output::Output};

/// Spends the token, once: the session secret is on disk before.
pub async fn claim(
    service: &Service,
    client: &ApiClient,
    workspace: &Workspace,
) -> Result<(JobSession, SessionSecret), Failure> {
    let secret = workspace.session_secret()?;
    let restore_id = &service.claims.job_intent_id;
    if workspace.is_claimed() {
        let job = JobId::Restore(restore_id.clone());
        return Ok((JobSession::new(client, &service.claims.org_id, &job, &secret), secret));
    }
    workspace.keep_token(&Spent { token: service.token.clone(), base_url: service.base_url.clone() })?;
    let (answer, session) = worker::claim_restore(client, service.token.clone(), &secret, later::USER_AGENT).await?;
    if answer.restore_id != *restore_id {
        return Err(Failure::user("unexpected_answer", "the server claimed another restore than the token names")
            .hint("check WALWARDEN_BASE_URL"));
    }
    workspace.mark_claimed()?;
    Ok((session, secret))
}

/// Downloads the artifact into the workspace; gives its SHA-256.
pub async fn download(
    evidence: &Evidence,
    workspace: &Workspace,
    session: &JobSession,
    reporter: &Reporter,
    output: &Output,
) -> Result<String, Failure> {
    let (manifest, size) = (&evidence.manifest, evidence.manifest.backup().size_bytes);
    output.state("downloading", json!({}));
    reporter.step(Transition::Downloading {});
    output.phase("download", size);
    let mut downloaded = download::artifact(session, workspace, size, output).await?;
    if downloaded.resumed && downloaded.sha256 != manifest.artifact_sha256() {
        // What was kept may have been lost with the machine: nothing but a whole download can be blamed on the bucket.
        download::forget(workspace);
        output.advance_to(0);
        downloaded = download::artifact(session, workspace, size, output).await?;
    }
    output.done(&format::bytes(size));
    Ok(downloaded.sha256)
}

/// Begins to verify: holds the artifact's SHA-256 to the manifest's, and its table of contents to manifest and annex.
pub fn verify(
    evidence: &Evidence,
    workspace: &Workspace,
    artifact: &Path,
    checksum: &str,
    reporter: &Reporter,
    output: &Output,
) -> Result<Contents, Failure> {
    let manifest = &evidence.manifest;
    output.state("verifying", json!({}));
    reporter.step(Transition::Verifying {});
    output.phase("verify", 0);
    if checksum != manifest.artifact_sha256() {
        download::forget(workspace);
        return Err(Failure::class(
            FailureClass::ArtifactMismatch,
            format!("the artifact has SHA-256 {checksum}, the manifest states {}", manifest.artifact_sha256()),
        ));
    }
    match is_opaque(&evidence.annex) {
        true => Ok(Contents::default()),
        false => artifact::check(artifact, manifest, &evidence.annex),
    }
}

/// Says that all of it agrees.
pub fn verified(evidence: &Evidence, checksum: &str, reporter: &Reporter, output: &Output) {
    output.done(match is_opaque(&evidence.annex) {
        true => "signature, manifest hash and SHA-256 agree; contents unread",
        false => "signature, manifest hash, SHA-256 and contents agree",
    });
    output.state("manifest_verified", json!({ "checksumSha256": checksum }));
    reporter.step(Transition::ManifestVerified { checksum_sha256: checksum.to_owned() });
}
