//! What other functions need of `worker`, which alone decrypts, assumes customer roles and signs. These
//! are calls between functions (Lambda Invoke on AWS, a function call in one process), never a route.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use walwarden_contract::{
    api::Preflight,
    ids::{BackupId, DatabaseId, DestinationId, OrgId, RestoreId},
};

use crate::{Domain, error::Result};

/// A call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum WorkerCall {
    /// Look whether a bucket is as it must be.
    Preflight {
        /// Organization.
        org: OrgId,
        /// Destination.
        destination: DestinationId,
        /// Token that asked, for the log.
        actor: String,
    },
    /// Go on sealing a backup.
    Seal {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// Backup.
        backup: BackupId,
    },
    /// Publish checkpoint, bundle and keys of a completed backup.
    Publish {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// Backup.
        backup: BackupId,
    },
    /// Put a completed restore's receipt into the bucket.
    PublishReceipt {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// Restore.
        restore: RestoreId,
    },
    /// Make an evidence bundle of now.
    Bundle {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// Backup.
        backup: BackupId,
    },
    /// Abort uploads that ended attempts left behind.
    ClearLeftovers {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// Backup.
        backup: BackupId,
    },
}

/// What came of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase")]
pub enum WorkerReply {
    /// It was done, or someone else is doing it.
    Done {},
    /// Result of a preflight.
    Preflight(Box<Preflight>),
    /// A bundle, base64.
    Bundle {
        /// The bytes.
        bytes: String,
    },
}

impl WorkerReply {
    /// The bundle's bytes.
    pub fn bundle(&self) -> Option<Vec<u8>> {
        match self {
            Self::Bundle { bytes } => STANDARD.decode(bytes).ok(),
            _ => None,
        }
    }
}

impl Domain {
    /// Carries out a call; in `worker` only.
    pub async fn carry_out(&self, call: WorkerCall) -> Result<WorkerReply> {
        match call {
            WorkerCall::Preflight { org, destination, actor } => {
                let preflight = self.run_preflight(&org, &destination, &actor).await?;
                return Ok(WorkerReply::Preflight(Box::new(preflight)));
            }
            WorkerCall::Bundle { org, database, backup } => {
                let bytes = self.bundle_now(&org, &database, &backup).await?;
                return Ok(WorkerReply::Bundle { bytes: STANDARD.encode(bytes) });
            }
            WorkerCall::Seal { org, database, backup } => self.seal(&org, &database, &backup).await?,
            WorkerCall::Publish { org, database, backup } => self.publish(&org, &database, &backup).await?,
            WorkerCall::PublishReceipt { org, database, restore } => {
                self.publish_receipt(&org, &database, &restore).await?;
            }
            WorkerCall::ClearLeftovers { org, database, backup } => {
                self.clear_leftovers(&org, &database, &backup).await?
            }
        }
        Ok(WorkerReply::Done {})
    }
}
