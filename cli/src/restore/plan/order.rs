//! The order of entries for `pg_restore --clean`, which drops in the reverse of the order it makes.
//!
//! In the archive's own order that fails wherever a partitioned table has a primary key or an index: the partition's is
//! to be dropped first, and Postgres refuses ("cannot drop inherited constraint"). With the partitions' indexes before
//! their parent's, the parent's is dropped first and takes them along; `--if-exists` passes over them. Making them in
//! that order is as good: each is made for its own table, and INDEX ATTACH entries come after both.

use std::collections::{BTreeMap, HashMap, HashSet};

use walwarden_verifier::annex::Annex;

use crate::restore::target::inside::IndexName;

/// `dump_ids` with every attached index before the one it is attached to.
pub fn droppable(annex: &Annex, dump_ids: &[i64], attached: &[(IndexName, IndexName)]) -> Vec<i64> {
    let indexes = annex.entries.iter().filter(|entry| entry.kind == "CONSTRAINT" || entry.kind == "INDEX");
    let by_name: BTreeMap<(&str, &str, &str), i64> = indexes
        .map(|entry| ((entry.kind.as_str(), entry.schema.as_str(), entry.name.as_str()), entry.dump_id))
        .collect();
    let id =
        |index: &IndexName| by_name.get(&(index.kind.as_str(), index.schema.as_str(), index.name.as_str())).copied();
    let mut children: HashMap<i64, Vec<i64>> = HashMap::new();
    for (child, parent) in attached {
        if let (Some(child), Some(parent)) = (id(child), id(parent)) {
            children.entry(parent).or_default().push(child);
        }
    }
    let wanted: HashSet<i64> = dump_ids.iter().copied().collect();
    let mut placed = HashSet::new();
    let mut ordered = Vec::with_capacity(dump_ids.len());
    for dump_id in dump_ids {
        place(*dump_id, &children, &wanted, &mut placed, &mut ordered);
    }
    ordered
}

fn place(
    dump_id: i64,
    children: &HashMap<i64, Vec<i64>>,
    wanted: &HashSet<i64>,
    placed: &mut HashSet<i64>,
    ordered: &mut Vec<i64>,
) {
    if !wanted.contains(&dump_id) || !placed.insert(dump_id) {
        return;
    }
    for child in children.get(&dump_id).into_iter().flatten() {
        place(*child, children, wanted, placed, ordered);
    }
    ordered.push(dump_id);
}
