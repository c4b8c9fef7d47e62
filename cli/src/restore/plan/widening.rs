//! Access that would be wider than in the source. pg_dump writes an object's rights as what differs from Postgres' own
//! defaults; where the target's default privileges give more to whatever the restoring role makes, the object gets
//! that too, and nothing in the archive takes it away. A new database has no default privileges yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use walwarden_contract::quote;
use walwarden_verifier::annex::{Annex, Entry};

use super::{
    acl::{self, Item},
    adapt::Adaptation,
    objects::Object,
    rights,
};
use crate::{
    format,
    restore::target::{facts::Facts, inside::DefaultPrivilege},
};

/// By entry: whom default privileges of the target would give more on it than the source did. The empty one is everyone.
pub fn grantees(annex: &Annex, facts: &Facts) -> BTreeMap<i64, Vec<String>> {
    let mut wider: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for privilege in &facts.inside.default_privileges {
        // The creating role's own rights become the owner's; functions and types are everyone's by Postgres' defaults.
        let items = privilege.acl.iter().filter_map(|item| acl::parse(item)).filter(|item| item.grantee != facts.role);
        let items = items.filter(|item| !(item.grantee.is_empty() && ["f", "T"].contains(&privilege.objects.as_str())));
        for item in items {
            for entry in annex.entries.iter().filter(|entry| concerns(privilege, entry)) {
                if gives_more(entry, &item.grantee, &item.privileges) {
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
        // From 18 on.
        "L" => &["BLOB", "BLOB METADATA"],
        _ => &[],
    };
    kinds.contains(&entry.kind.as_str()) && (privilege.schema.is_empty() || privilege.schema == entry.schema)
}

fn gives_more(entry: &Entry, grantee: &str, given: &[(char, bool)]) -> bool {
    if entry.owner == grantee {
        return false;
    }
    let mut has: BTreeMap<char, bool> = BTreeMap::new();
    for item in entry.acl.iter().flatten().filter_map(|item| acl::parse(item)).filter(|item| item.grantee == grantee) {
        for (letter, passable) in item.privileges {
            *has.entry(letter).or_default() |= passable;
        }
    }
    // That it may be passed on is more, too.
    given.iter().any(|(letter, passable)| has.get(letter).is_none_or(|own| *passable && !own))
}

/// Functions and types are everyone's by Postgres' own defaults, and an archive does not say so again: where the target's
/// default privileges take that away, they are not. Gives the entries that everyone could use in the source.
pub fn closed_to_everyone(annex: &Annex, facts: &Facts) -> BTreeSet<i64> {
    let mut closed = BTreeSet::new();
    for privilege in facts.inside.default_privileges.iter().filter(|privilege| privilege.schema.is_empty()) {
        let letter = match privilege.objects.as_str() {
            "f" => 'X',
            "T" => 'U',
            _ => continue,
        };
        let everyones = |item: &Item| item.grantee.is_empty() && item.privileges.iter().any(|(own, _)| *own == letter);
        if privilege.acl.iter().filter_map(|item| acl::parse(item)).any(|item| everyones(&item)) {
            continue;
        }
        let was_open = |entry: &&Entry| match &entry.acl {
            None => true,
            Some(items) => items.iter().filter_map(|item| acl::parse(item)).any(|item| everyones(&item)),
        };
        let concerned = annex.entries.iter().filter(|entry| concerns(privilege, entry)).filter(was_open);
        closed.extend(concerned.map(|entry| entry.dump_id));
    }
    closed
}

/// Rights on tables before Postgres 17, by their letters. pg_dump writes `ALL` for whoever has all of them, and from 17 on
/// that is MAINTAIN, too.
const ALL_BEFORE_17: [char; 7] = ['a', 'r', 'w', 'd', 'D', 'x', 't'];

impl Adaptation {
    /// Takes MAINTAIN away again from whom `ALL` gives it that did not have it. Whoever owns a table has it anyhow. Returns
    /// what is told of it.
    pub(super) fn keep_from_maintaining(&mut self, annex: &Annex, facts: &Facts) -> Option<String> {
        if annex.header.server_version_num >= 170_000 || facts.major() < 17 {
            return None;
        }
        let given_anew = self.replaced_objects(annex);
        let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let mut objects = 0;
        for entry in annex.entries.iter().filter(|entry| !self.left_out.contains_key(&entry.dump_id)) {
            let from = match entry.kind.as_str() {
                // Of what an extension brought, which has no entry of its own.
                "ACL" => match rights::of_no_entry(entry, &by_id) {
                    Some(Object::Relation(schema, name)) if !self.replaced.contains(&entry.dump_id) => {
                        format!("REVOKE MAINTAIN ON TABLE {} FROM ", quote::qualified(&schema, &name))
                    }
                    _ => continue,
                },
                "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" if !given_anew.contains(&entry.dump_id) => {
                    format!("REVOKE MAINTAIN ON TABLE {} FROM ", quote::qualified(&entry.schema, &entry.name))
                }
                "DEFAULT ACL" if entry.name == "DEFAULT PRIVILEGES FOR TABLES" => {
                    let within = match entry.schema.as_str() {
                        "" => String::new(),
                        schema => format!(" IN SCHEMA {}", quote::ident(schema)),
                    };
                    let of = quote::ident(&entry.owner);
                    format!("ALTER DEFAULT PRIVILEGES FOR ROLE {of}{within} REVOKE MAINTAIN ON TABLES FROM ")
                }
                _ => continue,
            };
            let items = entry.acl.iter().flatten().filter_map(|item| acl::parse(item));
            let grantees: Vec<String> = items
                .filter(|item| item.grantee != entry.owner && has_all(item) && self.exists(facts, &item.grantee))
                .map(|item| if item.grantee.is_empty() { "PUBLIC".into() } else { quote::ident(&item.grantee) })
                .collect();
            if !grantees.is_empty() {
                objects += 1;
                // It may have been passed on, as all else was.
                let on = if from.starts_with("REVOKE") { " CASCADE" } else { "" };
                self.after.push(format!("{from}{}{on}", grantees.join(", ")));
            }
        }
        (objects > 0).then(|| {
            format!(
                "ALL on a table is MAINTAIN, too, from Postgres 17 on, and was not in the source: that is taken away again from others than owners, on {}",
                format::counted(objects, "object")
            )
        })
    }

    /// What has its rights by statements of ours, letter by letter.
    fn replaced_objects(&self, annex: &Annex) -> BTreeSet<i64> {
        let replaced = annex.entries.iter().filter(|entry| self.replaced.contains(&entry.dump_id));
        let replaced = replaced.filter(|entry| !rights::is_of_column(entry));
        replaced.flat_map(|entry| entry.dependencies.iter().copied()).collect()
    }
}

/// Who owned a table could maintain it before there was a right to; given anew letter by letter, it is to have that right.
pub fn owners_maintain(mut items: Vec<Item>, owner: &str, annex: &Annex, facts: &Facts) -> Vec<Item> {
    if annex.header.server_version_num < 170_000 && facts.major() >= 17 {
        for item in items.iter_mut().filter(|item| item.grantee == owner && has_all(item)) {
            let passable = item.privileges[0].1;
            item.privileges.push(('m', passable));
        }
    }
    items
}

fn has_all(item: &Item) -> bool {
    [false, true]
        .into_iter()
        .any(|passable| ALL_BEFORE_17.iter().all(|&letter| item.privileges.contains(&(letter, passable))))
}
