//! Keys in a file of mode 0600, for self-hosted installs, the demo and tests.

use std::{fmt, io, path::Path, sync::Arc};

use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use walwarden_verifier::keys::{KeySet, KeyUse, PublicKey};
use zeroize::Zeroizing;

use super::{
    Context, KeyId, KeyringError, Sealed,
    envelope::{self, Key},
    file::{KeyFile, SymmetricEntry},
};

const TAG: &str = "local";

/// Keys read from a local file.
#[derive(Clone)]
pub struct LocalKeyring(Arc<Keys>);

struct Keys {
    /// In the order of [`KeyUse::ALL`].
    signing: Vec<(KeyId, SigningKey)>,
    public: KeySet,
    /// The last is the current one.
    mac: Vec<(KeyId, Key)>,
    encryption: Vec<(KeyId, Key)>,
}

impl LocalKeyring {
    /// Creates the file with new keys, valid from `at` (RFC 3339, milliseconds), and opens it.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(path: &Path, at: &str) -> Result<Self, KeyringError> {
        KeyFile::generate(at)?.create(path)?;
        Self::open(path)
    }

    /// Opens the file.
    ///
    /// # Errors
    /// When it is missing, readable by others, or not a key file.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        Self::from_file(KeyFile::open(path)?).map_err(|rule| KeyringError::FileContent { path: path.into(), rule })
    }

    /// Opens the file, or creates it where there is none. Two processes that start together end up with one file.
    ///
    /// # Errors
    /// As [`LocalKeyring::open`] and [`LocalKeyring::create`].
    pub fn open_or_create(path: &Path, at: &str) -> Result<Self, KeyringError> {
        match Self::open(path) {
            Err(KeyringError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match Self::create(path, at) {
            Err(KeyringError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Self::open(path),
            other => other,
        }
    }

    fn from_file(file: KeyFile) -> Result<Self, &'static str> {
        let mut public = Vec::new();
        let mut signing = Vec::new();
        for entry in &file.signing {
            let key = SigningKey::from_bytes(&entry.seed.0);
            let mut known = PublicKey::new(&key.verifying_key().to_bytes()).ok_or("a signing key is weak")?;
            known.key_use = Some(entry.key_use);
            known.not_before = Some(entry.not_before.clone());
            known.not_after.clone_from(&entry.not_after);
            if entry.not_after.is_none() {
                signing.push((entry.key_use, known.id.clone(), key));
            }
            public.push(known);
        }
        let current = |key_use| {
            let newest = signing.iter().rev().find(|(of, ..)| *of == key_use);
            newest.map(|(_, id, key)| (id.clone(), key.clone())).ok_or("a signing key is missing")
        };
        Ok(Self(Arc::new(Keys {
            signing: KeyUse::ALL.into_iter().map(current).collect::<Result<_, _>>()?,
            public: KeySet::new(public),
            mac: in_order(&file.mac, b"walwarden.mac-key.v1\n"),
            encryption: in_order(&file.encryption, b"walwarden.encryption-key.v1\n"),
        })))
    }

    fn signing(&self, key_use: KeyUse) -> &(KeyId, SigningKey) {
        let place = KeyUse::ALL.iter().position(|of| *of == key_use).unwrap_or_default();
        &self.0.signing[place]
    }

    pub(super) fn sign(&self, key_use: KeyUse, message: &[u8]) -> (KeyId, [u8; 64]) {
        let (id, key) = self.signing(key_use);
        (id.clone(), key.sign(message).to_bytes())
    }

    pub(super) fn current_key(&self, key_use: KeyUse) -> &str {
        &self.signing(key_use).0
    }

    pub(super) fn public_keys(&self) -> &KeySet {
        &self.0.public
    }

    pub(super) fn mac_key_id(&self) -> &str {
        &self.0.mac[self.0.mac.len() - 1].0
    }

    pub(super) fn mac(&self, message: &[u8]) -> (KeyId, Vec<u8>) {
        let (id, key) = &self.0.mac[self.0.mac.len() - 1];
        (id.clone(), mac_of(key, message))
    }

    pub(super) fn verify_mac(&self, key_id: &str, message: &[u8], mac: &[u8]) -> bool {
        let key = self.0.mac.iter().find(|(id, _)| id == key_id);
        key.is_some_and(|(_, key)| mac_of(key, message).ct_eq(mac).into())
    }

    pub(super) fn encrypt(&self, context: &Context<'_>, plaintext: &[u8]) -> Result<Sealed, KeyringError> {
        let (id, master) = &self.0.encryption[self.0.encryption.len() - 1];
        let bound = context.associated_data();
        let key = envelope::random_key()?;
        let wrapped = envelope::seal(master, &bound, key.as_slice())?;
        Ok(Sealed::join(&format!("{TAG}-{id}"), &wrapped, &envelope::seal(&key, &bound, plaintext)?))
    }

    pub(super) fn decrypt(&self, context: &Context<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let (tag, wrapped, ciphertext) = sealed.split()?;
        let id = tag.strip_prefix(TAG).and_then(|rest| rest.strip_prefix('-'));
        let master = id.and_then(|id| self.0.encryption.iter().find(|(of, _)| of == id));
        let (_, master) = master.ok_or(KeyringError::Sealed("it was sealed by another keyring"))?;
        let bound = context.associated_data();
        let raw = envelope::open(master, &bound, &wrapped)?;
        let mut key = Zeroizing::new([0; envelope::KEY_BYTES]);
        if raw.len() != key.len() {
            return Err(KeyringError::Sealed("its data key has another length"));
        }
        key.copy_from_slice(&raw);
        envelope::open(&key, &bound, &ciphertext)
    }
}

impl fmt::Debug for LocalKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeyring").field("manifest", &self.current_key(KeyUse::Manifest)).finish_non_exhaustive()
    }
}

// Retired ones first, then the current ones, newest last.
fn in_order(entries: &[SymmetricEntry], domain: &[u8]) -> Vec<(KeyId, Key)> {
    let mut entries: Vec<&SymmetricEntry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.not_after.is_none());
    entries.iter().map(|entry| (short_id(domain, entry.key.0.as_slice()), entry.key.0.clone())).collect()
}

/// A name for a secret key that gives nothing of it away.
pub(super) fn short_id(domain: &[u8], of: &[u8]) -> KeyId {
    hex::encode(&Sha256::new().chain_update(domain).chain_update(of).finalize()[..8])
}

fn mac_of(key: &Key, message: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_slice()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use walwarden_contract::ids::OrgId;

    use super::*;
    use crate::keyring::Keyring;

    const AT: &str = "2026-11-24T08:00:00.000Z";

    fn fresh() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        (directory, path)
    }

    #[tokio::test]
    async fn signs_with_three_keys_that_readers_know() {
        let (_directory, path) = fresh();
        let keyring = Keyring::Local(LocalKeyring::create(&path, AT).unwrap());
        let known = KeySet::from_pem(&keyring.public_keys().to_pem()).unwrap();
        for key_use in KeyUse::ALL {
            let (id, signature) = keyring.sign(key_use, b"message").await.unwrap();
            let key = known.by_id(&id).unwrap();
            assert!(key.verify(b"message", &signature));
            assert!(KeyUse::ALL.into_iter().all(|other| key.is_for(other) == (other == key_use)));
            assert_eq!(key.not_before.as_deref(), Some(AT));
        }
        assert!(keyring.sign(KeyUse::Manifest, &[0; 4_097]).await.is_err());
        let again = LocalKeyring::open(&path).unwrap();
        assert_eq!(again.public_keys().to_pem(), keyring.public_keys().to_pem());
    }

    #[tokio::test]
    async fn macs() {
        let (_directory, path) = fresh();
        let keyring = Keyring::Local(LocalKeyring::create(&path, AT).unwrap());
        let (id, mac) = keyring.mac(b"message").await.unwrap();
        assert_eq!(keyring.mac_key_id(), id);
        assert_eq!(mac.len(), 32);
        for (id, message, mac, good) in [
            (id.as_str(), b"message".as_slice(), mac.as_slice(), true),
            (&id, b"massage", &mac, false),
            (&id, b"message", &mac[..31], false),
            (&id, b"message", b"", false),
            ("other", b"message", &mac, false),
        ] {
            assert_eq!(keyring.verify_mac(id, message, mac).await.unwrap(), good);
        }
    }

    #[test]
    fn what_is_sealed_opens_only_in_its_place() {
        let (_directory, path) = fresh();
        let keys = LocalKeyring::create(&path, AT).unwrap();
        let (org, other_org) = (OrgId::new(1, [1; 10]), OrgId::new(1, [2; 10]));
        let context = Context { org: &org, kind: "database", id: "db_1", field: "dsn" };
        for secret in [b"".as_slice(), b"postgres://u:p@h/db", &[7; 100_000]] {
            let sealed = keys.encrypt(&context, secret).unwrap();
            assert_eq!(keys.decrypt(&context, &sealed).unwrap().as_slice(), secret);
            assert_ne!(keys.encrypt(&context, secret).unwrap(), sealed);
            for elsewhere in [
                Context { org: &other_org, ..context },
                Context { kind: "databas", id: "edb_1", ..context },
                Context { id: "db_2", ..context },
                Context { field: "password", ..context },
            ] {
                assert!(keys.decrypt(&elsewhere, &sealed).is_err(), "{elsewhere:?}");
            }
            let stored: Sealed = serde_json::from_str(&serde_json::to_string(&sealed).unwrap()).unwrap();
            assert_eq!(keys.decrypt(&context, &stored).unwrap().as_slice(), secret);
        }
        let sealed = keys.encrypt(&context, b"secret").unwrap();
        for place in 0..sealed.as_str().len() {
            let mut text = sealed.as_str().as_bytes().to_vec();
            text[place] = if text[place] == b'B' { b'C' } else { b'B' };
            // The last character of base64 may carry bits that mean nothing; strict decoding refuses those.
            let changed = Sealed::from_stored(String::from_utf8(text).unwrap());
            assert!(keys.decrypt(&context, &changed).is_err(), "{place}");
        }
        let (_directory, path) = fresh();
        let stranger = LocalKeyring::create(&path, AT).unwrap();
        assert!(stranger.decrypt(&context, &sealed).is_err());
        assert!(!format!("{stranger:?}").contains("seed"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_directory, path) = fresh();
        LocalKeyring::create(&path, AT).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(LocalKeyring::open(&path), Err(KeyringError::FileMode { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        LocalKeyring::open(&path).unwrap();
    }

    #[test]
    fn a_file_is_created_once_and_whole() {
        let (directory, path) = fresh();
        let made: Vec<String> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| LocalKeyring::open_or_create(&path, AT).unwrap().public_keys().to_pem()))
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(matches!(LocalKeyring::create(&path, AT), Err(KeyringError::File { operation: "create", .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn retired_keys_stay_known_and_do_not_sign() {
        let (_directory, path) = fresh();
        let old = LocalKeyring::create(&path, AT).unwrap();
        let (mac_id, mac) = old.mac(b"m");
        let org = OrgId::new(1, [1; 10]);
        let context = Context { org: &org, kind: "database", id: "db_1", field: "dsn" };
        let sealed = old.encrypt(&context, b"secret").unwrap();

        let read = |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let mut file = read(&path);
        let (_other, other) = fresh();
        LocalKeyring::create(&other, AT).unwrap();
        for list in ["signing", "mac", "encryption"] {
            let newer = read(&other)[list].clone();
            let entries = file[list].as_array_mut().unwrap();
            for entry in entries.iter_mut() {
                entry["notAfter"] = "2026-12-01T00:00:00.000Z".into();
            }
            // Order in the file does not matter: what is not retired signs.
            entries.splice(0..0, newer.as_array().unwrap().clone());
        }
        fs::write(&path, file.to_string()).unwrap();
        let new = LocalKeyring::open(&path).unwrap();
        assert_eq!(new.public_keys().keys().len(), 6);
        for key_use in KeyUse::ALL {
            assert_ne!(new.current_key(key_use), old.current_key(key_use));
            let retired = new.public_keys().by_id(old.current_key(key_use)).unwrap();
            assert_eq!(retired.not_after.as_deref(), Some("2026-12-01T00:00:00.000Z"));
        }
        assert!(new.verify_mac(&mac_id, b"m", &mac));
        assert_ne!(new.mac(b"m").0, mac_id);
        assert_eq!(new.decrypt(&context, &sealed).unwrap().as_slice(), b"secret");
        assert!(old.decrypt(&context, &new.encrypt(&context, b"secret").unwrap()).is_err());
    }

    #[test]
    fn what_is_no_key_file_is_refused_without_quoting_it() {
        let (_directory, path) = fresh();
        LocalKeyring::create(&path, AT).unwrap();
        let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut file = good.clone();
            change(&mut file);
            fs::write(&path, file.to_string()).unwrap();
            let error = LocalKeyring::open(&path).unwrap_err();
            assert!(matches!(error, KeyringError::FileContent { .. }));
            let seed = good["signing"][0]["seed"].as_str().unwrap();
            assert!(!format!("{error:?} {error}").contains(seed));
        };
        refused(&|file| file["v"] = "walwarden.keys.v2".into());
        refused(&|file| file["extra"] = 1.into());
        refused(&|file| file["signing"][0]["use"] = "everything".into());
        refused(&|file| file["signing"][0]["seed"] = "c2hvcnQ=".into());
        refused(&|file| file["signing"][0]["notBefore"] = "yesterday".into());
        refused(&|file| file["signing"][1]["seed"] = file["signing"][0]["seed"].clone());
        refused(&|file| file["signing"][2]["notAfter"] = "2026-12-01T00:00:00.000Z".into());
        refused(&|file| file["mac"] = serde_json::json!([]));
        fs::write(&path, "not json").unwrap();
        assert!(LocalKeyring::open(&path).is_err());
    }
}
