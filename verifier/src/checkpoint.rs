//! Checkpoints: C2SP tlog-checkpoint in a C2SP signed note. The key's name is the log's origin.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::{
    dsse::decode_strict,
    keys::{KeySet, KeyUse, PublicKey},
    merkle::Hash,
};

/// Largest note a reader accepts.
pub const MAX_BYTES: usize = 4_096;

/// A log's size and root, as once signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// `<deployment>/log/<orgId>/<epoch>`
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
}

/// Which rule a note breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointError(pub &'static str);

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CheckpointError {}

/// C2SP signed-note key id for Ed25519: the first four bytes of
/// `SHA-256(name || 0x0A || 0x01 || public key)`.
pub fn note_key_id(name: &str, key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new().chain_update(name).chain_update(b"\n\x01").chain_update(key).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

impl Checkpoint {
    /// The signed text: origin, size, root, each on its line.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The whole note, given the signature over [`Self::body`].
    pub fn note(&self, key: &[u8; 32], signature: &[u8; 64]) -> String {
        let mut raw = note_key_id(&self.origin, key).to_vec();
        raw.extend_from_slice(signature);
        format!("{}\n\u{2014} {} {}\n", self.body(), self.origin, STANDARD.encode(raw))
    }

    /// Reads and verifies a note under the trusted keys; gives the key that signed.
    pub fn verify<'k>(note: &[u8], keys: &'k KeySet) -> Result<(Self, &'k PublicKey), CheckpointError> {
        if note.len() > MAX_BYTES {
            return Err(CheckpointError("note is larger than 4,096 bytes"));
        }
        let text = std::str::from_utf8(note).map_err(|_| CheckpointError("note is not UTF-8"))?;
        let split = text.rfind("\n\n").ok_or(CheckpointError("note has no signature block"))?;
        let (body, signatures) = (&text[..=split], &text[split + 2..]);
        let checkpoint = Self::parse_body(body)?;
        let Some(signatures) = signatures.strip_suffix('\n') else {
            return Err(CheckpointError("signature block does not end with a newline"));
        };
        let mut signer = None;
        // Not `lines()`, which would let a carriage return pass.
        for line in signatures.split('\n') {
            let rest = line.strip_prefix("\u{2014} ").ok_or(CheckpointError("malformed signature line"))?;
            let (name, encoded) = rest.split_once(' ').ok_or(CheckpointError("malformed signature line"))?;
            let raw = decode_strict(encoded).ok_or(CheckpointError("malformed signature line"))?;
            let (Some(hash), Some(signature)) = (raw.get(..4), raw.get(4..).filter(|s| !s.is_empty())) else {
                return Err(CheckpointError("malformed signature line"));
            };
            if name != checkpoint.origin {
                continue;
            }
            let key =
                keys.keys().iter().find(|k| k.is_for(KeyUse::Checkpoint) && hash == note_key_id(name, &k.to_bytes()));
            if let Some(key) = key {
                if !key.verify(body.as_bytes(), signature) {
                    return Err(CheckpointError("signature does not match the note"));
                }
                signer.get_or_insert(key);
            }
        }
        let signer = signer.ok_or(CheckpointError("not signed by a trusted checkpoint key of that origin"))?;
        Ok((checkpoint, signer))
    }

    fn parse_body(body: &str) -> Result<Self, CheckpointError> {
        let lines: Vec<&str> = body.split_terminator('\n').collect();
        let [origin, size, root] = lines.as_slice() else {
            return Err(CheckpointError("note does not consist of origin, size and root"));
        };
        let number: u64 = size.parse().map_err(|_| CheckpointError("size is not a number"))?;
        if number.to_string() != *size {
            return Err(CheckpointError("size is not in canonical decimal"));
        }
        let root = decode_strict(root)
            .and_then(|r| Hash::try_from(r).ok())
            .ok_or(CheckpointError("root is not 32 bytes of base64"))?;
        if origin.is_empty() {
            return Err(CheckpointError("origin is empty"));
        }
        Ok(Self { origin: (*origin).into(), size: number, root })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn note_round_trip_and_tampering() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = signing.verifying_key().to_bytes();
        let keys = KeySet::new(vec![PublicKey::new(&key).unwrap()]);
        let checkpoint = Checkpoint { origin: "local/log/org_x/0".into(), size: 12, root: [9; 32] };
        let note = checkpoint.note(&key, &signing.sign(checkpoint.body().as_bytes()).to_bytes());
        assert_eq!(Checkpoint::verify(note.as_bytes(), &keys).unwrap().0, checkpoint);
        for bad in [
            note.replacen("\n12\n", "\n13\n", 1),
            note.replacen("\n12\n", "\n012\n", 1),
            note.replace("local/log/org_x/0", "local/log/org_y/0"),
            note.trim_end().into(),
            format!("{}\r\n", note.trim_end()),
            format!("{note}\n"),
            format!("{note}\u{2014} witness.example AAAA\n"),
            format!("{note}no signature\n"),
            note.replacen('\n', "\n\n", 1),
            String::new(),
        ] {
            assert!(Checkpoint::verify(bad.as_bytes(), &keys).is_err(), "{bad}");
        }
        let other =
            KeySet::new(vec![PublicKey::new(&SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes()).unwrap()]);
        assert!(Checkpoint::verify(note.as_bytes(), &other).is_err());
    }
}
