//! DSSE envelopes (secure-systems-lab/dsse, v1.0.2) around in-toto Statements v1, as manifests and
//! receipts carry them. The order of reading is fixed: signature over the bytes, then parse, then
//! demand that the bytes are canonical.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    jcs::{self, JcsError},
    keys::{KeySet, KeyUse, PublicKey},
};

/// The DSSE payload type of every statement here.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// `_type` of an in-toto Statement v1.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// A statement may not be larger: KMS signs at most 4,096 raw bytes, PAE adds 44.
pub const MAX_STATEMENT_BYTES: usize = 4_000;

/// A signed statement, as stored in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    /// The statement's bytes, standard base64 with padding.
    pub payload: String,
    /// Always [`PAYLOAD_TYPE`].
    pub payload_type: String,
    /// Exactly one signature.
    pub signatures: Vec<Signature>,
}

/// One DSSE signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Key id: SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
    pub keyid: String,
    /// Ed25519 signature over [`pae`], standard base64.
    pub sig: String,
}

/// An in-toto Statement v1 with one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement<P> {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub type_: String,
    /// The one thing spoken of.
    pub subject: Vec<Subject>,
    /// Which predicate follows.
    pub predicate_type: String,
    /// What is stated.
    pub predicate: P,
}

/// Name and digest of what a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Object key in the customer's bucket.
    pub name: String,
    /// Its digest.
    pub digest: SubjectDigest,
}

/// A subject's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

impl<P> Statement<P> {
    /// A statement about the object `name`.
    pub fn new(name: String, sha256: String, predicate_type: &str, predicate: P) -> Self {
        Self {
            type_: STATEMENT_TYPE.into(),
            subject: vec![Subject { name, digest: SubjectDigest { sha256 } }],
            predicate_type: predicate_type.into(),
            predicate,
        }
    }
}

/// Why an envelope is not good.
#[derive(Debug)]
pub enum EnvelopeError {
    /// Not an envelope of the expected form.
    Form(JcsError),
    /// The rule of the envelope that does not hold.
    Rule(&'static str),
    /// None of the trusted keys made the signature.
    UnknownKey(String),
    /// The key is trusted, but not for this use or not at that time.
    KeyNotValid(&'static str),
    /// The signature does not match the bytes.
    Signature,
    /// Signed, but the statement breaks the format.
    Statement(JcsError),
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(error) => write!(f, "envelope {error}"),
            Self::Rule(rule) => f.write_str(rule),
            Self::UnknownKey(id) => write!(f, "signed by key {id}, which is not among the trusted keys"),
            Self::KeyNotValid(why) => f.write_str(why),
            Self::Signature => f.write_str("signature does not match the signed bytes"),
            Self::Statement(error) => write!(f, "signed statement {error}"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

/// DSSE's pre-authentication encoding: what is signed.
pub fn pae(payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {} {} ", PAYLOAD_TYPE.len(), PAYLOAD_TYPE, payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// An envelope around `payload` and its signature over [`pae`].
    pub fn new(payload: &[u8], key_id: &str, signature: &[u8; 64]) -> Self {
        Self {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![Signature { keyid: key_id.into(), sig: STANDARD.encode(signature) }],
        }
    }

    /// The envelope's own canonical bytes, as written to the bucket.
    pub fn to_bytes(&self) -> Result<Vec<u8>, JcsError> {
        jcs::to_vec(self)
    }

    /// Reads an envelope, which must be canonical JSON.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        jcs::from_slice(bytes).map_err(EnvelopeError::Form)
    }

    /// Checks the signature under the trusted keys and gives the statement's bytes and the key.
    /// Says nothing yet about what the bytes mean.
    pub fn open<'k>(&self, keys: &'k KeySet, key_use: KeyUse) -> Result<(Vec<u8>, &'k PublicKey), EnvelopeError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::Rule("payload type is not application/vnd.in-toto+json"));
        }
        let [signature] = self.signatures.as_slice() else {
            return Err(EnvelopeError::Rule("envelope does not hold exactly one signature"));
        };
        let payload = decode_strict(&self.payload).ok_or(EnvelopeError::Rule("payload is not canonical base64"))?;
        if payload.len() > MAX_STATEMENT_BYTES {
            return Err(EnvelopeError::Rule("statement is larger than 4,000 bytes"));
        }
        let raw = decode_strict(&signature.sig).ok_or(EnvelopeError::Rule("signature is not canonical base64"))?;
        let key = keys.by_id(&signature.keyid).ok_or_else(|| EnvelopeError::UnknownKey(signature.keyid.clone()))?;
        if !key.is_for(key_use) {
            return Err(EnvelopeError::KeyNotValid("the signing key is not trusted for this kind of statement"));
        }
        if !key.verify(&pae(&payload), &raw) {
            return Err(EnvelopeError::Signature);
        }
        Ok((payload, key))
    }
}

/// Parses the bytes that [`Envelope::open`] gave: canonical, one subject, the expected predicate.
pub fn parse_statement<P: DeserializeOwned + Serialize>(
    payload: &[u8],
    predicate_type: &str,
) -> Result<Statement<P>, EnvelopeError> {
    let statement: Statement<P> = jcs::from_slice(payload).map_err(EnvelopeError::Statement)?;
    if statement.type_ != STATEMENT_TYPE {
        return Err(EnvelopeError::Rule("statement is not an in-toto Statement v1"));
    }
    if statement.predicate_type != predicate_type {
        return Err(EnvelopeError::Rule("statement has another predicate type than expected"));
    }
    if statement.subject.len() != 1 {
        return Err(EnvelopeError::Rule("statement does not have exactly one subject"));
    }
    Ok(statement)
}

/// Standard base64 that encodes back to itself.
pub(crate) fn decode_strict(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text).ok()?;
    (STANDARD.encode(&bytes) == text).then_some(bytes)
}
