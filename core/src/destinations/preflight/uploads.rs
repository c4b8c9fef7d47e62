//! A multipart upload from beginning to end, its part by a presigned URL, and one that is aborted.

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::{
    super::{Bucket, CompletedPart, ObservedLock, StorageError, StorageErrorKind},
    LOCK, Prefix, Run, digest,
};

const NAME: &str = "multipart_upload";
const HINT: &str =
    "grant s3:PutObject, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts";

pub(super) async fn check(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>) {
    match completed(run, bucket, probe).await {
        Ok(detail) => match aborted(bucket, probe).await {
            Ok(()) => run.pass(NAME, detail),
            Err(error) => run.fail_with(NAME, &error, Some(HINT)),
        },
        Err(error) => run.fail_with(NAME, &error, Some(HINT)),
    }
}

async fn completed(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>) -> Result<String, StorageError> {
    let key = probe.key("multipart");
    let upload_id = bucket.create_upload(&key, probe.at + LOCK, &[("walwarden-preflight", probe.id)]).await?;
    let done = fill_and_complete(bucket, probe, &key, &upload_id).await;
    if done.is_err() {
        // What is left of it would be charged for.
        let _ = bucket.abort_upload(&key, &upload_id).await;
    }
    // Also after a failure: it may have come after the object.
    if done.is_ok() || matches!(bucket.head(&key, None).await, Ok(Some(_))) {
        run.written.push(key);
    }
    done
}

async fn fill_and_complete(
    bucket: &Bucket,
    probe: &Prefix<'_>,
    key: &str,
    upload_id: &str,
) -> Result<String, StorageError> {
    let body = format!("Walwarden preflight part {}\n", probe.id).into_bytes();
    let request = bucket.presign_part(key, upload_id, 1, &digest(&body), bucket.traits.part_digest, probe.at)?;
    let mut other = body.clone();
    other[0] ^= 1;
    if bucket.send("UploadPart", key, &request, &other).await?.is_success() {
        return Err(StorageError::mismatch(
            "UploadPart",
            key,
            "the provider takes other bytes than a URL was signed for",
        ));
    }
    let answer = bucket.send("UploadPart", key, &request, &body).await?;
    if !answer.is_success() {
        return Err(answer.error("UploadPart", key));
    }
    let parts = bucket.list_parts(key, upload_id).await?;
    let [part] = parts.as_slice() else {
        return Err(StorageError::mismatch("ListParts", key, "not the one part that was sent"));
    };
    if part.number != 1 || part.size_bytes != body.len() as u64 {
        return Err(StorageError::mismatch("ListParts", key, "not the part that was sent"));
    }
    let sha256 = Sha256::digest(&body);
    let complete = CompletedPart { number: 1, etag: part.etag.clone(), sha256_base64: Some(STANDARD.encode(sha256)) };
    let object = bucket.complete_upload(key, upload_id, &[complete]).await?;

    let facts = bucket.head(key, object.version_id.as_deref()).await?;
    let facts = facts.ok_or_else(|| StorageError::new("HeadObject", Some(key), StorageErrorKind::NotFound))?;
    if facts.size_bytes != body.len() as u64 {
        return Err(StorageError::mismatch("HeadObject", key, "the completed object has another size"));
    }
    if facts.metadata.get("walwarden-preflight").map(String::as_str) != Some(probe.id) {
        return Err(StorageError::mismatch("HeadObject", key, "the completed object lost its metadata"));
    }
    // What cannot be read back is another check's finding.
    if facts.lock != ObservedLock::NotObservable && !facts.lock.holds_until(probe.at + LOCK) {
        return Err(StorageError::mismatch("HeadObject", key, "the completed object is not locked as the upload was"));
    }
    let composite = format!("{}-1", STANDARD.encode(Sha256::digest(sha256)));
    let etag = format!("{}-1", hex::encode(Md5::digest(Md5::digest(&body))));
    match (facts.checksum_sha256, facts.etag) {
        (Some(attested), _) if attested == composite => {
            Ok("an upload was completed under lock; its SHA-256 is attested".into())
        }
        (Some(_), _) => {
            Err(StorageError::mismatch("HeadObject", key, "the completed object's SHA-256 is not its part's"))
        }
        (None, Some(attested)) if attested == etag => {
            Ok("an upload was completed under lock; its ETag attests the part's MD5".into())
        }
        (None, _) => {
            Err(StorageError::mismatch("HeadObject", key, "neither SHA-256 nor ETag attest the completed object"))
        }
    }
}

async fn aborted(bucket: &Bucket, probe: &Prefix<'_>) -> Result<(), StorageError> {
    let key = probe.key("aborted");
    let upload_id = bucket.create_upload(&key, probe.at + LOCK, &[]).await?;
    let found = bucket.list_uploads(&key).await?;
    let listed = found.iter().any(|upload| upload.upload_id == upload_id && upload.key == key);
    bucket.abort_upload(&key, &upload_id).await?;
    if !listed {
        return Err(StorageError::mismatch("ListMultipartUploads", &key, "an upload under way is not listed"));
    }
    match bucket.list_parts(&key, &upload_id).await {
        Err(error) if error.kind == StorageErrorKind::NoSuchUpload => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(StorageError::mismatch("AbortMultipartUpload", &key, "an aborted upload is still there")),
    }
}
