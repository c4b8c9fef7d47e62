//! Access that would be wider than in the source. pg_dump writes an object's rights as what differs from Postgres' own
//! defaults; where the target's default privileges give more to whatever the restoring role makes, the object gets
//! that too, and nothing in the archive takes it away. A new database has no default privileges yet.

use std::collections::BTreeMap;

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, acl};
use crate::restore::target::{facts::Facts, inside::DefaultPrivilege};

/// Default privileges of the target that would widen access to what is restored.
pub fn check(annex: &Annex, facts: &Facts) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for privilege in &facts.inside.default_privileges {
        // The creating role's own rights become the owner's; functions and types are everyone's by Postgres' defaults.
        let items = privilege.acl.iter().filter_map(|item| acl::parse(item)).filter(|item| item.grantee != facts.role);
        let items = items.filter(|item| !(item.grantee.is_empty() && ["f", "T"].contains(&privilege.objects.as_str())));
        for item in items {
            let letters: Vec<char> = item.privileges.iter().map(|(letter, _)| *letter).collect();
            let wider: Vec<String> = annex
                .entries
                .iter()
                .filter(|entry| concerns(privilege, entry) && gives_more(entry, &item.grantee, &letters))
                .map(super::entry_name)
                .collect();
            if let Some(first) = wider.first() {
                refusals.push(refusal(privilege, &item.grantee, first, wider.len(), facts));
            }
        }
    }
    refusals
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

fn refusal(privilege: &DefaultPrivilege, grantee: &str, first: &str, count: usize, facts: &Facts) -> Refusal {
    let who = if grantee.is_empty() { "everyone".to_owned() } else { format!("\"{}\"", shown(grantee)) };
    let objects = match privilege.objects.as_str() {
        "r" => "TABLES",
        "S" => "SEQUENCES",
        "f" => "FUNCTIONS",
        "T" => "TYPES",
        _ => "SCHEMAS",
    };
    let others = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let place = if privilege.schema.is_empty() {
        String::new()
    } else {
        format!(" IN SCHEMA {}", quote::ident(&privilege.schema))
    };
    let from = if grantee.is_empty() { "PUBLIC".to_owned() } else { quote::ident(grantee) };
    Refusal::new(
        "access_would_widen",
        format!(
            "default privileges of the target would give {who} rights on {first}{others} that the source does not give"
        ),
        shown(&format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {}{place} REVOKE ALL ON {objects} FROM {from};",
            quote::ident(&facts.role)
        )),
    )
}
