//! How pg_dump is called. What is secret or comes from the customer goes by environment, never by argument: arguments
//! are for everybody to see. The one exception is the database's name, which would be read as a connection string if it
//! had a `=`, so it goes in as a quoted part of one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use walwarden_contract::quote;

use super::programs::PgDump;
use crate::source::{Endpoint, LeftOut};

/// Linux takes 2 MiB of arguments and environment (`ARG_MAX` at the usual stack limit).
const MAX_ARGUMENT_BYTES: usize = 1 << 20;

/// A server whose network died in the middle of a COPY is noticed after two minutes, not two hours. These have no
/// environment variables.
const KEEPALIVES: &str = "keepalives_idle=60 keepalives_interval=10 keepalives_count=6";

/// What pg_dump is told beside where to connect.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// gzip level; 0 where the archive is compressed by us.
    pub compress: u8,
    /// How long it waits for a table that somebody holds exclusively.
    pub lock_wait: Duration,
    /// What it leaves out.
    pub left_out: &'a LeftOut,
}

/// A pg_dump about to be started.
#[derive(Debug)]
pub struct Invocation {
    program: PathBuf,
    endpoint: Endpoint,
    options: Vec<String>,
    home: PathBuf,
    roots: Option<PathBuf>,
}

impl Invocation {
    /// pg_dump of a snapshot. `private` is a directory only we can enter; the roots of trust are written there, nothing
    /// secret is.
    pub fn new(
        program: &PgDump,
        endpoint: &Endpoint,
        snapshot: &str,
        wishes: Wishes<'_>,
        private: &Path,
    ) -> io::Result<Self> {
        let home = private.join("pg_dump");
        fs::create_dir_all(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        let roots = if endpoint.roots_pem.is_empty() {
            None
        } else {
            let path = home.join("roots.pem");
            fs::write(&path, &endpoint.roots_pem)?;
            Some(path)
        };
        let Wishes { compress, lock_wait, left_out } = wishes;
        let mut options = vec![
            "--format=custom".to_owned(),
            format!("--compress={compress}"),
            "--no-password".to_owned(),
            format!("--snapshot={snapshot}"),
            format!("--lock-wait-timeout={}", lock_wait.as_millis()),
            format!("--dbname=dbname={} {KEEPALIVES}", quote::conninfo(&endpoint.database)),
        ];
        options.extend(left_out.schemas.iter().map(|pattern| format!("--exclude-schema={pattern}")));
        options.extend(left_out.tables.iter().map(|pattern| format!("--exclude-table={pattern}")));
        options.extend(left_out.data.iter().map(|pattern| format!("--exclude-table-data={pattern}")));
        options.extend(left_out.large_objects.then(|| "--no-blobs".to_owned()));
        if options.iter().map(String::len).sum::<usize>() > MAX_ARGUMENT_BYTES {
            return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, "more is to be left out than can be named"));
        }
        let program = program.path.clone();
        Ok(Self { program, endpoint: endpoint.clone(), options, home, roots })
    }

    /// The command, its output piped.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        let endpoint = &self.endpoint;
        command
            .env_clear()
            .current_dir(&self.home)
            .env("PATH", "/usr/bin:/bin")
            // libpq looks for ~/.postgresql, ~/.pgpass and ~/.pg_service.conf.
            .env("HOME", &self.home)
            .env("PGPASSFILE", "/dev/null")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("PGHOST", &endpoint.host)
            .env("PGHOSTADDR", endpoint.address.ip().to_string())
            .env("PGPORT", endpoint.address.port().to_string())
            .env("PGUSER", &endpoint.user)
            .env("PGSSLMODE", endpoint.sslmode.as_str())
            .env("PGGSSENCMODE", "disable")
            .env("PGCONNECT_TIMEOUT", "30")
            .env("PGAPPNAME", crate::source::APPLICATION_NAME);
        if let Some(password) = &endpoint.password {
            // Only root and our own user can read a process' environment, and nothing stays behind on a disk.
            command.env("PGPASSWORD", password.expose());
        }
        if let Some(options) = endpoint.options() {
            command.env("PGOPTIONS", options);
        }
        if let Some(roots) = &self.roots {
            command.env("PGSSLROOTCERT", roots);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use walwarden_contract::{dsn::SslMode, secret::Secret};

    use super::*;
    use crate::pg_dump::programs;

    fn invocation(private: &Path, left_out: &LeftOut) -> Invocation {
        let endpoint = Endpoint {
            host: "db.example.com".into(),
            address: "192.0.2.7:6000".parse().unwrap(),
            user: "dumper".into(),
            password: Some(Secret::new("hunter2")),
            database: "odd='name\\".into(),
            sslmode: SslMode::VerifyFull,
            compute: Some("ep-1".into()),
            roots_pem: "roots".into(),
        };
        let program = programs::tests_program();
        let wishes = Wishes { compress: 0, lock_wait: Duration::from_secs(120), left_out };
        Invocation::new(&program, &endpoint, "00000003-1", wishes, private).unwrap()
    }

    #[test]
    fn arguments_hold_no_secret_and_the_environment_is_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let left_out = LeftOut {
            schemas: vec![r#""x.y""#.into()],
            tables: vec![r#""a"."b""#.into()],
            data: vec![r#""a"."c""#.into()],
            large_objects: true,
            ..LeftOut::default()
        };
        let command = invocation(directory.path(), &left_out).command();
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        assert_eq!(
            arguments,
            [
                "--format=custom",
                "--compress=0",
                "--no-password",
                "--snapshot=00000003-1",
                "--lock-wait-timeout=120000",
                r"--dbname=dbname='odd=\'name\\' keepalives_idle=60 keepalives_interval=10 keepalives_count=6",
                r#"--exclude-schema="x.y""#,
                r#"--exclude-table="a"."b""#,
                r#"--exclude-table-data="a"."c""#,
                "--no-blobs",
            ]
        );
        let environment: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?))).collect();
        for expected in [
            ("PGHOST", "db.example.com"),
            ("PGHOSTADDR", "192.0.2.7"),
            ("PGPORT", "6000"),
            ("PGUSER", "dumper"),
            ("PGPASSWORD", "hunter2"),
            ("PGSSLMODE", "verify-full"),
            ("PGOPTIONS", "endpoint=ep-1"),
        ] {
            assert!(environment.contains(&expected), "{expected:?}");
        }
        assert!(
            environment
                .iter()
                .all(|(name, _)| { name.starts_with("PG") || ["PATH", "HOME", "LC_ALL", "TZ"].contains(name) })
        );
    }
}
