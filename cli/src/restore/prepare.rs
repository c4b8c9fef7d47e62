//! Everything before the claim: evidence, target, program, plan, room, lock. Nothing is spent here, and
//! every failure is the user's to fix.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use serde::Serialize;
use serde_json::json;
use tokio_postgres::Client;
use walwarden_client::ApiClient;
use walwarden_contract::{exit::ExitCode, ids::RestoreId, token::RestoreMode};
use walwarden_verifier::ids::shown;

use super::{
    download,
    evidence::{Evidence, is_opaque},
    guards::{Environment, Files, From, Request, Service},
    plan::{self, Plan, Wishes, adapt::Wanted},
    programs::{self, Need, Program},
    target::{Target, facts::Facts, keys},
    workspace::{self, Workspace},
};
use crate::{commands::RestoreArguments, failure::Failure, files, format, output::Output};

/// How our own sessions on the target are called.
pub const APPLICATION: &str = "walwarden restore";
/// Below this many bytes of table data a second worker costs more than it gains.
const WORTH_PARALLEL_BYTES: u64 = 16 * 1024 * 1024;
/// Room left on the disk beside the artifact.
const DISK_MARGIN_BYTES: u64 = 64 * 1024 * 1024;

/// Everything that was decided before the claim.
pub struct Prepared<'a> {
    /// The flags.
    pub arguments: &'a RestoreArguments,
    /// What was asked for.
    pub request: Request,
    /// What is to be restored.
    pub evidence: Evidence,
    /// Where to.
    pub target: Target,
    /// A connection to the target that lives as long as the restore, for it holds the lock.
    pub control: Arc<Client>,
    /// What the target is.
    pub facts: Facts,
    /// What will be done.
    pub plan: Plan,
    /// pg_restore.
    pub program: Program,
    /// Its parallel jobs.
    pub jobs: usize,
    /// Where workspaces are.
    pub base: PathBuf,
}

impl Prepared<'_> {
    /// The restore.
    pub fn restore_id(&self) -> &RestoreId {
        &self.request.restore_id
    }

    /// The connection to the target, made anew if it broke: a restore of hours must not fail at its last step.
    pub async fn control(&self) -> Result<Arc<Client>, Failure> {
        match self.control.check_connection().await {
            Ok(()) => Ok(self.control.clone()),
            Err(_) => Ok(Arc::new(self.target.connect(self.target.database(), APPLICATION).await?)),
        }
    }

    /// Who is to own the new database, where that is not the restoring role and this is no superuser.
    pub fn heir(&self) -> Option<&str> {
        let owner = self.plan.properties.owner.as_str();
        let given = self.plan.temporary_database.is_some() && !self.facts.superuser && owner != self.facts.role;
        given.then_some(owner)
    }

    /// The artifact's file: downloaded, or given.
    pub fn artifact(&self, workspace: &Workspace) -> PathBuf {
        match &self.request.from {
            From::Service(_) => workspace.path(download::ARTIFACT),
            From::Files(files) => files.artifact.clone(),
        }
    }

    /// Size of the artifact.
    pub fn artifact_bytes(&self) -> u64 {
        self.evidence.manifest.backup().size_bytes
    }
}

/// Evidence, target, program and plan; spends nothing.
pub async fn prepare<'a>(
    arguments: &'a RestoreArguments,
    environment: &Environment,
    request: Request,
    base: PathBuf,
    client: Option<&ApiClient>,
    output: &Output,
) -> Result<Prepared<'a>, Failure> {
    let restore_id = request.restore_id.clone();
    let evidence = match (&request.from, client) {
        (From::Service(service), Some(client)) => inspect(arguments, environment, service, &base, client).await?,
        (From::Service(_), None) => return Err(Failure::internal("a token, and no server")),
        (From::Files(files), _) => from_files(files, request.manifest.as_deref())?,
    };
    describe(&evidence, output);

    let mut target = Target::new(request.target.clone(), request.mode, environment)?;
    let control = Arc::new(target.reach(APPLICATION, output.is_person()).await.map_err(unspent)?);
    let mut facts = Facts::read(&control, &evidence.annex).await.map_err(unspent)?;
    if request.mode == RestoreMode::InPlace {
        facts.inside.keys = keys::read(&target, &control, &evidence.annex, &facts).await.map_err(unspent)?;
    }
    output.tell("target", &target.redacted(target.database()));
    output.tell("", &format!("Postgres {}, as \"{}\"", brief(&facts.version), shown(&facts.role)));

    let program = choose_program(arguments, environment, &evidence, &facts)?;
    let wishes = Wishes {
        mode: request.mode,
        created_database: request.created_database.as_deref(),
        target_database: target.database(),
        restore_id: &restore_id,
        refuse_superuser: arguments.refuse_superuser_target,
        parallel_in_place: request.jobs.is_some_and(|jobs| jobs > 1),
        exact: arguments.exact,
        wanted: Wanted {
            leave_out: arguments.leave_out.clone(),
            no_create_roles: arguments.no_create_roles,
            adopt_definers: arguments.adopt_definers,
            drop_dependents: arguments.drop_dependents,
            keys_not_valid: arguments.keys_not_valid,
        },
    };
    let mut plan = Plan::make(&evidence.annex, &facts, &wishes);
    plan.define_dropped(&control).await;
    for (label, text) in plan.lines(&evidence.annex) {
        output.tell(label, &text);
    }
    let refused = plan.outcome == "refused";
    if arguments.plan || refused {
        let key_id = &evidence.manifest.key_id;
        output.document(&Planned {
            plan: plan.complete(arguments.plan.then_some(&evidence.annex)),
            pg_restore: &program.version.to_string(),
            key_source: &evidence.key_source,
            key_id,
        });
    }
    if refused {
        let unspent = request.service().is_some() && !workspace::is_resumable(&base, restore_id.as_str());
        return Err(refusal(&plan, unspent));
    }
    let jobs = jobs(&request, &evidence);
    output.tell("engine", &format!("pg_restore {}, {}", program.version, format::counted(jobs as u64, "job")));
    output.tell("", &program.path.display().to_string());
    if let Some((major, minor)) = program.below_security_floor() {
        output.warn(&format!("pg_restore {} is below {major}.{minor}: it has known vulnerabilities that an archive from an untrusted source could use; update it", program.version));
    }
    let prepared = Prepared { arguments, request, evidence, target, control, facts, plan, program, jobs, base };
    if let From::Service(service) = &prepared.request.from {
        check_disk(&prepared.base, service, prepared.artifact_bytes())?;
    }
    lock(&prepared).await?;
    Ok(prepared)
}

/// The plan as a line for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned<'a> {
    plan: plan::Complete<'a>,
    pg_restore: &'a str,
    key_source: &'a str,
    key_id: &'a str,
}

/// Manifest and annex of a token's backup; spends nothing.
pub async fn inspect(
    arguments: &RestoreArguments,
    environment: &Environment,
    service: &Service,
    base: &Path,
    client: &ApiClient,
) -> Result<Evidence, Failure> {
    let restore_id = service.claims.job_intent_id.as_str();
    let kept = match workspace::is_resumable(base, restore_id) {
        true => Some(Workspace::open(base, restore_id)?),
        false => None,
    };
    let pubkey = arguments.pubkey.as_deref().or(environment.pubkey.as_deref());
    Evidence::load(service, client, pubkey, kept.as_ref()).await
}

/// Nothing was spent: whatever the class, it is for the user to fix, and the token stays good.
fn unspent(failure: Failure) -> Failure {
    Failure { exit: ExitCode::UserError, ..failure }
}

/// Says what the backup is, who signed it, and why that key is trusted.
pub fn describe(evidence: &Evidence, output: &Output) {
    let backup = evidence.manifest.backup();
    output.tell(
        "backup",
        &format!(
            "{} of \"{}\", {}",
            backup.backup_id,
            shown(&backup.source_database),
            format::bytes(backup.size_bytes)
        ),
    );
    output.tell(
        "",
        &format!("Postgres {}; holds nothing written after {}", brief(&backup.server_version), backup.snapshot_at),
    );
    output.tell("signed by", &format!("key {}", evidence.manifest.key_id));
    output.tell("", &format!("keySource: {}", evidence.key_source));
    output.state("inspected", json!({ "keySource": evidence.key_source, "keyId": evidence.manifest.key_id, "manifestHash": evidence.manifest.hash }));
}

/// `15.18 (Debian 15.18-0+deb12u1)` without what is in parentheses.
pub fn brief(version: &str) -> String {
    shown(version.split(' ').next().unwrap_or_default())
}

fn from_files(files: &Files, manifest: Option<&str>) -> Result<Evidence, Failure> {
    let evidence = Evidence::from_files(&files.envelope, &files.annex, &files.pubkey)?;
    if manifest.is_some_and(|named| named != evidence.manifest.hash) {
        let message =
            format!("{} is the manifest {}, not the one named", files.envelope.display(), evidence.manifest.hash);
        return Err(Failure::user("manifest_mismatch", message).hint("check --manifest, or leave it out"));
    }
    let size =
        std::fs::metadata(&files.artifact).map_err(|error| Failure::file("look at", &files.artifact, &error))?.len();
    let stated = evidence.manifest.backup().size_bytes;
    if size != stated {
        let message = format!("{} has {size} bytes, the manifest states {stated}", files.artifact.display());
        return Err(Failure::user("artifact_mismatch", message).hint("fetch it again; or it is of another backup"));
    }
    Ok(evidence)
}

fn choose_program(
    arguments: &RestoreArguments,
    environment: &Environment,
    evidence: &Evidence,
    facts: &Facts,
) -> Result<Program, Failure> {
    let need = Need::of(&evidence.annex).ok_or_else(|| {
        Failure::user(
            "archive_unknown",
            format!("archive format {} is not known to this version", shown(&evidence.annex.header.archive_version)),
        )
        .hint("update walwarden")
    })?;
    let scratch =
        tempfile::tempdir().map_err(|error| Failure::file("create a directory in", &std::env::temp_dir(), &error))?;
    let (named, found) = programs::installed(&arguments.pg_bin, environment);
    let reads = |program: &Program| programs::reads(&program.path, &need, scratch.path());
    programs::choose(&named, &found, &need, facts.major(), reads)
        .map_err(|none| Failure::user("no_pg_restore", none.problem).hint(none.remedy))
}

fn refusal(plan: &Plan, unspent: bool) -> Failure {
    let reasons: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    let remedies: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.remedy.as_str()).collect();
    Failure::user("plan_refused", format!("the backup cannot be restored into this target: {}", reasons.join("; ")))
        .hint(remedies.join("\n"))
        .told(
            match reasons.len() {
                1 => "the backup cannot be restored into this target, for the reason above".to_owned(),
                many => format!("the backup cannot be restored into this target, for the {many} reasons above"),
            },
            match unspent {
                true => "follow the remedies, then run the same command again: the token is unspent",
                false => "follow the remedies, then run the same command again",
            },
        )
}

fn jobs(request: &Request, evidence: &Evidence) -> usize {
    let data_bytes = match is_opaque(&evidence.annex) {
        true => evidence.manifest.backup().size_bytes,
        false => evidence.annex.tables.iter().map(|table| table.bytes).sum(),
    };
    let default = match request.mode {
        RestoreMode::InPlace => 1,
        RestoreMode::NewDatabase if data_bytes < WORTH_PARALLEL_BYTES => 1,
        RestoreMode::NewDatabase => thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
    };
    request.jobs.unwrap_or(default)
}

/// Room for the download in the work directory.
pub fn check_disk(base: &Path, service: &Service, artifact_bytes: u64) -> Result<(), Failure> {
    files::private_directory(base).map_err(|error| Failure::file("create", base, &error))?;
    // Blocks, not length: where room cannot be taken beforehand a file of full length may hold nothing.
    let kept = std::fs::metadata(base.join(service.claims.job_intent_id.as_str()).join(download::ARTIFACT))
        .map_or(0, |metadata| metadata.blocks().saturating_mul(512).min(metadata.len()));
    let free = free_bytes(base)?.saturating_add(kept);
    check_room(base, free, artifact_bytes, "name another directory with --work-dir")
}

/// Bytes that can still be written to a directory.
pub fn free_bytes(directory: &Path) -> Result<u64, Failure> {
    files::free_bytes(directory).map_err(|error| Failure::file("look at", directory, &error))
}

/// Refuses where there is no room for the artifact.
pub fn check_room(directory: &Path, free: u64, artifact_bytes: u64, otherwise: &str) -> Result<(), Failure> {
    let needed = artifact_bytes.saturating_add(DISK_MARGIN_BYTES);
    if free >= needed {
        return Ok(());
    }
    let message = format!(
        "{} has {} free, and the download needs {}",
        directory.display(),
        format::bytes(free),
        format::bytes(needed)
    );
    Err(Failure::user("disk_full", message).hint(format!("free disk space, or {otherwise}")))
}

/// Keeps a second restore into the same database out, as long as this connection lives.
async fn lock(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let query = "SELECT pg_try_advisory_lock(hashtextextended('walwarden restore ' || $1, 0))";
    let row = prepared
        .control
        .query_one(query, &[&prepared.plan.database])
        .await
        .map_err(super::target::facts::query_failed)?;
    if row.get(0) {
        return Ok(());
    }
    Err(Failure::user(
        "target_busy",
        format!("another restore into \"{}\" is under way on this target", shown(&prepared.plan.database)),
    )
    .hint("wait for it, or end its process first"))
}
