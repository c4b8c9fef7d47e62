//! Why jobs fail: a closed list, each class retryable or not, each with a remedy. Only the class and
//! the remedy travel; the text of a failing program stays on the machine it ran on.

use serde::{Deserialize, Serialize};

macro_rules! classes {
    ($($name:ident = $text:literal, $retryable:literal, $remedy:literal;)*) => {
        /// Class of a failed backup, check or restore.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum FailureClass { $(#[doc = $text] #[serde(rename = $text)] $name,)* }

        impl FailureClass {
            /// All classes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As sent, stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether trying again, unchanged, can help.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// What to do about it.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }

        impl std::fmt::Display for FailureClass {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

classes! {
    SourceUnreachable = "source_unreachable", true, "check that the database accepts connections from the runner: host, port, allow-list, and whether it is awake";
    SourceIpv6Only = "source_ipv6_only", false, "the host has only IPv6 addresses and the runner has no IPv6 route; use the session-mode pooler (Supabase: port 5432 of the pooler host) or an IPv4 address";
    SourceAddressRefused = "source_address_refused", false, "the host resolves to a private or link-local address; use a public address, or allow private addresses in a self-hosted install";
    SourceDsnInvalid = "source_dsn_invalid", false, "correct the database's connection string";
    SourceAuthFailed = "source_auth_failed", false, "correct user and password in the database's connection string";
    SourceTlsFailed = "source_tls_failed", false, "the server does not offer the TLS that the connection string asks for; correct sslmode or the server's certificate";
    SourcePooled = "source_pooled", false, "use the direct host or a session-mode pooler: pg_dump needs a session of its own";
    SourceVersionUnsupported = "source_version_unsupported", false, "install pg_dump of the server's major version on the runner (14 or later)";
    SourcePermission = "source_permission", false, "grant the backup role what the source check lists (most of it is in pg_read_all_data; row security needs BYPASSRLS), or go without by omitUnreadable";
    SourceSelection = "source_selection", false, "what is excluded is needed by data that is not, or a schema that is selected does not exist; the source check lists it: change the database's selection";
    SourceLocked = "source_locked", true, "a session holds a lock that keeps pg_dump from reading a table; end it or back up at a quieter time";
    SourceConnectionLost = "source_connection_lost", true, "the server ended the connection during the dump; check its logs and time-outs";
    DumpFailed = "dump_failed", false, "pg_dump failed; its first message is in the runner's log, redacted (self-hosted: what walwarden-server writes; on AWS: the task's log group)";
    DumpIncomplete = "dump_incomplete", true, "pg_dump ended early, or its archive was not well-formed; nothing was recorded as a backup. A table dropped meanwhile does that, and a machine short of memory";
    DumpUnknownKind = "dump_unknown_kind", false, "the database holds data of a kind that this version does not understand, named in the runner's log; update Walwarden";
    DumpTooLarge = "dump_too_large", false, "the dump exceeded this database's maxBytes; raise it if the size is right";
    DumpTooLong = "dump_too_long", false, "the dump exceeded this database's maxHours; raise it if the duration is right";
    StorageUnreachable = "storage_unreachable", true, "the bucket's endpoint did not answer; check its status";
    StorageRefused = "storage_refused", false, "the bucket refused the upload; run the destination's preflight";
    StorageDigestMismatch = "storage_digest_mismatch", true, "the bucket received other bytes than were sent; the part was refused";
    DiskFull = "disk_full", false, "free disk space on the machine that ran it";
    ControlPlaneUnreachable = "control_plane_unreachable", true, "the control plane did not answer; check its status";
    RunnerLost = "runner_lost", true, "the runner stopped reporting; it was probably ended by its host";
    RunnerTerminated = "runner_terminated", true, "the runner was asked to stop by its host";
    NeverClaimed = "never_claimed", true, "no runner took the job in time; check that runners can start";
    SealUnreachable = "seal_unreachable", true, "the bucket could not be read back for six hours";
    SealUploadLost = "seal_upload_lost", true, "the upload vanished before it was completed; check the bucket's life-cycle rules for incomplete uploads";
    SealMismatch = "seal_mismatch", true, "what the bucket holds is not what was uploaded; look for another writer in the bucket";
    SealImpossible = "seal_impossible", false, "the runner's measurements contradict each other; please report this";
    ManifestInvalid = "manifest_invalid", false, "the manifest's signature or form is wrong; do not use this backup before finding out why";
    ArtifactMismatch = "artifact_mismatch", false, "the downloaded artifact is not what the manifest states; look for another writer in the bucket";
    DownloadFailed = "download_failed", true, "the download did not complete; run the command again";
    TargetUnreachable = "target_unreachable", true, "check that this machine reaches the target database";
    TargetFailed = "target_failed", false, "pg_restore reported an error; its messages are above";
    TargetExists = "target_exists", false, "a database of that name exists; choose another with --created-database";
    ProofDiffers = "proof_differs", false, "the restored database differs from what was backed up; the differences are listed above";
    Internal = "internal", true, "an unexpected fault; please report it with the job's id";
}

/// A failure as shown by API and SDK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Class.
    pub class: FailureClass,
    /// Whether trying again can help.
    pub retryable: bool,
    /// What to do.
    pub remedy: String,
}

impl From<FailureClass> for Failure {
    fn from(class: FailureClass) -> Self {
        Self { class, retryable: class.is_retryable(), remedy: class.remedy().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::FailureClass;

    #[test]
    fn the_documented_table_is_the_list() {
        let page = include_str!("../../docs/api.md");
        let section = page.split("## Failure classes").nth(1).unwrap().split("\n## ").next().unwrap();
        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let list: Vec<String> = FailureClass::ALL
            .iter()
            .map(|class| {
                let again = if class.is_retryable() { "yes" } else { "no" };
                format!("| `{class}` | {again} | {} |", class.remedy())
            })
            .collect();
        assert_eq!(documented, list, "docs/api.md, \"Failure classes\"");
    }
}
