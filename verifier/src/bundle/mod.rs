//! The evidence bundle: one `.tgz` from which a backup's manifest, its history and its restores' receipts
//! can be verified with nothing but trusted public keys.
//!
//! This module packs and unpacks; it holds members to their names, order, sizes and digests, and says
//! nothing of signatures or meaning (`verify` does). The annex and the artifact are never inside: an
//! auditor need not see table names. Keys inside are for reading, never for trust.

mod error;
mod proof;
mod ustar;

use std::io::{Read, Write};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::BundleError;
pub use proof::Proof;

use crate::{
    ids, jcs,
    manifest::{AnnexRef, is_sha256},
};

/// Version tag of a bundle's index.
pub const VERSION: &str = "walwarden.bundle.v1";

const INDEX: &str = "bundle.json";
const ENVELOPE: &str = "backup.dsse.json";
const ENTRIES: &str = "entries.jsonl";
const PROOFS: &str = "proofs.jsonl";
const CHECKPOINT: &str = "checkpoint";
const KEYS: &str = "keys.pem";

/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system. Level 6 sets no extra flags.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

const MAX_INDEX_BYTES: u64 = 1024 * 1024;
const MAX_ENVELOPE_BYTES: u64 = 16 * 1024;
const MAX_KEYS_BYTES: u64 = 1024 * 1024;
/// Longest line of `entries.jsonl` and `proofs.jsonl`, its LF not counted.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// What a reader accepts at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the `.tgz`.
    pub compressed_bytes: u64,
    /// Size of the tar archive in it.
    pub uncompressed_bytes: u64,
    /// Number of receipts.
    pub receipts: usize,
    /// Number of entries, and of consistency proofs.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed_bytes: 64 * 1024 * 1024,
            uncompressed_bytes: 256 * 1024 * 1024,
            receipts: 1_000,
            entries: 100_000,
        }
    }
}

/// `bundle.json`: what the bundle is about, and the digests of its other members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleIndex {
    /// Always [`VERSION`].
    pub v: String,
    /// Origin of the log.
    pub origin: String,
    /// `org_…`
    pub org_id: String,
    /// `db_…`
    pub database_id: String,
    /// `bkp_…`
    pub backup_id: String,
    /// SHA-256 of the manifest's statement, lower-case hex.
    pub manifest_hash: String,
    /// Size of the log that the proofs are against.
    pub tree_size: u64,
    /// Its root, lower-case hex.
    pub root: String,
    /// The annex, which is not in the bundle.
    pub annex: BundleAnnex,
    /// Every other member, in order. [`write`] fills this in.
    pub files: Vec<BundleFile>,
}

/// Where the annex is and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleAnnex {
    /// Object key.
    pub key: String,
    /// SHA-256 of the compressed file, lower-case hex.
    pub sha256: String,
    /// Compressed size.
    pub size_bytes: u64,
}

impl From<&AnnexRef> for BundleAnnex {
    fn from(annex: &AnnexRef) -> Self {
        Self { key: annex.key.clone(), sha256: annex.sha256.clone(), size_bytes: annex.size_bytes }
    }
}

/// One member of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleFile {
    /// Its name in the archive.
    pub name: String,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A bundle, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleContents {
    /// `bundle.json`.
    pub index: BundleIndex,
    /// `backup.dsse.json`: the manifest's envelope, its exact bytes.
    pub envelope: Vec<u8>,
    /// `entries.jsonl`: the exact canonical bytes of each entry, ordered by index.
    pub entries: Vec<Vec<u8>>,
    /// `proofs.jsonl`: an inclusion proof for each entry in the same order, then consistency proofs by size.
    pub proofs: Vec<Proof>,
    /// `checkpoint`: the signed note for `index.tree_size`.
    pub checkpoint: Vec<u8>,
    /// `receipts/<rst_id>.dsse.json`: restore id and envelope bytes. [`write`] sorts them.
    pub receipts: Vec<(String, Vec<u8>)>,
    /// `keys.pem`: for reading, never for trust.
    pub keys_pem: String,
}

/// Packs a bundle: the same contents give the same bytes. `contents.index.files` is computed here, whatever it holds.
pub fn write(contents: &BundleContents) -> Result<Vec<u8>, BundleError> {
    let mut receipts: Vec<_> = contents.receipts.iter().collect();
    receipts.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if receipts.windows(2).any(|pair| pair[0].0 == pair[1].0) || !receipts.iter().all(|r| ids::is_id("rst", &r.0)) {
        return Err(BundleError::rule("receipts", "a receipt is there twice or not named by a restore id"));
    }
    let limits = Limits::default();
    let fits = receipts.len() <= limits.receipts
        && contents.entries.len() <= limits.entries
        && contents.proofs.len() <= limits.entries * 2;
    if !fits {
        return Err(BundleError::rule("bundle", "larger than readers accept"));
    }
    let entries = lines(ENTRIES, contents.entries.iter().cloned().map(Ok))?;
    let proofs =
        lines(PROOFS, contents.proofs.iter().map(|p| jcs::to_vec(p).map_err(|e| BundleError::json(PROOFS, None, e))))?;
    let mut members: Vec<(String, &[u8])> = vec![
        (ENVELOPE.into(), &contents.envelope),
        (ENTRIES.into(), &entries),
        (PROOFS.into(), &proofs),
        (CHECKPOINT.into(), &contents.checkpoint),
    ];
    members.extend(receipts.iter().map(|(id, bytes)| (receipt_name(id), bytes.as_slice())));
    members.push((KEYS.into(), contents.keys_pem.as_bytes()));

    let mut index = contents.index.clone();
    index.files = members.iter().map(|(name, content)| describe(name, content)).collect();
    let index = jcs::to_vec(&index).map_err(|e| BundleError::json(INDEX, None, e))?;
    members.insert(0, (INDEX.into(), &index));

    let mut archive = Vec::new();
    for (name, content) in &members {
        ustar::append(&mut archive, name, content)
            .ok_or_else(|| BundleError::rule(name, "larger than a tar member"))?;
    }
    ustar::finish(&mut archive);
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    let bundle = gzip.write_all(&archive).and_then(|()| gzip.finish()).map_err(BundleError::Io)?;
    if archive.len() as u64 > limits.uncompressed_bytes || bundle.len() as u64 > limits.compressed_bytes {
        return Err(BundleError::rule("bundle", "larger than readers accept"));
    }
    Ok(bundle)
}

/// Unpacks a bundle: members by name and order, sizes within `limits`, digests as `bundle.json` gives them.
pub fn read(input: impl Read, limits: &Limits) -> Result<BundleContents, BundleError> {
    let mut compressed = Vec::new();
    input.take(limits.compressed_bytes + 1).read_to_end(&mut compressed).map_err(BundleError::Io)?;
    if compressed.len() as u64 > limits.compressed_bytes {
        return Err(BundleError::rule("bundle", "larger than the limit"));
    }
    if !compressed.starts_with(&GZIP_HEADER) {
        return Err(BundleError::rule("bundle", "does not begin with the gzip header of a bundle"));
    }
    let mut rest = compressed.as_slice();
    let mut members = Members::new(GzDecoder::new(&mut rest), limits);
    let contents = members.contents(limits)?;
    members.end()?;
    drop(members);
    if !rest.is_empty() {
        return Err(BundleError::rule("bundle", "bytes follow the end of the gzip member"));
    }
    Ok(contents)
}

/// The archive's members, one after the other, each described as it is read.
struct Members<R> {
    tar: ustar::Reader<R>,
    ahead: Option<(String, u64)>,
    ended: bool,
    described: Vec<BundleFile>,
}

impl<R: Read> Members<R> {
    fn new(input: R, limits: &Limits) -> Self {
        let tar = ustar::Reader::new(input, limits.uncompressed_bytes);
        Self { tar, ahead: None, ended: false, described: Vec::new() }
    }

    fn peek(&mut self) -> Result<Option<&str>, BundleError> {
        if self.ahead.is_none() && !self.ended {
            self.ahead = self.tar.next().map_err(|e| BundleError::tar("bundle", e))?;
            self.ended = self.ahead.is_none();
        }
        Ok(self.ahead.as_ref().map(|(name, _)| name.as_str()))
    }

    fn take(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
        self.peek()?;
        let size = match self.ahead.take() {
            Some((found, size)) if found == name => size,
            _ => return Err(BundleError::rule(name, "is not there, or not in its place")),
        };
        if size > limit {
            return Err(BundleError::rule(name, "larger than the limit"));
        }
        let content = self.tar.content(size).map_err(|e| BundleError::tar(name, e))?;
        self.described.push(describe(name, &content));
        Ok(content)
    }

    fn end(&mut self) -> Result<(), BundleError> {
        match self.peek()? {
            None => Ok(()),
            Some(_) => Err(BundleError::rule("bundle", "holds a member that has no place in it")),
        }
    }

    fn contents(&mut self, limits: &Limits) -> Result<BundleContents, BundleError> {
        let index = self.take(INDEX, MAX_INDEX_BYTES)?;
        self.described.clear();
        let index: BundleIndex = jcs::from_slice(&index).map_err(|e| BundleError::json(INDEX, None, e))?;
        if index.v != VERSION {
            return Err(BundleError::rule(INDEX, "has another version than walwarden.bundle.v1"));
        }
        if !is_sha256(&index.root) || !is_sha256(&index.manifest_hash) || !is_sha256(&index.annex.sha256) {
            return Err(BundleError::rule(INDEX, "a hash is not 64 lower-case hex digits"));
        }
        let envelope = self.take(ENVELOPE, MAX_ENVELOPE_BYTES)?;
        let entries = self.take(ENTRIES, limits.uncompressed_bytes)?;
        let entries: Vec<Vec<u8>> = split(ENTRIES, &entries, limits.entries)?.into_iter().map(<[u8]>::to_vec).collect();
        let proofs = self.take(PROOFS, limits.uncompressed_bytes)?;
        let proofs = split(PROOFS, &proofs, limits.entries.saturating_mul(2))?
            .into_iter()
            .zip(1..)
            .map(|(line, number)| jcs::from_slice(line).map_err(|e| BundleError::json(PROOFS, Some(number), e)))
            .collect::<Result<_, _>>()?;
        let checkpoint = self.take(CHECKPOINT, crate::checkpoint::MAX_BYTES as u64)?;
        let receipts = self.receipts(limits)?;
        let keys_pem =
            String::from_utf8(self.take(KEYS, MAX_KEYS_BYTES)?).map_err(|_| BundleError::rule(KEYS, "is not UTF-8"))?;
        if index.files != self.described {
            let differs = index.files.iter().zip(&self.described).find(|(stated, found)| stated != found);
            let name = differs.map_or(INDEX, |(_, found)| found.name.as_str());
            return Err(BundleError::rule(name, "differs from what bundle.json says of the members"));
        }
        Ok(BundleContents { index, envelope, entries, proofs, checkpoint, receipts, keys_pem })
    }

    fn receipts(&mut self, limits: &Limits) -> Result<Vec<(String, Vec<u8>)>, BundleError> {
        let mut receipts: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(id) = self.peek()?.and_then(receipt_id) {
            let id = id.to_owned();
            if receipts.len() == limits.receipts {
                return Err(BundleError::rule("receipts", "there are more than the limit"));
            }
            if receipts.last().is_some_and(|(last, _)| *last >= id) {
                return Err(BundleError::rule("receipts", "are not in order"));
            }
            let bytes = self.take(&receipt_name(&id), MAX_ENVELOPE_BYTES)?;
            receipts.push((id, bytes));
        }
        Ok(receipts)
    }
}

fn receipt_name(id: &str) -> String {
    format!("receipts/{id}.dsse.json")
}

fn receipt_id(name: &str) -> Option<&str> {
    name.strip_prefix("receipts/")?.strip_suffix(".dsse.json").filter(|id| ids::is_id("rst", id))
}

fn describe(name: &str, content: &[u8]) -> BundleFile {
    BundleFile { name: name.to_owned(), sha256: hex::encode(Sha256::digest(content)), size_bytes: content.len() as u64 }
}

fn lines(name: &str, items: impl Iterator<Item = Result<Vec<u8>, BundleError>>) -> Result<Vec<u8>, BundleError> {
    let mut out = Vec::new();
    for item in items {
        let item = item?;
        if item.is_empty() || item.len() > MAX_LINE_BYTES || item.contains(&b'\n') {
            return Err(BundleError::rule(name, "a line is empty, too long or more than one"));
        }
        out.extend_from_slice(&item);
        out.push(b'\n');
    }
    Ok(out)
}

fn split<'b>(name: &str, bytes: &'b [u8], limit: usize) -> Result<Vec<&'b [u8]>, BundleError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let Some(body) = bytes.strip_suffix(b"\n") else {
        return Err(BundleError::rule(name, "does not end with a newline"));
    };
    let mut out = Vec::new();
    for line in body.split(|&byte| byte == b'\n') {
        if out.len() == limit {
            return Err(BundleError::rule(name, "has more lines than the limit"));
        }
        if line.is_empty() || line.len() > MAX_LINE_BYTES {
            return Err(BundleError::rule(name, "a line is empty or longer than 16 KiB"));
        }
        out.push(line);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
