//! Foreign keys between what is loaded again and what stays: where a row that is referred to is gone, pg_restore cannot
//! make the key, and nothing is restored. That is told beforehand; `--keys-not-valid` makes such keys without a look at
//! the rows that are there.

use std::collections::BTreeMap;

use walwarden_verifier::{
    annex::{Annex, Entry},
    ids::shown,
};

use super::{Refusal, adapt, adapt::Adaptation, entry_name};
use crate::restore::target::{
    facts::Facts,
    keys::{Key, Rows},
};

/// A key that may miss rows, and its entry.
struct Doubtful<'a> {
    key: &'a Key,
    entry: &'a Entry,
    /// Why it may.
    why: String,
    /// The table that has it stays, and the one it refers to is loaded again.
    from_what_stays: bool,
}

/// Those of the entries that are restored.
fn doubtful<'a>(annex: &'a Annex, facts: &'a Facts, left_out: &BTreeMap<i64, String>) -> Vec<Doubtful<'a>> {
    if facts.inside.keys.is_empty() {
        return Vec::new();
    }
    let kept = || annex.entries.iter().filter(|entry| !left_out.contains_key(&entry.dump_id));
    let named = |entry: &'a Entry| ((entry.schema.as_str(), entry.name.as_str()), entry);
    let keys: BTreeMap<(&str, &str), &Entry> =
        kept().filter(|entry| entry.kind == "FK CONSTRAINT").map(named).collect();
    let tables: BTreeMap<(&str, &str), &Entry> = kept().filter(|entry| entry.kind == "TABLE").map(named).collect();
    let mut found = Vec::new();
    for key in &facts.inside.keys {
        let why = match &key.rows {
            Rows::Same => continue,
            Rows::Changed(how) => format!("it is not as it was at the backup: {how}"),
            Rows::Unknown(why) => format!("whether it is as it was at the backup is not known: {why}"),
        };
        if let Some(&entry) = keys.get(&(key.schema.as_str(), key.entry_name().as_str())) {
            let from_what_stays = !tables.contains_key(&(key.schema.as_str(), key.table.as_str()));
            found.push(Doubtful { key, entry, why, from_what_stays });
        }
    }
    found
}

/// What is told of them, once for each table that they refer to.
pub fn notes(annex: &Annex, facts: &Facts, left_out: &BTreeMap<i64, String>, not_valid: bool) -> Vec<String> {
    let mut groups: BTreeMap<(String, String, bool), Vec<String>> = BTreeMap::new();
    for one in doubtful(annex, facts, left_out) {
        let loose = not_valid && one.key.may_be_not_valid && !one.from_what_stays;
        if !loose {
            let to = shown(&format!("{}.{}", one.key.references.0, one.key.references.1));
            groups.entry((to, one.why, one.from_what_stays)).or_default().push(entry_name(one.entry));
        }
    }
    let note = |((to, why, from_what_stays), names): ((String, String, bool), Vec<String>)| {
        let names = adapt::some(&names);
        match from_what_stays {
            false => format!(
                "{names} refers to {to}, which stays, and {why}. If a row is gone that is referred to, nothing is restored; --keys-not-valid makes the key all the same"
            ),
            true => format!(
                "{names} is of a table that stays, and refers to {to}, which is loaded again; {why}. If a row that came since is referred to, nothing is restored; drop the key first and make it NOT VALID afterwards"
            ),
        }
    };
    groups.into_iter().map(note).collect()
}

impl Adaptation {
    /// Makes keys that may miss rows NOT VALID, where that was asked for.
    pub(super) fn loosen_keys(&mut self, annex: &Annex, facts: &Facts, wanted: &adapt::Wanted) {
        if !wanted.keys_not_valid {
            return;
        }
        let found = doubtful(annex, facts, &self.left_out);
        let loose: Vec<&Doubtful<'_>> =
            found.iter().filter(|one| one.key.may_be_not_valid && !one.from_what_stays).collect();
        if loose.is_empty() {
            self.refusals.push(Refusal::new(
                "no_doubtful_keys",
                "--keys-not-valid is given, and no key that could be made so refers to what stays and is not as it was",
                "leave it out",
            ));
        }
        for one in &loose {
            let id = one.entry.dump_id;
            self.adapted
                .insert(id, "made NOT VALID: rows that refer to what is gone stay, others are checked".to_owned());
            self.replaced.insert(id);
            self.after.push(one.key.not_valid_statement());
            self.later.push(one.key.orphans_query());
            self.later.push(format!(
                "ALTER TABLE {} VALIDATE CONSTRAINT {};",
                walwarden_contract::quote::qualified(&one.key.schema, &one.key.table),
                walwarden_contract::quote::ident(&one.key.name)
            ));
        }
        // It is not there yet when pg_restore would comment on it.
        let loose: BTreeMap<i64, &Entry> = loose.iter().map(|one| (one.entry.dump_id, one.entry)).collect();
        for about in &annex.entries {
            if let Some(key) = about.dependencies.iter().find_map(|id| loose.get(id)) {
                self.left_out.insert(about.dump_id, format!("it is about {}", entry_name(key)));
            }
        }
    }
}
