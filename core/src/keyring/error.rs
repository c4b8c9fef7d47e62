//! What can go wrong with keys. No variant carries key material, plaintext or ciphertext.

use std::{io, path::PathBuf};

/// A failed use of a keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The key file cannot be read or written.
    #[error("could not {operation} the key file {}", path.display())]
    File {
        /// `read`, `create`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the key file.
    #[error("the key file {} has mode {mode:04o}; only its owner may read it", path.display())]
    FileMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is not one.
    #[error("the key file {} cannot be used: {rule}", path.display())]
    FileContent {
        /// The file.
        path: PathBuf,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Too long to sign or MAC.
    #[error("a message of {bytes} bytes cannot be signed; the limit is 4,096")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A stored secret does not open.
    #[error("a stored secret cannot be decrypted: {0}")]
    Sealed(&'static str),
    /// KMS did not do it.
    #[error("KMS {operation} failed: {code}")]
    Kms {
        /// The operation, in KMS's words.
        operation: &'static str,
        /// KMS's error code, or what became of the request.
        code: String,
        /// Whether trying again can help.
        passing: bool,
    },
    /// A KMS key is not of the kind it is configured for.
    #[error("the KMS key for {purpose} cannot be used: {rule}")]
    KmsKey {
        /// What it is configured for.
        purpose: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
}

impl KeyringError {
    /// Whether trying again, unchanged, can help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Kms { passing: true, .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the path and who owns it",
            Self::FileMode { .. } => "chmod 600 the file, and replace its keys if others could read it",
            Self::FileContent { .. } => "restore the file from its backup; without it stored secrets cannot be read",
            Self::TooLong { .. } => "report this: what is signed is bounded",
            Self::Sealed(_) => "check that the keyring is the one the secret was stored under",
            Self::Kms { passing: true, .. } => "try again; check KMS's status",
            Self::Kms { .. } => "check the key ids and that this function's role may use them",
            Self::KmsKey { .. } => "correct the configured key id",
            Self::Randomness => "check the machine",
        }
    }
}
