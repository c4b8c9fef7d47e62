//! Envelope encryption: a fresh data key for each value, XChaCha20-Poly1305 under it, and the data key
//! wrapped by a master key. Both layers are bound to the context, so that a value moved to another
//! organization, record or field does not open.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Serialize};
use walwarden_contract::ids::OrgId;
use zeroize::Zeroizing;

use super::KeyringError;

pub(super) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// First field of a sealed value: format and version.
const VERSION: &str = "ws1";

pub(super) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Where a secret belongs: `{org, kind, id, field}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Organization.
    pub org: &'a OrgId,
    /// Kind of the record: `database`, `destination`.
    pub kind: &'a str,
    /// Id of the record.
    pub id: &'a str,
    /// Field of the record: `dsn`, `secretAccessKey`.
    pub field: &'a str,
}

impl Context<'_> {
    /// The pairs, as KMS's encryption context takes them.
    pub(super) fn pairs(&self) -> [(&'static str, &str); 4] {
        [("field", self.field), ("id", self.id), ("kind", self.kind), ("org", self.org.as_str())]
    }

    /// Associated data: a tag, then each value under its length, so that no two contexts read the same.
    pub(super) fn associated_data(&self) -> Vec<u8> {
        let mut out = b"walwarden.sealed.v1\n".to_vec();
        for (name, value) in self.pairs() {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&(value.len() as u64).to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        out
    }
}

/// A secret encrypted for rest: `ws1.<keyring>.<wrapped data key>.<ciphertext>`, base64url. Safe to store and log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// As stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From what was stored.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn join(keyring: &str, wrapped_key: &[u8], ciphertext: &[u8]) -> Self {
        Self(format!(
            "{VERSION}.{keyring}.{}.{}",
            URL_SAFE_NO_PAD.encode(wrapped_key),
            URL_SAFE_NO_PAD.encode(ciphertext)
        ))
    }

    /// Keyring tag, wrapped data key, ciphertext.
    pub(super) fn split(&self) -> Result<(&str, Vec<u8>, Vec<u8>), KeyringError> {
        let malformed = KeyringError::Sealed("it is not of the form this version writes");
        let fields: Vec<&str> = self.0.split('.').collect();
        let [VERSION, keyring, wrapped, ciphertext] = fields.as_slice() else { return Err(malformed) };
        match (URL_SAFE_NO_PAD.decode(wrapped), URL_SAFE_NO_PAD.decode(ciphertext)) {
            (Ok(wrapped), Ok(ciphertext)) => Ok((keyring, wrapped, ciphertext)),
            _ => Err(malformed),
        }
    }
}

/// A new random key.
pub(super) fn random_key() -> Result<Key, KeyringError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(key.as_mut_slice()).map_err(|_| KeyringError::Randomness)?;
    Ok(key)
}

/// Nonce and ciphertext.
pub(super) fn seal(key: &Key, associated_data: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyringError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| KeyringError::Randomness)?;
    let payload = Payload { msg: plaintext, aad: associated_data };
    let sealed =
        cipher(key).encrypt(&XNonce::from(nonce), payload).map_err(|_| KeyringError::Sealed("it is too large"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// What [`seal`] took.
pub(super) fn open(key: &Key, associated_data: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let refused = || KeyringError::Sealed("another key, another place, or changed bytes");
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(refused)?;
    let payload = Payload { msg: ciphertext, aad: associated_data };
    cipher(key).decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| refused())
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}
