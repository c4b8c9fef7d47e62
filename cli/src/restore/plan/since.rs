//! What has been made or changed in the target since the backup: what depends on what is to be dropped, and would keep it
//! from being dropped; what stays as it is; what goes with the table that it is in.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, adapt, omitted};
use crate::restore::{
    prove::columns,
    target::{
        dependents::{Dependent, Named},
        facts::Facts,
        inside::{ExistingTable, Part},
    },
};

/// What is to be dropped, by pg_restore and with it.
struct Dropped<'a> {
    objects: BTreeSet<Named>,
    /// Foreign keys that pg_restore drops first.
    keys: BTreeSet<(&'a str, &'a str)>,
    /// Partitions that are not in the backup: they go with their table.
    partitions: Vec<&'a ExistingTable>,
    /// Partitions that are in it and stay as they are, of a table that goes: they would go with it.
    torn: Vec<&'a ExistingTable>,
}

impl<'a> Dropped<'a> {
    fn of(annex: &'a Annex, facts: &'a Facts, left_out: &BTreeMap<i64, String>) -> Self {
        let kept = || annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id));
        let mut objects: BTreeSet<Named> = kept().filter_map(Named::of).collect();
        let keys = kept().filter(|entry| entry.kind == "FK CONSTRAINT");
        let keys = keys.map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect();
        let in_archive: BTreeSet<Named> = annex.entries.iter().filter_map(Named::of).collect();
        let omitted = omitted::tables(annex);
        let mut partitions: Vec<&ExistingTable> = Vec::new();
        let mut torn: Vec<&ExistingTable> = Vec::new();
        loop {
            let before = partitions.len();
            torn.clear();
            for table in facts.inside.tables.iter().filter(|table| table.partition_of.is_some()) {
                let Some((schema, name)) = &table.partition_of else { continue };
                let (own, of) = (Named::relation(&table.schema, &table.name), Named::relation(schema, name));
                if !objects.contains(&of) || objects.contains(&own) {
                    continue;
                }
                // New ones go with their table; what others own or the backup was to be without does not.
                if in_archive.contains(&own) || !table.ours || omitted.has(table) {
                    torn.push(table);
                } else {
                    objects.insert(own);
                    partitions.push(table);
                }
            }
            if partitions.len() == before {
                return Self { objects, keys, partitions, torn };
            }
        }
    }

    /// What stands in the way, in the order in which it can be dropped.
    fn blocking<'f>(&self, facts: &'f Facts) -> Vec<&'f Dependent> {
        let mut found: Vec<&Dependent> = Vec::new();
        let mut gone = self.objects.clone();
        let mut told = vec![false; facts.inside.dependents.len()];
        loop {
            let before = found.len();
            for (at, dependent) in facts.inside.dependents.iter().enumerate() {
                if !told[at] && gone.contains(&dependent.on) && !self.goes(dependent) {
                    told[at] = true;
                    found.push(dependent);
                    if dependent.part.is_empty() {
                        gone.insert(dependent.holder.clone());
                    }
                }
            }
            if found.len() == before {
                break;
            }
        }
        // Once each, whatever of it depends on.
        let mut known = BTreeSet::new();
        found.retain(|dependent| known.insert((dependent.kind.as_str(), &dependent.holder, dependent.part.as_str())));
        found.reverse();
        found
    }

    /// Whether it is dropped before what it depends on.
    fn goes(&self, dependent: &Dependent) -> bool {
        if dependent.kind == "foreign key" {
            let name = format!("{} {}", dependent.holder.name(), dependent.part);
            return self.keys.contains(&(dependent.holder.schema(), name.as_str()));
        }
        self.objects.contains(&dependent.holder)
    }
}

/// What the comparison found.
#[derive(Debug, Default)]
pub struct Found {
    /// Why the restore is refused.
    pub refusals: Vec<Refusal>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// What is dropped first, as `--drop-dependents` says, in order.
    pub drops: Vec<(Dependent, String)>,
}

/// Compares what is there with what was.
pub fn look(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>, drop_dependents: bool) -> Found {
    let dropped = Dropped::of(annex, facts, left_out);
    let mut found = Found::default();
    found.refusals.extend(torn(&dropped.torn, facts));
    found.refusals.extend(elsewhere(annex, facts, left_out));
    let alone = annex.entries.iter().filter(|entry| left_out.contains_key(&entry.dump_id));
    let alone: BTreeSet<Named> = alone.filter_map(Named::of).collect();
    let blocking = dropped.blocking(facts);
    for dependent in &blocking {
        // What stays as it is, stays: it may be the only one there is.
        if alone.contains(&dependent.holder) {
            found.refusals.push(stays(dependent));
            continue;
        }
        // Without a policy more could be seen than before.
        let statement = dependent.drop_statement().filter(|_| dependent.ours && dependent.kind != "policy");
        match statement {
            Some(statement) if drop_dependents => found.drops.push(((*dependent).clone(), statement)),
            may_go => found.refusals.push(refusal(dependent, may_go.is_some())),
        }
    }
    let with_it: Vec<String> =
        dropped.partitions.iter().map(|table| shown(&format!("{}.{}", table.schema, table.name))).collect();
    if !with_it.is_empty() {
        found.notes.push(format!(
            "not in the backup, and dropped with the table that they are partitions of: {}",
            adapt::some(&with_it)
        ));
    }
    let whole = blocking.iter().filter(|dependent| dependent.part.is_empty());
    let gone: BTreeSet<(&str, &str)> =
        whole.map(|dependent| (dependent.holder.schema(), plain(dependent.holder.name()))).collect();
    let stays = staying(annex, facts, &dropped, &gone);
    if !stays.is_empty() {
        found.notes.push(format!("not in the backup, stay as they are: {}", adapt::some(&stays)));
    }
    found.notes.extend(columns_changed(annex, facts, left_out));
    found.notes.extend(parts_lost(annex, facts, &dropped, &found.drops));
    found
}

/// pg_restore drops a table with all of its partitions, those that are to stay among them.
fn torn(partitions: &[&ExistingTable], facts: &Facts) -> Vec<Refusal> {
    let refusal = |table: &&ExistingTable| {
        let (schema, name) = table.partition_of.clone().unwrap_or_default();
        let (own, of) = (format!("{}.{}", table.schema, table.name), format!("{schema}.{name}"));
        let parent = Named::relation(&schema, &name);
        let keys = facts.inside.dependents.iter().filter(|key| key.kind == "foreign key" && key.on == parent);
        let keys: Vec<String> = keys.filter_map(Dependent::drop_statement).collect();
        let first = match keys.is_empty() {
            true => String::new(),
            false => format!(" (if rows are referred to, first {}, which the restore makes again)", keys.join("; ")),
        };
        Refusal::new(
            "partition_stays",
            format!("{} stays as it is, and would be dropped as a partition of {}", shown(&own), shown(&of)),
            shown(&format!(
                "ALTER TABLE {} DETACH PARTITION {};{first} the restore attaches it again if it is yours and in the backup, otherwise attach it yourself; or restore into a new database",
                quote::qualified(&schema, &name),
                quote::qualified(&table.schema, &table.name)
            )),
        )
    };
    partitions.iter().map(refusal).collect()
}

/// What stays and is to be attached again must not be a partition of something else by now.
fn elsewhere(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Vec<Refusal> {
    let by_id: BTreeMap<i64, &Entry> =
        annex.entries.iter().filter(|entry| entry.kind == "TABLE").map(|entry| (entry.dump_id, entry)).collect();
    let attached: BTreeMap<(&str, &str), &(String, String)> = facts
        .inside
        .tables
        .iter()
        .filter_map(|table| Some(((table.schema.as_str(), table.name.as_str()), table.partition_of.as_ref()?)))
        .collect();
    let mut refusals = Vec::new();
    let kept = annex.entries.iter().filter(|e| e.kind == "TABLE ATTACH" && !left_out.contains_key(&e.dump_id));
    for entry in kept {
        let tables = entry.dependencies.iter().filter_map(|id| by_id.get(id));
        let Some(own) = tables.clone().find(|table| left_out.contains_key(&table.dump_id)) else { continue };
        let Some((schema, name)) = attached.get(&(own.schema.as_str(), own.name.as_str())) else { continue };
        if tables.clone().any(|table| table.schema == *schema && table.name == *name) {
            continue;
        }
        refusals.push(Refusal::new(
            "partition_elsewhere",
            format!(
                "{} stays as it is, and is a partition of {} by now",
                shown(&format!("{}.{}", own.schema, own.name)),
                shown(&format!("{schema}.{name}"))
            ),
            shown(&format!(
                "ALTER TABLE {} DETACH PARTITION {}; or restore into a new database",
                quote::qualified(schema, name),
                quote::qualified(&own.schema, &own.name)
            )),
        ));
    }
    refusals
}

/// The statement that makes a child a table of its own, and the one that takes that back.
fn out_of_inheritance(dependent: &Dependent) -> String {
    let child = quote::qualified(dependent.holder.schema(), dependent.holder.name());
    let parent = quote::qualified(dependent.on.schema(), dependent.on.name());
    format!(
        "ALTER TABLE {child} NO INHERIT {parent}; afterwards ALTER TABLE {child} INHERIT {parent}; or restore into a new database"
    )
}

fn stays(dependent: &Dependent) -> Refusal {
    let remedy = match dependent.kind.as_str() {
        "child table" => out_of_inheritance(dependent),
        _ => "restore as its owner, or into a new database: --mode new_database".to_owned(),
    };
    Refusal::new(
        "dependent_object",
        format!(
            "the {} stays as it is and depends on {}, which is to be dropped",
            shown(&dependent.what()),
            shown(&dependent.on.whole())
        ),
        shown(&remedy),
    )
}

fn refusal(dependent: &Dependent, may_go: bool) -> Refusal {
    let what = dependent.what();
    let on = dependent.on.whole();
    let remedy = match (dependent.drop_statement(), may_go) {
        (Some(statement), true) => format!("{statement}; or --drop-dependents, which drops all of these first"),
        (Some(statement), false) if dependent.ours => format!("{statement};"),
        (Some(statement), false) => format!("as its owner: {statement};"),
        (None, _) if dependent.kind == "child table" => out_of_inheritance(dependent),
        (None, _) => {
            "restore into a new database: --mode new_database; or change it so that it needs that no more".to_owned()
        }
    };
    Refusal::new(
        "dependent_object",
        format!("the {} is not in the backup and depends on {}, which is to be dropped", shown(&what), shown(&on)),
        shown(&remedy),
    )
}

/// What is not in the backup and in nobody's way.
fn staying(annex: &Annex, facts: &Facts, dropped: &Dropped<'_>, gone: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let in_archive: BTreeSet<(&str, &str)> =
        annex.entries.iter().map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect();
    let goes = |table: &ExistingTable| {
        dropped.objects.contains(&Named::relation(&table.schema, &table.name))
            || in_archive.contains(&(table.schema.as_str(), table.name.as_str()))
    };
    let tables = facts.inside.tables.iter().filter(|table| !goes(table));
    let tables = tables.map(|table| shown(&format!("{}.{}", table.schema, table.name)));
    let others = strangers(annex, facts).into_iter();
    let others = others.filter(|(_, schema, name)| !gone.contains(&(*schema, plain(name))));
    tables.chain(others.map(|(kind, schema, name)| shown(&format!("{kind} {schema}.{name}")))).collect()
}

/// A function's arguments are written in more than one way: its name must do.
fn plain(name: &str) -> &str {
    name.split('(').next().unwrap_or_default()
}

/// What is beside tables in the target's schemas and not in the backup: kind, schema, name.
fn strangers<'a>(annex: &Annex, facts: &'a Facts) -> Vec<(&'a str, &'a str, &'a str)> {
    let known: BTreeSet<(&str, &str)> =
        annex.entries.iter().map(|entry| (entry.schema.as_str(), plain(&entry.name))).collect();
    let strange = facts
        .inside
        .residents
        .iter()
        .filter(|resident| !known.contains(&(resident.schema.as_str(), plain(&resident.name))));
    strange.map(|resident| (resident.kind.as_str(), resident.schema.as_str(), resident.name.as_str())).collect()
}

/// Schemas of the backup that cannot be dropped, for they hold what is not in it.
pub fn kept_schemas<'a>(annex: &'a Annex, facts: &'a Facts, left_out: &BTreeMap<i64, String>) -> BTreeSet<&'a str> {
    let dropped = Dropped::of(annex, facts, left_out);
    let tables = facts.inside.tables.iter();
    let tables = tables.filter(|t| !dropped.objects.contains(&Named::relation(&t.schema, &t.name)));
    let tables = tables.map(|table| table.schema.as_str());
    tables.chain(strangers(annex, facts).into_iter().map(|(_, schema, _)| schema)).collect()
}

/// Extensions that are to be dropped, and that something depends on that is not.
pub fn used_extensions(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> BTreeSet<String> {
    let dropped = Dropped::of(annex, facts, left_out);
    let in_use = facts.inside.dependents.iter().filter_map(|dependent| match &dependent.on {
        on @ Named::Extension(name) if dropped.objects.contains(on) && !dropped.goes(dependent) => Some(name.clone()),
        _ => None,
    });
    in_use.collect()
}

/// What tables that are loaded again have got since. Some of it decides who sees what, or what is replicated.
fn parts_lost(
    annex: &Annex,
    facts: &Facts,
    dropped: &Dropped<'_>,
    dropped_first: &[(Dependent, String)],
) -> Option<String> {
    let known: BTreeSet<(&str, &str, &str)> =
        annex.entries.iter().map(|e| (e.kind.as_str(), e.schema.as_str(), e.name.as_str())).collect();
    let in_archive = |part: &Part| {
        let name = match part.kind.as_str() {
            "INDEX" => part.name.clone(),
            "ROW SECURITY" => part.table.clone(),
            "PUBLICATION TABLE" => format!("{} {}", part.name, part.table),
            _ => format!("{} {}", part.table, part.name),
        };
        known.contains(&(part.kind.as_str(), part.schema.as_str(), name.as_str()))
    };
    let told = |part: &Part| dropped_first.iter().any(|(dependent, _)| dependent.part == part.name);
    let gone = |part: &&Part| dropped.objects.contains(&Named::relation(&part.schema, &part.table));
    let lost = facts.inside.parts.iter().filter(gone).filter(|part| !in_archive(part) && !told(part));
    let lost: Vec<String> = lost.map(Part::what).collect();
    (!lost.is_empty())
        .then(|| format!("not in the backup, and lost with the table that is loaded again: {}", adapt::some(&lost)))
}

impl Part {
    /// For people.
    fn what(&self) -> String {
        let table = format!("{}.{}", self.schema, self.table);
        shown(&match self.kind.as_str() {
            "ROW SECURITY" => format!("row security of {table}"),
            "PUBLICATION TABLE" => format!("{table} in the publication {}", self.name),
            kind => format!("{} {} of {table}", kind.to_lowercase(), self.name),
        })
    }
}

/// Columns that came or went.
fn columns_changed(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Vec<String> {
    let (mut lost, mut again) = (Vec::new(), Vec::new());
    for table in annex.tables.iter().filter(|table| !left_out.contains_key(&table.dump_id)) {
        let Some(now) = facts.inside.columns.get(&(table.schema.clone(), table.name.clone())) else { continue };
        if *now == table.columns {
            continue;
        }
        let (Some(now), Some(then)) = (columns::columns(now), columns::columns(&table.columns)) else { continue };
        let name = |column: &String| shown(&format!("{}.{}.{column}", table.schema, table.name));
        lost.extend(now.iter().filter(|column| !then.contains(column)).map(name));
        again.extend(then.iter().filter(|column| !now.contains(column)).map(name));
    }
    let mut notes = Vec::new();
    if !lost.is_empty() {
        notes.push(format!("columns that the backup has not, lost with their contents: {}", adapt::some(&lost)));
    }
    if !again.is_empty() {
        notes.push(format!("columns that are gone or renamed, made again: {}", adapt::some(&again)));
    }
    notes
}
