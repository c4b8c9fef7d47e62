//! Multipart uploads: made, completed and aborted here; their parts come from the runner.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_s3::{
    config::timeout::TimeoutConfig,
    types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, ObjectLockMode},
};
use jiff::Timestamp;
use walwarden_contract::worker::PartDigest;

use super::{
    Bucket, StorageError, StorageErrorKind,
    lock::{date_of, lock_date},
    objects::{MAX_PAGES, endless, unquoted, version},
};

/// A part as the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// Part number, from 1.
    pub number: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// ETag without its quotes.
    pub etag: String,
    /// Base64 SHA-256, where the provider lists it.
    pub sha256_base64: Option<String>,
}

/// A part an upload is completed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// Part number, from 1.
    pub number: u32,
    /// ETag, with or without quotes.
    pub etag: String,
    /// Base64 SHA-256, where parts were sent with it.
    pub sha256_base64: Option<String>,
}

/// The object an upload became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedObject {
    /// Version id; `None` where the bucket keeps no versions.
    pub version_id: Option<String>,
    /// ETag without its quotes.
    pub etag: Option<String>,
    /// Base64 composite SHA-256 and `-<parts>`, where the provider gives it.
    pub checksum_sha256: Option<String>,
}

/// An upload that was neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// Object key.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// When it was created.
    pub initiated: Option<Timestamp>,
}

impl Bucket {
    /// Begins an upload whose object will be locked in GOVERNANCE mode until `retain_until` (rounded up to a whole
    /// second) and attest SHA-256 over its parts' digests. `metadata` names are lower case. Gives the upload id.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn create_upload(
        &self,
        key: &str,
        retain_until: Timestamp,
        metadata: &[(&str, &str)],
    ) -> Result<String, StorageError> {
        const OPERATION: &str = "CreateMultipartUpload";
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .content_type("application/octet-stream")
            .object_lock_mode(ObjectLockMode::Governance)
            .object_lock_retain_until_date(date_of(lock_date(retain_until)));
        if self.traits.part_digest == PartDigest::Sha256 {
            request = request.checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_type(ChecksumType::Composite);
        }
        for (name, value) in metadata {
            request = request.metadata(*name, *value);
        }
        let created = request.send().await.map_err(|error| StorageError::from_sdk(OPERATION, Some(key), error))?;
        created.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| {
            StorageError::new(OPERATION, Some(key), StorageErrorKind::Unreachable)
                .with_detail("the answer holds no upload id")
        })
    }

    /// The parts that arrived, in order, each number once: a part that was sent again replaces what it was before.
    ///
    /// # Errors
    /// [`NoSuchUpload`](StorageErrorKind::NoSuchUpload); else as the provider says.
    pub async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<UploadedPart>, StorageError> {
        // SeaweedFS lists a part that was sent twice twice.
        let mut parts: BTreeMap<u32, (i64, UploadedPart)> = BTreeMap::new();
        let mut marker = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .list_parts()
                .bucket(&self.name)
                .set_expected_bucket_owner(self.owner.clone())
                .key(key)
                .upload_id(upload_id)
                .set_part_number_marker(marker)
                .send()
                .await
                .map_err(|error| StorageError::from_sdk("ListParts", Some(key), error))?;
            for part in page.parts.unwrap_or_default() {
                let sent_at = part.last_modified.map_or(0, |date| date.secs());
                let part = UploadedPart {
                    number: part.part_number.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
                    size_bytes: part.size.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
                    etag: part.e_tag.as_deref().map(unquoted).unwrap_or_default(),
                    sha256_base64: part.checksum_sha256,
                };
                if parts.get(&part.number).is_none_or(|(before, _)| *before <= sent_at) {
                    parts.insert(part.number, (sent_at, part));
                }
            }
            let next = page.next_part_number_marker.filter(|next| !next.is_empty());
            if page.is_truncated != Some(true) || next.is_none() {
                return Ok(parts.into_values().map(|(_, part)| part).collect());
            }
            marker = next;
        }
        Err(endless("ListParts", key))
    }

    /// Completes an upload. Not repeated here: after a lost answer a second try finds no upload, or the same
    /// object, and the caller has to look which.
    ///
    /// # Errors
    /// [`NoSuchUpload`](StorageErrorKind::NoSuchUpload), [`Unreachable`](StorageErrorKind::Unreachable) with the
    /// outcome unknown; else as the provider says.
    pub async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<CompletedObject, StorageError> {
        const OPERATION: &str = "CompleteMultipartUpload";
        let mut upload = CompletedMultipartUpload::builder();
        for part in parts {
            let number = i32::try_from(part.number)
                .map_err(|_| StorageError::invalid(OPERATION, "a part number is too large"))?;
            let part = aws_sdk_s3::types::CompletedPart::builder()
                .part_number(number)
                .e_tag(format!("\"{}\"", part.etag.trim_matches('"')))
                .set_checksum_sha256(part.sha256_base64.clone())
                .build();
            upload = upload.parts(part);
        }
        // "Processing of a CompleteMultipartUpload request could take several minutes" [S3 API reference].
        let patient = aws_sdk_s3::config::Builder::new().timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(Duration::from_secs(300))
                .operation_timeout(Duration::from_secs(300))
                .build(),
        );
        let once = patient.retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled());
        let done = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .upload_id(upload_id)
            .multipart_upload(upload.build())
            .customize()
            .config_override(once)
            .send()
            .await
            .map_err(|error| StorageError::from_sdk(OPERATION, Some(key), error))?;
        Ok(CompletedObject {
            version_id: version(done.version_id),
            etag: done.e_tag.as_deref().map(unquoted),
            checksum_sha256: done.checksum_sha256,
        })
    }

    /// Ends an upload and frees its parts. One that is gone already is success.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), StorageError> {
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .upload_id(upload_id)
            .send()
            .await
            .map_err(|error| StorageError::from_sdk("AbortMultipartUpload", Some(key), error));
        match answer {
            Err(error) if error.kind != StorageErrorKind::NoSuchUpload => Err(error),
            _ => Ok(()),
        }
    }

    /// Uploads under `prefix` that were neither completed nor aborted: how one whose id was lost is found.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>, StorageError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .set_expected_bucket_owner(self.owner.clone())
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker)
                .send()
                .await
                .map_err(|error| StorageError::from_sdk("ListMultipartUploads", Some(prefix), error))?;
            for upload in page.uploads.unwrap_or_default() {
                found.push(PendingUpload {
                    key: upload.key.unwrap_or_default(),
                    upload_id: upload.upload_id.unwrap_or_default(),
                    initiated: upload.initiated.and_then(|date| Timestamp::from_second(date.secs()).ok()),
                });
            }
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(found);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
        Err(endless("ListMultipartUploads", prefix))
    }
}
