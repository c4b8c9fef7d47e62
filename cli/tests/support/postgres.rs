//! A throwaway cluster on loopback, run by an unprivileged user.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// `nobody`: Postgres refuses to run as root.
const NOBODY: u32 = 65_534;

pub struct Postgres {
    pub major: u32,
    pub port: u16,
    server: Child,
    settings: Vec<String>,
    directory: tempfile::TempDir,
}

pub fn bin_dir(major: u32) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/pg").join(major.to_string()).join("bin");
    [tools, format!("/usr/lib/postgresql/{major}/bin").into()]
        .into_iter()
        .find(|directory| directory.join("pg_dump").exists())
        .map(|d| d.canonicalize().unwrap())
}

pub fn majors() -> Vec<u32> {
    (14..=18).filter(|major| bin_dir(*major).is_some()).collect()
}

pub fn all_bin_dirs() -> std::ffi::OsString {
    std::env::join_paths(majors().into_iter().filter_map(bin_dir)).unwrap()
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C.UTF-8").current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Debian's where it is there: it is the one every machine of ours has.
pub fn usual_major() -> u32 {
    majors().into_iter().find(|major| *major == 15).unwrap_or_else(|| majors()[0])
}

impl Postgres {
    pub fn start(major: u32) -> Self {
        Self::start_with(major, &[])
    }

    pub fn start_with(major: u32, settings: &[&str]) -> Self {
        let bin = bin_dir(major).expect("this major");
        let directory = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = directory.path().join("data");
        let output = unprivileged(&bin.join("initdb"))
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self::serve(major, port, directory.path(), &settings);
        let postgres = Self { major, port, server, settings, directory };
        postgres.wait();
        postgres
    }

    fn serve(major: u32, port: u16, directory: &Path, settings: &[String]) -> Child {
        let mut command = unprivileged(&bin_dir(major).unwrap().join("postgres"));
        let usual = [
            "fsync=off",
            "listen_addresses=127.0.0.1",
            "wal_level=logical",
            "max_connections=50",
            "shared_buffers=64MB",
            "autovacuum=off",
        ];
        let own = [format!("port={port}"), format!("unix_socket_directories={}", directory.display())];
        for setting in usual.into_iter().map(str::to_owned).chain(settings.iter().cloned()).chain(own) {
            command.arg("-c").arg(setting);
        }
        let log = std::fs::File::create(directory.join("log")).unwrap();
        command.arg("-D").arg(directory.join("data")).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait(&self) {
        let begun = Instant::now();
        while !self.psql("postgres", "SELECT 1").status.success() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{}",
                std::fs::read_to_string(self.directory.path().join("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends as if the machine had gone down.
    pub fn crash(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
        self.server.wait().unwrap();
    }

    /// Runs again, with what it had.
    pub fn start_again(&mut self) {
        self.server = Self::serve(self.major, self.port, self.directory.path(), &self.settings);
        self.wait();
    }

    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(bin_dir(self.major).unwrap().join(program));
        command
            .env_clear()
            .env("LC_ALL", "C")
            .envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", database)])
            .env("PGPORT", self.port.to_string());
        command
    }

    fn psql(&self, database: &str, sql: &str) -> std::process::Output {
        self.client("psql", database)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap()
    }

    pub fn run(&self, database: &str, sql: &str) {
        let path = self.directory.path().join("script.sql");
        std::fs::write(&path, sql).unwrap();
        let output = self
            .client("psql", database)
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn one(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn json(&self, database: &str, query: &str) -> Value {
        serde_json::from_str(&self.one(database, &format!("SELECT coalesce(json_agg(q), '[]') FROM ({query}) q")))
            .unwrap()
    }

    /// Has a certificate of its own from now on; its file.
    pub fn with_tls(&self) -> PathBuf {
        let (key, certificate) =
            (self.directory.path().join("data/server.key"), self.directory.path().join("data/server.crt"));
        let mut openssl = unprivileged(Path::new("/usr/bin/openssl"));
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=db.example.com",
            "-addext",
            "subjectAltName=DNS:db.example.com",
        ]);
        let output = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.run("postgres", "ALTER SYSTEM SET ssl = on");
        self.run("postgres", "SELECT pg_reload_conf()");
        let begun = Instant::now();
        while !self
            .client("psql", "postgres")
            .env("PGSSLMODE", "require")
            .args(["-c", "SELECT 1"])
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "no TLS: {}",
                std::fs::read_to_string(self.directory.path().join("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        certificate
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn dsn(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A login that is no superuser, and its connection string.
    pub fn login(&self, name: &str, attributes: &str, database: &str) -> String {
        self.run("postgres", &format!("CREATE ROLE {name} LOGIN {attributes} PASSWORD 'hunter2hunter2'"));
        format!("postgresql://{name}:hunter2hunter2@127.0.0.1:{}/{database}", self.port)
    }

    /// A directory whose pg_restore runs the real one, then a script (`$DATABASE` is what was restored into).
    pub fn wrapped_pg_restore(&self, directory: &Path, instead: Option<&str>, then: &str) -> PathBuf {
        let bin = bin_dir(self.major).unwrap();
        let real = bin.join("pg_restore").display().to_string();
        let run = instead.map_or_else(|| format!("'{real}' \"$@\" || exit $?"), str::to_owned);
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in --version|--list) exec '{real}' \"$@\";; esac\nfor a in \"$@\"; do case \"$a\" in --dbname=*) DATABASE=${{a#--dbname=}};; esac; done\nPSQL='{}'\n{run}\n{then}\n",
            bin.join("psql").display()
        );
        let path = directory.join("pg_restore");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        directory.to_owned()
    }

    pub fn databases(&self) -> Vec<String> {
        self.one("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.server.wait();
    }
}
