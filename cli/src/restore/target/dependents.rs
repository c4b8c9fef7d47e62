//! What of the target depends on something else there, and would keep that from being dropped.

use tokio_postgres::Client;
use walwarden_contract::quote;
use walwarden_verifier::annex::Entry;

use crate::restore::plan::objects::Object;

/// Something that stands by itself and can be dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// What has an owner and rights of its own.
    Object(Object),
    /// Extension.
    Extension(String),
    /// Event trigger.
    EventTrigger(String),
}

impl Named {
    /// What an entry makes.
    pub fn of(entry: &Entry) -> Option<Self> {
        match entry.kind.as_str() {
            "EXTENSION" => Some(Self::Extension(entry.name.clone())),
            "EVENT TRIGGER" => Some(Self::EventTrigger(entry.name.clone())),
            _ => Object::of(entry).map(Self::Object),
        }
    }

    /// A table, view, materialized view or foreign table.
    pub fn relation(schema: &str, name: &str) -> Self {
        Self::Object(Object::Relation(schema.into(), name.into()))
    }

    fn read(row: &tokio_postgres::Row, at: usize) -> Self {
        let name = row.get(at + 2);
        match row.get(at) {
            "extension" => Self::Extension(name),
            "event trigger" => Self::EventTrigger(name),
            word => Self::Object(Object::named(word, row.get(at + 1), name)),
        }
    }

    /// Its schema, empty where it has none.
    pub fn schema(&self) -> &str {
        match self {
            Self::Object(object) => object.schema().unwrap_or_default(),
            _ => "",
        }
    }

    /// Its name; a routine's with its arguments, as an archive has it.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(object) => object.name(),
            Self::Extension(name) | Self::EventTrigger(name) => name,
        }
    }

    /// For people, unquoted.
    pub fn whole(&self) -> String {
        match self.schema() {
            "" => self.name().to_owned(),
            schema => format!("{schema}.{}", self.name()),
        }
    }
}

/// Something of the target that depends on something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// What it is, as in DROP or ALTER TABLE: `view`, `foreign key`, `trigger`, `column`, `child table` …
    pub kind: String,
    /// What it is part of, or itself.
    pub holder: Named,
    /// Its name within that; empty where it is that.
    pub part: String,
    /// What it depends on.
    pub on: Named,
    /// Whether the restoring role may drop it.
    pub ours: bool,
    /// Its OID in its catalogue; of a view the relation's.
    pub oid: u32,
}

impl Dependent {
    /// For people, unquoted.
    pub fn what(&self) -> String {
        let whole = self.holder.whole();
        match self.part.as_str() {
            "" => format!("{} {whole}", self.kind),
            part => format!("{} {part} of {whole}", self.kind),
        }
    }

    /// The statement that drops it, where no data and no other definition goes with it.
    pub fn drop_statement(&self) -> Option<String> {
        let (schema, name) = (self.holder.schema(), self.holder.name());
        let (whole, part) = (quote::qualified(schema, name), quote::ident(&self.part));
        Some(match self.kind.as_str() {
            "view" | "materialized view" => format!("DROP {} IF EXISTS {whole}", self.kind.to_uppercase()),
            "function" | "procedure" | "aggregate" => {
                // The arguments are the server's own, quoted by it.
                let (name, arguments) = name.split_once('(')?;
                format!("DROP {} IF EXISTS {}({arguments}", self.kind.to_uppercase(), quote::qualified(schema, name))
            }
            "foreign key" | "check" => format!("ALTER TABLE {whole} DROP CONSTRAINT IF EXISTS {part}"),
            "trigger" | "policy" | "rule" => {
                format!("DROP {} IF EXISTS {part} ON {whole}", self.kind.to_uppercase())
            }
            "default" => format!("ALTER TABLE {whole} ALTER COLUMN {part} DROP DEFAULT"),
            "index" => format!("DROP INDEX IF EXISTS {}", quote::qualified(schema, &self.part)),
            "event trigger" => format!("DROP EVENT TRIGGER IF EXISTS {}", quote::ident(name)),
            _ => return None,
        })
    }

    /// The statement that makes it again, as the server tells it; `None` where it does not.
    pub async fn definition(&self, client: &Client) -> Option<String> {
        let (schema, name) = (self.holder.schema(), self.holder.name());
        let (whole, part) = (quote::qualified(schema, name), quote::ident(&self.part));
        let (before, call) = match self.kind.as_str() {
            "view" => (format!("CREATE VIEW {whole} AS "), "pg_get_viewdef($1::oid)"),
            "materialized view" => (format!("CREATE MATERIALIZED VIEW {whole} AS "), "pg_get_viewdef($1::oid)"),
            "function" | "procedure" => (String::new(), "pg_get_functiondef($1::oid)"),
            "foreign key" | "check" => {
                (format!("ALTER TABLE {whole} ADD CONSTRAINT {part} "), "pg_get_constraintdef($1::oid)")
            }
            "trigger" => (String::new(), "pg_get_triggerdef($1::oid)"),
            "rule" => (String::new(), "pg_get_ruledef($1::oid)"),
            "index" => (String::new(), "pg_get_indexdef($1::oid)"),
            "default" => (
                format!("ALTER TABLE {whole} ALTER COLUMN {part} SET DEFAULT "),
                "(SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE oid = $1::oid)",
            ),
            _ => return None,
        };
        let row = client.query_one(&format!("SELECT {call}"), &[&self.oid]).await.ok()?;
        let text: Option<String> = row.try_get(0).ok()?;
        Some(format!("{before}{}", text?.trim_end().trim_end_matches(';')))
    }
}

/// Of `pg_depend` what keeps a DROP without CASCADE from happening, between objects that are not the system's; what is
/// part of something is told with that. Members of extensions stand for their extension.
const DEPENDENTS: &str = "
    WITH relations AS (
        SELECT c.oid, CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'relation' END AS kind,
               n.nspname::text AS schema, c.relname::text AS name, c.relkind, c.relowner AS owner
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c')),
    routines AS (
        SELECT p.oid, n.nspname::text AS schema, p.proowner AS owner,
               CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END AS what,
               p.proname || '(' || CASE WHEN p.prokind = 'a' AND p.pronargs = 0 THEN '*' ELSE coalesce((SELECT string_agg(
                   pg_catalog.format_type(t, NULL), ', ' ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, i)), '') END || ')' AS name
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid >= 16384),
    edges AS (
        SELECT DISTINCT d.classid, d.objid, d.refclassid, d.refobjid,
               CASE WHEN d.classid = 'pg_class'::regclass THEN d.objsubid ELSE 0 END AS column,
               r.ev_class AS of_rule, r.rulename::text AS rule, a.adrelid AS of_default, a.adnum,
               t.tgrelid AS of_trigger, t.tgname::text AS trigger, p.polrelid AS of_policy, p.polname::text AS policy,
               nullif(c.conrelid, 0) AS of_check, c.contypid AS of_domain, c.conname::text AS check,
               x.indrelid AS of_index, e.evtname::text AS event_trigger, e.evtowner, o.extname::text AS of_extension, o.extowner
          FROM pg_depend d
          LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
          LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
          LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid AND NOT t.tgisinternal
          LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
          LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid AND c.contype = 'c'
          LEFT JOIN pg_index x ON d.classid = 'pg_class'::regclass AND x.indexrelid = d.objid
          LEFT JOIN pg_event_trigger e ON d.classid = 'pg_event_trigger'::regclass AND e.oid = d.objid
          LEFT JOIN pg_extension o ON d.classid = 'pg_extension'::regclass AND o.oid = d.objid
         WHERE d.deptype = 'n' AND d.objid >= 16384 AND d.refobjid >= 16384
           AND (d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_extension'::regclass)
                OR EXISTS (SELECT FROM pg_depend m WHERE m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'))
           AND NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = d.classid AND m.objid = d.objid
              AND (m.deptype = 'e' OR m.deptype = 'i' AND m.classid IN ('pg_proc'::regclass, 'pg_type'::regclass)))),
    holders AS (
        SELECT e.classid, e.objid, e.refclassid, e.refobjid,
               CASE WHEN h.relkind = 'v' AND e.of_trigger IS NULL THEN 'view'
                    WHEN h.relkind = 'm' AND e.of_index IS NULL THEN 'materialized view'
                    WHEN e.of_rule IS NOT NULL THEN 'rule'
                    WHEN e.of_default IS NOT NULL THEN CASE WHEN EXISTS (SELECT FROM pg_attribute
                        WHERE attrelid = e.of_default AND attnum = e.adnum AND attgenerated <> '') THEN 'column' ELSE 'default' END
                    WHEN e.of_trigger IS NOT NULL THEN 'trigger' WHEN e.of_policy IS NOT NULL THEN 'policy'
                    WHEN e.of_check IS NOT NULL THEN 'check' WHEN e.of_index IS NOT NULL THEN 'index'
                    WHEN e.event_trigger IS NOT NULL THEN 'event trigger'
                    WHEN e.of_extension IS NOT NULL THEN 'extension' WHEN p.oid IS NOT NULL THEN p.what
                    WHEN e.classid = 'pg_class'::regclass AND e.refclassid = 'pg_class'::regclass AND e.column = 0 THEN 'child table'
                    WHEN h.oid IS NOT NULL AND h.relkind <> 'c' THEN 'column'
                    ELSE 'type' END AS what,
               CASE WHEN e.event_trigger IS NOT NULL THEN 'event trigger' WHEN e.of_extension IS NOT NULL THEN 'extension'
                    WHEN p.oid IS NOT NULL THEN 'routine'
                    WHEN h.oid IS NOT NULL THEN h.kind ELSE 'type' END AS kind,
               coalesce(h.schema, p.schema, tn.nspname::text, '') AS schema,
               coalesce(e.event_trigger, e.of_extension, h.name, p.name, ty.typname::text) AS name,
               CASE WHEN h.relkind IN ('v', 'm') AND e.of_trigger IS NULL AND e.of_index IS NULL THEN ''
                    WHEN e.of_index IS NOT NULL THEN (SELECT relname::text FROM pg_class WHERE oid = e.objid)
                    WHEN e.column <> 0 AND h.relkind <> 'c' OR e.of_default IS NOT NULL THEN coalesce(
                        (SELECT attname::text FROM pg_attribute
                          WHERE attrelid = h.oid AND attnum = coalesce(e.adnum::int, e.column)), '')
                    ELSE coalesce(e.rule, e.trigger, e.policy, e.check, '') END AS part,
               coalesce(h.owner, p.owner, ty.typowner, e.evtowner, e.extowner) AS owner, h.oid AS relation
          FROM edges e
          LEFT JOIN relations h ON h.oid = coalesce(e.of_rule, e.of_default, e.of_trigger, e.of_policy, e.of_check, e.of_index,
                                                   CASE e.classid WHEN 'pg_class'::regclass THEN e.objid END)
          LEFT JOIN routines p ON e.classid = 'pg_proc'::regclass AND p.oid = e.objid
          LEFT JOIN pg_type ty ON ty.oid = coalesce(nullif(e.of_domain, 0), CASE e.classid WHEN 'pg_type'::regclass THEN e.objid END)
          LEFT JOIN pg_namespace tn ON tn.oid = ty.typnamespace),
    named AS (
        SELECT h.*, x.extname::text AS extension, coalesce(rel.kind, tr.kind) AS on_relation_kind,
               coalesce(rel.schema, tr.schema) AS on_relation_schema, coalesce(rel.name, tr.name) AS on_relation,
               coalesce(rel.oid, tr.oid) AS on_oid, r.schema AS on_routine_schema, r.name AS on_routine,
               bn.nspname::text AS on_type_schema, pt.typname::text AS on_type
          FROM holders h
          LEFT JOIN pg_depend m ON m.classid = h.refclassid AND m.objid = h.refobjid AND m.deptype = 'e'
          LEFT JOIN pg_extension x ON x.oid = CASE h.refclassid WHEN 'pg_extension'::regclass THEN h.refobjid
                   ELSE CASE m.refclassid WHEN 'pg_extension'::regclass THEN m.refobjid END END
          LEFT JOIN relations rel ON h.refclassid = 'pg_class'::regclass AND rel.oid = h.refobjid
          LEFT JOIN routines r ON h.refclassid = 'pg_proc'::regclass AND r.oid = h.refobjid
          LEFT JOIN pg_type t ON h.refclassid = 'pg_type'::regclass AND t.oid = h.refobjid
          LEFT JOIN pg_type pt ON pt.oid = CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE t.oid END
          LEFT JOIN relations tr ON tr.oid = nullif(pt.typrelid, 0)
          LEFT JOIN pg_namespace bn ON bn.oid = pt.typnamespace)
    SELECT DISTINCT what, kind, schema, name, part,
           CASE WHEN extension IS NOT NULL THEN 'extension'
                WHEN on_relation IS NOT NULL THEN on_relation_kind WHEN on_routine IS NOT NULL THEN 'routine' ELSE 'type' END,
           CASE WHEN extension IS NOT NULL THEN '' ELSE coalesce(on_relation_schema, on_routine_schema, on_type_schema) END,
           coalesce(extension, on_relation, on_routine, on_type),
           pg_has_role(current_user, owner, 'USAGE'),
           CASE WHEN what IN ('view', 'materialized view') THEN relation ELSE objid END
      FROM named
     WHERE name IS NOT NULL AND coalesce(extension, on_relation, on_routine, on_type) IS NOT NULL
       AND (relation IS NULL OR on_oid IS NULL OR relation <> on_oid)
    UNION ALL
    SELECT 'foreign key', 'relation', fn.nspname::text, f.relname::text, c.conname::text, 'relation', tn.nspname::text,
           t.relname::text, pg_has_role(current_user, f.relowner, 'USAGE'), c.oid
      FROM pg_constraint c JOIN pg_class f ON f.oid = c.conrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
      JOIN pg_class t ON t.oid = c.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
     WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid <> c.confrelid
     ORDER BY 1, 3, 4, 5, 6, 7, 8";

/// Asks the connected database.
pub(super) async fn read(client: &Client) -> Result<Vec<Dependent>, tokio_postgres::Error> {
    client.batch_execute("SET search_path = ''").await?;
    let rows = client.query(DEPENDENTS, &[]).await?;
    client.batch_execute("RESET search_path").await?;
    let dependent = |row: &tokio_postgres::Row| Dependent {
        kind: row.get(0),
        holder: Named::read(row, 1),
        part: row.get(4),
        on: Named::read(row, 5),
        ours: row.get(8),
        oid: row.get(9),
    };
    Ok(rows.iter().map(dependent).collect())
}
