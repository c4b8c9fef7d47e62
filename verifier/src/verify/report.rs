//! What a successful verification found, and the sentences that say so.
//!
//! Each sentence claims what its step showed and no more; their wording is fixed by the evidence format.

use serde::Serialize;

/// A successful verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who signed what.
    pub signed: Signed,
    /// Where its history is.
    pub logged: Logged,
    /// The supplied checkpoints, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<Witnessed>,
    /// The artifact, if it was supplied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// The annex, if it was supplied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annex: Option<AnnexFound>,
    /// Restores with a receipt in the bundle.
    pub restored: Vec<Restored>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// Id of the key that signed the manifest.
    pub key_id: String,
    /// SHA-256 of the manifest's statement.
    pub manifest_hash: String,
    /// `org_…`
    pub org_id: String,
    /// `db_…`
    pub database_id: String,
    /// `bkp_…`
    pub backup_id: String,
    /// Attempt that completed.
    pub attempt: u32,
    /// Object key of the artifact.
    pub artifact_key: String,
    /// SHA-256 of the artifact.
    pub artifact_sha256: String,
    /// Size of the artifact.
    pub size_bytes: u64,
    /// Nothing written to the database later than this is in the artifact, by the signer's word.
    pub snapshot_at: String,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logged {
    /// Origin of the log.
    pub origin: String,
    /// Size of the log that the proofs are against.
    pub tree_size: u64,
    /// Its root.
    pub root: String,
    /// Id of the key that signed the checkpoint.
    pub key_id: String,
    /// Entries of the backup.
    pub backup_events: u64,
    /// Entries of the backup and of the restores in the bundle.
    pub events: u64,
}

/// Checkpoints that the reader had kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Witnessed {
    /// How many were supplied.
    pub checkpoints: u64,
    /// Size of the log that extends them all.
    pub tree_size: u64,
}

/// The archive's contents, as found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Kept as pg_dump wrote it: its contents were read by nobody, and what follows is `unknown` and 0.
    pub opaque: bool,
    /// Archive format, such as `1.16`.
    pub archive_version: String,
    /// Entries in its table of contents.
    pub entries: u64,
    /// Tables with data.
    pub tables: u64,
    /// Rows in all tables.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
}

/// The annex, as found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnexFound {
    /// Records.
    pub lines: u64,
    /// Tables it describes.
    pub tables: u64,
    /// Rows it counts.
    pub rows: u64,
    /// Sequences it describes.
    pub sequences: u64,
    /// Large objects it describes.
    pub large_objects: u64,
    /// Whether all that was recomputed from the artifact too.
    pub compared_with_artifact: bool,
}

/// A receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// `rst_…`
    pub restore_id: String,
    /// Id of the key that signed the receipt.
    pub key_id: String,
    /// When the restore's own machine said that it had completed.
    pub completed_at: String,
    /// `new_database` or `in_place`.
    pub mode: String,
    /// `restore` or `drill`.
    pub purpose: String,
    /// What comparing the restored database found: `identical`, `notProven` or `notRun`.
    pub proof: String,
}

impl Report {
    /// The sentences, in their order, the documented last line included.
    pub fn sentences(&self) -> Vec<String> {
        let (signed, logged) = (&self.signed, &self.logged);
        let mut lines = vec![
            format!(
                "SIGNED: key {} stated that artifact {}, {} bytes, is backup {}; times are the signer's.",
                signed.key_id, signed.artifact_sha256, signed.size_bytes, signed.backup_id
            ),
            format!(
                "LOGGED: {0} events, seq 1..{0}, are in log {1} at size {2}; a later or different view is not excluded.",
                logged.backup_events, logged.origin, logged.tree_size
            ),
        ];
        if let Some(witnessed) = &self.witnessed {
            lines.push(format!(
                "WITNESSED: size {} extends all {} supplied checkpoints.",
                witnessed.tree_size, witnessed.checkpoints
            ));
        }
        if let Some(artifact) = &self.artifact {
            let contents = match artifact.opaque {
                true => "; kept as pg_dump wrote it, its contents were not read",
                false => ", contents parse and equal the manifest's",
            };
            lines.push(format!("ARTIFACT: size and SHA-256 match{contents}; not restored."));
        }
        if let Some(annex) = &self.annex {
            let mut line = "ANNEX: size and SHA-256 match, entries and counts equal the manifest's".to_owned();
            if annex.compared_with_artifact {
                line.push_str(&format!(
                    "; {} tables, {} rows, {} sequences and {} large objects equal the artifact's",
                    annex.tables, annex.rows, annex.sequences, annex.large_objects
                ));
            }
            line.push('.');
            lines.push(line);
        }
        for restored in &self.restored {
            lines.push(format!(
                "RESTORED (reported): key {} signed success at {}.",
                restored.key_id, restored.completed_at
            ));
        }
        lines.push(format!("OK: 1 manifests verified, {} audit events chain-intact (exit 0)", logged.events));
        lines
    }
}
