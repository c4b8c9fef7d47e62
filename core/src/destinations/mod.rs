//! Buckets that customers own, and everything the control plane does to them.
//!
//! A [`Bucket`] is a destination that was connected to: it creates, completes and aborts uploads, writes
//! small documents under lock, reads back what a provider attests, and signs URLs for workers. It never
//! carries the bytes of a dump: those go from the runner to the bucket by presigned parts, each bound
//! to its digests. Providers are an enum and a `match` ([`Access`], [`Traits`]), not a trait.
//!
//! It refuses to know a clock: callers hand in the time a URL is signed at. It refuses to follow a name to
//! an address the deployment's policy does not allow. Its errors carry neither URLs nor credentials.

mod bucket;
mod config;
mod error;
mod lock;
mod network;
mod objects;
mod preflight;
mod presign;
mod send;
mod session;
mod uploads;

pub use bucket::Bucket;
pub use config::{Access, BucketConfig, S3_PART_CAP, Traits};
pub use error::{StorageError, StorageErrorKind};
pub use lock::{LockMode, ObservedLock};
pub use network::{Network, http_client};
pub use objects::{ObjectFacts, ObjectVersion, PutOutcome};
pub use preflight::{Probe, is_verified, preflight};
pub use presign::URL_SECONDS;
pub use uploads::{CompletedObject, CompletedPart, PendingUpload, UploadedPart};
