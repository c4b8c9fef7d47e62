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

/// Entries a role that is no superuser cannot make.
pub fn check(annex: &Annex, facts: &Facts) -> Vec<Refusal> {
    if facts.superuser {
        return Vec::new();
    }
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in &annex.entries {
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
                format!("restore as a superuser, or back up a source without {}", kind.to_lowercase()),
            )
        })
        .collect()
}
