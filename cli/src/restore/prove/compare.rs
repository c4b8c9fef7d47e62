//! Reading the restored database in one snapshot, over a few connections.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use tokio_postgres::Client;
use walwarden_contract::{quote, token::RestoreMode};
use walwarden_verifier::{
    annex::Annex,
    archive::{ROW_KEY_BYTES, RowHasher, RowKey, RowSum},
    ids::shown,
};

use super::{
    Outcome, others,
    units::{self, Catalogue, Unit},
};
use crate::{
    failure::Failure,
    output::Output,
    restore::{database::failed, target::Target},
};

/// Settings that decide how values are written; those of the dumping session that are recorded and in this list apply.
const RECORDED: [&str; 4] = ["TimeZone", "bytea_output", "lc_monetary", "xmlbinary"];
/// pg_dump sets these itself.
const FIXED: [(&str, &str); 8] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("search_path", ""),
];

/// Compares everything in `database` with the annex.
pub async fn prove(
    target: &Target,
    database: &str,
    mode: RestoreMode,
    annex: &Annex,
    money_readable: bool,
    connections: usize,
    output: &Output,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    let Some(key) = row_key(annex) else {
        outcome.not_proven.push(("everything".into(), NO_ROW_KEY.into()));
        outcome.not_compared = annex.tables.len() as u64;
        return Ok(outcome);
    };
    let broke = |error: tokio_postgres::Error| failed("compare the restored database", &error);
    let first = open(target, database, annex, money_readable, None).await?;
    let snapshot: String = first.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(broke)?.get(0);
    let catalogue = Catalogue::read(&first, annex, money_readable).await.map_err(broke)?;

    let due = begin(annex, &catalogue, &mut outcome);
    let connections = connections.min(due.len()).max(1);
    let queue = Arc::new(Mutex::new(VecDeque::from(due)));
    let read_bytes = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    for _ in 1..connections {
        let client = open(target, database, annex, money_readable, Some(&snapshot)).await?;
        workers.push(tokio::spawn(tables(Arc::new(client), key, queue.clone(), read_bytes.clone())));
    }
    let first = Arc::new(first);
    workers.push(tokio::spawn(tables(first.clone(), key, queue, read_bytes.clone())));
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut all = pin!(join_all(workers));
    let found = loop {
        tokio::select! {
            found = &mut all => break found,
            _ = ticks.tick() => output.advance_to(read_bytes.load(Ordering::Relaxed)),
        }
    };
    for worker in found {
        let worker = worker.map_err(|error| Failure::internal(format!("a comparison ended: {error}")))?;
        for (unit, result) in worker {
            judge(&unit, result.map_err(broke)?, &mut outcome);
        }
    }
    output.busy("sequences, large objects");
    others::extra_tables(&first, mode, annex, &mut outcome).await.map_err(broke)?;
    others::sequences(&first, annex, &catalogue, &mut outcome).await.map_err(broke)?;
    others::large_objects(&first, mode, annex, &key, &mut outcome).await.map_err(broke)?;
    first.batch_execute("COMMIT").await.map_err(broke)?;
    outcome.recomputed = annex
        .entries
        .iter()
        .filter(|entry| entry.kind == "MATERIALIZED VIEW DATA")
        .map(|entry| shown(&format!("{}.{}", entry.schema, entry.name)))
        .collect();
    outcome.different.sort();
    outcome.not_proven.sort();
    Ok(outcome)
}

/// Compares the rows of the annex's tables, over one connection.
pub async fn rows(target: &Target, database: &str, annex: &Annex, money_readable: bool) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    let Some(key) = row_key(annex) else {
        outcome.not_proven.push(("everything".into(), NO_ROW_KEY.into()));
        return Ok(outcome);
    };
    let broke = |error: tokio_postgres::Error| failed("compare rows with those of the backup", &error);
    let client = open(target, database, annex, money_readable, None).await?;
    let catalogue = Catalogue::read(&client, annex, money_readable).await.map_err(broke)?;
    let due = begin(annex, &catalogue, &mut outcome);
    let read_bytes = Arc::new(AtomicU64::new(0));
    for (unit, result) in tables(Arc::new(client), key, Arc::new(Mutex::new(VecDeque::from(due))), read_bytes).await {
        judge(&unit, result.map_err(broke)?, &mut outcome);
    }
    Ok(outcome)
}

const NO_ROW_KEY: &str = "the annex holds no row key";

fn row_key(annex: &Annex) -> Option<RowKey> {
    <[u8; ROW_KEY_BYTES]>::try_from(hex::decode(&annex.header.row_key).ok()?).ok()
}

/// What is to be read; what is known without is in the outcome.
fn begin(annex: &Annex, catalogue: &Catalogue, outcome: &mut Outcome) -> Vec<Unit> {
    let mut divided = units::divide(annex, catalogue);
    divided.due.sort_by_key(|unit| std::cmp::Reverse(unit.bytes));
    outcome.different.append(&mut divided.different);
    for (name, why, tables) in divided.not_proven.drain(..) {
        outcome.not_proven.push((name, why));
        outcome.not_compared += tables;
    }
    divided.due
}

async fn open(
    target: &Target,
    database: &str,
    annex: &Annex,
    money_readable: bool,
    snapshot: Option<&str>,
) -> Result<Client, Failure> {
    let client = target.connect(database, "walwarden proof").await?;
    let broke = |error: tokio_postgres::Error| failed("compare the restored database", &error);
    for (name, value) in FIXED {
        client.query("SELECT set_config($1, $2, false)", &[&name, &value]).await.map_err(broke)?;
    }
    for setting in &annex.settings {
        let recorded = RECORDED.iter().find(|name| name.eq_ignore_ascii_case(&setting.name));
        if let Some(name) = recorded.filter(|name| money_readable || **name != "lc_monetary") {
            client.query("SELECT set_config($1, $2, false)", &[name, &setting.value]).await.map_err(broke)?;
        }
    }
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(broke)?;
    if let Some(snapshot) = snapshot {
        client.batch_execute(&format!("SET TRANSACTION SNAPSHOT {}", quote::literal(snapshot))).await.map_err(broke)?;
    }
    Ok(client)
}

/// What reading gave: a sum, or why it could not be read.
type Read = Result<Result<RowSum, String>, tokio_postgres::Error>;

async fn tables(
    client: Arc<Client>,
    key: RowKey,
    queue: Arc<Mutex<VecDeque<Unit>>>,
    read_bytes: Arc<AtomicU64>,
) -> Vec<(Unit, Read)> {
    let mut done = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(unit) = next else { return done };
        let read = table(&client, &unit, &key, &read_bytes).await;
        let broken = read.is_err();
        done.push((unit, read));
        if broken {
            return done;
        }
    }
}

async fn table(client: &Client, unit: &Unit, key: &RowKey, read_bytes: &AtomicU64) -> Read {
    client.batch_execute("SAVEPOINT unit").await?;
    let sum = async {
        let mut rows = pin!(client.copy_out(&unit.copy).await?);
        let mut hasher = RowHasher::new(key);
        while let Some(chunk) = rows.next().await {
            let chunk = chunk?;
            hasher.write(&chunk);
            read_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Ok::<_, tokio_postgres::Error>(hasher.finish())
    };
    let sum = sum.await;
    let why = match &sum {
        Ok(_) => None,
        Err(error) => match error.as_db_error() {
            Some(db) => Some(shown(db.message())),
            None => return sum.map(Ok),
        },
    };
    client.batch_execute(&let_go("unit")).await?;
    match why {
        Some(why) => Ok(Err(why)),
        None => sum.map(Ok),
    }
}

/// The statements that end what a savepoint began. Going back to it gives back the locks that were taken since, which
/// else are held to the end of the transaction: of a hundred thousand tables more than a server has room for.
pub fn let_go(savepoint: &str) -> String {
    format!("ROLLBACK TO SAVEPOINT {savepoint}; RELEASE SAVEPOINT {savepoint}")
}

fn judge(unit: &Unit, read: Result<RowSum, String>, outcome: &mut Outcome) {
    match read {
        Err(why) => {
            outcome.not_proven.push((unit.name.clone(), why));
            outcome.not_compared += unit.tables;
        }
        Ok(sum) => {
            outcome.tables += unit.tables;
            outcome.rows += sum.rows;
            if sum.rows != unit.rows {
                outcome.different.push((
                    unit.name.clone(),
                    format!("{} rows instead of {}", crate::format::count(sum.rows), crate::format::count(unit.rows)),
                ));
            } else if sum.digest() != unit.digest {
                outcome.different.push((
                    unit.name.clone(),
                    format!("{} rows as expected, but not the same ones (row digest)", crate::format::count(sum.rows)),
                ));
            }
        }
    }
}
