//! The target: how to reach it, and what it is. Its credentials stay in this module and in the
//! environment of the children we start.

pub mod dependents;
pub mod facts;
pub mod inside;
pub mod keys;
pub mod locale;
pub mod locks;
pub mod prompt;
mod tls;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::{Client, Config, SimpleQueryMessage, config::SslMode as ClientSslMode, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;
use walwarden_contract::{
    dsn::{Dsn, SslMode},
    failure::FailureClass,
    secret::Secret,
    token::RestoreMode,
};
use walwarden_verifier::ids::shown;

use super::guards::Environment;
use crate::failure::Failure;

/// Longest wait for a session beside the first.
const SECOND_SESSION: Duration = Duration::from_secs(30);

/// Where to connect, with everything libpq would look up decided once.
#[derive(Clone)]
pub struct Target {
    dsn: Dsn,
    user: String,
    password: Option<Secret>,
    database: String,
    sslmode: SslMode,
    roots: tls::Roots,
    address: Option<IpAddr>,
    tls: MakeRustlsConnect,
}

impl Target {
    /// Decides user, password, database and TLS of a connection string.
    pub fn new(dsn: Dsn, mode: RestoreMode, environment: &Environment) -> Result<Self, Failure> {
        let user = dsn.user.clone().or_else(|| environment.pg_user.clone()).or_else(|| environment.os_user.clone());
        let user = user.ok_or_else(|| {
            Failure::user("target_user_missing", "the target connection string names no user")
                .hint("add it: postgresql://user@host:5432/dbname")
        })?;
        let database = match (&dsn.dbname, mode) {
            (Some(name), _) => name.clone(),
            (None, RestoreMode::NewDatabase) => "postgres".into(),
            (None, RestoreMode::InPlace) => return Err(Failure::internal("no database to restore in place")),
        };
        let from_passfile = || passfile_password(environment, &dsn, &database, &user);
        let password = dsn.password.clone().or_else(|| environment.pg_password.clone()).or_else(from_passfile);
        let sslmode = dsn.effective_sslmode();
        let roots = tls::Roots::load(dsn.sslrootcert.as_deref(), sslmode)?;
        let tls = MakeRustlsConnect::new(tls::client_config(sslmode, &roots)?);
        Ok(Self { dsn, user, password, database, sslmode, roots, address: None, tls })
    }

    /// The database of the connection string: the maintenance database, or the one to overwrite.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Who and where, without password, for another database of the same server.
    pub fn redacted(&self, database: &str) -> String {
        Dsn { user: Some(self.user.clone()), dbname: Some(database.into()), ..self.dsn.clone() }.redacted()
    }

    /// Finds an address that answers and pins it: all later connections, ours and pg_restore's, go to the same server.
    /// Asks for the password if the server wants one and there is a person to ask.
    pub async fn reach(&mut self, application: &str, may_ask: bool) -> Result<Client, Failure> {
        let host = self.dsn.host.trim_matches(['[', ']']).to_owned();
        let found: Vec<IpAddr> = match tokio::net::lookup_host((host.as_str(), self.dsn.port)).await {
            Ok(addresses) => addresses.map(|address| address.ip()).collect(),
            Err(error) => return Err(self.unreachable(&format!("its host name is not found: {error}"))),
        };
        let mut last = self.unreachable("its host name has no address");
        for address in found {
            self.address = Some(address);
            match self.open(&self.database, application).await {
                Ok(client) => return self.first(client, application).await,
                Err(failure) if failure.code == "target_unreachable" => last = failure,
                Err(failure) if failure.code == "target_password_missing" && may_ask => {
                    self.password =
                        Some(prompt::hidden(&format!("password of {} on the target: ", shown(&self.user)))?);
                    let client = self.open(&self.database, application).await?;
                    return self.first(client, application).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Refuses a pooler that shares one server session among its clients' transactions: while another client is in one,
    /// we are given that client's session or one that was not ours before.
    async fn refuse_shared(&self, client: &Client, application: &str) -> Result<(), Failure> {
        let backend = async |client: &Client| -> Result<i32, Failure> {
            let rows = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await;
            let number = rows.map_err(|error| self.refused(&error))?.iter().find_map(|row| match row {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                _ => None,
            });
            number.ok_or_else(|| self.unreachable("the server does not tell its process id"))
        };
        let before = backend(client).await?;
        let beside = async {
            let other = self.open(&self.database, application).await?;
            other.simple_query("BEGIN").await.map_err(|error| self.refused(&error))?;
            let others = backend(&other).await?;
            Ok::<_, Failure>((other, others))
        };
        let late = |_| self.unreachable("the server gives no second session, which a restore needs");
        let (other, others) = tokio::time::timeout(SECOND_SESSION, beside).await.map_err(late)??;
        let after = backend(client).await?;
        drop(other);
        match others == before || before != after {
            true => Err(super::guards::pooled("a pooler gives every transaction another server session")),
            false => Ok(()),
        }
    }

    /// A connection to one of the server's databases, without the time-outs that its role has.
    pub async fn connect(&self, database: &str, application: &str) -> Result<Client, Failure> {
        let client = self.open(database, application).await?;
        self.take_off_time_outs(&client).await?;
        Ok(client)
    }

    /// The first session, in which nothing is set before it is known to be ours alone.
    async fn first(&self, client: Client, application: &str) -> Result<Client, Failure> {
        self.refuse_shared(&client, application).await?;
        self.take_off_time_outs(&client).await?;
        Ok(client)
    }

    async fn take_off_time_outs(&self, client: &Client) -> Result<(), Failure> {
        // A role's own time-outs are made for applications.
        let timeless = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
            ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')";
        client.batch_execute(timeless).await.map_err(|error| self.refused(&error))
    }

    async fn open(&self, database: &str, application: &str) -> Result<Client, Failure> {
        let mut config = Config::new();
        config
            .host(self.dsn.host.trim_matches(['[', ']']))
            .port(self.dsn.port)
            .user(&self.user)
            .dbname(database)
            .application_name(application)
            .connect_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(60))
            .ssl_mode(match self.sslmode {
                SslMode::Disable => ClientSslMode::Disable,
                SslMode::Allow | SslMode::Prefer => ClientSslMode::Prefer,
                SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => ClientSslMode::Require,
            });
        if let Some(address) = self.address {
            config.hostaddr(address);
        }
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        if let Some(endpoint) = &self.dsn.endpoint {
            config.options(format!("endpoint={endpoint}"));
        }
        let (client, connection) = config.connect(self.tls.clone()).await.map_err(|error| self.refused(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the target ended");
            }
        });
        Ok(client)
    }

    /// libpq's variables for a child, beside an otherwise empty environment. Nothing of it is ever an argument.
    pub fn child_environment(&self, workspace: &Path, application: &str) -> Result<Vec<(String, String)>, Failure> {
        let host = self.dsn.host.trim_matches(['[', ']']).to_owned();
        let mut variables = vec![
            ("PGHOST", host),
            ("PGPORT", self.dsn.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGSSLMODE", self.sslmode.as_str().to_owned()),
            ("PGAPPNAME", application.to_owned()),
            ("PGCONNECT_TIMEOUT", "15".to_owned()),
            ("PGGSSENCMODE", "disable".to_owned()),
            // libpq would look for certificates and password files there.
            ("HOME", workspace.display().to_string()),
            ("LC_ALL", "C".to_owned()),
        ];
        if let Some(address) = self.address {
            variables.push(("PGHOSTADDR", address.to_string()));
        }
        if let Some(password) = &self.password {
            variables.push(("PGPASSWORD", password.expose().to_owned()));
        }
        if self.sslmode >= SslMode::VerifyCa || self.dsn.sslrootcert.is_some() {
            variables.push(("PGSSLROOTCERT", self.roots.write(workspace)?.display().to_string()));
        }
        if let Some(endpoint) = &self.dsn.endpoint {
            variables.push(("PGOPTIONS", format!("endpoint={endpoint}")));
        }
        Ok(variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Whether `PGOPTIONS` is taken by the endpoint's name.
    pub fn options_are_taken(&self) -> bool {
        self.dsn.endpoint.is_some()
    }

    fn unreachable(&self, why: &str) -> Failure {
        let at = format!("{}:{}", shown(&self.dsn.host), self.dsn.port);
        Failure::class(FailureClass::TargetUnreachable, format!("the target {at} is not reachable: {why}"))
            .hint("check host and port in the target, and that this machine may connect (psql with the same string)")
    }

    fn refused(&self, error: &tokio_postgres::Error) -> Failure {
        if let Some(db) = error.as_db_error() {
            let said = shown(db.message());
            return match db.code() {
                &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                    Failure::user("target_auth_failed", format!("the target refuses the login: {said}"))
                        .hint("correct user or password; PGPASSWORD is used where the target has none")
                }
                &SqlState::INVALID_CATALOG_NAME => Failure::user(
                    "target_database_unknown",
                    format!("the target refuses the connection: {said}"),
                )
                .hint(
                    "name an existing database in the target; for new_database a maintenance database such as postgres",
                ),
                _ => self.unreachable(&said),
            };
        }
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            reason = format!("{reason}: {inner}");
            source = inner.source();
        }
        if reason.contains("password missing") {
            return Failure::user("target_password_missing", "the target asks for a password and none is given")
                .hint("set PGPASSWORD");
        }
        if reason.contains("TLS") || reason.contains("certificate") {
            return Failure::user(
                "target_tls_failed",
                format!("no encrypted connection to the target: {}", shown(&reason)),
            )
            .hint("add sslmode=… to the target as the server needs it; sslrootcert=FILE names the authority to trust");
        }
        self.unreachable(&shown(&reason))
    }
}

/// The password in a libpq password file, which must not be open to others.
fn passfile_password(environment: &Environment, dsn: &Dsn, database: &str, user: &str) -> Option<Secret> {
    let path: &PathBuf = environment.pg_passfile.as_ref()?;
    let metadata = std::fs::metadata(path).ok()?;
    let open = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0;
    if open || !metadata.is_file() {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| passfile_line(line, [&dsn.host, &dsn.port.to_string(), database, user]))
}

fn passfile_line(line: &str, wanted: [&str; 4]) -> Option<Secret> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '\\' => field.extend(chars.next()),
            ':' => fields.push(String::new()),
            c => field.push(c),
        }
    }
    let [host, port, database, user, password] = <[String; 5]>::try_from(fields).ok()?;
    let matches = [host, port, database, user].iter().zip(wanted).all(|(have, want)| have == "*" || have == want);
    matches.then(|| Secret::new(password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_files_are_read_as_libpq_does() {
        let wanted = ["h", "5432", "d", "u"];
        let found = |line| passfile_line(line, wanted).map(|secret| secret.expose().to_owned());
        assert_eq!(found("h:5432:d:u:pass"), Some("pass".into()));
        assert_eq!(found(r"*:*:*:u:a\:b\\c"), Some(r"a:b\c".into()));
        assert_eq!(found("h:5433:d:u:pass"), None);
        assert_eq!(found("#h:5432:d:u:pass"), None);
        assert_eq!(found("h:5432:d"), None);
    }
}
