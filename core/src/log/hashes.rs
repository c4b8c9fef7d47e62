//! Proofs from tiles. A tile holds 256 hashes of one level (levels count in steps of eight); a full
//! one is derived from entries or lower tiles when it is first needed and kept, so that a proof reads
//! O(log n) items.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use walwarden_contract::ids::OrgId;
use walwarden_verifier::merkle::{self, Hash};

use super::{Log, to_hash};
use crate::{
    error::{DomainError, Result},
    table::{Item, Write, keys},
};

const WIDTH: u64 = 256;

#[derive(Serialize, Deserialize)]
struct Tile {
    hashes: Vec<String>,
}

/// Hashes of a log as far as one proof needs them.
///
/// `merkle`'s provers read synchronously; so they are run until they ask for a hash that is not here
/// yet, the tile that holds it is read, and they are run again.
pub struct Hashes<'l> {
    log: &'l Log,
    org: OrgId,
    size: u64,
    tiles: HashMap<(u32, u64), Vec<Hash>>,
}

/// A hash that must be read first: tile level and index.
struct Missing(u32, u64);

impl Log {
    /// A prover over the first `size` entries.
    pub fn hashes(&self, org: &OrgId, size: u64) -> Hashes<'_> {
        Hashes { log: self, org: org.clone(), size, tiles: HashMap::new() }
    }
}

impl Hashes<'_> {
    /// Audit path of entry `index`.
    pub async fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>> {
        let size = self.size;
        self.prove(move |read| merkle::inclusion_proof(index, size, read)).await
    }

    /// Proof that these entries extend the first `old` ones.
    pub async fn consistency(&mut self, old: u64) -> Result<Vec<Hash>> {
        let size = self.size;
        self.prove(move |read| merkle::consistency_proof(old, size, read)).await
    }

    /// Root of the first `size` entries.
    pub async fn root(&mut self) -> Result<Hash> {
        let size = self.size;
        self.prove(move |read| merkle::root(size, read)).await
    }

    async fn prove<T>(
        &mut self,
        run: impl Fn(&mut dyn FnMut(u32, u64) -> Result<Hash, Missing>) -> Result<T, Missing>,
    ) -> Result<T> {
        loop {
            let mut read = |level, index| self.lookup(level, index);
            match run(&mut read) {
                Ok(value) => return Ok(value),
                Err(Missing(level, index)) => self.load(level, index).await?,
            }
        }
    }

    /// The root of the complete subtree of `2^level` leaves at `index`, from loaded tiles.
    fn lookup(&self, level: u32, index: u64) -> Result<Hash, Missing> {
        let (tile_level, within) = (level / 8, level % 8);
        let width = 1u64 << within;
        let first = index * width;
        let (tile, offset) = (first / WIDTH, (first % WIDTH) as usize);
        let hashes = self.tiles.get(&(tile_level, tile)).ok_or(Missing(tile_level, tile))?;
        let slice = hashes.get(offset..offset + width as usize).ok_or(Missing(tile_level, tile))?;
        Ok(fold(slice))
    }

    /// Reads a tile, or derives it and, when full, keeps it.
    async fn load(&mut self, level: u32, tile: u64) -> Result<()> {
        let complete = self.size >> (8 * level);
        let count = complete.saturating_sub(tile * WIDTH).min(WIDTH);
        let key = keys::log_tile(&self.org, self.log.epoch, level, tile);
        if count == WIDTH
            && let Some(stored) = self.log.table.get::<Tile>(&key).await?
        {
            let hashes = stored.body.hashes.iter().map(|h| to_hash(h)).collect::<Option<Vec<_>>>();
            let hashes =
                hashes.ok_or_else(|| DomainError::broken(&key.sk, "a tile holds something else than hashes"))?;
            self.tiles.insert((level, tile), hashes);
            return Ok(());
        }
        let hashes = if level == 0 {
            let indexes: Vec<u64> = (tile * WIDTH..tile * WIDTH + count).collect();
            let entries = self.log.entries(&self.org, &indexes).await?;
            entries.iter().map(|e| merkle::leaf_hash(e)).collect::<Vec<_>>()
        } else {
            let mut hashes = Vec::with_capacity(count as usize);
            for child in tile * WIDTH..tile * WIDTH + count {
                if !self.tiles.contains_key(&(level - 1, child)) {
                    Box::pin(self.load(level - 1, child)).await?;
                }
                let below = self.tiles.get(&(level - 1, child)).map(|h| fold(h));
                hashes.push(below.ok_or_else(|| DomainError::broken(&key.sk, "a lower tile is missing"))?);
            }
            hashes
        };
        if count == WIDTH {
            let stored = Tile { hashes: hashes.iter().map(hex::encode).collect() };
            self.log.table.write(Write::Put(key, Item::new(&stored))).await?;
        }
        self.tiles.insert((level, tile), hashes);
        Ok(())
    }
}

/// Root of a complete subtree; the slice's length is a power of two.
fn fold(hashes: &[Hash]) -> Hash {
    match hashes {
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            merkle::node_hash(&fold(left), &fold(right))
        }
    }
}
