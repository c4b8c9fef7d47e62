//! A line of `proofs.jsonl`.

use serde::{Deserialize, Serialize};

use crate::merkle::Hash;

/// A Merkle proof against the bundle's tree size and root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub enum Proof {
    /// The entry at `index` is in the log (RFC 6962, 2.1.1).
    Inclusion {
        /// Index of the entry.
        index: u64,
        /// Nodes of the audit path, nearest first; lower-case hex in JSON.
        #[serde(with = "hex_path")]
        path: Vec<Hash>,
    },
    /// The log extends what it was at `size` (RFC 6962, 2.1.2).
    Consistency {
        /// An older size, that of a published checkpoint.
        size: u64,
        /// Nodes of the proof, in the RFC's order; lower-case hex in JSON.
        #[serde(with = "hex_path")]
        path: Vec<Hash>,
    },
}

mod hex_path {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::merkle::Hash;

    pub(super) fn serialize<S: Serializer>(path: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(path.iter().map(hex::encode))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| {
                let mut node = [0; 32];
                hex::decode_to_slice(text, &mut node).map_err(|_| D::Error::custom("a node is not 64 hex digits"))?;
                Ok(node)
            })
            .collect()
    }
}
