//! Where a page is run: a directory, a Postgres that is source and target, and what stands there for its reader's own.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::json;
use walwarden_tests::{Login, Platform, Postgres, bin, tools};

use super::{page::Page, shell::Shell};
use crate::{
    server::Port,
    stack::{Backup, Stack, text},
};

/// The database of every page but those about a platform.
pub const APP: &str = "app";
const PRELUDE_SQL: &str = "
    CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL);
    INSERT INTO customers (name) SELECT 'customer ' || n FROM generate_series(1, 1000) AS n;
    CREATE TABLE orders (id bigserial PRIMARY KEY, customer integer REFERENCES customers, note text);
    INSERT INTO orders (customer, note) SELECT n % 1000 + 1, md5(n::text) FROM generate_series(1, 20000) AS n;";

/// A stage.
pub struct Stage<'a> {
    pub stack: &'a Stack,
    pub postgres: Postgres,
    pub directory: tempfile::TempDir,
    /// As who the reader connects.
    pub login: Login,
    /// The database that is backed up.
    pub source: &'static str,
    /// What stands for what this page alone writes; it comes before what stands for what many do.
    pub own: Vec<(&'static str, String)>,
    port: Option<Port>,
}

impl<'a> Stage<'a> {
    /// For a page that begins where a server runs.
    pub fn with_server(stack: &'a Stack) -> Stage<'a> {
        let stage = Stage::new(stack, None);
        symlink(stack.server.data(), stage.directory.path().join(".walwarden")).expect("a link");
        stage
    }

    /// For a page that starts one itself.
    pub fn without_server(stack: &'a Stack) -> Stage<'a> {
        Stage::new(stack, Some(Port::take()))
    }

    fn new(stack: &'a Stack, port: Option<Port>) -> Stage<'a> {
        let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
        postgres.create_database(APP).unwrap();
        postgres.run_sql(APP, PRELUDE_SQL).unwrap();
        let login = Login {
            role: postgres.user().to_owned(),
            password: postgres.password().to_owned(),
            maintenance_database: "postgres".to_owned(),
        };
        Self::of(stack, postgres, login, APP, port)
    }

    fn of(stack: &'a Stack, postgres: Postgres, login: Login, source: &'static str, port: Option<Port>) -> Stage<'a> {
        let directory = tempfile::Builder::new().prefix("ww-page-").tempdir().expect("a directory");
        Stage { stack, postgres, directory, login, source, own: Vec::new(), port }
    }

    /// For a page about a platform whose customer has an application there; it begins where a server runs.
    pub fn on_platform(stack: &'a Stack, platform: Platform, major: u8) -> Stage<'a> {
        let postgres = Postgres::start(major).unwrap();
        let login = platform.prepare(&postgres).unwrap();
        platform.fill(&postgres, &login).unwrap();
        Self::of(stack, postgres, login, platform.database(), None)
    }

    /// Backs the source up, as its reader.
    pub fn backed_up(&self) -> (String, Backup) {
        let dsn = self.login.dsn(&self.postgres, self.source);
        // Not every client that is installed here was built with zstd.
        let more = json!({ "compression": { "codec": "gzip", "level": 6 } });
        let database = self.stack.add_database("source", &dsn, more);
        let backup = self.stack.back_up(&database);
        (database, backup)
    }

    /// Registers the database under the role that the page has its reader make.
    pub fn database(&self) -> String {
        let dsn = self.postgres.dsn_as("walwarden_backup", "choose-one", APP);
        let request = json!({ "name": APP, "dsn": dsn, "destinationId": self.stack.destination });
        text(&self.stack.api.post("/api/v1/databases", &request).ok()["id"])
    }

    fn url(&self) -> String {
        match &self.port {
            Some(port) => format!("http://127.0.0.1:{}", port.number),
            None => self.stack.api.url.clone(),
        }
    }

    fn data(&self) -> PathBuf {
        match &self.port {
            Some(_) => self.directory.path().join("var/lib/walwarden"),
            None => self.stack.server.data(),
        }
    }

    /// Runs a page; `more` is what it says its reader has in variables.
    pub fn run(&self, name: &str, literals: &[&'static str], more: &[(&'static str, String)]) -> Result<(), String> {
        let page = Page::read(tools::repository(), name);
        let programs = bin("walwarden-server").parent().expect("a directory").to_owned();
        let paths = [programs.clone(), self.postgres.bin_dir().to_owned(), "/usr/bin".into(), "/bin".into()];
        let host = format!("127.0.0.1:{}", self.postgres.port());
        let mut environment = vec![
            ("PATH", std::env::join_paths(paths).expect("paths").into_string().expect("a path")),
            ("HOME", shown(self.directory.path())),
            ("TMPDIR", shown(self.directory.path())),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("PGHOST", self.postgres.host().to_owned()),
            ("PGPORT", self.postgres.port().to_string()),
            ("PGUSER", self.login.role.clone()),
            ("PGPASSWORD", self.login.password.clone()),
            ("WALWARDEN_PG_BIN", shown(self.postgres.bin_dir())),
            ("PAGE_SOURCE", format!("postgresql://{}@{host}/{}", self.login.role, self.source)),
            ("PAGE_URL", self.url()),
            ("PAGE_DATA", shown(&self.data())),
        ];
        environment.extend(self.port.iter().map(|port| ("WALWARDEN_LISTEN", format!("127.0.0.1:{}", port.number))));
        environment.extend(more.iter().cloned());
        let own = |literal: &'static str| {
            let own = match literal {
                "http://127.0.0.1:8787" => self.url(),
                "/var/lib/walwarden" => shown(&self.data()),
                "/var/lib" => shown(self.data().parent().expect("a directory")),
                "$PWD/target/release" | "$PWD/target/debug" | "target/release" | "target/debug" => shown(&programs),
                "/usr/lib/postgresql/15/bin" => shown(self.postgres.bin_dir()),
                "db.example.com:5432" | "127.0.0.1:5432" => host.clone(),
                "https://s3.example.com" => self.stack.seaweed.endpoint(),
                "YOUR-ACCESS-KEY-ID" => self.stack.seaweed.access_key.clone(),
                "YOUR-SECRET-ACCESS-KEY" => self.stack.seaweed.secret_key.clone(),
                other => panic!("nothing stands for {other:?}"),
            };
            (literal, own)
        };
        let shell = Shell {
            directory: self.directory.path(),
            environment,
            literals: self.own.iter().cloned().chain(literals.iter().map(|literal| own(literal))).collect(),
            secrets: vec![self.login.password.clone(), self.stack.seaweed.secret_key.clone()],
        };
        shell.run(&page)
    }
}

pub fn shown(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}
