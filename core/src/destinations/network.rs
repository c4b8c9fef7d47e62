//! How buckets are dialled: one connector, one resolver, one rule about addresses.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    dns::{DnsFuture, ResolveDns, ResolveDnsError},
    http::{HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn},
};
use walwarden_contract::address::AddressPolicy;

use super::session::Sessions;

// DNS, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
// Until the head of an answer has arrived. Completing a large upload is the slowest answer there is.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// What a deployment lets us dial, and with which identity of our own. Clones share connections and
/// assumed roles; make one per process.
#[derive(Clone)]
pub struct Network {
    policy: AddressPolicy,
    allow_http: bool,
    aws: Option<SdkConfig>,
    named: SharedHttpConnector,
    amazon: SharedHttpConnector,
    pub(super) sessions: Arc<Sessions>,
}

impl Network {
    /// Endpoints that customers name are dialled under `policy`; `http://` only where `allow_http`
    /// (self-hosted installs). Without [`Network::with_aws`] there are no AWS destinations.
    pub fn new(policy: AddressPolicy, allow_http: bool) -> Self {
        // AWS's own host names are built by us, and an interface endpoint gives them private addresses.
        let open = AddressPolicy { allow_private: true };
        Self {
            policy,
            allow_http,
            aws: None,
            named: connector(policy),
            amazon: connector(open),
            sessions: Arc::default(),
        }
    }

    /// With the identity that assumes customers' roles. An endpoint URL in `aws` replaces AWS's own, for
    /// tests against an emulator.
    #[must_use]
    pub fn with_aws(mut self, aws: SdkConfig) -> Self {
        self.aws = Some(aws);
        self
    }

    /// The rule about addresses.
    pub fn policy(&self) -> AddressPolicy {
        self.policy
    }

    /// Whether `http://` endpoints are allowed.
    pub fn allows_http(&self) -> bool {
        self.allow_http
    }

    pub(super) fn aws(&self) -> Option<&SdkConfig> {
        self.aws.as_ref()
    }

    pub(super) fn connector(&self, is_aws: bool) -> &SharedHttpConnector {
        if is_aws { &self.amazon } else { &self.named }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Network");
        out.field("policy", &self.policy)
            .field("allow_http", &self.allow_http)
            .field("aws", &self.aws.is_some())
            .finish()
    }
}

/// An HTTP client for SDK clients that talk to AWS itself (KMS, DynamoDB): the SDKs here are built without one.
pub fn http_client() -> SharedHttpClient {
    client_of(connector(AddressPolicy { allow_private: true }))
}

pub(super) fn client_of(connector: SharedHttpConnector) -> SharedHttpClient {
    http_client_fn(move |_, _| connector.clone())
}

fn connector(policy: AddressPolicy) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
    let connector = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .connector_settings(settings)
        .build_with_resolver(Resolver { policy });
    SharedHttpConnector::new(connector)
}

/// A name leads to an address that may not be dialled.
#[derive(Debug)]
pub(super) struct AddressRefused;

impl AddressRefused {
    pub(super) const TEXT: &str =
        "the endpoint leads to an address that this deployment does not dial (private, link-local or reserved)";
}

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::TEXT)
    }
}

impl std::error::Error for AddressRefused {}

// What it returns is what is connected to: there is no second look-up that could answer otherwise.
#[derive(Debug, Clone, Copy)]
struct Resolver {
    policy: AddressPolicy,
}

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found: Vec<IpAddr> = tokio::net::lookup_host((name, 0))
                .await
                .map_err(ResolveDnsError::new)?
                .map(|socket| socket.ip())
                .collect();
            let allowed: Vec<IpAddr> = found.iter().copied().filter(|address| self.policy.allows(*address)).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(ResolveDnsError::new(AddressRefused));
            }
            Ok(allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_held_to_the_rule() {
        let hosted = Resolver { policy: AddressPolicy { allow_private: false } };
        let own = Resolver { policy: AddressPolicy { allow_private: true } };
        assert!(hosted.resolve_dns("localhost").await.is_err());
        assert!(!own.resolve_dns("localhost").await.unwrap().is_empty());
    }
}
