//! Every key the service holds, behind one face: a local key file or AWS KMS.
//!
//! Three things are kept apart because they fail apart: *signing* (Ed25519, one key for manifests, one for
//! checkpoints, one for receipts), *MACs* (restore tokens and cursors, HMAC-SHA-256), and *encryption at
//! rest* (a fresh data key for each value, wrapped by a master key, bound to where the value belongs). Only
//! `worker` is given a keyring that signs and decrypts; IAM says so in AWS.
//!
//! It refuses to know clocks: windows of keys are written as they are handed in, and checked by readers.

mod envelope;
mod error;
mod file;
mod kms;
mod local;

pub use envelope::{Context, Sealed};
pub use error::KeyringError;
pub use kms::{KmsConfig, KmsKey, KmsKeyring};
pub use local::LocalKeyring;
pub use walwarden_verifier::keys::{KeySet, KeyUse};
pub use zeroize::Zeroizing;

/// SHA-256 of a signing key's SubjectPublicKeyInfo in lower-case hex; of a MAC key a short tag that says
/// nothing of the key.
pub type KeyId = String;

/// The service's keys.
#[derive(Debug, Clone)]
pub enum Keyring {
    /// In a file of mode 0600.
    Local(LocalKeyring),
    /// In AWS KMS.
    Kms(KmsKeyring),
}

impl Keyring {
    /// Signs bytes as they are (Ed25519, pure). At most 4,096 bytes, for that is what KMS takes.
    ///
    /// # Errors
    /// [`KeyringError::TooLong`]; KMS's refusal.
    pub async fn sign(&self, key_use: KeyUse, message: &[u8]) -> Result<(KeyId, [u8; 64]), KeyringError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(KeyringError::TooLong { bytes: message.len() });
        }
        match self {
            Self::Local(keys) => Ok(keys.sign(key_use, message)),
            Self::Kms(keys) => keys.sign(key_use, message).await,
        }
    }

    /// Id of the key that [`Keyring::sign`] uses now.
    pub fn current_key(&self, key_use: KeyUse) -> &str {
        match self {
            Self::Local(keys) => keys.current_key(key_use),
            Self::Kms(keys) => keys.current_key(key_use),
        }
    }

    /// Every public key, current and retired, with use and window.
    pub fn public_keys(&self) -> &KeySet {
        match self {
            Self::Local(keys) => keys.public_keys(),
            Self::Kms(keys) => keys.public_keys(),
        }
    }

    /// Id of the key that [`Keyring::mac`] uses now.
    pub fn mac_key_id(&self) -> &str {
        match self {
            Self::Local(keys) => keys.mac_key_id(),
            Self::Kms(keys) => keys.mac_key_id(),
        }
    }

    /// HMAC-SHA-256 of a message of at most 4,096 bytes, and the id of the key.
    ///
    /// # Errors
    /// [`KeyringError::TooLong`]; KMS's refusal.
    pub async fn mac(&self, message: &[u8]) -> Result<(KeyId, Vec<u8>), KeyringError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(KeyringError::TooLong { bytes: message.len() });
        }
        match self {
            Self::Local(keys) => Ok(keys.mac(message)),
            Self::Kms(keys) => keys.mac(message).await,
        }
    }

    /// Whether `mac` is this message's under that key. An unknown key, and a message longer than any we made,
    /// are `false`. Constant-time in the MAC.
    ///
    /// # Errors
    /// KMS not answering.
    pub async fn verify_mac(&self, key_id: &str, message: &[u8], mac: &[u8]) -> Result<bool, KeyringError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Ok(false);
        }
        match self {
            Self::Local(keys) => Ok(keys.verify_mac(key_id, message, mac)),
            Self::Kms(keys) => keys.verify_mac(key_id, message, mac).await,
        }
    }

    /// Encrypts a secret for rest, bound to where it belongs.
    ///
    /// # Errors
    /// KMS's refusal; no randomness.
    pub async fn encrypt(&self, context: &Context<'_>, plaintext: &[u8]) -> Result<Sealed, KeyringError> {
        match self {
            Self::Local(keys) => keys.encrypt(context, plaintext),
            Self::Kms(keys) => keys.encrypt(context, plaintext).await,
        }
    }

    /// Decrypts what [`Keyring::encrypt`] gave for the same context.
    ///
    /// # Errors
    /// [`KeyringError::Sealed`] for another context, another key or changed bytes; KMS's refusal.
    pub async fn decrypt(&self, context: &Context<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        match self {
            Self::Local(keys) => keys.decrypt(context, sealed),
            Self::Kms(keys) => keys.decrypt(context, sealed).await,
        }
    }
}

/// Longest message to sign or MAC [KMS "Sign", "GenerateMac"].
pub const MAX_MESSAGE_BYTES: usize = 4_096;
