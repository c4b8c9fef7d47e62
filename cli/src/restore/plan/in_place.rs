//! What stands in the way of dropping and loading again what is there: pg_restore drops exactly what it
//! knows, and nothing with it.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, Wishes, adapt, entry_name, extensions, keys, since};
use crate::{
    format,
    restore::target::{dependents::Dependent, facts::Facts},
};

/// Checks what pg_restore would only find out halfway, and says what will be lost and what stays. Returns what is to be
/// dropped first, each with the statement.
pub fn check(
    annex: &Annex,
    facts: &Facts,
    wishes: &Wishes<'_>,
    left_out: &BTreeMap<i64, String>,
    refusals: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) -> Vec<(Dependent, String)> {
    let kept: Vec<&Entry> = annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id)).collect();
    let in_backup: BTreeSet<(&str, &str)> = kept
        .iter()
        .filter(|entry| ["TABLE", "FOREIGN TABLE"].contains(&entry.kind.as_str()))
        .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
        .collect();
    let tables = facts.inside.tables.iter();
    let ours = tables.filter(|table| in_backup.contains(&(table.schema.as_str(), table.name.as_str()))).count();
    notes.push(format!(
        "{} of the target will be dropped and loaded again; changes since {} are lost",
        format::counted(ours as u64, "table"),
        annex.header.snapshot_at
    ));
    let mut found = since::look(annex, facts, left_out, wishes.wanted.drop_dependents);
    refusals.append(&mut found.refusals);
    notes.append(&mut found.notes);
    notes.extend(extensions::notes(annex, facts, left_out));
    refusals.extend(keys::check(annex, facts, left_out));
    notes.extend(keys::notes(annex, facts, left_out, wishes.wanted.keys_not_valid));
    if facts.other_sessions > 0 {
        notes.push(format!(
            "{} in the target database; locks they hold will hold the restore up",
            format::counted(facts.other_sessions.unsigned_abs(), "other session")
        ));
    }
    let others = kept
        .iter()
        .filter(|entry| ["FUNCTION", "PROCEDURE", "AGGREGATE", "TYPE", "DOMAIN"].contains(&entry.kind.as_str()));
    let others = (others.count() as u64).min(facts.inside.residents.len() as u64);
    let objects = (annex.large_objects.len() as u64).min(facts.inside.locks.large_objects);
    refusals.extend(locks(facts, ours as u64, others + objects).filter(|_| !wishes.parallel_in_place));
    refusals.extend(schemas(facts, &kept, wishes.target_database));
    if wishes.parallel_in_place {
        notes.push(
            "--jobs gives up that all or nothing is restored: if it fails, the target is left half restored".into(),
        );
    }
    notes.push("the target needs room for about twice the data until the restore ends".into());
    found.drops
}

/// Schemas that are not there and cannot be made.
fn schemas(facts: &Facts, kept: &[&Entry], database: &str) -> Option<Refusal> {
    let made = kept.iter().filter(|entry| entry.kind == "SCHEMA");
    let made: Vec<String> = made.map(|entry| entry_name(entry)).collect();
    (facts.inside.lasting_schemas.is_some() && !made.is_empty()).then(|| {
        Refusal::new(
            "no_create",
            format!("{}: \"{}\" may make no schemas in this database", adapt::some(&made), shown(&facts.role)),
            shown(&format!("GRANT CREATE ON DATABASE {} TO {};", quote::ident(database), quote::ident(&facts.role))),
        )
    })
}

/// Whether one transaction can lock all that it drops and makes.
fn locks(facts: &Facts, tables: u64, others: u64) -> Option<Refusal> {
    let locks = &facts.inside.locks;
    let (needed, capacity) = (locks.needed(tables) + others, locks.capacity());
    (capacity > 0 && needed > capacity + capacity / 10).then(|| {
        Refusal::new(
            "too_few_locks",
            format!(
                "one transaction that drops and loads {} and {} locks at least {} objects, and the target has room for {} (max_locks_per_transaction = {})",
                format::counted(tables, "table"),
                format::counted(others, "function, type or large object"),
                format::count(needed),
                format::count(capacity),
                locks.per_transaction
            ),
            format!(
                "restore into a new database, or set max_locks_per_transaction to {} and restart the server; --jobs 2 does without one transaction, and leaves the target half restored if it fails",
                locks.setting_for(needed)
            ),
        )
    })
}
