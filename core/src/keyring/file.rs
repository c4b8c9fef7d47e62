//! The local key file: JSON, one list for each kind of key, oldest first. The last key that is not retired
//! is the one in use; retired ones stay, for what they signed and sealed stays.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use walwarden_verifier::{ids::is_time, keys::KeyUse};
use zeroize::Zeroizing;

use super::{
    KeyringError,
    envelope::{Key, random_key},
};

const VERSION: &str = "walwarden.keys.v1";
const MAX_BYTES: u64 = 1024 * 1024;

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyFile {
    v: String,
    /// Ed25519.
    pub(super) signing: Vec<SigningEntry>,
    /// HMAC-SHA-256.
    pub(super) mac: Vec<SymmetricEntry>,
    /// Wraps data keys.
    pub(super) encryption: Vec<SymmetricEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SigningEntry {
    #[serde(rename = "use", serialize_with = "write_use", deserialize_with = "read_use")]
    pub(super) key_use: KeyUse,
    pub(super) seed: Bytes32,
    /// RFC 3339, milliseconds.
    pub(super) not_before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SymmetricEntry {
    pub(super) key: Bytes32,
    pub(super) not_before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<String>,
}

/// Key material, base64 in the file, wiped when dropped.
pub(super) struct Bytes32(pub(super) Key);

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.0.as_slice())))
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Borrowed from the buffer that is wiped: no copy stays behind.
        let text = <&str>::deserialize(deserializer)?;
        let mut key = Zeroizing::new([0; 32]);
        match STANDARD.decode_slice(text, key.as_mut_slice()) {
            Ok(32) => Ok(Self(key)),
            _ => Err(D::Error::custom("not 32 bytes of base64")),
        }
    }
}

fn write_use<S: Serializer>(key_use: &KeyUse, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key_use.as_str())
}

fn read_use<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyUse, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    KeyUse::ALL.into_iter().find(|key_use| key_use.as_str() == text).ok_or_else(|| D::Error::custom("unknown use"))
}

impl KeyFile {
    /// New keys, valid from `at`.
    pub(super) fn generate(at: &str) -> Result<Self, KeyringError> {
        let signing = KeyUse::ALL
            .into_iter()
            .map(|key_use| {
                Ok(SigningEntry { key_use, seed: Bytes32(random_key()?), not_before: at.into(), not_after: None })
            })
            .collect::<Result<_, KeyringError>>()?;
        let symmetric =
            || Ok(vec![SymmetricEntry { key: Bytes32(random_key()?), not_before: at.into(), not_after: None }]);
        Ok(Self { v: VERSION.into(), signing, mac: symmetric()?, encryption: symmetric()? })
    }

    /// Writes a file that must not exist: complete or not at all, and never readable by others.
    pub(super) fn create(&self, path: &Path) -> Result<(), KeyringError> {
        let fail = |source| KeyringError::File { operation: "create", path: path.into(), source };
        let text = Zeroizing::new(serde_json::to_vec_pretty(self).map_err(|e| fail(e.into()))?);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| KeyringError::Randomness)?;
        let name =
            path.file_name().ok_or_else(|| fail(io::Error::other("it names no file")))?.to_string_lossy().into_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = directory.join(format!(".{name}.{}", hex::encode(random)));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            // Unlike a rename, a link does not replace a file that came to be meanwhile.
            fs::hard_link(&draft, path)?;
            File::open(directory)?.sync_all()
        })();
        let _ = fs::remove_file(&draft);
        written.map_err(fail)
    }

    /// Reads a file that only its owner may read.
    pub(super) fn open(path: &Path) -> Result<Self, KeyringError> {
        let fail = |source| KeyringError::File { operation: "read", path: path.into(), source };
        let content = |rule| KeyringError::FileContent { path: path.into(), rule };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(content("it is not a regular file"));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::FileMode { path: path.into(), mode });
        }
        if metadata.len() > MAX_BYTES {
            return Err(content("it is larger than 1 MiB"));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(fail)?;
        // serde's message may quote what it read.
        let keys: Self = serde_json::from_slice(&text).map_err(|_| content("it is not JSON of the expected form"))?;
        keys.check().map_err(content)?;
        Ok(keys)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.v != VERSION {
            return Err("it is of another version");
        }
        let windows = self.signing.iter().map(|e| (&e.not_before, &e.not_after));
        let windows = windows.chain(self.mac.iter().chain(&self.encryption).map(|e| (&e.not_before, &e.not_after)));
        for (from, until) in windows {
            if !is_time(from) || until.as_ref().is_some_and(|until| !is_time(until) || until < from) {
                return Err("the window of a key is not made of RFC 3339 times with milliseconds");
            }
        }
        let signs = |key_use| self.signing.iter().any(|e| e.key_use == key_use && e.not_after.is_none());
        let symmetric = |list: &[SymmetricEntry]| list.iter().any(|e| e.not_after.is_none());
        if !KeyUse::ALL.into_iter().all(signs) || !symmetric(&self.mac) || !symmetric(&self.encryption) {
            return Err("it lacks a current key for some use");
        }
        let mut public: Vec<_> =
            self.signing.iter().map(|e| SigningKey::from_bytes(&e.seed.0).verifying_key().to_bytes()).collect();
        public.sort_unstable();
        public.dedup();
        if public.len() != self.signing.len() {
            return Err("a signing key appears twice; a key has one use");
        }
        Ok(())
    }
}
