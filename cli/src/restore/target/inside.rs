//! What the target database holds that a restore in place must know of.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use walwarden_verifier::annex::{Annex, Omission};

use super::{
    dependents::{self, Dependent},
    keys::Key,
    locks::Locks,
};
use crate::restore::plan::{objects::Object, omitted};

/// A table the target database has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExistingTable {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Whether the restoring role has its owner's rights.
    pub ours: bool,
    /// The partitioned table it is a partition of.
    pub partition_of: Option<(String, String)>,
}

/// Something in a schema of the target database that is no part of another object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// What it is, as in DROP.
    pub kind: String,
    /// Schema.
    pub schema: String,
    /// Name; a function's with its arguments.
    pub name: String,
}

/// Rights that whatever the restoring role makes in the target database has from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPrivilege {
    /// Schema; empty for all.
    pub schema: String,
    /// `pg_default_acl.defaclobjtype`
    pub objects: String,
    /// ACL items.
    pub acl: Vec<String>,
}

/// An index or its constraint, as the archive names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexName {
    /// `CONSTRAINT` or `INDEX`.
    pub kind: String,
    /// Schema.
    pub schema: String,
    /// The index, or `table constraint`.
    pub name: String,
}

/// Something that goes with its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The archive's kind: `POLICY`, `TRIGGER`, `RULE`, `INDEX`, `ROW SECURITY`, `PUBLICATION TABLE`.
    pub kind: String,
    /// Schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The part; of a publication its name, of row security nothing.
    pub name: String,
}

/// An extension that the target database has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// `extversion`
    pub version: String,
    /// Its schema.
    pub schema: String,
    /// Schemas that its members are in.
    pub schemas: BTreeSet<String>,
}

/// What is in a database.
#[derive(Debug, Clone, Default)]
pub struct Inside {
    /// User tables.
    pub tables: Vec<ExistingTable>,
    /// COPY's column list of each, as an archive has it, by schema and name.
    pub columns: BTreeMap<(String, String), String>,
    /// What depends on what.
    pub dependents: Vec<Dependent>,
    /// Default privileges of the restoring role there.
    pub default_privileges: Vec<DefaultPrivilege>,
    /// What is in its schemas beside tables.
    pub residents: Vec<Resident>,
    /// Objects that belong to roles whose rights the restoring role has not.
    pub foreign: BTreeSet<Object>,
    /// The same of extensions, publications and event triggers, by the archive's kind and name.
    pub foreign_others: BTreeSet<(String, String)>,
    /// Large objects of the backup that are there and belong to roles whose rights the restoring role has not.
    pub foreign_large_objects: Vec<u32>,
    /// Tables that the backup has without their rows, with the sequences that number them.
    pub rowless: BTreeSet<Object>,
    /// Whether all that the backup left out of the source is there: what depends on it can be restored then.
    pub has_omitted: bool,
    /// Foreign keys between what stays and what does not.
    pub keys: Vec<Key>,
    /// Routines and types that [`Self::foreign`] or [`Self::rowless`] objects use, or a part of them does: a trigger, a
    /// policy, a default.
    pub in_use: BTreeSet<Object>,
    /// Its schemas, where the restoring role may make none.
    pub lasting_schemas: Option<BTreeSet<String>>,
    /// What tables have beside columns and constraints.
    pub parts: Vec<Part>,
    /// Room for locks.
    pub locks: Locks,
    /// Extensions by name.
    pub installed: BTreeMap<String, Installed>,
    /// Indexes of partitions under the index of the partitioned table that holds them.
    pub attached: Vec<(IndexName, IndexName)>,
}

impl Inside {
    /// Asks the connected database; [`Self::keys`] it is not asked for.
    pub async fn read(client: &Client, annex: &Annex) -> Result<Self, tokio_postgres::Error> {
        let omissions = &annex.omissions;
        let rowless = omissions.iter().filter(|omission| omission.kind == "TABLE DATA");
        let (schemas, names): (Vec<&str>, Vec<&str>) = rowless.map(|o| (o.schema.as_str(), o.name.as_str())).unzip();
        let defaults = "SELECT coalesce(n.nspname::text, ''), d.defaclobjtype::text, d.defaclacl::text[] FROM pg_default_acl d
                          LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)";
        let default =
            |row: &tokio_postgres::Row| DefaultPrivilege { schema: row.get(0), objects: row.get(1), acl: row.get(2) };
        Ok(Self {
            tables: existing_tables(client).await?,
            columns: columns(client).await?,
            dependents: dependents::read(client).await?,
            default_privileges: client.query(defaults, &[]).await?.iter().map(default).collect(),
            residents: residents(client).await?,
            attached: attached(client).await?,
            foreign: objects(client, FOREIGN, &[]).await?,
            in_use: objects(client, IN_USE, &[&schemas, &names]).await?,
            rowless: objects(client, ROWLESS, &[&schemas, &names]).await?,
            has_omitted: has(client, omissions).await?,
            keys: Vec::new(),
            foreign_large_objects: foreign_large_objects(client, annex).await?,
            lasting_schemas: lasting_schemas(client).await?,
            parts: parts(client).await?,
            locks: Locks::read(client).await?,
            installed: installed(client).await?,
            foreign_others: client
                .query(FOREIGN_OTHERS, &[])
                .await?
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
        })
    }
}

/// Whether the schemas, relations and rows that a backup is without by itself are there.
async fn has(client: &Client, omissions: &[Omission]) -> Result<bool, tokio_postgres::Error> {
    let by_itself = || omissions.iter().filter(|omission| omission.reason != omitted::REASON);
    let schemas: Vec<&str> = by_itself().filter(|o| o.kind == "SCHEMA").map(|o| o.name.as_str()).collect();
    let relations = by_itself().filter(|o| RELATIONS.contains(&o.kind.as_str()));
    let (of, names): (Vec<&str>, Vec<&str>) = relations.map(|o| (o.schema.as_str(), o.name.as_str())).unzip();
    let query = "SELECT NOT EXISTS (SELECT FROM unnest($1::text[]) s (name)
                             WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = s.name))
                    AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) r (schema, name)
                             WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                                WHERE n.nspname = r.schema AND c.relname = r.name))";
    Ok(client.query_one(query, &[&schemas, &of, &names]).await?.get(0))
}

/// Kinds of omissions that are a relation, or of one.
const RELATIONS: [&str; 7] =
    ["TABLE", "TABLE DATA", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE", "SEQUENCE SET"];

/// Tables a user made in the connected database: not the system's, not an extension's.
pub async fn existing_tables(client: &Client) -> Result<Vec<ExistingTable>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT n.nspname::text, c.relname::text, pg_has_role(current_user, c.relowner, 'USAGE'), pn.nspname::text, p.relname::text
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_inherits i ON c.relispartition AND i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
               LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
              WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
                AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                 AND d.deptype = 'e')
              ORDER BY 1, 2",
            &[],
        )
        .await?;
    let table = |row: &tokio_postgres::Row| ExistingTable {
        schema: row.get(0),
        name: row.get(1),
        ours: row.get(2),
        partition_of: row.get::<_, Option<String>>(3).zip(row.get(4)),
    };
    Ok(rows.iter().map(table).collect())
}

async fn columns(client: &Client) -> Result<BTreeMap<(String, String), String>, tokio_postgres::Error> {
    let query = "SELECT n.nspname::text, c.relname::text,
                        coalesce((SELECT '(' || string_agg(quote_ident(attname), ', ' ORDER BY attnum) || ')' FROM pg_attribute
                                   WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''), '')
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema'
                    AND n.nspname !~ '^pg_'";
    Ok(client.query(query, &[]).await?.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

async fn lasting_schemas(client: &Client) -> Result<Option<BTreeSet<String>>, tokio_postgres::Error> {
    let query =
        "SELECT has_database_privilege(current_database(), 'CREATE'), ARRAY(SELECT nspname::text FROM pg_namespace)";
    let row = client.query_one(query, &[]).await?;
    let may_create: bool = row.get(0);
    Ok((!may_create).then(|| row.get::<_, Vec<String>>(1).into_iter().collect()))
}

/// Constraints and what belongs to them are part of a definition, and changed columns are told by themselves.
async fn parts(client: &Client) -> Result<Vec<Part>, tokio_postgres::Error> {
    let query = "
        WITH tables AS (SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relrowsecurity
                          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_')
        SELECT 'POLICY', t.schema, t.name, p.polname::text FROM pg_policy p JOIN tables t ON t.oid = p.polrelid
        UNION ALL
        SELECT 'TRIGGER', t.schema, t.name, g.tgname::text FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid
         WHERE NOT g.tgisinternal AND g.tgparentid = 0
        UNION ALL
        SELECT 'RULE', t.schema, t.name, r.rulename::text FROM pg_rewrite r JOIN tables t ON t.oid = r.ev_class
         WHERE r.rulename <> '_RETURN'
        UNION ALL
        SELECT 'INDEX', t.schema, t.name, i.relname::text FROM pg_index x JOIN tables t ON t.oid = x.indrelid
          JOIN pg_class i ON i.oid = x.indexrelid
         WHERE NOT i.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid AND k.contype IN ('p', 'u', 'x'))
        UNION ALL
        SELECT 'ROW SECURITY', schema, name, '' FROM tables WHERE relrowsecurity
        UNION ALL
        SELECT 'PUBLICATION TABLE', t.schema, t.name, p.pubname::text FROM pg_publication_rel m JOIN tables t ON t.oid = m.prrelid
          JOIN pg_publication p ON p.oid = m.prpubid
         WHERE pg_has_role(current_user, p.pubowner, 'USAGE')
        ORDER BY 1, 2, 3, 4";
    let part =
        |row: &tokio_postgres::Row| Part { kind: row.get(0), schema: row.get(1), table: row.get(2), name: row.get(3) };
    Ok(client.query(query, &[]).await?.iter().map(part).collect())
}

async fn foreign_large_objects(client: &Client, annex: &Annex) -> Result<Vec<u32>, tokio_postgres::Error> {
    let oids: Vec<u32> = annex.large_objects.iter().map(|object| object.oid).collect();
    let query = "SELECT oid FROM pg_largeobject_metadata WHERE oid = ANY($1) AND NOT pg_has_role(current_user, lomowner, 'USAGE')";
    Ok(client.query(query, &[&oids]).await?.iter().map(|row| row.get(0)).collect())
}

async fn installed(client: &Client) -> Result<BTreeMap<String, Installed>, tokio_postgres::Error> {
    let query = "SELECT e.extname::text, e.extversion, n.nspname::text, ARRAY(
                        SELECT DISTINCT m.nspname::text FROM pg_depend d
                          LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
                          LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
                          LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
                          JOIN pg_namespace m ON m.oid = coalesce(c.relnamespace, p.pronamespace, t.typnamespace)
                         WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e')
                   FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace";
    let extension = |row: &tokio_postgres::Row| {
        let schema: String = row.get(2);
        let schemas = row.get::<_, Vec<String>>(3).into_iter().chain([schema.clone()]).collect();
        (row.get(0), Installed { version: row.get(1), schema, schemas })
    };
    Ok(client.query(query, &[]).await?.iter().map(extension).collect())
}

const FOREIGN_OTHERS: &str = "
    SELECT 'EXTENSION', extname::text FROM pg_extension WHERE NOT pg_has_role(current_user, extowner, 'USAGE')
    UNION ALL
    SELECT 'PUBLICATION', pubname::text FROM pg_publication WHERE NOT pg_has_role(current_user, pubowner, 'USAGE')
    UNION ALL
    SELECT 'EVENT TRIGGER', evtname::text FROM pg_event_trigger WHERE NOT pg_has_role(current_user, evtowner, 'USAGE')";

/// Under an empty path, so that types in signatures are named as in an archive. What is in a schema of others is theirs,
/// too, unless it is the restoring role's very own: a platform's tables may belong to a role that its customer is a
/// member of.
const FOREIGN: &str = "
    WITH schemas AS (SELECT oid, nspname::text AS name,
                            nspname = 'public' OR pg_has_role(current_user, nspowner, 'USAGE') AS ours
                       FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'),
    objects AS (
        SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END AS kind, relnamespace AS namespace,
               relname::text AS name, relowner AS owner
          FROM pg_class WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
        UNION ALL
        SELECT 'routine', pronamespace,
               proname || '(' || CASE WHEN prokind = 'a' AND pronargs = 0 THEN '*' ELSE coalesce((SELECT string_agg(
                   pg_catalog.format_type(t, NULL), ', ' ORDER BY i) FROM unnest(proargtypes) WITH ORDINALITY a (t, i)), '') END || ')',
               proowner
          FROM pg_proc
        UNION ALL
        SELECT 'type', typnamespace, typname::text, typowner FROM pg_type)
    SELECT o.kind, s.name, o.name FROM objects o JOIN schemas s ON s.oid = o.namespace
     WHERE NOT pg_has_role(current_user, o.owner, 'USAGE')
        OR NOT s.ours AND o.owner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
    UNION ALL
    SELECT 'schema', name, '' FROM schemas WHERE NOT ours
    UNION ALL
    SELECT 'server', '', srvname::text FROM pg_foreign_server WHERE NOT pg_has_role(current_user, srvowner, 'USAGE')
    UNION ALL
    SELECT 'wrapper', '', fdwname::text FROM pg_foreign_data_wrapper WHERE NOT pg_has_role(current_user, fdwowner, 'USAGE')
    UNION ALL
    SELECT 'language', '', lanname::text FROM pg_language WHERE NOT pg_has_role(current_user, lanowner, 'USAGE')";

const IN_USE: &str = "
    WITH me AS (SELECT oid FROM pg_roles WHERE rolname = current_user),
    schemas AS (SELECT oid, nspname::text AS name,
                       nspname = 'public' OR pg_has_role(current_user, nspowner, 'USAGE') AS ours
                  FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'),
    relations AS (SELECT c.oid FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
                   WHERE NOT pg_has_role(current_user, c.relowner, 'USAGE')
                      OR NOT s.ours AND c.relowner <> (SELECT oid FROM me)
                      OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) r (schema, name)
                                  WHERE r.schema = s.name AND r.name = c.relname)),
    users AS (
        SELECT d.refclassid, d.refobjid FROM pg_depend d
          LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
          LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
          LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
          LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
          LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
         WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_type'::regclass)
           AND coalesce(t.tgrelid, p.polrelid, a.adrelid, c.conrelid, r.ev_class,
                        CASE d.classid WHEN 'pg_class'::regclass THEN d.objid END) IN (SELECT oid FROM relations)
        UNION ALL
        SELECT 'pg_proc'::regclass, evtfoid FROM pg_event_trigger WHERE NOT pg_has_role(current_user, evtowner, 'USAGE'))
    SELECT 'routine', s.name,
           p.proname || '(' || CASE WHEN p.prokind = 'a' AND p.pronargs = 0 THEN '*' ELSE coalesce((SELECT string_agg(
               pg_catalog.format_type(t, NULL), ', ' ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, i)), '') END || ')'
      FROM users u JOIN pg_proc p ON u.refclassid = 'pg_proc'::regclass AND p.oid = u.refobjid
      JOIN schemas s ON s.oid = p.pronamespace
    UNION
    SELECT 'type', s.name, t.typname::text
      FROM users u JOIN pg_type t ON u.refclassid = 'pg_type'::regclass AND t.oid = u.refobjid
      JOIN schemas s ON s.oid = t.typnamespace";

/// Tables ($1 schemas, $2 names), the sequences that are part of them, and those that their defaults use.
const ROWLESS: &str = "
    WITH named AS (SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name
                     FROM unnest($1::text[], $2::text[]) r (schema, name) JOIN pg_namespace n ON n.nspname = r.schema
                     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.name AND c.relkind IN ('r', 'p', 'f'))
    SELECT 'relation', schema, name FROM named
    UNION
    SELECT 'sequence', n.nspname::text, s.relname::text
      FROM named t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.deptype IN ('a', 'i')
      JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_namespace n ON n.oid = s.relnamespace
    UNION
    SELECT 'sequence', n.nspname::text, s.relname::text
      FROM named t JOIN pg_attrdef a ON a.adrelid = t.oid
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace";

async fn objects(
    client: &Client,
    query: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<BTreeSet<Object>, tokio_postgres::Error> {
    client.batch_execute("SET search_path = ''").await?;
    let rows = client.query(query, parameters).await?;
    client.batch_execute("RESET search_path").await?;
    let object = |row: &tokio_postgres::Row| Object::named(row.get(0), row.get(1), row.get(2));
    Ok(rows.iter().map(object).collect())
}

async fn attached(client: &Client) -> Result<Vec<(IndexName, IndexName)>, tokio_postgres::Error> {
    let rows = client
        .query(
            "WITH named AS (
                 SELECT i.oid, n.nspname::text AS schema, CASE WHEN c.oid IS NULL THEN 'INDEX' ELSE 'CONSTRAINT' END AS kind,
                        CASE WHEN c.oid IS NULL THEN i.relname ELSE t.relname || ' ' || c.conname END AS name
                   FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
                   JOIN pg_namespace n ON n.oid = i.relnamespace
                   LEFT JOIN pg_constraint c ON c.conindid = i.oid AND c.conrelid = t.oid AND c.contype IN ('p', 'u', 'x')
                  WHERE i.relkind IN ('i', 'I'))
             SELECT child.kind, child.schema, child.name, parent.kind, parent.schema, parent.name
               FROM pg_inherits h JOIN named child ON child.oid = h.inhrelid JOIN named parent ON parent.oid = h.inhparent",
            &[],
        )
        .await?;
    let name = |row: &tokio_postgres::Row, at: usize| IndexName {
        kind: row.get(at),
        schema: row.get(at + 1),
        name: row.get(at + 2),
    };
    Ok(rows.iter().map(|row| (name(row, 0), name(row, 3))).collect())
}

async fn residents(client: &Client) -> Result<Vec<Resident>, tokio_postgres::Error> {
    let rows = client
        .query(
            "WITH objects AS (
                 SELECT 'pg_class'::regclass AS class, c.oid, relnamespace AS namespace, relname::text AS name,
                        CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'sequence' END AS kind
                   FROM pg_class c WHERE relkind IN ('v', 'm', 'S')
                 UNION ALL
                 SELECT 'pg_proc'::regclass, oid, pronamespace, proname || '(' || pg_get_function_identity_arguments(oid) || ')',
                        CASE prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END FROM pg_proc
                 UNION ALL
                 SELECT 'pg_type'::regclass, t.oid, typnamespace, typname::text, CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END
                   FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
                  WHERE typtype IN ('e', 'd', 'r') OR (typtype = 'c' AND c.relkind = 'c'))
             SELECT o.kind, n.nspname::text, o.name FROM objects o JOIN pg_namespace n ON n.oid = o.namespace
              WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('a', 'i', 'e'))
              ORDER BY 1, 2, 3",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| Resident { kind: row.get(0), schema: row.get(1), name: row.get(2) }).collect())
}
