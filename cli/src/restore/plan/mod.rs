//! The plan, made before the token is spent: the archive's entries against what the target is. Three
//! outcomes: exact; adapted, with every entry that takes another form or is left out; or refused with every reason and
//! its remedy. Of an archive that nobody has read there are no
//! entries: what can be known of it is checked, and the outcome is called unread.

pub mod access;
pub mod acl;
pub mod adapt;
mod alone;
mod containers;
mod extensions;
mod in_place;
pub mod keys;
mod kinds;
mod new_database;
pub mod objects;
pub mod omitted;
mod order;
mod properties;
mod rights;
mod roles;
mod since;
mod widening;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use adapt::Adaptation;
use serde::{Serialize, Serializer};
use tokio_postgres::Client;
use walwarden_contract::{ids::RestoreId, token::RestoreMode};
use walwarden_verifier::{
    annex::{Annex, Database, Entry, Omission},
    ids::shown,
    receipt::PlanCounts,
};

use super::{
    database,
    evidence::is_opaque,
    target::{dependents::Dependent, facts::Facts},
};
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
    /// `exact`, `adapted`, `refused`, or `unread` for an archive whose contents are not known.
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
    /// Entries that take another form, with the difference.
    pub adapted: Vec<String>,
    /// Roles that are made on the target: NOLOGIN, and nothing else.
    pub roles_made: Vec<String>,
    /// What depends on what is to be dropped, and is dropped first: `--drop-dependents`.
    pub dropped: Vec<DroppedFirst>,
    /// Commands that make more like the source, for whoever may and wants to.
    pub commands: Vec<String>,
    /// What the source had and the backup has not.
    pub omissions: Vec<Omission>,
    /// Why not.
    pub refusals: Vec<Refusal>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// What becomes of the entries that are not restored as they are, `adapted` or `leftOut`, and why.
    #[serde(skip)]
    pub fates: BTreeMap<i64, (&'static str, String)>,
    /// Dump ids for pg_restore, in the archive's order but for what [`order`] says.
    #[serde(skip)]
    pub dump_ids: Vec<i64>,
    /// pg_restore gives nothing to its owner.
    #[serde(skip)]
    pub no_owner: bool,
    /// The new database's properties.
    #[serde(skip)]
    pub properties: Database,
    /// Statements before pg_restore.
    #[serde(skip)]
    pub before: Vec<String>,
    /// Owners and rights to give after it.
    #[serde(skip)]
    pub fixes: Vec<access::Fix>,
    /// Statements after those.
    #[serde(skip)]
    pub after: Vec<String>,
    /// Keys that are made NOT VALID after pg_restore, by their own statements.
    #[serde(skip)]
    pub keys_not_valid: BTreeSet<i64>,
    /// Entries about them that follow.
    #[serde(skip)]
    pub about_keys: Vec<i64>,
    /// Both as people read them: the same reason once.
    #[serde(skip)]
    groups: Vec<(&'static str, String)>,
}

/// Something of the target that is not in the backup and is dropped before it is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DroppedFirst {
    /// What it is.
    pub what: String,
    /// The statement.
    pub statement: String,
    /// The statement that makes it again, where the server tells one; without owner, rights, options and comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// The same, for the catalogue.
    #[serde(skip)]
    pub dependent: Dependent,
}

/// A plan with all of its entries, as a document.
#[derive(Serialize)]
pub struct Complete<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    entries: Entries<'a>,
}

/// What becomes of each entry: made while it is written, for a database may have very many.
struct Entries<'a>(&'a Plan, &'a [Entry]);

/// What becomes of an entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfEntry<'a> {
    dump_id: i64,
    kind: &'a str,
    /// Empty where there is none.
    schema: &'a str,
    name: &'a str,
    /// `restored`, `adapted` or `leftOut`.
    becomes: &'static str,
    /// The difference, or why it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|entry| {
            let fate = self.0.fates.get(&entry.dump_id);
            OfEntry {
                dump_id: entry.dump_id,
                kind: &entry.kind,
                schema: &entry.schema,
                name: &entry.name,
                becomes: fate.map_or("restored", |(becomes, _)| becomes),
                reason: fate.map(|(_, reason)| reason.as_str()),
            }
        }))
    }
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
    /// `--exact`
    pub exact: bool,
    /// What may be given up or left alone.
    pub wanted: adapt::Wanted,
}

/// Whether an entry is about the database itself, which pg_restore makes only under `--create`.
pub fn is_database_level(entry: &Entry) -> bool {
    let about_it =
        ["ACL", "COMMENT", "SECURITY LABEL"].contains(&entry.kind.as_str()) && entry.name.starts_with("DATABASE ");
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
                refusals.push(Refusal::new(
                    "superuser_target",
                    format!(
                        "the target role \"{}\" is a superuser, and --refuse-superuser-target is given",
                        shown(&facts.role)
                    ),
                    "connect as a role that owns only what it restores",
                ));
            } else {
                notes.push(format!("\"{}\" is a superuser: the archive's SQL comes from the source and will run with every right on the target (--refuse-superuser-target refuses that)", shown(&facts.role)));
            }
        }
        if facts.read_only {
            refusals.push(Refusal::new(
                "target_read_only",
                "the target is read-only or a standby",
                "connect to the primary",
            ));
        }
        let source_major = annex.header.server_version_num / 10_000;
        if source_major > facts.major() {
            notes.push(format!("the target ({}) is older than the source ({source_major}): statements it does not know will end the restore", facts.major()));
        }
        let adapting = !is_opaque(annex);
        let mut adaptation = match (adapting, new_database) {
            (true, true) => adapt::new_database(annex, facts, &wishes.wanted),
            (true, false) => adapt::in_place(annex, facts, &wishes.wanted),
            (false, _) => {
                refusals.extend(roles::check(annex, facts, new_database, &mut notes));
                Adaptation::of_the_unread(annex)
            }
        };
        notes.extend(adaptation.keep_from_maintaining(annex, facts));
        refusals.append(&mut adaptation.refusals);
        refusals.extend(kinds::check(annex, facts, &adaptation.left_out));
        extensions::check(annex, facts, &adaptation.left_out, &mut refusals, &mut notes);
        refusals.extend(extensions::bound(annex, facts, &adaptation.left_out).filter(|_| new_database));
        let mut drops = Vec::new();
        if wishes.wanted.drop_dependents && (new_database || is_opaque(annex)) {
            refusals.push(Refusal::new(
                "nothing_to_drop",
                "--drop-dependents is given, and a new database has nothing that would be dropped",
                "leave it out; it is for restores in place",
            ));
        }
        let database = match (new_database, is_opaque(annex)) {
            (true, _) => new_database::check(annex, facts, wishes, &mut refusals, &mut notes),
            (false, true) => {
                refusals.push(Refusal::new(
                    "opaque_in_place",
                    "what the archive holds is not known, and so not what it would drop in the target",
                    "restore into a new database: --mode new_database, with a token for that mode",
                ));
                wishes.target_database.to_owned()
            }
            (false, false) => {
                drops = in_place::check(annex, facts, wishes, &adaptation.left_out, &mut refusals, &mut notes);
                wishes.target_database.to_owned()
            }
        };
        if is_opaque(annex) {
            notes.push("the archive was stored as pg_dump wrote it and never read: what it holds is not known before it is restored, and --prove can prove nothing of it".into());
        }
        if !facts.lc_monetary_known && annex.tables.iter().any(|table| table.rows > 0) {
            notes.push("the source's lc_monetary is not known on the target: values of type money may not load, and the proof cannot compare them".into());
        }
        let collations = annex.entries.iter().filter(|entry| entry.kind == "COLLATION");
        let collations = collations.filter(|entry| !adaptation.left_out.contains_key(&entry.dump_id));
        let collations: Vec<String> = collations.map(entry_name).collect();
        if facts.without_icu && !collations.is_empty() {
            notes.push(format!("the target has no collations of ICU: if {} is one, it cannot be made, and the restore fails (--leave-out collation goes without, where no table needs it)", adapt::some(&collations)));
        }
        let exact = adaptation.is_exact() || !adapting;
        if wishes.exact && !exact {
            refusals.push(Refusal::new(
                "not_exact",
                "the backup cannot be restored exactly into this target, and --exact is given",
                "leave --exact out to accept what is adapted and left out, or restore as a superuser",
            ));
        }
        notes.append(&mut adaptation.notes);
        let mut plan = Self {
            outcome: match (refusals.is_empty(), is_opaque(annex)) {
                (false, _) => "refused",
                (true, true) => "unread",
                (true, false) if exact => "exact",
                (true, false) => "adapted",
            },
            mode: wishes.mode,
            database,
            temporary_database: new_database.then(|| database::temporary_name(wishes.restore_id)),
            counts: PlanCounts::default(),
            kinds: BTreeMap::new(),
            left_out: Vec::new(),
            adapted: Vec::new(),
            roles_made: adaptation.made.clone(),
            dropped: Vec::new(),
            commands: std::mem::take(&mut adaptation.later),
            omissions: annex.omissions.clone(),
            refusals,
            notes,
            fates: BTreeMap::new(),
            dump_ids: Vec::new(),
            no_owner: adaptation.no_owner,
            properties: std::mem::take(&mut adaptation.database),
            before: std::mem::take(&mut adaptation.before),
            fixes: std::mem::take(&mut adaptation.fixes),
            after: std::mem::take(&mut adaptation.after),
            keys_not_valid: std::mem::take(&mut adaptation.keys_not_valid),
            about_keys: std::mem::take(&mut adaptation.about_keys),
            groups: Vec::new(),
        };
        plan.dropped.extend(drops.into_iter().map(|(dependent, statement)| DroppedFirst {
            what: dependent.what(),
            statement,
            definition: None,
            dependent,
        }));
        plan.before.extend(plan.dropped.iter().map(|first| first.statement.clone()));
        plan.sort_entries(annex, &adaptation);
        if !new_database {
            plan.dump_ids = order::droppable(annex, &plan.dump_ids, &facts.inside.attached);
        }
        plan
    }

    /// Asks the target how what is dropped first is made again.
    pub async fn define_dropped(&mut self, client: &Client) {
        if self.dropped.is_empty() || client.batch_execute("SET search_path = ''").await.is_err() {
            return;
        }
        for first in &mut self.dropped {
            first.definition = first.dependent.definition(client).await;
        }
        let _ = client.batch_execute("RESET search_path").await;
    }

    fn sort_entries(&mut self, annex: &Annex, adaptation: &Adaptation) {
        let mut groups: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
        for entry in &annex.entries {
            *self.kinds.entry(entry.kind.clone()).or_default() += 1;
            let left_out = match adaptation.left_out.get(&entry.dump_id) {
                Some(reason) => Some(reason.clone()),
                None if !is_database_level(entry) => None,
                None if self.mode == RestoreMode::InPlace => Some("the database keeps its own properties".to_owned()),
                None if entry.kind == "SECURITY LABEL" => Some("not part of the annex".to_owned()),
                None => None,
            };
            let fate = match (left_out, adaptation.adapted.get(&entry.dump_id)) {
                (Some(reason), _) => Some(("leftOut", reason)),
                (None, Some(reason)) => Some(("adapted", reason.clone())),
                (None, None) => None,
            };
            let stays = fate.as_ref().is_none_or(|(becomes, _)| *becomes != "leftOut");
            if stays && !is_database_level(entry) && !adaptation.replaced.contains(&entry.dump_id) {
                self.dump_ids.push(entry.dump_id);
            }
            let Some((becomes, reason)) = fate else {
                self.counts.restored += 1;
                continue;
            };
            let line = format!("{}: {reason}", entry_name(entry));
            let label = match becomes {
                "leftOut" => {
                    self.counts.left_out += 1;
                    self.left_out.push(line);
                    "left out"
                }
                _ => {
                    self.counts.adapted += 1;
                    self.adapted.push(line);
                    "adapted"
                }
            };
            groups.entry((label, reason.clone())).or_default().push(entry_name(entry));
            self.fates.insert(entry.dump_id, (becomes, reason));
        }
        let groups =
            groups.into_iter().map(|((label, reason), names)| (label, format!("{}: {reason}", adapt::some(&names))));
        self.groups = groups.collect();
    }

    /// The backup without the data that the plan leaves out: what a proof compares.
    pub fn promised<'a>(&self, annex: &'a Annex) -> Cow<'a, Annex> {
        let left_out = |id: &i64| self.fates.get(id).is_some_and(|(becomes, _)| *becomes == "leftOut");
        let data = |entry: &&Entry| left_out(&entry.dump_id) && omitted::holds_data(entry);
        let lost: Vec<&Entry> = annex.entries.iter().filter(data).collect();
        if lost.is_empty() {
            return Cow::Borrowed(annex);
        }
        let sequences: BTreeSet<(&str, &str)> = lost
            .iter()
            .filter(|entry| entry.kind == "SEQUENCE SET")
            .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
            .collect();
        let mut promised = annex.clone();
        promised.tables.retain(|table| !left_out(&table.dump_id));
        promised.sequences.retain(|sequence| !sequences.contains(&(sequence.schema.as_str(), sequence.name.as_str())));
        Cow::Owned(promised)
    }

    /// With each entry, as a document. Of a refusal the reasons are what is needed, so `annex` may be left out.
    pub fn complete<'a>(&'a self, annex: Option<&'a Annex>) -> Complete<'a> {
        Complete { plan: self, entries: Entries(self, annex.map_or(&[], |annex| &annex.entries)) }
    }

    /// The list for pg_restore: dump ids only, so that no name can mean anything in it.
    pub fn use_list(&self) -> String {
        self.dump_ids.iter().map(|id| format!("{id}\n")).collect()
    }

    /// For people, grouped and short: a label and a text each.
    pub fn lines(&self, annex: &Annex) -> Vec<(&'static str, String)> {
        let place = match self.mode {
            RestoreMode::NewDatabase => format!("into the new database \"{}\"", shown(&self.database)),
            RestoreMode::InPlace => format!("over the database \"{}\"", shown(&self.database)),
        };
        let counts = &annex.header.counts;
        let entries = match self.counts.restored {
            _ if is_opaque(annex) => "all of the archive".to_owned(),
            1 => "1 entry".to_owned(),
            more => format!("{} entries", format::count(more)),
        };
        let mut lines = vec![("plan", format!("{}: {entries} {place}", self.outcome))];
        if !is_opaque(annex) {
            lines.push(("", format::contents(counts.tables, counts.rows, counts.sequences, counts.large_objects)));
        }
        if !self.roles_made.is_empty() {
            let names: Vec<String> = self.roles_made.iter().map(|name| format!("\"{}\"", shown(name))).collect();
            let roles = format::counted(names.len() as u64, "role");
            lines.push(("makes", format!("{roles}, NOLOGIN and nothing else: {}", names.join(", "))));
        }
        lines.extend(self.groups.iter().cloned());
        for first in &self.dropped {
            lines.push((
                "drops",
                format!("{}: first, and for good, whatever becomes of the restore", shown(&first.what)),
            ));
            let again = first.definition.as_deref().unwrap_or("the server does not tell how to make it again");
            lines.push(("", format!("as it is now: {}", shown(&again.replace('\n', " ")))));
        }
        lines.extend(lacking(&self.omissions).map(|lack| ("lacks", lack)));
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        if !self.commands.is_empty() {
            lines.push(("later", "for you to decide, and to run:".to_owned()));
            lines.extend(self.commands.iter().map(|command| ("", shown(command))));
        }
        let mut told: BTreeMap<&str, u64> = BTreeMap::new();
        for refusal in &self.refusals {
            let of_its_kind = told.entry(refusal.code).or_default();
            *of_its_kind += 1;
            if *of_its_kind <= REFUSALS_TOLD {
                lines.push(("refused", refusal.reason.clone()));
                lines.push(("", format!("remedy: {}", refusal.remedy)));
            }
        }
        for (code, count) in told.into_iter().filter(|(_, count)| *count > REFUSALS_TOLD) {
            let more = format::count(count - REFUSALS_TOLD);
            lines.push(("refused", format!("{more} more of the kind {code}; --plan --json names all")));
        }
        lines
    }
}

/// How many reasons of a kind people are told.
const REFUSALS_TOLD: u64 = 20;

/// How many things that a backup lacks people are told.
const LACKING_TOLD: usize = 20;

/// What the backup lacks, by kind, name and reason.
fn lacking(omissions: &[Omission]) -> impl Iterator<Item = String> {
    let one = |omission: &Omission| {
        let entry = Entry {
            kind: omission.kind.clone(),
            schema: omission.schema.clone(),
            name: omission.name.clone(),
            ..Entry::default()
        };
        let reason = match omission.reason.as_str() {
            "excluded" => "left out of the backup as its owner chose".to_owned(),
            "rowSecurity" => "row security hid rows of it when the backup was made".to_owned(),
            "dependsOnOmitted" => "it needs something else that is not in the backup".to_owned(),
            "notReadable" => "it could not be read when the backup was made".to_owned(),
            other => shown(other),
        };
        format!("{}: {reason}", entry_name(&entry))
    };
    let more = omissions.len().saturating_sub(LACKING_TOLD);
    let rest = (more > 0).then(|| format!("and {} more; --plan --json names all", format::count(more as u64)));
    omissions.iter().take(LACKING_TOLD).map(one).chain(rest).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests;
