//! `walwarden-verifier`: verifies evidence offline, under keys that its user pins.
//!
//! It opens the files it is given and nothing else: no network, no configuration, no clock.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use serde_json::{Value, json};
use walwarden_verifier::{
    checkpoint, ids,
    keys::KeySet,
    verify::{Failure, Report, Supplied, SuppliedCheckpoint, verify},
};

/// Largest key file.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

/// Verify a Walwarden evidence bundle offline.
///
/// Prints one sentence for each thing that was shown, then a line that begins with OK. Nothing is sent
/// anywhere and nothing inside the bundle is trusted: give the published public keys with --pubkey.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Exit codes:
  0  verified
  1  BAD EVIDENCE: something that was checked is wrong
  2  NOT CHECKED: something that was asked for could not be decided, or the command line is wrong

Examples:
  walwarden-verifier --bundle evidence.tgz --pubkey walwarden-pubkey.pem
  walwarden-verifier --bundle evidence.tgz --pubkey walwarden-pubkey.pem \\
      --artifact bkp_01….dump --annex bkp_01….annex.jsonl.gz --checkpoint 00000000000000000042"
)]
struct Arguments {
    /// The evidence bundle (.tgz)
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The public keys to trust: the published walwarden-pubkey.pem, fetched from where you trust it
    #[arg(long, value_name = "PEM")]
    pubkey: Option<PathBuf>,
    /// The artifact: check its size, SHA-256 and contents against the manifest
    #[arg(long, value_name = "FILE")]
    artifact: Option<PathBuf>,
    /// The annex (.annex.jsonl.gz): check it against the manifest, and against the artifact if that is given too
    #[arg(long, value_name = "FILE")]
    annex: Option<PathBuf>,
    /// A checkpoint you kept: check that the bundle's log extends it (can be given several times)
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Print one JSON object instead of sentences
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => run(&arguments),
        Err(error) if wants_json && error.use_stderr() => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(Failure::not_checked(format!("command line: {text}")))
        }
        Err(error) => error.exit(),
    };
    let code = outcome.as_ref().map_or_else(Failure::exit_code, |_| 0);
    let written = if wants_json { print_json(&outcome, code) } else { print_lines(&outcome) };
    match written {
        // Whoever asked did not get the answer.
        Err(_) if code == 0 => ExitCode::from(2),
        _ => ExitCode::from(code),
    }
}

fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let Some(pubkey) = &arguments.pubkey else {
        return Err(Failure::not_checked("no trusted key: keys inside a bundle prove nothing").with_hint(
            "give --pubkey with the published walwarden-pubkey.pem, fetched from where you trust it, not from the bundle",
        ));
    };
    let pem = read_small(pubkey, MAX_KEY_FILE_BYTES)?;
    let pem = String::from_utf8(pem).map_err(|_| cannot("used as a key file", pubkey, &"not UTF-8"))?;
    let keys = KeySet::from_pem(&pem).map_err(|error| cannot("used as a key file", pubkey, &error))?;

    let mut supplied = Supplied::default();
    for path in &arguments.checkpoints {
        let note = read_small(path, checkpoint::MAX_BYTES as u64)?;
        supplied.checkpoints.push(SuppliedCheckpoint { name: path.display().to_string(), note });
    }
    if let Some(path) = &arguments.artifact {
        supplied.artifact = Some(Box::new(open(path)?));
    }
    if let Some(path) = &arguments.annex {
        supplied.annex = Some(Box::new(open(path)?));
    }
    verify(BufReader::new(open(&arguments.bundle)?), &keys, supplied)
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| cannot("opened", path, &error))
}

/// A whole file; one byte over the limit is kept, for the reader to refuse.
fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot("read", path, &error))?;
    Ok(bytes)
}

fn cannot(done: &str, path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::not_checked(format!("{} cannot be {done}: {why}", ids::shown(&path.display().to_string())))
}

fn print_lines(outcome: &Result<Report, Failure>) -> std::io::Result<()> {
    match outcome {
        Ok(report) => {
            let mut out = std::io::stdout().lock();
            report.sentences().iter().try_for_each(|line| writeln!(out, "{line}"))?;
            out.flush()
        }
        Err(failure) => {
            let mut out = std::io::stderr().lock();
            writeln!(out, "{failure}")?;
            failure.hint().map_or(Ok(()), |hint| writeln!(out, "hint: {hint}"))
        }
    }
}

fn print_json(outcome: &Result<Report, Failure>, code: u8) -> std::io::Result<()> {
    let (body, lines) = match outcome {
        Ok(report) => (serde_json::to_value(report), report.sentences()),
        Err(failure) => (serde_json::to_value(failure), vec![failure.to_string()]),
    };
    let mut object = json!({ "ok": outcome.is_ok(), "exitCode": code, "lines": lines });
    if let (Value::Object(object), Ok(Value::Object(body))) = (&mut object, body) {
        object.extend(body);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{object}")?;
    out.flush()
}
