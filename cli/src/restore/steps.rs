//! The order of a restore: local guards, inspection, target and plan (nothing spent so far), claim,
//! download, verification, pg_restore, proof, final name, report.

use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, sync::mpsc};
use walwarden_client::worker::JobSession;
use walwarden_contract::{exit::ExitCode, failure::FailureClass, quote, token::RestoreMode, worker::Transition};
use walwarden_verifier::ids::shown;

use super::{
    access, artifact, database, delivery,
    ending::{self, Restored},
    engine::{self, Done},
    evidence::is_opaque,
    fate::{Fate, Progress},
    fetch,
    guards::{self, Environment},
    later,
    prepare::{self, Prepared},
    prove::{self, Outcome},
    session::Reporter,
    transaction, watch,
    workspace::{self, Workspace},
};
use crate::{commands::RestoreArguments, failure::Failure, format, output::Output, stop::Stop};

/// Runs `walwarden restore`.
pub async fn run(arguments: &RestoreArguments, output: &Output) -> Result<(), Failure> {
    if let Some(file) = &arguments.download_only {
        return delivery::run(arguments, file, output).await;
    }
    let started = Instant::now();
    let mut environment = Environment::read();
    let base = workspace::base(arguments.work_dir.as_deref(), &environment);
    look_around(arguments, &base, &mut environment, output);
    let now = jiff::Timestamp::now().as_second();
    let request = guards::check(arguments, &environment, now, |claims| {
        workspace::is_resumable(&base, claims.job_intent_id.as_str())
    })?;
    for warning in &request.warnings {
        output.warn(warning);
    }
    let stop = Stop::install()?;
    let mode = request.mode;
    let untouched = |failure| Fate::Untouched.told(failure, mode);
    let resumed = request.service().is_none() || workspace::is_resumable(&base, request.restore_id.as_str());
    let client = request.service().map(|service| later::client(&service.base_url)).transpose()?;
    let prepared = stop
        .unless(prepare::prepare(arguments, &environment, request, base, client.as_ref(), output))
        .await
        .map_err(|failure| untouched(if resumed { failure } else { unspent(failure) }))?;
    if arguments.plan {
        return Ok(());
    }
    let workspace = Workspace::open(&prepared.base, prepared.restore_id().as_str()).map_err(untouched)?;
    prepared.evidence.keep(&workspace).map_err(untouched)?;
    let claimed = match (&client, prepared.request.service()) {
        (None, _) | (_, None) => None,
        (Some(client), Some(service)) => match fetch::claim(service, client, &workspace).await {
            Ok(claimed) => Some(claimed),
            Err(failure) => {
                // A lost answer is asked for again with the same secret; a refusal will stay one.
                if failure.exit != ExitCode::Retryable {
                    workspace.remove();
                }
                return Err(untouched(failure));
            }
        },
    };
    let reporter = match &claimed {
        Some((session, _)) => {
            output.tell("claimed", &format!("{}; the token is spent", prepared.restore_id()));
            Reporter::start(session.clone(), output.progress.clone(), stop.clone())
        }
        None => Reporter::silent(),
    };
    let session = claimed.as_ref().map(|(session, _)| session);
    let mut progress = Progress::START;
    match execute(&prepared, &workspace, session, &reporter, &stop, &mut progress, output).await {
        Ok(restored) => ending::complete(prepared, workspace, reporter, &stop, claimed, restored, started, output)
            .await
            .map_err(|failure| Fate::Restored.told(failure, mode)),
        Err(failure) => Err(ending::give_up(prepared, workspace, reporter, &stop, failure, progress, output).await),
    }
}

/// Removes what was abandoned, and finds the token of what goes on.
pub fn look_around(arguments: &RestoreArguments, base: &Path, environment: &mut Environment, output: &Output) {
    workspace::clear_abandoned(base, SystemTime::now());
    if environment.token.is_none()
        && let Some(spent) = guards::resumed(arguments, base)
    {
        output.tell("session", "goes on with a restore of this backup that was interrupted here");
        environment.base_url.get_or_insert(spent.base_url);
        environment.token = Some(spent.token);
    }
}

/// An interruption before the claim costs nothing.
pub fn unspent(failure: Failure) -> Failure {
    match failure.exit {
        ExitCode::Cancelled => failure.hint("the token is unspent: run the same command again"),
        _ => failure,
    }
}

async fn execute(
    prepared: &Prepared<'_>,
    workspace: &Workspace,
    session: Option<&JobSession>,
    reporter: &Reporter,
    stop: &Stop,
    progress: &mut Progress,
    output: &Output,
) -> Result<Restored, Failure> {
    let checksum_sha256 = stop.unless(fetch(prepared, workspace, session, reporter, output)).await?;
    stop.unless(async { Ok(()) }).await?;
    progress.fetched = true;

    output.state("restoring", json!({}));
    reporter.step(Transition::Restoring {});
    let plan = &prepared.plan;
    let keys = artifact::keys_not_valid(&prepared.artifact(workspace), &plan.keys_not_valid, &plan.about_keys)?;
    access::before(prepared).await?;
    progress.made_roles = true;
    let name = match &prepared.plan.temporary_database {
        Some(temporary) => {
            let source = &prepared.plan.properties;
            let heir = first_heir(prepared);
            database::create(&prepared.control, temporary, source, prepared.facts.major(), heir).await?;
            database::complete(&prepared.control, temporary, &prepared.plan.database, source, heir, true).await?;
            set_lc_monetary(prepared, temporary).await?;
            temporary.clone()
        }
        None => prepared.plan.database.clone(),
    };
    restore(prepared, workspace, &name, stop, &mut progress.fate, output).await?;
    // Not to be interrupted: in place, what was made may be open to more than it should be until then.
    access::give(prepared, &name, keys, output).await?;

    output.state("finalizing", json!({}));
    reporter.step(Transition::Finalizing {});
    let proof = match prepared.arguments.prove {
        true => Some(stop.unless_signalled(check_proof(prepared, &name, output)).await?),
        false => None,
    };
    if let Some(temporary) = &prepared.plan.temporary_database {
        let source = &prepared.plan.properties;
        let control = prepared.control().await?;
        let done =
            database::complete(&control, temporary, &prepared.plan.database, source, prepared.heir(), false).await;
        if let Err(failure) = done {
            // The answer may have been lost on its way, and not the name.
            let broke = failure.class == Some(FailureClass::TargetUnreachable);
            if !broke || !has_its_name(prepared, temporary).await {
                return Err(failure);
            }
        }
    }
    Ok(Restored { checksum_sha256, proof })
}

/// Whether the new database has its final name, and none has the other.
async fn has_its_name(prepared: &Prepared<'_>, temporary: &str) -> bool {
    let Ok(control) = prepared.control().await else { return false };
    let query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)
                    AND NOT EXISTS (SELECT FROM pg_database WHERE datname = $2)";
    control.query_one(query, &[&prepared.plan.database, &temporary]).await.is_ok_and(|row| row.get(0))
}

/// Who owns the new database from the start. A superuser needs no one's rights and keeps it to the end; so does a role to
/// which everything belongs until it is given away.
fn first_heir<'p>(prepared: &'p Prepared<'_>) -> Option<&'p str> {
    prepared.heir().filter(|_| !prepared.plan.no_owner)
}

/// Download, hash, table of contents.
async fn fetch(
    prepared: &Prepared<'_>,
    workspace: &Workspace,
    session: Option<&JobSession>,
    reporter: &Reporter,
    output: &Output,
) -> Result<String, Failure> {
    let (evidence, artifact) = (&prepared.evidence, prepared.artifact(workspace));
    let checksum = match session {
        Some(session) => fetch::download(evidence, workspace, session, reporter, output).await?,
        None => hash(artifact.clone(), prepared.artifact_bytes(), output).await?,
    };
    let contents = fetch::verify(evidence, workspace, &artifact, &checksum, reporter, output)?;
    if let Some(missing) = contents.tablespaces.iter().find(|name| !prepared.facts.tablespaces.contains(name)) {
        return Err(Failure::class(
            FailureClass::TargetFailed,
            format!("the tablespace \"{}\" of the source does not exist on the target", shown(missing)),
        )
        .hint(format!("CREATE TABLESPACE {} LOCATION '…';", shown(&quote::ident(missing)))));
    }
    fetch::verified(evidence, &checksum, reporter, output);
    Ok(checksum)
}

/// SHA-256 of an artifact that was fetched before.
async fn hash(artifact: PathBuf, size: u64, output: &Output) -> Result<String, Failure> {
    let failed = |error: &std::io::Error| Failure::file("read", &artifact, error);
    output.phase("read", size);
    let mut file = tokio::fs::File::open(&artifact).await.map_err(|error| failed(&error))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).await.map_err(|error| failed(&error))? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                output.advance(count as u64);
            }
        }
    }
    output.done(&format::bytes(size));
    Ok(hex::encode(hasher.finalize()))
}

/// Values of type money are read as the session's `lc_monetary` says.
fn lc_monetary(prepared: &Prepared<'_>) -> Option<String> {
    let recorded = prepared.evidence.annex.settings.iter().find(|setting| setting.name == "lc_monetary")?;
    prepared.facts.lc_monetary_known.then(|| recorded.value.clone())
}

async fn set_lc_monetary(prepared: &Prepared<'_>, name: &str) -> Result<(), Failure> {
    let Some(value) = lc_monetary(prepared) else { return Ok(()) };
    let statement = format!("ALTER DATABASE {} SET lc_monetary TO {}", quote::ident(name), quote::literal(&value));
    prepared.control.batch_execute(&statement).await.map_err(|error| database::failed("prepare the database", &error))
}

async fn restore(
    prepared: &Prepared<'_>,
    workspace: &Workspace,
    name: &str,
    stop: &Stop,
    fate: &mut Fate,
    output: &Output,
) -> Result<(), Failure> {
    let tables = &prepared.evidence.annex.tables;
    let application = format!("walwarden {}", prepared.restore_id());
    let in_place = prepared.request.mode == RestoreMode::InPlace;
    let mut environment = prepared.target.child_environment(workspace.directory(), &application)?;
    if in_place
        && !prepared.target.options_are_taken()
        && let Some(value) = lc_monetary(prepared)
    {
        // libpq splits PGOPTIONS at spaces.
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        environment.push(("PGOPTIONS".into(), format!("-c lc_monetary={value}")));
    }
    let use_list = match is_opaque(&prepared.evidence.annex) {
        true => None,
        false => Some(workspace.write("entries.list", prepared.plan.use_list().as_bytes())?),
    };
    let invocation = engine::Invocation {
        program: &prepared.program,
        artifact: &prepared.artifact(workspace),
        use_list,
        database: name,
        jobs: prepared.jobs,
        clean: in_place,
        no_owner: prepared.plan.no_owner,
        single_transaction: in_place && prepared.jobs == 1,
        environment,
    };
    output.phase("restore", tables.iter().map(|table| table.bytes).sum());
    let (said, heard) = mpsc::unbounded_channel();
    let single = invocation.single_transaction;
    let (ended, seen) = tokio::join!(
        engine::run(&invocation, output, stop, said),
        watch::watch(&prepared.control, &application, single, tables, heard, output)
    );
    if ended.is_err()
        && in_place
        && let Ok(control) = prepared.control().await
    {
        transaction::end_sessions(&control, &application).await;
    }
    *fate = match &ended {
        Ok(()) => Fate::Restored,
        Err(broken) => match broken.done {
            Done::Nothing => Fate::Untouched,
            Done::Uncommitted => Fate::RolledBack,
            Done::Part => Fate::HalfRestored,
            Done::Whole => Fate::Restored,
            Done::Untold if single => ask(prepared, seen.transaction).await,
            Done::Untold => Fate::PerhapsHalf,
        },
    };
    ended.map_err(|broken| broken.failure)?;
    for warning in seen.warnings {
        output.warn(&format!("the target says: {}", shown(&warning)));
    }
    output.done(&format!("pg_restore {} without error or warning", prepared.program.version));
    Ok(())
}

/// What the server says of the one transaction, where pg_restore could not tell.
async fn ask(prepared: &Prepared<'_>, transaction: Option<transaction::TransactionId>) -> Fate {
    let (Some(id), Ok(control)) = (transaction, prepared.control().await) else { return Fate::AllOrNothing };
    match transaction::is_committed(&control, id).await {
        Some(true) => Fate::Restored,
        Some(false) => Fate::RolledBack,
        None => Fate::AllOrNothing,
    }
}

async fn check_proof(prepared: &Prepared<'_>, name: &str, output: &Output) -> Result<Outcome, Failure> {
    let (mode, annex) = (prepared.request.mode, prepared.plan.promised(&prepared.evidence.annex));
    let outcome = prove::run(&prepared.target, name, mode, &annex, prepared.facts.lc_monetary_known, output).await?;
    let apart = prepared.evidence.annex.tables.len() - annex.tables.len();
    if apart > 0 {
        output.tell(
            "apart",
            &format!("{} left as the plan says, and not compared", format::counted(apart as u64, "table")),
        );
    }
    match outcome.difference() {
        Some(failure) => {
            outcome.tell(output);
            Err(failure)
        }
        None => Ok(outcome),
    }
}
