//! What the server says of pg_restore's one transaction. Where pg_restore cannot tell how it ended, the server can.

use std::time::Duration;

use tokio::time::{self, Instant};
use tokio_postgres::Client;

/// Longest wait for the server to end a transaction whose client is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A transaction's id with its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionId(i64);

/// The id of the transaction of the one session called `application`, once it has written something.
pub async fn of_session(client: &Client, application: &str) -> Option<TransactionId> {
    let query = "SELECT backend_xid::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                   FROM pg_stat_activity WHERE application_name = $1 AND backend_xid IS NOT NULL";
    let rows = client.query(query, &[&application]).await.ok()?;
    let [row] = rows.as_slice() else { return None };
    Some(with_epoch(row.get(0), row.get(1)))
}

/// Sessions show the lower half of an id only: the whole is the one nearest to the ids of now.
fn with_epoch(short: i64, now: i64) -> TransactionId {
    const EPOCH: i64 = 1 << 32;
    let id = (now & !(EPOCH - 1)) | short;
    TransactionId(match id - now {
        ahead if ahead > EPOCH / 2 => id - EPOCH,
        ahead if ahead < -EPOCH / 2 => id + EPOCH,
        _ => id,
    })
}

/// Ends what sessions called `application` are still at: their pg_restore is gone, and one that waits for a lock would
/// not notice. A COMMIT that was begun is not ended by it.
pub async fn end_sessions(client: &Client, application: &str) {
    let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()";
    if let Err(error) = client.query(query, &[&application]).await {
        tracing::debug!(%error, "sessions of pg_restore were not ended");
    }
}

/// Whether it was committed; `None` where the server does not tell, or is still at it.
pub async fn is_committed(client: &Client, id: TransactionId) -> Option<bool> {
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        let row = client.query_one("SELECT pg_xact_status($1::bigint::text::xid8)", &[&id.0]).await.ok()?;
        match row.get::<_, Option<&str>>(0)? {
            "committed" => return Some(true),
            "aborted" => return Some(false),
            _ if Instant::now() < until => time::sleep(LOOK_EVERY).await,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_the_epoch_they_were_given_in() {
        let epoch = 1 << 32;
        assert_eq!(with_epoch(1000, 999), TransactionId(1000));
        assert_eq!(with_epoch(1000, 5 * epoch + 1005), TransactionId(5 * epoch + 1000));
        assert_eq!(with_epoch(4_294_967_290, 5 * epoch + 10), TransactionId(5 * epoch - 6));
        assert_eq!(with_epoch(5, 5 * epoch - 3), TransactionId(5 * epoch + 5));
    }
}
