//! Whether owners may create where their objects are. pg_restore makes an object, then gives it to its owner; Postgres
//! asks that the new owner may create in the object's schema. Rights to create that were granted come last in an
//! archive: until then only a schema's owner, and who has the owner's rights, may.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_verifier::annex::{Annex, Entry};

use super::acl;
use crate::restore::target::facts::Facts;

/// Kinds of objects in a schema that pg_restore gives to their owner.
const GIVEN: [&str; 18] = [
    "AGGREGATE",
    "COLLATION",
    "CONVERSION",
    "DOMAIN",
    "FOREIGN TABLE",
    "FUNCTION",
    "MATERIALIZED VIEW",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURE",
    "SEQUENCE",
    "STATISTICS",
    "TABLE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TYPE",
    "VIEW",
];

/// From this version on not everyone may create in `public`: its owner is whoever owns the database.
const PUBLIC_CLOSED_SINCE: u32 = 15;

/// Objects whose owner is neither the restoring role nor whoever owns the place, nor has that one's rights.
fn guests<'a>(annex: &'a Annex, facts: &Facts, new_database: bool) -> Vec<&'a Entry> {
    if facts.superuser {
        return Vec::new();
    }
    let schemas: BTreeMap<&str, &str> = annex
        .entries
        .iter()
        .filter(|entry| entry.kind == "SCHEMA" && !entry.owner.is_empty())
        .map(|entry| (entry.name.as_str(), entry.owner.as_str()))
        .collect();
    let database = annex.database.owner.as_str();
    let mut guests = Vec::new();
    for entry in &annex.entries {
        let kind = entry.kind.as_str();
        let place = match (kind, schemas.get(entry.schema.as_str())) {
            ("PUBLICATION", _) if new_database => Some(database),
            (kind, _) if !GIVEN.contains(&kind) => None,
            (_, Some(owner)) => Some(*owner),
            (_, None) if entry.schema == "public" && new_database && facts.major() >= PUBLIC_CLOSED_SINCE => {
                Some(database)
            }
            (_, None) => None,
        };
        let Some(host) = place else { continue };
        let host = if new_database && host == "pg_database_owner" { database } else { host };
        let owner = entry.owner.as_str();
        let moot = owner.is_empty() || owner == facts.role || owner == host;
        if !moot && !facts.rights_of.contains(&(owner.to_owned(), host.to_owned())) {
            guests.push(entry);
        }
    }
    guests
}

/// Entries whose owner pg_restore could not give them to; and those to whom they can be given not even
/// once the schemas have their rights.
pub fn denied(annex: &Annex, facts: &Facts, new_database: bool) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let guests = guests(annex, facts, new_database);
    let at_first = guests.iter().map(|guest| guest.dump_id).collect();
    // Roles that a schema's rights let create in it; the empty one is everyone.
    let mut creators: BTreeSet<(&str, String)> = BTreeSet::new();
    for entry in &annex.entries {
        let schema = match (entry.kind.as_str(), entry.name.as_str()) {
            ("SCHEMA", name) => name,
            ("ACL", "SCHEMA public") => "public",
            _ => continue,
        };
        let items = entry.acl.iter().flatten().filter_map(|item| acl::parse(item));
        let creating = items.filter(|item| item.privileges.iter().any(|(letter, _)| *letter == 'C'));
        creators.extend(creating.map(|item| (schema, item.grantee)));
    }
    let may = |guest: &&&Entry| {
        let schema = guest.schema.as_str();
        creators.contains(&(schema, guest.owner.clone())) || creators.contains(&(schema, String::new()))
    };
    (at_first, guests.iter().filter(|guest| !may(guest)).map(|guest| guest.dump_id).collect())
}
