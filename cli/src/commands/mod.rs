//! The command line: one file per command.

mod prove;
mod restore;

pub use restore::RestoreArguments;

use std::ffi::OsString;

use clap::{Parser, Subcommand, error::ContextKind, error::ContextValue};

use crate::{failure::Failure, output::Output};

/// Verifiable, independent backups for Postgres.
#[derive(Debug, Parser)]
#[command(name = "walwarden", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Restore a backup into a database of yours, on this machine.
    Restore(Box<RestoreArguments>),
    /// Compare a database with a backup, row for row, without token and server.
    Prove(Box<prove::ProveArguments>),
}

impl Arguments {
    /// Whether output is JSON whatever stdout is.
    pub fn json(&self) -> bool {
        match &self.command {
            Command::Restore(arguments) => arguments.json,
            Command::Prove(arguments) => arguments.json,
        }
    }

    /// Runs the command.
    pub async fn run(self, output: &Output) -> Result<(), Failure> {
        match self.command {
            Command::Restore(arguments) => restore::run(*arguments, output).await,
            Command::Prove(arguments) => prove::run(*arguments, output).await,
        }
    }
}

/// clap's refusal of `words` as ours. It may quote what was typed, which may be a connection string: such words
/// are left out.
pub fn unusable(error: &clap::Error, words: &[OsString]) -> Failure {
    let quoted = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let secret = [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand]
        .into_iter()
        .filter_map(quoted)
        .any(|text| text.contains("://") || text.contains("password") || text.contains('@'));
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let message =
        if secret { "an argument is not understood (not repeated here: it may hold a password)" } else { first };
    let command = words.iter().skip(1).find_map(|word| ["restore", "prove"].into_iter().find(|name| word == name));
    let command = command.map(|name| format!("{name} ")).unwrap_or_default();
    Failure::user("invalid_arguments", message).hint(format!("walwarden {command}--help lists what is accepted"))
}
