//! Public keys a reader trusts, as a PEM file holds them: each `PUBLIC KEY` block under a comment with
//! its id, use and window. A block without a comment is trusted for every use at every time: whoever
//! pinned it said so.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// DER prefix of an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const COMMENT: &str = "# walwarden-key ";

/// What a key signs. A key has one use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyUse {
    /// Backup manifests.
    Manifest,
    /// Log checkpoints.
    Checkpoint,
    /// Restore receipts.
    Receipt,
}

impl KeyUse {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Manifest, Self::Checkpoint, Self::Receipt];

    /// As written in PEM comments and the key set.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Checkpoint => "checkpoint",
            Self::Receipt => "receipt",
        }
    }
}

/// An Ed25519 public key with what it is trusted for.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
    pub id: String,
    /// Its use; `None` = any (a block without a comment).
    pub key_use: Option<KeyUse>,
    /// First moment it signs, if bounded.
    pub not_before: Option<String>,
    /// Moment from which it no longer signs, if retired.
    pub not_after: Option<String>,
    key: VerifyingKey,
}

impl PublicKey {
    /// A key from its 32 bytes; `None` if they are no curve point or one of small order.
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        if key.is_weak() {
            return None;
        }
        Some(Self { id: key_id(bytes), key_use: None, not_before: None, not_after: None, key })
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether it may sign `key_use`.
    pub fn is_for(&self, key_use: KeyUse) -> bool {
        self.key_use.is_none_or(|own| own == key_use)
    }

    /// Whether `at` (RFC 3339, milliseconds) lies in its window.
    pub fn is_valid_at(&self, at: &str) -> bool {
        self.not_before.as_deref().is_none_or(|from| from <= at) && self.not_after.as_deref().is_none_or(|to| at < to)
    }

    /// Strict Ed25519 verification (no small-order keys, no malleable signatures).
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| self.key.verify_strict(message, &s).is_ok())
    }

    /// The PEM block under its comment.
    pub fn to_pem(&self) -> String {
        let mut out = String::new();
        if let Some(key_use) = self.key_use {
            out.push_str(&format!(
                "{COMMENT}id={} use={} from={} until={}\n",
                self.id,
                key_use.as_str(),
                self.not_before.as_deref().unwrap_or("-"),
                self.not_after.as_deref().unwrap_or("-"),
            ));
        }
        let der = spki(&self.to_bytes());
        out.push_str(&format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)));
        out
    }
}

/// The SubjectPublicKeyInfo of an Ed25519 key, DER.
pub fn spki(key: &[u8; 32]) -> [u8; 44] {
    let mut der = [0; 44];
    der[..12].copy_from_slice(&SPKI_PREFIX);
    der[12..].copy_from_slice(key);
    der
}

/// Key id: SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
pub fn key_id(key: &[u8; 32]) -> String {
    hex::encode(Sha256::digest(spki(key)))
}

/// The keys a reader trusts.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<PublicKey>);

/// Why a PEM file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileError(String);

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyFileError {}

impl KeySet {
    /// A set of known keys.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// All keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// The key with that id.
    pub fn by_id(&self, id: &str) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// All keys as one PEM text.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(PublicKey::to_pem).collect()
    }

    /// Reads a PEM text: any number of Ed25519 public keys, comments and blank lines.
    pub fn from_pem(text: &str) -> Result<Self, KeyFileError> {
        let fail = |line: usize, what: &str| Err(KeyFileError(format!("line {}: {what}", line + 1)));
        let mut keys = Vec::new();
        let mut comment: Option<&str> = None;
        let mut block: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(body) = &mut block {
                if line == "-----END PUBLIC KEY-----" {
                    let Some(key) = decode_block(body) else {
                        return fail(number, "not an Ed25519 public key (SubjectPublicKeyInfo)");
                    };
                    let Some(key) = with_comment(key, comment.take()) else {
                        return fail(number, "the comment above this key does not describe it");
                    };
                    keys.push(key);
                    block = None;
                } else {
                    body.push_str(line);
                }
            } else if line == "-----BEGIN PUBLIC KEY-----" {
                block = Some(String::new());
            } else if let Some(rest) = line.strip_prefix(COMMENT) {
                comment = Some(rest);
            } else if line.starts_with("-----BEGIN") {
                return fail(number, "holds something other than a PUBLIC KEY block");
            } else if !line.is_empty() && !line.starts_with('#') {
                return fail(number, "text outside a PUBLIC KEY block");
            }
        }
        if block.is_some() {
            return Err(KeyFileError("the last PUBLIC KEY block does not end".into()));
        }
        if keys.is_empty() {
            return Err(KeyFileError("holds no PUBLIC KEY block".into()));
        }
        Ok(Self(keys))
    }
}

fn decode_block(body: &str) -> Option<PublicKey> {
    let der = STANDARD.decode(body).ok()?;
    let key: &[u8; 32] = der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?;
    PublicKey::new(key)
}

fn with_comment(mut key: PublicKey, comment: Option<&str>) -> Option<PublicKey> {
    let Some(comment) = comment else { return Some(key) };
    let bound = |value: &str| match value {
        "-" => Some(None),
        time if crate::ids::is_time(time) => Some(Some(time.to_owned())),
        _ => None,
    };
    for field in comment.split_ascii_whitespace() {
        let (name, value) = field.split_once('=')?;
        match name {
            "id" if value == key.id => {}
            "use" => key.key_use = Some(*KeyUse::ALL.iter().find(|u| u.as_str() == value)?),
            "from" => key.not_before = bound(value)?,
            "until" => key.not_after = bound(value)?,
            _ => return None,
        }
    }
    key.key_use.is_some().then_some(key)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PublicKey::new(&SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()).unwrap()
    }

    #[test]
    fn pem_round_trip_keeps_use_and_window() {
        let mut one = key(1);
        one.key_use = Some(KeyUse::Manifest);
        one.not_before = Some("2026-01-01T00:00:00.000Z".into());
        let mut two = key(2);
        two.key_use = Some(KeyUse::Checkpoint);
        two.not_after = Some("2027-01-01T00:00:00.000Z".into());
        let set = KeySet::new(vec![one, two, key(3)]);
        let again = KeySet::from_pem(&set.to_pem()).unwrap();
        assert_eq!(again.to_pem(), set.to_pem());
        assert!(again.keys()[0].is_for(KeyUse::Manifest) && !again.keys()[0].is_for(KeyUse::Receipt));
        assert!(!again.keys()[0].is_valid_at("2025-12-31T23:59:59.999Z"));
        assert!(!again.keys()[1].is_valid_at("2027-01-01T00:00:00.000Z"));
        assert!(again.keys()[2].is_for(KeyUse::Receipt));
    }

    #[test]
    fn a_comment_of_another_key_is_refused() {
        let mut one = key(1);
        one.key_use = Some(KeyUse::Manifest);
        let text = one.to_pem().replace(&one.id, &key(2).id);
        assert!(KeySet::from_pem(&text).is_err());
        assert!(KeySet::from_pem("").is_err());
        assert!(KeySet::from_pem("-----BEGIN PRIVATE KEY-----\n").is_err());
    }

    #[test]
    fn small_order_points_are_no_keys() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(PublicKey::new(&identity).is_none());
    }
}
