//! Each function's own `main`, under the Lambda runtime API, over KMS and DynamoDB as an emulator has them.

use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::{
    config::{Credentials, SharedCredentialsProvider},
    types::{KeySpec, KeyUsageType},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use walwarden_contract::address::AddressPolicy;
use walwarden_core::{
    Domain, Settings,
    destinations::{Network, http_client},
    edge::Edge,
    keyring::{KeySet, Keyring, KmsConfig, KmsKey, KmsKeyring},
    table::Table,
};
use walwarden_tests::{LambdaRuntime, Ministack};

struct World {
    lambda: LambdaRuntime,
    http: Client,
    token: String,
    org: String,
    _aws: Ministack,
}

async fn create(kms: &aws_sdk_kms::Client, spec: KeySpec, usage: KeyUsageType) -> String {
    let made = kms.create_key().key_spec(spec).key_usage(usage).send().await.unwrap();
    made.key_metadata.unwrap().arn.unwrap()
}

async fn world() -> World {
    let aws = Ministack::start().unwrap();
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(aws.region()))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            &aws.access_key,
            &aws.secret_key,
            None,
            None,
            "test",
        )))
        .http_client(http_client())
        .endpoint_url(aws.endpoint())
        .build();
    let kms = aws_sdk_kms::Client::new(&config);
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(create(&kms, KeySpec::EccNistEdwards25519, KeyUsageType::SignVerify).await);
    }
    keys.push(create(&kms, KeySpec::Hmac256, KeyUsageType::GenerateVerifyMac).await);
    keys.push(create(&kms, KeySpec::SymmetricDefault, KeyUsageType::EncryptDecrypt).await);
    let table = Table::new(aws_sdk_dynamodb::Client::new(&config), "walwarden");
    table.create_if_missing().await.unwrap();

    // The organization that a deployment's operator makes first.
    let signing = |n: usize| KmsKey { key_id: keys[n].clone(), not_before: None };
    let kms_config = KmsConfig {
        manifest: signing(0),
        checkpoint: signing(1),
        receipt: signing(2),
        mac_key_id: keys[3].clone(),
        encryption_key_id: keys[4].clone(),
        retired: KeySet::default(),
    };
    let keyring = Keyring::Kms(KmsKeyring::connect(&config, kms_config).await.unwrap());
    let settings = Settings {
        deployment: "lambda-test".into(),
        base_url: "https://walwarden.test".into(),
        epoch: 0,
        network: Network::new(AddressPolicy { allow_private: false }, false),
        die_at: None,
    };
    let domain = Domain::new(table, keyring, Edge::system(), settings);
    let (org, token) = domain.create_organization("test").await.unwrap();

    let endpoint = aws.endpoint();
    let mut lambda = LambdaRuntime::start(&["api", "worker", "dispatch", "sentinel"]).unwrap();
    let invoke = lambda.invoke_url("none");
    let lambda_endpoint = invoke.split("/2015").next().unwrap().to_owned();
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ENDPOINT_URL_LAMBDA", lambda_endpoint.as_str()),
        ("AWS_REGION", aws.region()),
        ("AWS_ACCESS_KEY_ID", aws.access_key.as_str()),
        ("AWS_SECRET_ACCESS_KEY", aws.secret_key.as_str()),
        ("WALWARDEN_TABLE", "walwarden"),
        ("WALWARDEN_DEPLOYMENT", "lambda-test"),
        ("WALWARDEN_BASE_URL", "https://walwarden.test"),
        ("WALWARDEN_KMS_MANIFEST_KEY", keys[0].as_str()),
        ("WALWARDEN_KMS_CHECKPOINT_KEY", keys[1].as_str()),
        ("WALWARDEN_KMS_RECEIPT_KEY", keys[2].as_str()),
        ("WALWARDEN_KMS_MAC_KEY", keys[3].as_str()),
        ("WALWARDEN_KMS_DATA_KEY", keys[4].as_str()),
        ("WALWARDEN_WORKER_FUNCTION", "worker"),
        ("WALWARDEN_DISPATCH_FUNCTION", "dispatch"),
        ("WALWARDEN_ECS_CLUSTER", "walwarden"),
        ("WALWARDEN_ECS_TASK_DEFINITION", "runner"),
        ("WALWARDEN_ECS_SUBNETS", "subnet-1"),
        ("WALWARDEN_ECS_SECURITY_GROUPS", "sg-1"),
        ("RUST_LOG", "warn"),
    ];
    for (name, program) in [
        ("api", env!("CARGO_BIN_EXE_walwarden-api")),
        ("worker", env!("CARGO_BIN_EXE_walwarden-worker")),
        ("dispatch", env!("CARGO_BIN_EXE_walwarden-dispatch")),
        ("sentinel", env!("CARGO_BIN_EXE_walwarden-sentinel")),
    ] {
        lambda.function(name, program.as_ref(), &environment).unwrap();
    }
    let http = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let world = World { lambda, http, token: token.expose().into(), org: org.to_string(), _aws: aws };
    world.wait_for("api").await;
    world
}

impl World {
    /// The emulator takes requests for a function before its program asks for them.
    async fn wait_for(&self, name: &str) {
        let begun = Instant::now();
        loop {
            let answered = self.http.get(format!("{}/healthz", self.lambda.url(name))).send().await;
            if answered.is_ok_and(|r| r.status().is_success()) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{name} does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn get(&self, path: &str, bearer: &str) -> (StatusCode, Value) {
        let response =
            self.http.get(format!("{}{path}", self.lambda.url("api"))).bearer_auth(bearer).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn invoke(&self, name: &str, event: Value) -> Value {
        let response = self.http.post(self.lambda.invoke_url(name)).json(&event).send().await.unwrap();
        response.json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_answers_under_the_runtime_api() {
    let world = world().await;

    let (status, profile) = world.get("/api/v1/profile", &world.token).await;
    assert_eq!((status, &profile["orgId"]), (StatusCode::OK, &json!(world.org)));
    let (status, refused) = world.get("/api/v1/databases", "wal_0").await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")));
    let pem =
        world.http.get(format!("{}/.well-known/walwarden-pubkey.pem", world.lambda.url("api"))).send().await.unwrap();
    assert_eq!(KeySet::from_pem(&pem.text().await.unwrap()).unwrap().keys().len(), 3);

    // Encrypted under KMS by `api`; the hosted service does not dial the loopback address that the name leads to,
    // and says so through `worker`, which decrypts.
    let destination = json!({
        "name": "b", "provider": "s3_compatible", "endpoint": "https://localhost:9", "region": "us-east-1",
        "bucket": "my-backups", "accessKeyId": "AK", "secretAccessKey": "not so secret",
    });
    let created: Value = world
        .http
        .post(format!("{}/api/v1/destinations", world.lambda.url("api")))
        .bearer_auth(&world.token)
        .header("idempotency-key", "1")
        .json(&destination)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = created["id"].as_str().unwrap_or_else(|| panic!("not created: {created}"));
    let call = json!({ "call": "preflight", "org": world.org, "destination": id, "actor": "test" });
    let reply = world.invoke("worker", call).await;
    assert_eq!(reply["Ok"]["result"], "failed", "{reply}");
    assert!(!reply.to_string().contains("not so secret"));

    // HTTP and calls arrive at the same function.
    let inspect = world
        .http
        .post(format!("{}/worker/v1/restores/inspect", world.lambda.url("worker")))
        .json(&json!({ "token": "nonsense" }))
        .send()
        .await
        .unwrap();
    assert_eq!(inspect.status(), StatusCode::UNAUTHORIZED);
    let inspect: Value = inspect.json().await.unwrap();
    assert_eq!(inspect["error"]["code"], "token_invalid");

    assert_eq!(world.invoke("sentinel", json!({})).await, Value::Null);
    let launch = json!({ "call": "launch", "org": world.org, "job": "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a" });
    let refused = world.invoke("dispatch", launch).await;
    assert!(refused["errorMessage"].as_str().is_some_and(|m| m.contains("there is no")), "{refused}");
}
