//! What a customer tells us of a bucket, checked before anything is dialled.

use url::{Host, Url};
pub use walwarden_contract::api::DestinationAccess as Access;
use walwarden_contract::worker::PartDigest;

use super::{StorageError, network::Network};

/// A bucket and how to reach it, secrets in the clear: lives in memory only.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// Bucket name.
    pub bucket: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Provider and credentials.
    pub access: Access,
}

/// S3's most parts of one upload ["Amazon S3 multipart upload limits"].
pub const S3_PART_CAP: u32 = 10_000;
/// With fewer parts than these the largest would have to be too large.
const LEAST_PART_CAP: u32 = 20;

/// What differs between providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Most parts of one upload.
    pub part_cap: u32,
    /// Which digest headers bind a part's URL to its bytes.
    pub part_digest: PartDigest,
    /// Whether a PUT with `If-None-Match: *` is refused where the object exists.
    pub conditional_put: bool,
}

impl BucketConfig {
    /// What the provider can do.
    pub fn traits(&self) -> Traits {
        let part_cap = match self.access {
            Access::S3Compatible { part_cap, .. } => part_cap.unwrap_or(S3_PART_CAP),
            Access::AwsS3 { .. } => S3_PART_CAP,
        };
        Traits { part_cap, part_digest: PartDigest::Sha256, conditional_put: true }
    }

    /// Whether this is AWS itself, and not a server that speaks its protocol.
    pub fn is_aws(&self) -> bool {
        matches!(self.access, Access::AwsS3 { .. })
    }

    /// Refuses what cannot be a bucket, before any request: names that would end up in a host name, endpoints
    /// with credentials or paths, plain HTTP and literal addresses the deployment does not allow.
    ///
    /// # Errors
    /// [`Invalid`](super::StorageErrorKind::Invalid), with what to correct.
    pub fn check(&self, net: &Network) -> Result<(), StorageError> {
        let invalid = |what: &str| Err(StorageError::invalid("check destination", what));
        if !is_bucket_name(&self.bucket) {
            return invalid("the bucket's name is not 3 to 63 of a-z, 0-9, dot and hyphen");
        }
        match &self.access {
            Access::AwsS3 { role_arn, external_id } => {
                if !is_aws_region(&self.region) {
                    return invalid("the region is not an AWS region such as eu-central-1");
                }
                if account_of_role(role_arn).is_none() {
                    return invalid("the role is not of the form arn:aws:iam::<account>:role/<name>");
                }
                if !is_external_id(external_id) {
                    return invalid("the external id is not 2 to 1,224 of the characters STS allows");
                }
                Ok(())
            }
            Access::S3Compatible { endpoint, access_key_id, secret_access_key, part_cap } => {
                let region = self.region.as_bytes();
                if region.is_empty()
                    || region.len() > 64
                    || !region.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b))
                {
                    return invalid("the region is not 1 to 64 letters, digits, hyphens and underscores");
                }
                if !(1..=200).contains(&access_key_id.len())
                    || !access_key_id.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
                {
                    return invalid(
                        "the access key id is empty, or longer than 200, or holds characters that no key id has",
                    );
                }
                if secret_access_key.expose().is_empty() {
                    return invalid("the secret access key is empty");
                }
                if part_cap.is_some_and(|cap| !(LEAST_PART_CAP..=S3_PART_CAP).contains(&cap)) {
                    return invalid("partCap is not 20 to 10,000");
                }
                endpoint_url(endpoint, net).map(|_| ())
            }
        }
    }
}

/// The endpoint as a URL with nothing but scheme, host and port.
pub(super) fn endpoint_url(endpoint: &str, net: &Network) -> Result<Url, StorageError> {
    let invalid = |what: &str| StorageError::invalid("check destination", what);
    if endpoint.len() > 300 {
        return Err(invalid("the endpoint is longer than 300 bytes"));
    }
    let url =
        Url::parse(endpoint).map_err(|_| invalid("the endpoint is not a URL such as https://minio.example.com"))?;
    match url.scheme() {
        "https" => {}
        "http" if net.allows_http() => {}
        "http" => return Err(invalid("the endpoint is plain HTTP; backups travel over TLS only")),
        _ => return Err(invalid("the endpoint does not begin with https://")),
    }
    let bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !bare || url.path() != "/" {
        return Err(invalid("the endpoint holds more than scheme, host and port"));
    }
    // A literal address never reaches the resolver, so the address rule is applied here.
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        Some(Host::Domain(_)) => None,
        None => return Err(invalid("the endpoint names no host")),
    };
    if literal.is_some_and(|address| !net.policy().allows(address)) {
        return Err(StorageError::address_refused("check destination"));
    }
    Ok(url)
}

/// Account id in a role's ARN [IAM "IAM identifiers"].
pub(super) fn account_of_role(arn: &str) -> Option<&str> {
    let mut fields = arn.splitn(6, ':');
    let (prefix, partition, service, region) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (account, resource) = (fields.next()?, fields.next()?);
    let name = resource.strip_prefix("role/")?;
    let valid = prefix == "arn"
        && matches!(partition, "aws" | "aws-cn" | "aws-us-gov")
        && service == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && (1..=576).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-/".contains(&b));
    valid.then_some(account)
}

// The rules of S3's "Bucket naming rules" that matter where a name becomes part of a host name or path.
fn is_bucket_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(b))
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

fn is_aws_region(region: &str) -> bool {
    (5..=32).contains(&region.len())
        && region.contains('-')
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !region.starts_with('-')
        && !region.ends_with('-')
}

// STS "AssumeRole", parameter ExternalId.
fn is_external_id(id: &str) -> bool {
    (2..=1224).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b))
}

#[cfg(test)]
mod tests {
    use walwarden_contract::{address::AddressPolicy, secret::Secret};

    use super::*;

    fn compatible(endpoint: &str) -> BucketConfig {
        let access = Access::S3Compatible {
            endpoint: endpoint.into(),
            access_key_id: "AK".into(),
            secret_access_key: Secret::new("s"),
            part_cap: None,
        };
        BucketConfig { bucket: "my-backups".into(), region: "us-east-1".into(), access }
    }

    #[test]
    fn endpoints() {
        let hosted = Network::new(AddressPolicy { allow_private: false }, false);
        let own = Network::new(AddressPolicy { allow_private: true }, true);
        for good in ["https://minio.example.com", "https://minio.example.com:9000/", "https://1.1.1.1"] {
            compatible(good).check(&hosted).unwrap();
        }
        for private in ["http://127.0.0.1:8333", "http://10.0.0.1", "https://[::1]:9000", "http://minio.example.com"] {
            compatible(private).check(&hosted).unwrap_err();
            compatible(private).check(&own).unwrap();
        }
        let never = [
            "http://169.254.169.254",
            "http://0xa9fea9fe",
            "https://user@example.com",
            "https://example.com/path",
            "https://example.com/?x=1",
            "ftp://example.com",
            "example.com",
            "https://[::ffff:169.254.169.254]",
        ];
        for never in never {
            compatible(never).check(&hosted).unwrap_err();
            compatible(never).check(&own).unwrap_err();
        }
    }

    #[test]
    fn names_that_would_change_the_host_are_refused() {
        let net = Network::new(AddressPolicy { allow_private: false }, false);
        for bad in ["ab", "A-bucket", "bucket/evil", "a..b", "-abc", "abc.", "10.0.0.1", "a@b.example", "bücket"] {
            let mut config = compatible("https://minio.example.com");
            config.bucket = bad.into();
            assert!(config.check(&net).is_err(), "{bad}");
        }
        let aws = |region: &str, role: &str, id: &str| BucketConfig {
            bucket: "my-backups".into(),
            region: region.into(),
            access: Access::AwsS3 { role_arn: role.into(), external_id: id.into() },
        };
        let role = "arn:aws:iam::123456789012:role/path/walwarden-backup-role";
        aws("eu-central-1", role, "wal-123").check(&net).unwrap();
        for bad in [
            aws("evil.example.com/", role, "wal-123"),
            aws("eu-central-1", "arn:aws:iam::1234:role/x", "wal-123"),
            aws("eu-central-1", "arn:aws:iam::123456789012:user/x", "wal-123"),
            aws("eu-central-1", role, ""),
        ] {
            assert!(bad.check(&net).is_err(), "{bad:?}");
        }
        assert_eq!(account_of_role(role), Some("123456789012"));
    }
}
