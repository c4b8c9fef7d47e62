//! What is compared beside the rows of tables: which tables there are, sequences, large objects.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use walwarden_contract::{quote, token::RestoreMode};
use walwarden_verifier::{annex::Annex, archive::RowKey, ids::shown};

use super::{Outcome, compare::let_go, units::Catalogue};
use crate::restore::target::inside;

const SLICE_BYTES: i32 = 1 << 20;
const SEQUENCES_AT_ONCE: usize = 100;

/// A new database has no other tables than the backup's.
pub async fn extra_tables(
    client: &Client,
    mode: RestoreMode,
    annex: &Annex,
    outcome: &mut Outcome,
) -> Result<(), tokio_postgres::Error> {
    if mode == RestoreMode::InPlace {
        return Ok(());
    }
    let known: BTreeSet<(&str, &str)> = annex
        .entries
        .iter()
        .filter(|entry| ["TABLE", "FOREIGN TABLE"].contains(&entry.kind.as_str()))
        .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
        .collect();
    for table in inside::existing_tables(client).await? {
        if !known.contains(&(table.schema.as_str(), table.name.as_str())) {
            outcome.different.push((shown(&format!("{}.{}", table.schema, table.name)), "is not in the backup".into()));
        }
    }
    Ok(())
}

/// Positions of sequences, many in one query.
pub async fn sequences(
    client: &Client,
    annex: &Annex,
    catalogue: &Catalogue,
    outcome: &mut Outcome,
) -> Result<(), tokio_postgres::Error> {
    let label = |schema: &str, name: &str| format!("sequence {}", shown(&format!("{schema}.{name}")));
    let (there, missing): (Vec<_>, Vec<_>) = annex.sequences.iter().partition(|sequence| {
        catalogue
            .relations
            .get(&(sequence.schema.clone(), sequence.name.clone()))
            .is_some_and(|relation| relation.kind == "S")
    });
    outcome
        .different
        .extend(missing.iter().map(|sequence| (label(&sequence.schema, &sequence.name), "is missing".into())));
    for batch in there.chunks(SEQUENCES_AT_ONCE) {
        let select = |at: usize| {
            let sequence = batch[at];
            format!(
                "SELECT {at}::int4, last_value::text, is_called FROM {}",
                quote::qualified(&sequence.schema, &sequence.name)
            )
        };
        let all: Vec<String> = (0..batch.len()).map(select).collect();
        client.batch_execute("SAVEPOINT sequences").await?;
        let mut rows = client.query(&all.join(" UNION ALL "), &[]).await;
        let mut unreadable = Vec::new();
        if rows.as_ref().is_err_and(|error| error.as_db_error().is_some()) {
            // One of them may not be read: each by itself tells which.
            client.batch_execute("ROLLBACK TO SAVEPOINT sequences").await?;
            let mut each = Vec::new();
            for (at, query) in all.iter().enumerate() {
                match client.query_one(query, &[]).await {
                    Ok(row) => each.push(row),
                    Err(error) => {
                        let Some(db) = error.as_db_error() else { return Err(error) };
                        unreadable.push((at, shown(db.message())));
                        client.batch_execute("ROLLBACK TO SAVEPOINT sequences").await?;
                    }
                }
            }
            rows = Ok(each);
        }
        let rows = rows?;
        client.batch_execute(&let_go("sequences")).await?;
        for (at, why) in unreadable {
            outcome.not_proven.push((label(&batch[at].schema, &batch[at].name), why));
            outcome.not_compared += 1;
        }
        for row in rows {
            let sequence = batch[row.get::<_, i32>(0) as usize];
            let (last_value, is_called): (String, bool) = (row.get(1), row.get(2));
            outcome.sequences += 1;
            if last_value != sequence.last_value || is_called != sequence.is_called {
                let position = |value: &str, called: bool| {
                    format!("{}{}", shown(value), if called { "" } else { " (not yet used)" })
                };
                outcome.different.push((
                    label(&sequence.schema, &sequence.name),
                    format!(
                        "is at {} instead of {}",
                        position(&last_value, is_called),
                        position(&sequence.last_value, sequence.is_called)
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Large objects, a slice at a time.
pub async fn large_objects(
    client: &Client,
    mode: RestoreMode,
    annex: &Annex,
    key: &RowKey,
    outcome: &mut Outcome,
) -> Result<(), tokio_postgres::Error> {
    let mut there: BTreeSet<u32> =
        client.query("SELECT oid FROM pg_largeobject_metadata", &[]).await?.iter().map(|row| row.get(0)).collect();
    for object in &annex.large_objects {
        let label = format!("large object {}", object.oid);
        if !there.remove(&object.oid) {
            outcome.different.push((label, "is missing".into()));
            continue;
        }
        client.batch_execute("SAVEPOINT object").await?;
        let mut hash = Sha256::new_with_prefix(key);
        let mut size: u64 = 0;
        let unreadable = loop {
            let from = i64::try_from(size).unwrap_or(i64::MAX);
            match client.query_one("SELECT lo_get($1, $2, $3)", &[&object.oid, &from, &SLICE_BYTES]).await {
                Ok(row) => {
                    let slice: &[u8] = row.get(0);
                    hash.update(slice);
                    size += slice.len() as u64;
                    if slice.len() < SLICE_BYTES as usize {
                        break None;
                    }
                }
                Err(error) => {
                    let Some(db) = error.as_db_error() else { return Err(error) };
                    break Some(shown(db.message()));
                }
            }
        };
        client.batch_execute(&let_go("object")).await?;
        if let Some(why) = unreadable {
            outcome.not_proven.push((label, why));
            outcome.not_compared += 1;
            continue;
        }
        outcome.large_objects += 1;
        if size != object.size {
            outcome.different.push((label, format!("has {size} bytes instead of {}", object.size)));
        } else if hex::encode(hash.finalize()) != object.digest {
            outcome.different.push((label, "has other content".into()));
        }
    }
    if mode == RestoreMode::NewDatabase {
        outcome
            .different
            .extend(there.into_iter().map(|oid| (format!("large object {oid}"), "is not in the backup".into())));
    }
    Ok(())
}
