//! Offline verification of a bundle, and of the artifact, annex and checkpoints beside it.
//!
//! Pure over its inputs: bytes, trusted keys, and readers. Nothing is trusted because it is in the bundle.
//! The steps and their order are those of `docs/evidence-format.md`; a file supplied in addition is never
//! skipped silently: it is checked, or the whole is *not checked*. Bad evidence outranks not checked.

mod annex;
mod artifact;
mod failure;
mod jobs;
mod log;
mod measured;
mod receipts;
mod report;
mod witness;

use std::io::Read;

pub use annex::{AnnexFacts, check_annex};
pub use artifact::check_artifact;
pub use failure::Failure;
pub use report::{AnnexFound, Artifact, Logged, Report, Restored, Signed, Witnessed};

use crate::{
    bundle::{self, BundleAnnex, BundleContents, Limits},
    dsse::Envelope,
    keys::{KeySet, KeyUse},
    manifest::{self, VerifiedManifest},
};

/// A checkpoint that the reader kept.
#[derive(Debug, Clone)]
pub struct SuppliedCheckpoint {
    /// What to call it: a file name.
    pub name: String,
    /// The signed note.
    pub note: Vec<u8>,
}

/// What is verified along with the bundle.
#[derive(Default)]
pub struct Supplied<'a> {
    /// Checkpoints that the reader kept.
    pub checkpoints: Vec<SuppliedCheckpoint>,
    /// The artifact.
    pub artifact: Option<Box<dyn Read + 'a>>,
    /// The annex, compressed.
    pub annex: Option<Box<dyn Read + 'a>>,
}

/// Verifies a bundle, and whatever else is supplied, under `keys` alone.
pub fn verify(bundle: impl Read, keys: &KeySet, supplied: Supplied<'_>) -> Result<Report, Failure> {
    let contents = bundle::read(bundle, &Limits::default()).map_err(|error| Failure::bundle(&error))?;
    verify_contents(&contents, keys, supplied)
}

/// As [`verify`], for a bundle that was unpacked already.
pub fn verify_contents(contents: &BundleContents, keys: &KeySet, supplied: Supplied<'_>) -> Result<Report, Failure> {
    for (key_use, what) in [(KeyUse::Manifest, "manifests"), (KeyUse::Checkpoint, "checkpoints")] {
        require_key(keys, key_use, what)?;
    }
    let manifest = check_manifest(contents, keys)?;
    let log = log::check(contents, &manifest, keys)?;
    let mut undecided = Undecided::default();
    let witnessed = undecided.note(witness::check(contents, keys, &supplied.checkpoints))?.flatten();

    let facts = match supplied.annex {
        Some(input) => undecided.note(check_annex(input, &manifest))?,
        None => None,
    };
    let artifact = match supplied.artifact {
        Some(input) => undecided.note(check_artifact(input, &manifest, facts.as_ref()))?,
        None => None,
    };
    let restored = undecided.note(receipts::check(contents, &manifest, &log, keys))?.unwrap_or_default();
    undecided.end()?;

    let backup = manifest.backup();
    Ok(Report {
        signed: Signed {
            key_id: manifest.key_id.clone(),
            manifest_hash: manifest.hash.clone(),
            org_id: backup.org_id.clone(),
            database_id: backup.database_id.clone(),
            backup_id: backup.backup_id.clone(),
            attempt: backup.attempt,
            artifact_key: manifest.artifact_key().to_owned(),
            artifact_sha256: manifest.artifact_sha256().to_owned(),
            size_bytes: backup.size_bytes,
            snapshot_at: backup.snapshot_at.clone(),
        },
        logged: Logged {
            origin: backup.log_origin.clone(),
            tree_size: contents.index.tree_size,
            root: contents.index.root.clone(),
            key_id: log.key_id,
            backup_events: log.backup_events,
            events: contents.entries.len() as u64,
        },
        witnessed,
        annex: facts.map(|facts| facts.found(artifact.as_ref().is_some_and(|artifact| !artifact.opaque))),
        artifact,
        restored,
    })
}

/// The envelope under a trusted manifest key, and `bundle.json` as that manifest has it.
fn check_manifest(contents: &BundleContents, keys: &KeySet) -> Result<VerifiedManifest, Failure> {
    const PLACE: &str = "backup.dsse.json";
    let envelope = Envelope::from_bytes(&contents.envelope).map_err(|e| Failure::envelope(PLACE, &e))?;
    let manifest = manifest::verify(&envelope, keys).map_err(|e| Failure::envelope(PLACE, &e))?;
    let (index, backup) = (&contents.index, manifest.backup());
    let rules = [
        (index.manifest_hash == manifest.hash, "manifestHash is not the hash of the manifest"),
        (index.origin == backup.log_origin, "origin is not the manifest's"),
        (index.org_id == backup.org_id, "orgId is not the manifest's"),
        (index.database_id == backup.database_id, "databaseId is not the manifest's"),
        (index.backup_id == backup.backup_id, "backupId is not the manifest's"),
        (index.annex == BundleAnnex::from(&backup.annex), "annex is not the manifest's"),
    ];
    hold("bundle.json", rules)?;
    Ok(manifest)
}

/// Bad evidence at `place` for the first rule that does not hold.
fn hold<const N: usize>(place: &str, rules: [(bool, &str); N]) -> Result<(), Failure> {
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(Failure::bad(place, rule)),
        None => Ok(()),
    }
}

fn require_key(keys: &KeySet, key_use: KeyUse, what: &str) -> Result<(), Failure> {
    if keys.keys().iter().any(|key| key.is_for(key_use)) {
        return Ok(());
    }
    Err(Failure::not_checked(format!("none of the trusted keys is for {what}"))
        .with_hint("pin the whole published key file: it holds a key for each use"))
}

/// Keeps the first *not checked* until everything else was looked at; lets bad evidence through at once.
#[derive(Default)]
struct Undecided(Option<Failure>);

impl Undecided {
    fn note<T>(&mut self, outcome: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(failure @ Failure::NotChecked { .. }) => {
                self.0.get_or_insert(failure);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    fn end(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}
