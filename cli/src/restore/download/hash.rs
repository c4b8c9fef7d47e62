//! SHA-256 of a file that is still arriving: read back from the disk, in order, behind the first gap.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::{RANGE_BYTES, range_length};

const HASH_BYTES: usize = 1024 * 1024;

/// Which ranges are on disk; the hash follows the first gap.
pub struct Arrived {
    ranges: Mutex<State>,
    changed: Condvar,
}

struct State {
    present: Vec<bool>,
    gap: usize,
    abandoned: bool,
}

impl Arrived {
    /// With what is there already.
    pub fn new(present: Vec<bool>) -> Self {
        let gap = present.iter().position(|there| !there).unwrap_or(present.len());
        Self { ranges: Mutex::new(State { present, gap, abandoned: false }), changed: Condvar::new() }
    }

    /// A range has arrived.
    pub fn mark(&self, range: usize) {
        let mut state = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        state.present[range] = true;
        while state.present.get(state.gap) == Some(&true) {
            state.gap += 1;
        }
        self.changed.notify_all();
    }

    fn abandon(&self) {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).abandoned = true;
        self.changed.notify_all();
    }

    /// Waits until range `index` and all before it are there; false if the download was given up.
    fn wait_for(&self, index: usize) -> bool {
        let mut state = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        while state.gap <= index && !state.abandoned {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.gap > index
    }
}

/// Ends the hashing thread if the download is dropped.
pub struct Abandon(pub Arc<Arrived>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The file's SHA-256 once all of it is there; `None` if the download was given up.
pub fn hash(file: &File, size: u64, arrived: &Arrived) -> std::io::Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BYTES];
    let mut at = 0;
    while at < size {
        let range = usize::try_from(at / RANGE_BYTES).unwrap_or(usize::MAX);
        if !arrived.wait_for(range) {
            return Ok(None);
        }
        let end = (at + range_length(range, size)).min(size);
        while at < end {
            let take = usize::try_from(end - at).unwrap_or(HASH_BYTES).min(HASH_BYTES);
            file.read_exact_at(&mut buffer[..take], at)?;
            hash.update(&buffer[..take]);
            at += take as u64;
        }
    }
    Ok(Some(hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_follows_ranges_in_whatever_order_they_arrive() {
        let size = 2 * RANGE_BYTES + 17;
        let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let arrived = Arc::new(Arrived::new(vec![false; 3]));
        let (reader, shared) = (file.try_clone().unwrap(), arrived.clone());
        let hashing = std::thread::spawn(move || hash(&reader, size, &shared).unwrap());
        for range in [2, 0, 1] {
            let start = range * RANGE_BYTES as usize;
            let end = start + range_length(range, size) as usize;
            file.write_all_at(&content[start..end], start as u64).unwrap();
            arrived.mark(range);
        }
        assert_eq!(hashing.join().unwrap(), Some(hex::encode(Sha256::digest(&content))));
    }

    #[test]
    fn a_download_given_up_ends_the_hash() {
        let arrived = Arc::new(Arrived::new(vec![false]));
        drop(Abandon(arrived.clone()));
        assert_eq!(hash(&tempfile::tempfile().unwrap(), 5, &arrived).unwrap(), None);
    }
}
