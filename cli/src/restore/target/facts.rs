//! What the target is: asked once, before anything is spent.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, error::SqlState};
use walwarden_verifier::annex::{Annex, Setting};

use super::{
    inside::Inside,
    locale::{self, Missing},
};
use crate::failure::Failure;

/// An extension the target offers.
#[derive(Debug, Clone, Default)]
pub struct OfferedExtension {
    /// Version CREATE EXTENSION makes.
    pub default_version: String,
    /// Whether only a superuser may create it.
    pub superuser_only: bool,
}

/// The target as the restoring role sees it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `server_version`
    pub version: String,
    /// `server_version_num`
    pub version_num: u32,
    /// The restoring role.
    pub role: String,
    /// SUPERUSER
    pub superuser: bool,
    /// CREATEDB
    pub create_db: bool,
    /// CREATEROLE
    pub create_role: bool,
    /// INHERIT
    pub inherit: bool,
    /// `pg_create_subscription` or superuser.
    pub may_subscribe: bool,
    /// Built without ICU, as far as its collations tell.
    pub without_icu: bool,
    /// In recovery or read-only.
    pub read_only: bool,
    /// Encoding of the connected database.
    pub encoding: String,
    /// Roles, and whether the restoring role may make each an owner, and then still use what it owns.
    pub roles: BTreeMap<String, bool>,
    /// Roles that are superusers.
    pub superusers: BTreeSet<String>,
    /// Roles the restoring role is a member of, with or without their rights.
    pub member_of: BTreeSet<String>,
    /// Of the backup's owners: first has the rights of second, who owns the place of something of the first's.
    pub rights_of: BTreeSet<(String, String)>,
    /// Extensions offered.
    pub extensions: BTreeMap<String, OfferedExtension>,
    /// Databases.
    pub databases: Vec<String>,
    /// Tablespaces.
    pub tablespaces: Vec<String>,
    /// What is in the connected database.
    pub inside: Inside,
    /// Other sessions in the connected database.
    pub other_sessions: i64,
    /// What of the source's locale cannot be had.
    pub locale_missing: Option<Missing>,
    /// Settings of the source database that this role cannot make, with the reason.
    pub setting_problems: Vec<(String, String)>,
    /// Whether the source's `lc_monetary` is known here.
    pub lc_monetary_known: bool,
}

impl Facts {
    /// The major version.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Asks the target what matters for this backup.
    pub async fn read(client: &Client, annex: &Annex) -> Result<Self, Failure> {
        let database = &annex.database;
        let mut facts = Self::basics(client).await.map_err(query_failed)?;
        facts.lists(client, annex).await.map_err(query_failed)?;
        facts.owners(client, annex).await.map_err(query_failed)?;
        facts.locale_missing = locale::missing(client, &facts, database).await;
        let of_roles =
            database.role_settings.iter().map(|own| Setting { name: own.name.clone(), value: own.value.clone() });
        let settings: Vec<Setting> = database.settings.iter().cloned().chain(of_roles).collect();
        facts.setting_problems = setting_problems(client, &settings, &facts).await.map_err(query_failed)?;
        facts.lc_monetary_known = lc_monetary_known(client, &annex.settings).await;
        Ok(facts)
    }

    /// Whether each owner of the backup has the rights of whoever owns the place of what it owns. A database may have
    /// thousands of owners: only pairs that occur are asked for.
    async fn owners(&mut self, client: &Client, annex: &Annex) -> Result<(), tokio_postgres::Error> {
        if self.superuser {
            return Ok(());
        }
        let schemas = annex.entries.iter().filter(|entry| entry.kind == "SCHEMA");
        let schemas: BTreeMap<&str, &str> = schemas.map(|entry| (entry.name.as_str(), entry.owner.as_str())).collect();
        let database = annex.database.owner.as_str();
        let mut pairs: BTreeSet<(&str, &str)> = BTreeSet::new();
        for entry in &annex.entries {
            let hosts = schemas.get(entry.schema.as_str()).copied().into_iter().chain([database]);
            pairs.extend(hosts.map(|host| (entry.owner.as_str(), host)).filter(|(owner, host)| owner != host));
        }
        let (owners, hosts): (Vec<&str>, Vec<&str>) = pairs.into_iter().unzip();
        let query = "SELECT a.rolname::text, b.rolname::text FROM unnest($1::text[], $2::text[]) p (owner, host)
                       JOIN pg_roles a ON a.rolname = p.owner JOIN pg_roles b ON b.rolname = p.host
                      WHERE pg_has_role(a.oid, b.oid, 'USAGE')";
        let rows = client.query(query, &[&owners, &hosts]).await?;
        self.rights_of = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(())
    }

    async fn basics(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let row = client
            .query_one(
                "SELECT current_setting('server_version'), current_setting('server_version_num')::int4, current_user::text,
                        rolsuper, rolsuper OR rolcreatedb,
                        pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
                        pg_encoding_to_char(encoding)::text,
                        (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND pid <> pg_backend_pid()
                          AND backend_type = 'client backend'),
                        rolsuper OR rolcreaterole, rolinherit,
                        NOT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')
                   FROM pg_roles, pg_database d WHERE rolname = current_user AND datname = current_database()",
                &[],
            )
            .await?;
        Ok(Self {
            version: row.get(0),
            version_num: row.get::<_, i32>(1).cast_unsigned(),
            role: row.get(2),
            superuser: row.get(3),
            create_db: row.get(4),
            may_subscribe: row.get(3),
            read_only: row.get(5),
            encoding: row.get(6),
            other_sessions: row.get(7),
            create_role: row.get(8),
            inherit: row.get(9),
            without_icu: row.get(10),
            ..Self::default()
        })
    }

    async fn lists(&mut self, client: &Client, annex: &Annex) -> Result<(), tokio_postgres::Error> {
        // From 16 on a membership may leave out the right to act as the role.
        let right = if self.major() >= 16 { "SET" } else { "MEMBER" };
        // Without the role's rights ('USAGE'), what was given to it could not be filled or changed any more.
        let roles = format!(
            "SELECT rolname::text, pg_has_role(current_user, oid, '{right}') AND pg_has_role(current_user, oid, 'USAGE'),
                    pg_has_role(current_user, oid, 'MEMBER'), rolsuper FROM pg_roles"
        );
        for row in client.query(&roles, &[]).await? {
            self.roles.insert(row.get(0), row.get(1));
            if row.get(2) {
                self.member_of.insert(row.get(0));
            }
            if row.get(3) {
                self.superusers.insert(row.get(0));
            }
        }
        self.may_subscribe |= self.roles.get("pg_create_subscription").copied().unwrap_or(false);
        let extensions = "SELECT e.name::text, e.default_version, coalesce(v.superuser AND NOT v.trusted, false)
                            FROM pg_available_extensions e
                            LEFT JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version
                           WHERE e.default_version IS NOT NULL";
        for row in client.query(extensions, &[]).await? {
            let offered = OfferedExtension { default_version: row.get(1), superuser_only: row.get(2) };
            self.extensions.insert(row.get(0), offered);
        }
        self.databases = texts(client, "SELECT datname::text FROM pg_database").await?;
        self.tablespaces = texts(client, "SELECT spcname::text FROM pg_tablespace").await?;
        self.inside = Inside::read(client, annex).await?;
        Ok(())
    }
}

/// Whether values of type money can be read as the source wrote them.
pub async fn lc_monetary_known(client: &Client, settings: &[Setting]) -> bool {
    let Some(recorded) = settings.iter().find(|setting| setting.name == "lc_monetary") else { return true };
    trial(client, "SELECT set_config('lc_monetary', $1, true)", &[&recorded.value]).await.is_none()
}

async fn texts(client: &Client, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Runs a statement in a transaction that is rolled back; the error, if it fails.
pub(super) async fn trial(
    client: &Client,
    statement: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Option<tokio_postgres::Error> {
    if let Err(error) = client.batch_execute("BEGIN").await {
        return Some(error);
    }
    let error = match parameters {
        [] => client.batch_execute(statement).await.err(),
        some => client.query(statement, some).await.err(),
    };
    let _ = client.batch_execute("ROLLBACK").await;
    error
}

async fn setting_problems(
    client: &Client,
    settings: &[Setting],
    facts: &Facts,
) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    for setting in settings {
        if facts.major() >= 15 && !facts.superuser && setting.name.contains('.') {
            // One that no module has defined: a session may set it, but only who was granted it may store it.
            let query = "SELECT has_parameter_privilege(current_user, $1, 'SET')
                             OR EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1))";
            if !client.query_one(query, &[&setting.name]).await?.get::<_, bool>(0) {
                problems
                    .push((setting.name.clone(), "only a superuser may store a parameter that nothing defines".into()));
                continue;
            }
        }
        let error = trial(client, "SELECT set_config($1, $2, true)", &[&setting.name, &setting.value]).await;
        let Some(error) = error else { continue };
        let Some(db) = error.as_db_error() else { return Err(error) };
        // Some settings can be stored for a database and yet not be changed in a session.
        let stored_only = db.code() == &SqlState::CANT_CHANGE_RUNTIME_PARAM;
        // A transaction that already ran cannot change these; ALTER DATABASE can.
        let transaction_bound = db.code() == &SqlState::ACTIVE_SQL_TRANSACTION;
        if !stored_only && !transaction_bound {
            problems.push((setting.name.clone(), db.message().to_owned()));
        }
    }
    Ok(problems)
}

/// A catalogue query that failed before anything was spent.
pub fn query_failed(error: tokio_postgres::Error) -> Failure {
    let said = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    Failure::user(
        "target_query_failed",
        format!("the target did not answer a question about itself: {}", walwarden_verifier::ids::shown(&said)),
    )
    .hint("check that the connection is direct, and that the role may read the system catalogues")
}
