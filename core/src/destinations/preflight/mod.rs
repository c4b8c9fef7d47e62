//! Whether a bucket is fit to hold backups, found out by doing everything a backup will do.
//!
//! Probe objects go under `org/<org>/preflight/<ulid>/`, locked for minutes. Reading, writing and locking are
//! proven by deeds; settings of the bucket are read where the provider shows them. What cannot be seen on a
//! compatible server is `not_observable`, which is no failure; on AWS everything can be seen, so there it is.
//! A lock counts only when an attempt to shorten it was refused.

mod cleanup;
mod objects;
mod policy;
mod settings;
mod uploads;

use jiff::{SignedDuration, Timestamp};
use md5::Md5;
use sha2::{Digest, Sha256};
use walwarden_contract::{
    api::{CheckOutcome, PreflightCheck},
    ids::OrgId,
    worker::BytesDigest,
};

use super::{Access, Bucket, BucketConfig, StorageError, StorageErrorKind, network::Network, session};

/// What a preflight is handed.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// Organization whose prefix is used.
    pub org: &'a OrgId,
    /// A fresh ULID, lower case: the folder of this run's objects.
    pub id: &'a str,
    /// Now.
    pub at: Timestamp,
}

/// Checks without which there is no `verified`.
const REQUIRED: [&str; 7] = [
    "put_object",
    "get_object",
    "head_object",
    "put_object_retention",
    "get_object_retention",
    "retention_enforced",
    "multipart_upload",
];
const REQUIRED_ON_AWS: [&str; 3] = ["assume_role", "external_id_enforced", "tls_only_policy"];

// Enough for clocks that differ by minutes: an end of lock that has passed is refused.
const LOCK: SignedDuration = SignedDuration::from_mins(5);
const EXTENDED: SignedDuration = SignedDuration::from_mins(6);
const SHORTENED: SignedDuration = SignedDuration::from_mins(4);

/// Runs every check, in the order in which they build on each other. Takes seconds; on a bucket that does not
/// answer at most a minute.
pub async fn preflight(config: &BucketConfig, net: &Network, probe: &Probe<'_>) -> Vec<PreflightCheck> {
    let mut run = Run { checks: Vec::new(), written: Vec::new(), strict: config.is_aws() };
    if let Some(bucket) = connect(&mut run, config, net, probe.at).await {
        let probe = Prefix { folder: format!("org/{}/preflight/", probe.org), id: probe.id, at: probe.at };
        objects::check(&mut run, &bucket, &probe).await;
        let answers = !run.failed_as("put_object", &StorageErrorKind::Unreachable);
        if run.passed("put_object_retention") {
            uploads::check(&mut run, &bucket, &probe).await;
        }
        if answers {
            settings::check(&mut run, &bucket).await;
        }
        if !run.written.is_empty() {
            cleanup::check(&mut run, &bucket, &probe).await;
        }
    }
    run.finish()
}

/// Whether these checks make a destination `verified`: nothing failed or was skipped, and what a backup depends
/// on was seen to pass.
pub fn is_verified(checks: &[PreflightCheck]) -> bool {
    let outcome = |name: &str| checks.iter().find(|check| check.name == name).map(|check| check.outcome);
    let on_aws = outcome("assume_role").is_some();
    let required = REQUIRED.iter().chain(REQUIRED_ON_AWS.iter().filter(|_| on_aws));
    checks.iter().all(|check| matches!(check.outcome, CheckOutcome::Passed | CheckOutcome::NotObservable))
        && required.into_iter().all(|name| outcome(name) == Some(CheckOutcome::Passed))
}

/// Keys of this run.
struct Prefix<'a> {
    /// Of all runs: `org/<org>/preflight/`.
    folder: String,
    id: &'a str,
    at: Timestamp,
}

impl Prefix<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{}/{name}", self.folder, self.id)
    }
}

/// The checks so far.
struct Run {
    checks: Vec<(PreflightCheck, Option<StorageErrorKind>)>,
    /// Keys of objects to clean up.
    written: Vec<String>,
    /// On AWS what cannot be seen is a missing permission.
    strict: bool,
}

impl Run {
    fn passed(&self, name: &str) -> bool {
        self.checks.iter().any(|(check, _)| check.name == name && check.outcome == CheckOutcome::Passed)
    }

    fn failed_as(&self, name: &str, kind: &StorageErrorKind) -> bool {
        self.checks.iter().any(|(check, failed)| check.name == name && failed.as_ref() == Some(kind))
    }

    fn pass(&mut self, name: &str, detail: impl Into<String>) {
        self.push(name, CheckOutcome::Passed, detail.into(), None, None);
    }

    fn fail(&mut self, name: &str, detail: impl Into<String>, hint: &str) {
        self.push(name, CheckOutcome::Failed, detail.into(), Some(hint), None);
    }

    /// A refused request; `hint` where the error's own is too general.
    fn fail_with(&mut self, name: &str, error: &StorageError, hint: Option<&str>) {
        let hint = match error.kind {
            StorageErrorKind::Refused(_) => hint.unwrap_or(error.hint()),
            StorageErrorKind::Mismatch => "this server does not do what S3 does; it cannot hold backups",
            _ => error.hint(),
        };
        self.push(name, CheckOutcome::Failed, error.to_string(), Some(hint), Some(error.kind.clone()));
    }

    /// What the provider does not let us see or do, though a backup does not depend on it.
    fn unseen(&mut self, name: &str, detail: impl Into<String>, hint: Option<&str>) {
        let outcome = if self.strict { CheckOutcome::Failed } else { CheckOutcome::NotObservable };
        self.push(name, outcome, detail.into(), hint, None);
    }

    fn push(
        &mut self,
        name: &str,
        outcome: CheckOutcome,
        detail: String,
        hint: Option<&str>,
        kind: Option<StorageErrorKind>,
    ) {
        tracing::debug!(check = name, ?outcome, "preflight");
        self.checks.push((PreflightCheck { name: name.into(), outcome, detail, hint: hint.map(str::to_owned) }, kind));
    }

    /// All checks, those that were not reached as skipped.
    fn finish(self) -> Vec<PreflightCheck> {
        let mut checks: Vec<PreflightCheck> = self.checks.into_iter().map(|(check, _)| check).collect();
        let aws = REQUIRED_ON_AWS.iter().filter(|_| self.strict);
        let rest = ["bucket_versioning", "object_lock", "public_access_block", "cleanup"];
        for name in aws.chain(&REQUIRED).chain(&rest) {
            if !checks.iter().any(|check| check.name == *name) {
                let detail = "not tried: an earlier check failed".into();
                checks.push(PreflightCheck {
                    name: (*name).into(),
                    outcome: CheckOutcome::Skipped,
                    detail,
                    hint: None,
                });
            }
        }
        checks
    }
}

async fn connect(run: &mut Run, config: &BucketConfig, net: &Network, at: Timestamp) -> Option<Bucket> {
    let Access::AwsS3 { role_arn, external_id } = &config.access else {
        return match Bucket::connect(config, net, at).await {
            Ok(bucket) => Some(bucket),
            Err(error) => {
                run.fail_with("put_object", &error, None);
                None
            }
        };
    };
    const HINT: &str = "check the role's ARN, that its trust policy names our account as principal, and that sts:ExternalId is exactly the external id shown here";
    if let Err(error) = config.check(net) {
        run.fail_with("assume_role", &error, None);
        return None;
    }
    // Not from the cache: a trust policy may have changed since.
    let session = match session::assume(net, &config.region, role_arn, Some(external_id), at).await {
        Ok(session) => session,
        Err(error) => {
            run.fail_with("assume_role", &error, Some(HINT));
            return None;
        }
    };
    run.pass("assume_role", "the role can be assumed with the external id");
    match session::assume(net, &config.region, role_arn, None, at).await {
        Err(error) if error.code().is_some() => run.pass("external_id_enforced", "the role cannot be assumed without the external id"),
        Err(error) => run.fail_with("external_id_enforced", &error, None),
        Ok(_) => run.fail(
            "external_id_enforced",
            "the role can be assumed without the external id",
            "add the condition StringEquals sts:ExternalId to the role's trust policy: without it another customer could name your role",
        ),
    }
    match Bucket::with_credentials(config, net, session.credentials, Some(session.expires_at)) {
        Ok(bucket) => Some(bucket),
        Err(error) => {
            run.fail_with("put_object", &error, None);
            None
        }
    }
}

fn digest(bytes: &[u8]) -> BytesDigest {
    BytesDigest {
        size_bytes: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
        md5: hex::encode(Md5::digest(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_that_is_required_makes_verified() {
        let all = |aws: bool| {
            let mut run = Run { checks: Vec::new(), written: Vec::new(), strict: aws };
            for name in REQUIRED.iter().chain(REQUIRED_ON_AWS.iter().filter(|_| aws)).chain(&["object_lock"]) {
                run.pass(name, "");
            }
            run.checks.into_iter().map(|(check, _)| check).collect::<Vec<_>>()
        };
        for aws in [false, true] {
            let good = all(aws);
            assert!(is_verified(&good));
            for place in 0..good.len() {
                for outcome in [CheckOutcome::Failed, CheckOutcome::Skipped, CheckOutcome::NotObservable] {
                    let mut checks = good.clone();
                    checks[place].outcome = outcome;
                    let may = checks[place].name == "object_lock" && outcome == CheckOutcome::NotObservable;
                    assert_eq!(is_verified(&checks), may, "{} {outcome:?}", checks[place].name);
                }
                let mut checks = good.clone();
                let gone = checks.remove(place).name;
                // A list without `assume_role` is one of another provider.
                assert_eq!(is_verified(&checks), matches!(gone.as_str(), "object_lock" | "assume_role"), "{gone}");
            }
        }
        assert!(!is_verified(&[]));
    }
}
