//! The order of a restore: local guards, inspection, target and plan (nothing spent so far), claim,
//! download, verification, pg_restore, proof, final name, report.

use std::{path::PathBuf, thread, time::Instant};

use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use walwarden_client::{
    ApiClient,
    worker::{self, JobSession, SessionSecret},
};
use walwarden_contract::{
    exit::ExitCode,
    failure::FailureClass,
    ids::{JobId, RestoreId},
    quote,
    token::RestoreMode,
    worker::{Finish, RestoreReport, Transition},
};
use walwarden_verifier::{ids::shown, receipt::Proof};

use super::{
    artifact, database, download, engine,
    evidence::Evidence,
    guards::{self, Environment, Request},
    later,
    plan::{Plan, Wishes},
    programs::{self, Need, Program},
    prove,
    session::Reporter,
    target::{Target, facts::Facts},
    watch,
    workspace::{self, Workspace},
};
use crate::{commands::RestoreArguments, failure::Failure, files, format, output::Output, stop::{Cause, Stop}};

/// How our own sessions on the target are called.
const APPLICATION: &str = "walwarden restore";
/// Below this many bytes of table data a second worker costs more than it gains.
const WORTH_PARALLEL_BYTES: u64 = 16 * 1024 * 1024;
/// Room left on the disk beside the artifact.
const DISK_MARGIN_BYTES: u64 = 64 * 1024 * 1024;

/// Everything that was decided before the claim.
struct Prepared<'a> {
    arguments: &'a RestoreArguments,
    request: Request,
    evidence: Evidence,
    target: Target,
    control: Client,
    facts: Facts,
    plan: Plan,
    program: Program,
    jobs: usize,
    base: PathBuf,
}

impl Prepared<'_> {
    fn restore_id(&self) -> &RestoreId {
        &self.request.claims.job_intent_id
    }

    fn artifact_bytes(&self) -> u64 {
        self.evidence.manifest.backup().size_bytes
    }
}

/// What a restore that went well has to tell.
struct Restored {
    checksum_sha256: String,
    proof: Proof,
    proof_lines: Vec<String>,
}

/// Runs `walwarden restore`.
pub async fn run(arguments: &RestoreArguments, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    let environment = Environment::read();
    let base = workspace::base(arguments.work_dir.as_deref(), &environment);
    let now = jiff::Timestamp::now().as_second();
    let request = guards::check(arguments, &environment, now, |claims| workspace::is_resumable(&base, claims.job_intent_id.as_str()))?;
    for warning in &request.warnings {
        output.warn(warning);
    }
    let stop = Stop::install()?;
    let client = later::client(&request.base_url)?;
    let prepared = stop.unless(prepare(arguments, &environment, request, base, &client, output)).await?;
    if arguments.plan {
        return Ok(());
    }
    let workspace = Workspace::open(&prepared.base, prepared.restore_id().as_str())?;
    prepared.evidence.keep(&workspace)?;
    let (session, secret) = claim(&prepared, &client, &workspace).await?;
    output.say(&format!("restore   {} claimed; the token is spent", prepared.restore_id()));
    let reporter = Reporter::start(session.clone(), output.progress.clone(), stop.clone());
    match execute(&prepared, &workspace, &session, &reporter, &stop, output).await {
        Ok(restored) => complete(prepared, workspace, reporter, &secret, restored, started, output).await,
        Err(failure) => Err(give_up(prepared, workspace, reporter, &stop, failure, output).await),
    }
}

/// Evidence, target, program and plan; spends nothing.
async fn prepare<'a>(
    arguments: &'a RestoreArguments,
    environment: &Environment,
    request: Request,
    base: PathBuf,
    client: &ApiClient,
    output: &Output,
) -> Result<Prepared<'a>, Failure> {
    let restore_id = request.claims.job_intent_id.clone();
    let kept = match workspace::is_resumable(&base, restore_id.as_str()) {
        true => Some(Workspace::open(&base, restore_id.as_str())?),
        false => None,
    };
    let pubkey = arguments.pubkey.as_deref().or(environment.pubkey.as_deref());
    let evidence = Evidence::load(&request, client, pubkey, kept.as_ref()).await?;
    drop(kept);
    describe(&evidence, output);

    let mut target = Target::new(request.target.clone(), request.mode, environment)?;
    let control = target.reach(APPLICATION, output.is_person()).await?;
    let facts = Facts::read(&control, &evidence.annex.database, &evidence.annex.settings).await?;
    output.say(&format!("target    {}, Postgres {} as \"{}\"", target.redacted(target.database()), facts.version, shown(&facts.role)));

    let program = choose_program(arguments, environment, &evidence, &facts, output)?;
    let wishes = Wishes {
        mode: request.mode,
        created_database: request.created_database.as_deref(),
        target_database: target.database(),
        restore_id: &restore_id,
        refuse_superuser: arguments.refuse_superuser_target,
        parallel_in_place: request.jobs.is_some_and(|jobs| jobs > 1),
    };
    let plan = Plan::make(&evidence.annex, &facts, &wishes);
    for line in plan.lines(&evidence.annex) {
        output.say(&line);
    }
    let refused = plan.outcome == "refused";
    if arguments.plan || refused {
        let key_id = &evidence.manifest.key_id;
        output.document(&json!({ "plan": plan, "pgRestore": program.version, "keySource": evidence.key_source, "keyId": key_id }));
    }
    if refused {
        return Err(refusal(&plan));
    }
    let jobs = jobs(&request, &evidence);
    output.say(&format!("engine    {program}, {}", format::counted(jobs as u64, "job")));
    let prepared = Prepared { arguments, request, evidence, target, control, facts, plan, program, jobs, base };
    check_disk(&prepared)?;
    lock(&prepared).await?;
    Ok(prepared)
}

fn describe(evidence: &Evidence, output: &Output) {
    let backup = evidence.manifest.backup();
    let label = if evidence.label.is_empty() { String::new() } else { format!(" ({})", shown(&evidence.label)) };
    output.say(&format!(
        "backup    {} of \"{}\"{label}, Postgres {}, {}, nothing after {}",
        backup.backup_id,
        shown(&backup.source_database),
        shown(&backup.server_version),
        format::bytes(backup.size_bytes),
        backup.snapshot_at
    ));
    output.say(&format!("signed by key {} (keySource: {})", evidence.manifest.key_id, evidence.key_source));
    output.state("inspected", json!({ "keySource": evidence.key_source, "keyId": evidence.manifest.key_id, "manifestHash": evidence.manifest.hash }));
}

fn choose_program(arguments: &RestoreArguments, environment: &Environment, evidence: &Evidence, facts: &Facts, output: &Output) -> Result<Program, Failure> {
    let need = Need::of(&evidence.annex.header).ok_or_else(|| {
        Failure::user("archive_unknown", format!("archive format {} is not known to this version", shown(&evidence.annex.header.archive_version))).hint("update walwarden")
    })?;
    let scratch = tempfile::tempdir().map_err(|error| Failure::file("create a directory in", &std::env::temp_dir(), &error))?;
    let (named, found) = programs::installed(&arguments.pg_bin, environment);
    let reads = |program: &Program| programs::reads_codec(&program.path, &need, scratch.path());
    let program = programs::choose(&named, &found, &need, facts.major(), reads).map_err(|none| Failure::user("no_pg_restore", none.problem).hint(none.remedy))?;
    if let Some((major, minor)) = program.below_security_floor() {
        output.warn(&format!("{program} is below {major}.{minor}: it has known vulnerabilities that an archive from an untrusted source could use; update it"));
    }
    Ok(program)
}

fn refusal(plan: &Plan) -> Failure {
    let reasons: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    let remedies: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.remedy.as_str()).collect();
    Failure::user("plan_refused", format!("the backup cannot be restored exactly into this target: {}", reasons.join("; "))).hint(remedies.join("\n"))
}

fn jobs(request: &Request, evidence: &Evidence) -> usize {
    let default = match request.mode {
        RestoreMode::InPlace => 1,
        RestoreMode::NewDatabase if evidence.annex.tables.iter().map(|table| table.bytes).sum::<u64>() < WORTH_PARALLEL_BYTES => 1,
        RestoreMode::NewDatabase => thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
    };
    request.jobs.unwrap_or(default)
}

fn check_disk(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let base = &prepared.base;
    files::private_directory(base).map_err(|error| Failure::file("create", base, &error))?;
    let needed = prepared.artifact_bytes().saturating_add(DISK_MARGIN_BYTES);
    let kept = std::fs::metadata(base.join(prepared.restore_id().as_str()).join(download::ARTIFACT)).map_or(0, |metadata| metadata.len());
    let free = files::free_bytes(base).map_err(|error| Failure::file("look at", base, &error))?.saturating_add(kept);
    if free < needed {
        let message = format!("{} has {} free, and the download needs {}", base.display(), format::bytes(free), format::bytes(needed));
        return Err(Failure::user("disk_full", message).hint("free disk space, or name another directory with --work-dir"));
    }
    Ok(())
}

/// Keeps a second restore into the same database out, as long as this connection lives.
async fn lock(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let query = "SELECT pg_try_advisory_lock(hashtextextended('walwarden restore ' || $1, 0))";
    let row = prepared.control.query_one(query, &[&prepared.plan.database]).await.map_err(super::target::facts::query_failed)?;
    if row.get(0) {
        return Ok(());
    }
    Err(Failure::user("target_busy", format!("another restore into \"{}\" is under way on this target", shown(&prepared.plan.database))).hint("wait for it, or end its process first"))
}

/// Spends the token, once: the session secret is on disk before.
async fn claim(prepared: &Prepared<'_>, client: &ApiClient, workspace: &Workspace) -> Result<(JobSession, SessionSecret), Failure> {
    let secret = workspace.session_secret()?;
    if workspace.is_claimed() {
        let job = JobId::Restore(prepared.restore_id().clone());
        return Ok((JobSession::new(client, &prepared.request.claims.org_id, &job, &secret), secret));
    }
    let (answer, session) = worker::claim_restore(client, prepared.request.token.clone(), &secret, later::USER_AGENT).await?;
    if answer.restore_id != *prepared.restore_id() {
        return Err(Failure::user("unexpected_answer", "the server claimed another restore than the token names").hint("check WALWARDEN_BASE_URL"));
    }
    workspace.mark_claimed()?;
    Ok((session, secret))
}

async fn execute(prepared: &Prepared<'_>, workspace: &Workspace, session: &JobSession, reporter: &Reporter, stop: &Stop, output: &Output) -> Result<Restored, Failure> {
    let checksum_sha256 = stop.unless(fetch(prepared, workspace, session, reporter, output)).await?;
    stop.unless(async { Ok(()) }).await?;

    output.state("restoring", json!({}));
    reporter.step(Transition::Restoring {});
    let name = match &prepared.plan.temporary_database {
        Some(temporary) => {
            let source = &prepared.evidence.annex.database;
            database::create(&prepared.control, temporary, source, prepared.facts.major()).await?;
            database::complete(&prepared.control, temporary, &prepared.plan.database, source, true).await?;
            set_lc_monetary(prepared, temporary).await?;
            temporary.clone()
        }
        None => prepared.plan.database.clone(),
    };
    restore(prepared, workspace, &name, stop, output).await?;

    output.state("finalizing", json!({}));
    reporter.step(Transition::Finalizing {});
    let (proof, proof_lines) = match prepared.arguments.prove {
        true => stop.unless_signalled(check_proof(prepared, &name, output)).await?,
        false => (prove::not_run(), Vec::new()),
    };
    if let Some(temporary) = &prepared.plan.temporary_database {
        let source = &prepared.evidence.annex.database;
        database::complete(&prepared.control, temporary, &prepared.plan.database, source, false).await?;
    }
    Ok(Restored { checksum_sha256, proof, proof_lines })
}

/// Download, hash, table of contents.
async fn fetch(prepared: &Prepared<'_>, workspace: &Workspace, session: &JobSession, reporter: &Reporter, output: &Output) -> Result<String, Failure> {
    let manifest = &prepared.evidence.manifest;
    let size = prepared.artifact_bytes();
    output.state("downloading", json!({}));
    reporter.step(Transition::Downloading {});
    output.phase("download", size);
    let checksum = download::artifact(session, workspace, size, output).await?;
    output.done(&format::bytes(size));

    output.state("verifying", json!({}));
    reporter.step(Transition::Verifying {});
    output.phase("verify", 0);
    if checksum != manifest.artifact_sha256() {
        download::forget(workspace);
        return Err(Failure::class(FailureClass::ArtifactMismatch, format!("the downloaded artifact has SHA-256 {checksum}, the manifest states {}", manifest.artifact_sha256())));
    }
    let contents = artifact::check(&workspace.path(download::ARTIFACT), manifest, &prepared.evidence.annex)?;
    if let Some(missing) = contents.tablespaces.iter().find(|name| !prepared.facts.tablespaces.contains(name)) {
        return Err(Failure::class(FailureClass::TargetFailed, format!("the tablespace \"{}\" of the source does not exist on the target", shown(missing)))
            .hint(format!("CREATE TABLESPACE {} LOCATION '…';", shown(&quote::ident(missing)))));
    }
    output.done("signature, manifest hash, SHA-256 and contents agree");
    output.state("manifest_verified", json!({ "checksumSha256": checksum }));
    reporter.step(Transition::ManifestVerified { checksum_sha256: checksum.clone() });
    Ok(checksum)
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

async fn restore(prepared: &Prepared<'_>, workspace: &Workspace, name: &str, stop: &Stop, output: &Output) -> Result<(), Failure> {
    let tables = &prepared.evidence.annex.tables;
    let application = format!("walwarden {}", prepared.restore_id());
    let in_place = prepared.request.mode == RestoreMode::InPlace;
    let mut environment = prepared.target.child_environment(workspace.directory(), &application)?;
    if in_place && !prepared.target.options_are_taken() && let Some(value) = lc_monetary(prepared) {
        // libpq splits PGOPTIONS at spaces.
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        environment.push(("PGOPTIONS".into(), format!("-c lc_monetary={value}")));
    }
    let invocation = engine::Invocation {
        program: &prepared.program,
        artifact: &workspace.path(download::ARTIFACT),
        use_list: workspace.write("entries.list", prepared.plan.use_list().as_bytes())?,
        database: name,
        jobs: prepared.jobs,
        clean: in_place,
        single_transaction: in_place && prepared.jobs == 1,
        environment,
    };
    output.phase("restore", tables.iter().map(|table| table.bytes).sum());
    let (said, heard) = mpsc::unbounded_channel();
    let (done, warnings) = tokio::join!(
        engine::run(&invocation, output, stop, said),
        watch::watch(&prepared.control, &application, tables, heard, output)
    );
    done?;
    for warning in warnings {
        output.warn(&format!("the target says: {}", shown(&warning)));
    }
    output.done(&format!("pg_restore {} without error or warning", prepared.program.version));
    Ok(())
}

async fn check_proof(prepared: &Prepared<'_>, name: &str, output: &Output) -> Result<(Proof, Vec<String>), Failure> {
    let annex = &prepared.evidence.annex;
    output.phase("prove", annex.tables.iter().map(|table| table.bytes).sum());
    let connections = thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
    let outcome = prove::prove(&prepared.target, name, prepared.request.mode, annex, connections, output).await?;
    output.done("compared");
    let lines = outcome.lines();
    output.document(&json!({ "proof": outcome, "verdict": outcome.verdict() }));
    if outcome.verdict() == "different" {
        for line in &lines {
            output.say(line);
        }
        let names: Vec<&str> = outcome.different.iter().map(|(name, _)| name.as_str()).take(5).collect();
        return Err(Failure::class(FailureClass::ProofDiffers, format!("the restored database differs from what was backed up: {}", names.join(", "))));
    }
    Ok((outcome.proof(), lines))
}

/// Reports and says what was restored.
async fn complete(prepared: Prepared<'_>, workspace: Workspace, reporter: Reporter, secret: &SessionSecret, restored: Restored, started: Instant, output: &Output) -> Result<(), Failure> {
    let finish = Finish::Restore(Box::new(RestoreReport {
        bytes_restored: prepared.artifact_bytes(),
        checksum_sha256: restored.checksum_sha256.clone(),
        plan: prepared.plan.counts.clone(),
        proof: restored.proof.clone(),
        pg_restore_version: prepared.program.version.clone(),
        target_server_version: prepared.facts.version.clone(),
    }));
    let sealed = reporter.finish(&finish).await;
    let _ = std::fs::remove_file(workspace.path(download::ARTIFACT));
    let unsealed = match &sealed {
        Ok(_) => None,
        Err(error) => {
            let org = &prepared.request.claims.org_id;
            let command = later::keep(&workspace, &prepared.request.base_url, org, prepared.restore_id(), secret, finish)?;
            output.warn(&format!("the restore is complete, but Walwarden was not told: {error}"));
            output.say(&format!("report it later with: {command}"));
            Some(command)
        }
    };
    if sealed.is_ok() {
        workspace.remove();
    }
    for line in &restored.proof_lines {
        output.say(line);
    }
    let look = format!("psql {}", quote::sh(&prepared.target.redacted(&prepared.plan.database)));
    output.say(&format!(
        "restored  database \"{}\" from {} in {}",
        shown(&prepared.plan.database),
        format::bytes(prepared.artifact_bytes()),
        format::duration(started.elapsed())
    ));
    output.say(&format!("look at it: {look}"));
    let payload = json!({
        "bytesRestored": prepared.artifact_bytes(),
        "checksumSha256": restored.checksum_sha256,
        "restoreId": prepared.restore_id(),
        "database": prepared.plan.database,
        "plan": prepared.plan.counts,
        "proof": restored.proof,
        "pgRestore": prepared.program.version,
        "sealed": sealed.is_ok(),
        "receiptHash": sealed.as_ref().ok().and_then(|status| status.receipt_hash.clone()),
        "reportCommand": unsealed,
        "look": look,
    });
    output.state("completed", payload);
    Ok(())
}

/// Cleans up after a failure and reports what the control plane should know of it.
async fn give_up(prepared: Prepared<'_>, workspace: Workspace, reporter: Reporter, stop: &Stop, failure: Failure, output: &Output) -> Failure {
    let mut failure = failure;
    if let Some(temporary) = &prepared.plan.temporary_database {
        let drop_it = format!("psql {} -c {}", quote::sh(&prepared.target.redacted(prepared.target.database())), quote::sh(&database::drop_statement(temporary)));
        if prepared.arguments.keep_failed {
            output.say(&format!("kept      the unfinished database; remove it with: {drop_it}"));
        } else if discard(&prepared, temporary).await.is_err() {
            output.warn(&format!("the unfinished database could not be dropped; remove it with: {drop_it}"));
        }
    }
    let cancelled = failure.exit == ExitCode::Cancelled;
    if cancelled {
        output.state("cancelled", json!({}));
        let last = (stop.cause() == Some(Cause::Signal)).then_some(Transition::Cancelled {});
        reporter.end_with(last).await;
    } else if failure.exit == ExitCode::Retryable {
        // Nothing is reported: the session stays good, and the same command goes on where this one stopped.
        reporter.end_with(None).await;
        failure.hint = Some(format!("run the same command again: it goes on with what is kept in {}", workspace.directory().display()));
        return failure;
    } else {
        let class = failure.class.unwrap_or(FailureClass::Internal);
        output.state("failed_terminal", json!({ "class": class }));
        reporter.end_with(Some(Transition::Failed { class, detail: None })).await;
    }
    if prepared.arguments.keep_failed {
        output.say(&format!("kept      the download in {}", workspace.directory().display()));
    } else {
        workspace.remove();
    }
    failure
}

/// Drops the unfinished database, over a new connection if the old one broke.
async fn discard(prepared: &Prepared<'_>, temporary: &str) -> Result<(), Failure> {
    if database::discard(&prepared.control, temporary).await.is_ok() {
        return Ok(());
    }
    let client = prepared.target.connect(prepared.target.database(), APPLICATION).await?;
    database::discard(&client, temporary).await
}
