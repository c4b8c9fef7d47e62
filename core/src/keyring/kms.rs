//! Keys in AWS KMS: private keys never leave it.
//!
//! | key | spec, usage | calls |
//! |---|---|---|
//! | manifest, checkpoint, receipt | `ECC_NIST_EDWARDS25519`, SIGN_VERIFY | `GetPublicKey` once, `Sign` (RAW) |
//! | MAC | `HMAC_256`, GENERATE_VERIFY_MAC | `GenerateMac`, `VerifyMac` |
//! | encryption | `SYMMETRIC_DEFAULT`, ENCRYPT_DECRYPT | `GenerateDataKey`, `Decrypt`, with the context |

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_kms::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{DataKeySpec, KeyUsageType, MacAlgorithmSpec, MessageType, SigningAlgorithmSpec},
};
use walwarden_verifier::keys::{KeySet, KeyUse, PublicKey, spki};
use zeroize::Zeroizing;

use super::{
    Context, KeyId, KeyringError, Sealed,
    envelope::{self, KEY_BYTES},
    local::short_id,
};

const TAG: &str = "kms";

/// A signing key in KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsKey {
    /// Key id or ARN; no alias, for an alias can come to mean another key.
    pub key_id: String,
    /// First moment it signs (RFC 3339, milliseconds), if published.
    pub not_before: Option<String>,
}

/// Which KMS keys to use.
#[derive(Debug, Clone)]
pub struct KmsConfig {
    /// Signs manifests.
    pub manifest: KmsKey,
    /// Signs checkpoints.
    pub checkpoint: KmsKey,
    /// Signs receipts.
    pub receipt: KmsKey,
    /// MACs restore tokens: key id or ARN.
    pub mac_key_id: String,
    /// Wraps data keys: key id or ARN.
    pub encryption_key_id: String,
    /// Public keys of former signing keys, with their windows.
    pub retired: KeySet,
}

/// Keys in KMS, their public halves fetched.
#[derive(Clone)]
pub struct KmsKeyring(Arc<Inner>);

struct Inner {
    client: Client,
    /// KMS key id and public key, in the order of [`KeyUse::ALL`].
    signing: Vec<(String, PublicKey)>,
    public: KeySet,
    kms_mac_id: String,
    mac_key_id: KeyId,
    encryption_key_id: String,
}

impl KmsKeyring {
    /// Fetches the public keys and checks that each key is what it is configured for. `aws` brings region,
    /// credentials and an HTTP client ([`crate::destinations::http_client`]).
    ///
    /// # Errors
    /// KMS's refusal; keys of another kind.
    pub async fn connect(aws: &SdkConfig, config: KmsConfig) -> Result<Self, KeyringError> {
        let settings = aws_sdk_kms::config::Builder::from(aws)
            .retry_config(RetryConfig::standard().with_max_attempts(4))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(5))
                    .operation_attempt_timeout(Duration::from_secs(10))
                    .operation_timeout(Duration::from_secs(30))
                    .build(),
            )
            .build();
        let client = Client::from_conf(settings);
        let mut signing = Vec::new();
        let mut public = config.retired.keys().to_vec();
        for key_use in KeyUse::ALL {
            let key = match key_use {
                KeyUse::Manifest => &config.manifest,
                KeyUse::Checkpoint => &config.checkpoint,
                KeyUse::Receipt => &config.receipt,
            };
            let mut known = fetch(&client, key_use, &key.key_id).await?;
            known.key_use = Some(key_use);
            known.not_before.clone_from(&key.not_before);
            if public.iter().any(|other| other.id == known.id) {
                return Err(KeyringError::KmsKey {
                    purpose: key_use.as_str(),
                    rule: "another use has the same key, or it is retired",
                });
            }
            public.push(known.clone());
            signing.push((key.key_id.clone(), known));
        }
        Ok(Self(Arc::new(Inner {
            client,
            signing,
            public: KeySet::new(public),
            mac_key_id: short_id(b"walwarden.kms-mac-key.v1\n", config.mac_key_id.as_bytes()),
            kms_mac_id: config.mac_key_id,
            encryption_key_id: config.encryption_key_id,
        })))
    }

    fn signing(&self, key_use: KeyUse) -> &(String, PublicKey) {
        let place = KeyUse::ALL.iter().position(|of| *of == key_use).unwrap_or_default();
        &self.0.signing[place]
    }

    pub(super) async fn sign(&self, key_use: KeyUse, message: &[u8]) -> Result<(KeyId, [u8; 64]), KeyringError> {
        let (kms_id, public) = self.signing(key_use);
        let answer = self
            .0
            .client
            .sign()
            .key_id(kms_id)
            .signing_algorithm(SigningAlgorithmSpec::Ed25519Sha512)
            .message_type(MessageType::Raw)
            .message(Blob::new(message))
            .send()
            .await
            .map_err(|error| failed("Sign", &error))?;
        let raw = answer.signature.map(Blob::into_inner).unwrap_or_default();
        let wrong = KeyringError::KmsKey {
            purpose: key_use.as_str(),
            rule: "its signature does not verify under its public key",
        };
        let Ok(signature) = <[u8; 64]>::try_from(raw) else { return Err(wrong) };
        // A signature nobody can verify must not reach a bucket that keeps it for years.
        if !public.verify(message, &signature) {
            return Err(wrong);
        }
        Ok((public.id.clone(), signature))
    }

    pub(super) fn current_key(&self, key_use: KeyUse) -> &str {
        &self.signing(key_use).1.id
    }

    pub(super) fn public_keys(&self) -> &KeySet {
        &self.0.public
    }

    pub(super) fn mac_key_id(&self) -> &str {
        &self.0.mac_key_id
    }

    pub(super) async fn mac(&self, message: &[u8]) -> Result<(KeyId, Vec<u8>), KeyringError> {
        let answer = self
            .0
            .client
            .generate_mac()
            .key_id(&self.0.kms_mac_id)
            .mac_algorithm(MacAlgorithmSpec::HmacSha256)
            .message(Blob::new(message))
            .send()
            .await
            .map_err(|error| failed("GenerateMac", &error))?;
        let mac = answer.mac.map(Blob::into_inner).unwrap_or_default();
        if mac.len() != 32 {
            return Err(KeyringError::KmsKey { purpose: "mac", rule: "its MAC is not 32 bytes" });
        }
        Ok((self.0.mac_key_id.clone(), mac))
    }

    pub(super) async fn verify_mac(&self, key_id: &str, message: &[u8], mac: &[u8]) -> Result<bool, KeyringError> {
        // KMS refuses these as requests, not as wrong MACs.
        if key_id != self.0.mac_key_id || mac.len() != 32 || message.is_empty() {
            return Ok(false);
        }
        let answer = self
            .0
            .client
            .verify_mac()
            .key_id(&self.0.kms_mac_id)
            .mac_algorithm(MacAlgorithmSpec::HmacSha256)
            .message(Blob::new(message))
            .mac(Blob::new(mac))
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer.mac_valid),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_kms_invalid_mac_exception()) => Ok(false),
            Err(error) => Err(failed("VerifyMac", &error)),
        }
    }

    pub(super) async fn encrypt(&self, context: &Context<'_>, plaintext: &[u8]) -> Result<Sealed, KeyringError> {
        let answer = self
            .0
            .client
            .generate_data_key()
            .key_id(&self.0.encryption_key_id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(encryption_context(context)))
            .send()
            .await
            .map_err(|error| failed("GenerateDataKey", &error))?;
        let key = data_key(answer.plaintext)?;
        let wrapped = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        Ok(Sealed::join(TAG, &wrapped, &envelope::seal(&key, &context.associated_data(), plaintext)?))
    }

    pub(super) async fn decrypt(
        &self,
        context: &Context<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let (tag, wrapped, ciphertext) = sealed.split()?;
        if tag != TAG {
            return Err(KeyringError::Sealed("it was sealed by another keyring"));
        }
        let answer = self
            .0
            .client
            .decrypt()
            .key_id(&self.0.encryption_key_id)
            .ciphertext_blob(Blob::new(wrapped))
            .set_encryption_context(Some(encryption_context(context)))
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_invalid_ciphertext_exception() || e.is_incorrect_key_exception()) =>
            {
                return Err(KeyringError::Sealed("another key, another place, or changed bytes"));
            }
            Err(error) => return Err(failed("Decrypt", &error)),
        };
        envelope::open(&data_key(answer.plaintext)?, &context.associated_data(), &ciphertext)
    }
}

impl fmt::Debug for KmsKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsKeyring").field("manifest", &self.current_key(KeyUse::Manifest)).finish_non_exhaustive()
    }
}

async fn fetch(client: &Client, key_use: KeyUse, kms_id: &str) -> Result<PublicKey, KeyringError> {
    let unfit = |rule| KeyringError::KmsKey { purpose: key_use.as_str(), rule };
    let answer = client.get_public_key().key_id(kms_id).send().await.map_err(|error| failed("GetPublicKey", &error))?;
    if answer.key_usage != Some(KeyUsageType::SignVerify)
        || !answer.signing_algorithms().contains(&SigningAlgorithmSpec::Ed25519Sha512)
    {
        return Err(unfit("it does not sign with ED25519_SHA_512"));
    }
    let der = answer.public_key.map(Blob::into_inner).unwrap_or_default();
    let raw: [u8; 32] = der.last_chunk().copied().ok_or_else(|| unfit("its public key is not Ed25519"))?;
    if der != spki(&raw) {
        return Err(unfit("its public key is not Ed25519"));
    }
    PublicKey::new(&raw).ok_or_else(|| unfit("its public key is weak"))
}

fn encryption_context(context: &Context<'_>) -> HashMap<String, String> {
    context.pairs().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn data_key(plaintext: Option<Blob>) -> Result<envelope::Key, KeyringError> {
    let raw = Zeroizing::new(plaintext.map(Blob::into_inner).unwrap_or_default());
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if raw.len() != KEY_BYTES {
        return Err(KeyringError::KmsKey { purpose: "encryption", rule: "its data key is not 32 bytes" });
    }
    key.copy_from_slice(&raw);
    Ok(key)
}

// KMS's messages name keys and principals; the code says what went wrong.
fn failed<E: ProvideErrorMetadata, R>(operation: &'static str, error: &SdkError<E, R>) -> KeyringError {
    let (code, passing) = match error {
        SdkError::ServiceError(inner) => {
            let code = inner.err().code().unwrap_or("no code").to_owned();
            let passing = matches!(
                code.as_str(),
                "DependencyTimeoutException"
                    | "KMSInternalException"
                    | "ThrottlingException"
                    | "KeyUnavailableException"
                    | "LimitExceededException"
            );
            (code, passing)
        }
        SdkError::TimeoutError(_) => ("timed out".into(), true),
        SdkError::DispatchFailure(_) => ("did not answer".into(), true),
        SdkError::ResponseError(_) => ("answered something else".into(), true),
        _ => ("the request could not be built".into(), false),
    };
    KeyringError::Kms { operation, code, passing }
}
