//! How a restore ends: reported and told, or cleaned up after.

use std::time::Instant;

use serde_json::json;
use walwarden_client::{
    ClientError,
    worker::{JobSession, SessionSecret},
};
use walwarden_contract::{
    exit::ExitCode,
    failure::FailureClass,
    quote,
    token::RestoreMode,
    worker::{CancelReason, Finish, RestoreReport, Transition},
};
use walwarden_verifier::ids::shown;

use super::{
    access, database, download,
    fate::{Fate, Progress},
    later,
    prepare::Prepared,
    prove::{self, Outcome},
    session::Reporter,
    workspace::Workspace,
};
use crate::{
    failure::Failure,
    format,
    output::Output,
    stop::{Cause, Stop},
};

/// What a restore that went well has to tell.
pub struct Restored {
    /// SHA-256 of the artifact on disk.
    pub checksum_sha256: String,
    /// What was compared, if anything.
    pub proof: Option<Outcome>,
}

/// Reports and says what was restored.
pub async fn complete(
    prepared: Prepared<'_>,
    workspace: Workspace,
    reporter: Reporter,
    stop: &Stop,
    claimed: Option<(JobSession, SessionSecret)>,
    restored: Restored,
    started: Instant,
    output: &Output,
) -> Result<(), Failure> {
    let proof = restored.proof.as_ref().map_or_else(prove::not_run, Outcome::proof);
    let finish = Finish::Restore(Box::new(RestoreReport {
        bytes_restored: prepared.artifact_bytes(),
        checksum_sha256: restored.checksum_sha256.clone(),
        plan: prepared.plan.counts.clone(),
        proof: proof.clone(),
        pg_restore_version: prepared.program.version.clone(),
        target_server_version: prepared.facts.version.clone(),
    }));
    output.phase("report", 0);
    // Whoever interrupts this has a restored database: what could not be told is kept.
    let told = tokio::select! {
        biased;
        told = reporter.finish(&finish) => told,
        () = stop.signalled() => Some(Err(ClientError::Network {
            what: "finish the job",
            origin: "the server".into(),
            reason: "interrupted".into(),
        })),
    };
    output.halt();
    let _ = std::fs::remove_file(workspace.path(download::ARTIFACT));
    let sealed = told.as_ref().and_then(|told| told.as_ref().ok());
    let unsealed = match &told {
        // Nobody was to be told.
        None | Some(Ok(_)) => None,
        // Refused for good: reporting it later would be refused again.
        Some(Err(error)) if error.exit_code() != ExitCode::Retryable => {
            output.warn(&format!("the restore is complete, but Walwarden refused the report: {error}"));
            if let Some(hint) = error.hint() {
                output.say(&format!("hint: {hint}"));
            }
            None
        }
        Some(Err(error)) => {
            let (Some(service), Some((_, secret))) = (prepared.request.service(), &claimed) else {
                return Err(Failure::internal("a report without a claim"));
            };
            let (url, org) = (&service.base_url, &service.claims.org_id);
            let command = later::keep(&workspace, url, org, prepared.restore_id(), secret, finish)?;
            output.warn(&format!("the restore is complete, but Walwarden was not told: {error}"));
            output.say(&format!("report it later with: {command}"));
            Some(command)
        }
    };
    if unsealed.is_none() {
        workspace.remove();
    }
    if let Some(outcome) = &restored.proof {
        outcome.tell(output);
    }
    let look = format!("psql {}", quote::sh(&prepared.target.redacted(&prepared.plan.database)));
    let size = format::bytes(prepared.artifact_bytes());
    output.tell(
        "restored",
        &format!(
            "database \"{}\" from {size} in {}",
            shown(&prepared.plan.database),
            format::duration(started.elapsed())
        ),
    );
    output.say(&format!("look at it with: {look}"));
    let payload = json!({
        "bytesRestored": prepared.artifact_bytes(),
        "checksumSha256": restored.checksum_sha256,
        "restoreId": prepared.restore_id(),
        "database": prepared.plan.database,
        "plan": prepared.plan.counts,
        "proof": proof,
        "pgRestore": prepared.program.version,
        "sealed": sealed.is_some(),
        "receiptHash": sealed.and_then(|status| status.receipt_hash.clone()),
        "reportCommand": unsealed,
        "look": look,
    });
    output.state("completed", payload);
    Ok(())
}

/// Cleans up after a failure, reports what the control plane should know of it, and says what became of a target that
/// was to be overwritten.
pub async fn give_up(
    prepared: Prepared<'_>,
    workspace: Workspace,
    reporter: Reporter,
    stop: &Stop,
    failure: Failure,
    progress: Progress,
    output: &Output,
) -> Failure {
    output.halt();
    let mode = prepared.request.mode;
    let mut failure = progress.fate.told(failure, mode);
    let target = (mode == RestoreMode::InPlace).then(|| progress.fate.as_str());
    if let Some(temporary) = &prepared.plan.temporary_database {
        let drop_it = format!(
            "psql {} -c {}",
            quote::sh(&prepared.target.redacted(prepared.target.database())),
            quote::sh(&database::drop_statement(temporary))
        );
        // Before the artifact was here none was made; an earlier run, killed, may have left one all the same.
        let made = progress.fetched;
        if prepared.arguments.keep_failed && made {
            output.say(&format!("kept      the unfinished database; remove it with: {drop_it}"));
        } else if discard(&prepared, temporary).await.is_err() && made {
            output.warn(&format!("the unfinished database could not be dropped; remove it with: {drop_it}"));
        }
    }
    if progress.made_roles && !prepared.arguments.keep_failed {
        drop_roles(&prepared, output).await;
    }
    if may_go_on(&failure, stop, progress.fetched) {
        let again = prepared.arguments.again();
        let from_files = prepared.request.service().is_none();
        return pause(workspace, reporter, failure, target, again, from_files, output).await;
    }
    let cancelled = failure.exit == ExitCode::Cancelled;
    end(reporter, stop, &failure, target, output).await;
    if cancelled && mode == RestoreMode::InPlace && progress.fate == Fate::Restored {
        failure.hint = Some("nothing has to be restored again; walwarden prove compares it at any time".into());
    }
    if prepared.arguments.keep_failed {
        workspace.keep();
        output.say(&format!("kept      the download in {}", workspace.directory().display()));
    } else {
        workspace.remove();
    }
    failure
}

/// Whether the same command can go on after a failure. Past the download an interruption is the end.
pub fn may_go_on(failure: &Failure, stop: &Stop, fetched: bool) -> bool {
    let signalled = failure.exit == ExitCode::Cancelled && stop.cause() == Some(Cause::Signal);
    failure.exit == ExitCode::Retryable || (signalled && !fetched)
}

/// Leaves a restore as it is, with the command `again` that goes on with it. Nothing is reported: the session stays good.
pub async fn pause(
    workspace: Workspace,
    reporter: Reporter,
    mut failure: Failure,
    target: Option<&str>,
    again: String,
    from_files: bool,
    output: &Output,
) -> Failure {
    reporter.end_with(None).await;
    let cancelled = failure.exit == ExitCode::Cancelled;
    let class = failure.class.filter(|_| !cancelled).map(FailureClass::as_str);
    output.state("interrupted", payload(&[("class", class), ("target", target), ("resume", Some(&again))]));
    if cancelled {
        failure.code = "interrupted".into();
    }
    if from_files {
        workspace.remove();
        failure.hint = Some(format!("run the same command again, in the same environment:\n{again}"));
    } else {
        failure.hint = Some(format!(
            "run the same command again, in the same environment: it goes on with what is kept in {}, and needs the token no more\n{again}",
            workspace.directory().display()
        ));
    }
    failure
}

/// Reports and says that a restore is over.
pub async fn end(reporter: Reporter, stop: &Stop, failure: &Failure, target: Option<&str>, output: &Output) {
    if failure.exit == ExitCode::Cancelled {
        output.state("cancelled", payload(&[("target", target)]));
        let interrupted = Transition::Cancelled { reason: CancelReason::Interrupted };
        reporter.end_with((stop.cause() == Some(Cause::Signal)).then_some(interrupted)).await;
    } else {
        let class = failure.class.unwrap_or(FailureClass::Internal);
        output.state("failed_terminal", payload(&[("class", Some(class.as_str())), ("target", target)]));
        reporter.end_with(Some(Transition::Failed { class, detail: None })).await;
    }
}

/// What is known of these.
fn payload(fields: &[(&str, Option<&str>)]) -> serde_json::Value {
    let known = fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.into())));
    serde_json::Value::Object(known.collect())
}

async fn drop_roles(prepared: &Prepared<'_>, output: &Output) {
    let made = &prepared.plan.roles_made;
    let stay = match prepared.control().await {
        Ok(control) => access::drop_roles(&control, made).await,
        Err(_) => made.clone(),
    };
    if !stay.is_empty() {
        let commands: Vec<String> = stay.iter().map(|role| format!("DROP ROLE {};", quote::ident(role))).collect();
        output.warn(&format!(
            "roles that were made for the restore stay; remove them with: {}",
            shown(&commands.join(" "))
        ));
    }
}

async fn discard(prepared: &Prepared<'_>, temporary: &str) -> Result<(), Failure> {
    database::discard(&*prepared.control().await?, temporary).await
}
