//! What of the source a backup is asked not to take, found in its catalogue.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio_postgres::{Client, Error};
use walwarden_contract::selection::{self, Preset, Selection};

use super::{
    omit,
    readable::{Relation, Unreadable},
    text::Columns,
};

/// The schemas that pg_dump dumps (`selectDumpableNamespace` in `pg_dump.c`).
const SCHEMAS: &str = "
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY nspname";

/// What a selection can name, with the partitioned table that each is a partition of.
const RELATIONS: &str = "
    SELECT c.oid, n.nspname, c.relname,
           (SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid AND c.relispartition), c.relkind = 'S'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY n.nspname, c.relname";

/// Which sequences belong to columns of which tables.
const OWNED: &str = "
    SELECT objid, refobjid FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjsubid > 0
      AND deptype IN ('a', 'i') AND objid IN (SELECT oid FROM pg_class WHERE relkind = 'S')";

/// What is not taken.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Schemas, by OID.
    pub schemas: BTreeMap<u32, String>,
    /// Tables, views and foreign tables, with the partitions of what is partitioned.
    pub tables: Vec<Relation>,
    /// Tables of which the rows are not taken.
    pub data: Vec<Relation>,
    /// Sequences of which the position is not taken.
    pub positions: Vec<Relation>,
    /// Names that exclude nothing, for nothing is called so.
    pub idle: Vec<String>,
    /// Schemas that were to be taken and do not exist.
    pub missing: Vec<String>,
}

impl Chosen {
    pub(super) async fn read(client: &Client, selection: &Selection) -> Result<Self, Error> {
        let mut chosen = Self::default();
        if selection.is_everything() {
            return Ok(chosen);
        }
        let mut schemas = BTreeMap::new();
        for row in client.query(SCHEMAS, &[]).await? {
            schemas.insert(row.text(1)?, row.try_get::<_, u32>(0)?);
        }
        let name = |text: &String| selection::parse(text).ok().and_then(|parts| parts.into_iter().next());
        for text in &selection.exclude_schemas {
            match name(text).and_then(|name| Some((*schemas.get(&name)?, name))) {
                Some((oid, name)) => drop(chosen.schemas.insert(oid, name)),
                None => chosen.idle.push(format!("excludeSchemas: {text}")),
            }
        }
        if !selection.schemas.is_empty() {
            let taken: BTreeSet<String> = selection.schemas.iter().filter_map(name).collect();
            chosen.missing = taken.iter().filter(|name| !schemas.contains_key(*name)).cloned().collect();
            let others = schemas.iter().filter(|(name, _)| !taken.contains(*name));
            chosen.schemas.extend(others.map(|(name, oid)| (*oid, name.clone())));
        }
        if selection.exclude_tables.is_empty() && selection.exclude_table_data.is_empty() {
            return Ok(chosen);
        }
        let (mut relations, mut sequences) = (Vec::new(), HashSet::new());
        for row in client.query(RELATIONS, &[]).await? {
            let relation = Relation { oid: row.try_get(0)?, schema: row.text(1)?, name: row.text(2)? };
            if row.try_get(4)? {
                sequences.insert(relation.oid);
            }
            relations.push((relation, row.try_get::<_, Option<u32>>(3)?));
        }
        let data = named(&relations, &selection.exclude_table_data, "excludeTableData", &mut chosen.idle);
        (chosen.positions, chosen.data) = data.into_iter().partition(|relation| sequences.contains(&relation.oid));
        relations.retain(|(relation, _)| !sequences.contains(&relation.oid));
        chosen.tables = named(&relations, &selection.exclude_tables, "excludeTables", &mut chosen.idle);
        let gone: HashSet<u32> = chosen.tables.iter().map(|relation| relation.oid).collect();
        chosen.data.retain(|relation| !gone.contains(&relation.oid));
        Ok(chosen)
    }

    /// Whether everything is taken.
    pub fn is_nothing(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty() && self.data.is_empty() && self.positions.is_empty()
    }

    /// Takes out of what cannot be read what need not be.
    pub(super) async fn excuse(&self, client: &Client, unreadable: &mut Unreadable) -> Result<(), Error> {
        if self.is_nothing() || unreadable.is_empty() {
            return Ok(());
        }
        let mut gone: HashSet<u32> = self.tables.iter().map(|relation| relation.oid).collect();
        if !gone.is_empty() {
            let mut owned = Vec::new();
            for row in client.query(OWNED, &[]).await? {
                owned.push((row.try_get::<_, u32>(0)?, row.try_get::<_, u32>(1)?));
            }
            let theirs: Vec<u32> = owned.iter().filter(|(_, t)| gone.contains(t)).map(|(s, _)| *s).collect();
            gone.extend(theirs);
        }
        gone.extend(self.positions.iter().map(|relation| relation.oid));
        let schemas: HashSet<&str> = self.schemas.values().map(String::as_str).collect();
        let rowless: HashSet<u32> = self.data.iter().map(|relation| relation.oid).collect();
        unreadable.forget(|relation| schemas.contains(relation.schema.as_str()) || gone.contains(&relation.oid));
        unreadable.forget_rows(|relation| rowless.contains(&relation.oid));
        Ok(())
    }
}

/// Those that are named, and their partitions.
fn named(
    relations: &[(Relation, Option<u32>)],
    names: &[String],
    field: &str,
    idle: &mut Vec<String>,
) -> Vec<Relation> {
    let mut wanted: BTreeSet<(String, String)> = BTreeSet::new();
    for text in names {
        match selection::parse(text).as_deref() {
            Ok([schema, name]) if relations.iter().any(|(r, _)| r.schema == *schema && r.name == *name) => {
                wanted.insert((schema.clone(), name.clone()));
            }
            _ => idle.push(format!("{field}: {text}")),
        }
    }
    let is_named = |r: &Relation| wanted.contains(&(r.schema.clone(), r.name.clone()));
    let mut found: HashSet<u32> = relations.iter().filter(|(r, _)| is_named(r)).map(|(r, _)| r.oid).collect();
    loop {
        let before = found.len();
        let partitions = relations.iter().filter(|(_, of)| of.is_some_and(|of| found.contains(&of)));
        let partitions: Vec<u32> = partitions.map(|(r, _)| r.oid).collect();
        found.extend(partitions);
        if found.len() == before {
            break;
        }
    }
    relations.iter().filter(|(r, _)| found.contains(&r.oid)).map(|(r, _)| r.clone()).collect()
}

/// A platform that is recognised by what it puts into each of its databases: its name, a role that only it has, a schema
/// of its own where it always has one, and schemas that hold its own workings. Not among them is what holds customers'
/// rows (Supabase's `auth`, `storage`, `vault`, `supabase_migrations`) or their extensions.
struct Platform {
    name: &'static str,
    role: &'static str,
    schema: Option<&'static str>,
    internal: &'static [&'static str],
}

/// After what Supabase's CLI leaves out of its own dumps, and Neon's documentation.
const PLATFORMS: [Platform; 2] = [
    Platform {
        name: "supabase",
        role: "supabase_admin",
        schema: Some("auth"),
        internal: &[
            "_analytics",
            "_realtime",
            "_supavisor",
            "etl",
            "graphql",
            "graphql_public",
            "net",
            "pgbouncer",
            "pgsodium",
            "pgsodium_masks",
            "pgtle",
            "realtime",
            "repack",
            "supabase_functions",
        ],
    },
    Platform {
        name: "neon",
        role: "neon_superuser",
        schema: None,
        internal: &["neon", "neon_control_plane", "neon_migration"],
    },
];

/// A selection that suits the platform the database is on, where that is known: without its workings, as far as nothing
/// of the customer's needs them; that may be everything.
pub(super) async fn preset(client: &Client) -> Result<Option<Preset>, Error> {
    let mut schemas = BTreeMap::new();
    for row in client.query(SCHEMAS, &[]).await? {
        schemas.insert(row.text(1)?, row.try_get::<_, u32>(0)?);
    }
    for platform in &PLATFORMS {
        let exists = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
        let known: bool = client.query_one(exists, &[&platform.role]).await?.try_get(0)?;
        if !known || platform.schema.is_some_and(|name| !schemas.contains_key(name)) {
            continue;
        }
        let mut excluded = Chosen::default();
        for name in platform.internal {
            let Some(oid) = schemas.get(*name) else { continue };
            excluded.schemas.insert(*oid, (*name).to_owned());
        }
        // Some of them may be needed; without those the rest may be as well.
        while !excluded.schemas.is_empty() {
            let mut needed = Vec::new();
            for (oid, name) in &excluded.schemas {
                let alone = Chosen { schemas: BTreeMap::from([(*oid, name.clone())]), ..Chosen::default() };
                let outside = omit::excluded(client, &alone).await?;
                let elsewhere = |named: &omit::Needs| !excluded.schemas.values().any(|name| *name == named.schema);
                if outside.needed.iter().any(elsewhere) {
                    needed.push(*oid);
                }
            }
            if needed.is_empty() {
                break;
            }
            excluded.schemas.retain(|oid, _| !needed.contains(oid));
        }
        let names = excluded.schemas.values().map(|name| selection::write(&[name.as_str()]));
        let mut exclude_schemas: Vec<String> = names.collect();
        exclude_schemas.sort_unstable();
        let selection = Selection { exclude_schemas, ..Selection::default() };
        return Ok(Some(Preset { name: platform.name.into(), selection }));
    }
    Ok(None)
}
