//! Objects of a restored database, as statements name them. What cannot be named from the annex alone (a routine, whose
//! arguments are written in more than one way) is looked up in the restored database.

use std::collections::BTreeMap;

use walwarden_contract::quote;
use walwarden_verifier::annex::Entry;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// Table, view, materialized view or foreign table.
    Relation(String, String),
    /// Sequence.
    Sequence(String, String),
    /// Function, procedure or aggregate: schema, and name with arguments as the archive has them.
    Routine(String, String),
    /// Type or domain.
    Type(String, String),
    /// Schema.
    Schema(String),
    /// Procedural language.
    Language(String),
    /// Foreign server.
    Server(String),
    /// Foreign-data wrapper.
    Wrapper(String),
    /// Large object, by its OID.
    Blob(String),
}

/// Routines of a restored database by schema and signature: how SQL names each.
pub type Routines = BTreeMap<(String, String), String>;

/// The statement for [`Routines`]: schema, signature as an entry of the routine has it and as one of its rights does, name
/// for SQL. Under an empty `search_path`.
pub const ROUTINES: &str = "SELECT n.nspname::text,
           p.proname || '(' || CASE WHEN p.prokind = 'a' AND p.pronargs = 0 THEN '*' ELSE coalesce((SELECT string_agg(
               pg_catalog.format_type(t, NULL), ', ' ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, i)), '') END || ')',
           p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
           p.oid::regprocedure::text
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema'";

/// The statement for sequences that belong to a column: schema and name.
pub const LINKED_SEQUENCES: &str = "SELECT n.nspname::text, c.relname::text
      FROM pg_depend d JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid <> 0
       AND d.deptype IN ('a', 'i') AND c.relkind = 'S'";

impl Object {
    /// What this entry makes, where it is something that has an owner and rights of its own.
    pub fn of(entry: &Entry) -> Option<Self> {
        let (schema, name) = (entry.schema.clone(), entry.name.clone());
        Some(match entry.kind.as_str() {
            "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => Self::Relation(schema, name),
            "SEQUENCE" => Self::Sequence(schema, name),
            "FUNCTION" | "PROCEDURE" | "AGGREGATE" => Self::Routine(schema, name),
            "TYPE" | "DOMAIN" => Self::Type(schema, name),
            "SCHEMA" => Self::Schema(name),
            "PROCEDURAL LANGUAGE" => Self::Language(name),
            "SERVER" => Self::Server(name),
            "FOREIGN DATA WRAPPER" => Self::Wrapper(name),
            "BLOB" | "BLOB METADATA" if name.parse::<u32>().is_ok() => Self::Blob(name),
            _ => return None,
        })
    }

    /// What a query of the catalogue calls `relation`, `sequence`, `routine`, `type`, `schema`, `server`, `wrapper` or `language`.
    pub fn named(word: &str, schema: String, name: String) -> Self {
        match word {
            "sequence" => Self::Sequence(schema, name),
            "routine" => Self::Routine(schema, name),
            "type" => Self::Type(schema, name),
            "schema" => Self::Schema(schema),
            "server" => Self::Server(name),
            "wrapper" => Self::Wrapper(name),
            "language" => Self::Language(name),
            _ => Self::Relation(schema, name),
        }
    }

    /// Its name, without a schema.
    pub fn name(&self) -> &str {
        match self {
            Self::Relation(_, name) | Self::Sequence(_, name) | Self::Routine(_, name) | Self::Type(_, name) => name,
            Self::Schema(name) | Self::Language(name) | Self::Server(name) | Self::Wrapper(name) | Self::Blob(name) => {
                name
            }
        }
    }

    /// The schema it is in.
    pub fn schema(&self) -> Option<&str> {
        match self {
            Self::Relation(schema, _)
            | Self::Sequence(schema, _)
            | Self::Routine(schema, _)
            | Self::Type(schema, _) => Some(schema),
            _ => None,
        }
    }

    /// Its name in SQL; `None` for a routine that is not there.
    pub fn sql(&self, routines: &Routines) -> Option<String> {
        Some(match self {
            Self::Relation(schema, name) | Self::Sequence(schema, name) | Self::Type(schema, name) => {
                quote::qualified(schema, name)
            }
            Self::Routine(schema, name) => routines.get(&(schema.clone(), name.clone()))?.clone(),
            Self::Schema(name) | Self::Language(name) | Self::Server(name) | Self::Wrapper(name) => quote::ident(name),
            Self::Blob(oid) => oid.clone(),
        })
    }

    /// Its kind in GRANT.
    pub fn grant_kind(&self) -> &'static str {
        match self {
            Self::Relation(..) => "TABLE",
            Self::Sequence(..) => "SEQUENCE",
            Self::Routine(..) => "ROUTINE",
            Self::Type(..) => "TYPE",
            Self::Schema(_) => "SCHEMA",
            Self::Language(_) => "LANGUAGE",
            Self::Server(_) => "FOREIGN SERVER",
            Self::Wrapper(_) => "FOREIGN DATA WRAPPER",
            Self::Blob(_) => "LARGE OBJECT",
        }
    }

    /// Its kind in ALTER … OWNER TO.
    pub fn alter_kind(&self) -> &'static str {
        match self {
            Self::Server(_) => "SERVER",
            other => other.grant_kind(),
        }
    }

    /// A privilege's word, by its letter in an ACL item (Postgres' documentation, "ACL Privilege Abbreviations").
    pub fn privilege(&self, letter: char) -> Option<&'static str> {
        Some(match (self, letter) {
            (Self::Relation(..) | Self::Sequence(..) | Self::Blob(_), 'r') => "SELECT",
            (Self::Relation(..) | Self::Sequence(..) | Self::Blob(_), 'w') => "UPDATE",
            (Self::Relation(..), 'a') => "INSERT",
            (Self::Relation(..), 'd') => "DELETE",
            (Self::Relation(..), 'D') => "TRUNCATE",
            (Self::Relation(..), 'x') => "REFERENCES",
            (Self::Relation(..), 't') => "TRIGGER",
            (Self::Relation(..), 'm') => "MAINTAIN",
            (Self::Routine(..), 'X') => "EXECUTE",
            (Self::Schema(_), 'C') => "CREATE",
            (
                Self::Sequence(..)
                | Self::Type(..)
                | Self::Schema(_)
                | Self::Language(_)
                | Self::Server(_)
                | Self::Wrapper(_),
                'U',
            ) => "USAGE",
            _ => return None,
        })
    }
}
