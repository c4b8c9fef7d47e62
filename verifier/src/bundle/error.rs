//! Why a bundle cannot be packed or unpacked.

use std::{fmt, io};

use super::ustar::TarError;
use crate::{ids, jcs::JcsError};

/// Why a bundle cannot be packed or unpacked.
#[derive(Debug)]
pub enum BundleError {
    /// The input could not be read at all: nothing is known about the bundle.
    Io(io::Error),
    /// The compressed data are damaged.
    Damaged(io::Error),
    /// A member is not canonical JSON of its form.
    Json {
        /// The member.
        member: String,
        /// Its line, from 1, where it has lines.
        line: Option<u64>,
        /// What is wrong with it.
        error: JcsError,
    },
    /// A rule of the format does not hold.
    Rule {
        /// The member, or `bundle`.
        member: String,
        /// The rule.
        rule: &'static str,
    },
}

impl BundleError {
    pub(super) fn rule(member: &str, rule: &'static str) -> Self {
        Self::Rule { member: member.to_owned(), rule }
    }

    pub(super) fn json(member: &str, line: Option<u64>, error: JcsError) -> Self {
        Self::Json { member: member.to_owned(), line, error }
    }

    pub(super) fn tar(member: &str, error: TarError) -> Self {
        match error {
            TarError::Io(error) => Self::Damaged(error),
            TarError::Rule(rule) => Self::rule(member, rule),
        }
    }

    /// Where in the bundle, for a person.
    pub fn place(&self) -> String {
        match self {
            Self::Io(_) | Self::Damaged(_) => "bundle".to_owned(),
            Self::Json { member, line: Some(line), .. } => format!("{} line {line}", ids::shown(member)),
            Self::Json { member, line: None, .. } | Self::Rule { member, .. } => ids::shown(member),
        }
    }

    /// What is wrong there, for a person.
    pub fn problem(&self) -> String {
        match self {
            Self::Io(error) => format!("cannot be read: {error}"),
            Self::Damaged(error) => format!("compressed data are damaged: {error}"),
            Self::Json { error, .. } => ids::shown(&error.to_string()),
            Self::Rule { rule, .. } => (*rule).to_owned(),
        }
    }
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.problem())
    }
}

impl std::error::Error for BundleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::Damaged(error) => Some(error),
            Self::Json { error, .. } => Some(error),
            Self::Rule { .. } => None,
        }
    }
}
