//! Destinations: buckets the customer owns. Only a preflight makes one `verified`, and only a verified
//! one takes backups.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use walwarden_contract::{
    api::{CheckOutcome, CreateDestinationRequest, Destination, DestinationAccess, Preflight},
    errors::ErrorCode,
    ids::{DestinationId, OrgId},
    secret::Secret,
    states::DestinationState,
};
use walwarden_verifier::entry::Event;

use crate::{
    Domain,
    destinations::{self, Access, Bucket, BucketConfig, Probe},
    error::{DomainError, Result},
    keyring::{Context, Sealed},
    log::Draft,
    once::{Once, Replay},
    organizations::Principal,
    table::{Item, Record, TableError, Write, keys},
};

/// A destination as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRecord {
    /// What people see.
    pub info: Destination,
    /// AWS: the external id.
    pub external_id: Option<String>,
    /// S3-compatible: the access key id.
    pub access_key_id: Option<String>,
    /// S3-compatible: the sealed secret access key.
    pub sealed_secret: Option<Sealed>,
}

impl Domain {
    /// Registers a destination, `unverified`.
    pub async fn create_destination(
        &self,
        who: &Principal,
        request: CreateDestinationRequest,
        once: &Once,
    ) -> Result<Destination> {
        if let Replay::Done(response) = once.replay(self).await? {
            return Ok(response);
        }
        check_label(&request.name)?;
        let config = BucketConfig { bucket: request.bucket, region: request.region, access: request.access };
        config.check(&self.settings.network).map_err(|error| {
            let problem = error.detail.as_deref().unwrap_or("it is not possible");
            DomainError::refused(ErrorCode::InvalidRequest, format!("destination: {problem}"), error.hint())
        })?;
        let id = DestinationId::new(self.edge.now_ms() as u64, self.edge.random());
        let mut record = DestinationRecord {
            info: Destination {
                id: id.clone(),
                name: request.name,
                provider: String::new(),
                bucket: config.bucket,
                region: config.region,
                endpoint: None,
                part_cap: None,
                role_arn: None,
                state: DestinationState::Unverified,
                preflight: None,
                created_at: self.edge.now(),
            },
            external_id: None,
            access_key_id: None,
            sealed_secret: None,
        };
        match config.access {
            DestinationAccess::AwsS3 { role_arn, external_id } => {
                record.info.provider = "aws_s3".into();
                record.info.role_arn = Some(role_arn);
                record.external_id = Some(external_id);
            }
            DestinationAccess::S3Compatible { endpoint, access_key_id, secret_access_key, part_cap } => {
                record.info.provider = "s3_compatible".into();
                record.info.endpoint = Some(endpoint);
                record.info.part_cap = part_cap;
                record.access_key_id = Some(access_key_id);
                let context = secret_context(&who.org, &id);
                record.sealed_secret =
                    Some(self.keyring.encrypt(&context, secret_access_key.expose().as_bytes()).await?);
            }
        }
        let event = Event::DestinationCreated {
            destination_id: id.to_string(),
            provider: record.info.provider.clone(),
            bucket: record.info.bucket.clone(),
        };
        let writes = vec![
            Write::Create(keys::destination(&who.org, &id), Item::new(&record)),
            once.write(&record.info, id.as_str()),
        ];
        match self.log.commit(&who.org, writes, vec![Draft::standing(event, who.token.id.as_str())]).await {
            Ok(()) => Ok(record.info),
            Err(refused) => once.lost(self, refused).await,
        }
    }

    /// A destination.
    pub async fn destination(&self, org: &OrgId, id: &DestinationId) -> Result<Record<DestinationRecord>> {
        self.table.get(&keys::destination(org, id)).await?.ok_or_else(|| DomainError::not_found("destination", id))
    }

    /// All destinations, oldest first.
    pub async fn destinations(&self, org: &OrgId) -> Result<Vec<Destination>> {
        let found = self.table.query_all::<DestinationRecord>(&keys::org_partition(org), "DST#").await?;
        Ok(found.into_iter().map(|r| r.body.info).collect())
    }

    /// The bucket behind a destination; in `worker` only, for it decrypts. Connections are kept.
    pub async fn bucket(&self, org: &OrgId, id: &DestinationId) -> Result<Arc<Bucket>> {
        let record = self.destination(org, id).await?;
        let cached = (id.clone(), record.rev);
        if let Some(bucket) = self.buckets.lock().await.get(&cached) {
            return Ok(Arc::clone(bucket));
        }
        let config = self.bucket_config(org, &record.body).await?;
        let bucket = Arc::new(Bucket::connect(&config, &self.settings.network, self.edge.timestamp()).await?);
        if config.is_aws() {
            // Its session expires; the network keeps sessions, so that connecting again costs nothing.
            return Ok(bucket);
        }
        let mut buckets = self.buckets.lock().await;
        buckets.retain(|(other, _), _| other != id);
        buckets.insert(cached, Arc::clone(&bucket));
        Ok(bucket)
    }

    async fn bucket_config(&self, org: &OrgId, record: &DestinationRecord) -> Result<BucketConfig> {
        let info = &record.info;
        let missing =
            |field: &str| DomainError::broken(format!("destination {}", info.id), format!("{field} is missing"));
        let access = if info.provider == "aws_s3" {
            Access::AwsS3 {
                role_arn: info.role_arn.clone().ok_or_else(|| missing("role"))?,
                external_id: record.external_id.clone().ok_or_else(|| missing("external id"))?,
            }
        } else {
            let sealed = record.sealed_secret.as_ref().ok_or_else(|| missing("secret"))?;
            let secret = self.keyring.decrypt(&secret_context(org, &info.id), sealed).await?;
            let secret = String::from_utf8(secret.to_vec()).map_err(|e| DomainError::broken(info.id.as_str(), e))?;
            Access::S3Compatible {
                endpoint: info.endpoint.clone().ok_or_else(|| missing("endpoint"))?,
                access_key_id: record.access_key_id.clone().ok_or_else(|| missing("access key id"))?,
                secret_access_key: Secret::new(secret),
                part_cap: info.part_cap,
            }
        };
        Ok(BucketConfig { bucket: info.bucket.clone(), region: info.region.clone(), access })
    }

    /// Runs the preflight and records what it found; in `worker` only.
    pub(crate) async fn run_preflight(&self, org: &OrgId, id: &DestinationId, actor: &str) -> Result<Preflight> {
        let record = self.destination(org, id).await?;
        let config = self.bucket_config(org, &record.body).await?;
        let probe_id = DestinationId::new(self.edge.now_ms() as u64, self.edge.random());
        let probe_id = probe_id.as_str().trim_start_matches("dst_");
        let probe = Probe { org, id: probe_id, at: self.edge.timestamp() };
        let checks = destinations::preflight(&config, &self.settings.network, &probe).await;
        let failed: Vec<String> =
            checks.iter().filter(|c| c.outcome == CheckOutcome::Failed).map(|c| c.name.clone()).collect();
        let result =
            if destinations::is_verified(&checks) { DestinationState::Verified } else { DestinationState::Failed };
        let preflight = Preflight { at: self.edge.now(), result, checks };
        let event =
            Event::DestinationPreflight { destination_id: id.to_string(), result: result.as_str().into(), failed };
        loop {
            let mut record = self.destination(org, id).await?;
            record.body.info.state = result;
            record.body.info.preflight = Some(preflight.clone());
            let write = Write::Replace(record.key, record.rev, Item::new(&record.body));
            match self.log.commit(org, vec![write], vec![Draft::standing(event.clone(), actor)]).await {
                Ok(()) => return Ok(preflight),
                // Another preflight ended at the same time: the last to end is the one that counts.
                Err(DomainError::Table(TableError::Condition(_))) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn secret_context<'a>(org: &'a OrgId, id: &'a DestinationId) -> Context<'a> {
    Context { org, kind: "destination", id: id.as_str(), field: "secretAccessKey" }
}

/// Labels are for people: some text, not too long, nothing that breaks a terminal.
pub(crate) fn check_label(name: &str) -> Result<()> {
    let length = name.trim().chars().count();
    if length == 0 || length > 100 || walwarden_verifier::ids::shown(name) != name {
        return Err(DomainError::refused(
            ErrorCode::InvalidRequest,
            "name must have 1 to 100 printable characters",
            "choose a short label",
        ));
    }
    Ok(())
}
