//! What must hold before anything is asked of anyone: arguments, environment, token. Every refusal
//! here costs nothing and is exit code 2.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use walwarden_contract::{
    dsn::Dsn,
    ids::RestoreId,
    secret::Secret,
    time,
    token::{self, RestoreMode, RestoreTokenPayload},
};

use super::workspace::{self, Spent};
use crate::{commands::RestoreArguments, failure::Failure};

/// What the environment says, read once.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `WALWARDEN_TOKEN`: the restore token.
    pub token: Option<Secret>,
    /// `WALWARDEN_TARGET`: the target's connection string, where `--target` is not given.
    pub target: Option<Secret>,
    /// `WALWARDEN_BASE_URL`, or `WALWARDEN_API_URL`, its older name: the server.
    pub base_url: Option<String>,
    /// `WALWARDEN_PUBKEY`: PEM file with the keys to trust.
    pub pubkey: Option<PathBuf>,
    /// `WALWARDEN_PG_BIN`: directories with pg_restore, searched first; separated as in PATH.
    pub pg_bin: Vec<PathBuf>,
    /// `WALWARDEN_WORK_DIR`: where downloads are kept while a restore runs.
    pub work_dir: Option<PathBuf>,
    /// `PATH`
    pub path: Vec<PathBuf>,
    /// `PGUSER`
    pub pg_user: Option<String>,
    /// `PGPASSWORD`
    pub pg_password: Option<Secret>,
    /// `PGSSLMODE`
    pub pg_sslmode: Option<String>,
    /// `PGSSLROOTCERT`
    pub pg_sslrootcert: Option<String>,
    /// `PGPASSFILE`, else `~/.pgpass`
    pub pg_passfile: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`
    pub cache_home: Option<PathBuf>,
    /// The operating system's user, libpq's default user.
    pub os_user: Option<String>,
}

impl Environment {
    /// Reads the process' environment.
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let paths =
            |name: &str| std::env::var_os(name).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
        let home: Option<PathBuf> = text("HOME").map(Into::into);
        Self {
            token: text("WALWARDEN_TOKEN").map(Secret::new),
            target: text("WALWARDEN_TARGET").map(Secret::new),
            base_url: text("WALWARDEN_BASE_URL").or_else(|| text("WALWARDEN_API_URL")),
            pubkey: text("WALWARDEN_PUBKEY").map(Into::into),
            pg_bin: paths("WALWARDEN_PG_BIN"),
            work_dir: text("WALWARDEN_WORK_DIR").map(Into::into),
            path: paths("PATH"),
            pg_user: text("PGUSER"),
            pg_password: text("PGPASSWORD").map(Secret::new),
            pg_sslmode: text("PGSSLMODE"),
            pg_sslrootcert: text("PGSSLROOTCERT"),
            pg_passfile: text("PGPASSFILE").map(Into::into).or_else(|| home.as_ref().map(|h| h.join(".pgpass"))),
            cache_home: text("XDG_CACHE_HOME").map(Into::into),
            os_user: text("USER").or_else(|| text("LOGNAME")),
            home,
        }
    }
}

/// The hosted service.
const HOSTED: &str = "https://walwarden.com";

/// A restore that may be begun.
pub struct Request {
    /// Manifest hash, lower-case hex, if one was named.
    pub manifest: Option<String>,
    /// The restore: the token's, or one of our own where there is no token.
    pub restore_id: RestoreId,
    /// Mode.
    pub mode: RestoreMode,
    /// Where to restore.
    pub target: Dsn,
    /// `--created-database`
    pub created_database: Option<String>,
    /// `--jobs`
    pub jobs: Option<usize>,
    /// Where the backup comes from.
    pub from: From,
    /// What is worth a warning.
    pub warnings: Vec<String>,
}

/// Where a backup comes from.
pub enum From {
    /// From the bucket, by a token.
    Service(Service),
    /// From files that were fetched before.
    Files(Files),
}

/// A token and who takes it.
pub struct Service {
    /// The token.
    pub token: Secret,
    /// What the token says; only the server can tell whether it is genuine.
    pub claims: RestoreTokenPayload,
    /// The server.
    pub base_url: String,
}

/// What lies in the bucket of a backup, and the keys to trust.
pub struct Files {
    /// `….dump`
    pub artifact: PathBuf,
    /// `….manifest.json`
    pub envelope: PathBuf,
    /// `….annex.jsonl.gz`
    pub annex: PathBuf,
    /// PEM
    pub pubkey: PathBuf,
}

impl Request {
    /// The service, if it takes part.
    pub fn service(&self) -> Option<&Service> {
        match &self.from {
            From::Service(service) => Some(service),
            From::Files(_) => None,
        }
    }
}

/// The server a command talks to: flag, environment, then the hosted service.
pub fn base_url(arguments: &RestoreArguments, environment: &Environment) -> String {
    arguments.api_url.clone().or_else(|| environment.base_url.clone()).unwrap_or_else(|| HOSTED.into())
}

/// Checks everything that can be known on this machine. `resumable` tells whether a session of that
/// restore is kept here: then the token is spent already, and its expiry says nothing.
pub fn check(
    arguments: &RestoreArguments,
    environment: &Environment,
    now_seconds: i64,
    resumable: impl FnOnce(&RestoreTokenPayload) -> bool,
) -> Result<Request, Failure> {
    let manifest = match (&arguments.manifest, &arguments.artifact) {
        (None, Some(_)) => None,
        (named, _) => Some(manifest(named.as_deref())?),
    };
    let mode = mode(arguments.mode.as_deref())?;
    if mode == RestoreMode::InPlace && !arguments.confirm_destructive {
        let problem = "--mode in_place drops every object of the backup from the target before loading, and --confirm-destructive is not given";
        return Err(Failure::user("confirmation_missing", problem)
            .hint("add --confirm-destructive if the target may be overwritten, or use --mode new_database"));
    }
    if let Some(name) = &arguments.created_database {
        created_database(name, mode)?;
    }
    let jobs = jobs(arguments.jobs.as_deref())?;
    let from = match files(arguments, environment)? {
        Some(files) => From::Files(files),
        None => {
            let manifest = manifest.as_deref().unwrap_or_default();
            From::Service(service(arguments, environment, manifest, Some(mode), now_seconds, resumable)?)
        }
    };
    let restore_id = match &from {
        From::Service(service) => service.claims.job_intent_id.clone(),
        From::Files(_) => {
            let mut random = [0; 10];
            getrandom::fill(&mut random).map_err(|error| Failure::internal(format!("no randomness: {error}")))?;
            RestoreId::new(now_seconds.unsigned_abs() * 1000, random)
        }
    };
    let mut warnings = Vec::new();
    let target = target(arguments.target.as_deref(), environment, arguments.json, &mut warnings)?;
    if mode == RestoreMode::InPlace && target.dbname.is_none() {
        return Err(no_database("and in_place overwrites one", "overwrite"));
    }
    let created_database = arguments.created_database.clone();
    Ok(Request { manifest, restore_id, mode, target, created_database, jobs, from, warnings })
}

/// The spent token of an interrupted restore that the arguments ask for.
pub fn resumed(arguments: &RestoreArguments, base: &Path) -> Option<Spent> {
    let manifest = manifest(arguments.manifest.as_deref()).ok().filter(|_| arguments.artifact.is_none())?;
    let mode = match (arguments.mode.as_deref(), &arguments.download_only) {
        (None, Some(_)) => None,
        (mode, _) => Some(mode_named(mode?)?),
    };
    workspace::spent_token(base, &manifest, mode)
}

/// Checks everything that can be known on this machine of a download that restores nothing. What a one-liner carries
/// for a restore is of no concern; what was added for one is a misunderstanding.
pub fn check_download(
    arguments: &RestoreArguments,
    environment: &Environment,
    now_seconds: i64,
    resumable: impl FnOnce(&RestoreTokenPayload) -> bool,
) -> Result<Service, Failure> {
    let misplaced = [
        (arguments.target.is_some(), "--target"),
        (arguments.prove, "--prove"),
        (arguments.plan, "--plan"),
        (arguments.jobs.is_some(), "--jobs"),
        (!arguments.pg_bin.is_empty(), "--pg-bin"),
        (arguments.exact, "--exact"),
        (!arguments.leave_out.is_empty(), "--leave-out"),
        (arguments.no_create_roles, "--no-create-roles"),
        (arguments.adopt_definers, "--adopt-definers"),
        (arguments.drop_dependents, "--drop-dependents"),
        (arguments.keys_not_valid, "--keys-not-valid"),
        (arguments.keep_failed, "--keep-failed"),
        (arguments.refuse_superuser_target, "--refuse-superuser-target"),
    ];
    let misplaced: Vec<&str> = misplaced.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag).collect();
    if !misplaced.is_empty() {
        let (flags, are) = (misplaced.join(", "), if misplaced.len() == 1 { "is" } else { "are" });
        return Err(Failure::user(
            "download_only_with_restore",
            format!("--download-only restores nothing, and {flags} {are} given"),
        )
        .hint(format!("leave {flags} out to download only, or --download-only to restore")));
    }
    let manifest = manifest(arguments.manifest.as_deref())?;
    let mode = arguments.mode.as_deref().map(|text| mode(Some(text))).transpose()?;
    service(arguments, environment, &manifest, mode, now_seconds, resumable)
}

/// The token of the environment, held to what is on the command line.
fn service(
    arguments: &RestoreArguments,
    environment: &Environment,
    manifest: &str,
    mode: Option<RestoreMode>,
    now_seconds: i64,
    resumable: impl FnOnce(&RestoreTokenPayload) -> bool,
) -> Result<Service, Failure> {
    let token = environment.token.clone().ok_or_else(|| {
        Failure::user("token_missing", "WALWARDEN_TOKEN is not set")
            .hint("issue a restore token for the backup and run its one-liner, which sets WALWARDEN_TOKEN")
    })?;
    let claims = claims(&token, manifest, mode, now_seconds, resumable)?;
    Ok(Service { token, claims, base_url: base_url(arguments, environment) })
}

fn files(arguments: &RestoreArguments, environment: &Environment) -> Result<Option<Files>, Failure> {
    let (Some(artifact), Some(envelope), Some(annex)) = (&arguments.artifact, &arguments.envelope, &arguments.annex)
    else {
        return Ok(None);
    };
    let pubkey = arguments.pubkey.as_ref().or(environment.pubkey.as_ref()).ok_or_else(|| {
        Failure::user("pubkey_missing", "--pubkey is missing: the keys to trust, for no server is asked")
            .hint("it is /.well-known/walwarden-pubkey.pem of the server that made the backup, fetched once and kept")
    })?;
    Ok(Some(Files {
        artifact: artifact.clone(),
        envelope: envelope.clone(),
        annex: annex.clone(),
        pubkey: pubkey.clone(),
    }))
}

fn manifest(text: Option<&str>) -> Result<String, Failure> {
    let hint = "it is shown beside the backup, and in the one-liner";
    let text = text.ok_or_else(|| {
        Failure::user("manifest_missing", "--manifest is missing: which backup to restore").hint(hint)
    })?;
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    if !walwarden_verifier::manifest::is_sha256(&hex) {
        return Err(
            Failure::user("manifest_invalid", "--manifest is not a manifest hash (64 hexadecimal digits)").hint(hint)
        );
    }
    Ok(hex)
}

/// The mode of that name.
pub fn mode_named(name: &str) -> Option<RestoreMode> {
    [RestoreMode::NewDatabase, RestoreMode::InPlace].into_iter().find(|mode| mode.as_str() == name)
}

fn mode(text: Option<&str>) -> Result<RestoreMode, Failure> {
    match text.map(mode_named) {
        Some(Some(mode)) => Ok(mode),
        Some(None) => Err(Failure::user("mode_invalid", "--mode is neither new_database nor in_place")
            .hint("new_database touches nothing that exists and is the safe choice")),
        None => Err(Failure::user("mode_missing", "--mode is missing: new_database or in_place")
            .hint("new_database touches nothing that exists and is the safe choice")),
    }
}

/// Longest name Postgres keeps whole.
pub const MAX_NAME_BYTES: usize = 63;

fn created_database(name: &str, mode: RestoreMode) -> Result<(), Failure> {
    if mode == RestoreMode::InPlace {
        return Err(Failure::user(
            "created_database_in_place",
            "--created-database has no meaning with --mode in_place, which restores into the database of --target",
        )
        .hint("leave --created-database out, or use --mode new_database"));
    }
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !first || !rest || name.len() > MAX_NAME_BYTES {
        return Err(Failure::user("created_database_invalid", "--created-database is not a name it accepts")
            .hint("begin with a letter or underscore; letters, digits, underscores and hyphens follow; 63 at most"));
    }
    Ok(())
}

fn jobs(text: Option<&str>) -> Result<Option<usize>, Failure> {
    match text.map(str::parse::<usize>) {
        None => Ok(None),
        Some(Ok(jobs)) if (1..=64).contains(&jobs) => Ok(Some(jobs)),
        Some(_) => Err(Failure::user("jobs_invalid", "--jobs is not a number from 1 to 64")
            .hint("leave it out to use this machine's processors, 4 at most")),
    }
}

fn claims(
    token: &Secret,
    manifest: &str,
    mode: Option<RestoreMode>,
    now_seconds: i64,
    resumable: impl FnOnce(&RestoreTokenPayload) -> bool,
) -> Result<RestoreTokenPayload, Failure> {
    let claims = token::split(token.expose().trim())
        .map_err(|_| {
            Failure::user("token_malformed", "WALWARDEN_TOKEN does not hold a restore token")
                .hint("copy the whole one-liner; API keys are no restore tokens")
        })?
        .payload;
    if claims.manifest_hash != manifest {
        return Err(Failure::user(
            "manifest_mismatch",
            "the restore token is for another backup than --manifest names",
        )
        .hint(format!("this token is for --manifest {}", walwarden_verifier::ids::shown(&claims.manifest_hash))));
    }
    if mode.is_some_and(|mode| mode != claims.mode) {
        return Err(Failure::user(
            "mode_mismatch",
            format!("the restore token was issued for --mode {}", claims.mode.as_str()),
        )
        .hint("use that mode, or issue a token for the other"));
    }
    if claims.exp <= now_seconds && !resumable(&claims) {
        let at = time::format_ms(claims.exp.saturating_mul(1000));
        return Err(Failure::user("token_expired", format!("the restore token expired at {at}"))
            .hint("issue a new one for the same backup; check this machine's clock if that is in the future"));
    }
    Ok(claims)
}

/// The refusal of a target without a database.
pub fn no_database(why: &str, purpose: &str) -> Failure {
    Failure::user("target_database_missing", format!("the target connection string names no database, {why}"))
        .hint(format!("end it with the database to {purpose}: postgresql://user@host:5432/dbname"))
}

/// The refusal of a target that gives no sessions.
pub fn pooled(why: &str) -> Failure {
    Failure::user("target_pooled", format!("the target cannot be restored into: {why}"))
        .hint("this needs sessions of its own: use the direct host, or the session-mode pooler (Supabase: port 5432 of the same host; Neon: the host without -pooler; pgbouncer: pool_mode = session)")
}

/// The target of the flag, the environment, or asked for.
pub fn target(
    flag: Option<&str>,
    environment: &Environment,
    json: bool,
    warnings: &mut Vec<String>,
) -> Result<Dsn, Failure> {
    let given = flag.map(Secret::new);
    let from_flag = given.is_some();
    let text = match given.or_else(|| environment.target.clone()) {
        Some(text) => text,
        None if std::io::stdin().is_terminal() && !json => super::target::prompt::hidden("target connection string: ")?,
        None => {
            return Err(Failure::user(
                "target_missing",
                "no target: --target is not given and WALWARDEN_TARGET is not set",
            )
            .hint(
                "set WALWARDEN_TARGET to postgresql://user@host:5432/dbname; the password may come from PGPASSWORD",
            ));
        }
    };
    let mut dsn = Dsn::parse(text.expose()).map_err(|error| {
        Failure::user("target_invalid", format!("the target connection string is refused: {}", error.problem))
            .hint(error.hint)
    })?;
    dsn.refuse_transaction_pooler().map_err(|error| pooled(&error.problem))?;
    if dsn.sslmode.is_none()
        && let Some(mode) = &environment.pg_sslmode
    {
        let with = Dsn::parse(&format!("host=h sslmode={}", walwarden_contract::quote::conninfo(mode)));
        dsn.sslmode = with
            .map_err(|error| {
                Failure::user("sslmode_invalid", format!("PGSSLMODE: {}", error.problem)).hint(error.hint)
            })?
            .sslmode;
    }
    dsn.sslrootcert = dsn.sslrootcert.take().or_else(|| environment.pg_sslrootcert.clone());
    if from_flag && dsn.password.is_some() {
        warnings.push("the password in --target is visible in this machine's process list while the command runs; WALWARDEN_TARGET or PGPASSWORD are not".into());
    }
    for key in &dsn.ignored {
        warnings.push(format!("{key} in the target connection string means nothing to Postgres and is ignored"));
    }
    Ok(dsn)
}
