//! The closed set of scopes an API token can carry.

use serde::{Deserialize, Serialize};

macro_rules! scopes {
    ($($name:ident = $text:literal: $about:literal;)*) => {
        /// What a token may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Scope {
            $(#[doc = $about] #[serde(rename = $text)] $name,)*
        }

        impl Scope {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As sent and stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it grants.
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

scopes! {
    DatabasesRead = "databases:read": "List and read protected databases and their backups.";
    DatabasesWrite = "databases:write": "Add, change and remove protected databases.";
    DestinationsRead = "destinations:read": "List and read backup destinations.";
    DestinationsWrite = "destinations:write": "Add and check backup destinations.";
    BackupsTrigger = "backups:trigger": "Start and cancel backups.";
    RestoresRead = "restores:read": "List and read restores.";
    RestoresWrite = "restores:write": "Issue restore tokens.";
    EvidenceRead = "evidence:read": "Read evidence about backups and restores.";
    EvidenceExport = "evidence:export": "Export evidence bundles.";
    AuditRead = "audit:read": "Read the audit log.";
    ReadinessRead = "readiness:read": "Read service health.";
}
