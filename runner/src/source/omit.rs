//! What a backup leaves out, because it was asked to or because the role cannot read it, and what cannot be restored
//! without that: a view of a table that is not there, a foreign key to rows that are not.

use std::collections::HashSet;

use tokio_postgres::{Client, Error};
use walwarden_contract::quote::{ident, qualified};
use walwarden_verifier::annex::Omission;

use super::{chosen::Chosen, facts::ObjectAddress, readable::Unreadable, text::Columns};

/// Why something is not in an archive, as the annex says it.
const NOT_READABLE: &str = "notReadable";
const ROW_SECURITY: &str = "rowSecurity";
/// The reason of what the selection does not take.
pub const EXCLUDED: &str = "excluded";
/// The reason of what is of no use without something that is left out.
pub const DEPENDS_ON_OMITTED: &str = "dependsOnOmitted";

/// Everything that depends on objects ($1 catalogues, $2 OIDs), by `pg_depend`: views through their rules, children and
/// partitions, foreign keys, policies, functions with an SQL body, columns of their types; and what cannot be made
/// without: tables by a column's default or a check, domains by a check. TOAST and sequences are not looked at: the first
/// goes with its table, a sequence stands by itself. Of an extension only the extension: what belongs to it follows it.
const DEPENDENTS: &str = "
    WITH RECURSIVE gone(classid, objid) AS (
        SELECT classid, objid FROM unnest($1::oid[], $2::oid[]) AS seed(classid, objid)
        UNION
        SELECT next.classid, next.objid FROM gone g CROSS JOIN LATERAL (
            SELECT d.classid, d.objid FROM pg_depend d
                WHERE d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype IN ('n', 'a', 'i', 'P', 'S')
            UNION ALL
            SELECT 'pg_class'::regclass, r.ev_class
                FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
                WHERE g.classid = 'pg_rewrite'::regclass AND r.oid = g.objid
            UNION ALL
            SELECT 'pg_class'::regclass, a.adrelid FROM pg_attrdef a
                WHERE g.classid = 'pg_attrdef'::regclass AND a.oid = g.objid
            UNION ALL
            SELECT CASE WHEN c.conrelid <> 0 THEN 'pg_class'::regclass ELSE 'pg_type'::regclass END,
                   CASE WHEN c.conrelid <> 0 THEN c.conrelid ELSE c.contypid END
                FROM pg_constraint c
                WHERE g.classid = 'pg_constraint'::regclass AND c.oid = g.objid AND c.contype = 'c'
        ) next
        WHERE next.classid <> 'pg_class'::regclass
           OR EXISTS (SELECT FROM pg_class c WHERE c.oid = next.objid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'i', 'I'))
    )
    SELECT g.classid, g.objid, n.nspname, c.relname,
           CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
                          ELSE 'TABLE' END,
           n.oid, c.relispartition AND EXISTS (SELECT FROM pg_inherits i JOIN gone p ON p.objid = i.inhparent
                                               WHERE i.inhrelid = c.oid AND p.classid = 'pg_class'::regclass)
    FROM gone g
    LEFT JOIN pg_class c ON g.classid = 'pg_class'::regclass AND c.oid = g.objid AND c.relkind NOT IN ('i', 'I')
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (g.classid, g.objid) NOT IN (SELECT classid, objid FROM unnest($1::oid[], $2::oid[]) AS seed(classid, objid))
    ORDER BY n.nspname, c.relname";

/// What lies in the schema `public` ($1), which every database has whether it is dumped or not: extensions in it stay.
const IN_PUBLIC: &str = "
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = $1 AND d.deptype = 'n'
      AND d.classid <> 'pg_extension'::regclass
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')";

/// Foreign keys from tables whose rows are dumped to tables ($1) whose rows are not.
const KEYS: &str = "
    SELECT 'pg_constraint'::regclass::oid, oid FROM pg_constraint
    WHERE contype = 'f' AND confrelid = ANY ($1::oid[]) AND conrelid <> ALL ($1::oid[])";

/// What is left out.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Patterns of schemas that pg_dump is told to leave out.
    pub schemas: Vec<String>,
    /// Patterns of relations that pg_dump is told to leave out.
    pub tables: Vec<String>,
    /// Patterns of tables and sequences of which it is told to dump the definition only.
    pub data: Vec<String>,
    /// Whether large objects are left out, all of them: pg_dump cannot choose.
    pub large_objects: bool,
    /// Objects that pg_dump dumps and that cannot be restored without what is left out.
    pub dependents: HashSet<ObjectAddress>,
    /// Records for the annex, but for the dependents: their names are in the archive.
    pub omissions: Vec<Omission>,
}

impl LeftOut {
    /// Both together.
    pub fn and(mut self, mut other: Self) -> Self {
        self.schemas.append(&mut other.schemas);
        self.tables.append(&mut other.tables);
        self.data.append(&mut other.data);
        self.large_objects |= other.large_objects;
        self.dependents.extend(other.dependents);
        self.omissions.append(&mut other.omissions);
        self.tables.sort_unstable();
        self.tables.dedup();
        let mut known = HashSet::new();
        let what = |omission: &Omission| (omission.kind.clone(), omission.schema.clone(), omission.name.clone());
        self.omissions.retain(|omission| known.insert(what(omission)));
        self
    }

    fn omit(&mut self, kind: &str, schema: &str, name: &str, reason: &str) {
        let (kind, reason) = (kind.into(), reason.into());
        self.omissions.push(Omission { kind, schema: schema.into(), name: name.into(), reason });
    }
}

/// A table that is taken and needs something that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// What a selection leaves out, and what it cannot leave out.
#[derive(Debug, Default)]
pub struct Excluded {
    /// What it leaves out.
    pub left_out: LeftOut,
    /// Tables that could not be made again.
    pub needed: Vec<Needs>,
}

/// One object that depends on others.
struct Dependent {
    address: ObjectAddress,
    /// A relation: kind, schema's OID, schema, name, whether it is a partition of what is gone too.
    relation: Option<(String, u32, String, String, bool)>,
}

async fn dependents(client: &Client, seeds: &[ObjectAddress]) -> Result<Vec<Dependent>, Error> {
    if seeds.is_empty() {
        return Ok(Vec::new());
    }
    let (classes, objects): (Vec<u32>, Vec<u32>) = seeds.iter().copied().unzip();
    let mut found = Vec::new();
    for row in client.query(DEPENDENTS, &[&classes, &objects]).await? {
        let relation = match (row.text_or_null(2)?, row.text_or_null(3)?) {
            (Some(schema), Some(name)) => {
                Some((row.text(4)?, row.try_get(5)?, schema, name, row.try_get::<_, Option<bool>>(6)? == Some(true)))
            }
            _ => None,
        };
        found.push(Dependent { address: (row.try_get(0)?, row.try_get(1)?), relation });
    }
    Ok(found)
}

async fn class(client: &Client, name: &str) -> Result<u32, Error> {
    client.query_one(&format!("SELECT '{name}'::regclass::oid"), &[]).await?.try_get(0)
}

pub(super) async fn excluded(client: &Client, chosen: &Chosen) -> Result<Excluded, Error> {
    let mut excluded = Excluded::default();
    if chosen.is_nothing() {
        return Ok(excluded);
    }
    let left_out = &mut excluded.left_out;
    let (namespaces, relations) = (class(client, "pg_namespace").await?, class(client, "pg_class").await?);
    let mut seeds: Vec<ObjectAddress> = chosen.tables.iter().map(|relation| (relations, relation.oid)).collect();
    for (oid, name) in &chosen.schemas {
        left_out.omit("SCHEMA", name, name, EXCLUDED);
        left_out.schemas.push(ident(name));
        if name == "public" {
            for row in client.query(IN_PUBLIC, &[oid]).await? {
                seeds.push((row.try_get(0)?, row.try_get(1)?));
            }
        } else {
            seeds.push((namespaces, *oid));
        }
    }
    for relation in &chosen.tables {
        if !chosen.schemas.values().any(|name| *name == relation.schema) {
            left_out.omit("TABLE", &relation.schema, &relation.name, EXCLUDED);
            left_out.tables.push(qualified(&relation.schema, &relation.name));
        }
    }
    for (kind, relations) in [("TABLE DATA", &chosen.data), ("SEQUENCE SET", &chosen.positions)] {
        for relation in relations.iter().filter(|r| !chosen.schemas.values().any(|name| *name == r.schema)) {
            left_out.omit(kind, &relation.schema, &relation.name, EXCLUDED);
            left_out.data.push(qualified(&relation.schema, &relation.name));
        }
    }
    for Dependent { address, relation } in dependents(client, &seeds).await? {
        match relation {
            Some((_, schema_oid, ..)) if chosen.schemas.contains_key(&schema_oid) => {}
            // Without its rows it is no loss, and a partition is a part of what was named.
            Some((kind, _, schema, name, partition)) if kind.ends_with("VIEW") || partition => {
                left_out.omit(&kind, &schema, &name, DEPENDS_ON_OMITTED);
                left_out.tables.push(qualified(&schema, &name));
            }
            Some((_, _, schema, name, _)) => excluded.needed.push(Needs { schema, name }),
            None => drop(left_out.dependents.insert(address)),
        }
    }
    let rowless: Vec<u32> = chosen.data.iter().map(|relation| relation.oid).collect();
    left_out.dependents.extend(keys_to(client, &rowless).await?);
    Ok(excluded)
}

/// Foreign keys to rows that are not dumped.
async fn keys_to(client: &Client, rowless: &[u32]) -> Result<Vec<ObjectAddress>, Error> {
    if rowless.is_empty() {
        return Ok(Vec::new());
    }
    client.query(KEYS, &[&rowless]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

pub(super) async fn unreadable(client: &Client, unreadable: &Unreadable) -> Result<LeftOut, Error> {
    let mut left_out = LeftOut::default();
    for relation in &unreadable.relations {
        left_out.omit("TABLE", &relation.schema, &relation.name, NOT_READABLE);
        left_out.tables.push(qualified(&relation.schema, &relation.name));
    }
    for relation in &unreadable.positions {
        left_out.omit("SEQUENCE SET", &relation.schema, &relation.name, NOT_READABLE);
        left_out.data.push(qualified(&relation.schema, &relation.name));
    }
    for relation in &unreadable.hidden {
        left_out.omit("TABLE DATA", &relation.schema, &relation.name, ROW_SECURITY);
        left_out.data.push(qualified(&relation.schema, &relation.name));
    }
    if !unreadable.relations.is_empty() {
        let relations = class(client, "pg_class").await?;
        let seeds: Vec<ObjectAddress> = unreadable.relations.iter().map(|relation| (relations, relation.oid)).collect();
        for Dependent { address, relation } in dependents(client, &seeds).await? {
            match relation {
                Some((kind, _, schema, name, _)) => {
                    left_out.omit(&kind, &schema, &name, DEPENDS_ON_OMITTED);
                    left_out.tables.push(qualified(&schema, &name));
                }
                None => drop(left_out.dependents.insert(address)),
            }
        }
    }
    let hidden: Vec<u32> = unreadable.hidden.iter().map(|relation| relation.oid).collect();
    left_out.dependents.extend(keys_to(client, &hidden).await?);
    if unreadable.large_objects > 0 {
        let count = unreadable.large_objects;
        left_out.omit("BLOBS", "", &format!("all large objects: {count} cannot be read"), NOT_READABLE);
        left_out.large_objects = true;
    }
    Ok(left_out)
}

/// An archive's entry that cannot be restored without what was left out, for the annex.
pub fn dependent(kind: &str, schema: &str, name: &str) -> Omission {
    Omission { kind: kind.into(), schema: schema.into(), name: name.into(), reason: DEPENDS_ON_OMITTED.into() }
}
