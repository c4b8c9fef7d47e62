//! What is compared with what: a table with itself, or all partitions that load through their root
//! with the root.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use walwarden_contract::quote;
use walwarden_verifier::{
    annex::{Annex, Table},
    ids::shown,
};

use super::columns;

/// Schema and name.
pub type Name = (String, String);

/// A relation of the target.
#[derive(Debug, Clone, Default)]
pub struct Relation {
    /// `pg_class.relkind`
    pub kind: String,
    /// Condition under which an extension says its rows are the user's; `None` where it is no configuration table.
    pub config_condition: Option<String>,
}

/// What the comparison needs to know of the restored database.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Its relations.
    pub relations: BTreeMap<Name, Relation>,
    /// Relations that would be written in another way than in the backup, and why.
    pub unreadable: BTreeMap<Name, String>,
    /// Relations below each partitioned table that others load through.
    pub below: BTreeMap<Name, BTreeSet<Name>>,
}

impl Catalogue {
    /// Reads it in the caller's snapshot.
    pub async fn read(client: &Client, annex: &Annex, money_readable: bool) -> Result<Self, tokio_postgres::Error> {
        let mut catalogue = Self::default();
        let relations = "SELECT n.nspname::text, c.relname::text, c.relkind::text FROM pg_class c
                           JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE c.relkind IN ('r', 'p', 'f', 'S', 'm', 'v') AND c.relpersistence <> 't'";
        for row in client.query(relations, &[]).await? {
            catalogue.relations.insert((row.get(0), row.get(1)), Relation { kind: row.get(2), config_condition: None });
        }
        let config = "SELECT n.nspname::text, c.relname::text, coalesce(u.condition, '') FROM pg_extension e,
                        LATERAL unnest(e.extconfig, e.extcondition) AS u(relation, condition)
                        JOIN pg_class c ON c.oid = u.relation JOIN pg_namespace n ON n.oid = c.relnamespace";
        for row in client.query(config, &[]).await? {
            if let Some(relation) = catalogue.relations.get_mut(&(row.get(0), row.get(1))) {
                relation.config_condition = Some(row.get(2));
            }
        }
        if !money_readable {
            let money = "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                           JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
                          WHERE a.attnum > 0 AND 'money'::regtype IN (t.oid, t.typelem, t.typbasetype)";
            for row in client.query(money, &[]).await? {
                catalogue.unreadable.insert(
                    (row.get(0), row.get(1)),
                    "it has values of type money, and the source's lc_monetary is not known here".into(),
                );
            }
        }
        // By its oid: a name would ask for rights on its schema.
        let tree = "SELECT n.nspname::text, c.relname::text
                      FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace, pg_partition_tree(r.oid) t
                      JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE s.nspname = $1 AND r.relname = $2";
        for root in through_root(&annex.tables).into_keys() {
            if catalogue.relations.contains_key(&root) {
                let rows = client.query(tree, &[&root.0, &root.1]).await?;
                catalogue.below.insert(root, rows.iter().map(|row| (row.get(0), row.get(1))).collect());
            }
        }
        Ok(catalogue)
    }
}

/// Tables whose rows go into another table, by that table.
fn through_root(tables: &[Table]) -> BTreeMap<Name, Vec<&Table>> {
    let mut groups: BTreeMap<Name, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        if let Some(target) = columns::qualified(&table.load_target)
            && target != (table.schema.clone(), table.name.clone())
        {
            groups.entry(target).or_default().push(table);
        }
    }
    groups
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// For people.
    pub name: String,
    /// Reads the rows.
    pub copy: String,
    /// Tables of the backup it covers.
    pub tables: u64,
    /// Rows expected.
    pub rows: u64,
    /// Row digest expected.
    pub digest: [u8; 32],
    /// Bytes of COPY text expected.
    pub bytes: u64,
}

/// The comparisons, and what is already known not to match or not to be comparable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// To be done.
    pub due: Vec<Unit>,
    /// Name and how it differs.
    pub different: Vec<(String, String)>,
    /// Name, why, and how many tables that is.
    pub not_proven: Vec<(String, String, u64)>,
}

/// Divides the backup's tables into comparisons.
pub fn divide(annex: &Annex, catalogue: &Catalogue) -> Units {
    let mut units = Units::default();
    let options = match copy_options(annex) {
        Some(options) => options,
        None => {
            units.not_proven.push((
                "all tables".into(),
                "the annex names an encoding that is none".into(),
                annex.tables.len() as u64,
            ));
            return units;
        }
    };
    let mut groups = through_root(&annex.tables);
    let config: BTreeSet<(&str, &str)> =
        annex.extensions.iter().flat_map(|e| &e.config_tables).map(|t| (t.schema.as_str(), t.name.as_str())).collect();
    for table in &annex.tables {
        let name = (table.schema.clone(), table.name.clone());
        match columns::qualified(&table.load_target) {
            None => units.not_proven.push((label(&name), "its description in the annex is not understood".into(), 1)),
            Some(target) if target != name => {}
            Some(_) => {
                // Rows of its fellows may have been routed into it: only the root's sum tells.
                let root = catalogue.below.iter().find(|(root, below)| **root != name && below.contains(&name));
                if let Some((root, _)) = root {
                    groups.entry(root.clone()).or_default().push(table);
                } else {
                    single(
                        table,
                        &name,
                        catalogue,
                        config.contains(&(table.schema.as_str(), table.name.as_str())),
                        &options,
                        &mut units,
                    );
                }
            }
        }
    }
    for (root, tables) in groups {
        group(&root, &tables, catalogue, &options, &mut units);
    }
    units
}

fn single(table: &Table, name: &Name, catalogue: &Catalogue, is_config: bool, options: &str, units: &mut Units) {
    let Some(relation) = catalogue.relations.get(name) else {
        units.different.push((label(name), "is missing".into()));
        return;
    };
    if let Some(why) = catalogue.unreadable.get(name) {
        units.not_proven.push((label(name), why.clone(), 1));
        return;
    }
    let (Some(columns), Some(digest)) = (columns::columns(&table.columns), digest(&table.digest)) else {
        units.not_proven.push((label(name), "its description in the annex is not understood".into(), 1));
        return;
    };
    let source = quote::qualified(&name.0, &name.1);
    let from = match (is_config, &relation.config_condition) {
        (true, Some(condition)) => format!("(SELECT {} FROM {source} {condition})", columns::list(&columns)),
        (true, None) => {
            units.not_proven.push((
                label(name),
                "the target's version of its extension does not say which rows are the user's".into(),
                1,
            ));
            return;
        }
        (false, _) if relation.kind != "r" => format!("(SELECT {} FROM {source})", columns::list(&columns)),
        (false, _) if columns.is_empty() => source,
        (false, _) => format!("{source} ({})", columns::list(&columns)),
    };
    units.due.push(Unit {
        name: label(name),
        copy: format!("COPY {from} TO STDOUT{options}"),
        tables: 1,
        rows: table.rows,
        digest,
        bytes: table.bytes,
    });
}

fn group(root: &Name, tables: &[&Table], catalogue: &Catalogue, options: &str, units: &mut Units) {
    let count = tables.len() as u64;
    let name = format!("{} (sum of {})", label(root), crate::format::counted(count, "partition"));
    if !catalogue.relations.contains_key(root) {
        units.different.push((label(root), "is missing".into()));
        return;
    }
    if let Some(why) = catalogue.unreadable.get(root) {
        units.not_proven.push((name, why.clone(), count));
        return;
    }
    let first = &tables[0].columns;
    if tables.iter().any(|table| table.columns != *first) {
        units.not_proven.push((name, "its partitions have their columns in different order".into(), count));
        return;
    }
    let mut sum = [0; 32];
    for table in tables {
        let Some(digest) = digest(&table.digest) else {
            units.not_proven.push((name, "its description in the annex is not understood".into(), count));
            return;
        };
        add(&mut sum, &digest);
    }
    let Some(columns) = columns::columns(first) else {
        units.not_proven.push((name, "its description in the annex is not understood".into(), count));
        return;
    };
    let source = quote::qualified(&root.0, &root.1);
    let copy = format!("COPY (SELECT {} FROM {source}) TO STDOUT{options}", columns::list(&columns));
    units.due.push(Unit {
        name,
        copy,
        tables: count,
        rows: tables.iter().map(|table| table.rows).sum(),
        digest: sum,
        bytes: tables.iter().map(|table| table.bytes).sum(),
    });
}

/// Rows are digested in the encoding pg_dump wrote them in.
fn copy_options(annex: &Annex) -> Option<String> {
    let recorded = annex.settings.iter().find(|setting| setting.name == "client_encoding");
    let encoding = recorded.map_or(annex.database.encoding.as_str(), |setting| setting.value.as_str());
    let plain = !encoding.is_empty() && encoding.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain.then(|| format!(" WITH (ENCODING {})", quote::literal(encoding)))
}

fn label(name: &Name) -> String {
    shown(&format!("{}.{}", name.0, name.1))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    hex::decode(hex).ok()?.try_into().ok()
}

/// Adds modulo 2²⁵⁶, big-endian.
fn add(sum: &mut [u8; 32], more: &[u8; 32]) {
    let mut carry = 0;
    for (a, b) in sum.iter_mut().zip(more).rev() {
        let total = u16::from(*a) + u16::from(*b) + carry;
        *a = (total & 0xff) as u8;
        carry = total >> 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_wrap() {
        let mut sum = [0xff; 32];
        let mut one = [0; 32];
        one[31] = 1;
        add(&mut sum, &one);
        assert_eq!(sum, [0; 32]);
        add(&mut sum, &[0x80; 32]);
        add(&mut sum, &[0x80; 32]);
        assert_eq!((sum[31], sum[30]), (0, 1));
    }
}
