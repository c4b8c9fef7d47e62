//! Names and passwords of all characters that Postgres takes: they reach the target as they are, whichever way they are
//! given, and a password reaches nobody else.

mod support;

use std::{path::Path, process::Command};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use support::{Backup, Postgres, Server, events, postgres, restore, said};
use walwarden_contract::quote;

/// What every name and the password are made of.
const STRANGE: &str = "--;$1 \"q\" 'q' =@%41\\ ü💥\n/:?#&";
/// Part of the password and of nothing else on this machine.
const SECRET: &str = "s3cr3t-of-names";

/// Ways to give a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Uri,
    Keywords,
    Flag,
    Variables,
}

struct Login {
    role: String,
    password: String,
}

impl Login {
    fn create(&self, postgres: &Postgres) {
        let (role, password) = (quote::ident(&self.role), quote::literal(&self.password));
        postgres.run("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD {password}"));
    }

    /// A restore of `backup` into `database`, told in a way.
    fn restore(&self, given: Given, at: (&Server, &Backup, u16), mode: &str, database: &str, work: &Path) -> Command {
        let (server, backup, port) = at;
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (user, name) = (encoded(&self.role), encoded(database));
        let uri = format!("postgresql://{user}:{}@127.0.0.1:{port}/{name}", encoded(&self.password));
        let [user_value, password_value, name_value] = [&self.role, &self.password, database].map(quote::conninfo);
        let keywords =
            format!("host=127.0.0.1 port={port} user={user_value} password={password_value} dbname={name_value}");
        let bare = format!("postgresql://127.0.0.1:{port}/{name}");
        let target = match given {
            Given::Uri => uri.as_str(),
            Given::Keywords => keywords.as_str(),
            Given::Flag => "postgresql://nobody@127.0.0.1:1/x",
            Given::Variables => bare.as_str(),
        };
        let mut command = restore(server, backup, target, mode, work);
        match given {
            Given::Uri | Given::Keywords => {}
            Given::Flag => drop(command.args(["--target", &keywords])),
            Given::Variables => drop(command.env("PGUSER", &self.role).env("PGPASSWORD", &self.password)),
        }
        command
    }
}

#[test]
fn strange_names_and_passwords_arrive_as_they_are_and_leak_nowhere() {
    let (source, target) = (Postgres::start(postgres::usual_major()), Postgres::start(postgres::usual_major()));
    let login = Login { role: format!("r {STRANGE}"), password: format!("\n{STRANGE}{SECRET}\n") };
    let database = format!("d {STRANGE}");
    let maintenance = format!("m {STRANGE}");
    assert!(database.len() <= 63);
    let (role, name) = (quote::ident(&login.role), quote::ident(&database));
    for postgres in [&source, &target] {
        login.create(postgres);
    }
    source.run("postgres", &format!("CREATE DATABASE {name} OWNER {role} TEMPLATE template0"));
    source.run(
        &database,
        &format!("SET ROLE {role}; CREATE TABLE {0} ({0} int PRIMARY KEY, v text); INSERT INTO {0} VALUES (1, 'x'); GRANT SELECT ON {0} TO PUBLIC", quote::ident(STRANGE)),
    );
    target.run("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", quote::ident(&maintenance)));
    let backup = Backup::of(&source, &database, "-Z6");
    let server = Server::start(&backup);
    let at = (&server, &backup, target.port);
    let all = [Given::Uri, Given::Keywords, Given::Flag, Given::Variables];
    for (given, mode) in all.into_iter().flat_map(|given| [(given, "new_database"), (given, "in_place")]) {
        let (work, wrapper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let noted = |name: &str| wrapper.path().join(name);
        let look = format!(
            "printf '%s\\n' \"$@\" > '{}'; for f in /proc/[0-9]*/cmdline; do cat \"$f\" 2>/dev/null; echo; done > '{}'; '{}' \"$@\" || exit $?",
            noted("arguments").display(),
            noted("processes").display(),
            postgres::bin_dir(target.major).unwrap().join("pg_restore").display()
        );
        let bin = target.wrapped_pg_restore(wrapper.path(), Some(&look), "");
        let connected = if mode == "in_place" { &database } else { &maintenance };
        let mut command = login.restore(given, at, mode, connected, work.path());
        command.env_remove("WALWARDEN_PG_BIN").arg("--pg-bin").arg(&bin).arg("--prove");
        command.args((mode == "in_place").then_some("--confirm-destructive"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{given:?}, {mode}: {}", said(&output));
        let completed = events(&output).pop().unwrap();
        assert_eq!(completed["payload"]["proof"]["result"], "identical", "{}", said(&output));
        assert_eq!(completed["payload"]["database"], database.as_str());
        let query = format!("SELECT v FROM {}", quote::ident(STRANGE));
        assert_eq!(target.one(&database, &query), "x");
        let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()";
        assert_eq!(target.one(&database, owner), login.role.trim_end());

        // The password is in no argument of what was started, in no output, and in nothing that is left.
        let arguments = std::fs::read_to_string(noted("arguments")).unwrap();
        assert!(!arguments.contains(SECRET) && !arguments.contains("127.0.0.1"), "{arguments}");
        let processes = String::from_utf8_lossy(&std::fs::read(noted("processes")).unwrap()).into_owned();
        let showing = processes.lines().filter(|line| line.contains(SECRET)).count();
        // A person's own command line is shown, and warned of.
        assert!(processes.contains("walwarden") && (given == Given::Flag || showing == 0), "{given:?}: {processes}");
        assert!(!said(&output).contains(SECRET), "{}", said(&output));
        assert_eq!(said(&output).contains("visible in this machine's process list"), given == Given::Flag);
        // What it says to look with works.
        let look = completed["payload"]["look"].as_str().unwrap();
        let seen = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("{look} -X -A -t -c \"$QUERY\""))
            .env("PATH", postgres::bin_dir(target.major).unwrap())
            .env("PGPASSWORD", &login.password)
            .env("QUERY", &query)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "x\n", "{look}: {}", String::from_utf8_lossy(&seen.stderr));
        if mode == "in_place" {
            target.run("postgres", &format!("DROP DATABASE {name}"));
        }
    }
}

#[test]
fn wrong_strange_passwords_are_refused_and_not_repeated() {
    let target = Postgres::start(postgres::usual_major());
    target.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    let login = Login { role: "r".into(), password: format!("{STRANGE}{SECRET}") };
    login.create(&target);
    let backup = Backup::of(&target, "source", "-Z6");
    let server = Server::start(&backup);
    let at = (&server, &backup, target.port);
    let wrong = Login { password: format!("{}\n", login.password), ..login };
    for given in [Given::Uri, Given::Keywords, Given::Variables] {
        let work = tempfile::tempdir().unwrap();
        let output = wrong.restore(given, at, "new_database", "postgres", work.path()).output().unwrap();
        let (code, text) = support::error(&output);
        assert_eq!((code.as_str(), output.status.code()), ("target_auth_failed", Some(2)), "{given:?}: {text}");
        assert!(!said(&output).contains(SECRET), "{}", said(&output));
    }
    assert_eq!(server.behaviour.claims.load(std::sync::atomic::Ordering::Relaxed), 0);
}
