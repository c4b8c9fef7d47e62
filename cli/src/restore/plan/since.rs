//! What has been made or changed in the target since the backup: what depends on what is to be dropped, and would keep it
//! from being dropped; what stays as it is; what goes with the table that it is in.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_verifier::{annex::Annex, ids::shown};

use super::{Refusal, adapt};
use crate::restore::{
    prove::columns,
    target::{
        dependents::{Dependent, Named},
        facts::Facts,
        inside::ExistingTable,
    },
};

/// What is to be dropped, by pg_restore and with it.
struct Dropped<'a> {
    objects: BTreeSet<Named>,
    /// Foreign keys that pg_restore drops first.
    keys: BTreeSet<(&'a str, &'a str)>,
    /// Partitions that are not in the backup: they go with their table.
    partitions: Vec<&'a ExistingTable>,
}

impl<'a> Dropped<'a> {
    fn of(annex: &'a Annex, facts: &'a Facts, left_out: &BTreeMap<i64, String>) -> Self {
        let kept = || annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id));
        let mut objects: BTreeSet<Named> = kept().filter_map(Named::of).collect();
        let keys = kept().filter(|entry| entry.kind == "FK CONSTRAINT");
        let keys = keys.map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect();
        let in_archive: BTreeSet<Named> = annex.entries.iter().filter_map(Named::of).collect();
        let mut partitions: Vec<&ExistingTable> = Vec::new();
        loop {
            let before = partitions.len();
            for table in &facts.inside.tables {
                let Some((schema, name)) = &table.partition_of else { continue };
                let (own, of) = (Named::relation(&table.schema, &table.name), Named::relation(schema, name));
                // What the archive has and the plan leaves alone is detached first, and stays.
                if objects.contains(&of) && !in_archive.contains(&own) && objects.insert(own) {
                    partitions.push(table);
                }
            }
            if partitions.len() == before {
                return Self { objects, keys, partitions };
            }
        }
    }

    /// What stands in the way, in the order in which it can be dropped.
    fn blocking<'f>(&self, facts: &'f Facts) -> Vec<&'f Dependent> {
        let mut found: Vec<&Dependent> = Vec::new();
        let mut gone = self.objects.clone();
        loop {
            let before = found.len();
            for dependent in &facts.inside.dependents {
                let in_the_way = gone.contains(&dependent.on) && !self.goes(dependent);
                if in_the_way && !found.contains(&dependent) {
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
    let blocking = dropped.blocking(facts);
    for dependent in &blocking {
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
    found
}

fn refusal(dependent: &Dependent, may_go: bool) -> Refusal {
    let what = dependent.what();
    let on = dependent.on.whole();
    let remedy = match (dependent.drop_statement(), may_go) {
        (Some(statement), true) => format!("{statement}; or --drop-dependents, which drops all of these first"),
        (Some(statement), false) => format!("{statement};"),
        (None, _) => "drop it, or restore into a new database: --mode new_database".to_owned(),
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
