//! `walwarden`: restores backups on the operator's own machine. It refuses to hand the target's
//! credentials to anyone but the target, and to run anything it has not verified.

mod commands;
mod failure;
mod files;
mod format;
mod output;
mod restore;
mod stop;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};

use crate::{commands::Arguments, failure::Failure, output::Output};

/// A level for our own events only: libraries log URLs and statements.
fn log_filter(level: Option<&str>) -> tracing_subscriber::EnvFilter {
    match level.map(|level| level.to_ascii_lowercase()) {
        Some(level) if ["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) => {
            format!("off,walwarden={level},walwarden_client={level}").into()
        }
        _ => "off".into(),
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(log_filter(std::env::var("WALWARDEN_LOG").ok().as_deref()))
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        // Nothing was asked: what can be, on stderr.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return (walwarden_contract::exit::ExitCode::UserError as u8).into();
        }
        Err(error) => {
            let words: Vec<_> = std::env::args_os().collect();
            let json = words.iter().any(|word| word == "--json");
            return Output::new(json).fail(&commands::unusable(&error, &words));
        }
    };
    let output = Output::new(arguments.json());
    // The main thread drives the command: children that die with their parent are tied to this thread.
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no async runtime: {error}")))
        .and_then(|runtime| runtime.block_on(arguments.run(&output)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}
