//! Access that would be wider than in the source. pg_dump writes an object's rights as what differs from Postgres' own
//! defaults; where the target's default privileges give more to whatever the restoring role makes, the object gets
//! that too, and nothing in the archive takes it away. A new database has no default privileges yet.

use std::collections::BTreeMap;

use walwarden_verifier::annex::{Annex, Entry};

use super::acl;
use crate::restore::target::{facts::Facts, inside::DefaultPrivilege};

/// By entry: whom default privileges of the target would give more on it than the source did. The empty one is everyone.
pub fn grantees(annex: &Annex, facts: &Facts) -> BTreeMap<i64, Vec<String>> {
    let mut wider: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for privilege in &facts.inside.default_privileges {
        // The creating role's own rights become the owner's; functions and types are everyone's by Postgres' defaults.
        let items = privilege.acl.iter().filter_map(|item| acl::parse(item)).filter(|item| item.grantee != facts.role);
        let items = items.filter(|item| !(item.grantee.is_empty() && ["f", "T"].contains(&privilege.objects.as_str())));
        for item in items {
            let letters: Vec<char> = item.privileges.iter().map(|(letter, _)| *letter).collect();
            for entry in annex.entries.iter().filter(|entry| concerns(privilege, entry)) {
                if gives_more(entry, &item.grantee, &letters) {
                    let grantees = wider.entry(entry.dump_id).or_default();
                    if !grantees.contains(&item.grantee) {
                        grantees.push(item.grantee.clone());
                    }
                }
            }
        }
    }
    wider
}

fn concerns(privilege: &DefaultPrivilege, entry: &Entry) -> bool {
    let kinds: &[&str] = match privilege.objects.as_str() {
        "r" => &["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"],
        "S" => &["SEQUENCE"],
        "f" => &["FUNCTION", "PROCEDURE", "AGGREGATE"],
        "T" => &["TYPE", "DOMAIN"],
        "n" => &["SCHEMA"],
        _ => &[],
    };
    kinds.contains(&entry.kind.as_str()) && (privilege.schema.is_empty() || privilege.schema == entry.schema)
}

fn gives_more(entry: &Entry, grantee: &str, letters: &[char]) -> bool {
    if entry.owner == grantee {
        return false;
    }
    let mut has: BTreeMap<char, ()> = BTreeMap::new();
    for item in entry.acl.iter().flatten().filter_map(|item| acl::parse(item)).filter(|item| item.grantee == grantee) {
        has.extend(item.privileges.iter().map(|(letter, _)| (*letter, ())));
    }
    letters.iter().any(|letter| !has.contains_key(letter))
}
