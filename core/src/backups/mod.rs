//! Backups: asked for, dispatched, worked on by a runner, sealed elsewhere (`sealer`).

mod job;
mod show;
mod start;
mod work;

pub(crate) use job::Move;
pub use job::{
    BackupJob, Claim, Leftover, Publish, ReceiptRef, SealProgress, SealedArtifact, SignedStatement, Started,
};
pub use start::{Launch, MAX_ATTEMPTS};
pub use work::StoredHeartbeat;
pub(crate) use work::{SILENCE_SECONDS, is_version, same};
