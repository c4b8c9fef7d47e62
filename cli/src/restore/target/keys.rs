//! Foreign keys between what a restore in place loads again and what stays as it is: rows may refer to others that are
//! gone by now, or that were not there yet.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Table},
    ids::shown,
};

use super::{Target, facts::Facts};
use crate::{
    failure::Failure,
    format,
    restore::{plan::objects::Object, prove},
};

/// Tables with more bytes of COPY text are counted and not compared.
const COMPARED_BYTES: u64 = 64 << 20;

/// Schema and name.
type Name = (String, String);

/// A foreign key of the target, one of whose tables stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Schema of the table that has it.
    pub schema: String,
    /// That table.
    pub table: String,
    /// The constraint.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table it refers to.
    pub references: Name,
    /// Columns there.
    pub referenced: Vec<String>,
    /// What comes after ADD CONSTRAINT, as the server tells it.
    pub definition: String,
    /// Whether the server could make it NOT VALID: it cannot for a partitioned table.
    pub may_be_not_valid: bool,
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
    /// Its name in an archive.
    pub fn entry_name(&self) -> String {
        format!("{} {}", self.table, self.name)
    }

    /// The statement that makes it again without looking at the rows that are there.
    pub fn not_valid_statement(&self) -> String {
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID",
            quote::qualified(&self.schema, &self.table),
            quote::ident(&self.name),
            self.definition
        )
    }

    /// The query for rows that refer to none.
    pub fn orphans_query(&self) -> String {
        let pairs = self.columns.iter().zip(&self.referenced);
        let equal: Vec<String> =
            pairs.map(|(own, other)| format!("r.{} = t.{}", quote::ident(other), quote::ident(own))).collect();
        let set: Vec<String> = self.columns.iter().map(|own| format!("t.{} IS NOT NULL", quote::ident(own))).collect();
        format!(
            "SELECT * FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} r WHERE {});",
            quote::qualified(&self.schema, &self.table),
            set.join(" AND "),
            quote::qualified(&self.references.0, &self.references.1),
            equal.join(" AND ")
        )
    }
}

const KEYS: &str = "
    SELECT k.oid, n.nspname::text, c.relname::text, k.conname::text, fn.nspname::text, f.relname::text
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0
     ORDER BY 2, 3, 4";

const DETAILS: &str = "
    SELECT ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (number, at)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY at),
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (number, at)
                   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY at),
           pg_get_constraintdef(k.oid), c.relkind <> 'p'
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
     WHERE k.oid = $1";

/// Keys of the backup that the target has, too, between a table that stays and one that does not.
pub async fn read(target: &Target, client: &Client, annex: &Annex, facts: &Facts) -> Result<Vec<Key>, Failure> {
    let of_kind = |kinds: &'static [&'static str]| {
        let entries = annex.entries.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
        entries.map(|entry| (entry.schema.as_str(), entry.name.as_str())).collect::<BTreeSet<_>>()
    };
    let (in_backup, tables) = (of_kind(&["FK CONSTRAINT"]), of_kind(&["TABLE"]));
    let stays = |schema: &str, name: &str| {
        let object = Object::Relation(schema.into(), name.into());
        let inside = &facts.inside;
        inside.foreign.contains(&object) || inside.rowless.contains(&object) || !tables.contains(&(schema, name))
    };
    let failed = super::facts::query_failed;
    if in_backup.is_empty() {
        return Ok(Vec::new());
    }
    client.batch_execute("SET search_path = ''").await.map_err(failed)?;
    let mut keys = Vec::new();
    for row in client.query(KEYS, &[]).await.map_err(failed)? {
        let text = |at: usize| row.get::<_, String>(at);
        let (schema, table, name, references) = (text(1), text(2), text(3), (text(4), text(5)));
        let known = in_backup.contains(&(schema.as_str(), format!("{table} {name}").as_str()));
        if !known || stays(&schema, &table) == stays(&references.0, &references.1) {
            continue;
        }
        let Some(more) = client.query_opt(DETAILS, &[&row.get::<_, u32>(0)]).await.map_err(failed)? else { continue };
        keys.push(Key {
            schema,
            table,
            name,
            columns: more.get(0),
            references,
            referenced: more.get(1),
            // One that is NOT VALID on the target may have been valid at the backup.
            definition: more.get::<_, String>(2).trim_end_matches(" NOT VALID").to_owned(),
            may_be_not_valid: more.get(3),
            rows: Rows::Same,
        });
    }
    client.batch_execute("RESET search_path").await.map_err(failed)?;
    let mut known: BTreeMap<Name, Rows> = BTreeMap::new();
    for key in &mut keys {
        if !known.contains_key(&key.references) {
            let rows = compared(target, client, annex, facts, &key.references).await?;
            known.insert(key.references.clone(), rows);
        }
        key.rows.clone_from(&known[&key.references]);
    }
    Ok(keys)
}

/// The rows that a table has against those that it had.
async fn compared(
    target: &Target,
    client: &Client,
    annex: &Annex,
    facts: &Facts,
    name: &Name,
) -> Result<Rows, Failure> {
    let is_it = |table: &&Table| table.schema == name.0 && table.name == name.1;
    let Some(table) = annex.tables.iter().find(is_it) else {
        return Ok(Rows::Unknown("its rows are not in the backup".into()));
    };
    if table.bytes > COMPARED_BYTES {
        let count = format!("SELECT count(*) FROM {}", quote::qualified(&name.0, &name.1));
        let now = match client.query_one(&count, &[]).await {
            Ok(row) => row.get::<_, i64>(0).unsigned_abs(),
            Err(error) => {
                return Ok(Rows::Unknown(
                    error.as_db_error().map_or_else(|| error.to_string(), |db| shown(db.message())),
                ));
            }
        };
        return Ok(match now == table.rows {
            true => Rows::Unknown("as many rows as at the backup, too large to be compared beforehand".into()),
            false => Rows::Changed(format!("{} rows instead of {}", format::count(now), format::count(table.rows))),
        });
    }
    let only = Annex {
        header: annex.header.clone(),
        settings: annex.settings.clone(),
        database: annex.database.clone(),
        roles: Vec::new(),
        extensions: annex.extensions.clone(),
        entries: Vec::new(),
        tables: vec![table.clone()],
        sequences: Vec::new(),
        large_objects: Vec::new(),
        omissions: Vec::new(),
    };
    let outcome = prove::rows(target, target.database(), &only, facts.lc_monetary_known).await?;
    let first = |found: &[(String, String)]| found.first().map(|(_, what)| what.clone());
    Ok(match (first(&outcome.different), first(&outcome.not_proven)) {
        (Some(how), _) => Rows::Changed(how),
        (None, Some(why)) => Rows::Unknown(why),
        (None, None) => Rows::Same,
    })
}
