//! The source database: reached at one checked address, read in one exported snapshot.

mod chosen;
mod dial;
mod facts;
mod message;
mod omit;
mod readable;
mod roles;
mod session;
mod snapshot;
mod text;
mod tls;
mod version;

pub use chosen::Chosen;
pub use facts::{Facts, ObjectAddress};
pub use omit::{DEPENDS_ON_OMITTED, EXCLUDED, Excluded, LeftOut, dependent};
pub use readable::{Relation, Unreadable};
pub use roles::{Roles, named_in_acl};
pub use session::{APPLICATION_NAME, Endpoint, Session};
pub use snapshot::Snapshot;
pub use version::ServerVersion;
