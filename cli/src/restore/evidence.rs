//! What is to be restored, as the signature says: manifest under a trusted key, annex under the
//! manifest. Nothing here spends the token.

use std::{io::Read, path::Path, time::Duration};

use sha2::{Digest, Sha256};
use walwarden_client::{ApiClient, RetryPolicy, worker};
use walwarden_contract::{failure::FailureClass, worker::SignedRequest};
use walwarden_verifier::{
    annex::{Annex, AnnexSize, Entry},
    archive::{ContentLine, ContentsDigest},
    dsse::{Envelope, EnvelopeError},
    ids::shown,
    keys::KeySet,
    manifest::{self, VerifiedManifest},
};

use super::{guards::Service, workspace::Workspace};
use crate::failure::Failure;

/// Whether nobody has looked into the archive: there are no entries to plan with and no digests to compare with.
pub fn is_opaque(annex: &Annex) -> bool {
    annex.header.compression == manifest::OPAQUE
}

/// Largest annex file that is read into memory.
const MAX_ANNEX_BYTES: u64 = 512 * 1024 * 1024;

/// The verified description of a backup.
pub struct Evidence {
    /// The manifest.
    pub manifest: VerifiedManifest,
    /// The annex.
    pub annex: Annex,
    /// Where the trusted keys come from.
    pub key_source: String,
    /// The keys as the server gave them, where no others were named.
    pub served_keys: Option<Vec<u8>>,
    /// The envelope's bytes, to keep.
    pub envelope: Vec<u8>,
    /// The annex' bytes, to keep.
    pub annex_file: Vec<u8>,
}

/// Largest envelope file that is read.
const MAX_ENVELOPE_BYTES: u64 = 1024 * 1024;

/// Names under which a workspace keeps evidence, so that an interrupted restore can go on when the token has expired.
const ENVELOPE: &str = "manifest.json";
const ANNEX: &str = "annex.jsonl.gz";

impl Evidence {
    /// From the server, or from the workspace of an interrupted restore; verified alike.
    pub async fn load(
        service: &Service,
        client: &ApiClient,
        pubkey: Option<&Path>,
        kept: Option<&Workspace>,
    ) -> Result<Self, Failure> {
        let Trusted { keys, key_source, served_keys } = trusted_keys(client, pubkey).await?;
        if let Some(workspace) = kept
            && let (Some(envelope), Some(annex_file)) = (workspace.read(ENVELOPE)?, workspace.read(ANNEX)?)
        {
            let manifest = verify_manifest(&envelope, &keys, &key_source, service)?;
            let annex = verify_annex(&annex_file, &manifest)?;
            return Ok(Self { manifest, annex, key_source, served_keys, envelope, annex_file });
        }
        let answer = worker::inspect(client, service.token.clone()).await?;
        let claims = &service.claims;
        if answer.restore_id != claims.job_intent_id || answer.mode != claims.mode || answer.org_id != claims.org_id {
            return Err(Failure::user("unexpected_answer", "the server describes another restore than the token does")
                .hint("check WALWARDEN_BASE_URL"));
        }
        let envelope = answer.envelope.into_bytes();
        let manifest = verify_manifest(&envelope, &keys, &key_source, service)?;
        let annex_file = fetch_annex(&answer.annex, &manifest).await?;
        let annex = verify_annex(&annex_file, &manifest)?;
        Ok(Self { manifest, annex, key_source, served_keys, envelope, annex_file })
    }

    /// From files as they lie in the bucket, without token and server.
    pub fn from_files(envelope: &Path, annex: &Path, pubkey: &Path) -> Result<Self, Failure> {
        let keys = keys_in(pubkey)?;
        let key_source = format!("file {}", pubkey.display());
        let envelope_bytes = read_file("envelope", envelope, MAX_ENVELOPE_BYTES)?;
        let manifest = open_manifest(&envelope_bytes, &keys, &key_source).map_err(|failure| Failure {
            message: format!("{}: {}", envelope.display(), failure.message),
            ..failure
        })?;
        let annex_file = read_file("annex", annex, MAX_ANNEX_BYTES)?;
        let records = verify_annex(&annex_file, &manifest).map_err(|failure| {
            Failure { message: format!("{}: {}", annex.display(), failure.message), ..failure }
                .hint(format!("that manifest's annex is {} in the bucket", shown(&manifest.backup().annex.key)))
        })?;
        let (annex, envelope) = (records, envelope_bytes);
        Ok(Self { manifest, annex, key_source, served_keys: None, envelope, annex_file })
    }

    /// Keeps it in the workspace.
    pub fn keep(&self, workspace: &Workspace) -> Result<(), Failure> {
        workspace.write(ENVELOPE, &self.envelope)?;
        workspace.write(ANNEX, &self.annex_file).map(drop)
    }
}

fn keys_in(path: &Path) -> Result<KeySet, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::user("pubkey_unreadable", format!("could not read the public keys in {}: {error}", path.display()))
            .hint("check --pubkey or WALWARDEN_PUBKEY")
    })?;
    KeySet::from_pem(&text).map_err(|error| {
        Failure::user("pubkey_invalid", format!("{}: {error}", path.display()))
            .hint("download it again from /.well-known/walwarden-pubkey.pem")
    })
}

fn read_file(what: &str, path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().map_err(|error| {
        Failure::user(
            &format!("{what}_unreadable"),
            format!("could not read the {what} in {}: {error}", path.display()),
        )
        .hint(format!("check --{what}; it names a file fetched from the bucket"))
    })?;
    if bytes.len() as u64 > most {
        let message = format!("{} is larger than any {what}", path.display());
        return Err(Failure::user(&format!("{what}_invalid"), message).hint(format!("check --{what}")));
    }
    Ok(bytes)
}

/// Keys, and why they are trusted.
struct Trusted {
    keys: KeySet,
    key_source: String,
    served_keys: Option<Vec<u8>>,
}

async fn trusted_keys(client: &ApiClient, pubkey: Option<&Path>) -> Result<Trusted, Failure> {
    if let Some(path) = pubkey {
        let key_source = format!("file {}", path.display());
        return Ok(Trusted { keys: keys_in(path)?, key_source, served_keys: None });
    }
    let bytes = client.get_bytes("read the public keys", "/.well-known/walwarden-pubkey.pem").await?;
    let keys = std::str::from_utf8(&bytes).ok().and_then(|text| KeySet::from_pem(text).ok());
    let keys = keys.ok_or_else(|| {
        Failure::user("pubkey_invalid", format!("{} serves no usable public keys", client.origin()))
            .hint("check WALWARDEN_BASE_URL, or pin the keys with --pubkey")
    })?;
    Ok(Trusted { keys, key_source: format!("server {}", client.origin()), served_keys: Some(bytes) })
}

fn open_manifest(envelope: &[u8], keys: &KeySet, key_source: &str) -> Result<VerifiedManifest, Failure> {
    let parsed = Envelope::from_bytes(envelope).and_then(|envelope| manifest::verify(&envelope, keys));
    parsed.map_err(|error| {
        let failure = Failure::class(
            FailureClass::ManifestInvalid,
            format!("the manifest is not good: {}", shown(&error.to_string())),
        );
        match error {
            EnvelopeError::UnknownKey(_) => failure
                .hint(format!("the trusted keys come from {key_source}; if that is not who you expect, stop here")),
            _ => failure,
        }
    })
}

fn verify_manifest(
    envelope: &[u8],
    keys: &KeySet,
    key_source: &str,
    service: &Service,
) -> Result<VerifiedManifest, Failure> {
    let verified = open_manifest(envelope, keys, key_source)?;
    let claims = &service.claims;
    // The token's manifest is the one that was named on the command line.
    if claims.manifest_hash != verified.hash {
        let message = format!("the server gave the manifest {} instead of the one asked for", verified.hash);
        return Err(Failure::class(FailureClass::ManifestInvalid, message));
    }
    let backup = verified.backup();
    if backup.org_id != claims.org_id.as_str() || backup.backup_id != claims.backup_id.as_str() {
        return Err(Failure::class(
            FailureClass::ManifestInvalid,
            "the manifest is of another organization or backup than the token",
        ));
    }
    Ok(verified)
}

/// The annex' bytes, which must have exactly the manifest's size and digest.
async fn fetch_annex(request: &SignedRequest, manifest: &VerifiedManifest) -> Result<Vec<u8>, Failure> {
    let size = manifest.backup().annex.size_bytes;
    if size > MAX_ANNEX_BYTES {
        return Err(Failure::class(FailureClass::ManifestInvalid, "the annex is larger than this program reads"));
    }
    let client = super::download::bucket_client()?;
    let retry = RetryPolicy::default();
    let mut failed = 0;
    loop {
        let error = match super::download::fetch_whole(&client, request, size).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        failed += 1;
        if failed >= retry.attempts {
            return Err(error);
        }
        tokio::time::sleep(retry.pause(failed).max(Duration::from_millis(50))).await;
    }
}

fn verify_annex(file: &[u8], manifest: &VerifiedManifest) -> Result<Annex, Failure> {
    let wrong = |what: String| {
        Failure::class(FailureClass::ManifestInvalid, format!("the annex is not what the manifest states: {what}"))
    };
    let stated = &manifest.backup().annex;
    if file.len() as u64 != stated.size_bytes || hex::encode(Sha256::digest(file)) != stated.sha256 {
        return Err(wrong("other bytes".into()));
    }
    let size = AnnexSize { uncompressed_bytes: stated.uncompressed_bytes, lines: stated.lines };
    let annex = Annex::read(file, size).map_err(|error| wrong(shown(&error.to_string())))?;
    let backup = manifest.backup();
    let counts = &annex.header.counts;
    let contents = &backup.contents;
    let rules = [
        (
            annex.header.backup_id == backup.backup_id && annex.header.attempt == backup.attempt,
            "it describes another backup",
        ),
        (annex.database.name == backup.source_database, "it describes another database"),
        (annex.header.compression == backup.compression, "another compression"),
        (
            counts.entries == contents.entries && counts.tables == contents.tables && counts.rows == contents.rows,
            "other counts",
        ),
        (
            !is_opaque(&annex)
                || (counts.entries, counts.tables, counts.sequences, counts.large_objects) == (0, 0, 0, 0),
            "contents of an archive that nobody has read",
        ),
        (entries_digest(&annex.entries).as_deref() == Some(contents.digest.as_str()), "other entries"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(wrong(rule.into())),
        None => Ok(annex),
    }
}

/// `contents.digest` of the annex' entries.
pub fn entries_digest(entries: &[Entry]) -> Option<String> {
    let mut digest = ContentsDigest::default();
    for entry in entries {
        let dependencies: Vec<i32> =
            entry.dependencies.iter().map(|id| i32::try_from(*id)).collect::<Result<_, _>>().ok()?;
        let line = ContentLine {
            dependencies: &dependencies,
            dump_id: i32::try_from(entry.dump_id).ok()?,
            kind: &entry.kind,
            name: &entry.name,
            owner: &entry.owner,
            schema: &entry.schema,
        };
        digest.line(&line).ok()?;
    }
    Some(hex::encode(digest.finish()))
}
