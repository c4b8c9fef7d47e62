//! Throwaway Postgres clusters of every major that is installed.

mod installed;
mod pooler;
mod template;
mod unprivileged;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};

pub use self::pooler::Pooler;

use self::installed::{bin_dir, installed};
use self::template::Template;
use self::unprivileged::{scratch_directory, unprivileged};
use crate::guard::Guarded;
use crate::ports::PortBlock;
use crate::random;

/// A running cluster on the loopback interface; dropping it ends the server and removes its data.
///
/// The superuser is called `postgres` and has a random password (scram-sha-256, also on the socket). Nothing is synced to
/// disk. `wal_level` is `logical` and prepared transactions are allowed.
pub struct Postgres {
    major: u8,
    bin_dir: PathBuf,
    port: u16,
    password: String,
    socket_dir: PathBuf,
    _server: Guarded,
    _ports: PortBlock,
}

const SUPERUSER: &str = "postgres";

/// Puts a cluster's data on a small disk that only its own server sees, and runs the server.
const SMALL_DISK: &str = r#"
size=$1 template=$2 data=$3; shift 3
mount -t tmpfs -o "size=${size}m,mode=700" tmpfs "$data"
cp -a "$template/." "$data/"
mv "$data/pg_wal" "$data/../wal"
ln -s "$data/../wal" "$data/pg_wal"
exec "$@"
"#;

fn on_a_small_disk(server: &Command, megabytes: u32, template: &Path, data: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-e", "-c", SMALL_DISK, "small-disk"]).arg(megabytes.to_string());
    command.arg(template).arg(data).arg(server.get_program()).args(server.get_args());
    command
}

impl Postgres {
    /// Starts a cluster of this major version.
    ///
    /// # Errors
    /// When the major is not installed, or the server does not come up.
    pub fn start(major: u8) -> anyhow::Result<Postgres> {
        Self::start_with(major, &[])
    }

    /// Starts a cluster with more settings, `&[("datestyle", "German, DMY")]`; they win over those made here.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(major: u8, settings: &[(&str, &str)]) -> anyhow::Result<Postgres> {
        Self::launch(major, settings, None)
    }

    fn launch(major: u8, settings: &[(&str, &str)], megabytes: Option<u32>) -> anyhow::Result<Postgres> {
        let bin_dir = bin_dir(major)?;
        let template = Template::of(major, &bin_dir)?;
        let scratch = scratch_directory("pg")?;
        let data = scratch.path().join("data");
        match megabytes {
            None => drop(run(Command::new("cp").arg("-a").arg(&template.data).arg(&data))?),
            Some(_) => std::fs::create_dir(&data)?,
        }

        let ports = PortBlock::take()?;
        let port = ports.port(0);
        let mut command = unprivileged(&bin_dir.join("postgres"));
        command.arg("-D").arg(&data);
        let mut all = BTreeMap::from([
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", scratch.path().display().to_string()),
            ("fsync", "off".to_owned()),
            ("synchronous_commit", "off".to_owned()),
            ("full_page_writes", "off".to_owned()),
            ("max_wal_size", "4GB".to_owned()),
            ("wal_level", "logical".to_owned()),
            ("max_prepared_transactions", "10".to_owned()),
            ("max_connections", "60".to_owned()),
            ("jit", "off".to_owned()),
        ]);
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        for (name, value) in all {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        if let Some(megabytes) = megabytes {
            command = on_a_small_disk(&command, megabytes, &template.data, &data);
        }
        clean_environment(&mut command);
        let scratch = scratch.keep();
        let server = Guarded::start(&command, "QUIT", &scratch)?;
        let password = random::hex(16);
        let mut postgres = Postgres {
            major,
            bin_dir,
            port,
            password: template.password,
            socket_dir: scratch,
            _server: server,
            _ports: ports,
        };
        postgres.wait_until_ready()?;
        // Every cluster is a copy of one template, but no two of them have a password in common.
        postgres.run_sql("postgres", &format!("ALTER ROLE {SUPERUSER} PASSWORD '{password}'"))?;
        postgres.password = password;
        Ok(postgres)
    }

    /// Starts a cluster whose data lie on a disk of so many megabytes; its log of changes lies elsewhere, so that it is a
    /// statement that meets the full disk and not the server. Needs the right to mount.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_on_a_small_disk(major: u8, megabytes: u32) -> anyhow::Result<Postgres> {
        Self::launch(major, &[], Some(megabytes))
    }

    /// Ends the server as a power cut would, and leaves the rest to the drop.
    ///
    /// # Errors
    /// When it does not run.
    pub fn crash(&self) -> anyhow::Result<()> {
        let pid = std::fs::read_to_string(self.socket_dir.join("data/postmaster.pid"))?;
        let pid = pid.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, Signal::QUIT)?)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("psql", "postgres");
        command.args(["-X", "-q", "-c", "SELECT 1"]);
        self._server.wait_until(Duration::from_secs(30), || Ok(command.output()?.status.success()))
    }

    /// The majors that are installed, ascending: those of `.tools/pg` and the distribution's.
    pub fn majors_available() -> Vec<u8> {
        installed().into_keys().collect()
    }

    /// Whether this major's pg_dump can compress with zstd; several builds leave it out.
    pub fn client_supports_zstd(major: u8) -> bool {
        let Ok(bin_dir) = bin_dir(major) else { return false };
        let mut command = Command::new(bin_dir.join("pg_dump"));
        command.args(["--format=custom", "--compress=zstd:1", "--host=/nowhere", "--dbname=none"]);
        clean_environment(&mut command);
        // It refuses the option before it tries to connect.
        command.output().is_ok_and(|output| !String::from_utf8_lossy(&output.stderr).contains("compress"))
    }

    /// The major version.
    pub fn major(&self) -> u8 {
        self.major
    }

    /// The directory with this version's programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Always `127.0.0.1`.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's name.
    pub fn user(&self) -> &'static str {
        SUPERUSER
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The directory of the server's Unix socket; only root and the server's user may enter it.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The connection string of the superuser for a database.
    pub fn dsn(&self, database: &str) -> String {
        self.dsn_as(SUPERUSER, &self.password, database)
    }

    /// The connection string of another login.
    pub fn dsn_as(&self, user: &str, password: &str, database: &str) -> String {
        let [user, password, database] =
            [user, password, database].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC));
        format!("postgresql://{user}:{password}@{}:{}/{database}?sslmode=disable", self.host(), self.port)
    }

    /// A client program of this version, ready to connect to a database as the superuser; nothing else of our environment.
    pub fn command(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join(program));
        clean_environment(&mut command);
        command
            .env("PGHOST", self.host())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", &self.password)
            // In the environment a database's name is a name; as an argument one with `=` would be a connection string.
            .env("PGDATABASE", database);
        command
    }

    /// Runs a script with psql, each statement in a transaction of its own, until the first error.
    ///
    /// # Errors
    /// With psql's message, when a statement fails.
    pub fn run_sql(&self, database: &str, script: &str) -> anyhow::Result<()> {
        let mut command = self.command("psql", database);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().expect("a pipe");
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(move || stdin.write_all(script.as_bytes()));
            let output = child.wait_with_output();
            (output, writer.join().expect("the writer of psql's input"))
        });
        let output = written.0?;
        ensure!(
            output.status.success(),
            "psql in database {database:?} of Postgres {}: {}",
            self.major,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(())
    }

    /// The result of a query as psql prints it unaligned: for one value, that value as text.
    ///
    /// # Errors
    /// With psql's message, when the query fails.
    pub fn query_one(&self, database: &str, query: &str) -> anyhow::Result<String> {
        let mut command = self.command("psql", database);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", query]);
        let output = run(&mut command)?;
        let text = String::from_utf8(output.stdout).context("psql's output is not UTF-8")?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// The definitions of a database as pg_dump writes them, for comparing two databases.
    ///
    /// Without the lines it draws anew in each run, and as seen under one time zone and style of dates: the defaults of
    /// columns are printed by the database's own settings, which a restored database may not have yet.
    ///
    /// # Errors
    /// With pg_dump's message.
    pub fn schema(&self, database: &str) -> anyhow::Result<String> {
        let mut command = self.command("pg_dump", database);
        let settings = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C -c xmlbinary=base64";
        let output = run(command.arg("--schema-only").env("PGOPTIONS", settings))?;
        let text = String::from_utf8(output.stdout).context("pg_dump's output is not UTF-8")?;
        let kept = text.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
        Ok(kept.collect::<Vec<_>>().join("\n"))
    }

    /// Creates an empty database from `template0`.
    ///
    /// # Errors
    /// With psql's message.
    pub fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.run_sql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", quote_identifier(name)))
    }

    /// Creates a role that may log in, with attributes such as `CREATEDB` (or none), and returns its random password.
    ///
    /// # Errors
    /// With psql's message.
    pub fn create_login(&self, name: &str, attributes: &str) -> anyhow::Result<String> {
        let password = random::hex(16);
        self.run_sql(
            "postgres",
            &format!("CREATE ROLE {} LOGIN {attributes} PASSWORD '{password}'", quote_identifier(name)),
        )?;
        Ok(password)
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self._server.log_tail()
    }

    /// Ends the server and removes its data, as dropping it does.
    pub fn stop(self) {}
}

/// A name as SQL wants it.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Without the PG variables of whoever runs the tests, in a locale whose messages can be compared.
fn clean_environment(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC");
}

fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("could not run {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} failed ({}): {}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_installed_major_starts_answers_and_is_gone_afterwards() {
        let majors = Postgres::majors_available();
        assert!(majors.contains(&15) || majors.len() >= 3, "found {majors:?}; run tests/tools/install.sh");
        for major in majors {
            let postgres = Postgres::start_with(major, &[("datestyle", "German, DMY")]).unwrap();
            assert_eq!(postgres.query_one("postgres", "SHOW datestyle").unwrap(), "German, DMY");
            let version = postgres.query_one("postgres", "SHOW server_version_num").unwrap();
            assert_eq!(version.parse::<u32>().unwrap() / 10_000, u32::from(major));

            let odd = "a=b \"c\" ü";
            postgres.create_database(odd).unwrap();
            assert_eq!(postgres.query_one(odd, "SELECT current_database()").unwrap(), odd);
            let error = postgres.run_sql(odd, "SELECT 1; SELECT nonsense; SELECT 2").unwrap_err().to_string();
            assert!(error.contains("nonsense"), "{error}");

            let wrong =
                postgres.command("psql", odd).env("PGPASSWORD", "wrong").args(["-c", "SELECT 1"]).output().unwrap();
            assert!(!wrong.status.success());

            let (directory, port) = (postgres.socket_dir().to_owned(), postgres.port());
            postgres.stop();
            assert!(!directory.exists());
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        }
    }
}
