//! Rights that cannot be restored as they are: given anew by the owner there is, whole and letter by letter, or taken away
//! again from whom the target's defaults give more.

use std::collections::{BTreeSet, HashMap};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{
    access::{Fix, Rights},
    acl::{self, Item},
    adapt::{Adaptation, Wanted},
    is_database_level,
    objects::Object,
    widening,
};
use crate::{format, restore::target::facts::Facts};

impl Adaptation {
    /// Who owns what this entry makes, in the end.
    fn owner_after<'a>(&self, entry: &'a Entry, facts: &'a Facts) -> &'a str {
        let stays = !self.no_owner || entry.owner.is_empty() || entry.owner == "pg_database_owner";
        match self.adapted.contains_key(&entry.dump_id) {
            false if stays => &entry.owner,
            false if Object::of(entry).is_some() && self.may_act_as(facts, &entry.owner) => &entry.owner,
            _ => &facts.role,
        }
    }

    /// Policies let a materialized view see what its owner may. Made by another role it could hold more, and show that to
    /// whoever may read it: it is filled once it has its owner, or not at all.
    pub(super) fn fill_views_as_their_owners(&mut self, annex: &Annex, facts: &Facts) {
        let secured = annex.entries.iter().filter(|entry| entry.kind == "ROW SECURITY");
        let secured: BTreeSet<(&str, &str)> = secured.map(|e| (e.schema.as_str(), e.name.as_str())).collect();
        if !self.no_owner || secured.is_empty() {
            return;
        }
        let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let mut empty: BTreeSet<i64> = BTreeSet::new();
        for entry in annex.entries.iter().filter(|entry| entry.kind == "MATERIALIZED VIEW DATA") {
            let mut needed = entry.dependencies.iter().filter_map(|id| by_id.get(id).copied());
            let is_it = |view: &&Entry| {
                view.kind == "MATERIALIZED VIEW" && view.schema == entry.schema && view.name == entry.name
            };
            let Some(view) = needed.find(is_it) else { continue };
            if self.left_out.contains_key(&entry.dump_id) || !reads(view, &by_id, &secured) {
                continue;
            }
            let refresh = format!("REFRESH MATERIALIZED VIEW {}", quote::qualified(&view.schema, &view.name));
            let of_empty = entry.dependencies.iter().any(|id| empty.contains(id));
            if self.owner_after(view, facts) == view.owner && !of_empty {
                self.replaced.insert(entry.dump_id);
                self.after.push(refresh);
                continue;
            }
            empty.extend([entry.dump_id, view.dump_id]);
            let why = "left empty: row security could let its owner here see other rows than its owner in the source";
            self.left_out.insert(entry.dump_id, why.to_owned());
            self.later.push(format!("{refresh};"));
        }
    }

    /// ACL entries that name a role that is not there, or one that is not the owner here, make room for the same rights
    /// granted by the owner; functions that run with their owner's rights are nobody's to call where that is another.
    pub(super) fn rebuild_rights(&mut self, annex: &Annex, facts: &Facts, wanted: &Wanted) {
        let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let kept = self.kept(annex);
        let mut handled = BTreeSet::new();
        // Those of columns last: they go when those of their table are given anew.
        let acls = kept.iter().filter(|entry| entry.kind == "ACL" && !is_database_level(entry));
        let (columns, whole): (Vec<&Entry>, Vec<&Entry>) = acls.partition(|entry| is_of_column(entry));
        for entry in whole.into_iter().chain(columns) {
            let about =
                entry.dependencies.iter().find_map(|id| by_id.get(id).copied().filter(|e| Object::of(e).is_some()));
            let (object, column, owner, acl) = match (about, &entry.acl) {
                // Of a column, or of what has no entry.
                (about, Some(acl)) => match tagged(entry, about) {
                    Some((object, column)) => {
                        let owner = about.map_or(entry.owner.as_str(), |about| self.owner_after(about, facts));
                        let owner = if about.is_none() && entry.name != "SCHEMA public" && self.no_owner {
                            &facts.role
                        } else {
                            owner
                        };
                        (Some(object), column, owner, Some(acl))
                    }
                    None => (None, None, entry.owner.as_str(), Some(acl)),
                },
                (Some(about), None) => (Object::of(about), None, self.owner_after(about, facts), about.acl.as_ref()),
                (None, None) => (None, None, entry.owner.as_str(), None),
            };
            let items: Vec<Item> = acl.into_iter().flatten().filter_map(|item| acl::parse(item)).collect();
            let missing: BTreeSet<&str> =
                items.iter().map(|item| item.grantee.as_str()).filter(|name| !self.exists(facts, name)).collect();
            let by_others =
                !facts.superuser && items.iter().any(|item| item.grantor != entry.owner && item.grantor != facts.role);
            let moved = owner != entry.owner
                || (self.no_owner && entry.owner != facts.role && entry.owner != "pg_database_owner");
            let of_extension = about.is_none() && entry.name != "SCHEMA public" && !facts.superuser;
            let with_its_table = column.is_some() && about.is_some_and(|about| handled.contains(&about.dump_id));
            if missing.is_empty() && !by_others && !moved && !of_extension && !with_its_table {
                continue;
            }
            if of_extension {
                let why =
                    "only a superuser can change rights on what an extension brought: it has those it is made with";
                self.left_out.insert(entry.dump_id, why.to_owned());
                continue;
            }
            let Some(object) = object else {
                let why = "whom it names is not known; what it is about has the rights it is made with".to_owned();
                self.left_out.insert(entry.dump_id, why);
                continue;
            };
            let mut reasons = Vec::new();
            if !missing.is_empty() {
                let names: Vec<String> = missing.iter().map(|name| format!("\"{}\"", shown(name))).collect();
                reasons.push(format!("without rights for {}, not on the target", names.join(", ")));
            }
            if by_others {
                reasons.push("granted by the owner instead of by others".to_owned());
            }
            if owner != entry.owner {
                reasons.push("what its owner had goes to its new owner".to_owned());
            }
            if let Some(about) = about {
                handled.insert(about.dump_id);
            }
            let closed = about.is_some_and(|about| self.is_adopted_definer(about, facts)) && !wanted.adopt_definers;
            let items = match closed {
                true => vec![own_execute(owner)],
                false => renamed(items, &entry.owner, owner, |name| self.exists(facts, name)),
            };
            let items = match column {
                None => widening::owners_maintain(items, owner, annex, facts),
                Some(_) => items,
            };
            let rights = Some(Rights { holder: owner.to_owned(), items });
            self.fixes.push(Fix { column, rights, ..Fix::of(object) });
            self.replaced.insert(entry.dump_id);
            if closed {
                reasons = vec![DEFINER.to_owned()];
            }
            if !reasons.is_empty() {
                self.adapted.insert(entry.dump_id, reasons.join("; "));
            }
        }
        if wanted.adopt_definers {
            return;
        }
        for entry in kept {
            if !handled.contains(&entry.dump_id)
                && self.is_adopted_definer(entry, facts)
                && let Some(object) = Object::of(entry)
            {
                let rights = Rights { holder: facts.role.clone(), items: vec![own_execute(&facts.role)] };
                self.fixes.push(Fix { rights: Some(rights), ..Fix::of(object) });
                let why = self.adapted.entry(entry.dump_id).or_default();
                *why = format!("{why}, and {DEFINER}");
            }
        }
    }

    /// A function that runs with its owner's rights, and would run with another's.
    fn is_adopted_definer(&self, entry: &Entry, facts: &Facts) -> bool {
        entry.security_definer && self.owner_after(entry, facts) != entry.owner
    }

    /// Default privileges of the target give rights to whatever the restoring role makes: those that the source did not give
    /// are taken away again.
    pub(super) fn keep_narrow(&mut self, annex: &Annex, facts: &Facts) {
        let wider = widening::grantees(annex, facts);
        let closed: HashMap<Object, usize> = self
            .fixes
            .iter()
            .enumerate()
            .filter(|(_, fix)| fix.column.is_none() && fix.rights.is_some())
            .map(|(index, fix)| (fix.object.clone(), index))
            .collect();
        let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        // Taking away what a role has on a table takes away what it has on its columns.
        let mut columns: HashMap<i64, Vec<&Entry>> = HashMap::new();
        for entry in annex.entries.iter().filter(|entry| is_of_column(entry)) {
            let table = entry.dependencies.iter().find(|id| wider.contains_key(id));
            if let Some(table) = table {
                columns.entry(*table).or_default().push(entry);
            }
        }
        for entry in annex.entries.iter().filter(|entry| !self.left_out.contains_key(&entry.dump_id)) {
            let Some(grantees) = wider.get(&entry.dump_id) else { continue };
            let holder = self.owner_after(entry, facts).to_owned();
            // What was passed on goes with what it was passed on from: then all of it is given anew, by the owner.
            let own_columns = columns.get(&entry.dump_id).into_iter().flatten();
            let all = own_columns.clone().map(|column| &column.acl).chain([&entry.acl]);
            let all: Vec<Item> = all.flatten().flatten().filter_map(|item| acl::parse(item)).collect();
            let passed_on = all.iter().any(|item| item.grantor != entry.owner);
            let others = all
                .into_iter()
                .map(|item| item.grantee)
                .filter(|name| passed_on && *name != entry.owner && *name != holder && self.exists(facts, name));
            let grantees: Vec<String> =
                grantees.iter().cloned().chain(others).collect::<BTreeSet<String>>().into_iter().collect();
            let grantees = &grantees;
            let of_those = |acl: &Option<Vec<String>>| {
                let items = acl.iter().flatten().filter_map(|item| acl::parse(item)).collect();
                let items = renamed(items, &entry.owner, &holder, |name| self.exists(facts, name));
                let items = items.into_iter().filter(|item| grantees.contains(&item.grantee)).collect();
                Some(Rights { holder: holder.clone(), items })
            };
            let rights = of_those(&entry.acl);
            let of_columns: Vec<Fix> = own_columns
                .filter_map(|column| {
                    let (object, name) = tagged(column, by_id.get(&entry.dump_id).copied())?;
                    Some(Fix { column: name, rights: of_those(&column.acl), whole: false, ..Fix::of(object) })
                })
                .collect();
            for object in objects(entry, annex) {
                match closed.get(&object) {
                    Some(index) => self.fixes[*index].take_from.clone_from(grantees),
                    None => self.fixes.push(Fix {
                        rights: rights.clone(),
                        take_from: grantees.clone(),
                        whole: false,
                        ..Fix::of(object)
                    }),
                }
            }
            self.fixes.extend(of_columns);
        }
        let everyones: Vec<&Entry> = widening::closed_to_everyone(annex, facts)
            .iter()
            .filter(|id| !self.left_out.contains_key(id))
            .filter_map(|id| by_id.get(id).copied())
            .filter(|entry| Object::of(entry).is_some_and(|object| !closed.contains_key(&object)))
            .collect();
        for entry in &everyones {
            let holder = self.owner_after(entry, facts).to_owned();
            let Some(object) = Object::of(entry) else { continue };
            let letter = if matches!(object, Object::Type(..)) { 'U' } else { 'X' };
            let item = Item { grantee: String::new(), privileges: vec![(letter, false)], grantor: holder.clone() };
            let rights = Some(Rights { holder, items: vec![item] });
            self.fixes.push(Fix { rights, whole: false, ..Fix::of(object) });
        }
        for (count, what) in [(wider.len(), "more"), (everyones.len(), "less")] {
            if count > 0 {
                self.notes.push(format!(
                    "default privileges of the target would give {what} on {} than the source did; that is put right after the restore",
                    format::counted(count as u64, "object")
                ));
            }
        }
    }
}

/// Whether a view may read a table whose policies concern who reads it: not its owner. Its dependencies tell, but for what
/// a function reads.
fn reads(view: &Entry, by_id: &HashMap<i64, &Entry>, secured: &BTreeSet<(&str, &str)>) -> bool {
    let concerns = |table: &Entry, reader: &str| {
        table.kind == "TABLE"
            && table.owner != reader
            && secured.contains(&(table.schema.as_str(), table.name.as_str()))
    };
    let (mut due, mut seen) = (vec![view], BTreeSet::from([view.dump_id]));
    while let Some(entry) = due.pop() {
        for needed in entry.dependencies.iter().filter_map(|id| by_id.get(id).copied()) {
            match needed.kind.as_str() {
                "FUNCTION" if by_id.values().any(|table| concerns(table, &entry.owner)) => return true,
                "TABLE" if concerns(needed, &entry.owner) => return true,
                "VIEW" | "MATERIALIZED VIEW" | "MATERIALIZED VIEW DATA" if seen.insert(needed.dump_id) => {
                    due.push(needed);
                }
                _ => {}
            }
        }
    }
    false
}

/// What an entry makes: from 17 on one may make many large objects, and name the first and the last.
fn objects(entry: &Entry, annex: &Annex) -> Vec<Object> {
    if let Some(object) = Object::of(entry) {
        return vec![object];
    }
    let range = entry.name.split_once("..").and_then(|(from, to)| Some(from.parse::<u32>().ok()?..=to.parse().ok()?));
    let Some(range) = range.filter(|_| entry.kind.starts_with("BLOB")) else { return Vec::new() };
    let within = annex.large_objects.iter().filter(|object| range.contains(&object.oid));
    within.map(|object| Object::Blob(object.oid.to_string())).collect()
}

const DEFINER: &str =
    "runs with its owner's rights, and they are another's here: nobody else may call it (--adopt-definers)";

fn own_execute(owner: &str) -> Item {
    Item { grantee: owner.to_owned(), privileges: vec![('X', false)], grantor: owner.to_owned() }
}

/// What an ACL entry is about that no entry of the archive makes.
pub fn of_no_entry(entry: &Entry, by_id: &HashMap<i64, &Entry>) -> Option<Object> {
    let about = entry.dependencies.iter().any(|id| by_id.get(id).is_some_and(|about| Object::of(about).is_some()));
    if about { None } else { tagged(entry, None).map(|(object, _)| object) }
}

/// Whether an ACL entry is about a column.
pub fn is_of_column(entry: &Entry) -> bool {
    entry.kind == "ACL" && entry.name.starts_with("COLUMN ")
}

/// Items for the roles that exist, the owner's in the name of who owns it here.
fn renamed(items: Vec<Item>, from: &str, to: &str, exists: impl Fn(&str) -> bool) -> Vec<Item> {
    let mut all: Vec<Item> = Vec::new();
    for mut item in items {
        if !exists(&item.grantee) && item.grantee != from {
            continue;
        }
        if item.grantee == from {
            to.clone_into(&mut item.grantee);
        }
        to.clone_into(&mut item.grantor);
        all.push(item);
    }
    all
}

/// What an ACL entry with rights of its own is about: `COLUMN table.column`, or an object that an extension brought, or
/// the schema `public`. Names in it are quoted where needed.
fn tagged(entry: &Entry, about: Option<&Entry>) -> Option<(Object, Option<String>)> {
    let (kind, rest) = entry.name.split_once(' ')?;
    let schema = entry.schema.clone();
    match kind {
        "COLUMN" => {
            let object = Object::of(about?)?;
            let (table, rest) = unquoted(rest)?;
            let (column, rest) = unquoted(rest.strip_prefix('.')?)?;
            (rest.is_empty() && table == about?.name).then_some((object, Some(column)))
        }
        "SCHEMA" => Some((Object::Schema(unquoted(rest)?.0), None)),
        "TABLE" => Some((Object::Relation(schema, unquoted(rest)?.0), None)),
        "SEQUENCE" => Some((Object::Sequence(schema, unquoted(rest)?.0), None)),
        "FUNCTION" | "PROCEDURE" => {
            let (name, arguments) = unquoted(rest)?;
            Some((Object::Routine(schema, format!("{name}{arguments}")), None))
        }
        _ => None,
    }
}

/// A name in an ACL entry's own, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    acl::identifier(text, ['.', '('])
}
