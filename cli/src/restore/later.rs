//! A restore that completed while the control plane was away is reported later, from a private file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use walwarden_client::{
    ApiClient,
    worker::{JobSession, SessionSecret},
};
use walwarden_contract::{
    ids::{JobId, OrgId, RestoreId},
    quote,
    secret::Secret,
    worker::Finish,
};

use super::workspace::{self, Workspace};
use crate::{failure::Failure, files, output::Output};

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Unsent {
    base_url: String,
    org_id: OrgId,
    restore_id: RestoreId,
    session: Secret,
    finish: Finish,
}

/// How this program calls itself.
pub const USER_AGENT: &str = concat!("walwarden-cli/", env!("CARGO_PKG_VERSION"));

/// A client for `base_url`.
pub fn client(base_url: &str) -> Result<ApiClient, Failure> {
    ApiClient::new(base_url, USER_AGENT, Duration::from_secs(30)).map_err(|error| {
        Failure::user("base_url_invalid", error.to_string())
            .hint("WALWARDEN_BASE_URL or --api-url is https://host[:port]")
    })
}

/// Keeps a result; gives the command that sends it.
pub fn keep(
    workspace: &Workspace,
    base_url: &str,
    org_id: &OrgId,
    restore_id: &RestoreId,
    session: &SessionSecret,
    finish: Finish,
) -> Result<String, Failure> {
    let unsent = Unsent {
        base_url: base_url.into(),
        org_id: org_id.clone(),
        restore_id: restore_id.clone(),
        session: Secret::new(session.expose()),
        finish,
    };
    let bytes = serde_json::to_vec(&unsent).map_err(|error| Failure::internal(error.to_string()))?;
    let path: PathBuf = workspace.write(workspace::REPORT, &bytes)?;
    Ok(format!("walwarden restore --report {}", quote::sh(&path.display().to_string())))
}

/// Sends a kept result; then the file and its directory are removed.
pub async fn send(file: &Path, output: &Output) -> Result<(), Failure> {
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::user("report_unreadable", format!("could not read {}: {error}", file.display()))
            .hint("name the file that the restore named")
    })?;
    let unsent: Unsent = serde_json::from_slice(&bytes).map_err(|_| {
        Failure::user("report_invalid", format!("{} is not a kept report", file.display()))
            .hint("name the file that the restore named")
    })?;
    let client = client(&unsent.base_url)?;
    let session = JobSession::new(
        &client,
        &unsent.org_id,
        &JobId::Restore(unsent.restore_id.clone()),
        &SessionSecret::from_hex(unsent.session.expose()),
    );
    let status = session.finish(&unsent.finish).await?;
    output.say(&format!("reported: restore {} is {}", unsent.restore_id, status.state));
    output.state(&status.state, json!({ "restoreId": unsent.restore_id, "sealed": true }));
    match file.parent() {
        Some(directory)
            if directory.file_name().is_some_and(|name| name == unsent.restore_id.as_str())
                && files::is_private(directory).unwrap_or(false) =>
        {
            let _ = std::fs::remove_dir_all(directory);
        }
        _ => drop(std::fs::remove_file(file)),
    }
    Ok(())
}
