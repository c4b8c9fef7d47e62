//! A destination that was connected to.

use std::{fmt, time::Duration};

use aws_credential_types::Credentials;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
};
use aws_smithy_runtime_api::client::http::SharedHttpConnector;
use jiff::Timestamp;
use url::Url;

use super::{
    Access, BucketConfig, StorageError, Traits,
    config::{account_of_role, endpoint_url},
    network::{Network, client_of},
};

/// A bucket with a client and credentials that sign for it. On AWS these live at least twenty minutes from
/// the time of connecting: connect anew for each call or step, it costs nothing while the session is cached.
#[derive(Clone)]
pub struct Bucket {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) traits: Traits,
    pub(super) is_aws: bool,
    /// Sent with every request to AWS: a bucket of that name in another account is not the customer's.
    pub(super) owner: Option<String>,
    /// `<scheme>://<host>[/<bucket>]`, no slash at the end.
    pub(super) base: String,
    pub(super) credentials: Credentials,
    pub(super) credentials_expire_at: Option<Timestamp>,
    pub(super) client: Client,
    pub(super) connector: SharedHttpConnector,
}

impl Bucket {
    /// Checks the configuration and, on AWS, assumes the role (or takes a cached session). Nothing is asked of
    /// the bucket yet.
    ///
    /// # Errors
    /// [`Invalid`](super::StorageErrorKind::Invalid) for what [`BucketConfig::check`] refuses; STS's refusal.
    pub async fn connect(config: &BucketConfig, net: &Network, at: Timestamp) -> Result<Self, StorageError> {
        config.check(net)?;
        match &config.access {
            Access::AwsS3 { role_arn, external_id } => {
                let session = net.sessions.get(net, &config.region, role_arn, external_id, at).await?;
                Self::with_credentials(config, net, session.credentials, Some(session.expires_at))
            }
            Access::S3Compatible { access_key_id, secret_access_key, .. } => {
                let credentials =
                    Credentials::new(access_key_id, secret_access_key.expose(), None, None, "walwarden-destination");
                Self::with_credentials(config, net, credentials, None)
            }
        }
    }

    pub(super) fn with_credentials(
        config: &BucketConfig,
        net: &Network,
        credentials: Credentials,
        credentials_expire_at: Option<Timestamp>,
    ) -> Result<Self, StorageError> {
        let is_aws = config.is_aws();
        let (root, by_path) = match &config.access {
            Access::S3Compatible { endpoint, .. } => (endpoint_url(endpoint, net)?, true),
            Access::AwsS3 { .. } => aws_endpoint(config, net)?,
        };
        let root_text = root.as_str().trim_end_matches('/').to_owned();
        let base = if by_path {
            format!("{root_text}/{}", config.bucket)
        } else {
            root_text.replacen("://", &format!("://{}.", config.bucket), 1)
        };
        let owner = match &config.access {
            Access::AwsS3 { role_arn, .. } => account_of_role(role_arn).map(str::to_owned),
            Access::S3Compatible { .. } => None,
        };
        let connector = net.connector(is_aws).clone();
        let mut settings = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(client_of(connector.clone()))
            .endpoint_url(root_text)
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials.clone())
            .force_path_style(by_path)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_attempt_timeout(Duration::from_secs(60))
                    .operation_timeout(Duration::from_secs(180))
                    .build(),
            );
        if !is_aws {
            // The SDK's own CRC32 is refused by some compatible servers; we send SHA-256 where it matters.
            settings = settings
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        Ok(Self {
            name: config.bucket.clone(),
            region: config.region.clone(),
            traits: config.traits(),
            is_aws,
            owner,
            base,
            credentials,
            credentials_expire_at,
            client: Client::from_conf(settings.build()),
            connector,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its provider can do.
    pub fn traits(&self) -> Traits {
        self.traits
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("region", &self.region)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

// A name with dots has no certificate as a host name: such buckets are addressed by path.
fn aws_endpoint(config: &BucketConfig, net: &Network) -> Result<(Url, bool), StorageError> {
    if let Some(replaced) = net.aws().and_then(|aws| aws.endpoint_url()) {
        return Ok((endpoint_url(replaced, net)?, true));
    }
    let suffix = if config.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let text = format!("https://s3.{}.{suffix}", config.region);
    Ok((endpoint_url(&text, net)?, config.bucket.contains('.')))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use walwarden_contract::address::AddressPolicy;

    use super::*;

    fn url(bucket: &str, region: &str) -> String {
        let net = Network::new(AddressPolicy { allow_private: false }, false);
        let access = Access::AwsS3 { role_arn: "arn:aws:iam::123456789012:role/r".into(), external_id: "wal-1".into() };
        let config = BucketConfig { bucket: bucket.into(), region: region.into(), access };
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("token/+=".into()), None, "test");
        let bucket = Bucket::with_credentials(&config, &net, credentials, None).unwrap();
        let at = "2026-11-24T08:00:00Z".parse().unwrap();
        let signed = bucket.presign_get("org/o/a b+ü.dump", Some("v=1&x"), at, Duration::from_secs(86_400)).unwrap();
        assert_eq!(signed.headers, [("x-amz-expected-bucket-owner".to_owned(), "123456789012".to_owned())]);
        assert_eq!(signed.expires_at, "2026-11-24T08:15:00.000Z");
        signed.url.expose().to_owned()
    }

    #[test]
    fn urls_on_aws() {
        let scope = "?versionId=v%3D1%26x&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261124%2F";
        for (bucket, region, start) in [
            (
                "my-backups",
                "eu-central-1",
                "https://my-backups.s3.eu-central-1.amazonaws.com/org/o/a%20b%2B%C3%BC.dump",
            ),
            ("my.backups", "us-east-1", "https://s3.us-east-1.amazonaws.com/my.backups/org/o/a%20b%2B%C3%BC.dump"),
            ("my-backups", "cn-north-1", "https://my-backups.s3.cn-north-1.amazonaws.com.cn/org/o/a%20b%2B%C3%BC.dump"),
        ] {
            let url = url(bucket, region);
            assert!(
                url.starts_with(&format!("{start}{scope}{region}%2Fs3%2Faws4_request&X-Amz-Date=20261124T080000Z")),
                "{url}"
            );
            assert!(
                url.contains("&X-Amz-Expires=900&X-Amz-SignedHeaders=host%3Bx-amz-expected-bucket-owner&"),
                "{url}"
            );
            assert!(url.contains("&X-Amz-Security-Token=token%2F%2B%3D"), "{url}");
        }
    }
}
