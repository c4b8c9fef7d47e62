//! What of a backup takes another form in a new database of this target, and what is left out of it: owners that cannot be
//! kept, roles that are made, rights that are granted anew, what only a superuser could make.
//!
//! Left out without being asked is only what holds neither data nor logic. Access never becomes wider by it: an object's
//! rights are restored whole, or replaced by those of them that can exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Database, Entry, Extension, Role},
    ids::shown,
};

use super::{
    Refusal, access::Fix, acl, alone, containers, entry_name, extensions, is_database_level, objects::Object, omitted,
    rights,
};
use crate::{
    format,
    restore::{database, target::facts::Facts},
};

impl Adaptation {
    /// Of an archive that nobody read: nothing can be adapted.
    pub fn of_the_unread(annex: &Annex) -> Self {
        Self { database: annex.database.clone(), ..Self::default() }
    }
}

/// What was asked for beside the mode.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `--leave-out`: kinds, as the archive names them but in lower case with dashes, or `extension:NAME`.
    pub leave_out: Vec<String>,
    /// `--no-create-roles`
    pub no_create_roles: bool,
    /// `--adopt-definers`
    pub adopt_definers: bool,
    /// `--drop-dependents`
    pub drop_dependents: bool,
    /// `--keys-not-valid`
    pub keys_not_valid: bool,
}

/// How a backup is fitted to a target.
#[derive(Debug, Default)]
pub struct Adaptation {
    /// Entries that are left out, and why.
    pub left_out: BTreeMap<i64, String>,
    /// Those of them that could be of no use anywhere.
    useless: BTreeSet<i64>,
    /// Entries that take another form, and which.
    pub adapted: BTreeMap<i64, String>,
    /// Entries in whose place [`Self::fixes`] or [`Self::after`] stand.
    pub replaced: BTreeSet<i64>,
    /// Roles that are made.
    pub made: Vec<String>,
    /// pg_restore gives nothing to its owner.
    pub no_owner: bool,
    /// The database's own properties, as far as they can be had.
    pub database: Database,
    /// Statements before pg_restore, on the cluster.
    pub before: Vec<String>,
    /// Owners and rights to give after it.
    pub fixes: Vec<Fix>,
    /// Statements after them.
    pub after: Vec<String>,
    /// Keys that are made NOT VALID after pg_restore, and entries about them that follow.
    pub keys_not_valid: BTreeSet<i64>,
    pub about_keys: Vec<i64>,
    /// Commands that make more like the source, for whoever may and wants to.
    pub later: Vec<String>,
    /// The database is there already.
    in_place: bool,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// Why it cannot be done.
    pub refusals: Vec<Refusal>,
}

/// What a role without superuser rights cannot make for certain, and what holds neither data nor logic. A publication of
/// nothing but tables it can; of one without tables the annex does not say whether it is of all tables.
pub fn is_free(entry: &Entry, annex: &Annex, facts: &Facts) -> bool {
    match entry.kind.as_str() {
        _ if facts.superuser => false,
        "EVENT TRIGGER" => true,
        "SUBSCRIPTION" => !facts.may_subscribe,
        "PUBLICATION" => {
            let has = |kind: &str| {
                annex.entries.iter().any(|other| other.kind == kind && other.dependencies.contains(&entry.dump_id))
            };
            has("PUBLICATION TABLES IN SCHEMA") || !has("PUBLICATION TABLE")
        }
        _ => false,
    }
}

/// Kinds that go with what they are about.
const COMPANIONS: [&str; 7] = [
    "ACL",
    "COMMENT",
    "SECURITY LABEL",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "SUBSCRIPTION TABLE",
    "DEFAULT ACL",
];

/// Fits a backup to a new database of this target.
pub fn new_database(annex: &Annex, facts: &Facts, wanted: &Wanted) -> Adaptation {
    let mut adaptation = Adaptation { database: annex.database.clone(), ..Adaptation::default() };
    adaptation.leave_out(annex, facts, wanted);
    adaptation.make_roles(annex, facts, wanted);
    adaptation.keep_owners(annex, facts);
    adaptation.fill_views_as_their_owners(annex, facts);
    adaptation.rebuild_rights(annex, facts, wanted);
    adaptation.fit_database(annex, facts);
    adaptation
}

/// Fits a backup to a database that is restored over: what belongs to others is left alone.
pub fn in_place(annex: &Annex, facts: &Facts, wanted: &Wanted) -> Adaptation {
    let mut adaptation = Adaptation { database: annex.database.clone(), in_place: true, ..Adaptation::default() };
    let (left_out, refusals) = alone::entries(annex, facts, &wanted.leave_out);
    adaptation.useless = alone::useless(annex, facts).0.into_keys().collect();
    adaptation.left_out = left_out;
    adaptation.refusals = refusals;
    let known = |word: &str| word.starts_with("data:") || [alone::MEMBERSHIPS, extensions::DATA].contains(&word);
    for word in wanted.leave_out.iter().filter(|word| !known(word)) {
        adaptation.refusals.push(Refusal::new(
            "leave_out_in_place",
            format!(
                "--leave-out {} is for restores into a new database; in place it is data:SCHEMA, data:SCHEMA.TABLE, extension-data or publication-table",
                shown(word)
            ),
            "restore into a new database, or without that flag",
        ));
    }
    adaptation.make_roles(annex, facts, wanted);
    adaptation.keep_owners(annex, facts);
    adaptation.fill_views_as_their_owners(annex, facts);
    adaptation.rebuild_rights(annex, facts, wanted);
    adaptation.keep_narrow(annex, facts);
    adaptation.loosen_keys(annex, facts, wanted);
    adaptation
}

/// Role and server of a user mapping, which its name says.
pub fn mapping(entry: &Entry) -> Option<(&str, &str)> {
    if entry.kind != "USER MAPPING" {
        return None;
    }
    entry.name.strip_prefix("USER MAPPING ")?.split_once(" SERVER ")
}

/// Names in a word for `--leave-out`.
pub fn word(kind: &str) -> String {
    kind.to_lowercase().replace(' ', "-")
}

impl Adaptation {
    /// Whether anything is not as in the source.
    pub fn is_exact(&self) -> bool {
        self.left_out.keys().all(|id| self.useless.contains(id))
            && self.adapted.is_empty()
            && self.made.is_empty()
            && self.notes.is_empty()
    }

    pub(super) fn kept<'a>(&self, annex: &'a Annex) -> Vec<&'a Entry> {
        annex.entries.iter().filter(|entry| !self.left_out.contains_key(&entry.dump_id)).collect()
    }

    fn leave_out(&mut self, annex: &Annex, facts: &Facts, wanted: &Wanted) {
        let (useless, data_lost) = omitted::entries(annex);
        self.useless = useless.keys().copied().collect();
        self.left_out = useless;
        self.refusals.extend(data_lost);
        let mut named = BTreeSet::new();
        for entry in &annex.entries {
            let kind = entry.kind.as_str();
            let own = match kind {
                "EXTENSION" => format!("extension:{}", entry.name),
                _ => word(kind),
            };
            let asked = wanted.leave_out.contains(&own);
            let free = is_free(entry, annex, facts);
            let ownerless = kind == "EVENT TRIGGER" && !facts.superusers.contains(&entry.owner);
            if asked {
                self.left_out.entry(entry.dump_id).or_insert_with(|| format!("--leave-out {own}"));
                named.insert(own);
            } else if free {
                let why = "only a superuser can make it for certain; it holds neither data nor logic";
                self.left_out.entry(entry.dump_id).or_insert_with(|| why.to_owned());
            } else if ownerless {
                let why =
                    format!("its owner must be a superuser, and \"{}\" is none on the target", shown(&entry.owner));
                self.left_out.entry(entry.dump_id).or_insert(why);
            }
        }
        self.of_extensions(annex, &named);
        for missing in wanted.leave_out.iter().filter(|word| !named.contains(*word)) {
            self.refusals.push(Refusal::new(
                "nothing_to_leave_out",
                format!("the backup has no {}, which --leave-out names", shown(missing)),
                "leave that flag out; --plan --json lists the kinds",
            ));
        }
        self.close(annex, wanted);
    }

    /// Who names an extension means its configuration, and rights on what it would have brought, too. The archive does not
    /// say of what extension these are.
    fn of_extensions(&mut self, annex: &Annex, named: &BTreeSet<String>) {
        let own = annex.extensions.iter().filter(|own| named.contains(&format!("extension:{}", own.name)));
        let own: Vec<&Extension> = own.collect();
        let mut found: Vec<(i64, &str)> =
            extensions::configuration_of(annex, &own).into_iter().map(|(entry, name)| (entry.dump_id, name)).collect();
        let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let schemas: BTreeMap<&str, &str> = own.iter().map(|own| (own.schema.as_str(), own.name.as_str())).collect();
        let rights = annex.entries.iter().filter(|entry| entry.kind == "ACL");
        let rights = rights.filter_map(|entry| Some((entry, *schemas.get(entry.schema.as_str())?)));
        let rights = rights.filter(|(entry, _)| rights::of_no_entry(entry, &by_id).is_some());
        found.extend(rights.map(|(entry, name)| (entry.dump_id, name)));
        for (id, name) in found {
            let why = format!("it is of the extension {}, or in its schema", shown(name));
            self.left_out.entry(id).or_insert(why);
        }
    }

    /// What is about what is left out goes with it; data never does, logic only where something was named.
    fn close(&mut self, annex: &Annex, wanted: &Wanted) {
        let servers = annex.entries.iter().filter(|entry| entry.kind == "SERVER");
        let servers: BTreeMap<&str, i64> = servers.map(|entry| (entry.name.as_str(), entry.dump_id)).collect();
        loop {
            let before = self.left_out.len();
            for entry in &annex.entries {
                if self.left_out.contains_key(&entry.dump_id) {
                    continue;
                }
                // A user mapping does not say in the archive that it depends on its server.
                let server = mapping(entry).and_then(|(_, server)| servers.get(server));
                let mut needed = entry.dependencies.iter().chain(server);
                let Some(reason) = needed.find_map(|id| self.left_out.get(id)) else { continue };
                let reason = format!("it is about something that is left out ({reason})");
                let reason = if reason.matches("it is about").count() > 1 {
                    "it is about something that is left out".to_owned()
                } else {
                    reason
                };
                if omitted::holds_data(entry)
                    || (wanted.leave_out.is_empty() && !COMPANIONS.contains(&entry.kind.as_str()))
                {
                    self.refusals.push(Refusal::new(
                        "needed_by_data",
                        format!("{} needs something that would be left out", entry_name(entry)),
                        match wanted.leave_out.is_empty() {
                            true => "restore as a superuser, or into a target that has what is missing",
                            false => "leave that flag out, or restore into a target that has what is missing",
                        },
                    ));
                }
                self.left_out.insert(entry.dump_id, reason);
            }
            if self.left_out.len() == before {
                return;
            }
        }
    }

    /// Roles that something needs and the target lacks.
    fn make_roles(&mut self, annex: &Annex, facts: &Facts, wanted: &Wanted) {
        let kept = self.kept(annex);
        let owning = kept.iter().filter(|entry| !self.in_place || !is_database_level(entry));
        let owners: BTreeSet<&str> = owning.map(|entry| entry.owner.as_str()).collect();
        let mut needed: BTreeSet<String> = owners.iter().map(|name| (*name).to_owned()).collect();
        let of_database = annex.database.acl.iter().flatten().filter(|_| !self.in_place);
        let items = kept.iter().filter(|entry| !self.in_place || !is_database_level(entry));
        let items = items.flat_map(|entry| entry.acl.iter().flatten()).chain(of_database);
        for item in items.filter_map(|item| acl::parse(item)) {
            needed.extend([item.grantee, item.grantor]);
        }
        needed.extend(kept.iter().flat_map(|entry| entry.policy_roles.iter().cloned()));
        needed.extend(kept.iter().filter_map(|entry| mapping(entry)).map(|(role, _)| role.to_owned()));
        if !self.in_place {
            needed.extend(annex.database.role_settings.iter().map(|setting| setting.role.clone()));
            needed.insert(annex.database.owner.clone());
        }
        needed
            .retain(|name| !name.is_empty() && !name.eq_ignore_ascii_case("public") && !facts.roles.contains_key(name));

        let may = (facts.superuser || facts.create_role) && !wanted.no_create_roles;
        let (made, missing): (Vec<String>, Vec<String>) =
            needed.into_iter().partition(|name| may && !name.starts_with("pg_"));
        for name in &made {
            let role = quote::ident(name);
            self.before.push(format!("CREATE ROLE {role} NOLOGIN"));
            let owns = owners.contains(name.as_str()) || annex.database.owner == *name;
            if owns && !facts.superuser {
                let options = if facts.major() >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
                self.before.push(format!("GRANT {role} TO {}{options}", quote::ident(&facts.role)));
            }
        }
        for role in annex.roles.iter().filter(|role| made.contains(&role.name)) {
            for membership in role.member_of.iter().filter(|membership| made.contains(&membership.role)) {
                self.before.push(format!("GRANT {} TO {}", quote::ident(&membership.role), quote::ident(&role.name)));
            }
            self.later.extend(attributes(role));
        }
        let naming = |name: &String| {
            kept.iter()
                .find(|entry| entry.policy_roles.contains(name) || mapping(entry).is_some_and(|(role, _)| role == name))
        };
        for name in &missing {
            if let Some(policy) = naming(name) {
                self.refusals.push(Refusal::new(
                    "role_missing",
                    format!(
                        "the role \"{}\" does not exist on the target, and {} names it",
                        shown(name),
                        entry_name(policy)
                    ),
                    format!("CREATE ROLE {} NOLOGIN;", shown(&quote::ident(name))),
                ));
            }
        }
        self.made = made;
    }

    pub(super) fn exists(&self, facts: &Facts, name: &str) -> bool {
        name.is_empty() || facts.roles.contains_key(name) || self.made.iter().any(|made| made == name)
    }

    /// Whether the restoring role may make this one an owner, and still use what it owns.
    pub(super) fn may_act_as(&self, facts: &Facts, name: &str) -> bool {
        name.is_empty()
            || name == facts.role
            || self.made.iter().any(|made| made == name)
            || (facts.superuser && facts.roles.contains_key(name))
            || facts.roles.get(name).copied().unwrap_or(false)
            // Whoever owns the database acts as this one there.
            || name == "pg_database_owner"
    }

    /// All owners as in the source; or, where one cannot be kept, everything is made by the restoring role and then given
    /// to those that can.
    fn keep_owners(&mut self, annex: &Annex, facts: &Facts) {
        let kept = self.kept(annex);
        let me = facts.role.clone();
        // Default privileges are a role's own: they are set for it, or not at all.
        let mut foreign_defaults = Vec::new();
        for entry in kept.iter().filter(|entry| entry.kind == "DEFAULT ACL") {
            let missing = entry
                .acl
                .iter()
                .flatten()
                .filter_map(|item| acl::parse(item))
                .find(|item| !self.exists(facts, &item.grantee));
            if !self.may_act_as(facts, &entry.owner) {
                let why = format!(
                    "default privileges of \"{}\", which \"{}\" may not act as",
                    shown(&entry.owner),
                    shown(&me)
                );
                foreign_defaults.push((entry.dump_id, why));
            } else if let Some(item) = missing {
                let why =
                    format!("default privileges for \"{}\", which does not exist on the target", shown(&item.grantee));
                foreign_defaults.push((entry.dump_id, why));
            }
        }
        self.left_out.extend(foreign_defaults);
        let objects: Vec<&Entry> = kept
            .iter()
            .copied()
            .filter(|entry| {
                !is_database_level(entry) && entry.kind != "DEFAULT ACL" && !self.left_out.contains_key(&entry.dump_id)
            })
            .collect();
        let lost = objects.iter().any(|entry| !self.may_act_as(facts, &entry.owner));
        let (denied_at_first, denied) = containers::denied(annex, facts, !self.in_place);
        self.no_owner = lost || objects.iter().any(|entry| denied_at_first.contains(&entry.dump_id));
        if !self.no_owner {
            return;
        }
        for entry in objects {
            if entry.owner == me || entry.owner.is_empty() || entry.kind == "ACL" || entry.kind == "COMMENT" {
                continue;
            }
            let given = self.may_act_as(facts, &entry.owner)
                && entry.owner != "pg_database_owner"
                && !denied.contains(&entry.dump_id);
            match Object::of(entry) {
                Some(object) if given => {
                    let owner = Some(entry.owner.clone());
                    self.fixes.push(Fix { owner, ..Fix::of(object) });
                }
                _ if owns_nothing(entry) => {}
                _ => {
                    let why = format!("belongs to \"{}\" instead of \"{}\"", shown(&me), shown(&entry.owner));
                    self.adapted.insert(entry.dump_id, why);
                }
            }
        }
    }
}

/// Entries whose owner decides nothing that lasts.
fn owns_nothing(entry: &Entry) -> bool {
    const PARTS: [&str; 15] = [
        "TABLE DATA",
        "STATISTICS DATA",
        "SEQUENCE SET",
        "SEQUENCE OWNED BY",
        "DEFAULT",
        "CONSTRAINT",
        "CHECK CONSTRAINT",
        "FK CONSTRAINT",
        "INDEX",
        "INDEX ATTACH",
        "TABLE ATTACH",
        "TRIGGER",
        "POLICY",
        "RULE",
        "ROW SECURITY",
    ];
    PARTS.contains(&entry.kind.as_str())
        || ["BLOBS", "MATERIALIZED VIEW DATA", "EXTENSION", "SECURITY LABEL", "PUBLICATION TABLE"].contains(&entry.kind.as_str())
        // The schema `public` is there before; it belongs to whoever owns the database.
        || (entry.kind == "SCHEMA" && entry.name == "public" && entry.owner == "pg_database_owner")
}

/// What a role had in the source beside its name, as a command: the annex is the source's word, so it is not run.
fn attributes(role: &Role) -> Vec<String> {
    let name = quote::ident(&role.name);
    let words = [
        (role.login, "LOGIN"),
        (role.superuser, "SUPERUSER"),
        (role.create_db, "CREATEDB"),
        (role.create_role, "CREATEROLE"),
        (role.replication, "REPLICATION"),
        (role.bypass_rls, "BYPASSRLS"),
        (!role.inherit, "NOINHERIT"),
    ];
    let words: Vec<&str> = words.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect();
    let mut commands = Vec::new();
    if !words.is_empty() {
        commands.push(format!("ALTER ROLE {name} {};", words.join(" ")));
    }
    for setting in role.settings.iter().filter(|setting| !database::loads_libraries(&setting.name)) {
        commands.push(format!(
            "ALTER ROLE {name} SET {} TO {};",
            quote::ident(&setting.name),
            quote::literal(&setting.value)
        ));
    }
    commands
}

/// Names in a row, the first few of them.
pub fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {} more", format::count(more as u64)),
    }
}
