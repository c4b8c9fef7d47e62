//! What stands in the way of dropping and loading again what is there: pg_restore drops exactly what it
//! knows, and nothing with it.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, Wishes};
use crate::{
    format,
    restore::target::{facts::Facts, inside::Dependent},
};

/// Checks what pg_restore would only find out halfway, and says what will be lost and what stays.
pub fn check(
    annex: &Annex,
    facts: &Facts,
    wishes: &Wishes<'_>,
    left_out: &BTreeMap<i64, String>,
    refusals: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) {
    let kept: Vec<&Entry> = annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id)).collect();
    let in_backup: BTreeSet<(&str, &str)> = kept
        .iter()
        .filter(|entry| ["TABLE", "FOREIGN TABLE"].contains(&entry.kind.as_str()))
        .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
        .collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        facts.inside.tables.iter().partition(|table| in_backup.contains(&(table.schema.as_str(), table.name.as_str())));
    notes.push(format!(
        "{} of the target will be dropped and loaded again; changes since {} are lost",
        format::counted(ours.len() as u64, "table"),
        annex.header.snapshot_at
    ));
    // What is left alone is told apart.
    let in_archive: BTreeSet<(&str, &str)> =
        annex.entries.iter().map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect();
    let others: Vec<_> = others
        .into_iter()
        .filter(|table| !in_archive.contains(&(table.schema.as_str(), table.name.as_str())))
        .collect();
    if !others.is_empty() {
        let names: Vec<String> =
            others.iter().take(8).map(|table| shown(&format!("{}.{}", table.schema, table.name))).collect();
        let more = if others.len() > 8 { format!(" and {} more", others.len() - 8) } else { String::new() };
        notes.push(format!("not in the backup, stay as they are: {}{more}", names.join(", ")));
    }
    refusals.extend(blocking_dependents(&kept, facts, &in_backup));
    refusals.extend(strangers(&kept, facts, &in_backup));
    if facts.other_sessions > 0 {
        notes.push(format!(
            "{} in the target database; locks they hold will hold the restore up",
            format::counted(facts.other_sessions.unsigned_abs(), "other session")
        ));
    }
    if wishes.parallel_in_place {
        notes.push(
            "--jobs gives up that all or nothing is restored: if it fails, the target is left half restored".into(),
        );
    }
    notes.push("the target needs room for about twice the data until the restore ends".into());
}

/// Objects made since the backup that would keep its tables from being dropped: pg_restore drops nothing it does not
/// know.
fn blocking_dependents(kept: &[&Entry], facts: &Facts, tables: &BTreeSet<(&str, &str)>) -> Vec<Refusal> {
    let of_kinds = |kinds: &[&str]| -> BTreeSet<(&str, &str)> {
        let known = kept.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
        known.map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect()
    };
    let views = of_kinds(&["VIEW", "MATERIALIZED VIEW"]);
    let keys = of_kinds(&["FK CONSTRAINT"]);
    let stays = |dependent: &&Dependent| {
        let on = (dependent.on.0.as_str(), dependent.on.1.as_str());
        let own = (dependent.schema.as_str(), dependent.name.as_str());
        let known = if dependent.kind == "foreign key" { &keys } else { &views };
        (tables.contains(&on) || views.contains(&on)) && !known.contains(&own)
    };
    facts
        .inside
        .dependents
        .iter()
        .filter(stays)
        .map(|dependent| {
            let name = quote::qualified(&dependent.schema, &dependent.name);
            let remedy = match dependent.kind.as_str() {
                "foreign key" => match dependent.name.split_once(' ') {
                    Some((table, key)) if !key.contains(' ') => format!(
                        "ALTER TABLE {} DROP CONSTRAINT {};",
                        quote::qualified(&dependent.schema, table),
                        quote::ident(key)
                    ),
                    _ => "drop that foreign key, and make it again afterwards".to_owned(),
                },
                kind => format!("DROP {} {name};", kind.to_uppercase()),
            };
            let what = format!("{} {}", dependent.kind, shown(&format!("{}.{}", dependent.schema, dependent.name)));
            let on = shown(&format!("{}.{}", dependent.on.0, dependent.on.1));
            Refusal::new(
                "dependent_object",
                format!("the {what} is not in the backup and depends on {on}, which is to be dropped"),
                shown(&remedy),
            )
        })
        .collect()
}

/// What is in a schema that is to be dropped and not in the backup: the schema would not be empty.
fn strangers(kept: &[&Entry], facts: &Facts, tables: &BTreeSet<(&str, &str)>) -> Vec<Refusal> {
    let schemas: BTreeSet<&str> =
        kept.iter().filter(|entry| entry.kind == "SCHEMA").map(|entry| entry.name.as_str()).collect();
    // Arguments are written in more than one way: a function's name must do.
    let plain = |name: &str| name.split('(').next().unwrap_or_default().to_owned();
    let known: BTreeSet<(&str, String)> =
        kept.iter().map(|entry| (entry.schema.as_str(), plain(&entry.name))).collect();
    let strange_tables =
        facts.inside.tables.iter().filter(|table| !tables.contains(&(table.schema.as_str(), table.name.as_str())));
    let tables = strange_tables.map(|table| ("table", table.schema.as_str(), table.name.as_str()));
    let residents = facts
        .inside
        .residents
        .iter()
        .filter(|resident| !known.contains(&(resident.schema.as_str(), plain(&resident.name))));
    let others = residents.map(|resident| (resident.kind.as_str(), resident.schema.as_str(), resident.name.as_str()));
    tables
        .chain(others)
        .filter(|(_, schema, _)| schemas.contains(schema) && *schema != "public")
        .map(|(kind, schema, name)| {
            let what = shown(&format!("{schema}.{name}"));
            Refusal::new(
                "stranger_in_schema",
                format!("the {kind} {what} is not in the backup, and its schema is to be dropped"),
                format!(
                    "move it to another schema, or drop it: DROP {} {};",
                    kind.to_uppercase(),
                    shown(&format!(
                        "{}.{}",
                        quote::ident(schema),
                        if name.contains('(') { name.to_owned() } else { quote::ident(name) }
                    ))
                ),
            )
        })
        .collect()
}
