//! What the role cannot read and pg_dump would have to. pg_dump fails at the first such object; here all are named, with
//! the GRANT to run.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Error};
use walwarden_contract::quote::{ident, qualified};

use super::text::Columns;

/// Objects of one kind that are listed one by one; more are told as a number.
const LISTED: usize = 20;

/// What pg_dump would lock or read (`selectDumpableTable`, `checkExtensionMembership` and `getTables` in `pg_dump.c`):
/// tables and sequences outside of the system's schemas, an extension's only where their rows are the user's.
const RELATIONS: &str = "
    SELECT n.nspname, c.relname, c.relkind::text,
           has_schema_privilege(n.oid, 'USAGE'),
           has_table_privilege(c.oid, 'SELECT'),
           c.relrowsecurity AND c.relkind = 'r' AND row_security_active(c.oid), c.oid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
           OR c.oid IN (SELECT unnest(extconfig) FROM pg_extension))
      AND (NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT')
           OR c.relrowsecurity AND c.relkind = 'r' AND row_security_active(c.oid))
    ORDER BY n.nspname, c.relname";

/// Large objects know no pg_read_all_data: owner, grantee or superuser.
const LARGE_OBJECTS: &str = "
    SELECT count(*) FROM pg_largeobject_metadata m
    WHERE current_setting('lo_compat_privileges') = 'off'
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
      AND NOT pg_has_role(m.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))";

/// A table or sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// OID.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
}

/// A relation that cannot be read, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    relation: Relation,
    is_sequence: bool,
    /// Its schema can be used.
    usable: bool,
    readable: bool,
    /// Row security hides rows of it.
    hidden: bool,
}

/// What the role cannot read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    all: Vec<Found>,
    /// Schemas without USAGE that hold something to dump.
    pub schemas: BTreeSet<String>,
    /// Tables without SELECT, by schema.
    pub tables: BTreeMap<String, Vec<String>>,
    /// Sequences without SELECT, by schema.
    pub sequences: BTreeMap<String, Vec<String>>,
    /// Tables of which row security hides rows: schema, name.
    pub row_security: Vec<(String, String)>,
    /// Large objects.
    pub large_objects: u64,
    /// Tables that cannot be dumped at all: no SELECT, or no USAGE of their schema.
    pub relations: Vec<Relation>,
    /// Sequences of which the position cannot be read, for the same reasons.
    pub positions: Vec<Relation>,
    /// Tables that can be dumped but for their rows.
    pub hidden: Vec<Relation>,
}

pub(super) async fn read(client: &Client) -> Result<Unreadable, Error> {
    let mut unreadable = Unreadable::default();
    for row in client.query(RELATIONS, &[]).await? {
        // Null where the relation was dropped this moment: pg_dump will tell.
        let may = |column| row.try_get::<_, Option<bool>>(column).map(|may| may.unwrap_or(true));
        unreadable.all.push(Found {
            relation: Relation { oid: row.try_get(6)?, schema: row.text(0)?, name: row.text(1)? },
            is_sequence: row.text(2)? == "S",
            usable: may(3)?,
            readable: may(4)?,
            hidden: row.try_get::<_, Option<bool>>(5)? == Some(true),
        });
    }
    unreadable.sort_out();
    let count: i64 = client.query_one(LARGE_OBJECTS, &[]).await?.try_get(0)?;
    unreadable.large_objects = count.unsigned_abs();
    Ok(unreadable)
}

impl Unreadable {
    fn sort_out(&mut self) {
        let all: Vec<Found> = std::mem::take(&mut self.all)
            .into_iter()
            .filter(|found| !found.usable || !found.readable || found.hidden)
            .collect();
        *self = Self { large_objects: self.large_objects, ..Self::default() };
        for Found { relation, is_sequence, usable, readable, hidden } in &all {
            let (schema, name) = (relation.schema.clone(), relation.name.clone());
            if !usable {
                self.schemas.insert(schema.clone());
            }
            if *hidden {
                self.row_security.push((schema.clone(), name.clone()));
            }
            match (*usable && *readable, is_sequence) {
                (false, true) => self.positions.push(relation.clone()),
                (false, false) => self.relations.push(relation.clone()),
                (true, _) => self.hidden.push(relation.clone()),
            }
            if !readable {
                let by_schema = if *is_sequence { &mut self.sequences } else { &mut self.tables };
                by_schema.entry(schema).or_default().push(name);
            }
        }
        self.all = all;
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes out what need not be read.
    pub(super) fn forget(&mut self, of_no_matter: impl Fn(&Relation) -> bool) {
        self.all.retain(|found| !of_no_matter(&found.relation));
        self.sort_out();
    }

    /// Takes out tables of which no rows need be read.
    pub(super) fn forget_rows(&mut self, of_no_matter: impl Fn(&Relation) -> bool) {
        for found in self.all.iter_mut().filter(|found| of_no_matter(&found.relation)) {
            found.hidden = false;
        }
        self.sort_out();
    }

    /// One problem a line, each with what to run. `role` is who dumps.
    pub fn problems(&self, role: &str) -> Vec<String> {
        let role = ident(role);
        let mut problems = Vec::new();
        for schema in &self.schemas {
            let schema = ident(schema);
            problems.push(format!("schema {schema} cannot be used: GRANT USAGE ON SCHEMA {schema} TO {role};"));
        }
        for (kind, by_schema) in [("TABLE", &self.tables), ("SEQUENCE", &self.sequences)] {
            let word = kind.to_lowercase();
            for (schema, names) in by_schema {
                if names.len() > LISTED {
                    let (count, schema) = (names.len(), ident(schema));
                    problems.push(format!(
                        "{count} {word}s of schema {schema} cannot be read: \
                         GRANT SELECT ON ALL {kind}S IN SCHEMA {schema} TO {role};"
                    ));
                    continue;
                }
                for name in names {
                    let name = qualified(schema, name);
                    problems.push(format!("{word} {name} cannot be read: GRANT SELECT ON {kind} {name} TO {role};"));
                }
            }
        }
        for (schema, name) in self.row_security.iter().take(LISTED) {
            let name = qualified(schema, name);
            problems.push(format!("row security hides rows of table {name}: ALTER ROLE {role} BYPASSRLS;"));
        }
        if self.row_security.len() > LISTED {
            let more = self.row_security.len() - LISTED;
            problems.push(format!("row security hides rows of {more} more tables: ALTER ROLE {role} BYPASSRLS;"));
        }
        if self.large_objects > 0 {
            let count = self.large_objects;
            problems.push(format!(
                "{count} large objects cannot be read: GRANT SELECT ON LARGE OBJECT … TO {role}, \
                 or back up as their owner"
            ));
        }
        problems
    }

    /// All in one line, short.
    pub fn summary(&self) -> String {
        let tables = self
            .tables
            .iter()
            .chain(&self.sequences)
            .flat_map(|(schema, names)| names.iter().map(move |name| qualified(schema, name)));
        let rows = self.row_security.iter().map(|(schema, name)| format!("{} (row security)", qualified(schema, name)));
        let schemas = self.schemas.iter().map(|schema| format!("schema {}", ident(schema)));
        let large_objects = (self.large_objects > 0).then(|| format!("{} large objects", self.large_objects));
        let all: Vec<String> = schemas.chain(tables).chain(rows).chain(large_objects).collect();
        let shown = all.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        match all.len() {
            0..=5 => format!("cannot read {shown}"),
            more => format!("cannot read {} objects, among them {shown}", more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_with_the_grant_to_run() {
        let mut unreadable = Unreadable { large_objects: 2, ..Unreadable::default() };
        unreadable.schemas.insert("a\"b".into());
        unreadable.tables.insert("public".into(), vec!["t".into()]);
        unreadable.tables.insert("many".into(), (0..=LISTED).map(|n| n.to_string()).collect());
        unreadable.sequences.insert("public".into(), vec!["s".into()]);
        unreadable.row_security.push(("public".into(), "r".into()));
        let problems = unreadable.problems("dumper");
        assert_eq!(
            problems,
            [
                r#"schema "a""b" cannot be used: GRANT USAGE ON SCHEMA "a""b" TO "dumper";"#,
                r#"21 tables of schema "many" cannot be read: GRANT SELECT ON ALL TABLES IN SCHEMA "many" TO "dumper";"#,
                r#"table "public"."t" cannot be read: GRANT SELECT ON TABLE "public"."t" TO "dumper";"#,
                r#"sequence "public"."s" cannot be read: GRANT SELECT ON SEQUENCE "public"."s" TO "dumper";"#,
                r#"row security hides rows of table "public"."r": ALTER ROLE "dumper" BYPASSRLS;"#,
                "2 large objects cannot be read: GRANT SELECT ON LARGE OBJECT … TO \"dumper\", or back up as their owner",
            ]
        );
        assert!(unreadable.summary().starts_with("cannot read 26 objects, among them schema"));
        assert!(Unreadable::default().is_empty());
    }
}
