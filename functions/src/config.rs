//! What a function reads from its environment, once, when it starts; and the clients made of it.

use std::{env, sync::Arc};

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use walwarden_contract::address::AddressPolicy;
use walwarden_core::{
    Domain, Settings,
    destinations::{Network, http_client},
    edge::Edge,
    keyring::{KeySet, Keyring, KmsConfig, KmsKey, KmsKeyring},
    table::Table,
};

use crate::{
    callers::{DispatchCaller, WorkerCaller},
    dispatch::EcsLauncher,
};

/// Environment of a function on AWS.
pub struct Config {
    /// `WALWARDEN_TABLE`: the table's name.
    pub table: String,
    /// `WALWARDEN_DEPLOYMENT`: audience of restore tokens, head of log origins.
    pub deployment: String,
    /// `WALWARDEN_BASE_URL`: where clients reach this deployment.
    pub base_url: String,
    /// `WALWARDEN_LOG_EPOCH`: the log's epoch, 0 until a table was restored from a backup.
    pub epoch: u32,
    aws: SdkConfig,
}

impl Config {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self> {
        let aws = aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(http_client()).load().await;
        Ok(Self {
            table: required("WALWARDEN_TABLE")?,
            deployment: required("WALWARDEN_DEPLOYMENT")?,
            base_url: required("WALWARDEN_BASE_URL")?,
            epoch: match env::var("WALWARDEN_LOG_EPOCH") {
                Ok(text) => text.parse().context("WALWARDEN_LOG_EPOCH is not a number")?,
                Err(_) => 0,
            },
            aws,
        })
    }

    /// The domain over DynamoDB and KMS.
    ///
    /// Reads `WALWARDEN_KMS_MANIFEST_KEY`, `WALWARDEN_KMS_CHECKPOINT_KEY`, `WALWARDEN_KMS_RECEIPT_KEY` (Ed25519),
    /// `WALWARDEN_KMS_MAC_KEY` (HMAC_256) and `WALWARDEN_KMS_DATA_KEY` (symmetric): key ids or ARNs.
    pub async fn domain(&self) -> Result<Arc<Domain>> {
        let signing = |name: &str| -> Result<KmsKey> { Ok(KmsKey { key_id: required(name)?, not_before: None }) };
        let keys = KmsConfig {
            manifest: signing("WALWARDEN_KMS_MANIFEST_KEY")?,
            checkpoint: signing("WALWARDEN_KMS_CHECKPOINT_KEY")?,
            receipt: signing("WALWARDEN_KMS_RECEIPT_KEY")?,
            mac_key_id: required("WALWARDEN_KMS_MAC_KEY")?,
            encryption_key_id: required("WALWARDEN_KMS_DATA_KEY")?,
            retired: KeySet::default(),
        };
        let keyring = Keyring::Kms(KmsKeyring::connect(&self.aws, keys).await?);
        let table = Table::new(aws_sdk_dynamodb::Client::new(&self.aws), &self.table);
        let network = Network::new(AddressPolicy { allow_private: false }, false).with_aws(self.aws.clone());
        let settings = Settings {
            deployment: self.deployment.clone(),
            base_url: self.base_url.clone(),
            epoch: self.epoch,
            network,
            die_at: None,
        };
        Ok(Arc::new(Domain::new(table, keyring, Edge::system(), settings)))
    }

    /// The way to `worker`: `WALWARDEN_WORKER_FUNCTION`.
    pub fn worker_caller(&self) -> Result<WorkerCaller> {
        Ok(WorkerCaller::Lambda(aws_sdk_lambda::Client::new(&self.aws), required("WALWARDEN_WORKER_FUNCTION")?))
    }

    /// The way to `dispatch`: `WALWARDEN_DISPATCH_FUNCTION`.
    pub fn dispatch_caller(&self) -> Result<DispatchCaller> {
        Ok(DispatchCaller::Lambda(aws_sdk_lambda::Client::new(&self.aws), required("WALWARDEN_DISPATCH_FUNCTION")?))
    }

    /// Fargate: `WALWARDEN_ECS_CLUSTER`, `WALWARDEN_ECS_TASK_DEFINITION`, `WALWARDEN_ECS_SUBNETS` and
    /// `WALWARDEN_ECS_SECURITY_GROUPS` (comma-separated).
    pub fn ecs_launcher(&self) -> Result<EcsLauncher> {
        let list = |name: &str| -> Result<Vec<String>> {
            Ok(required(name)?.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect())
        };
        Ok(EcsLauncher {
            client: aws_sdk_ecs::Client::new(&self.aws),
            cluster: required("WALWARDEN_ECS_CLUSTER")?,
            task_definition: required("WALWARDEN_ECS_TASK_DEFINITION")?,
            subnets: list("WALWARDEN_ECS_SUBNETS")?,
            security_groups: list("WALWARDEN_ECS_SECURITY_GROUPS")?,
            worker_url: self.base_url.clone(),
        })
    }
}

fn required(name: &str) -> Result<String> {
    match env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(value),
        _ => bail!("the environment variable {name} is not set"),
    }
}

/// Structured logs to standard output, for CloudWatch. Filter by `RUST_LOG`.
pub fn log_to_stdout() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().without_time().with_env_filter(filter).init();
}
