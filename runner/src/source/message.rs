//! What an error of the source means. Only SQLSTATEs and our own client's words decide: a server's messages may be in
//! any language.

use tokio_postgres::error::DbError;
use walwarden_contract::{failure::FailureClass, secret::Secret};

use crate::fault::{Fault, unnamed};

/// When it happened: the same error means another thing before and after there was a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Connected,
}

/// The fault an error of the source makes.
pub(super) fn fault(error: tokio_postgres::Error, stage: Stage, password: Option<&Secret>) -> Fault {
    let class = class(&error, stage);
    if let Some(db) = error.as_db_error() {
        let cause = format!("SQLSTATE {}", db.code().code());
        return Fault::new(class, unnamed(db.message(), password)).because(anyhow::Error::msg(cause));
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    // A certificate's names are the server's words too.
    Fault::new(class, unnamed(&text, password))
}

fn class(error: &tokio_postgres::Error, stage: Stage) -> FailureClass {
    use FailureClass::*;
    if let Some(db) = error.as_db_error() {
        return sqlstate(db, stage);
    }
    // The kinds are private; their texts are fixed and tested below and against real servers.
    match (error.to_string().as_str(), stage) {
        ("error performing TLS handshake", _) => SourceTlsFailed,
        ("authentication error" | "invalid configuration", Stage::Connecting) => SourceAuthFailed,
        (_, Stage::Connecting) => SourceUnreachable,
        ("connection closed" | "error communicating with the server", Stage::Connected) => SourceConnectionLost,
        (_, Stage::Connected) => DumpFailed,
    }
}

fn sqlstate(error: &DbError, stage: Stage) -> FailureClass {
    use FailureClass::*;
    let code = error.code().code();
    match (code, stage) {
        ("3D000", _) => SourceDsnInvalid,
        ("42501", _) => SourcePermission,
        ("55P03", _) => SourceLocked,
        // Supabase's pooler says so in its own words.
        ("XX000", Stage::Connecting) if error.message().contains("Tenant or user not found") => SourceAuthFailed,
        (code, _) if code.starts_with("28") => SourceAuthFailed,
        (_, Stage::Connecting) => SourceUnreachable,
        // Ended by an administrator, a time-out, a restart or a standby's replay.
        ("57P01" | "57P02" | "57P03" | "57P05" | "57014" | "25P03" | "25P04" | "40001", _) => SourceConnectionLost,
        (code, _) if code.starts_with("08") || code.starts_with("53") => SourceConnectionLost,
        _ => DumpFailed,
    }
}
