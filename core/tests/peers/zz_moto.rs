use walwarden_contract::{api::DestinationAccess, secret::Secret};
use walwarden_core::destinations::{BucketConfig, Probe, is_verified, preflight};
use crate::{destinations::show, world::{local, now, org}};

#[tokio::test]
async fn moto() {
    let endpoint = std::env::var("MOTO").unwrap();
    let config = BucketConfig { bucket: "lenient".into(), region: "us-east-1".into(), access: DestinationAccess::S3Compatible { endpoint, access_key_id: "AK".into(), secret_access_key: Secret::new("x") } };
    let checks = preflight(&config, &local(), &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() }).await;
    show(&checks);
    assert!(!is_verified(&checks));
}
