//! `walwarden restore`: its flags, and the order of what it does.

use std::path::PathBuf;

use clap::Args;
use walwarden_contract::{dsn::Dsn, quote};

use crate::{failure::Failure, output::Output, restore::steps};

/// Flags of `walwarden restore`.
#[derive(Debug, Args, Default, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct RestoreArguments {
    /// Manifest hash of the backup (64 hexadecimal digits, `sha256:` may precede).
    #[arg(long, value_name = "SHA256")]
    pub manifest: Option<String>,
    /// Without token and server: the artifact, `….dump`, fetched from the bucket.
    #[arg(long, value_name = "FILE", requires_all = ["envelope", "annex"], conflicts_with = "api_url")]
    pub artifact: Option<PathBuf>,
    /// Its signed manifest, `….manifest.json`.
    #[arg(long, value_name = "FILE", requires = "artifact")]
    pub envelope: Option<PathBuf>,
    /// Its annex, `….annex.jsonl.gz`.
    #[arg(long, value_name = "FILE", requires = "artifact")]
    pub annex: Option<PathBuf>,
    /// Restore nothing: write the verified artifact to this file, which must not exist yet, and manifest and annex beside
    /// it. Needs no target and no pg_restore.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["artifact", "report"])]
    pub download_only: Option<PathBuf>,
    /// Where to restore: postgresql://user@host:5432/dbname. Better kept in WALWARDEN_TARGET: a command line
    /// is visible to this machine's other users.
    #[arg(long, value_name = "DSN")]
    pub target: Option<String>,
    /// `new_database`: into a database that does not exist yet; the target names a maintenance database such as
    /// postgres. `in_place`: over the target's database.
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// Name of the new database; the source's own name where absent.
    /// Given twice, the last holds: what is appended to a one-liner decides.
    #[arg(long, value_name = "NAME", overrides_with = "created_database")]
    pub created_database: Option<String>,
    /// Required with in_place: the target's objects are dropped before the backup is loaded.
    #[arg(long)]
    pub confirm_destructive: bool,
    /// Parallel jobs of pg_restore; by default the processors, 4 at most. In place, more than 1 gives up that all
    /// or nothing is restored.
    #[arg(long, short = 'j', value_name = "N")]
    pub jobs: Option<String>,
    /// Afterwards compare every table, sequence and large object with what was backed up.
    #[arg(long)]
    pub prove: bool,
    /// Print what would be done and stop; the token stays unspent.
    #[arg(long)]
    pub plan: bool,
    /// Public keys to trust (PEM); else WALWARDEN_PUBKEY, else the server's.
    #[arg(long, value_name = "PEM")]
    pub pubkey: Option<PathBuf>,
    /// Directory with pg_restore, searched first; may be repeated. Also WALWARDEN_PG_BIN.
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Vec<PathBuf>,
    /// Where the download is kept while the restore runs. Also WALWARDEN_WORK_DIR.
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Keep the unfinished database and the download of a restore that failed.
    #[arg(long)]
    pub keep_failed: bool,
    /// Refuse a target role that is a superuser: an archive's SQL runs with the target role's rights.
    #[arg(long)]
    pub refuse_superuser_target: bool,
    /// Restore only what can be as it was in the source; refuse where anything would be adapted or left out.
    #[arg(long)]
    pub exact: bool,
    /// Go without a kind of entry, such as `event-trigger`, or an extension, as `extension:NAME`; may be repeated. What is
    /// about them goes too, but never data.
    #[arg(long, value_name = "KIND")]
    pub leave_out: Vec<String>,
    /// Make no roles on the target: rights of those that are missing are left out.
    #[arg(long)]
    pub no_create_roles: bool,
    /// Let functions that run with their owner's rights be called by whom they were, though their owner is another here.
    #[arg(long)]
    pub adopt_definers: bool,
    /// In place: drop what has been made since the backup and depends on what is to be dropped, such as a view.
    #[arg(long)]
    pub drop_dependents: bool,
    /// In place: make foreign keys to tables that stay as they are, and are not as they were, NOT VALID: rows that refer to
    /// what is gone are restored, too.
    #[arg(long)]
    pub keys_not_valid: bool,
    /// The server; else WALWARDEN_BASE_URL.
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Report a restore that completed while the server was unreachable: the file that restore named.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifest", "target", "mode", "created_database", "plan", "prove"])]
    pub report: Option<PathBuf>,
    /// Write JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

impl RestoreArguments {
    /// The command that was given, for a shell. A target with a password is not repeated.
    pub fn again(&self) -> String {
        let mut words = vec!["walwarden restore".to_owned()];
        let path = |path: &PathBuf| quote::sh(&path.display().to_string());
        let mut option = |flag: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{flag} {value}")));
        };
        let text = |value: &Option<String>| value.as_deref().map(quote::sh);
        option("--manifest", text(&self.manifest));
        option("--artifact", self.artifact.as_ref().map(path));
        option("--envelope", self.envelope.as_ref().map(path));
        option("--annex", self.annex.as_ref().map(path));
        option("--download-only", self.download_only.as_ref().map(path));
        option("--mode", text(&self.mode));
        option("--created-database", text(&self.created_database));
        let open = |dsn: &String| Dsn::parse(dsn).is_ok_and(|dsn| dsn.password.is_none());
        option("--target", self.target.as_ref().map(|dsn| if open(dsn) { quote::sh(dsn) } else { "…".into() }));
        option("--jobs", text(&self.jobs));
        option("--pubkey", self.pubkey.as_ref().map(path));
        for directory in &self.pg_bin {
            option("--pg-bin", Some(path(directory)));
        }
        option("--work-dir", self.work_dir.as_ref().map(path));
        for kind in &self.leave_out {
            option("--leave-out", Some(quote::sh(kind)));
        }
        option("--api-url", text(&self.api_url));
        let switches = [
            (self.confirm_destructive, "--confirm-destructive"),
            (self.prove, "--prove"),
            (self.keep_failed, "--keep-failed"),
            (self.refuse_superuser_target, "--refuse-superuser-target"),
            (self.exact, "--exact"),
            (self.no_create_roles, "--no-create-roles"),
            (self.adopt_definers, "--adopt-definers"),
            (self.drop_dependents, "--drop-dependents"),
            (self.keys_not_valid, "--keys-not-valid"),
            (self.json, "--json"),
        ];
        words.extend(switches.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned()));
        words.join(" ")
    }
}

const AFTER_HELP: &str = "\
Environment:
  WALWARDEN_TOKEN     the restore token (required, but with --artifact)
  WALWARDEN_TARGET    the target's connection string
  WALWARDEN_BASE_URL  the server (WALWARDEN_API_URL is its older name)
  WALWARDEN_PUBKEY    public keys to trust
  WALWARDEN_PG_BIN    directories with pg_restore
  WALWARDEN_WORK_DIR  where the download is kept
  WALWARDEN_LOG       diagnostics on stderr: error, warn, info, debug or trace
  PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE, PGSSLROOTCERT  as libpq reads them

Exit codes:
  0  restored; with --download-only, the file is there
  1  passing trouble: run it again
  2  yours to fix; nothing was done
  3  failed for good
  4  interrupted

Signature, manifest and bytes of the backup are verified on this machine before pg_restore reads any of it. \
The archive's SQL comes from the source database and runs with the target role's rights. \
Credentials and data never reach Walwarden; it learns of steps, sizes and counts.";

/// Runs `walwarden restore`.
pub async fn run(arguments: RestoreArguments, output: &Output) -> Result<(), Failure> {
    match &arguments.report {
        Some(file) => crate::restore::later::send(file, output).await,
        None => steps::run(&arguments, output).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        restore: RestoreArguments,
    }

    #[test]
    fn the_command_that_is_printed_is_the_one_that_was_given() {
        let given = [
            "walwarden restore",
            "--manifest",
            "aa",
            "--artifact",
            "/a.dump",
            "--envelope",
            "/a b.json",
            "--annex",
            "/a.gz",
            "--mode",
            "in_place",
            "--created-database",
            "x",
            "--target",
            "postgresql://u@h/a b",
            "--jobs",
            "4",
            "--pubkey",
            "/k's.pem",
            "--pg-bin",
            "/a",
            "--pg-bin",
            "/b c",
            "--work-dir",
            "/w",
            "--leave-out",
            "event-trigger",
            "--leave-out",
            "extension:a b",
            "--confirm-destructive",
            "--prove",
            "--keep-failed",
            "--refuse-superuser-target",
            "--exact",
            "--no-create-roles",
            "--adopt-definers",
            "--json",
        ];
        let again = Line::parse_from(given).restore.again();
        let script = format!("walwarden() {{ shift; printf '%s\\n' \"$@\"; }}; {again}");
        let said = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let words = String::from_utf8(said.stdout).unwrap();
        assert_eq!(words.lines().collect::<Vec<_>>(), given[1..]);
        let given = ["r", "--manifest", "aa", "--download-only", "/a b.dump"];
        assert_eq!(
            Line::parse_from(given).restore.again(),
            "walwarden restore --manifest aa --download-only '/a b.dump'"
        );
        let secret = Line::parse_from(["r", "--target", "postgresql://u:hunter2@h/a"]).restore.again();
        assert_eq!(secret, "walwarden restore --target …");
    }
}
