//! Takes the probes away: this run's are locked for minutes and only hidden now; those of earlier runs are
//! removed for good, where that is granted.

use super::{
    super::{Bucket, StorageError},
    Prefix, Run,
};

pub(super) async fn check(run: &mut Run, bucket: &Bucket, probe: &Prefix<'_>) {
    const NAME: &str = "cleanup";
    for key in std::mem::take(&mut run.written) {
        match bucket.delete(&key, None).await {
            Ok(()) => {}
            Err(error) if error.is_denied() => {
                return run.unseen(
                    NAME,
                    "the probe objects stay: they may not be deleted",
                    Some("grant s3:DeleteObject"),
                );
            }
            Err(error) => return run.fail_with(NAME, &error, None),
        }
    }
    let removed = sweep(bucket, probe).await;
    run.pass(
        NAME,
        match removed {
            0 => "the probe objects are hidden; their locks end in minutes".to_owned(),
            n => format!("the probe objects are hidden; {n} versions and markers of earlier runs are removed"),
        },
    );
}

/// Removes what earlier runs left, oldest first, and gives how much that was. It ends at the first refusal: what
/// is newer is locked too, or nothing may be removed at all. One page is enough: the next run goes on.
async fn sweep(bucket: &Bucket, probe: &Prefix<'_>) -> usize {
    let request =
        bucket.client.list_object_versions().bucket(&bucket.name).set_expected_bucket_owner(bucket.owner.clone());
    let Ok(page) = request.prefix(&probe.folder).send().await else { return 0 };
    let versions = page.versions.unwrap_or_default().into_iter().map(|v| (v.key, v.version_id));
    // A marker goes only once it hides nothing: versions first.
    let markers = page.delete_markers.unwrap_or_default().into_iter().map(|m| (m.key, m.version_id));
    let own = probe.key("");
    let mut removed = 0;
    for (key, version_id) in versions.chain(markers) {
        let (Some(key), Some(version_id)) = (key, version_id) else { continue };
        if !key.starts_with(&probe.folder) || key.starts_with(&own) {
            continue;
        }
        if bucket.delete(&key, Some(&version_id)).await.is_err() {
            break;
        }
        removed += 1;
    }
    removed
}

impl Bucket {
    /// Deletes a version, or hides the key (`None`). Never asks to bypass a lock.
    pub(super) async fn delete(&self, key: &str, version_id: Option<&str>) -> Result<(), StorageError> {
        self.client
            .delete_object()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| StorageError::from_sdk("DeleteObject", Some(key), error))
    }
}
