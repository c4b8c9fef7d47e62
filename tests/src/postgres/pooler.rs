//! pgbouncer before a cluster.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::unprivileged::{give_to_server, scratch_directory, unprivileged};
use super::{Postgres, SUPERUSER};
use crate::guard::Guarded;
use crate::ports::PortBlock;
use crate::tools;

/// A running pgbouncer that lets the cluster's superuser into all of its databases; dropping it ends it.
pub struct Pooler {
    port: u16,
    server_port: u16,
    _program: Guarded,
    _ports: PortBlock,
}

impl Pooler {
    /// Starts one; `mode` is pgbouncer's `pool_mode`: `session` or `transaction`.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn before(postgres: &Postgres, mode: &str) -> anyhow::Result<Pooler> {
        let scratch = scratch_directory("pooler")?;
        let path = |name: &str| scratch.path().join(name);
        // A copy, for its user may not enter every checkout.
        std::fs::copy(tools::program("pgbouncer")?, path("pgbouncer"))?;
        std::fs::set_permissions(path("pgbouncer"), std::fs::Permissions::from_mode(0o755))?;
        let ports = PortBlock::take()?;
        let port = ports.port(0);
        std::fs::write(path("users"), format!("\"{SUPERUSER}\" \"{}\"\n", postgres.password()))?;
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n",
            postgres.host(),
            postgres.port(),
            path("users").display()
        );
        std::fs::write(path("settings"), settings)?;
        for name in ["users", "settings", "pgbouncer"] {
            give_to_server(&path(name))?;
        }
        let mut command = unprivileged(&path("pgbouncer"));
        command.env_clear().arg(path("settings"));
        let scratch = scratch.keep();
        let mut program = Guarded::start(&command, "TERM", &scratch)?;
        program.wait_until(Duration::from_secs(10), || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()))?;
        Ok(Pooler { port, server_port: postgres.port(), _program: program, _ports: ports })
    }

    /// A connection string of the cluster, by way of the pooler.
    pub fn dsn(&self, direct: &str) -> String {
        direct.replacen(&format!(":{}/", self.server_port), &format!(":{}/", self.port), 1)
    }
}
