//! Foreign keys between what is loaded again and what stays: where a row that is referred to is gone, pg_restore cannot
//! make the key, and nothing is restored. That is told beforehand; `--keys-not-valid` makes such keys without a look at
//! the rows that are there.

use std::collections::{BTreeMap, BTreeSet};

use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, adapt, adapt::Adaptation, entry_name};
use crate::restore::target::{
    facts::Facts,
    keys::{Key, Rows},
};

/// The keys of what is restored, each with its entry.
fn restored<'a>(annex: &'a Annex, facts: &'a Facts, left_out: &BTreeMap<i64, String>) -> Vec<(&'a Key, &'a Entry)> {
    let of: BTreeMap<i64, &Key> = facts.inside.keys.iter().map(|key| (key.dump_id, key)).collect();
    if of.is_empty() {
        return Vec::new();
    }
    let kept = annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id));
    kept.filter_map(|entry| Some((*of.get(&entry.dump_id)?, entry))).collect()
}

/// Why a row may be missing that it refers to.
fn doubt(key: &Key) -> Option<String> {
    match &key.rows {
        Rows::Same => None,
        Rows::Changed(how) => Some(format!("it is not as it was at the backup: {how}")),
        Rows::Unknown(why) => Some(format!("whether it is as it was at the backup is not known: {why}")),
    }
}

fn can_be_loose(key: &Key) -> bool {
    key.may_be_not_valid && !key.from_what_stays
}

/// What is told of them, once for each table that they refer to.
pub fn notes(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>, not_valid: bool) -> Vec<String> {
    let mut groups: BTreeMap<(String, String, &str), Vec<String>> = BTreeMap::new();
    for (key, entry) in restored(annex, facts, left_out) {
        let Some(why) = doubt(key) else { continue };
        let advice = match (key.from_what_stays, key.may_be_not_valid) {
            (false, true) if not_valid => continue,
            (false, true) => {
                "If a row is gone that is referred to, nothing is restored; --keys-not-valid makes the key all the same"
            }
            (false, false) => {
                "If a row is gone that is referred to, nothing is restored; a partitioned table's key cannot be made otherwise before Postgres 18: restore into a new database"
            }
            (true, _) => {
                "If a row that came since is referred to, nothing is restored; drop the key first and make it NOT VALID afterwards"
            }
        };
        let to = shown(&format!("{}.{}", key.references.0, key.references.1));
        groups.entry((to, why, advice)).or_default().push(entry_name(entry));
    }
    let note = |((to, why, advice), names): ((String, String, &str), Vec<String>)| {
        let is = if advice.starts_with("If a row that came") { "is loaded again" } else { "stays" };
        format!("{} refers to {to}, which {is}, and {why}. {advice}", adapt::some(&names))
    };
    groups.into_iter().map(note).collect()
}

/// Keys to tables that the restoring role may not refer to: one refusal for each of those.
pub fn check(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>) -> Vec<Refusal> {
    let mut closed: BTreeMap<&(String, String), Vec<String>> = BTreeMap::new();
    for (key, entry) in restored(annex, facts, left_out).into_iter().filter(|(key, _)| !key.may_refer) {
        closed.entry(&key.references).or_default().push(entry_name(entry));
    }
    let refusal = |(table, names): (&(String, String), Vec<String>)| {
        Refusal::new(
            "no_references",
            format!(
                "{} refers to {}, which stays, and \"{}\" may not make a key to that",
                adapt::some(&names),
                shown(&format!("{}.{}", table.0, table.1)),
                shown(&facts.role)
            ),
            shown(&format!(
                "GRANT REFERENCES ON {} TO {};",
                quote::qualified(&table.0, &table.1),
                quote::ident(&facts.role)
            )),
        )
    };
    closed.into_iter().map(refusal).collect()
}

impl Adaptation {
    /// Makes keys that may miss rows NOT VALID, where that was asked for: by the archive's own statements, after
    /// pg_restore, and then what is said about them.
    pub(super) fn loosen_keys(&mut self, annex: &Annex, facts: &Facts, wanted: &adapt::Wanted) {
        if !wanted.keys_not_valid {
            return;
        }
        let found = restored(annex, facts, &self.left_out);
        let loose: Vec<(&Key, &Entry)> =
            found.into_iter().filter(|(key, _)| can_be_loose(key) && doubt(key).is_some()).collect();
        if loose.is_empty() {
            self.refusals.push(Refusal::new(
                "no_doubtful_keys",
                "--keys-not-valid is given, and no key that could be made so refers to what stays and is not as it was",
                "leave it out",
            ));
        }
        let mut ids = BTreeSet::new();
        for (key, entry) in loose {
            ids.insert(entry.dump_id);
            self.adapted.insert(
                entry.dump_id,
                "made NOT VALID: rows that refer to what is gone stay, others are checked".to_owned(),
            );
            self.later.extend(key.orphans_query());
            self.later.push(key.validate_statement());
        }
        let about = annex.entries.iter().filter(|entry| entry.dependencies.iter().any(|id| ids.contains(id)));
        let about: Vec<i64> = about.map(|entry| entry.dump_id).collect();
        self.replaced.extend(ids.iter().copied().chain(about.iter().copied()));
        self.keys_not_valid = ids;
        self.about_keys = about;
    }
}
