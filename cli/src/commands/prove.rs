//! `walwarden prove`: compares a database that exists with a backup, from files, with no token and no server.

use std::path::PathBuf;

use clap::Args;
use walwarden_contract::{exit::ExitCode, failure::FailureClass, token::RestoreMode};

use crate::{
    failure::Failure,
    output::Output,
    restore::{
        evidence::Evidence,
        guards::{self, Environment},
        prepare,
        prove::{self, Outcome},
        target::{Target, facts},
    },
    stop::Stop,
};

/// How our sessions on the target are called before the comparison.
const APPLICATION: &str = "walwarden prove";

/// Flags of `walwarden prove`.
#[derive(Debug, Args, Default, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct ProveArguments {
    /// The backup's signed manifest: `….manifest.json` beside the artifact in the bucket.
    #[arg(long, value_name = "FILE")]
    pub envelope: Option<PathBuf>,
    /// The backup's annex: `….annex.jsonl.gz` beside the artifact in the bucket.
    #[arg(long, value_name = "FILE")]
    pub annex: Option<PathBuf>,
    /// Public keys to trust (PEM); else WALWARDEN_PUBKEY. Nothing is asked of a server.
    #[arg(long, value_name = "PEM")]
    pub pubkey: Option<PathBuf>,
    /// The database to compare: postgresql://user@host:5432/dbname. Better kept in WALWARDEN_TARGET: a command line
    /// is visible to this machine's other users.
    #[arg(long, value_name = "DSN")]
    pub target: Option<String>,
    /// `new_database`: the database holds the backup and nothing else, so further tables and large objects are
    /// differences. `in_place`: there may be others.
    #[arg(long, value_name = "MODE", default_value = "new_database")]
    pub mode: String,
    /// Write JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

const AFTER_HELP: &str = "\
Environment:
  WALWARDEN_TARGET  the target's connection string
  WALWARDEN_PUBKEY  public keys to trust
  WALWARDEN_LOG     diagnostics on stderr: error, warn, info, debug or trace
  PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE, PGSSLROOTCERT  as libpq reads them

Exit codes:
  0  identical: all of it was compared, all of it is the same
  1  passing trouble: run it again
  2  yours to fix: arguments, files, keys, login
  3  the database differs, or not all of it could be compared (not proven), or
     manifest and annex are not what they should be
  4  interrupted

Signature, key, and the annex' size and digest are verified before the target is asked anything. It is then read in \
one REPEATABLE READ, READ ONLY snapshot: rows and row digest of each table, position of each sequence, size and digest \
of each large object. Definitions and rights are not compared. Connect as a role that may read all of it and that no \
row security policy restricts; a database in use will differ. Nothing is sent to Walwarden.";

/// Runs `walwarden prove`.
pub async fn run(arguments: ProveArguments, output: &Output) -> Result<(), Failure> {
    let environment = Environment::read();
    let missing =
        |flag: &str, what: &str| Failure::user(&format!("{flag}_missing"), format!("--{flag} is missing: {what}"));
    let beside = "it lies beside the artifact in the bucket";
    let envelope = arguments.envelope.as_deref();
    let envelope = envelope.ok_or_else(|| missing("envelope", "the backup's ….manifest.json").hint(beside))?;
    let annex = arguments.annex.as_deref();
    let annex = annex.ok_or_else(|| missing("annex", "the backup's ….annex.jsonl.gz").hint(beside))?;
    let pubkey = arguments.pubkey.as_deref().or(environment.pubkey.as_deref()).ok_or_else(|| {
        missing("pubkey", "the keys to trust")
            .hint("it is /.well-known/walwarden-pubkey.pem of the server that made the backup, fetched once and kept")
    })?;
    let mode = guards::mode_named(&arguments.mode).ok_or_else(|| {
        Failure::user("mode_invalid", "--mode is neither new_database nor in_place")
            .hint("leave it out if the database should hold nothing but the backup")
    })?;
    let mut warnings = Vec::new();
    let dsn = guards::target(arguments.target.as_deref(), &environment, arguments.json, &mut warnings)?;
    if dsn.dbname.is_none() {
        return Err(guards::no_database("and one is to be compared", "compare"));
    }
    for warning in &warnings {
        output.warn(warning);
    }
    let evidence = Evidence::from_files(envelope, annex, pubkey)?;
    prepare::describe(&evidence, output);
    let target = Target::new(dsn, mode, &environment)?;
    let stop = Stop::install()?;
    let outcome = stop.unless_signalled(compare(target, mode, &evidence, output)).await.map_err(fitting)?;
    outcome.tell(output);
    match outcome.verdict() {
        "identical" => Ok(()),
        "different" => Err(different(&outcome)),
        _ => Err(not_proven(&outcome)),
    }
}

async fn compare(
    mut target: Target,
    mode: RestoreMode,
    evidence: &Evidence,
    output: &Output,
) -> Result<Outcome, Failure> {
    let control = target.reach(APPLICATION, output.is_person()).await?;
    let database = target.database().to_owned();
    let row = control
        .query_one("SELECT current_setting('server_version'), current_user::text", &[])
        .await
        .map_err(facts::query_failed)?;
    let (version, role): (String, String) = (row.get(0), row.get(1));
    output.tell("target", &target.redacted(&database));
    output
        .tell("", &format!("Postgres {}, as \"{}\"", prepare::brief(&version), walwarden_verifier::ids::shown(&role)));
    let money_readable = facts::lc_monetary_known(&control, &evidence.annex.settings).await;
    prove::run(&target, &database, mode, &evidence.annex, money_readable, output).await
}

/// What hints say of a restore is no help here.
fn fitting(failure: Failure) -> Failure {
    match (failure.exit, failure.class) {
        (ExitCode::Cancelled, _) => failure.hint("nothing was changed; run it again at any time"),
        (_, Some(FailureClass::TargetFailed)) => failure.hint("correct that on the target, then prove again"),
        _ => failure,
    }
}

fn different(outcome: &Outcome) -> Failure {
    let failure = Failure {
        message: format!("the database differs from the backup: {}", outcome.names(&outcome.different)),
        ..Failure::class(FailureClass::ProofDiffers, "")
    };
    failure.hint(match outcome.tables {
        0 => "none of the backup's tables is there: does the connection string name the right database?",
        _ => "what was written since it was restored is a difference too",
    })
}

fn not_proven(outcome: &Outcome) -> Failure {
    let reasons: Vec<String> = outcome.not_proven.iter().take(5).map(|(name, why)| format!("{name} ({why})")).collect();
    let more = if outcome.not_proven.len() > 5 { ", …" } else { "" };
    let message = format!("not all of it could be compared: {}{more}", reasons.join(", "));
    let hint = match outcome.not_compared {
        0 => "nothing can prove such a backup but a look at what it was restored into",
        _ => "connect as a role that may read all of it, such as the owner or a superuser",
    };
    Failure { exit: ExitCode::Terminal, ..Failure::user("not_proven", message).hint(hint) }
        .told("not all of it could be compared, for the reasons above", hint)
}
