//! Write, read and lock one object, by the same presigned requests that workers are given.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{
    super::{Bucket, LockMode, ObservedLock, StorageError, StorageErrorKind, objects::version},
    EXTENDED, LOCK, Prefix, Run, SHORTENED, digest,
};

const LOCK_HINT: &str = "grant s3:PutObjectRetention, and check that Object Lock is enabled on the bucket";

pub(super) async fn check(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>) {
    let key = probe.key("object");
    let body = format!("Walwarden preflight {}\n", probe.id).into_bytes();
    let Some(version_id) = put(run, bucket, probe, &key, &body).await else { return };
    let version_id = version_id.as_deref();

    match get(bucket, probe, &key, version_id, &body).await {
        Ok(()) => run.pass("get_object", "the object was read back, equal, by a presigned URL"),
        Err(error) => run.fail_with(
            "get_object",
            &error,
            Some("grant s3:GetObject and s3:GetObjectVersion: restores read by them"),
        ),
    }
    match head(bucket, probe, &key, &body).await {
        Ok(detail) => run.pass("head_object", detail),
        Err(error) => run.fail_with("head_object", &error, Some("grant s3:GetObject: HEAD needs it")),
    }
    match bucket.put_retention(&key, version_id, probe.at + EXTENDED).await {
        Ok(()) => run.pass("put_object_retention", "the lock was extended"),
        Err(error) => {
            run.fail_with("put_object_retention", &error, Some(LOCK_HINT));
            return;
        }
    }
    match bucket.retention(&key, version_id).await {
        Ok(lock @ ObservedLock::Locked { mode: LockMode::Governance, .. }) if lock.holds_until(probe.at + EXTENDED) => {
            run.pass("get_object_retention", "the lock reads back as set, GOVERNANCE");
            enforced(run, bucket, probe, &key, version_id).await;
        }
        Ok(ObservedLock::NotObservable) => {
            run.fail("get_object_retention", "the lock cannot be read back", "grant s3:GetObjectRetention");
        }
        Ok(other) => {
            let detail = format!("the lock reads back as {other:?}, not as it was set");
            run.fail(
                "get_object_retention",
                detail,
                "check that Object Lock is enabled on the bucket, in GOVERNANCE mode",
            );
        }
        Err(error) => run.fail_with("get_object_retention", &error, Some("grant s3:GetObjectRetention")),
    }
}

/// Gives the version written, or `None` where nothing was.
async fn put(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>, key: &str, body: &[u8]) -> Option<Option<String>> {
    match put_twice(bucket, probe, key, body).await {
        Ok((version_id, detail)) => {
            run.written.push(key.to_owned());
            run.pass("put_object", detail);
            Some(version_id)
        }
        Err(error) => {
            // Writing and locking are one request: which of the two is refused shows in a plain write.
            let is_refusal = matches!(error.kind, StorageErrorKind::Refused(_));
            let plain = probe.key("plain");
            if is_refusal && plain_put(bucket, &plain).await.is_ok() {
                run.written.push(plain);
                run.pass("put_object", "an object without lock was written");
                run.fail_with("put_object_retention", &error, Some(LOCK_HINT));
            } else {
                run.fail_with("put_object", &error, Some("grant s3:PutObject, and check the bucket's name and region"));
            }
            None
        }
    }
}

async fn put_twice(
    bucket: &Bucket,
    probe: &Prefix<'_>,
    key: &str,
    body: &[u8],
) -> Result<(Option<String>, String), StorageError> {
    let until = probe.at + LOCK;
    let sign = || bucket.presign_put_locked(key, &digest(body), until, LockMode::Governance, "text/plain", probe.at);
    let first = bucket.send("PutObject", key, &sign()?, body).await?;
    if !first.is_success() {
        return Err(first.error("PutObject", key));
    }
    let mut version_id = version(first.header("x-amz-version-id").map(str::to_owned));
    // A write whose answer was lost is repeated; the repeat must be recognised or at least harmless.
    let again = bucket.send("PutObject", key, &sign()?, body).await?;
    let detail = if again.status == 412 {
        "an object was written under lock by a presigned URL; a repeat is refused"
    } else if again.is_success() {
        version_id = version(again.header("x-amz-version-id").map(str::to_owned)).or(version_id);
        "an object was written under lock by a presigned URL; a repeat makes another version"
    } else {
        return Err(again
            .error("PutObject", key)
            .with_detail("a repeated write is refused with another status than 412"));
    };
    Ok((version_id, detail.into()))
}

async fn plain_put(bucket: &Bucket, key: &str) -> Result<(), StorageError> {
    let request = bucket.client.put_object().bucket(&bucket.name).set_expected_bucket_owner(bucket.owner.clone());
    let sent = request.key(key).body(ByteStream::from_static(b"plain\n")).send().await;
    sent.map(|_| ()).map_err(|error| StorageError::from_sdk("PutObject", Some(key), error))
}

async fn get(
    bucket: &Bucket,
    probe: &Prefix<'_>,
    key: &str,
    version_id: Option<&str>,
    body: &[u8],
) -> Result<(), StorageError> {
    let request = bucket.presign_get(key, version_id, probe.at, Duration::from_secs(60))?;
    let answer = bucket.send("GetObject", key, &request, &[]).await?;
    if !answer.is_success() {
        return Err(answer.error("GetObject", key));
    }
    // Reading a version and reading the latest are two permissions.
    if answer.body != body || bucket.get(key, None, body.len()).await? != body {
        return Err(StorageError::mismatch("GetObject", key, "other bytes than were written"));
    }
    Ok(())
}

async fn head(bucket: &Bucket, probe: &Prefix<'_>, key: &str, body: &[u8]) -> Result<String, StorageError> {
    const OPERATION: &str = "HeadObject";
    // As the runner does after a 412.
    let put =
        bucket.presign_put_locked(key, &digest(body), probe.at + LOCK, LockMode::Governance, "text/plain", probe.at)?;
    let request = put.head.ok_or_else(|| StorageError::invalid(OPERATION, "no request"))?;
    let answer = bucket.send(OPERATION, key, &request, &[]).await?;
    if !answer.is_success() {
        return Err(answer.error(OPERATION, key));
    }
    let wanted = STANDARD.encode(Sha256::digest(body));
    let facts = bucket
        .head(key, None)
        .await?
        .ok_or_else(|| StorageError::new(OPERATION, Some(key), StorageErrorKind::NotFound))?;
    if facts.size_bytes != body.len() as u64 || answer.header("content-length") != Some(&body.len().to_string()) {
        return Err(StorageError::mismatch(OPERATION, key, "another size than was written"));
    }
    match (answer.header("x-amz-checksum-sha256"), facts.checksum_sha256.as_deref()) {
        (Some(by_url), Some(by_key)) if by_url == wanted && by_key == wanted => {
            Ok("size and SHA-256 are attested".into())
        }
        (None, None) => Ok("the size is attested; the provider attests no SHA-256".into()),
        _ => Err(StorageError::mismatch(OPERATION, key, "another SHA-256 than was sent, or only to some requests")),
    }
}

// In every branch the lock is read again: a refusal that changed it would be no refusal.
async fn enforced(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>, key: &str, version_id: Option<&str>) {
    const NAME: &str = "retention_enforced";
    const HINT: &str =
        "this bucket does not keep its locks; use a bucket with Object Lock on a server that enforces it";
    match bucket.put_retention(key, version_id, probe.at + SHORTENED).await {
        Ok(()) => return run.fail(NAME, "a lock could be shortened", HINT),
        Err(error) if error.is_passing() => return run.fail_with(NAME, &error, None),
        Err(_) => {}
    }
    // Refused either by the lock or for want of s3:DeleteObjectVersion: only success would tell something.
    if version_id.is_some()
        && bucket.delete(key, version_id).await.is_ok()
        && matches!(bucket.head(key, version_id).await, Ok(None))
    {
        return run.fail(NAME, "a locked version could be deleted", HINT);
    }
    match bucket.retention(key, version_id).await {
        Ok(lock) if lock.holds_until(probe.at + EXTENDED) => {
            run.pass(NAME, "an attempt to shorten the lock was refused")
        }
        Ok(_) => run.fail(NAME, "a refused attempt changed the lock", HINT),
        Err(error) => run.fail_with(NAME, &error, None),
    }
}
