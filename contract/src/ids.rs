//! Typed ids: `<kind>_<ulid>`, lower case. Time and randomness are handed in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    /// The expected kind.
    pub kind: &'static str,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an id of the form {}_<ulid>", self.kind)
    }
}

impl std::error::Error for IdError {}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id's kind, before the underscore.
            pub const KIND: &'static str = $kind;

            /// A new id from a time in milliseconds and 10 random bytes.
            pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(format!("{}_{}", $kind, ulid_text(unix_ms, random)))
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if walwarden_verifier::ids::is_id($kind, text) { Ok(Self(text.into())) } else { Err(IdError { kind: $kind }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    )*};
}

ids! {
    /// An organization.
    OrgId = "org";
    /// A protected database.
    DatabaseId = "db";
    /// A backup destination.
    DestinationId = "dst";
    /// A backup job.
    BackupId = "bkp";
    /// A source check job.
    CheckId = "chk";
    /// A restore job.
    RestoreId = "rst";
    /// An API token.
    TokenId = "tok";
}

fn ulid_text(unix_ms: u64, random: [u8; 10]) -> String {
    let mut bytes = [0; 16];
    bytes[6..].copy_from_slice(&random);
    let value = u128::from_be_bytes(bytes) | (u128::from(unix_ms & 0xffff_ffff_ffff) << 80);
    ulid::Ulid::from(value).to_string().to_ascii_lowercase()
}

/// A job that a worker does: backup, check or restore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum JobId {
    /// Backup.
    Backup(BackupId),
    /// Source check.
    Check(CheckId),
    /// Restore.
    Restore(RestoreId),
}

impl JobId {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Backup(id) => id.as_str(),
            Self::Check(id) => id.as_str(),
            Self::Restore(id) => id.as_str(),
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split('_').next() {
            Some("bkp") => Ok(Self::Backup(text.parse()?)),
            Some("chk") => Ok(Self::Check(text.parse()?)),
            Some("rst") => Ok(Self::Restore(text.parse()?)),
            _ => Err(IdError { kind: "job" }),
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_ulids_ordered_by_time() {
        let old = BackupId::new(1_700_000_000_000, [255; 10]);
        let new = BackupId::new(1_700_000_000_001, [0; 10]);
        assert!(old < new);
        assert_eq!(old.as_str().parse::<BackupId>().unwrap(), old);
        assert!(old.as_str().parse::<RestoreId>().is_err());
        assert_eq!(old.as_str().parse::<JobId>().unwrap(), JobId::Backup(old));
    }
}
