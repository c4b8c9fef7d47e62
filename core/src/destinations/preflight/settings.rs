//! Settings of the bucket, where the provider shows them.

use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled, ObjectLockRetentionMode};

use super::{
    super::{Bucket, StorageError},
    Run,
    policy::denies_plain_http,
};

pub(super) async fn check(run: &mut Run, bucket: &Bucket) {
    versioning(run, bucket).await;
    object_lock(run, bucket).await;
    public_access(run, bucket).await;
    if bucket.is_aws {
        tls_only(run, bucket).await;
    }
}

// What the provider refuses to show or does not know; anything else that goes wrong is a failure.
fn not_shown(run: &mut Run, name: &str, permission: &str, error: &StorageError) {
    if error.is_unsupported() {
        run.unseen(name, format!("the provider does not offer {}", error.operation), None);
    } else if error.is_denied() {
        run.unseen(name, error.to_string(), Some(&format!("grant {permission}")));
    } else {
        run.fail_with(name, error, None);
    }
}

async fn versioning(run: &mut Run, bucket: &Bucket) {
    const NAME: &str = "bucket_versioning";
    let request =
        bucket.client.get_bucket_versioning().bucket(&bucket.name).set_expected_bucket_owner(bucket.owner.clone());
    match request.send().await.map_err(|error| StorageError::from_sdk("GetBucketVersioning", None, error)) {
        Ok(answer) if answer.status == Some(BucketVersioningStatus::Enabled) => run.pass(NAME, "enabled"),
        Ok(_) => run.fail(NAME, "not enabled", "enable versioning: Object Lock depends on it"),
        Err(error) => not_shown(run, NAME, "s3:GetBucketVersioning", &error),
    }
}

async fn object_lock(run: &mut Run, bucket: &Bucket) {
    const NAME: &str = "object_lock";
    const ENABLE: &str =
        "enable Object Lock: on AWS also on an existing versioned bucket, elsewhere mostly at creation only";
    let request = bucket
        .client
        .get_object_lock_configuration()
        .bucket(&bucket.name)
        .set_expected_bucket_owner(bucket.owner.clone());
    let answer =
        match request.send().await.map_err(|error| StorageError::from_sdk("GetObjectLockConfiguration", None, error)) {
            Ok(answer) => answer.object_lock_configuration,
            Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => None,
            Err(error) => return not_shown(run, NAME, "s3:GetBucketObjectLockConfiguration", &error),
        };
    let Some(lock) = answer.filter(|lock| lock.object_lock_enabled == Some(ObjectLockEnabled::Enabled)) else {
        return run.fail(NAME, "not enabled", ENABLE);
    };
    match lock.rule.and_then(|rule| rule.default_retention) {
        Some(default) if default.mode == Some(ObjectLockRetentionMode::Compliance) => run.fail(
            NAME,
            "enabled, with COMPLIANCE as the default mode",
            "set the default mode to GOVERNANCE: in COMPLIANCE mode not even the account's root user can remove an object",
        ),
        Some(default) => {
            let length = match (default.days, default.years) {
                (Some(days), _) => format!("{days} days"),
                (None, Some(years)) => format!("{years} years"),
                (None, None) => "no period".into(),
            };
            run.pass(NAME, format!("enabled, GOVERNANCE by default, {length}"));
        }
        None => run.pass(NAME, "enabled, without a default: each object is locked as it is written"),
    }
}

async fn public_access(run: &mut Run, bucket: &Bucket) {
    const NAME: &str = "public_access_block";
    const HINT: &str = "turn on all four settings of Block public access";
    let request =
        bucket.client.get_public_access_block().bucket(&bucket.name).set_expected_bucket_owner(bucket.owner.clone());
    match request.send().await.map_err(|error| StorageError::from_sdk("GetPublicAccessBlock", None, error)) {
        Ok(answer) => {
            let settings = answer.public_access_block_configuration;
            let settings = settings
                .map(|s| [s.block_public_acls, s.ignore_public_acls, s.block_public_policy, s.restrict_public_buckets]);
            let on = settings.map_or(0, |all| all.into_iter().filter(|setting| *setting == Some(true)).count());
            if on == 4 {
                run.pass(NAME, "all four settings are on");
            } else {
                run.fail(NAME, format!("{on} of four settings are on"), HINT);
            }
        }
        Err(error) if error.code() == Some("NoSuchPublicAccessBlockConfiguration") => {
            run.unseen(NAME, "not configured", Some(HINT))
        }
        Err(error) => not_shown(run, NAME, "s3:GetBucketPublicAccessBlock", &error),
    }
}

async fn tls_only(run: &mut Run, bucket: &Bucket) {
    const NAME: &str = "tls_only_policy";
    const HINT: &str = "attach the bucket policy that denies s3:* where aws:SecureTransport is false, for the bucket and everything in it";
    let request =
        bucket.client.get_bucket_policy().bucket(&bucket.name).set_expected_bucket_owner(bucket.owner.clone());
    match request.send().await.map_err(|error| StorageError::from_sdk("GetBucketPolicy", None, error)) {
        Ok(answer) if denies_plain_http(answer.policy.as_deref().unwrap_or_default(), &bucket.name) => {
            run.pass(NAME, "requests without TLS are denied");
        }
        Ok(_) => run.fail(NAME, "the bucket policy does not deny requests without TLS", HINT),
        Err(error) if error.code() == Some("NoSuchBucketPolicy") => run.fail(NAME, "there is no bucket policy", HINT),
        Err(error) => not_shown(run, NAME, "s3:GetBucketPolicy", &error),
    }
}
