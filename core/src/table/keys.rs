//! Every key of the table, in one place.

use walwarden_contract::ids::{BackupId, CheckId, DatabaseId, DestinationId, JobId, OrgId, RestoreId, TokenId};

use super::Key;

/// Queue of the `due` index that the sentinel works off.
pub const SENTINEL_QUEUE: &str = "SENTINEL";
/// Queue of the `due` index that holds the local scheduler's ticks.
pub const TICK_QUEUE: &str = "TICK";

/// When the sentinel last swept.
pub fn last_sweep() -> Key {
    Key::new(SENTINEL_QUEUE, "LAST_SWEEP")
}

/// Partition of what an organization has.
pub fn org_partition(org: &OrgId) -> String {
    format!("ORG#{org}")
}

/// Partition of a database's jobs.
pub fn database_partition(org: &OrgId, database: &DatabaseId) -> String {
    format!("ORG#{org}#DB#{database}")
}

/// Partition of a log.
pub fn log_partition(org: &OrgId, epoch: u32) -> String {
    format!("ORG#{org}#LOG#{epoch}")
}

/// The organization itself.
pub fn org(org: &OrgId) -> Key {
    Key::new(org_partition(org), "ORG")
}

/// A destination.
pub fn destination(org: &OrgId, id: &DestinationId) -> Key {
    Key::new(org_partition(org), format!("DST#{id}"))
}

/// A database.
pub fn database(org: &OrgId, id: &DatabaseId) -> Key {
    Key::new(org_partition(org), format!("DB#{id}"))
}

/// An API token's record.
pub fn token(org: &OrgId, id: &TokenId) -> Key {
    Key::new(org_partition(org), format!("TOK#{id}"))
}

/// From a token's fingerprint to its organization.
pub fn token_fingerprint(fingerprint: &str) -> Key {
    Key::new(format!("TOKEN#{fingerprint}"), "TOKEN")
}

/// From a job's id to its database.
pub fn pointer(org: &OrgId, job: &JobId) -> Key {
    Key::new(org_partition(org), format!("PTR#{job}"))
}

/// A backup.
pub fn backup(org: &OrgId, database: &DatabaseId, id: &BackupId) -> Key {
    Key::new(database_partition(org, database), format!("BACKUP#{id}"))
}

/// A restore.
pub fn restore(org: &OrgId, database: &DatabaseId, id: &RestoreId) -> Key {
    Key::new(database_partition(org, database), format!("RESTORE#{id}"))
}

/// A source check.
pub fn check(org: &OrgId, database: &DatabaseId, id: &CheckId) -> Key {
    Key::new(database_partition(org, database), format!("CHECK#{id}"))
}

/// Present while a backup of the database is live: one at a time.
pub fn active(org: &OrgId, database: &DatabaseId) -> Key {
    Key::new(database_partition(org, database), "ACTIVE")
}

/// A job's last sign of life.
pub fn heartbeat(org: &OrgId, database: &DatabaseId, job: &JobId) -> Key {
    Key::new(database_partition(org, database), format!("BEAT#{job}"))
}

/// A log's head.
pub fn log_head(org: &OrgId, epoch: u32) -> Key {
    Key::new(log_partition(org, epoch), "HEAD")
}

/// An entry of a log.
pub fn log_entry(org: &OrgId, epoch: u32, index: u64) -> Key {
    Key::new(log_partition(org, epoch), format!("ENTRY#{index:020}"))
}

/// From a job's sequence number to the index of its entry.
pub fn log_job_entry(org: &OrgId, epoch: u32, job: &str, seq: u64) -> Key {
    Key::new(log_partition(org, epoch), format!("JOB#{job}#{seq:010}"))
}

/// A full hash tile.
pub fn log_tile(org: &OrgId, epoch: u32, level: u32, index: u64) -> Key {
    Key::new(log_partition(org, epoch), format!("TILE#{level:02}#{index:020}"))
}

/// A checkpoint that was published.
pub fn log_checkpoint(org: &OrgId, epoch: u32, size: u64) -> Key {
    Key::new(log_partition(org, epoch), format!("CHECKPOINT#{size:020}"))
}

/// A replay record, bound to organization, principal and operation.
pub fn idempotency(org: &OrgId, principal: &str, operation: &str, key_sha256: &str) -> Key {
    Key::new(format!("ORG#{org}#IDEMPOTENCY"), format!("{principal}#{operation}#{key_sha256}"))
}
