//! Finds the one address that is talked to, by us and by pg_dump.
//!
//! A customer's host name is resolved once and its addresses are held against the deployment's rule; a name that leads
//! elsewhere a moment later leads nobody there.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use walwarden_contract::{address::AddressPolicy, dsn::Dsn, failure::FailureClass};

use crate::fault::Fault;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The addresses of a DSN's host that may be dialled.
pub(super) async fn resolve(dsn: &Dsn, policy: AddressPolicy) -> Result<Vec<SocketAddr>, Fault> {
    let found: Vec<_> = lookup_host((dsn.host.as_str(), dsn.port))
        .await
        .map_err(|e| Fault::new(FailureClass::SourceUnreachable, "the host name does not resolve").because(e))?
        .collect();
    let allowed: Vec<_> = found.iter().copied().filter(|address| policy.allows(address.ip())).collect();
    match (found.is_empty(), allowed.is_empty()) {
        (true, _) => Err(Fault::new(FailureClass::SourceUnreachable, "the host name has no address")),
        (false, true) => Err(Fault::plain(FailureClass::SourceAddressRefused)),
        (false, false) => Ok(allowed),
    }
}

/// Connects to the first address that answers.
pub(super) async fn dial(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut failures = Vec::new();
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream).map_err(|e| {
                    Fault::new(FailureClass::SourceUnreachable, "the connection broke at once").because(e)
                })?;
                return Ok((stream, *address));
            }
            Ok(Err(error)) => failures.push(error),
            Err(_) => failures.push(io::Error::new(ErrorKind::TimedOut, "no answer")),
        }
    }
    Err(unreachable(addresses, failures))
}

fn unreachable(addresses: &[SocketAddr], failures: Vec<io::Error>) -> Fault {
    let no_route = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable)
    };
    if addresses.iter().all(SocketAddr::is_ipv6) && !failures.is_empty() && failures.iter().all(no_route) {
        return Fault::plain(FailureClass::SourceIpv6Only);
    }
    let what = match failures.first().map(io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => "the connection was refused",
        Some(ErrorKind::TimedOut) => "the connection timed out",
        _ => "the connection failed",
    };
    let fault = Fault::new(FailureClass::SourceUnreachable, what);
    match failures.into_iter().next() {
        Some(error) => fault.because(error),
        None => fault,
    }
}

/// The snapshot's session is silent for as long as pg_dump reads the catalogue: middle boxes forget silent connections,
/// and we must learn of a dead server.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn private_addresses_are_dialled_only_where_that_is_allowed() {
        let dsn = Dsn::parse("postgres://u@127.0.0.1:1/x").unwrap();
        let refused = resolve(&dsn, AddressPolicy { allow_private: false }).await.unwrap_err();
        assert_eq!(refused.class, FailureClass::SourceAddressRefused);
        let allowed = resolve(&dsn, AddressPolicy { allow_private: true }).await.unwrap();
        assert_eq!(dial(&allowed).await.unwrap_err().class, FailureClass::SourceUnreachable);
        let metadata = Dsn::parse("postgres://u@169.254.169.254/x").unwrap();
        let refused = resolve(&metadata, AddressPolicy { allow_private: true }).await.unwrap_err();
        assert_eq!(refused.class, FailureClass::SourceAddressRefused);
    }

    #[test]
    fn a_host_that_only_ipv6_reaches_has_its_own_class() {
        let v6 = ["[2600::1]:5432".parse().unwrap()];
        let v4 = ["1.1.1.1:5432".parse().unwrap()];
        let failures = || vec![io::Error::from(ErrorKind::NetworkUnreachable)];
        assert_eq!(unreachable(&v6, failures()).class, FailureClass::SourceIpv6Only);
        assert_eq!(unreachable(&v4, failures()).class, FailureClass::SourceUnreachable);
        let refused = vec![io::Error::from(ErrorKind::ConnectionRefused)];
        assert_eq!(unreachable(&v6, refused).class, FailureClass::SourceUnreachable);
    }
}
