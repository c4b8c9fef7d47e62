//! The parts list: what the runner uploaded, part by part. The sealer completes the upload from it;
//! with it, and nothing else, a reader can check a part of the artifact.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::jcs::{self, JcsError};

/// Version tag of a parts list.
pub const VERSION: &str = "walwarden.parts.v1";
/// Largest parts list.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// `<stem>.parts.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartsList {
    /// Always [`VERSION`].
    pub v: String,
    /// `bkp_…`
    pub backup_id: String,
    /// Attempt.
    pub attempt: u32,
    /// Parts in order, numbered from 1.
    pub parts: Vec<Part>,
}

/// One part of the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Part number, from 1.
    pub number: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

impl PartsList {
    /// Canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, JcsError> {
        jcs::to_vec(self)
    }

    /// Reads canonical bytes: numbered from 1 without gaps, no empty part but a lone one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JcsError> {
        if bytes.len() > MAX_BYTES {
            return Err(JcsError::NotAllowed("more than 2 MiB"));
        }
        let list: Self = jcs::from_slice(bytes)?;
        let numbered = list.parts.iter().zip(1u32..).all(|(part, n)| part.number == n);
        if list.v != VERSION || !numbered || list.parts.is_empty() {
            return Err(JcsError::NotAllowed("parts that are not numbered from 1"));
        }
        if !list.parts.iter().all(|p| crate::manifest::is_sha256(&p.sha256)) {
            return Err(JcsError::NotAllowed("a digest that is not SHA-256"));
        }
        Ok(list)
    }

    /// Sum of the parts' sizes.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.size_bytes).sum()
    }

    /// SHA-256 of the concatenated part digests: S3's composite checksum of the completed object is
    /// base64 of this, and `-<number of parts>`.
    pub fn composite_sha256(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in &self.parts {
            hasher.update(hex::decode(&part.sha256).unwrap_or_default());
        }
        hasher.finalize().into()
    }
}
