//! What of a target is left alone when its database is restored over: what belongs to others. pg_restore could neither
//! drop nor make it. It stays as it is, with everything that is part of it; data among it never without a flag that names
//! it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, adapt, entry_name, extensions, is_database_level, objects::Object, omitted, since};
use crate::restore::target::facts::Facts;

/// Kinds of entries that are part of the object they depend on first.
const PARTS: [&str; 18] = [
    "TABLE DATA",
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
    "STATISTICS DATA",
    "MATERIALIZED VIEW DATA",
    "ACL",
    "COMMENT",
];

/// Entries that are left alone, each with the reason; and why the restore is refused.
pub fn entries(annex: &Annex, facts: &Facts, leave_out: &[String]) -> (BTreeMap<i64, String>, Vec<Refusal>) {
    let (mut left_out, mut refusals) = useless(annex, facts);
    let foreign = |object: &Object| facts.inside.foreign.contains(object);
    let in_use = facts.inside.in_use.iter();
    let of_others = |kind: &str, name: &str| facts.inside.foreign_others.contains(&(kind.to_owned(), name.to_owned()));
    // A schema cannot be dropped while it holds anything that stays.
    let kept_schemas: BTreeSet<&str> = facts.inside.foreign.iter().chain(in_use).filter_map(Object::schema).collect();
    for entry in annex.entries.iter().filter(|entry| !is_database_level(entry)) {
        let kind = entry.kind.as_str();
        let why = match (kind, Object::of(entry)) {
            ("SCHEMA", Some(object)) if foreign(&object) => Some("it belongs to another role on the target"),
            ("SCHEMA", _) if facts.inside.lasting_schemas.as_ref().is_some_and(|all| all.contains(&entry.name)) => {
                Some("the restoring role may make no schemas")
            }
            ("SCHEMA", _) if kept_schemas.contains(entry.name.as_str()) => Some("it holds what stays as it is"),
            (_, Some(object)) if foreign(&object) => Some("it belongs to another role on the target"),
            (_, Some(object)) if facts.inside.rowless.contains(&object) => {
                Some("its rows are not in the backup: it stays as it is on the target")
            }
            (_, Some(object)) if facts.inside.in_use.contains(&object) => {
                Some("what stays as it is uses it on the target")
            }
            ("EXTENSION" | "PUBLICATION" | "EVENT TRIGGER", _) if of_others(kind, &entry.name) => {
                Some("it belongs to another role on the target")
            }
            ("USER MAPPING", _)
                if adapt::mapping(entry).is_some_and(|(_, server)| foreign(&Object::Server(server.to_owned()))) =>
            {
                Some("its server belongs to another role on the target")
            }
            _ if adapt::is_free(entry, annex, facts) => Some("only a superuser can make it for certain"),
            _ => None,
        };
        if let Some(why) = why {
            left_out.entry(entry.dump_id).or_insert_with(|| why.to_owned());
        }
    }
    parts(annex, facts, &mut left_out);
    roots(annex, facts, &mut left_out);
    parts(annex, facts, &mut left_out);
    refusals.extend(extensions::keep(annex, facts, &mut left_out, leave_out));
    let others = since::kept_schemas(annex, facts, &left_out);
    for entry in annex.entries.iter().filter(|entry| entry.kind == "SCHEMA" && entry.name != "public") {
        if others.contains(entry.name.as_str()) {
            left_out.entry(entry.dump_id).or_insert_with(|| "it holds what is not in the backup".to_owned());
        }
    }
    parts(annex, facts, &mut left_out);
    refusals.extend(memberships(annex, &mut left_out, leave_out));
    refusals.extend(data(annex, facts, &left_out, leave_out));
    refusals.extend(large_objects(facts));
    (left_out, refusals)
}

/// What could be of no use: nothing, where what the backup has not is there.
pub fn useless(annex: &Annex, facts: &Facts) -> (BTreeMap<i64, String>, Vec<Refusal>) {
    if facts.inside.has_omitted { Default::default() } else { omitted::entries(annex) }
}

/// What is part of something that is left alone. An index or a policy depends on its table, and also on what it uses:
/// that it is the table's, its name says, which begins with the table's.
///
/// A table that is ours to change keeps its foreign keys to what is made anew: they are dropped first, and made again.
/// And it is taken out of the partitioned table that it is in, and put back.
fn parts(annex: &Annex, facts: &Facts, left_out: &mut BTreeMap<i64, String>) {
    let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    loop {
        let before = left_out.len();
        for entry in &annex.entries {
            if left_out.contains_key(&entry.dump_id) || !PARTS.contains(&entry.kind.as_str()) {
                continue;
            }
            let of = |id: &i64| {
                let Some(whole) = by_id.get(id).filter(|_| left_out.contains_key(id)) else { return false };
                match entry.kind.as_str() {
                    "ACL" | "COMMENT" | "INDEX" | "STATISTICS DATA" => entry.owner == whole.owner,
                    // Of two indexes, whosever the entry is.
                    "INDEX ATTACH" => true,
                    _ => {
                        let rest = entry.name.strip_prefix(&whole.name).filter(|_| entry.schema == whole.schema);
                        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                    }
                }
            };
            // A table that stays and is ours to change, or an index of one.
            let ours = |id: &i64| {
                let stays = by_id.get(id).filter(|_| left_out.contains_key(id));
                let table = stays.and_then(|whole| match whole.kind.as_str() {
                    "TABLE" => Some(*whole),
                    "INDEX" | "CONSTRAINT" => {
                        whole.dependencies.iter().filter_map(|id| by_id.get(id).copied()).find(|of| of.kind == "TABLE")
                    }
                    _ => None,
                });
                table.and_then(Object::of).is_some_and(|table| !facts.inside.foreign.contains(&table))
            };
            let joins = ["FK CONSTRAINT", "TABLE ATTACH", "INDEX ATTACH"].contains(&entry.kind.as_str())
                && entry.dependencies.iter().any(ours)
                && entry.dependencies.iter().any(|id| by_id.contains_key(id) && !left_out.contains_key(id));
            if entry.dependencies.iter().any(of) && !joins {
                left_out.insert(entry.dump_id, "it is part of what is left alone".to_owned());
            }
        }
        if left_out.len() == before {
            return;
        }
    }
}

/// Partitioned tables all of whose partitions stay: there is nothing of them to be loaded again, and dropped they would
/// take those along.
fn roots(annex: &Annex, facts: &Facts, left_out: &mut BTreeMap<i64, String>) {
    let tables = annex.entries.iter().filter(|entry| entry.kind == "TABLE");
    let ids: HashMap<(&str, &str), i64> =
        tables.map(|entry| ((entry.schema.as_str(), entry.name.as_str()), entry.dump_id)).collect();
    let omitted = omitted::tables(annex);
    loop {
        // Whether those that are not new all stay.
        let mut all_stay: BTreeMap<i64, bool> = BTreeMap::new();
        for table in &facts.inside.tables {
            let Some((schema, name)) = &table.partition_of else { continue };
            let Some(root) = ids.get(&(schema.as_str(), name.as_str())) else { continue };
            let own = ids.get(&(table.schema.as_str(), table.name.as_str()));
            match own {
                Some(own) => *all_stay.entry(*root).or_insert(true) &= left_out.contains_key(own),
                // Made since; it neither keeps its table nor lets it go.
                None if table.ours && !omitted.has(table) => {}
                None => drop(all_stay.entry(*root).or_insert(true)),
            }
        }
        let before = left_out.len();
        for root in all_stay.into_iter().filter(|(_, all)| *all).map(|(root, _)| root) {
            left_out.entry(root).or_insert_with(|| "all of its partitions stay as they are".to_owned());
        }
        if left_out.len() == before {
            return;
        }
    }
}

/// Tables in publications. Where the table stays it stays a member; a table that is made anew is none of a publication that
/// belongs to others, which is refused unless it was said.
fn memberships(annex: &Annex, left_out: &mut BTreeMap<i64, String>, leave_out: &[String]) -> Vec<Refusal> {
    let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    let mut lost = Vec::new();
    for entry in annex.entries.iter().filter(|entry| entry.kind.starts_with("PUBLICATION TABLE")) {
        let stays = |publication: bool| {
            let of = |id: &&i64| by_id.get(*id).is_some_and(|of| (of.kind == "PUBLICATION") == publication);
            entry.dependencies.iter().filter(of).any(|id| left_out.contains_key(id))
        };
        match (stays(true), stays(false)) {
            (false, false) => continue,
            (true, false) if entry.kind == "PUBLICATION TABLE" => lost.push(entry_name(entry)),
            _ => {}
        }
        left_out.insert(entry.dump_id, "it is part of what is left alone".to_owned());
    }
    if lost.is_empty() || leave_out.iter().any(|word| word == MEMBERSHIPS) {
        return Vec::new();
    }
    vec![Refusal::new(
        "publication_of_others",
        format!(
            "{}: the publication belongs to others, and a table that is made anew is not in it any more",
            adapt::some(&lost)
        ),
        format!("restore as its owner, into a new database, or without it: --leave-out {MEMBERSHIPS}"),
    )]
}

/// `--leave-out` of what [`memberships`] refuses.
pub const MEMBERSHIPS: &str = "publication-table";

/// An archive has the contents of its large objects as one entry: it is loaded whole or not at all.
fn large_objects(facts: &Facts) -> Option<Refusal> {
    let oids = &facts.inside.foreign_large_objects;
    let names: Vec<String> = oids.iter().map(|oid| format!("large object {oid}")).collect();
    (!oids.is_empty()).then(|| {
        Refusal::new(
            "large_objects_of_others",
            format!(
                "{}: on the target it belongs to a role that \"{}\" is not",
                adapt::some(&names),
                shown(&facts.role)
            ),
            "restore as its owner, or into a new database",
        )
    })
}

/// Data that stays as it is, unless each schema or table of it was named.
fn data(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>, leave_out: &[String]) -> Vec<Refusal> {
    let named = |entry: &Entry| {
        leave_out.iter().any(|word| {
            word.strip_prefix("data:")
                .is_some_and(|what| what == entry.schema || what == format!("{}.{}", entry.schema, entry.name))
        })
    };
    let mut unnamed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    // The position of a sequence without the rows that were numbered by it is no loss.
    let position = |entry: &Entry| {
        let sequence = Object::Sequence(entry.schema.clone(), entry.name.clone());
        entry.kind == "SEQUENCE SET" && facts.inside.rowless.contains(&sequence)
    };
    // That has a word of its own.
    let all: Vec<_> = annex.extensions.iter().collect();
    let configuration: BTreeSet<i64> =
        extensions::configuration_of(annex, &all).into_iter().map(|(entry, _)| entry.dump_id).collect();
    let configures = |entry: &Entry| configuration.contains(&entry.dump_id);
    let data = |entry: &&Entry| {
        !configures(entry) && (entry.kind == "TABLE DATA" || entry.kind == "SEQUENCE SET" && !position(entry))
    };
    for entry in
        annex.entries.iter().filter(data).filter(|entry| left_out.contains_key(&entry.dump_id) && !named(entry))
    {
        unnamed.entry(&entry.schema).or_default().push(entry_name(entry));
    }
    unnamed
        .into_iter()
        .map(|(schema, names)| {
            Refusal::new(
                "data_of_others",
                format!("{}: it would stay as it is, for what it is in belongs to others", adapt::some(&names)),
                format!(
                    "restore as its owner, into a new database, or without it: --leave-out {}",
                    shown(&walwarden_contract::quote::sh(&format!("data:{schema}")))
                ),
            )
        })
        .collect()
}
