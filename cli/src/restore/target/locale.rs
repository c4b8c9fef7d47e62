//! Whether a target has the source's locale, and what it has instead.

use tokio_postgres::{Client, error::SqlState};
use walwarden_contract::quote;
use walwarden_verifier::{annex::Database, ids::shown};

use super::facts::{Facts, trial};

/// What decides how a database sorts and compares text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locale {
    /// `c` (libc), `i` (ICU) or `b` (builtin).
    pub provider: String,
    /// LC_COLLATE.
    pub collate: String,
    /// LC_CTYPE.
    pub ctype: String,
    /// ICU or builtin locale.
    pub locale: Option<String>,
    /// Rules of an ICU locale.
    pub icu_rules: Option<String>,
}

impl Locale {
    /// That of a database.
    pub fn of(database: &Database) -> Self {
        Self {
            provider: database.locale_provider.clone(),
            collate: database.collate.clone(),
            ctype: database.ctype.clone(),
            locale: database.locale.clone(),
            icu_rules: database.icu_rules.clone(),
        }
    }

    /// Gives it to a database that is about to be made.
    pub fn give(&self, database: &mut Database) {
        database.locale_provider.clone_from(&self.provider);
        database.collate.clone_from(&self.collate);
        database.ctype.clone_from(&self.ctype);
        database.locale.clone_from(&self.locale);
        database.icu_rules.clone_from(&self.icu_rules);
    }

    /// As people read it: `de-DE of ICU`, `en_US.utf8`, `C.utf8 with en_US.utf8 for characters`.
    pub fn words(&self) -> String {
        let locale = self.locale.as_deref().unwrap_or_default();
        match self.provider.as_str() {
            "i" => format!("{} of ICU", shown(locale)),
            "b" => format!("{} of Postgres itself", shown(locale)),
            _ if self.collate == self.ctype => shown(&self.collate),
            _ => format!("{} with {} for characters", shown(&self.collate), shown(&self.ctype)),
        }
    }

    fn suits(&self, own_encoding: &str, encoding: &str) -> bool {
        let any = |name: &str| matches!(name, "C" | "POSIX");
        own_encoding == encoding || (self.provider == "c" && any(&self.collate) && any(&self.ctype))
    }
}

/// A locale of the source that the target has not, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Why.
    pub problem: String,
    /// What comes nearest to it there: the same of ICU or of Postgres itself with the target's LC_COLLATE and LC_CTYPE,
    /// or else what new databases get. None where that does not go with the source's encoding.
    pub instead: Option<Locale>,
}

/// What of the source's locale the target cannot give a new database.
pub async fn missing(client: &Client, facts: &Facts, database: &Database) -> Option<Missing> {
    let (problem, keeps_provider) = problem(client, facts, database).await?;
    let own = of_new_databases(client, facts.major(), &database.encoding).await;
    let instead = own.map(|own| match keeps_provider {
        true => Locale { collate: own.collate, ctype: own.ctype, ..Locale::of(database) },
        false => own,
    });
    Some(Missing { problem, instead })
}

/// What new databases of the target get, unless it cannot go with that encoding or was not told.
async fn of_new_databases(client: &Client, major: u32, encoding: &str) -> Option<Locale> {
    let (provider, locale, rules) = match major {
        17.. => ("datlocprovider::text", "datlocale", "daticurules"),
        16 => ("datlocprovider::text", "daticulocale", "daticurules"),
        15 => ("datlocprovider::text", "daticulocale", "NULL::text"),
        _ => ("'c'", "NULL::text", "NULL::text"),
    };
    let query = format!(
        "SELECT {provider}, datcollate::text, datctype::text, {locale}::text, {rules}::text, pg_encoding_to_char(encoding)::text
           FROM pg_database WHERE datname = 'template0'"
    );
    let row = client.query_opt(&query, &[]).await.ok()??;
    let own = Locale {
        provider: row.get(0),
        collate: row.get(1),
        ctype: row.get(2),
        locale: row.get(3),
        icu_rules: row.get(4),
    };
    let own_encoding: String = row.get(5);
    own.suits(&own_encoding, encoding).then_some(own)
}

/// Why it is missing, and whether only LC_COLLATE and LC_CTYPE are, beside a provider that does the sorting. A temporary
/// collation is the one way to ask a server whether it knows a locale.
async fn problem(client: &Client, facts: &Facts, database: &Database) -> Option<(String, bool)> {
    let (provider, since) = match database.locale_provider.as_str() {
        "c" => (None, 0),
        "i" => (Some("icu"), 15),
        "b" => (Some("builtin"), 17),
        other => return Some((format!("locale provider {other:?} is not known here"), false)),
    };
    if facts.major() < since {
        return Some((format!("the source's locale provider needs Postgres {since} or later"), false));
    }
    if let Some(provider) = provider {
        let locale = quote::literal(database.locale.as_deref().unwrap_or_default());
        let rules = database.icu_rules.as_deref().map(|rules| format!(", rules = {}", quote::literal(rules)));
        let options = format!("provider = {provider}, locale = {locale}{}", rules.unwrap_or_default());
        if let Some(problem) = unknown(client, facts, database, &options).await {
            return Some((problem, false));
        }
    }
    let (collate, ctype) = (quote::literal(&database.collate), quote::literal(&database.ctype));
    let options = format!("provider = libc, lc_collate = {collate}, lc_ctype = {ctype}");
    unknown(client, facts, database, &options).await.map(|problem| (problem, provider.is_some()))
}

/// What the server says of a collation with those options, if it says that the locale is not there: it may fail for other
/// reasons, such as another encoding of the connected database, and CREATE DATABASE then has the last word.
async fn unknown(client: &Client, facts: &Facts, database: &Database, options: &str) -> Option<String> {
    let probe = format!("CREATE COLLATION pg_temp.walwarden_probe ({options})");
    let error = trial(client, &probe, &[]).await?;
    let db = error.as_db_error()?;
    let says_so = [
        SqlState::INVALID_PARAMETER_VALUE,
        SqlState::UNDEFINED_FILE,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::WRONG_OBJECT_TYPE,
        SqlState::UNDEFINED_OBJECT,
    ];
    (facts.encoding == database.encoding && says_so.contains(db.code())).then(|| shown(db.message()))
}
