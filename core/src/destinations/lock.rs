//! Object Lock: what keeps a version from being removed, how it is set and read back.

use aws_sdk_s3::{
    primitives::DateTime,
    types::{ObjectLockRetention, ObjectLockRetentionMode},
};
use jiff::Timestamp;

use super::{Bucket, StorageError};

/// How a version is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Only a principal with `s3:BypassGovernanceRetention` can remove the version.
    Governance,
    /// Nobody can.
    Compliance,
}

impl LockMode {
    /// As S3 writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// What can be seen of a version's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedLock {
    /// Locked.
    Locked {
        /// How.
        mode: LockMode,
        /// Until when.
        retain_until: Timestamp,
    },
    /// Not locked.
    Unlocked,
    /// The provider does not say, or not to us.
    NotObservable,
}

impl ObservedLock {
    /// Whether it is seen to be locked at least until `until` (whole seconds: providers keep no fractions).
    pub fn holds_until(self, until: Timestamp) -> bool {
        matches!(self, Self::Locked { retain_until, .. } if retain_until.as_second() >= until.as_second())
    }
}

impl Bucket {
    /// Locks a version in GOVERNANCE mode, or moves the end of its lock: later is allowed, earlier is refused.
    ///
    /// # Errors
    /// As the provider says.
    pub async fn put_retention(
        &self,
        key: &str,
        version_id: Option<&str>,
        retain_until: Timestamp,
    ) -> Result<(), StorageError> {
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Governance)
            .retain_until_date(date_of(lock_date(retain_until)))
            .build();
        self.client
            .put_object_retention()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .retention(retention)
            .send()
            .await
            .map_err(|error| StorageError::from_sdk("PutObjectRetention", Some(key), error))?;
        Ok(())
    }

    /// Reads a version's lock.
    ///
    /// # Errors
    /// As the provider says; that it does not say is [`ObservedLock::NotObservable`], no error.
    pub async fn retention(&self, key: &str, version_id: Option<&str>) -> Result<ObservedLock, StorageError> {
        let answer = self
            .client
            .get_object_retention()
            .bucket(&self.name)
            .set_expected_bucket_owner(self.owner.clone())
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .send()
            .await
            .map_err(|error| StorageError::from_sdk("GetObjectRetention", Some(key), error));
        match answer {
            Ok(answer) => {
                let retention = answer.retention.unwrap_or_else(|| ObjectLockRetention::builder().build());
                Ok(observed(retention.mode().map(|mode| mode.as_str()), retention.retain_until_date()))
            }
            Err(error)
                if matches!(
                    error.code(),
                    Some("NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError")
                ) =>
            {
                Ok(ObservedLock::Unlocked)
            }
            Err(error) if error.is_denied() || error.is_unsupported() => Ok(ObservedLock::NotObservable),
            Err(error) => Err(error),
        }
    }
}

/// The end of a lock as it is sent: whole seconds, rounded up.
pub(super) fn lock_date(until: Timestamp) -> Timestamp {
    let whole = Timestamp::from_second(until.as_second()).unwrap_or(until);
    if whole < until { Timestamp::from_second(until.as_second() + 1).unwrap_or(until) } else { whole }
}

pub(super) fn date_of(at: Timestamp) -> DateTime {
    DateTime::from_secs(at.as_second())
}

pub(super) fn observed(mode: Option<&str>, until: Option<&DateTime>) -> ObservedLock {
    let until = until.and_then(|date| date.to_millis().ok()).and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match mode.and_then(LockMode::parse).zip(until) {
        Some((mode, retain_until)) => ObservedLock::Locked { mode, retain_until },
        None => ObservedLock::Unlocked,
    }
}
