//! The AWS arm against an emulator: roles, external ids, policies.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_s3::types::PublicAccessBlockConfiguration;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use serde_json::json;
use walwarden_contract::{
    address::AddressPolicy,
    api::{CheckOutcome, DestinationAccess, PreflightCheck},
};
use walwarden_core::destinations::{
    Bucket, BucketConfig, LockMode, Network, Probe, PutOutcome, http_client, is_verified, preflight,
};
use walwarden_tests::Ministack;

use crate::{
    destinations::{outcome, show},
    world::{Fault, digest, door, in_minutes, now, org, send},
};

const ACCOUNT: &str = "000000000000";

/// An SDK configuration for the emulator's root identity.
pub fn sdk(stack: &Ministack) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(stack.region()))
        .endpoint_url(stack.endpoint())
        .http_client(http_client())
        .credentials_provider(SharedCredentialsProvider::new(Credentials::from_keys(
            &stack.access_key,
            &stack.secret_key,
            None,
        )))
        .build()
}

fn network(stack: &Ministack) -> Network {
    Network::new(AddressPolicy { allow_private: true }, true).with_aws(sdk(stack))
}

fn config(role: &str, external_id: &str) -> BucketConfig {
    let role_arn = format!("arn:aws:iam::{ACCOUNT}:role/{role}");
    BucketConfig {
        bucket: "customer-backups".into(),
        region: "us-east-1".into(),
        access: DestinationAccess::AwsS3 { role_arn, external_id: external_id.into() },
    }
}

/// The actions that the product's page asks for.
const ACTIONS: &[&str] = &[
    "s3:PutObject",
    "s3:GetObject",
    "s3:DeleteObject",
    "s3:ListBucket",
    "s3:GetBucketLocation",
    "s3:GetBucketVersioning",
    "s3:PutObjectRetention",
    "s3:PutObjectLegalHold",
    "s3:GetObjectRetention",
    "s3:GetObjectLegalHold",
    "s3:GetObjectVersion",
    "s3:ListBucketVersions",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetEncryptionConfiguration",
    "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketPolicy",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
];

async fn create_role(stack: &Ministack, name: &str, external_id: Option<&str>, actions: &[&str]) {
    let mut trust = json!({"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "sts:AssumeRole"});
    if let Some(id) = external_id {
        trust["Condition"] = json!({"StringEquals": {"sts:ExternalId": id}});
    }
    let trust = json!({"Version": "2012-10-17", "Statement": [trust]}).to_string();
    iam(stack, &[("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", &trust)]).await;
    let resources = ["arn:aws:s3:::customer-backups", "arn:aws:s3:::customer-backups/*"];
    let policy =
        json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]})
            .to_string();
    iam(
        stack,
        &[("Action", "PutRolePolicy"), ("RoleName", name), ("PolicyName", "backups"), ("PolicyDocument", &policy)],
    )
    .await;
}

/// Calls IAM's query interface: one call is not worth another SDK.
async fn iam(stack: &Ministack, form: &[(&str, &str)]) {
    let mut encoded = url::form_urlencoded::Serializer::new(String::new());
    encoded.extend_pairs(form).append_pair("Version", "2010-05-08");
    let body = encoded.finish();
    let identity = Credentials::from_keys(&stack.access_key, &stack.secret_key, None).into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("iam")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let url = format!("{}/", stack.endpoint());
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let signable =
        SignableRequest::new("POST", &url, [kind].into_iter(), SignableBody::Bytes(body.as_bytes())).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let mut request = reqwest::Client::new().post(&url).header(kind.0, kind.1).body(body.clone());
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

async fn create_bucket(stack: &Ministack) -> aws_sdk_s3::Client {
    let s3 =
        aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&sdk(stack)).force_path_style(true).build());
    s3.create_bucket().bucket("customer-backups").object_lock_enabled_for_bucket(true).send().await.unwrap();
    s3
}

async fn block_public_access(s3: &aws_sdk_s3::Client, policies: bool) {
    let block = PublicAccessBlockConfiguration::builder();
    let block = block
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(policies)
        .restrict_public_buckets(true)
        .build();
    s3.put_public_access_block()
        .bucket("customer-backups")
        .public_access_block_configuration(block)
        .send()
        .await
        .unwrap();
}

/// The policy that the product's page asks for.
async fn deny_plain_http(s3: &aws_sdk_s3::Client) {
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "DenyNonTLS", "Effect": "Deny", "Principal": "*", "Action": "s3:*",
        "Resource": ["arn:aws:s3:::customer-backups", "arn:aws:s3:::customer-backups/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }]});
    s3.put_bucket_policy().bucket("customer-backups").policy(policy.to_string()).send().await.unwrap();
}

async fn probe(net: &Network, config: &BucketConfig, id: &str) -> Vec<PreflightCheck> {
    println!("{config:?}");
    let checks = preflight(config, net, &Probe { org: &org(), id, at: now() }).await;
    show(&checks);
    checks
}

#[tokio::test]
async fn a_role_is_assumed_under_its_external_id_only() {
    let stack = Ministack::start().unwrap();
    create_bucket(&stack).await;
    create_role(&stack, "good", Some("wal-right"), ACTIONS).await;
    let net = network(&stack);
    let bucket = Bucket::connect(&config("good", "wal-right"), &net, now()).await.unwrap();
    let put = bucket.put_locked("org/o/x.json", b"{}", in_minutes(5), "application/json").await.unwrap();
    let again = bucket.put_locked("org/o/x.json", b"{}", in_minutes(5), "application/json").await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere { version_id: put.version_id().map(str::to_owned) });
    // The lock is asked for where HEAD is silent about it.
    let facts = bucket.head("org/o/x.json", None).await.unwrap().unwrap();
    assert_eq!(facts.lock_mode(), Some(LockMode::Governance));

    // URLs carry the session and expect the role's account to own the bucket.
    let url = bucket.presign_get("org/o/x.json", put.version_id(), now(), Duration::from_secs(900)).unwrap();
    assert!(url.url.expose().contains("X-Amz-Security-Token="));
    assert_eq!(url.headers, [("x-amz-expected-bucket-owner".to_owned(), ACCOUNT.to_owned())]);
    assert_eq!(send(&url, &[]).await.body, b"{}");
    let document = bucket
        .presign_put_locked("org/o/y", &digest(b"y"), in_minutes(5), LockMode::Governance, "text/plain", now())
        .unwrap();
    assert_eq!(send(&document, b"z").await.status, 400);
    assert_eq!(send(&document, b"y").await.status, 200);
    assert_eq!(send(document.head.as_deref().unwrap(), &[]).await.status, 200);

    for wrong in [config("good", "wal-wrong"), config("absent", "wal-right")] {
        let error = Bucket::connect(&wrong, &net, now()).await.unwrap_err();
        assert!(error.code().is_some() && !error.is_passing(), "{error}");
    }
    // A session is used until twenty minutes before its end, and no URL outlives it.
    let late = now() + jiff::SignedDuration::from_mins(39);
    assert!(Bucket::connect(&config("good", "wal-right"), &net, late).await.is_ok());
    let end = now() + jiff::SignedDuration::from_mins(55);
    let clipped = bucket.presign_get("k", None, end, Duration::from_secs(900)).unwrap();
    let lives: i64 = url::Url::parse(clipped.url.expose())
        .unwrap()
        .query_pairs()
        .find(|(n, _)| n == "X-Amz-Expires")
        .unwrap()
        .1
        .parse()
        .unwrap();
    assert!((200..=300).contains(&lives), "{lives}");
    assert!(
        bucket.presign_get("k", None, now() + jiff::SignedDuration::from_mins(60), Duration::from_secs(900)).is_err()
    );

    let none = Network::new(AddressPolicy { allow_private: true }, true);
    assert!(Bucket::connect(&config("good", "wal-right"), &none, now()).await.is_err());
}

#[tokio::test]
async fn preflight_on_aws() {
    let stack = Ministack::start().unwrap();
    let s3 = create_bucket(&stack).await;
    create_role(&stack, "good", Some("wal-right"), ACTIONS).await;
    create_role(&stack, "open", None, ACTIONS).await;
    let net = network(&stack);

    let checks = probe(&net, &config("good", "wal-wrong"), "01jd7z9k3m5n7p9r1t3v5x7z91").await;
    assert_eq!(outcome(&checks, "assume_role"), CheckOutcome::Failed);
    assert_eq!(checks.iter().filter(|check| check.outcome == CheckOutcome::Skipped).count(), checks.len() - 1);

    block_public_access(&s3, false).await;
    let checks = probe(&net, &config("open", "wal-right"), "01jd7z9k3m5n7p9r1t3v5x7z92").await;
    for failed in ["external_id_enforced", "public_access_block", "tls_only_policy"] {
        assert_eq!(outcome(&checks, failed), CheckOutcome::Failed, "{failed}");
    }
    assert!(!is_verified(&checks));

    block_public_access(&s3, true).await;
    deny_plain_http(&s3).await;
    // The emulator is reached over plain HTTP and refuses everything by now.
    let net = Network::new(net.policy(), true)
        .with_aws(sdk(&stack).into_builder().endpoint_url(door(&stack.endpoint(), Fault::None).await).build());
    let checks = probe(&net, &config("good", "wal-right"), "01jd7z9k3m5n7p9r1t3v5x7z93").await;
    // The emulator forgets the lock that an upload was created with. Preflight has to notice.
    let not_passed: Vec<&str> =
        checks.iter().filter(|check| check.outcome != CheckOutcome::Passed).map(|check| check.name.as_str()).collect();
    assert_eq!(not_passed, ["multipart_upload"]);
    assert!(!is_verified(&checks));
}

#[tokio::test]
async fn missing_permissions_are_named() {
    let stack = Ministack::start().unwrap();
    create_bucket(&stack).await;
    let net = network(&stack);
    for (number, (name, action, check)) in (0..).zip([
        ("no-lock", "s3:PutObjectRetention", "put_object_retention"),
        ("no-get", "s3:GetObject", "get_object"),
        ("no-retention", "s3:GetObjectRetention", "get_object_retention"),
        ("no-delete", "s3:DeleteObject", "cleanup"),
        ("no-versioning", "s3:GetBucketVersioning", "bucket_versioning"),
        ("no-put", "s3:PutObject", "put_object"),
    ]) {
        let actions: Vec<&str> = ACTIONS.iter().copied().filter(|known| *known != action).collect();
        create_role(&stack, name, Some("wal-right"), &actions).await;
        let checks = probe(&net, &config(name, "wal-right"), &format!("01jd7z9k3m5n7p9r1t3v5x7z{number:02}")).await;
        assert_eq!(outcome(&checks, check), CheckOutcome::Failed, "{action}");
    }
}
