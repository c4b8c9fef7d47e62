//! Roles a backup refers to, and whether the target has them and the restoring role may act as them.

use std::collections::BTreeMap;

use walwarden_contract::quote;
use walwarden_verifier::{annex::Annex, ids::shown};

use super::{Refusal, acl};
use crate::restore::{evidence::is_opaque, target::facts::Facts};

/// What a role is needed for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Uses {
    owned: u64,
    grants: u64,
    policies: u64,
    database: u64,
    /// Of an archive that nobody has read only the owners are listed, not what they own.
    unread: bool,
}

impl Uses {
    fn words(&self) -> String {
        let parts = [
            (self.owned, "owns"),
            (self.grants, "is granted rights on"),
            (self.policies, "is named by policies of"),
            (self.database, "is named by properties of the database:"),
        ];
        let counted = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, verb)| format!("{verb} {}", crate::format::counted(*count, "object")));
        let parts: Vec<String> =
            self.unread.then(|| "is an owner in the backup".to_owned()).into_iter().chain(counted).collect();
        parts.join(", ")
    }

    fn owns(&self) -> bool {
        self.owned > 0 || self.unread
    }
}

fn uses(annex: &Annex, database_properties: bool) -> BTreeMap<String, Uses> {
    let mut roles: BTreeMap<String, Uses> = BTreeMap::new();
    let mut note = |name: &str, count: fn(&mut Uses) -> &mut u64| {
        if !name.is_empty() && !name.eq_ignore_ascii_case("public") {
            *count(roles.entry(name.to_owned()).or_default()) += 1;
        }
    };
    for entry in annex.entries.iter().filter(|entry| database_properties || !super::is_database_level(entry)) {
        note(&entry.owner, |uses| &mut uses.owned);
        for item in entry.acl.iter().flatten().filter_map(|item| acl::parse(item)) {
            note(&item.grantee, |uses| &mut uses.grants);
            note(&item.grantor, |uses| &mut uses.grants);
        }
        for role in &entry.policy_roles {
            note(role, |uses| &mut uses.policies);
        }
    }
    if database_properties {
        note(&annex.database.owner, |uses| &mut uses.database);
        for item in annex.database.acl.iter().flatten().filter_map(|item| acl::parse(item)) {
            note(&item.grantee, |uses| &mut uses.database);
        }
        for setting in &annex.database.role_settings {
            note(&setting.role, |uses| &mut uses.database);
        }
    }
    if is_opaque(annex) {
        for role in &annex.roles {
            roles.entry(role.name.clone()).or_default().unread = true;
        }
    }
    roles
}

/// Roles that stand in the way, and what is only worth knowing.
pub fn check(annex: &Annex, facts: &Facts, database_properties: bool, notes: &mut Vec<String>) -> Vec<Refusal> {
    let needed = uses(annex, database_properties);
    let mut refusals = Vec::new();
    for (name, uses) in &needed {
        match facts.roles.get(name) {
            None if name.starts_with("pg_") => refusals.push(Refusal::new(
                "role_missing",
                format!(
                    "the predefined role \"{}\" ({}) does not exist in Postgres {}",
                    shown(name),
                    uses.words(),
                    facts.major()
                ),
                "restore into a server of the source's version",
            )),
            None => refusals.push(Refusal::new(
                "role_missing",
                format!("the role \"{}\" does not exist on the target; it {}", shown(name), uses.words()),
                format!("CREATE ROLE {} NOLOGIN;", shown(&quote::ident(name))),
            )),
            Some(false) if !facts.superuser && uses.owns() && !name.starts_with("pg_") => refusals.push(Refusal::new(
                "owner_not_settable",
                format!(
                    "the role \"{}\" {}, and \"{}\" may not act as it",
                    shown(name),
                    uses.words(),
                    shown(&facts.role)
                ),
                grant(name, facts),
            )),
            Some(_) => {}
        }
    }
    if !facts.superuser {
        refusals.extend(foreign_grants(annex, facts));
    }
    let unneeded: Vec<&str> = annex
        .roles
        .iter()
        .map(|role| role.name.as_str())
        .filter(|name| !needed.contains_key(*name) && !facts.roles.contains_key(*name))
        .collect();
    if !unneeded.is_empty() {
        let names: Vec<String> = unneeded.iter().map(|name| format!("\"{}\"", shown(name))).collect();
        notes.push(format!("roles of the source that no object needs are not on the target: {}", names.join(", ")));
    }
    refusals
}

/// What lets the restoring role act as another and have its rights.
fn grant(name: &str, facts: &Facts) -> String {
    let (role, me) = (shown(&quote::ident(name)), shown(&quote::ident(&facts.role)));
    // Before 16 it is the member that inherits or does not, whatever it is a member of.
    match facts.major() {
        16.. => format!("GRANT {role} TO {me} WITH INHERIT TRUE, SET TRUE;"),
        _ if facts.member_of.contains(name) => format!("ALTER ROLE {me} INHERIT;"),
        _ => format!("GRANT {role} TO {me};"),
    }
}

/// A grant by another than the owner is restored under SET SESSION AUTHORIZATION, which only superusers may.
fn foreign_grants(annex: &Annex, facts: &Facts) -> Option<Refusal> {
    let foreign = |entry: &&walwarden_verifier::annex::Entry| {
        let items = entry.acl.iter().flatten().filter_map(|item| acl::parse(item));
        !super::is_database_level(entry)
            && items.into_iter().any(|item| item.grantor != entry.owner && item.grantor != facts.role)
    };
    let objects: Vec<String> = annex.entries.iter().filter(foreign).map(super::entry_name).collect();
    let first = objects.first()?;
    let others = match objects.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Some(Refusal::new(
        "grants_by_others",
        format!(
            "rights on {first}{others} were granted by another role than the owner, which only a superuser can restore"
        ),
        "restore as a superuser",
    ))
}
