//! Rights that cannot be restored as they are: given anew by the owner there is, whole and letter by letter, or taken away
//! again from whom the target's defaults give more.

use std::collections::{BTreeSet, HashMap};

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
                true => Vec::new(),
                false => renamed(items, &entry.owner, owner, |name| self.exists(facts, name)),
            };
            let items = if closed { vec![own_execute(owner)] } else { items };
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
        for entry in annex.entries.iter().filter(|entry| !self.left_out.contains_key(&entry.dump_id)) {
            let Some(grantees) = wider.get(&entry.dump_id) else { continue };
            let Some(object) = Object::of(entry) else { continue };
            if let Some(index) = closed.get(&object) {
                self.fixes[*index].take_from.clone_from(grantees);
                continue;
            }
            let holder = self.owner_after(entry, facts).to_owned();
            let items = entry.acl.iter().flatten().filter_map(|item| acl::parse(item)).collect();
            let items = renamed(items, &entry.owner, &holder, |name| self.exists(facts, name));
            let items = items.into_iter().filter(|item| grantees.contains(&item.grantee)).collect();
            let rights = Some(Rights { holder, items });
            self.fixes.push(Fix { rights, take_from: grantees.clone(), whole: false, ..Fix::of(object) });
        }
        if !wider.is_empty() {
            self.notes.push(format!(
                "default privileges of the target would give more on {} than the source did; that is taken away right after the restore",
                format::counted(wider.len() as u64, "object")
            ));
        }
    }
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

/// An identifier, quoted or not, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['.', '(']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if quoted[at + 1..].starts_with('"') {
            chars.next();
            name.push('"');
        } else {
            return Some((name, &quoted[at + 1..]));
        }
    }
    None
}
