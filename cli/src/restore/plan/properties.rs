//! What a new database has of itself: locale, owner, rights and settings, as far as the target can give them.

use std::collections::BTreeMap;

use walwarden_verifier::{annex::Annex, ids::shown};

use super::{acl, adapt::Adaptation};
use crate::restore::{
    database,
    target::{facts::Facts, locale::Locale},
};

impl Adaptation {
    /// The database's own properties, without what cannot be had.
    pub(super) fn fit_database(&mut self, annex: &Annex, facts: &Facts) {
        self.fit_locale(annex, facts);
        let mut dropped = Vec::new();
        if !self.may_act_as(facts, &self.database.owner) {
            self.database.owner.clone_from(&facts.role);
        }
        if let Some(items) = self.database.acl.take() {
            let exists = |item: &String| acl::parse(item).is_some_and(|item| self.exists(facts, &item.grantee));
            let (kept, lost): (Vec<String>, Vec<String>) = items.into_iter().partition(exists);
            dropped.extend(lost.iter().map(|item| format!("the right {} on it", shown(item))));
            self.database.acl = Some(kept);
        }
        let problems: BTreeMap<&str, &str> =
            facts.setting_problems.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        let settings = std::mem::take(&mut self.database.settings);
        for setting in settings {
            match problems.get(setting.name.as_str()).filter(|_| !database::loads_libraries(&setting.name)) {
                Some(why) => dropped.push(format!("its setting {} ({})", shown(&setting.name), shown(why))),
                None => self.database.settings.push(setting),
            }
        }
        let settings = std::mem::take(&mut self.database.role_settings);
        for setting in settings {
            let own = facts.superuser || setting.role == facts.role || self.made.contains(&setting.role);
            if own && !problems.contains_key(setting.name.as_str()) {
                self.database.role_settings.push(setting);
            } else {
                dropped.push(format!("its setting {} for \"{}\"", shown(&setting.name), shown(&setting.role)));
            }
        }
        if !dropped.is_empty() {
            let count = dropped.len();
            let shown = dropped.into_iter().take(5).collect::<Vec<_>>().join(", ");
            let more = if count > 5 { format!(" and {} more", count - 5) } else { String::new() };
            self.notes.push(format!("the database will be without {shown}{more}"));
        }
    }

    /// The locale that comes nearest, where the target lacks the source's.
    fn fit_locale(&mut self, annex: &Annex, facts: &Facts) {
        let Some(missing) = &facts.locale_missing else { return };
        let Some(instead) = &missing.instead else { return };
        let had = Locale::of(&annex.database);
        let (had_words, instead_words) = (had.words(), instead.words());
        instead.give(&mut self.database);
        let sorts_alike = had.provider != "c" && had.provider == instead.provider;
        let means = match sorts_alike {
            true => "text sorts as before, but LC_COLLATE and LC_CTYPE are not the source's",
            false => {
                "text sorts and compares as there: what was sorted, unique regardless of case, or partitioned by ranges of text may be so no more"
            }
        };
        let reason = format!(
            "the target has not all of its locale, {had_words} ({}), and gives it {instead_words}: {means}",
            missing.problem
        );
        match annex.entries.iter().find(|entry| entry.kind == "DATABASE") {
            Some(entry) => drop(self.adapted.insert(entry.dump_id, reason)),
            None => self.notes.push(format!("the database: {reason}")),
        }
    }
}
