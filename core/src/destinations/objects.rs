//! Small objects under lock, and what a provider tells of any object.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{ChecksumMode, ObjectLockMode},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    Bucket, LockMode, ObservedLock, StorageError, StorageErrorKind,
    lock::{date_of, lock_date, observed},
};

/// What a provider tells of one version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Version id; `None` where the bucket keeps no versions.
    pub version_id: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// ETag without its quotes.
    pub etag: Option<String>,
    /// Base64 SHA-256 of the object, or of its parts' digests and `-<parts>`.
    pub checksum_sha256: Option<String>,
    /// User metadata, without the `x-amz-meta-` of its names.
    pub metadata: BTreeMap<String, String>,
    /// Its lock.
    pub lock: ObservedLock,
}

impl ObjectFacts {
    /// Mode of the lock, where one is seen.
    pub fn lock_mode(&self) -> Option<LockMode> {
        match self.lock {
            ObservedLock::Locked { mode, .. } => Some(mode),
            _ => None,
        }
    }

    /// End of the lock, where one is seen.
    pub fn retain_until(&self) -> Option<Timestamp> {
        match self.lock {
            ObservedLock::Locked { retain_until, .. } => Some(retain_until),
            _ => None,
        }
    }
}

/// One version of an object, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Version id; `None` where the bucket keeps no versions.
    pub version_id: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// ETag without its quotes.
    pub etag: Option<String>,
    /// Whether a read without version id gives this one.
    pub is_latest: bool,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// Written now.
    Written {
        /// The new version.
        version_id: Option<String>,
    },
    /// Equal bytes were there, under a lock at least as long.
    AlreadyThere {
        /// The version that holds them.
        version_id: Option<String>,
    },
}

impl PutOutcome {
    /// The version that holds the bytes.
    pub fn version_id(&self) -> Option<&str> {
        match self {
            Self::Written { version_id } | Self::AlreadyThere { version_id } => version_id.as_deref(),
        }
    }
}

impl Bucket {
    /// Writes a small object in GOVERNANCE mode until `retain_until` (rounded up to a whole second), once: where
    /// the key is taken, equal bytes are success and other bytes are a mismatch. A lock that is seen to end too
    /// early is extended.
    ///
    /// # Errors
    /// [`Mismatch`](StorageErrorKind::Mismatch) for other bytes; else as the provider says.
    pub async fn put_locked(
        &self,
        key: &str,
        bytes: &[u8],
        retain_until: Timestamp,
        content_type: &str,
    ) -> Result<PutOutcome, StorageError> {
        if self.traits.conditional_put {
            match self.put(key, bytes, retain_until, content_type, true).await {
                Ok(version_id) => return Ok(PutOutcome::Written { version_id }),
                Err(error) if error.kind == StorageErrorKind::PreconditionFailed => {
                    return self.compare(key, bytes, retain_until).await;
                }
                Err(error) if !error.is_unsupported() => return Err(error),
                Err(_) => {}
            }
        }
        // Not conditional: look first, so that a repeat does not pile up versions.
        if self.head(key, None).await?.is_some() {
            return self.compare(key, bytes, retain_until).await;
        }
        Ok(PutOutcome::Written { version_id: self.put(key, bytes, retain_until, content_type, false).await? })
    }

    async fn put(
        &self,
        key: &str,
        bytes: &[u8],
        retain_until: Timestamp,
        content_type: &str,
        conditional: bool,
    ) -> Result<Option<String>, StorageError> {
        let written = self
            .client
            .put_object()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .content_type(content_type)
            .checksum_sha256(STANDARD.encode(Sha256::digest(bytes)))
            .object_lock_mode(ObjectLockMode::Governance)
            .object_lock_retain_until_date(date_of(lock_date(retain_until)))
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .body(ByteStream::from(bytes.to_vec()))
            .send()
            .await
            .map_err(|error| StorageError::from_sdk("PutObject", Some(key), error))?;
        Ok(version(written.version_id))
    }

    async fn compare(&self, key: &str, bytes: &[u8], retain_until: Timestamp) -> Result<PutOutcome, StorageError> {
        let differs = || StorageError::mismatch("PutObject", key, "the key holds other bytes");
        let facts = self
            .head(key, None)
            .await?
            .ok_or_else(|| StorageError::new("PutObject", Some(key), StorageErrorKind::NotFound))?;
        if facts.size_bytes != bytes.len() as u64
            || self.get(key, facts.version_id.as_deref(), bytes.len()).await? != bytes
        {
            return Err(differs());
        }
        if facts.lock != ObservedLock::NotObservable && !facts.lock.holds_until(retain_until) {
            self.put_retention(key, facts.version_id.as_deref(), retain_until).await?;
        }
        Ok(PutOutcome::AlreadyThere { version_id: facts.version_id })
    }

    /// What the provider tells of a version (`None`: the latest). `Ok(None)` where there is no such object, or a
    /// delete marker hides it. Where HEAD is silent about the lock it is asked for by itself.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn head(&self, key: &str, version_id: Option<&str>) -> Result<Option<ObjectFacts>, StorageError> {
        let answer = self
            .client
            .head_object()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .map_err(|error| StorageError::from_sdk("HeadObject", Some(key), error));
        let head = match answer {
            Ok(head) => head,
            // 405: this version is a delete marker.
            Err(error) if error.kind == StorageErrorKind::NotFound || error.code() == Some("405") => return Ok(None),
            Err(error) => return Err(error),
        };
        let version_id = version(head.version_id).or_else(|| version_id.map(str::to_owned));
        let mut lock = observed(
            head.object_lock_mode.as_ref().map(|mode| mode.as_str()),
            head.object_lock_retain_until_date.as_ref(),
        );
        if lock == ObservedLock::Unlocked {
            lock = self.retention(key, version_id.as_deref()).await?;
        }
        Ok(Some(ObjectFacts {
            version_id,
            size_bytes: head.content_length.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
            etag: head.e_tag.as_deref().map(unquoted),
            checksum_sha256: head.checksum_sha256,
            metadata: head.metadata.unwrap_or_default().into_iter().collect(),
            lock,
        }))
    }

    /// All versions of a key, newest first, delete markers left out. Where versions may not be listed: what HEAD
    /// gives, the latest alone.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn find_versions(&self, key: &str) -> Result<Vec<ObjectVersion>, StorageError> {
        match self.list_versions(key, true).await {
            Ok(listed) => Ok(listed.into_iter().map(|(_, version)| version).collect()),
            Err(error) if error.is_denied() || error.is_unsupported() => {
                let head = self.head(key, None).await?;
                Ok(head
                    .map(|facts| ObjectVersion {
                        version_id: facts.version_id,
                        size_bytes: facts.size_bytes,
                        etag: facts.etag,
                        is_latest: true,
                    })
                    .into_iter()
                    .collect())
            }
            Err(error) => Err(error),
        }
    }

    /// Versions of the keys that begin with `prefix`, or (`exact`) of that key alone: `(key, version)`.
    pub(super) async fn list_versions(
        &self,
        prefix: &str,
        exact: bool,
    ) -> Result<Vec<(String, ObjectVersion)>, StorageError> {
        let mut found = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.name)
                .set_expected_bucket_owner(self.owner.clone())
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker)
                .send()
                .await
                .map_err(|error| StorageError::from_sdk("ListObjectVersions", Some(prefix), error))?;
            let mut beyond = false;
            for listed in page.versions.unwrap_or_default() {
                let key = listed.key.unwrap_or_default();
                // Keys come in order: the one that equals its prefix is the first.
                if exact && key != prefix {
                    beyond = true;
                    break;
                }
                let facts = ObjectVersion {
                    version_id: version(listed.version_id),
                    size_bytes: listed.size.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
                    etag: listed.e_tag.as_deref().map(unquoted),
                    is_latest: listed.is_latest.unwrap_or_default(),
                };
                found.push((key, facts));
            }
            if beyond || page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(found);
            }
            (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
        }
        Err(endless("ListObjectVersions", prefix))
    }

    /// Reads a version (`None`: the latest) of at most `max_bytes`.
    ///
    /// # Errors
    /// [`Mismatch`](StorageErrorKind::Mismatch) for a larger object; else as the provider says.
    pub async fn get(&self, key: &str, version_id: Option<&str>, max_bytes: usize) -> Result<Vec<u8>, StorageError> {
        const OPERATION: &str = "GetObject";
        let too_large = || StorageError::mismatch(OPERATION, key, &format!("larger than {max_bytes} bytes"));
        let answer = self
            .client
            .get_object()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .send()
            .await
            .map_err(|error| StorageError::from_sdk(OPERATION, Some(key), error))?;
        if answer.content_length.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > max_bytes)) {
            return Err(too_large());
        }
        let mut body = answer.body;
        let mut bytes = Vec::new();
        let read = async {
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|error| StorageError::from_transport(OPERATION, Some(key), Some(&error)))?;
                if bytes.len() + chunk.len() > max_bytes {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        // The SDK's time-outs end with the head of the answer.
        match tokio::time::timeout(Duration::from_secs(120), read).await {
            Ok(done) => done.map(|()| bytes),
            Err(_) => {
                Err(StorageError::new(OPERATION, Some(key), StorageErrorKind::Unreachable).with_detail("timed out"))
            }
        }
    }
}

/// Pages of up to 1,000 entries that are followed: a server that never says "that was all" is not followed forever.
pub(super) const MAX_PAGES: usize = 100;

pub(super) fn endless(operation: &'static str, of: &str) -> StorageError {
    StorageError::mismatch(operation, of, "the list does not end")
}

/// A version id that names a version: buckets without versions answer nothing or `null`.
pub(super) fn version(id: Option<String>) -> Option<String> {
    id.filter(|id| !id.is_empty() && id != "null")
}

pub(super) fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}
