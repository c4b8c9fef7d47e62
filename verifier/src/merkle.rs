//! The RFC 6962 Merkle tree over a log's entries: hashes, the frontier a writer keeps, inclusion and
//! consistency proofs, and their verification. No storage: who makes a proof hands in a way to read
//! the hashes of complete subtrees.

/// A SHA-256 node of the tree.
pub type Hash = [u8; 32];

use sha2::{Digest, Sha256};

/// RFC 6962, 2.1: `SHA-256(0x00 || leaf)`.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0x00]).chain_update(leaf).finalize().into()
}

/// RFC 6962, 2.1: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x01]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves: `SHA-256("")`.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The roots of the complete subtrees of a growing tree, largest first: what a writer needs to
/// append in O(log n) and to know its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// A frontier read back from storage; `None` where the number of nodes does not fit the size.
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The subtree roots, largest subtree first.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends one leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            // Each trailing one is a complete subtree as large as `node`.
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// A range `[start, start + size)` of leaves whose hash a proof needs, cut into complete subtrees.
/// `read(level, index)` gives the root of the complete subtree of `2^level` leaves at `index`.
fn range_hash<E>(start: u64, size: u64, read: &mut impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    if size == 0 {
        return Ok(empty_root());
    }
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        return read(level, start >> level);
    }
    let split = largest_power_below(size);
    let left = range_hash(start, split, read)?;
    let right = range_hash(start + split, size - split, read)?;
    Ok(node_hash(&left, &right))
}

fn largest_power_below(size: u64) -> u64 {
    debug_assert!(size > 1);
    1 << (63 - (size - 1).leading_zeros())
}

/// The root of the first `size` leaves.
pub fn root<E>(size: u64, mut read: impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    range_hash(0, size, &mut read)
}

/// RFC 6962, 2.1.1: the audit path of leaf `index` in the tree of `size` leaves, nearest node first.
/// `index < size`, else the path is empty.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut path = Vec::new();
    let (mut start, mut width) = (0, size);
    while width > 1 && index < size {
        let split = largest_power_below(width);
        if index - start < split {
            path.push(range_hash(start + split, width - split, &mut read)?);
            width = split;
        } else {
            path.push(range_hash(start, split, &mut read)?);
            start += split;
            width -= split;
        }
    }
    path.reverse();
    Ok(path)
}

/// RFC 6962, 2.1.2: proof that the tree of `new` leaves extends the one of `old`. Empty where
/// `old` is 0 or equals `new`.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut read: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    let (mut start, mut width, mut old_width, mut whole) = (0, new, old, true);
    while old_width != width {
        let split = largest_power_below(width);
        if old_width <= split {
            path.push(range_hash(start + split, width - split, &mut read)?);
            width = split;
        } else {
            path.push(range_hash(start, split, &mut read)?);
            start += split;
            width -= split;
            old_width -= split;
            whole = false;
        }
    }
    if !whole {
        path.push(range_hash(start, width, &mut read)?);
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162, 2.1.3.2: whether `path` proves `leaf` to be leaf `index` of the tree `(size, root)`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last, mut hash) = (index, size - 1, *leaf);
    for node in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(node, &hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, node);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// RFC 9162, 2.1.4.2: whether `path` proves that `(new, new_root)` extends `(old, old_root)`.
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    let mut nodes = path.iter();
    let (mut position, mut last) = (old - 1, new - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let first = if old.is_power_of_two() {
        *old_root
    } else {
        match nodes.next() {
            Some(node) => *node,
            None => return false,
        }
    };
    let (mut old_hash, mut new_hash) = (first, first);
    for node in nodes {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_hash = node_hash(node, &old_hash);
            new_hash = node_hash(node, &new_hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, node);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// The definition of RFC 6962, 2.1, word for word.
    fn reference_root(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => empty_root(),
            1 => leaves[0],
            n => {
                let split = largest_power_below(n as u64) as usize;
                node_hash(&reference_root(&leaves[..split]), &reference_root(&leaves[split..]))
            }
        }
    }

    fn reader(leaves: &[Hash]) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> + '_ {
        |level, index| {
            let width = 1usize << level;
            let start = index as usize * width;
            Ok(reference_root(&leaves[start..start + width]))
        }
    }

    #[test]
    fn roots_of_rfc_test_vectors() {
        // The eight leaves and roots used by Certificate Transparency's own test suite.
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut frontier = Frontier::default();
        for input in inputs {
            frontier.push(leaf_hash(input));
        }
        assert_eq!(hex::encode(frontier.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn every_proof_of_every_small_tree_verifies_and_no_other() {
        let all = leaves(33);
        let roots: Vec<Hash> = (0..=33).map(|n| reference_root(&all[..n])).collect();
        for size in 1..=33u64 {
            let root = roots[size as usize];
            for index in 0..size {
                let path = inclusion_proof(index, size, reader(&all[..size as usize])).unwrap();
                assert!(verify_inclusion(&all[index as usize], index, size, &path, &root));
                assert!(!verify_inclusion(&all[index as usize], index ^ 1, size, &path, &root));
                assert!(!verify_inclusion(&all[(index as usize + 1) % 33], index, size, &path, &root));
            }
            for old in 0..=size {
                let path = consistency_proof(old, size, reader(&all[..size as usize])).unwrap();
                let old_root = roots[old as usize];
                assert!(verify_consistency(old, &old_root, size, &root, &path), "{old} {size}");
                let forged = leaf_hash(b"forged");
                assert!(!verify_consistency(old, &forged, size, &root, &path));
            }
        }
    }

    proptest! {
        #[test]
        fn frontier_equals_definition(count in 0u64..200) {
            let all = leaves(count);
            let mut frontier = Frontier::default();
            for leaf in &all {
                frontier.push(*leaf);
            }
            prop_assert_eq!(frontier.root(), reference_root(&all));
            let again = Frontier::from_parts(frontier.size(), frontier.nodes().to_vec());
            prop_assert_eq!(again, Some(frontier));
        }

        #[test]
        fn altered_paths_fail(size in 2u64..120, pick in any::<u64>(), flip in any::<usize>()) {
            let all = leaves(size);
            let root = reference_root(&all);
            let index = pick % size;
            let mut path = inclusion_proof(index, size, reader(&all)).unwrap();
            let at = flip % path.len();
            path[at][flip % 32] ^= 1;
            prop_assert!(!verify_inclusion(&all[index as usize], index, size, &path, &root));
            path.push([0; 32]);
            prop_assert!(!verify_inclusion(&all[index as usize], index, size, &path, &root));
        }
    }
}
