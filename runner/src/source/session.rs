//! A session of the source, and what pg_dump needs to open another to the same server.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_postgres::{
    Client, Config, NoTls, SimpleQueryMessage,
    config::SslMode as Negotiation,
    tls::{MakeTlsConnect, TlsConnect},
};
use walwarden_contract::{
    address::AddressPolicy,
    dsn::{Dsn, DsnError, SslMode},
    failure::FailureClass,
    secret::Secret,
};

use super::{
    dial,
    message::{self, Stage},
    text::Columns,
    tls::{self, Roots},
    version::ServerVersion,
};
use crate::fault::Fault;

/// What we and pg_dump call ourselves in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "walwarden-runner";

const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// A compute that sleeps takes a second or more to wake.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Where the source is and who we are there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host, as the connection string names it; TLS checks this name.
    pub host: String,
    /// The one address that is dialled.
    pub address: SocketAddr,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Database, as asked for.
    pub database: String,
    /// Encryption.
    pub sslmode: SslMode,
    /// Neon's name of the compute, sent as `options=endpoint=…`.
    pub compute: Option<String>,
    /// Root certificates as PEM, where the encryption checks any.
    pub roots_pem: String,
}

impl Endpoint {
    /// `endpoint=…`, the only startup options that are ever sent.
    pub fn options(&self) -> Option<String> {
        self.compute.as_ref().map(|name| format!("endpoint={name}"))
    }
}

/// A session.
pub struct Session {
    /// The client; the connection's own task ends with it.
    pub(super) client: Client,
    /// Where it leads.
    pub endpoint: Endpoint,
    /// What is there.
    pub version: ServerVersion,
    /// Keywords of the connection string that were recognised and do nothing here.
    pub ignored_keywords: Vec<String>,
}

impl Session {
    /// Connects as the connection string says, to an address the policy allows.
    pub async fn open(dsn: &Secret, policy: AddressPolicy) -> Result<Self, Fault> {
        let dsn = Dsn::parse(dsn.expose()).map_err(|e| invalid(&e, FailureClass::SourceDsnInvalid))?;
        dsn.refuse_transaction_pooler().map_err(|e| invalid(&e, FailureClass::SourcePooled))?;
        let Some(user) = dsn.user.clone() else {
            return Err(Fault::new(FailureClass::SourceDsnInvalid, "the connection string names no user"));
        };
        let sslmode = sslmode(&dsn)?;
        let roots = Roots::load(sslmode)?;
        let addresses = dial::resolve(&dsn, policy).await?;
        let mut endpoint = Endpoint {
            host: dsn.host.clone(),
            address: addresses[0],
            database: dsn.dbname.clone().unwrap_or_else(|| user.clone()),
            user,
            password: dsn.password.clone(),
            sslmode,
            compute: dsn.endpoint.clone(),
            roots_pem: roots.pem(),
        };
        let mut attempt = 1;
        loop {
            match connect(&addresses, &mut endpoint, &roots).await {
                Ok(client) => {
                    refuse_shared(&client, &endpoint, &roots).await?;
                    let version = version(&client)
                        .await
                        .map_err(|e| message::fault(e, Stage::Connected, endpoint.password.as_ref()))?;
                    return Ok(Self { client, endpoint, version, ignored_keywords: dsn.ignored });
                }
                Err(fault) if fault.class == FailureClass::SourceUnreachable && attempt < ATTEMPTS => {
                    tracing::warn!("the source did not answer, attempt {attempt}: {fault}");
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The fault an error of this session makes.
    pub(super) fn fault(&self, error: tokio_postgres::Error) -> Fault {
        message::fault(error, Stage::Connected, self.endpoint.password.as_ref())
    }
}

fn invalid(error: &DsnError, class: FailureClass) -> Fault {
    // A parse error never quotes the string.
    Fault::new(class, format!("{error}; {}", error.hint))
}

/// `sslrootcert=system` means `verify-full` unless told otherwise, and nothing less than it, as in libpq.
fn sslmode(dsn: &Dsn) -> Result<SslMode, Fault> {
    let refuse = |what| Err(Fault::new(FailureClass::SourceDsnInvalid, what));
    match (dsn.sslrootcert.as_deref(), dsn.sslmode) {
        (None, _) => Ok(dsn.effective_sslmode()),
        (Some("system"), None | Some(SslMode::VerifyFull)) => Ok(SslMode::VerifyFull),
        (Some("system"), Some(_)) => refuse("sslrootcert=system needs sslmode=verify-full"),
        (Some(_), _) => refuse("sslrootcert can only be `system`: files are not read on the runner"),
    }
}

/// One attempt. Where the mode leaves a choice, the second way is tried when the first is refused, as libpq does.
async fn connect(addresses: &[SocketAddr], endpoint: &mut Endpoint, roots: &Roots) -> Result<Client, Fault> {
    let (stream, address) = dial::dial(addresses).await?;
    endpoint.address = address;
    let first = match endpoint.sslmode {
        SslMode::Disable | SslMode::Allow => start(stream, endpoint, Negotiation::Disable, roots).await,
        SslMode::Prefer => start(stream, endpoint, Negotiation::Prefer, roots).await,
        _ => start(stream, endpoint, Negotiation::Require, roots).await,
    };
    let second = match (endpoint.sslmode, &first) {
        (SslMode::Allow, Err(fault)) if fault.class == FailureClass::SourceAuthFailed => Negotiation::Require,
        (SslMode::Prefer, Err(fault))
            if matches!(fault.class, FailureClass::SourceAuthFailed | FailureClass::SourceTlsFailed) =>
        {
            Negotiation::Disable
        }
        _ => return first,
    };
    let (stream, _) = dial::dial(&[address]).await?;
    // If both are refused, the first refusal is the one to tell.
    start(stream, endpoint, second, roots).await.or(first)
}

async fn start(stream: TcpStream, endpoint: &Endpoint, tls: Negotiation, roots: &Roots) -> Result<Client, Fault> {
    if tls == Negotiation::Disable {
        return handshake(stream, endpoint, tls, NoTls).await;
    }
    let mut connector = tls::connector(endpoint.sslmode, roots)?;
    let Ok(connect) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &endpoint.host);
    handshake(stream, endpoint, tls, connect).await
}

async fn handshake<T>(stream: TcpStream, endpoint: &Endpoint, ssl: Negotiation, tls: T) -> Result<Client, Fault>
where
    T: TlsConnect<TcpStream>,
    T::Stream: Send + 'static,
{
    let mut config = Config::new();
    config.user(&endpoint.user).dbname(&endpoint.database).application_name(APPLICATION_NAME).ssl_mode(ssl);
    if let Some(password) = &endpoint.password {
        config.password(password.expose());
    }
    if let Some(options) = endpoint.options() {
        config.options(options);
    }
    let (client, connection) = timeout(STARTUP_TIMEOUT, config.connect_raw(stream, tls))
        .await
        .map_err(|_| Fault::new(FailureClass::SourceUnreachable, "the server did not finish the handshake in time"))?
        .map_err(|e| message::fault(e, Stage::Connecting, endpoint.password.as_ref()))?;
    tokio::spawn(async move {
        // Whoever uses the client learns of it, and the cause is theirs to tell.
        let _ = connection.await;
    });
    Ok(client)
}

/// Refuses a pooler that shares one server session among its clients' transactions, before anything is set in a session
/// that is others' too. Seen from outside: while another client is in a transaction, we are given that client's session
/// or one that was not ours before. Session pooling gives neither.
async fn refuse_shared(client: &Client, endpoint: &Endpoint, roots: &Roots) -> Result<(), Fault> {
    let backend = async |client: &Client| -> Result<i32, Fault> {
        let rows = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await;
        let rows = rows.map_err(|e| message::fault(e, Stage::Connected, endpoint.password.as_ref()))?;
        let number = rows.iter().find_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        number.ok_or_else(|| Fault::new(FailureClass::SourceUnreachable, "the server does not tell its process id"))
    };
    let before = backend(client).await?;
    let beside = async {
        let mut endpoint = endpoint.clone();
        let other = connect(&[endpoint.address], &mut endpoint, roots).await?;
        let begun = other.simple_query("BEGIN").await;
        begun.map_err(|e| message::fault(e, Stage::Connected, endpoint.password.as_ref()))?;
        let others = backend(&other).await?;
        Ok::<_, Fault>((other, others))
    };
    let (other, others) = timeout(STARTUP_TIMEOUT, beside).await.map_err(|_| {
        Fault::new(FailureClass::SourceUnreachable, "the server gives no second session, which pg_dump needs")
    })??;
    let after = backend(client).await?;
    drop(other);
    if others == before || before != after {
        let what = "a pooler gives every transaction another server session (transaction pooling)";
        return Err(Fault::new(FailureClass::SourcePooled, what));
    }
    Ok(())
}

/// The first thing a session does is to forget the search path: in a hostile database a plain `=` on it could be
/// anybody's function, run with our rights. The second is to have text in the database's own encoding, as pg_dump has
/// it: names that do not convert would fail here what pg_dump does not mind, and names that do would not be the
/// archive's any more.
async fn version(client: &Client) -> Result<ServerVersion, tokio_postgres::Error> {
    client.batch_execute("SET search_path = ''").await?;
    let encoding = "SELECT set_config('client_encoding', current_setting('server_encoding'), false)";
    client.batch_execute(encoding).await?;
    let query = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4";
    let row = client.query_one(query, &[]).await?;
    let number: i32 = row.try_get(1)?;
    Ok(ServerVersion { text: row.text(0)?, number: number.unsigned_abs() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(options: &str) -> Result<SslMode, FailureClass> {
        sslmode(&Dsn::parse(&format!("postgres://u@db.example.com/x{options}")).unwrap()).map_err(|fault| fault.class)
    }

    #[test]
    fn root_certificates_are_the_systems_or_none() {
        assert_eq!(mode(""), Ok(SslMode::Require));
        assert_eq!(mode("?sslrootcert=system"), Ok(SslMode::VerifyFull));
        assert_eq!(mode("?sslrootcert=system&sslmode=verify-full"), Ok(SslMode::VerifyFull));
        assert_eq!(mode("?sslrootcert=system&sslmode=require"), Err(FailureClass::SourceDsnInvalid));
        assert_eq!(mode("?sslrootcert=/etc/passwd"), Err(FailureClass::SourceDsnInvalid));
    }
}
