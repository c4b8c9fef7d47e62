//! The two ways in which a verification does not succeed.
//!
//! *Bad evidence* means that something that was checked is wrong. *Not checked* means that nothing was
//! found wrong, but something that was asked for could not be decided. They have different exit codes
//! because they call for different acts: an alarm, or another file.

use std::fmt;

use serde::Serialize;

use crate::{archive::ArchiveError, bundle::BundleError, dsse::EnvelopeError, ids, jcs::JcsError, manifest::is_sha256};

/// Why a verification did not succeed. `Display` gives the line for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "failure", rename_all = "camelCase")]
pub enum Failure {
    /// Something is wrong with the evidence. Exit code 1.
    BadEvidence {
        /// Where.
        place: String,
        /// Which rule does not hold there. Its wording is part of the format's documentation.
        rule: String,
        /// What this implementation saw, in its own words.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// What to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// Something could not be decided. Exit code 2.
    NotChecked {
        /// What, and why.
        reason: String,
        /// What to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// Every JSON text in a bundle is held to this rule; which part of it failed is a reader's own affair.
const CANONICAL: &str = "is not canonical JSON of its form";

impl Failure {
    /// Bad evidence.
    pub fn bad(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::BadEvidence { place: place.into(), rule: rule.into(), detail: None, hint: None }
    }

    /// Not checked.
    pub fn not_checked(reason: impl Into<String>) -> Self {
        Self::NotChecked { reason: reason.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::BadEvidence { hint, .. } | Self::NotChecked { hint, .. } => *hint = Some(text.into()),
        }
        self
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadEvidence { .. } => 1,
            Self::NotChecked { .. } => 2,
        }
    }

    /// What to do, if there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::BadEvidence { hint, .. } | Self::NotChecked { hint, .. } => hint.as_deref(),
        }
    }

    fn with_detail(place: impl Into<String>, rule: &str, detail: &dyn fmt::Display) -> Self {
        Self::BadEvidence {
            place: place.into(),
            rule: rule.into(),
            detail: Some(ids::shown(&detail.to_string())),
            hint: None,
        }
    }

    pub(super) fn json(place: impl Into<String>, error: &JcsError) -> Self {
        Self::with_detail(place, CANONICAL, error)
    }

    pub(super) fn bundle(error: &BundleError) -> Self {
        match error {
            BundleError::Io(error) => Self::not_checked(format!("the bundle cannot be read: {error}")),
            BundleError::Damaged(error) => {
                Self::with_detail("bundle", "is not one whole gzip member around one whole tar archive", error)
            }
            BundleError::Json { error: json, .. } => Self::json(error.place(), json),
            BundleError::Rule { rule, .. } => Self::bad(error.place(), *rule),
        }
    }

    pub(super) fn envelope(place: &str, error: &EnvelopeError) -> Self {
        match error {
            EnvelopeError::Form(error) => Self::json(place, error),
            EnvelopeError::Statement(error) => {
                Self::with_detail(place, "the signed statement is not canonical JSON of its form", error)
            }
            EnvelopeError::UnknownKey(id) if is_sha256(id) => Self::bad(
                place,
                format!("signed by key {id}, which is not among the trusted keys"),
            )
            .with_hint(
                "if the key file is older than this backup, fetch the published keys again from where you trust them",
            ),
            EnvelopeError::UnknownKey(_) => Self::bad(place, "the signature does not name a key by its id"),
            EnvelopeError::Rule(rule) | EnvelopeError::KeyNotValid(rule) => Self::bad(place, *rule),
            EnvelopeError::Signature => Self::bad(place, "the signature does not match the signed bytes"),
        }
    }

    pub(super) fn archive(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Read { source, .. } => Self::not_checked(format!("the artifact cannot be read: {source}")),
            ArchiveError::Malformed { .. } => Self::with_detail("artifact", "is not a whole pg_dump archive", error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadEvidence { place, rule, detail: None, .. } => write!(f, "BAD EVIDENCE: {place}: {rule}"),
            Self::BadEvidence { place, rule, detail: Some(detail), .. } => {
                write!(f, "BAD EVIDENCE: {place}: {rule} ({detail})")
            }
            Self::NotChecked { reason, .. } => write!(f, "NOT CHECKED: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}
