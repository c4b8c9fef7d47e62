//! Entries that the archive has and that cannot be restored, because something else is not in it: the runner names them
//! among the omissions. What is about them goes with them; if data does, the backup is refused.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_verifier::annex::{Annex, Entry};

use super::{Refusal, entry_name};
use crate::restore::target::inside::ExistingTable;

/// The runner's word for it (`dependsOnOmitted`, docs/evidence-format.md).
pub const REASON: &str = "dependsOnOmitted";

/// Kinds that hold data, or what data is loaded into.
const DATA: [&str; 6] = ["TABLE", "TABLE DATA", "TABLE ATTACH", "SEQUENCE", "SEQUENCE SET", "BLOBS"];

/// Dump ids that are left out, each with the reason.
pub fn entries(annex: &Annex) -> (BTreeMap<i64, String>, Vec<Refusal>) {
    let named: BTreeSet<(&str, &str, &str)> = annex
        .omissions
        .iter()
        .filter(|omission| omission.reason == REASON)
        .map(|omission| (omission.kind.as_str(), omission.schema.as_str(), omission.name.as_str()))
        .collect();
    let mut left_out = BTreeMap::new();
    let mut refusals = Vec::new();
    if named.is_empty() {
        return (left_out, refusals);
    }
    // An entry may come before what it depends on, so once is not always enough.
    loop {
        let before = left_out.len();
        for entry in &annex.entries {
            if left_out.contains_key(&entry.dump_id) {
                continue;
            }
            if named.contains(&(entry.kind.as_str(), entry.schema.as_str(), entry.name.as_str())) {
                left_out.insert(entry.dump_id, "it needs something that is not in the backup".to_owned());
            } else if entry.dependencies.iter().any(|id| left_out.contains_key(id)) {
                left_out.insert(entry.dump_id, "it is about something that is left out".to_owned());
                refusals.extend(data_lost(entry));
            }
        }
        if left_out.len() == before {
            return (left_out, refusals);
        }
    }
}

/// Whether it holds data, or data is loaded into it.
pub fn holds_data(entry: &Entry) -> bool {
    DATA.contains(&entry.kind.as_str())
}

fn data_lost(entry: &Entry) -> Option<Refusal> {
    holds_data(entry).then(|| {
        Refusal::new(
            "data_depends_on_omitted",
            format!("{} is in the backup and needs something that is not", entry_name(entry)),
            "back up with a role that may read everything, or restore by hand with pg_restore and make what is missing first",
        )
    })
}

/// Tables that the source had and the backup is without.
pub struct Tables<'a> {
    schemas: BTreeSet<&'a str>,
    tables: BTreeSet<(&'a str, &'a str)>,
}

/// Of this backup.
pub fn tables(annex: &Annex) -> Tables<'_> {
    let of = |kind: &'static str| annex.omissions.iter().filter(move |omission| omission.kind == kind);
    Tables {
        schemas: of("SCHEMA").map(|omission| omission.name.as_str()).collect(),
        tables: of("TABLE").map(|omission| (omission.schema.as_str(), omission.name.as_str())).collect(),
    }
}

impl Tables<'_> {
    /// Whether this is one of them.
    pub fn has(&self, table: &ExistingTable) -> bool {
        self.schemas.contains(table.schema.as_str())
            || self.tables.contains(&(table.schema.as_str(), table.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use walwarden_verifier::annex::Omission;

    use super::*;

    fn annex(entries: &[(i64, &str, &str, &[i64])], omitted: &[(&str, &str)]) -> Annex {
        let entries = entries
            .iter()
            .map(|(dump_id, kind, name, dependencies)| Entry {
                dump_id: *dump_id,
                kind: (*kind).into(),
                schema: "s".into(),
                name: (*name).into(),
                dependencies: dependencies.to_vec(),
                ..Entry::default()
            })
            .collect();
        let mut annex = super::super::tests::annex(entries);
        annex.omissions = omitted
            .iter()
            .map(|(kind, name)| Omission {
                kind: (*kind).into(),
                schema: "s".into(),
                name: (*name).into(),
                reason: REASON.into(),
            })
            .collect();
        annex
    }

    #[test]
    fn what_is_about_it_goes_with_it() {
        let annex = annex(
            &[
                (9, "ACL", "FUNCTION f()", &[3]),
                (2, "TABLE", "t", &[]),
                (3, "FUNCTION", "f()", &[]),
                (4, "TRIGGER", "t r", &[2, 3]),
                (5, "COMMENT", "TRIGGER r ON t", &[4]),
                (6, "TABLE DATA", "t", &[2]),
                (7, "FUNCTION", "g()", &[]),
            ],
            &[("FUNCTION", "f()"), ("TABLE", "gone")],
        );
        let (left_out, refusals) = entries(&annex);
        assert_eq!(left_out.into_keys().collect::<Vec<_>>(), [3, 4, 5, 9]);
        assert_eq!(refusals, []);
    }

    #[test]
    fn data_that_would_go_with_it_is_refused() {
        let annex = annex(
            &[(1, "DOMAIN", "d", &[]), (2, "TABLE", "t", &[1]), (3, "TABLE DATA", "t", &[2])],
            &[("DOMAIN", "d")],
        );
        let (left_out, refusals) = entries(&annex);
        assert_eq!(left_out.len(), 3);
        assert!(refusals.iter().all(|refusal| refusal.code == "data_depends_on_omitted"));
        assert_eq!(refusals.len(), 2);
    }
}
