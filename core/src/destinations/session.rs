//! Roles of customers, assumed under the external id that their trust policy demands.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_sdk_sts::config::{Region, retry::RetryConfig, timeout::TimeoutConfig};
use jiff::Timestamp;

use super::{
    StorageError,
    network::{Network, client_of},
};

/// Role chaining caps a session at one hour [IAM "Roles terms and concepts"].
const SESSION_SECONDS: i32 = 3_600;
/// A session handed out lives at least this long: longer than any URL it signs.
const MARGIN_SECONDS: i64 = 20 * 60;

/// Credentials of an assumed role.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) credentials: Credentials,
    pub(super) expires_at: Timestamp,
}

/// Sessions that still live, by region, role and external id.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<(String, String, String), Session>>);

impl Sessions {
    /// A cached session good for at least twenty minutes after `at`, or a new one.
    pub(super) async fn get(
        &self,
        net: &Network,
        region: &str,
        role_arn: &str,
        external_id: &str,
        at: Timestamp,
    ) -> Result<Session, StorageError> {
        let key = (region.to_owned(), role_arn.to_owned(), external_id.to_owned());
        let alive = |session: &Session| session.expires_at.as_second() - at.as_second() >= MARGIN_SECONDS;
        let cached = self.0.lock().unwrap_or_else(|e| e.into_inner()).get(&key).filter(|s| alive(s)).cloned();
        if let Some(session) = cached {
            return Ok(session);
        }
        let session = assume(net, region, role_arn, Some(external_id), at).await?;
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|_, session| alive(session));
        all.insert(key, session.clone());
        Ok(session)
    }
}

/// Assumes a role now. Preflight comes here directly, with and without the external id.
pub(super) async fn assume(
    net: &Network,
    region: &str,
    role_arn: &str,
    external_id: Option<&str>,
    at: Timestamp,
) -> Result<Session, StorageError> {
    const OPERATION: &str = "AssumeRole";
    let Some(aws) = net.aws() else {
        return Err(StorageError::invalid(
            OPERATION,
            "this installation has no AWS identity of its own to assume the role with",
        ));
    };
    let answer = client(net, aws, region)
        .assume_role()
        .role_arn(role_arn)
        .role_session_name("walwarden")
        .duration_seconds(SESSION_SECONDS)
        .set_external_id(external_id.map(str::to_owned))
        .send()
        .await
        .map_err(|error| StorageError::from_sdk(OPERATION, None, error))?;
    let Some(given) = answer.credentials else {
        return Err(StorageError::invalid(OPERATION, "STS answered without credentials"));
    };
    // Counted from our own clock, and not longer than asked for: a session must never look younger than it is.
    let told = given.expiration.secs();
    let expires = told.min(at.as_second() + i64::from(SESSION_SECONDS));
    let expires_at = Timestamp::from_second(expires).unwrap_or(at);
    let credentials = Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        Some(given.session_token),
        Some(system_time(expires_at)),
        "walwarden-assumed-role",
    );
    Ok(Session { credentials, expires_at })
}

fn client(net: &Network, aws: &SdkConfig, region: &str) -> aws_sdk_sts::Client {
    let config = aws_sdk_sts::config::Builder::from(aws)
        .http_client(client_of(net.connector(true).clone()))
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(30)).build())
        .build();
    aws_sdk_sts::Client::from_conf(config)
}

/// For the SDK, which signs by `SystemTime`.
pub(super) fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
}
