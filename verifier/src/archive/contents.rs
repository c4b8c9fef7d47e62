//! What a manifest says about an archive's table of contents, in 32 bytes.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::toc::TocEntry;
use crate::jcs::{self, JcsError};

/// One entry, as `contents.digest` covers it: what can be read from the table of contents and is not SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentLine<'a> {
    /// Dump ids it depends on, in the archive's order.
    pub dependencies: &'a [i32],
    /// Its dump id.
    pub dump_id: i32,
    /// Its kind, such as `TABLE DATA`.
    pub kind: &'a str,
    /// Its tag.
    pub name: &'a str,
    /// Its owner, empty where it has none.
    pub owner: &'a str,
    /// Its schema, empty where it has none.
    pub schema: &'a str,
}

impl<'a> From<&'a TocEntry> for ContentLine<'a> {
    fn from(entry: &'a TocEntry) -> Self {
        Self {
            dependencies: &entry.dependencies,
            dump_id: entry.dump_id,
            kind: &entry.desc,
            name: &entry.tag,
            owner: entry.owner.as_deref().unwrap_or_default(),
            schema: entry.namespace.as_deref().unwrap_or_default(),
        }
    }
}

/// `contents.digest`: SHA-256 over one JCS line per entry, each closed by LF, in the archive's order.
#[derive(Debug, Clone, Default)]
pub struct ContentsDigest {
    hash: Sha256,
}

impl ContentsDigest {
    /// Takes the next entry.
    pub fn entry(&mut self, entry: &TocEntry) -> Result<(), JcsError> {
        self.line(&ContentLine::from(entry))
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &ContentLine<'_>) -> Result<(), JcsError> {
        self.hash.update(jcs::to_vec(line)?);
        self.hash.update(b"\n");
        Ok(())
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}
