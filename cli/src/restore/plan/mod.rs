//! The plan, made before the token is spent: the archive's entries against what the target is. Two
//! outcomes: exact, or refused with every reason and its remedy.

pub mod acl;
mod kinds;
mod roles;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walwarden_contract::{ids::RestoreId, quote, token::RestoreMode};
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
    receipt::PlanCounts,
};

use super::{database, guards, target::facts::Facts};
use crate::format;

/// Why a backup cannot be restored exactly, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Stable word for programs.
    pub code: &'static str,
    /// Why.
    pub reason: String,
    /// What to do: words, or a statement to run on the target.
    pub remedy: String,
}

impl Refusal {
    fn new(code: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), remedy: remedy.into() }
    }
}

/// What will be done, or why not.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// `exact` or `refused`.
    pub outcome: &'static str,
    /// Mode.
    pub mode: RestoreMode,
    /// Database the restored data ends up in.
    pub database: String,
    /// Its name until it is complete.
    pub temporary_database: Option<String>,
    /// What becomes of the archive's entries.
    pub counts: PlanCounts,
    /// Entries by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Entries left out, with the reason.
    pub left_out: Vec<String>,
    /// Why not.
    pub refusals: Vec<Refusal>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// Dump ids for pg_restore, in the archive's order.
    #[serde(skip)]
    pub dump_ids: Vec<i64>,
}

/// What the plan depends on beside annex and target.
pub struct Wishes<'a> {
    /// Mode.
    pub mode: RestoreMode,
    /// `--created-database`
    pub created_database: Option<&'a str>,
    /// Database of the target's connection string.
    pub target_database: &'a str,
    /// The restore.
    pub restore_id: &'a RestoreId,
    /// `--refuse-superuser-target`
    pub refuse_superuser: bool,
    /// More than one job was asked for explicitly.
    pub parallel_in_place: bool,
}

/// Whether an entry is about the database itself, which pg_restore makes only under `--create`.
pub fn is_database_level(entry: &Entry) -> bool {
    let about_it = ["ACL", "COMMENT", "SECURITY LABEL"].contains(&entry.kind.as_str()) && entry.name.starts_with("DATABASE ");
    entry.kind == "DATABASE" || entry.kind == "DATABASE PROPERTIES" || about_it
}

fn entry_name(entry: &Entry) -> String {
    let name = if entry.schema.is_empty() { entry.name.clone() } else { format!("{}.{}", entry.schema, entry.name) };
    format!("{} {}", entry.kind.to_lowercase(), shown(&name))
}

impl Plan {
    /// Compares a backup with a target.
    pub fn make(annex: &Annex, facts: &Facts, wishes: &Wishes<'_>) -> Self {
        let new_database = wishes.mode == RestoreMode::NewDatabase;
        let (mut refusals, mut notes) = (Vec::new(), Vec::new());
        if facts.superuser {
            if wishes.refuse_superuser {
                refusals.push(Refusal::new("superuser_target", format!("the target role \"{}\" is a superuser, and --refuse-superuser-target is given", shown(&facts.role)), "connect as a role that owns only what it restores"));
            } else {
                notes.push(format!("\"{}\" is a superuser: the archive's SQL comes from the source and will run with every right on the target (--refuse-superuser-target refuses that)", shown(&facts.role)));
            }
        }
        if facts.read_only {
            refusals.push(Refusal::new("target_read_only", "the target is read-only or a standby", "connect to the primary"));
        }
        let source_major = annex.header.server_version_num / 10_000;
        if source_major > facts.major() {
            notes.push(format!("the target ({}) is older than the source ({source_major}): statements it does not know will end the restore", facts.major()));
        }
        refusals.extend(roles::check(annex, facts, new_database, &mut notes));
        refusals.extend(kinds::check(annex, facts));
        extensions(annex, facts, &mut refusals, &mut notes);
        let database = if new_database {
            new_database_checks(annex, facts, wishes, &mut refusals, &mut notes)
        } else {
            in_place_checks(annex, facts, wishes, &mut refusals, &mut notes);
            wishes.target_database.to_owned()
        };
        if !facts.lc_monetary_known && annex.tables.iter().any(|table| table.rows > 0) {
            notes.push("the source's lc_monetary is not known on the target: values of type money may not load, and the proof cannot compare them".into());
        }
        let mut plan = Self {
            outcome: if refusals.is_empty() { "exact" } else { "refused" },
            mode: wishes.mode,
            database,
            temporary_database: new_database.then(|| database::temporary_name(wishes.restore_id)),
            counts: PlanCounts::default(),
            kinds: BTreeMap::new(),
            left_out: Vec::new(),
            refusals,
            notes,
            dump_ids: Vec::new(),
        };
        plan.sort_entries(annex);
        plan
    }

    fn sort_entries(&mut self, annex: &Annex) {
        for entry in &annex.entries {
            *self.kinds.entry(entry.kind.clone()).or_default() += 1;
            if !is_database_level(entry) {
                self.dump_ids.push(entry.dump_id);
                self.counts.restored += 1;
            } else if self.mode == RestoreMode::InPlace {
                self.counts.left_out += 1;
                self.left_out.push(format!("{}: the database keeps its own properties", entry_name(entry)));
            } else if entry.kind == "SECURITY LABEL" {
                self.counts.left_out += 1;
                self.left_out.push(format!("{}: not part of the annex", entry_name(entry)));
            } else {
                self.counts.restored += 1;
            }
        }
    }

    /// The list for pg_restore: dump ids only, so that no name can mean anything in it.
    pub fn use_list(&self) -> String {
        self.dump_ids.iter().map(|id| format!("{id}\n")).collect()
    }

    /// For people, grouped and short.
    pub fn lines(&self, annex: &Annex) -> Vec<String> {
        let what = format!(
            "{}, {}, {}, {}",
            format::counted(annex.header.counts.tables, "table"),
            format::counted(annex.header.counts.rows, "row"),
            format::counted(annex.header.counts.sequences, "sequence"),
            format::counted(annex.header.counts.large_objects, "large object"),
        );
        let place = match self.mode {
            RestoreMode::NewDatabase => format!("into the new database \"{}\"", shown(&self.database)),
            RestoreMode::InPlace => format!("over the database \"{}\"", shown(&self.database)),
        };
        let mut lines = vec![format!("plan      {}: {} {place}", self.outcome, format::counted(self.counts.restored, "entry").replace("entrys", "entries")), format!("          {what}")];
        lines.extend(self.left_out.iter().map(|left| format!("left out  {left}")));
        lines.extend(self.notes.iter().map(|note| format!("note      {note}")));
        for refusal in &self.refusals {
            lines.push(format!("refused   {}", refusal.reason));
            lines.push(format!("          remedy: {}", refusal.remedy));
        }
        lines
    }
}

fn extensions(annex: &Annex, facts: &Facts, refusals: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    let in_archive: BTreeSet<&str> = annex.entries.iter().filter(|entry| entry.kind == "EXTENSION").map(|entry| entry.name.as_str()).collect();
    for name in in_archive {
        let source = annex.extensions.iter().find(|extension| extension.name == name);
        let version = source.map_or("unknown", |extension| extension.version.as_str());
        match facts.extensions.get(name) {
            None => refusals.push(Refusal::new(
                "extension_missing",
                format!("the extension \"{}\" (version {} in the source) is not offered by the target", shown(name), shown(version)),
                format!("install the package of \"{}\" on the target's server, or enable it with its provider", shown(name)),
            )),
            Some(offered) => {
                if source.is_some() && offered.default_version != version {
                    notes.push(format!("the extension \"{}\" will have version {} instead of {}", shown(name), shown(&offered.default_version), shown(version)));
                }
                if offered.superuser_only && !facts.superuser {
                    notes.push(format!("the extension \"{}\" is for superusers unless the provider allows it", shown(name)));
                }
            }
        }
    }
}

fn new_database_checks(annex: &Annex, facts: &Facts, wishes: &Wishes<'_>, refusals: &mut Vec<Refusal>, notes: &mut Vec<String>) -> String {
    let name = wishes.created_database.unwrap_or(&annex.database.name).to_owned();
    if !facts.create_db {
        refusals.push(Refusal::new("no_createdb", format!("\"{}\" may not create databases", shown(&facts.role)), format!("ALTER ROLE {} CREATEDB;", shown(&quote::ident(&facts.role)))));
    }
    if facts.databases.contains(&name) {
        refusals.push(Refusal::new("database_exists", format!("a database called \"{}\" exists on the target", shown(&name)), format!("add --created-database {}", free_name(&name, &facts.databases))));
    }
    if let Some(problem) = &facts.locale_problem {
        refusals.push(Refusal::new("locale_missing", format!("the target cannot make a database with the source's locale: {problem}"), "install that locale on the target's server"));
    }
    for (setting, problem) in facts.setting_problems.iter().filter(|(name, _)| !database::loads_libraries(name)) {
        refusals.push(Refusal::new("setting_refused", format!("the source database's setting {} cannot be made: {}", shown(setting), shown(problem)), "restore as a role that may, or reset it in the source and back up again"));
    }
    let skipped: Vec<String> = annex.database.settings.iter().filter(|setting| database::loads_libraries(&setting.name)).map(|setting| shown(&setting.name)).collect();
    if !skipped.is_empty() {
        notes.push(format!("settings that load libraries are never restored: {}", skipped.join(", ")));
    }
    let foreign = annex.database.role_settings.iter().find(|setting| setting.role != facts.role);
    if let Some(setting) = foreign.filter(|_| !facts.superuser) {
        refusals.push(Refusal::new("role_settings", format!("the source database has settings of its own for the role \"{}\", which only a superuser can restore", shown(&setting.role)), "restore as a superuser"));
    }
    let own = database::temporary_name(wishes.restore_id);
    for leftover in facts.databases.iter().filter(|name| database::is_leftover(name) && **name != own) {
        notes.push(format!("an unfinished restore left a database behind: {}", database::drop_statement(leftover)));
    }
    name
}

fn free_name(taken: &str, databases: &[String]) -> String {
    let slug: String = taken.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
    let slug = if slug.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') { slug } else { format!("db_{slug}") };
    let candidates = std::iter::once(format!("{slug}_restore")).chain((2..).map(|n| format!("{slug}_restore_{n}")));
    debug_assert!(slug.len() + 20 < guards::MAX_NAME_BYTES);
    candidates.into_iter().find(|name| !databases.contains(name)).unwrap_or(slug)
}

fn in_place_checks(annex: &Annex, facts: &Facts, wishes: &Wishes<'_>, refusals: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    let in_backup: BTreeSet<(&str, &str)> = annex
        .entries
        .iter()
        .filter(|entry| ["TABLE", "FOREIGN TABLE"].contains(&entry.kind.as_str()))
        .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
        .collect();
    let (ours, others): (Vec<_>, Vec<_>) = facts.tables.iter().partition(|table| in_backup.contains(&(table.schema.as_str(), table.name.as_str())));
    notes.push(format!("{} of the target will be dropped and loaded again; changes since {} are lost", format::counted(ours.len() as u64, "table"), annex.header.snapshot_at));
    if !others.is_empty() {
        let names: Vec<String> = others.iter().take(8).map(|table| shown(&format!("{}.{}", table.schema, table.name))).collect();
        let more = if others.len() > 8 { format!(" and {} more", others.len() - 8) } else { String::new() };
        notes.push(format!("not in the backup, stay as they are: {}{more}", names.join(", ")));
    }
    if !facts.superuser {
        for table in ours.iter().filter(|table| !table.ours) {
            refusals.push(Refusal::new("not_owner", format!("the table {} of the target belongs to another role", shown(&format!("{}.{}", table.schema, table.name))), "connect as its owner"));
        }
    }
    refusals.extend(blocking_dependents(annex, facts, &in_backup));
    if facts.other_sessions > 0 {
        notes.push(format!("{} in the target database; locks they hold will hold the restore up", format::counted(facts.other_sessions.unsigned_abs(), "other session")));
    }
    if wishes.parallel_in_place {
        notes.push("--jobs gives up that all or nothing is restored: if it fails, the target is left half restored".into());
    }
    notes.push("the target needs room for about twice the data until the restore ends".into());
}

/// Objects made since the backup that would keep its tables from being dropped: pg_restore drops nothing it does not
/// know.
fn blocking_dependents(annex: &Annex, facts: &Facts, tables: &BTreeSet<(&str, &str)>) -> Vec<Refusal> {
    let of_kinds = |kinds: &[&str]| -> BTreeSet<(&str, &str)> {
        let known = annex.entries.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
        known.map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect()
    };
    let views = of_kinds(&["VIEW", "MATERIALIZED VIEW"]);
    let keys = of_kinds(&["FK CONSTRAINT"]);
    let stays = |dependent: &&super::target::facts::Dependent| {
        let on = (dependent.on.0.as_str(), dependent.on.1.as_str());
        let own = (dependent.schema.as_str(), dependent.name.as_str());
        let known = if dependent.kind == "foreign key" { &keys } else { &views };
        (tables.contains(&on) || views.contains(&on)) && !known.contains(&own)
    };
    facts
        .dependents
        .iter()
        .filter(stays)
        .map(|dependent| {
            let name = quote::qualified(&dependent.schema, &dependent.name);
            let remedy = match dependent.kind.as_str() {
                "foreign key" => match dependent.name.split_once(' ') {
                    Some((table, key)) if !key.contains(' ') => format!("ALTER TABLE {} DROP CONSTRAINT {};", quote::qualified(&dependent.schema, table), quote::ident(key)),
                    _ => "drop that foreign key, and make it again afterwards".to_owned(),
                },
                kind => format!("DROP {} {name};", kind.to_uppercase()),
            };
            let what = format!("{} {}", dependent.kind, shown(&format!("{}.{}", dependent.schema, dependent.name)));
            let on = shown(&format!("{}.{}", dependent.on.0, dependent.on.1));
            Refusal::new("dependent_object", format!("the {what} is not in the backup and depends on {on}, which is to be dropped"), shown(&remedy))
        })
        .collect()
}
