//! Looking at the target while pg_restore works: how many bytes are loaded, and who stands in the way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time};
use tokio_postgres::Client;
use walwarden_verifier::{annex::Table, ids::shown};

use super::{
    engine::Line,
    transaction::{self, TransactionId},
};
use crate::output::Output;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the id of the one transaction is asked for until it is known.
const SEEK_EVERY: Duration = Duration::from_millis(50);
/// A wait for a lock is named after this long.
const BLOCKED_AFTER: Duration = Duration::from_secs(30);

/// Bytes of COPY text loaded so far, from what pg_restore says and the server counts.
struct Loaded {
    by_id: HashMap<i64, u64>,
    by_name: HashMap<String, u64>,
    finished: u64,
    current: Option<u64>,
}

impl Loaded {
    fn new(tables: &[Table]) -> Self {
        Self {
            by_id: tables.iter().map(|table| (table.dump_id, table.bytes)).collect(),
            by_name: tables.iter().map(|table| (format!("{}.{}", table.schema, table.name), table.bytes)).collect(),
            finished: 0,
            current: None,
        }
    }

    fn take(&mut self, line: &Line) {
        match line {
            Line::Data(table) => {
                self.finished += self.current.take().unwrap_or(0);
                self.current = self.by_name.get(table).copied();
            }
            // Serially, the next step ends the data before it.
            Line::Begins(_) => self.finished += self.current.take().unwrap_or(0),
            Line::Finished(id) => self.finished += self.by_id.remove(id).unwrap_or(0),
            _ => {}
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The server's warnings.
    pub warnings: BTreeSet<String>,
    /// The one transaction, where there is one.
    pub transaction: Option<TransactionId>,
}

/// Watches until pg_restore says no more. `client` is any connection to the server; `application` is what pg_restore's
/// sessions are called.
pub async fn watch(
    client: &Client,
    application: &str,
    single_transaction: bool,
    tables: &[Table],
    mut said: mpsc::UnboundedReceiver<Line>,
    output: &Output,
) -> Seen {
    let mut seen = Seen::default();
    let mut loaded = Loaded::new(tables);
    let mut blocked = Blocked::default();
    let parallel_data = |line: &Line| matches!(line, Line::Begins(words) if words.starts_with("launching item "));
    let mut parallel = false;
    let mut running = 0;
    let mut look = time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut seek = time::interval(SEEK_EVERY);
    seek.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            line = said.recv() => {
                let Some(line) = line else { break };
                parallel |= parallel_data(&line);
                // In parallel, workers say which table they load; only their end counts.
                if !(parallel && matches!(line, Line::Data(_))) {
                    loaded.take(&line);
                    output.advance_to(loaded.finished + running);
                }
                match line {
                    Line::Begins(words) => output.busy(&brief(&words)),
                    Line::Data(table) => output.busy(&brief(&format!("loading {table}"))),
                    Line::ServerWarning(text) => drop(seen.warnings.insert(text)),
                    _ => {}
                }
            }
            _ = seek.tick(), if single_transaction && seen.transaction.is_none() => {
                seen.transaction = transaction::of_session(client, application).await;
            }
            _ = look.tick() => {
                let Ok(sessions) = sessions(client, application).await else { continue };
                running = sessions.iter().map(|session| session.bytes).sum::<u64>();
                output.advance_to(loaded.finished + running);
                for line in blocked.look(&sessions, Instant::now()) {
                    let who = name_blockers(client, &line.1).await;
                    output.warn(&format!("pg_restore (server process {}) has waited {} s for a lock held by {who}", line.0, BLOCKED_AFTER.as_secs()));
                }
            }
        }
    }
    seen
}

fn brief(words: &str) -> String {
    // Parallel workers' items come with their number: "launching item 4041 CONSTRAINT t t_pkey".
    let words =
        words.strip_prefix("launching item ").and_then(|rest| rest.split_once(' ')).map_or(words, |(_, item)| item);
    let words = words.strip_prefix("creating ").unwrap_or(words);
    let words = shown(words);
    if words.chars().count() <= 40 { words } else { format!("{}…", words.chars().take(39).collect::<String>()) }
}

struct Session {
    pid: i32,
    bytes: u64,
    blockers: Vec<i32>,
}

async fn sessions(client: &Client, application: &str) -> Result<Vec<Session>, tokio_postgres::Error> {
    let query = "SELECT a.pid, coalesce(p.bytes_processed, 0), pg_blocking_pids(a.pid)
                   FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy p ON p.pid = a.pid
                  WHERE a.application_name = $1 AND a.pid <> pg_backend_pid()";
    let rows = client.query(query, &[&application]).await?;
    Ok(rows
        .iter()
        .map(|row| Session { pid: row.get(0), bytes: row.get::<_, i64>(1).unsigned_abs(), blockers: row.get(2) })
        .collect())
}

/// Since when which session waits for others than its fellows.
#[derive(Default)]
struct Blocked {
    since: BTreeMap<i32, (Instant, bool)>,
}

impl Blocked {
    /// Sessions that have waited long enough and were not named yet, with whom they wait for.
    fn look(&mut self, sessions: &[Session], now: Instant) -> Vec<(i32, Vec<i32>)> {
        let own: BTreeSet<i32> = sessions.iter().map(|session| session.pid).collect();
        let mut due = Vec::new();
        let mut still = BTreeMap::new();
        for session in sessions {
            let strangers: Vec<i32> = session.blockers.iter().copied().filter(|pid| !own.contains(pid)).collect();
            if strangers.is_empty() {
                continue;
            }
            let (since, mut named) = self.since.get(&session.pid).copied().unwrap_or((now, false));
            if !named && now.duration_since(since) >= BLOCKED_AFTER {
                named = true;
                due.push((session.pid, strangers));
            }
            still.insert(session.pid, (since, named));
        }
        self.since = still;
        due
    }
}

async fn name_blockers(client: &Client, pids: &[i32]) -> String {
    let query = "SELECT pid, coalesce(usename::text, '?'), coalesce(application_name, ''), coalesce(datname::text, '?')
                   FROM pg_stat_activity WHERE pid = ANY($1)";
    let rows = client.query(query, &[&pids]).await.unwrap_or_default();
    let named: Vec<String> = rows
        .iter()
        .map(|row| {
            let (pid, user, application, database): (i32, String, String, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let application = if application.is_empty() { String::new() } else { format!(", {}", shown(&application)) };
            format!(
                "process {pid} (user {}, database {}{application}; SELECT pg_terminate_backend({pid}) ends it)",
                shown(&user),
                shown(&database)
            )
        })
        .collect();
    if named.is_empty() { format!("processes {pids:?}") } else { named.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: i32, blockers: &[i32]) -> Session {
        Session { pid, bytes: 0, blockers: blockers.to_vec() }
    }

    #[test]
    fn a_stranger_in_the_way_is_named_once_after_thirty_seconds() {
        let mut blocked = Blocked::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let waiting = [session(1, &[2, 9]), session(2, &[])];
        assert_eq!(blocked.look(&waiting, start), []);
        assert_eq!(blocked.look(&waiting, later(29)), []);
        assert_eq!(blocked.look(&waiting, later(30)), [(1, vec![9])]);
        assert_eq!(blocked.look(&waiting, later(60)), []);
        // Fellows do not count, and a wait that ended begins anew.
        assert_eq!(blocked.look(&[session(1, &[2]), session(2, &[])], later(61)), []);
        assert_eq!(blocked.look(&waiting, later(62)), []);
        assert_eq!(blocked.look(&waiting, later(92)), [(1, vec![9])]);
    }

    #[test]
    fn loaded_bytes_follow_serial_and_parallel_runs() {
        let table = |dump_id, name: &str, bytes| Table {
            dump_id,
            schema: "public".into(),
            name: name.into(),
            columns: String::new(),
            load_target: String::new(),
            rows: 0,
            bytes,
            digest: String::new(),
        };
        let mut loaded = Loaded::new(&[table(1, "a", 10), table(2, "b", 20)]);
        loaded.take(&Line::Data("public.a".into()));
        assert_eq!(loaded.finished, 0);
        loaded.take(&Line::Data("public.b".into()));
        assert_eq!(loaded.finished, 10);
        loaded.take(&Line::Begins("creating INDEX".into()));
        assert_eq!(loaded.finished, 30);
        let mut loaded = Loaded::new(&[table(1, "a", 10)]);
        loaded.take(&Line::Finished(1));
        loaded.take(&Line::Finished(1));
        assert_eq!(loaded.finished, 10);
    }
}
