//! What the annex says of the source that no archive holds: how values were written, properties of the database, access
//! rights as they are, roles, extensions. Every query is over a whole catalogue: ten thousand tables cost what one does.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};
use walwarden_verifier::annex::{ConfigTable, Database, Extension, Omission, RoleSetting, Setting};

use super::{
    roles::{self, Roles},
    text::Columns,
    version::ServerVersion,
};

/// Settings that decide how pg_dump's session writes values, and that pg_dump leaves as role, database and server have
/// them.
const LEFT_ALONE: [&str; 5] = ["TimeZone", "bytea_output", "lc_monetary", "xmlbinary", "server_encoding"];

/// Those it sets, as it sets them (`setup_connection` in `pg_dump.c`).
const SET_BY_PG_DUMP: [(&str, &str); 3] =
    [("DateStyle", "ISO"), ("IntervalStyle", "postgres"), ("extra_float_digits", "3")];

/// An object by catalogue and OID, as the archive's entries name theirs.
pub type ObjectAddress = (u32, u32);

/// Facts of one snapshot.
#[derive(Debug, Default)]
pub struct Facts {
    /// How values are written.
    pub settings: Vec<Setting>,
    /// The database.
    pub database: Database,
    /// Its roles.
    pub roles: Roles,
    /// Its extensions.
    pub extensions: Vec<Extension>,
    /// Access rights where they are not the defaults.
    pub acls: Acls,
    /// Rights on what has no entry of its own, by schema and by the name that its ACL entry has.
    pub tagged_acls: HashMap<(String, String), Vec<String>>,
    /// Roles that policies name, by policy.
    pub policy_roles: HashMap<u32, Vec<String>>,
    /// Functions that run with their owner's rights.
    pub security_definers: HashSet<u32>,
    /// What pg_dump leaves out by itself.
    pub omissions: Vec<Omission>,
    /// `pg_database_size`
    pub size_bytes: u64,
    /// Bytes of tables with their TOAST on the server's disk by OID, as of their last VACUUM or ANALYZE.
    pub table_bytes: HashMap<u32, u64>,
    /// The server replays another's log.
    pub is_standby: bool,
    /// Relations pg_dump will lock at once.
    pub relations: u64,
    /// How many locks the server promises to have room for.
    pub lock_room: u64,
}

/// Access rights. A database has many objects and few different sets of rights.
#[derive(Debug, Default)]
pub struct Acls {
    by_object: HashMap<ObjectAddress, usize>,
    distinct: Vec<Vec<String>>,
}

impl Acls {
    /// An object's rights, unless they are the defaults.
    pub fn get(&self, object: ObjectAddress) -> Option<&[String]> {
        Some(&self.distinct[*self.by_object.get(&object)?])
    }

    /// Each set of rights once.
    pub fn distinct(&self) -> &[Vec<String>] {
        &self.distinct
    }

    fn collect(rows: &[Row]) -> Result<Self, Error> {
        let mut acls = Self::default();
        let mut known: HashMap<Vec<String>, usize> = HashMap::new();
        for row in rows {
            let acl = row.texts_or_null(2)?.unwrap_or_default();
            let index = *known.entry(acl).or_insert_with_key(|acl| {
                acls.distinct.push(acl.clone());
                acls.distinct.len() - 1
            });
            acls.by_object.insert((row.try_get(0)?, row.try_get(1)?), index);
        }
        Ok(acls)
    }
}

/// Reads all of it. Afterwards the session's dates are ISO.
pub(super) async fn read(client: &Client, version: &ServerVersion) -> Result<Facts, Error> {
    let settings = settings(client).await?;
    client.batch_execute("SET DateStyle = 'ISO'").await?;
    let row = client
        .query_one(
            "SELECT pg_database_size(current_database()), pg_is_in_recovery(), \
             (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
             (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p', 'S') AND relnamespace <> 'pg_catalog'::regnamespace), \
             current_setting('max_locks_per_transaction')::int8 \
             * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8)",
            &[],
        )
        .await?;
    let size: i64 = row.try_get(0)?;
    let is_standby = row.try_get(1)?;
    let is_superuser: Option<bool> = row.try_get(2)?;
    let (relations, lock_room): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
    let database = database(client, version).await?;
    Ok(Facts {
        settings,
        database,
        roles: roles::read(client).await?,
        extensions: extensions(client).await?,
        acls: Acls::collect(&client.query(ACLS, &[]).await?)?,
        tagged_acls: tagged_acls(client).await?,
        policy_roles: policy_roles(client).await?,
        security_definers: security_definers(client).await?,
        omissions: omissions(client, is_superuser == Some(true), is_standby).await?,
        size_bytes: size.unsigned_abs(),
        table_bytes: table_bytes(client).await?,
        is_standby,
        relations: relations.unsigned_abs(),
        lock_room: lock_room.unsigned_abs(),
    })
}

async fn settings(client: &Client) -> Result<Vec<Setting>, Error> {
    let names: Vec<&str> = LEFT_ALONE.into();
    let query = "SELECT name, current_setting(name) FROM unnest($1::text[]) name";
    let mut settings = Vec::new();
    for row in client.query(query, &[&names]).await? {
        settings.push(Setting { name: row.text(0)?, value: row.text(1)? });
    }
    settings.extend(SET_BY_PG_DUMP.map(|(name, value)| Setting { name: name.into(), value: value.into() }));
    Ok(settings)
}

async fn database(client: &Client, version: &ServerVersion) -> Result<Database, Error> {
    let (provider, locale, rules) = match version.major() {
        ..15 => ("'c'", "NULL", "NULL"),
        15 => ("datlocprovider::text", "daticulocale", "NULL"),
        16 => ("datlocprovider::text", "daticulocale", "daticurules"),
        17.. => ("datlocprovider::text", "datlocale", "daticurules"),
    };
    let query = format!(
        "SELECT datname, pg_encoding_to_char(encoding)::text, {provider}, datcollate::text, datctype::text, \
         {locale}::text, {rules}::text, pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'), \
         datconnlimit, datistemplate, datacl::text[] \
         FROM pg_database WHERE datname = current_database()"
    );
    let row = client.query_one(&query, &[]).await?;
    let stored = "SELECT pg_get_userbyid(NULLIF(s.setrole, 0)), s.setconfig \
                  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
                  WHERE d.datname = current_database() ORDER BY s.setrole";
    let (mut settings, mut role_settings) = (Vec::new(), Vec::new());
    for row in client.query(stored, &[]).await? {
        let role = row.text_or_null(0)?;
        for Setting { name, value } in stored_settings(row.texts_or_null(1)?) {
            match &role {
                None => settings.push(Setting { name, value }),
                Some(role) => role_settings.push(RoleSetting { role: role.clone(), name, value }),
            }
        }
    }
    Ok(Database {
        name: row.text(0)?,
        encoding: row.text(1)?,
        locale_provider: row.text(2)?,
        collate: row.text(3)?,
        ctype: row.text(4)?,
        locale: row.text_or_null(5)?,
        icu_rules: row.text_or_null(6)?,
        owner: row.text(7)?,
        comment: row.text_or_null(8)?,
        connection_limit: row.try_get::<_, i32>(9)?.into(),
        is_template: row.try_get(10)?,
        acl: row.texts_or_null(11)?,
        settings,
        role_settings,
    })
}

/// From the catalogue, not from the files: asking for those waits for whoever has locked a table.
async fn table_bytes(client: &Client) -> Result<HashMap<u32, u64>, Error> {
    let query = "SELECT c.oid, (greatest(c.relpages, 0)::int8 + coalesce(greatest(t.relpages, 0), 0)) \
                               * current_setting('block_size')::int8 \
                 FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid \
                 WHERE c.relkind = 'r' AND c.relpages > 0 AND c.relnamespace <> 'pg_catalog'::regnamespace";
    let rows = client.query(query, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<_, i64>(1)?.unsigned_abs()))).collect()
}

/// `name=value` texts, as `pg_db_role_setting` keeps them.
pub(super) fn stored_settings(texts: Option<Vec<String>>) -> Vec<Setting> {
    let split = |text: String| {
        let (name, value) = text.split_once('=')?;
        Some(Setting { name: name.into(), value: value.into() })
    };
    texts.unwrap_or_default().into_iter().filter_map(split).collect()
}

async fn extensions(client: &Client) -> Result<Vec<Extension>, Error> {
    let installed = "SELECT e.oid, e.extname, e.extversion, n.nspname \
                     FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname";
    // Sequences can be configuration too; their positions are in the archive like any other's.
    let configuration = "SELECT e.oid, n.nspname, c.relname, t.condition \
                         FROM pg_extension e CROSS JOIN unnest(e.extconfig, e.extcondition) t(relation, condition) \
                         JOIN pg_class c ON c.oid = t.relation AND c.relkind <> 'S' \
                         JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY n.nspname, c.relname";
    let mut tables: HashMap<u32, Vec<ConfigTable>> = HashMap::new();
    for row in client.query(configuration, &[]).await? {
        let condition = row.text_or_null(3)?.unwrap_or_default();
        let table = ConfigTable { schema: row.text(1)?, name: row.text(2)?, condition };
        tables.entry(row.try_get(0)?).or_default().push(table);
    }
    let mut extensions = Vec::new();
    for row in client.query(installed, &[]).await? {
        extensions.push(Extension {
            name: row.text(1)?,
            version: row.text(2)?,
            schema: row.text(3)?,
            config_tables: tables.remove(&row.try_get(0)?).unwrap_or_default(),
        });
    }
    Ok(extensions)
}

/// Large objects' entries carry the OID of `pg_largeobject`, their rights are in `pg_largeobject_metadata`.
const ACLS: &str = "
    SELECT 'pg_class'::regclass::oid, oid, relacl::text[] FROM pg_class
        WHERE relacl IS NOT NULL AND relnamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT 'pg_proc'::regclass::oid, oid, proacl::text[] FROM pg_proc
        WHERE proacl IS NOT NULL AND pronamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT 'pg_type'::regclass::oid, oid, typacl::text[] FROM pg_type WHERE typacl IS NOT NULL
    UNION ALL
    SELECT 'pg_namespace'::regclass::oid, oid, nspacl::text[] FROM pg_namespace WHERE nspacl IS NOT NULL
    UNION ALL
    SELECT 'pg_language'::regclass::oid, oid, lanacl::text[] FROM pg_language WHERE lanacl IS NOT NULL
    UNION ALL
    SELECT 'pg_foreign_server'::regclass::oid, oid, srvacl::text[] FROM pg_foreign_server WHERE srvacl IS NOT NULL
    UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass::oid, oid, fdwacl::text[] FROM pg_foreign_data_wrapper
        WHERE fdwacl IS NOT NULL
    UNION ALL
    SELECT 'pg_default_acl'::regclass::oid, oid, defaclacl::text[] FROM pg_default_acl
    UNION ALL
    SELECT 'pg_largeobject'::regclass::oid, oid, lomacl::text[] FROM pg_largeobject_metadata WHERE lomacl IS NOT NULL";

/// Rights of what has no entry of its own: columns, the schema `public`, what an extension brought. By the names that
/// pg_dump gives to ACL entries (`dumpACL`), which are quoted where needed.
const TAGGED_ACLS: &str = "
    SELECT n.nspname, 'COLUMN ' || quote_ident(relname) || '.' || quote_ident(attname), attacl::text[]
      FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE attacl IS NOT NULL AND attnum > 0 AND relnamespace <> 'pg_catalog'::regnamespace
    UNION ALL
    SELECT '', 'SCHEMA public', nspacl::text[] FROM pg_namespace WHERE nspname = 'public' AND nspacl IS NOT NULL
    UNION ALL
    SELECT n.nspname, CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || quote_ident(relname), relacl::text[]
      FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_depend d ON d.objid = c.oid
     WHERE relacl IS NOT NULL AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    UNION ALL
    SELECT n.nspname, CASE prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || quote_ident(proname) || '('
           || pg_get_function_identity_arguments(p.oid) || ')', proacl::text[]
      FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace JOIN pg_depend d ON d.objid = p.oid
     WHERE proacl IS NOT NULL AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'";

async fn tagged_acls(client: &Client) -> Result<HashMap<(String, String), Vec<String>>, Error> {
    // Types in a path would be named without their schema.
    let path: String = client.query_one("SELECT current_setting('search_path')", &[]).await?.text(0)?;
    client.query("SELECT set_config('search_path', '', true)", &[]).await?;
    let mut acls = HashMap::new();
    for row in client.query(TAGGED_ACLS, &[]).await? {
        acls.insert((row.text(0)?, row.text(1)?), row.texts_or_null(2)?.unwrap_or_default());
    }
    client.query("SELECT set_config('search_path', $1, true)", &[&path]).await?;
    Ok(acls)
}

async fn policy_roles(client: &Client) -> Result<HashMap<u32, Vec<String>>, Error> {
    let query = "SELECT oid, ARRAY(SELECT pg_get_userbyid(role)::text FROM unnest(polroles) role WHERE role <> 0) \
                 FROM pg_policy";
    let mut roles = HashMap::new();
    for row in client.query(query, &[]).await? {
        let names = row.texts_or_null(1)?.unwrap_or_default();
        if !names.is_empty() {
            roles.insert(row.try_get(0)?, names);
        }
    }
    Ok(roles)
}

async fn security_definers(client: &Client) -> Result<HashSet<u32>, Error> {
    let query = "SELECT oid FROM pg_proc WHERE prosecdef AND pronamespace <> 'pg_catalog'::regnamespace";
    client.query(query, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// pg_dump leaves out, with a warning or without, subscriptions unless a superuser dumps, and what unlogged tables and
/// sequences hold where it reads from a standby, which has none of it.
async fn omissions(client: &Client, is_superuser: bool, is_standby: bool) -> Result<Vec<Omission>, Error> {
    let mut omissions = Vec::new();
    let mut omit = |kind: &str, schema, name| {
        omissions.push(Omission { kind: kind.into(), schema, name, reason: "notReadable".into() });
    };
    if !is_superuser {
        let query = "SELECT s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
                     WHERE d.datname = current_database() ORDER BY s.subname";
        for row in client.query(query, &[]).await? {
            omit("SUBSCRIPTION", String::new(), row.text(0)?);
        }
    }
    if is_standby {
        let query = "SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE SET' ELSE 'TABLE DATA' END, n.nspname, c.relname \
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind IN ('r', 'S') AND c.relpersistence = 'u' ORDER BY n.nspname, c.relname";
        for row in client.query(query, &[]).await? {
            omit(&row.text(0)?, row.text(1)?, row.text(2)?);
        }
    }
    Ok(omissions)
}
