//! Checkpoints the reader kept, against the bundle's log: the one thing that shows a rewritten history.

use super::{Failure, SuppliedCheckpoint, Undecided, Witnessed};
use crate::{
    bundle::{BundleContents, Proof},
    checkpoint::Checkpoint,
    ids,
    keys::KeySet,
    merkle,
};

const FRESH: &str = "export a fresh bundle of this backup and verify that";

/// Whether the bundle's log extends each supplied checkpoint. `None` where none was supplied.
pub(super) fn check(
    contents: &BundleContents,
    keys: &KeySet,
    supplied: &[SuppliedCheckpoint],
) -> Result<Option<Witnessed>, Failure> {
    let mut undecided = Undecided::default();
    for checkpoint in supplied {
        undecided.note(check_one(contents, keys, checkpoint))?;
    }
    undecided.end()?;
    let tree_size = contents.index.tree_size;
    Ok((!supplied.is_empty()).then_some(Witnessed { checkpoints: supplied.len() as u64, tree_size }))
}

fn check_one(contents: &BundleContents, keys: &KeySet, supplied: &SuppliedCheckpoint) -> Result<(), Failure> {
    let place = format!("checkpoint {}", ids::shown(&supplied.name));
    let (old, _) = Checkpoint::verify(&supplied.note, keys).map_err(|e| Failure::bad(&place, e.to_string()))?;
    let index = &contents.index;
    if old.origin != index.origin {
        return Err(Failure::not_checked(format!(
            "{place} is of log {}, the bundle of another",
            ids::shown(&old.origin)
        ))
        .with_hint("supply checkpoints of the bundle's own log and epoch"));
    }
    // The bundle's own checkpoint was held to `index` before.
    let new_root = root(contents)?;
    if old.size == index.tree_size {
        return match old.root == new_root {
            true => Ok(()),
            false => Err(Failure::bad(place, "has another root than the bundle's log at the same size")),
        };
    }
    if old.size > index.tree_size {
        return Err(Failure::not_checked(format!(
            "{place} is of size {}, the bundle only of {}",
            old.size, index.tree_size
        ))
        .with_hint(FRESH));
    }
    let path = contents.proofs.iter().find_map(|proof| match proof {
        Proof::Consistency { size, path } if *size == old.size => Some(path.as_slice()),
        _ => None,
    });
    let path = match (path, old.size) {
        (Some(path), _) => path,
        // Every log extends the empty one.
        (None, 0) => &[],
        (None, _) => {
            return Err(Failure::not_checked(format!(
                "{place} is of size {}, for which the bundle has no consistency proof",
                old.size
            ))
            .with_hint(FRESH));
        }
    };
    if !merkle::verify_consistency(old.size, &old.root, index.tree_size, &new_root, path) {
        return Err(Failure::bad(place, "the bundle's log does not extend it"));
    }
    Ok(())
}

/// The bundle's root as bytes.
pub(super) fn root(contents: &BundleContents) -> Result<merkle::Hash, Failure> {
    let mut root = [0; 32];
    hex::decode_to_slice(&contents.index.root, &mut root)
        .map_err(|_| Failure::bad("bundle.json", "a hash is not 64 lower-case hex digits"))?;
    Ok(root)
}
