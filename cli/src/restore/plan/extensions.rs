//! Extensions: whether the target offers what the backup needs; and in place, which of them stay as they are, with what
//! they hold.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry, Extension},
    ids::shown,
};

use super::{Refusal, adapt, entry_name, is_opaque, since};
use crate::restore::target::facts::Facts;

/// `--leave-out` of what [`keep`] refuses.
pub const DATA: &str = "extension-data";

/// Leaves alone what something that stays depends on, with the schemas it is in, and the configuration of all
/// that stay. An extension is dropped whole, with every table's columns and every index that use it, or not at all.
pub fn keep(annex: &Annex, facts: &Facts, left_out: &mut BTreeMap<i64, String>, leave_out: &[String]) -> Vec<Refusal> {
    let entries = || annex.entries.iter().filter(|entry| entry.kind == "EXTENSION");
    if facts.inside.lasting_schemas.is_some() {
        for entry in entries().filter(|entry| facts.inside.installed.contains_key(&entry.name)) {
            left_out.entry(entry.dump_id).or_insert_with(|| "the restoring role may make none".to_owned());
        }
    }
    // One may need another.
    loop {
        let used = since::used_extensions(annex, facts, left_out);
        let used: Vec<i64> = entries().filter(|entry| used.contains(&entry.name)).map(|entry| entry.dump_id).collect();
        if used.is_empty() {
            break;
        }
        left_out.extend(used.into_iter().map(|id| (id, "what stays as it is uses it on the target".to_owned())));
    }
    let stays = entries().filter(|entry| left_out.contains_key(&entry.dump_id));
    let stays: BTreeSet<&str> =
        stays.map(|entry| entry.name.as_str()).filter(|name| facts.inside.installed.contains_key(*name)).collect();
    let schemas: BTreeSet<&str> =
        stays.iter().flat_map(|name| &facts.inside.installed[*name].schemas).map(String::as_str).collect();
    for entry in annex.entries.iter().filter(|entry| entry.kind == "SCHEMA" && schemas.contains(entry.name.as_str())) {
        left_out.entry(entry.dump_id).or_insert_with(|| "it holds what stays as it is".to_owned());
    }
    let kept: Vec<&Extension> = annex.extensions.iter().filter(|own| stays.contains(own.name.as_str())).collect();
    let mut refusals: Vec<Refusal> = kept.iter().filter_map(|own| elsewhere(own, facts)).collect();
    refusals.extend(configuration(annex, &kept, left_out, leave_out));
    refusals
}

/// Those that stay in another version than they had.
pub fn notes(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Vec<String> {
    let stays = annex.entries.iter().filter(|e| e.kind == "EXTENSION" && left_out.contains_key(&e.dump_id));
    let stays: BTreeSet<&str> = stays.map(|entry| entry.name.as_str()).collect();
    let own = annex.extensions.iter().filter(|own| stays.contains(own.name.as_str()));
    let note = |own: &Extension| {
        let version = &facts.inside.installed.get(&own.name)?.version;
        (*version != own.version).then(|| {
            format!(
                "the extension \"{}\" stays as it is, in version {} instead of {}",
                shown(&own.name),
                shown(version),
                shown(&own.version)
            )
        })
    };
    own.filter_map(note).collect()
}

/// What is loaded names it by the schema that it was in.
fn elsewhere(own: &Extension, facts: &Facts) -> Option<Refusal> {
    let there = &facts.inside.installed.get(&own.name)?.schema;
    (*there != own.schema).then(|| {
        Refusal::new(
            "extension_elsewhere",
            format!(
                "the extension \"{}\" stays as it is, in the schema \"{}\", and the backup has it in \"{}\"",
                shown(&own.name),
                shown(there),
                shown(&own.schema)
            ),
            format!("ALTER EXTENSION {} SET SCHEMA {};", quote::ident(&own.name), quote::ident(&own.schema)),
        )
    })
}

/// Entries of configuration, each with its extension: rows of tables that it says are configuration, and positions of
/// sequences in its schemas that the archive does not make.
pub fn configuration_of<'a>(annex: &'a Annex, extensions: &[&'a Extension]) -> Vec<(&'a Entry, &'a str)> {
    let mut tables: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut schemas: BTreeMap<&str, &str> = BTreeMap::new();
    for own in extensions {
        let name = own.name.as_str();
        tables.extend(own.config_tables.iter().map(|t| ((t.schema.as_str(), t.name.as_str()), name)));
        schemas.extend(own.config_tables.iter().map(|t| (t.schema.as_str(), name)));
        schemas.insert(&own.schema, name);
    }
    if schemas.is_empty() {
        return Vec::new();
    }
    let sequences = annex.entries.iter().filter(|entry| entry.kind == "SEQUENCE");
    let made: BTreeSet<(&str, &str)> = sequences.map(|e| (e.schema.as_str(), e.name.as_str())).collect();
    let of = |entry: &'a Entry| {
        let object = (entry.schema.as_str(), entry.name.as_str());
        let name = match entry.kind.as_str() {
            "TABLE DATA" => tables.get(&object),
            "SEQUENCE SET" if !made.contains(&object) => schemas.get(object.0),
            _ => None,
        };
        Some((entry, *name?))
    };
    annex.entries.iter().filter_map(of).collect()
}

/// Rows of configuration tables of extensions that stay: what is there would be in the way of those of the backup.
fn configuration(
    annex: &Annex,
    kept: &[&Extension],
    left_out: &mut BTreeMap<i64, String>,
    leave_out: &[String],
) -> Vec<Refusal> {
    let parts = configuration_of(annex, kept);
    let mut unnamed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (entry, name) in parts {
        left_out.insert(entry.dump_id, format!("it is of the extension {}, which stays as it is", shown(name)));
        let holds = |entry: &Entry| annex.tables.iter().any(|t| t.dump_id == entry.dump_id && t.rows > 0);
        if holds(entry) && !leave_out.iter().any(|word| word == DATA) {
            unnamed.entry(name).or_default().push(entry_name(entry));
        }
    }
    unnamed
        .into_iter()
        .map(|(name, tables)| {
            Refusal::new(
                "extension_data",
                format!("{}: it would stay as it is, for the extension \"{}\" does", adapt::some(&tables), shown(name)),
                format!("restore into a new database, or without it: --leave-out {DATA}"),
            )
        })
        .collect()
}

/// It can be made in the one database that its setting names, and in no other.
const BOUND: (&str, &str) = ("pg_cron", "cron.database_name");

/// What is bound to a database that a new one cannot be.
pub fn bound(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Option<Refusal> {
    let (name, setting) = BOUND;
    facts.extensions.get(name)?;
    let made =
        |entry: &&Entry| entry.kind == "EXTENSION" && entry.name == name && !left_out.contains_key(&entry.dump_id);
    annex.entries.iter().find(made)?;
    Some(Refusal::new(
        "extension_bound",
        format!("the extension \"{name}\" can only be made in the database that {setting} names, not in a new one"),
        format!("go without it and its jobs: --leave-out extension:{name}; or restore in place, into that database"),
    ))
}

/// Whether the target offers those that are to be made, and with what version.
pub fn check(
    annex: &Annex,
    facts: &Facts,
    left_out: &BTreeMap<i64, String>,
    refusals: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) {
    let in_archive: BTreeSet<&str> = match is_opaque(annex) {
        true => annex.extensions.iter().map(|extension| extension.name.as_str()).collect(),
        false => {
            let entries = annex.entries.iter().filter(|entry| entry.kind == "EXTENSION");
            let entries = entries.filter(|entry| !left_out.contains_key(&entry.dump_id));
            entries.map(|entry| entry.name.as_str()).collect()
        }
    };
    for name in in_archive {
        let source = annex.extensions.iter().find(|extension| extension.name == name);
        let version = source.map_or("unknown", |extension| extension.version.as_str());
        match facts.extensions.get(name) {
            None => refusals.push(Refusal::new(
                "extension_missing",
                format!(
                    "the extension \"{}\" (version {} in the source) is not offered by the target",
                    shown(name),
                    shown(version)
                ),
                format!(
                    "install the package of \"{}\" on the target's server, enable it with its provider, or go without it: --leave-out {}",
                    shown(name),
                    quote::sh(&format!("extension:{}", shown(name)))
                ),
            )),
            Some(offered) => {
                if source.is_some() && offered.default_version != version {
                    notes.push(format!(
                        "the extension \"{}\" will have version {} instead of {}",
                        shown(name),
                        shown(&offered.default_version),
                        shown(version)
                    ));
                }
                if offered.superuser_only && !facts.superuser {
                    notes.push(format!(
                        "the extension \"{}\" is for superusers unless the provider allows it",
                        shown(name)
                    ));
                }
            }
        }
    }
}
