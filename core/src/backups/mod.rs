//! Backups: asked for, dispatched, worked on by a runner, sealed elsewhere (`sealer`).

mod job;
mod show;
mod start;
mod work;

pub use job::{BackupJob, Claim, Publish, ReceiptRef, SealedArtifact, SealProgress, SignedStatement, Started, Leftover};
pub(crate) use job::Move;
pub use start::{Launch, MAX_ATTEMPTS};
pub use work::StoredHeartbeat;
pub(crate) use work::{SILENCE_SECONDS, is_version, same};
