//! What an organization registered: destinations and databases. Their secrets are sealed by the keyring
//! under the context `{org, kind, id, field}` before they reach the table.

mod databases;
mod destinations;

pub use databases::{DEFAULT_MAX_BYTES, DEFAULT_MAX_HOURS, DEFAULT_RETENTION_DAYS, DatabaseRecord};
pub(crate) use databases::{check_is_final, pointer_write};
pub use destinations::DestinationRecord;
pub(crate) use destinations::check_label;
