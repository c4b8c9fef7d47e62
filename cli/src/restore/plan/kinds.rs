//! Kinds of archive entries that only a superuser can make.

use std::collections::BTreeMap;

use walwarden_verifier::annex::Annex;

use super::Refusal;
use crate::restore::target::facts::Facts;

/// Kinds, by the archive's name for them.
const SUPERUSER_ONLY: [&str; 10] = [
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "PROCEDURAL LANGUAGE",
    "ACCESS METHOD",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "SHELL TYPE",
    "TRANSFORM",
];

/// Entries a role that is no superuser cannot make, but for those that are left out.
pub fn check(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Vec<Refusal> {
    if facts.superuser {
        return Vec::new();
    }
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id)) {
        let kind = entry.kind.as_str();
        let refused = SUPERUSER_ONLY.contains(&kind) || (kind == "SUBSCRIPTION" && !facts.may_subscribe);
        if refused {
            found.entry(kind).or_default().push(super::entry_name(entry));
        }
    }
    found
        .into_iter()
        .map(|(kind, names)| {
            let shown: Vec<&str> = names.iter().map(String::as_str).take(5).collect();
            let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
            Refusal::new(
                "superuser_only",
                format!("only a superuser can make {}{more}", shown.join(", ")),
                format!(
                    "restore as a superuser, or go without: --leave-out {} (into a new database)",
                    super::adapt::word(kind)
                ),
            )
        })
        .collect()
}
