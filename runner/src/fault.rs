//! How a job ends when it does not end well.
//!
//! A fault travels to the control plane as a class and one redacted line; its cause stays here and is logged once, in
//! `job`. What a source database or a child process wrote is hostile text: it passes through [`line`] or [`unnamed`].

use std::fmt;

use walwarden_client::ClientError;
use walwarden_contract::{errors::ErrorCode, exit::ExitCode, failure::FailureClass, secret::Secret};
use walwarden_verifier::ids::shown;

/// Longest detail that is sent (`Transition::Failed`).
const DETAIL_CHARACTERS: usize = 300;

/// A failure with its class, a line for people, and its cause for the log.
#[derive(Debug)]
pub struct Fault {
    /// What kind it is.
    pub class: FailureClass,
    /// One line, redacted, at most 300 characters.
    pub detail: Option<String>,
    cause: Option<anyhow::Error>,
}

impl Fault {
    /// A failure told in our own words.
    pub fn new(class: FailureClass, detail: impl AsRef<str>) -> Self {
        Self { class, detail: Some(line(detail.as_ref())), cause: None }
    }

    /// A failure of which the class says enough.
    pub fn plain(class: FailureClass) -> Self {
        Self { class, detail: None, cause: None }
    }

    /// What does not depend on the source or the bucket: our own machine or a bug.
    pub fn internal(what: &str, cause: impl Into<anyhow::Error>) -> Self {
        let cause = cause.into();
        let is_full = |e: &std::io::Error| e.kind() == std::io::ErrorKind::StorageFull;
        let full = cause.chain().any(|error| error.downcast_ref().is_some_and(is_full));
        Self::new(if full { FailureClass::DiskFull } else { FailureClass::Internal }, what).because(cause)
    }

    /// With its cause, for the log only.
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Exit code of a runner that ends with it.
    pub fn exit_code(&self) -> ExitCode {
        if self.class.is_retryable() { ExitCode::Retryable } else { ExitCode::Terminal }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(cause) = &self.cause {
            // Causes may quote the source: they are escaped, and stay in our own log.
            write!(f, " ({})", shown(&format!("{cause:#}")))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Why a job is over before it is done.
#[derive(Debug)]
pub enum Ended {
    /// It failed; the control plane is told.
    Failed(Fault),
    /// The control plane asked for its end, or gave it to somebody else: there is nobody to tell.
    Cancelled(&'static str),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Self {
        let class = match error.code() {
            Some(ErrorCode::StateConflict | ErrorCode::Unauthorized | ErrorCode::AlreadyClaimed) => {
                return Self::Cancelled("the job is no longer this runner's");
            }
            Some(ErrorCode::StorageUnavailable) => FailureClass::StorageUnreachable,
            // What the control plane asked of the bucket, to begin the upload, was refused there.
            Some(ErrorCode::Unprocessable) => FailureClass::StorageRefused,
            Some(ErrorCode::MeasurementsDiffer) => FailureClass::SealImpossible,
            _ if error.exit_code() == ExitCode::Retryable => FailureClass::ControlPlaneUnreachable,
            _ => FailureClass::Internal,
        };
        Self::Failed(Fault::new(class, error.to_string()))
    }
}

/// The first line of `text`, safe to show and short.
pub fn line(text: &str) -> String {
    let text = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut shown = shown(text);
    if let Some((end, _)) = shown.char_indices().nth(DETAIL_CHARACTERS) {
        shown.truncate(end);
        while shown.chars().count() >= DETAIL_CHARACTERS {
            shown.pop();
        }
        shown.push('…');
    }
    shown
}

/// A foreign program's or server's message without what it quotes, names of tables for instance, and without the
/// password: a server that was told it can repeat it.
pub fn unnamed(message: &str, password: Option<&Secret>) -> String {
    let message = match password.map(Secret::expose) {
        Some(password) if password.len() >= 4 => message.replace(password, "[redacted]"),
        _ => message.to_owned(),
    };
    let mut out = String::with_capacity(message.len());
    let mut rest = message.as_str();
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = &rest[start..=start];
        let apostrophe = quote == "'" && rest[..start].ends_with(char::is_alphanumeric);
        let end = rest[start + 1..].find(quote);
        if apostrophe {
            out.push_str(&rest[..=start]);
            rest = &rest[start + 1..];
            continue;
        }
        let Some(end) = end else {
            // The message was cut within a name.
            out.push_str(&rest[..=start]);
            out.push('…');
            rest = "";
            break;
        };
        out.push_str(&rest[..start]);
        out.push_str(quote);
        out.push('…');
        out.push_str(quote);
        rest = &rest[start + end + 2..];
    }
    out.push_str(rest);
    line(&out)
}

#[cfg(test)]
mod tests {
    use std::io;

    use walwarden_verifier::annex::AnnexError;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_bug() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Fault::internal("x", full()).class, FailureClass::DiskFull);
        assert_eq!(Fault::internal("x", AnnexError::Io(full())).class, FailureClass::DiskFull);
        assert_eq!(Fault::internal("x", io::Error::other("y")).class, FailureClass::Internal);
    }

    #[test]
    fn details_are_one_short_line_without_control_characters() {
        assert_eq!(line("\n  a\u{1b}[0m b\nsecond"), "a\\u{1b}[0m b");
        let long = line(&"ä".repeat(1000));
        assert_eq!(long.chars().count(), DETAIL_CHARACTERS);
        assert!(long.ends_with('…'));
        assert_eq!(line(&"x".repeat(DETAIL_CHARACTERS)).chars().count(), DETAIL_CHARACTERS);
        assert_eq!(line(""), "");
    }

    #[test]
    fn names_and_passwords_of_foreign_messages_do_not_travel() {
        let secret = Secret::new("hunter2");
        assert_eq!(unnamed("it isn't \"x\" or 'y', is hunter2", Some(&secret)), "it isn't \"…\" or '…', is [redacted]");
        assert_eq!(unnamed("a \"b\" and an \"open one", None), "a \"…\" and an \"…");
        assert_eq!(unnamed("plain", None), "plain");
    }
}
