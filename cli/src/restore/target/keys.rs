//! Foreign keys between what a restore in place loads again and what stays as it is: rows may refer to others that are
//! gone by now, or that were not there yet. They are the archive's keys: the target may have lost some with their table.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Client;
use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Entry, Table},
    ids::shown,
};

use super::{Target, facts::Facts};
use crate::{
    failure::Failure,
    format,
    restore::{plan::objects::Object, prove},
};

/// Tables with more bytes of COPY text are counted and not compared; and so are those that do not fit into the second, the
/// largest first.
const COMPARED_BYTES: u64 = 64 << 20;
const ALL_COMPARED_BYTES: u64 = 256 << 20;
/// From this version on a partitioned table's key may be NOT VALID, and keys may be NOT ENFORCED.
const PARTITIONED_SINCE: u32 = 18;

/// Schema and name.
type Name = (String, String);

/// A foreign key of the backup, one of whose tables stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its entry.
    pub dump_id: i64,
    /// Schema of the table that has it.
    pub schema: String,
    /// That table.
    pub table: String,
    /// The constraint.
    pub name: String,
    /// The table it refers to.
    pub references: Name,
    /// Whether the table that has it stays, and the other one is loaded again.
    pub from_what_stays: bool,
    /// Its columns and those they refer to, where the target has the key.
    pub columns: Vec<(String, String)>,
    /// Whether the server could make it NOT VALID.
    pub may_be_not_valid: bool,
    /// Whether the restoring role may make a key to that table.
    pub may_refer: bool,
    /// The rows it refers to, now and at the backup.
    pub rows: Rows,
}

/// Rows of a table, compared with those in the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// The same.
    Same,
    /// Others.
    Changed(String),
    /// Not known, and why.
    Unknown(String),
}

impl Key {
    /// The query for rows that refer to none.
    pub fn orphans_query(&self) -> Option<String> {
        let pairs = self.columns.iter();
        let equal: Vec<String> =
            pairs.clone().map(|(own, other)| format!("r.{} = t.{}", quote::ident(other), quote::ident(own))).collect();
        let set: Vec<String> = pairs.map(|(own, _)| format!("t.{} IS NOT NULL", quote::ident(own))).collect();
        (!set.is_empty()).then(|| {
            format!(
                "SELECT * FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} r WHERE {});",
                quote::qualified(&self.schema, &self.table),
                set.join(" AND "),
                quote::qualified(&self.references.0, &self.references.1),
                equal.join(" AND ")
            )
        })
    }

    /// The statement that checks the rows that are there.
    pub fn validate_statement(&self) -> String {
        format!(
            "ALTER TABLE {} VALIDATE CONSTRAINT {};",
            quote::qualified(&self.schema, &self.table),
            quote::ident(&self.name)
        )
    }
}

/// A key that the target has.
struct There {
    oid: u32,
    references: Name,
    partitioned: bool,
    enforced: bool,
}

/// Of the target's keys by schema, table and name.
async fn there(client: &Client, facts: &Facts) -> Result<HashMap<(String, String, String), There>, Failure> {
    let enforced = if facts.major() >= PARTITIONED_SINCE { "k.conenforced" } else { "true" };
    let query = format!(
        "SELECT n.nspname::text, c.relname::text, k.conname::text, k.oid, fn.nspname::text, f.relname::text, c.relkind = 'p', {enforced}
           FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
          WHERE k.contype = 'f' AND k.conparentid = 0"
    );
    let rows = client.query(&query, &[]).await.map_err(super::facts::query_failed)?;
    let key = |row: &tokio_postgres::Row| {
        let there = There {
            oid: row.get(3),
            references: (row.get(4), row.get(5)),
            partitioned: row.get(6),
            enforced: row.get(7),
        };
        ((row.get(0), row.get(1), row.get(2)), there)
    };
    Ok(rows.iter().map(key).collect())
}

/// The tables of a key's entry: its own, and the one it refers to, which is not known where the backup is without it.
fn tables<'a>(entry: &'a Entry, by_id: &HashMap<i64, &'a Entry>) -> Option<(&'a Entry, Option<&'a Entry>)> {
    let mut own = None;
    let mut other = None;
    for needed in entry.dependencies.iter().filter_map(|id| by_id.get(id).copied()) {
        let is_own = |table: &Entry| {
            table.schema == entry.schema
                && entry.name.strip_prefix(&table.name).is_some_and(|rest| rest.starts_with(' '))
        };
        match needed.kind.as_str() {
            "TABLE" if is_own(needed) && own.is_none() => own = Some(needed),
            "TABLE" => other = Some(needed),
            // What makes the columns that it refers to unique.
            "CONSTRAINT" | "INDEX" => {
                let of = needed.dependencies.iter().filter_map(|id| by_id.get(id).copied());
                let of = of
                    .filter(|of| of.kind == "TABLE")
                    .find(|of| own.is_none_or(|own: &Entry| own.dump_id != of.dump_id));
                other = other.or(of);
            }
            _ => {}
        }
    }
    own.map(|own| (own, other))
}

/// Keys of the backup between a table that stays and one that does not.
pub async fn read(target: &Target, client: &Client, annex: &Annex, facts: &Facts) -> Result<Vec<Key>, Failure> {
    let entries: Vec<&Entry> = annex.entries.iter().filter(|entry| entry.kind == "FK CONSTRAINT").collect();
    let inside = &facts.inside;
    if entries.is_empty() || inside.foreign.is_empty() && inside.rowless.is_empty() && annex.omissions.is_empty() {
        return Ok(Vec::new());
    }
    let by_id: HashMap<i64, &Entry> = annex.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
    let archived = annex.entries.iter().filter(|entry| entry.kind == "TABLE");
    let archived: BTreeSet<(&str, &str)> = archived.map(|e| (e.schema.as_str(), e.name.as_str())).collect();
    let stays = |name: &Name| {
        let object = Object::Relation(name.0.clone(), name.1.clone());
        inside.foreign.contains(&object)
            || inside.rowless.contains(&object)
            || !archived.contains(&(name.0.as_str(), name.1.as_str()))
    };
    let there = there(client, facts).await?;
    let with_rows: BTreeSet<(&str, &str)> =
        annex.tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).collect();
    let mut keys = Vec::new();
    let mut oids = Vec::new();
    for entry in entries {
        let Some((own, other)) = tables(entry, &by_id) else { continue };
        let name = entry.name[own.name.len()..].trim_start_matches(' ').to_owned();
        let known = there.get(&(entry.schema.clone(), own.name.clone(), name.clone()));
        let references = match (other, known) {
            (Some(other), _) => (other.schema.clone(), other.name.clone()),
            (None, Some(known)) => known.references.clone(),
            (None, None) => continue,
        };
        let from_what_stays = stays(&(own.schema.clone(), own.name.clone()));
        if from_what_stays == stays(&references) || known.is_some_and(|known| !known.enforced) {
            continue;
        }
        // Of a table that is gone it is known by that: it has no rows of its own.
        let partitioned = known
            .map_or_else(|| !with_rows.contains(&(own.schema.as_str(), own.name.as_str())), |known| known.partitioned);
        oids.push(known.map(|known| known.oid));
        keys.push(Key {
            dump_id: entry.dump_id,
            schema: own.schema.clone(),
            table: own.name.clone(),
            name,
            references,
            from_what_stays,
            columns: Vec::new(),
            may_be_not_valid: !partitioned || facts.major() >= PARTITIONED_SINCE,
            may_refer: true,
            rows: Rows::Same,
        });
    }
    if keys.is_empty() {
        return Ok(keys);
    }
    columns(client, &oids, &mut keys).await?;
    let referenced: BTreeSet<&Name> = keys.iter().map(|key| &key.references).collect();
    let closed = closed(client, &referenced).await?;
    let rows = compared(target, client, annex, facts, &referenced).await?;
    for key in &mut keys {
        key.may_refer = key.from_what_stays || !closed.contains(&key.references);
        key.rows = rows.get(&key.references).cloned().unwrap_or(Rows::Same);
    }
    Ok(keys)
}

/// Columns of those that the target has.
async fn columns(client: &Client, oids: &[Option<u32>], keys: &mut [Key]) -> Result<(), Failure> {
    let query = "SELECT k.oid, a.attname::text, r.attname::text
                   FROM pg_constraint k, unnest(k.conkey, k.confkey) WITH ORDINALITY u (own, other, at),
                        pg_attribute a, pg_attribute r
                  WHERE k.oid = ANY($1) AND a.attrelid = k.conrelid AND a.attnum = own AND r.attrelid = k.confrelid
                    AND r.attnum = other ORDER BY k.oid, at";
    let known: Vec<u32> = oids.iter().copied().flatten().collect();
    let mut of: HashMap<u32, Vec<(String, String)>> = HashMap::new();
    for row in client.query(query, &[&known]).await.map_err(super::facts::query_failed)? {
        of.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    for (key, oid) in keys.iter_mut().zip(oids) {
        key.columns = oid.and_then(|oid| of.remove(&oid)).unwrap_or_default();
    }
    Ok(())
}

/// Those that the restoring role may not refer to.
async fn closed(client: &Client, names: &BTreeSet<&Name>) -> Result<BTreeSet<Name>, Failure> {
    let (schemas, tables): (Vec<&str>, Vec<&str>) = names.iter().map(|name| (name.0.as_str(), name.1.as_str())).unzip();
    let query = "SELECT n.nspname::text, c.relname::text FROM unnest($1::text[], $2::text[]) t (schema, name)
                   JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
                  WHERE NOT has_table_privilege(c.oid, 'REFERENCES') AND NOT has_any_column_privilege(c.oid, 'REFERENCES')";
    let rows = client.query(query, &[&schemas, &tables]).await.map_err(super::facts::query_failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The rows that tables have against those that they had.
async fn compared(
    target: &Target,
    client: &Client,
    annex: &Annex,
    facts: &Facts,
    names: &BTreeSet<&Name>,
) -> Result<BTreeMap<Name, Rows>, Failure> {
    let mut rows: BTreeMap<Name, Rows> = BTreeMap::new();
    let mut due: Vec<&Table> = Vec::new();
    let mut all: HashMap<(&str, &str), &Table> = HashMap::new();
    all.extend(annex.tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)));
    for name in names {
        match all.get(&(name.0.as_str(), name.1.as_str())) {
            Some(table) => due.push(table),
            None => {
                rows.insert((*name).clone(), Rows::Unknown("its rows are not in the backup".into()));
            }
        }
    }
    due.sort_by_key(|table| table.bytes);
    let mut sum = 0;
    let fits = |table: &&&Table| {
        sum += table.bytes;
        table.bytes <= COMPARED_BYTES && sum <= ALL_COMPARED_BYTES
    };
    let fit = due.iter().take_while(fits).count();
    for table in due.split_off(fit) {
        let count = format!("SELECT count(*) FROM {}", quote::qualified(&table.schema, &table.name));
        let found = match client.query_one(&count, &[]).await {
            Ok(row) => {
                let now = row.get::<_, i64>(0).unsigned_abs();
                match now == table.rows {
                    true => Rows::Unknown("as many rows as at the backup, too large to be compared beforehand".into()),
                    false => Rows::Changed(format!(
                        "{} instead of {}",
                        format::counted(now, "row"),
                        format::count(table.rows)
                    )),
                }
            }
            Err(error) => {
                Rows::Unknown(error.as_db_error().map_or_else(|| error.to_string(), |db| shown(db.message())))
            }
        };
        rows.insert((table.schema.clone(), table.name.clone()), found);
    }
    if due.is_empty() {
        return Ok(rows);
    }
    let only = Annex {
        header: annex.header.clone(),
        settings: annex.settings.clone(),
        database: annex.database.clone(),
        roles: Vec::new(),
        extensions: annex.extensions.clone(),
        entries: Vec::new(),
        tables: due.iter().map(|table| (*table).clone()).collect(),
        sequences: Vec::new(),
        large_objects: Vec::new(),
        omissions: Vec::new(),
    };
    let outcome = prove::rows(target, target.database(), &only, facts.lc_monetary_known).await?;
    let found = |found: &[(String, String)]| found.iter().cloned().collect::<HashMap<String, String>>();
    let (different, not_proven) = (found(&outcome.different), found(&outcome.not_proven));
    let label = |table: &Table| shown(&format!("{}.{}", table.schema, table.name));
    let labels: BTreeSet<String> = due.iter().map(|table| label(table)).collect();
    // What was said of several tables at once.
    let of_several = different.iter().chain(&not_proven).find(|(said_of, _)| !labels.contains(*said_of));
    for table in due {
        let label = label(table);
        let is = match (different.get(&label), not_proven.get(&label), of_several) {
            (Some(how), ..) => Rows::Changed(how.clone()),
            (None, Some(why), _) | (None, None, Some((_, why))) => Rows::Unknown(why.clone()),
            (None, None, None) => Rows::Same,
        };
        rows.insert((table.schema.clone(), table.name.clone()), is);
    }
    Ok(rows)
}
