//! One exported snapshot: pg_dump dumps it, and everything the annex says of the catalogue is read in it.

use std::time::Duration;

use tokio::time::timeout;
use walwarden_contract::{
    selection::{Preset, Selection},
    time,
};

use super::{
    chosen::{self, Chosen},
    facts::{self, Facts},
    omit::{self, Excluded, LeftOut},
    readable::{self, Unreadable},
    session::{Endpoint, Session},
    text::Columns,
    version::ServerVersion,
};
use crate::fault::Fault;

const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that holds a snapshot for as long as pg_dump needs to import it.
pub struct Snapshot {
    session: Session,
    /// Its name, for `pg_dump --snapshot`.
    pub id: String,
    /// The server's clock just before: nothing written later is in the snapshot.
    pub at: String,
    /// The database's name as the server knows it.
    pub database: String,
    /// The role's name as the server knows it.
    pub role: String,
}

impl Snapshot {
    /// Opens the transaction and exports its snapshot. Works on hot standbys too.
    pub async fn open(session: Session) -> Result<Self, Fault> {
        // A holder idles in its transaction; Neon ends such sessions after five minutes, others by a role's settings.
        let mut timeouts = "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; \
                            SET lock_timeout = 0; SET idle_session_timeout = 0;"
            .to_owned();
        if session.version.major() >= 17 {
            timeouts.push_str("SET transaction_timeout = 0;");
        }
        let opened = async {
            let client = &session.client;
            client.batch_execute(&timeouts).await?;
            // To the millisecond below: the loss window must never look shorter than it is.
            let clock =
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, current_database(), current_user";
            let row = client.query_one(clock, &[]).await?;
            let microseconds: i64 = row.try_get(0)?;
            let (database, role) = (row.text(1)?, row.text(2)?);
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let row = client.query_one("SELECT pg_export_snapshot()", &[]).await?;
            Ok((microseconds.div_euclid(1000), database, role, row.text(0)?))
        };
        let (at, database, role, id) = opened.await.map_err(|e| session.fault(e))?;
        Ok(Self { session, id, at: time::format_ms(at), database, role })
    }

    /// Where the source is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.session.endpoint
    }

    /// The server's version.
    pub fn version(&self) -> &ServerVersion {
        &self.session.version
    }

    /// Keywords of the connection string that do nothing.
    pub fn ignored_keywords(&self) -> &[String] {
        &self.session.ignored_keywords
    }

    /// Reads what the annex needs to know. Settings first: reading the rest changes some of them.
    pub async fn facts(&self) -> Result<Facts, Fault> {
        facts::read(&self.session.client, self.version()).await.map_err(|e| self.session.fault(e))
    }

    /// What a selection does not take. Call after [`Self::facts`].
    pub async fn chosen(&self, selection: &Selection) -> Result<Chosen, Fault> {
        Chosen::read(&self.session.client, selection).await.map_err(|e| self.session.fault(e))
    }

    /// What a backup leaves out by that, and what it cannot leave out.
    pub async fn excluded(&self, chosen: &Chosen) -> Result<Excluded, Fault> {
        omit::excluded(&self.session.client, chosen).await.map_err(|e| self.session.fault(e))
    }

    /// What pg_dump would have to read and the role may not.
    pub async fn unreadable(&self, chosen: &Chosen) -> Result<Unreadable, Fault> {
        let read = async {
            let mut unreadable = readable::read(&self.session.client).await?;
            chosen.excuse(&self.session.client, &mut unreadable).await?;
            Ok(unreadable)
        };
        read.await.map_err(|e| self.session.fault(e))
    }

    /// What a backup without that leaves out.
    pub async fn left_out(&self, unreadable: &Unreadable) -> Result<LeftOut, Fault> {
        omit::unreadable(&self.session.client, unreadable).await.map_err(|e| self.session.fault(e))
    }

    /// A selection that suits the platform.
    pub async fn preset(&self) -> Result<Option<Preset>, Fault> {
        chosen::preset(&self.session.client).await.map_err(|e| self.session.fault(e))
    }

    /// Lets go of the snapshot: pg_dump has its own hold on it. That the session has died meanwhile matters no more.
    pub async fn release(self) {
        match timeout(RELEASE_TIMEOUT, self.session.client.batch_execute("COMMIT")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("letting go of the snapshot: {error}"),
            Err(_) => tracing::debug!("letting go of the snapshot took too long"),
        }
    }
}
