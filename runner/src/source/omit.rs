//! What a backup leaves out where it may go without what the role cannot read, and what cannot be restored without that:
//! a view of a table that is not there, a foreign key to rows that are not.

use std::collections::HashSet;

use tokio_postgres::{Client, Error};
use walwarden_contract::quote::qualified;
use walwarden_verifier::annex::Omission;

use super::{facts::ObjectAddress, readable::Unreadable, text::Columns};

/// Why something is not in an archive, as the annex says it.
const NOT_READABLE: &str = "notReadable";
const ROW_SECURITY: &str = "rowSecurity";
/// The reason of what is of no use without something that is left out.
pub const DEPENDS_ON_OMITTED: &str = "dependsOnOmitted";

/// Everything that depends on relations ($1), by `pg_depend`: views through their rules, children and partitions,
/// foreign keys, policies, functions with an SQL body, columns of their row types. Indexes, TOAST and sequences are not
/// looked at: the first two go with their table, a sequence stands by itself.
const DEPENDENTS: &str = "
    WITH RECURSIVE gone(classid, objid) AS (
        SELECT 'pg_class'::regclass::oid, relation FROM unnest($1::oid[]) relation
        UNION
        SELECT next.classid, next.objid FROM gone g CROSS JOIN LATERAL (
            SELECT d.classid, d.objid FROM pg_depend d
                WHERE d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype IN ('n', 'a', 'i', 'P', 'S')
            UNION ALL
            SELECT 'pg_class'::regclass::oid, r.ev_class
                FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
                WHERE g.classid = 'pg_rewrite'::regclass AND r.oid = g.objid
        ) next
        WHERE next.classid <> 'pg_class'::regclass
           OR EXISTS (SELECT FROM pg_class c WHERE c.oid = next.objid AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
    )
    SELECT g.classid, g.objid, n.nspname, c.relname,
           CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
                          ELSE 'TABLE' END
    FROM gone g
    LEFT JOIN pg_class c ON g.classid = 'pg_class'::regclass AND c.oid = g.objid
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid IS NULL OR c.oid <> ALL ($1::oid[])
    ORDER BY n.nspname, c.relname";

/// Foreign keys from tables whose rows are dumped to tables ($1) whose rows are not.
const KEYS: &str = "
    SELECT 'pg_constraint'::regclass::oid, oid FROM pg_constraint
    WHERE contype = 'f' AND confrelid = ANY ($1::oid[]) AND conrelid <> ALL ($1::oid[])";

/// What is left out.
#[derive(Debug, Default)]
pub struct LeftOut {
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

pub(super) async fn read(client: &Client, unreadable: &Unreadable) -> Result<LeftOut, Error> {
    let mut left_out = LeftOut::default();
    let mut omit = |kind: &str, schema: &str, name: &str, reason: &str| {
        let (kind, reason) = (kind.into(), reason.into());
        left_out.omissions.push(Omission { kind, schema: schema.into(), name: name.into(), reason });
    };
    for relation in &unreadable.relations {
        omit("TABLE", &relation.schema, &relation.name, NOT_READABLE);
        left_out.tables.push(qualified(&relation.schema, &relation.name));
    }
    for relation in &unreadable.positions {
        omit("SEQUENCE SET", &relation.schema, &relation.name, NOT_READABLE);
        left_out.data.push(qualified(&relation.schema, &relation.name));
    }
    for relation in &unreadable.hidden {
        omit("TABLE DATA", &relation.schema, &relation.name, ROW_SECURITY);
        left_out.data.push(qualified(&relation.schema, &relation.name));
    }
    let relations: Vec<u32> = unreadable.relations.iter().map(|relation| relation.oid).collect();
    if !relations.is_empty() {
        for row in client.query(DEPENDENTS, &[&relations]).await? {
            match (row.text_or_null(2)?, row.text_or_null(3)?) {
                (Some(schema), Some(name)) => {
                    omit(&row.text(4)?, &schema, &name, DEPENDS_ON_OMITTED);
                    left_out.tables.push(qualified(&schema, &name));
                }
                _ => drop(left_out.dependents.insert((row.try_get(0)?, row.try_get(1)?))),
            }
        }
    }
    let hidden: Vec<u32> = unreadable.hidden.iter().map(|relation| relation.oid).collect();
    if !hidden.is_empty() {
        for row in client.query(KEYS, &[&hidden]).await? {
            left_out.dependents.insert((row.try_get(0)?, row.try_get(1)?));
        }
    }
    if unreadable.large_objects > 0 {
        let count = unreadable.large_objects;
        omit("BLOBS", "", &format!("all large objects: {count} cannot be read"), NOT_READABLE);
        left_out.large_objects = true;
    }
    Ok(left_out)
}

/// An archive's entry that cannot be restored without what was left out, for the annex.
pub fn dependent(kind: &str, schema: &str, name: &str) -> Omission {
    Omission { kind: kind.into(), schema: schema.into(), name: name.into(), reason: DEPENDS_ON_OMITTED.into() }
}
