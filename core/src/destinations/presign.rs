//! URLs for workers, each good for one request [S3 "Authenticating Requests: Using Query Parameters"].
//!
//! The SDK's presigner decides by itself which headers it signs; here every header that matters is named,
//! for the signed digests are what binds a URL to its bytes: other bytes, another length, another part
//! number or a changed header are refused by the provider. The payload itself is `UNSIGNED-PAYLOAD`.

use std::time::Duration;

use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use walwarden_contract::{
    secret::Secret,
    time,
    worker::{BytesDigest, PartDigest, SignedRequest},
};

use super::{Bucket, LockMode, StorageError, lock::lock_date, session::system_time};

/// No URL lives longer.
pub const URL_SECONDS: u64 = 15 * 60;

/// Everything but RFC 3986's unreserved characters is encoded [SigV4 "UriEncode"].
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &STRICT.remove(b'/');

type Headers = Vec<(&'static str, String)>;

impl Bucket {
    /// Signs one request. All `headers` are signed and, but for Host, must be sent as they are.
    ///
    /// # Errors
    /// [`Invalid`](super::StorageErrorKind::Invalid) where the session that signs would not outlive a minute.
    pub fn presign(
        &self,
        method: &'static str,
        key: &str,
        query: &[(&str, &str)],
        headers: Headers,
        at: Timestamp,
        expires: Duration,
    ) -> Result<SignedRequest, StorageError> {
        const OPERATION: &str = "presign";
        let fail = |what: &str| StorageError { key: Some(key.to_owned()), ..StorageError::invalid(OPERATION, what) };
        let expires = self.lifetime(at, expires).ok_or_else(|| fail("the role's session ends; connect again"))?;
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| {
                format!("{}={}", utf8_percent_encode(name, STRICT), utf8_percent_encode(value, STRICT))
            })
            .collect();
        let mut url = format!("{}/{}", self.base, utf8_percent_encode(key, PATH));
        if !query.is_empty() {
            url = format!("{url}?{}", query.join("&"));
        }
        let mut headers = headers;
        if let Some(owner) = &self.owner {
            headers.push(("x-amz-expected-bucket-owner", owner.clone()));
        }

        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.expires_in = Some(expires);
        settings.excluded_headers = None;
        let identity: Identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(system_time(at))
            .settings(settings)
            .build()
            .map_err(|_| fail("the request cannot be signed"))?
            .into();
        let named = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let signable = SignableRequest::new(method, &url, named, SignableBody::UnsignedPayload)
            .map_err(|_| fail("the request cannot be signed"))?;
        let (instructions, _) = sign(signable, &params).map_err(|_| fail("the request cannot be signed"))?.into_parts();
        let separator = if query.is_empty() { '?' } else { '&' };
        let signature: Vec<String> = instructions
            .params()
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, STRICT)))
            .collect();
        Ok(SignedRequest {
            method: method.into(),
            url: Secret::new(format!("{url}{separator}{}", signature.join("&"))),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            expires_at: time::format(at + SignedDuration::try_from(expires).unwrap_or_default()),
            head: None,
        })
    }

    /// A URL that takes exactly these bytes as that part of that upload.
    ///
    /// # Errors
    /// As [`Bucket::presign`]; a digest that is not lower-case hex.
    pub fn presign_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        bytes: &BytesDigest,
        digest: PartDigest,
        at: Timestamp,
    ) -> Result<SignedRequest, StorageError> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload_id)];
        self.presign("PUT", key, &query, digest_headers(key, bytes, digest)?, at, Duration::from_secs(URL_SECONDS))
    }

    /// A URL that takes exactly these bytes as that object, locked until `retain_until` (rounded up to a whole
    /// second), and beside it a HEAD of the same key. Where the provider can, a PUT onto an existing object
    /// answers 412.
    ///
    /// # Errors
    /// As [`Bucket::presign_part`].
    pub fn presign_put_locked(
        &self,
        key: &str,
        bytes: &BytesDigest,
        retain_until: Timestamp,
        mode: LockMode,
        content_type: &str,
        at: Timestamp,
    ) -> Result<SignedRequest, StorageError> {
        let mut headers = digest_headers(key, bytes, self.traits.part_digest)?;
        headers.push(("content-type", content_type.to_owned()));
        headers.push(("x-amz-object-lock-mode", mode.as_str().to_owned()));
        headers.push(("x-amz-object-lock-retain-until-date", lock_date(retain_until).to_string()));
        if self.traits.conditional_put {
            headers.push(("if-none-match", "*".to_owned()));
        }
        let lifetime = Duration::from_secs(URL_SECONDS);
        let mut put = self.presign("PUT", key, &[], headers, at, lifetime)?;
        // Signers leave this header out of query signatures; as a parameter it is signed like any other.
        put.head = Some(Box::new(self.presign(
            "HEAD",
            key,
            &[("x-amz-checksum-mode", "ENABLED")],
            Vec::new(),
            at,
            lifetime,
        )?));
        Ok(put)
    }

    /// A URL that reads one version of an object, ranges included: Range is not among the signed headers.
    ///
    /// # Errors
    /// As [`Bucket::presign`].
    pub fn presign_get(
        &self,
        key: &str,
        version_id: Option<&str>,
        at: Timestamp,
        expires: Duration,
    ) -> Result<SignedRequest, StorageError> {
        let query: Vec<(&str, &str)> = version_id.map(|version| ("versionId", version)).into_iter().collect();
        self.presign("GET", key, &query, Vec::new(), at, expires)
    }

    // A URL dies with the session that signed it: it must not claim to live longer.
    fn lifetime(&self, at: Timestamp, wanted: Duration) -> Option<Duration> {
        let wanted = wanted.as_secs().clamp(1, URL_SECONDS);
        let left = match self.credentials_expire_at {
            Some(end) => u64::try_from(end.as_second() - at.as_second()).ok().filter(|left| *left > 60)?,
            None => URL_SECONDS,
        };
        Some(Duration::from_secs(wanted.min(left)))
    }
}

fn digest_headers(key: &str, bytes: &BytesDigest, digest: PartDigest) -> Result<Headers, StorageError> {
    let encode = |hex_text: &str, length: usize| {
        let raw = hex::decode(hex_text).ok().filter(|raw| raw.len() == length);
        raw.map(|raw| STANDARD.encode(raw)).ok_or_else(|| StorageError {
            key: Some(key.to_owned()),
            ..StorageError::invalid("presign", "a digest is not hex of its length")
        })
    };
    let mut headers = vec![("content-length", bytes.size_bytes.to_string()), ("content-md5", encode(&bytes.md5, 16)?)];
    if digest == PartDigest::Sha256 {
        headers.push(("x-amz-checksum-sha256", encode(&bytes.sha256, 32)?));
    }
    Ok(headers)
}
