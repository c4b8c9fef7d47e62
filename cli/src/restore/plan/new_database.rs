//! What a new database needs of the target.

use walwarden_contract::quote;
use walwarden_verifier::{annex::Annex, ids::shown};

use super::{Refusal, Wishes};
use crate::restore::{database, evidence::is_opaque, guards, target::facts::Facts};

/// Checks what a new database needs; gives its final name.
pub fn check(
    annex: &Annex,
    facts: &Facts,
    wishes: &Wishes<'_>,
    refusals: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) -> String {
    let name = wishes.created_database.unwrap_or(&annex.database.name).to_owned();
    if !facts.create_db {
        refusals.push(Refusal::new(
            "no_createdb",
            format!("\"{}\" may not create databases", shown(&facts.role)),
            format!("ALTER ROLE {} CREATEDB;", shown(&quote::ident(&facts.role))),
        ));
    }
    // From 16 on a database's owner has the rights of pg_database_owner in any case.
    if facts.major() == 15 && !facts.inherit && !facts.superuser && annex.entries.iter().any(|e| e.schema == "public") {
        refusals.push(Refusal::new(
            "no_inherit",
            format!(
                "\"{}\" has NOINHERIT, and so may not create in the schema public of its own database",
                shown(&facts.role)
            ),
            format!("ALTER ROLE {} INHERIT;", shown(&quote::ident(&facts.role))),
        ));
    }
    if facts.databases.contains(&name) {
        refusals.push(Refusal::new(
            "database_exists",
            format!("a database called \"{}\" exists on the target", shown(&name)),
            format!("add --created-database {}", free_name(&name, &facts.databases)),
        ));
    }
    if let Some(missing) = &facts.locale_missing
        && (missing.instead.is_none() || is_opaque(annex))
    {
        refusals.push(Refusal::new(
            "locale_missing",
            format!("the target cannot make a database with the source's locale: {}", missing.problem),
            "install that locale on the target's server",
        ));
    }
    if is_opaque(annex) {
        unread(annex, facts, refusals);
    }
    let skipped: Vec<String> = annex
        .database
        .settings
        .iter()
        .filter(|setting| database::loads_libraries(&setting.name))
        .map(|setting| shown(&setting.name))
        .collect();
    if !skipped.is_empty() {
        notes.push(format!("settings that load libraries are never restored: {}", skipped.join(", ")));
    }
    let own = database::temporary_name(wishes.restore_id);
    for leftover in facts.databases.iter().filter(|name| database::is_leftover(name) && **name != own) {
        notes.push(format!("an unfinished restore left a database behind: {}", database::drop_statement(leftover)));
    }
    name
}

/// What the database itself has must be had whole where nothing is adapted.
fn unread(annex: &Annex, facts: &Facts, refusals: &mut Vec<Refusal>) {
    for (setting, problem) in facts.setting_problems.iter().filter(|(name, _)| !database::loads_libraries(name)) {
        refusals.push(Refusal::new(
            "setting_refused",
            format!("the source database's setting {} cannot be made: {}", shown(setting), shown(problem)),
            "restore as a role that may, or reset it in the source and back up again",
        ));
    }
    let foreign = annex.database.role_settings.iter().find(|setting| setting.role != facts.role);
    if let Some(setting) = foreign.filter(|_| !facts.superuser) {
        refusals.push(Refusal::new(
            "role_settings",
            format!(
                "the source database has settings of its own for the role \"{}\", which only a superuser can restore",
                shown(&setting.role)
            ),
            "restore as a superuser",
        ));
    }
}

fn free_name(taken: &str, databases: &[String]) -> String {
    let slug: String = taken.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
    let slug =
        if slug.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') { slug } else { format!("db_{slug}") };
    let candidates = std::iter::once(format!("{slug}_restore")).chain((2..).map(|n| format!("{slug}_restore_{n}")));
    debug_assert!(slug.len() + 20 < guards::MAX_NAME_BYTES);
    candidates.into_iter().find(|name| !databases.contains(name)).unwrap_or(slug)
}
