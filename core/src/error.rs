//! Errors of the domain. A refusal is part of the contract and goes to the client as it is; everything
//! else is logged once, at the edge, and the client learns only that it may try again.

use thiserror::Error;
use walwarden_contract::errors::{ErrorCode, ErrorDetail};

use crate::{destinations::StorageError, keyring::KeyringError, table::TableError};

/// Result of a domain operation.
pub type Result<T, E = DomainError> = std::result::Result<T, E>;

/// Why an operation did not happen.
#[derive(Debug, Error)]
pub enum DomainError {
    /// The caller asked for what may not be.
    #[error("{}", .0.message)]
    Refused(Box<ErrorDetail>),
    /// The table failed.
    #[error("table: {0}")]
    Table(#[from] TableError),
    /// The customer's bucket failed.
    #[error("bucket: {0}")]
    Storage(#[from] StorageError),
    /// Signing, MAC or encryption failed.
    #[error("keyring: {0}")]
    Keyring(#[from] KeyringError),
    /// Something stored or built is not as it must be.
    #[error("{what}: {problem}")]
    Broken {
        /// What.
        what: String,
        /// How.
        problem: String,
    },
    /// Too many writers at one log; try again.
    #[error("the log of {org} is too busy")]
    Contention {
        /// The organization.
        org: String,
    },
}

impl DomainError {
    /// A refusal.
    pub fn refused(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused(Box::new(ErrorDetail::new(code, message).hint(hint)))
    }

    /// Nothing of that id in this organization.
    pub fn not_found(what: &str, id: impl std::fmt::Display) -> Self {
        Self::Refused(Box::new(
            ErrorDetail::new(ErrorCode::NotFound, format!("there is no {what} {id}"))
                .hint("check the id; a token sees only its own organization"),
        ))
    }

    /// Something stored is not as it must be.
    pub fn broken(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.into(), problem: problem.to_string() }
    }

    /// Whether something was not in the state, or not any more, that an act needs.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(detail) if detail.code == ErrorCode::StateConflict)
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Broken { .. } => false,
            Self::Table(error) => error.is_passing(),
            Self::Storage(error) => error.is_passing(),
            Self::Keyring(error) => error.is_passing(),
            Self::Contention { .. } => true,
        }
    }

    /// What the client learns.
    pub fn detail(&self) -> ErrorDetail {
        let again = "try again; if it lasts, look at the service's status";
        match self {
            Self::Refused(detail) => (**detail).clone(),
            Self::Table(_) | Self::Keyring(_) | Self::Contention { .. } => {
                ErrorDetail::new(ErrorCode::Unavailable, "the service could not do this now").hint(again)
            }
            Self::Storage(error) if error.is_passing() => {
                ErrorDetail::new(ErrorCode::StorageUnavailable, format!("the bucket did not answer: {error}"))
                    .hint(again)
            }
            Self::Storage(error) => {
                ErrorDetail::new(ErrorCode::Unprocessable, format!("the bucket refused: {error}")).hint(error.hint())
            }
            Self::Broken { .. } => ErrorDetail::new(ErrorCode::Internal, "an unexpected fault")
                .hint("please report it with the time and the id you asked about"),
        }
    }
}
