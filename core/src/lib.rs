//! Walwarden's domain: organizations, destinations, databases, jobs, evidence. It keeps the rules and
//! the state; it refuses to serve HTTP, to spawn processes, and to see a byte of a dump.

pub mod backups;
pub mod calls;
pub mod checks;
pub mod destinations;
pub mod edge;
pub mod error;
pub mod evidence;
pub mod keyring;
pub mod log;
pub mod once;
pub mod organizations;
pub mod registry;
pub mod restores;
pub mod schedule;
pub mod sealer;
pub mod sweep;
pub mod table;

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Mutex;
use walwarden_contract::ids::{DatabaseId, DestinationId, JobId, OrgId};

use crate::{
    destinations::{Bucket, Network},
    edge::Edge,
    error::{DomainError, Result},
    keyring::Keyring,
    log::Log,
    table::{Table, keys},
};

/// What differs between deployments.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the deployment: audience of restore tokens, head of log origins.
    pub deployment: String,
    /// Where clients reach it; one-liners carry it.
    pub base_url: String,
    /// The log's epoch.
    pub epoch: u32,
    /// What may be dialled.
    pub network: Network,
    /// Where the sealer is to die, for crash tests of the server binary; never set in production.
    pub die_at: Option<String>,
}

/// The domain over one table, one keyring and one clock.
pub struct Domain {
    /// The table.
    pub table: Table,
    /// The logs.
    pub log: Log,
    /// Signing, MACs and encryption.
    pub keyring: Keyring,
    /// Clock and randomness.
    pub edge: Edge,
    /// Settings.
    pub settings: Settings,
    buckets: Mutex<HashMap<(DestinationId, u64), Arc<Bucket>>>,
}

impl Domain {
    /// A domain.
    pub fn new(table: Table, keyring: Keyring, edge: Edge, settings: Settings) -> Self {
        let log = Log::new(table.clone(), edge.clone(), settings.deployment.clone(), settings.epoch);
        Self { table, log, keyring, edge, settings, buckets: Mutex::default() }
    }

    /// The database that a job belongs to.
    pub async fn database_of(&self, org: &OrgId, job: &JobId) -> Result<DatabaseId> {
        let pointer = self.table.get::<DatabaseId>(&keys::pointer(org, job)).await?;
        Ok(pointer.ok_or_else(|| DomainError::not_found("job", job))?.body)
    }

    /// Ends this process without unwinding where a crash test asked for it.
    pub(crate) fn fault_point(&self, name: &str) {
        if self.settings.die_at.as_deref() == Some(name) {
            tracing::warn!(point = name, "dying here, as asked");
            std::process::abort();
        }
    }
}
