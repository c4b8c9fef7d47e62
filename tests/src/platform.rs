//! Clusters as people have them: managed ones, where nobody who logs in is a superuser and part of a database belongs to
//! the platform, and plain ones.
//!
//! Nothing here is a platform's own code; roles, owners, grants and refusals are theirs, so that what their customers
//! meet when they back up and restore is met by the tests.

use std::process::Command;

use anyhow::Context;

use crate::postgres::Postgres;

/// Who runs the cluster, and what its customer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Nobody else: the customer is the superuser.
    PlainSuperuser,
    /// A login that may make databases and owns one, no more.
    PlainOwner,
    /// The customer is an administrator but no superuser, in a database half of which is `supabase_admin`'s.
    SupabaseLike,
    /// The customer owns its database, in which the superuser `cloud_admin` set default privileges.
    NeonLike,
    /// The customer is a member of `rds_superuser`, the superuser `rdsadmin` has a schema in its databases.
    RdsLike,
}

/// The customer, as who backups and restores connect.
pub struct Login {
    /// The role's name.
    pub role: String,
    /// Its password.
    pub password: String,
    /// A database it may connect to for making others.
    pub maintenance_database: String,
}

impl Login {
    /// The connection string for a database.
    pub fn dsn(&self, postgres: &Postgres, database: &str) -> String {
        postgres.dsn_as(&self.role, &self.password, database)
    }

    /// As [`Postgres::command`], connected as this role.
    pub fn command(&self, postgres: &Postgres, program: &str, database: &str) -> Command {
        let mut command = postgres.command(program, database);
        command.env("PGUSER", &self.role).env("PGPASSWORD", &self.password);
        command
    }
}

const ADMINISTRATOR: &str = "CREATEDB CREATEROLE BYPASSRLS REPLICATION";

const SHOP_ROLES: &str = include_str!("../platforms/shop_roles.sql");
const SHOP_APPLICATION: &str = include_str!("../platforms/shop_application.sql");
const SUPABASE_PROJECT: &str = include_str!("../platforms/supabase_project.sql");
const SUPABASE_APPLICATION: &str = include_str!("../platforms/supabase_application.sql");
const NEON_PROJECT: &str = include_str!("../platforms/neon_project.sql");
const NEON_DATABASE: &str = include_str!("../platforms/neon_database.sql");
const RDS_INSTANCE: &str = include_str!("../platforms/rds_instance.sql");
const RDS_DATABASE: &str = include_str!("../platforms/rds_database.sql");
const PLAIN_DATABASE: &str = include_str!("../platforms/plain_database.sql");

impl Platform {
    /// All of them.
    pub const ALL: [Platform; 5] =
        [Platform::PlainSuperuser, Platform::PlainOwner, Platform::SupabaseLike, Platform::NeonLike, Platform::RdsLike];

    /// The database [`Platform::fill`] fills.
    pub fn database(&self) -> &'static str {
        match self {
            Platform::PlainSuperuser | Platform::RdsLike => "shop",
            Platform::PlainOwner => "app",
            // Every project has the same.
            Platform::SupabaseLike => "postgres",
            Platform::NeonLike => "neondb",
        }
    }

    /// Makes a fresh cluster this platform's, as its customer finds it on the first day.
    ///
    /// On the Neon-like one and for the plain owner the groups that the application names exist already; on the other
    /// plain one and the RDS-like they are made with the application.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn prepare(&self, postgres: &Postgres) -> anyhow::Result<Login> {
        let (role, attributes) = match self {
            Platform::PlainSuperuser => (postgres.user(), None),
            Platform::PlainOwner => ("app_owner", Some("CREATEDB")),
            // As there, `postgres`; but that is the name of the superuser here.
            Platform::SupabaseLike => ("customer_postgres", Some(ADMINISTRATOR)),
            Platform::NeonLike => ("neondb_owner", Some(ADMINISTRATOR)),
            Platform::RdsLike => ("rds_customer", Some("CREATEDB CREATEROLE")),
        };
        let password = match attributes {
            Some(attributes) => postgres.create_login(role, attributes)?,
            None => postgres.password().to_owned(),
        };
        let login = Login { role: role.to_owned(), password, maintenance_database: "postgres".to_owned() };
        let run = |database: &str, script: &str| self.run(postgres, &login, database, script);
        match self {
            Platform::PlainSuperuser => {}
            Platform::PlainOwner => {
                run("postgres", SHOP_ROLES)?;
                run("postgres", "CREATE DATABASE :\"database\" OWNER :\"customer\" TEMPLATE template0")?;
            }
            Platform::SupabaseLike => run("postgres", SUPABASE_PROJECT)?,
            Platform::NeonLike => {
                run("postgres", NEON_PROJECT)?;
                run("postgres", &as_customer(SHOP_ROLES))?;
                run(self.database(), NEON_DATABASE)?;
            }
            Platform::RdsLike => run("postgres", RDS_INSTANCE)?,
        }
        Ok(login)
    }

    /// Fills the source database of a prepared cluster with what the platform and its customer's application put there,
    /// and returns its name.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn fill(&self, postgres: &Postgres, login: &Login) -> anyhow::Result<String> {
        let run = |database: &str, script: &str| self.run(postgres, login, database, script);
        let database = self.database();
        if matches!(self, Platform::PlainSuperuser | Platform::RdsLike) {
            run("postgres", &as_customer(SHOP_ROLES))?;
            run("postgres", &as_customer("CREATE DATABASE :\"database\" TEMPLATE template0"))?;
        }
        run(database, SHOP_APPLICATION)?;
        match self {
            Platform::PlainSuperuser => run(database, PLAIN_DATABASE)?,
            Platform::PlainOwner | Platform::NeonLike => {}
            Platform::SupabaseLike => run(database, SUPABASE_APPLICATION)?,
            Platform::RdsLike => run(database, RDS_DATABASE)?,
        }
        Ok(database.to_owned())
    }

    /// Runs a script of `tests/platforms` as the superuser, with the names it mentions as psql's variables.
    fn run(&self, postgres: &Postgres, login: &Login, database: &str, script: &str) -> anyhow::Result<()> {
        let [visitor, member, service] = match self {
            Platform::SupabaseLike => ["anon", "authenticated", "service_role"],
            _ => ["shop_visitor", "shop_member", "shop_service"],
        };
        let extensions = if *self == Platform::SupabaseLike { "extensions" } else { "public" };
        let variables = [
            ("customer", login.role.as_str()),
            ("database", self.database()),
            ("extensions", extensions),
            ("visitor", visitor),
            ("member", member),
            ("service", service),
        ];
        let variables: String = variables.iter().map(|(name, value)| format!("\\set {name} '{value}'\n")).collect();
        postgres.run_sql(database, &format!("{variables}{script}")).with_context(|| format!("{self:?}"))
    }
}

fn as_customer(script: &str) -> String {
    format!("SET SESSION AUTHORIZATION :\"customer\";\n{script}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// A prepared cluster.
    fn start(platform: Platform, major: u8) -> (Postgres, Login) {
        let postgres = Postgres::start(major).unwrap();
        let login = platform.prepare(&postgres).unwrap();
        (postgres, login)
    }

    /// What a program wrote, where it had nothing to complain of.
    fn output(mut command: Command) -> String {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A complete dump of a filled cluster, as the customer takes it, which leaves out nothing that the superuser's has.
    fn dump(platform: Platform, major: u8, archive: &Path) -> (Postgres, Login) {
        let (postgres, login) = start(platform, major);
        let database = platform.fill(&postgres, &login).unwrap();
        assert_eq!(database, platform.database());
        let mut command = login.command(&postgres, "pg_dump", &database);
        command.arg("-Fc").arg("-f").arg(archive);
        output(command);

        // Word for word, but for the lines drawn anew in each run.
        let plain = |command: Command| {
            let text = output(command);
            let drawn = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
            text.lines().filter(|line| !drawn(line)).map(str::to_owned).collect::<Vec<_>>()
        };
        let customers = plain(login.command(&postgres, "pg_dump", &database));
        let superusers = plain(postgres.command("pg_dump", &database));
        let difference = customers.iter().zip(&superusers).find(|(left, right)| left != right);
        assert!(customers == superusers, "{platform:?} on Postgres {major}: {difference:?}");

        let mut command = postgres.command("pg_restore", &database);
        command.arg("-l").arg(archive);
        let contents = output(command);
        for kind in KINDS {
            assert!(
                contents.contains(&format!(" {kind} ")),
                "{platform:?} on Postgres {major}: no {kind} in the archive"
            );
        }
        (postgres, login)
    }

    /// What a stock pg_restore into a new database of the login's says where it fails.
    fn restore(postgres: &Postgres, login: &Login, archive: &Path, arguments: &[&str]) -> String {
        let maintenance = &login.maintenance_database;
        postgres.run_sql(maintenance, "DROP DATABASE IF EXISTS restored").unwrap();
        let create = format!("CREATE DATABASE restored OWNER {} TEMPLATE template0", login.role);
        postgres.run_sql(maintenance, &create).unwrap();
        let mut command = login.command(postgres, "pg_restore", "restored");
        let output = command.args(arguments).args(["-d", "restored"]).arg(archive).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }

    /// The server's messages in what pg_restore said.
    fn errors(said: &str) -> Vec<&str> {
        said.lines().filter_map(|line| line.split_once("ERROR:  ")).map(|(_, error)| error).collect()
    }

    fn not_allowed_to_be(role: &str, major: u8) -> String {
        let refusal = if major >= 16 { "must be able to SET ROLE" } else { "must be member of role" };
        format!("{refusal} \"{role}\"")
    }

    #[test]
    fn a_supabase_like_dump_fails_elsewhere_as_real_ones_do() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = scratch.path().join("archive");
        for major in Postgres::majors_available() {
            let (source, login) = dump(Platform::SupabaseLike, major, &archive);
            is_a_supabase_like_customer(&source, &login);
            let bare = &["--no-owner", "--no-acl"];

            let (vanilla, superuser) = start(Platform::PlainSuperuser, major);
            let said = restore(&vanilla, &superuser, &archive, &["--exit-on-error"]);
            assert_eq!(errors(&said), ["role \"supabase_admin\" does not exist"], "Postgres {major}");
            let said = restore(&vanilla, &superuser, &archive, bare);
            let kinds = BTreeSet::from_iter(errors(&said));
            assert_eq!(kinds, BTreeSet::from(["role \"authenticated\" does not exist"]), "Postgres {major}");

            let (same, customer) = start(Platform::SupabaseLike, major);
            let said = restore(&same, &customer, &archive, &["--exit-on-error"]);
            assert_eq!(errors(&said), [not_allowed_to_be("supabase_admin", major)], "Postgres {major}");
            let said = restore(&same, &customer, &archive, bare);
            let errors = errors(&said);
            let of_triggers = errors.iter().all(|error| error.starts_with("permission denied to create event trigger"));
            assert!(errors.len() == 6 && of_triggers, "Postgres {major}: {errors:#?}");
        }
    }

    #[test]
    fn a_neon_like_dump_fails_at_the_default_privileges_of_another() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = scratch.path().join("archive");
        for major in Postgres::majors_available() {
            dump(Platform::NeonLike, major, &archive);
            let (same, customer) = start(Platform::NeonLike, major);
            let said = restore(&same, &customer, &archive, &["--exit-on-error"]);
            // The same refusal; 15 words it by what is missing.
            let refusal = match major {
                16.. => "permission denied to change default privileges",
                _ => "must be member of role \"cloud_admin\"",
            };
            assert_eq!(errors(&said), [refusal], "Postgres {major}");
            let statement = "ALTER DEFAULT PRIVILEGES FOR ROLE cloud_admin IN SCHEMA public GRANT";
            assert!(said.contains(statement), "Postgres {major}: {said}");
        }
    }

    #[test]
    fn an_rds_like_dump_fails_at_what_the_provider_owns() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = scratch.path().join("archive");
        for major in Postgres::majors_available() {
            let (postgres, customer) = dump(Platform::RdsLike, major, &archive);
            let said = restore(&postgres, &customer, &archive, &["--exit-on-error"]);
            assert_eq!(errors(&said), [not_allowed_to_be("rdsadmin", major)], "Postgres {major}");
        }
    }

    #[test]
    fn a_plain_dump_restores_where_its_roles_are() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = scratch.path().join("archive");
        for major in Postgres::majors_available() {
            for platform in [Platform::PlainSuperuser, Platform::PlainOwner] {
                let (postgres, customer) = dump(platform, major, &archive);
                let said = restore(&postgres, &customer, &archive, &["--exit-on-error"]);
                assert_eq!(said, "", "{platform:?} on Postgres {major}");
            }
        }
    }

    #[test]
    fn customers_have_the_attributes_they_have_there() {
        let postgres = Postgres::start(*Postgres::majors_available().last().unwrap()).unwrap();
        for (platform, expected) in [
            (Platform::PlainSuperuser, "SUPERUSER CREATEDB CREATEROLE BYPASSRLS REPLICATION"),
            (Platform::PlainOwner, "CREATEDB"),
            (Platform::SupabaseLike, ADMINISTRATOR),
            (Platform::NeonLike, ADMINISTRATOR),
            (Platform::RdsLike, "CREATEDB CREATEROLE"),
        ] {
            let login = platform.prepare(&postgres).unwrap();
            let query = format!(
                "SELECT concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
                    CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
                    CASE WHEN rolreplication THEN 'REPLICATION' END) FROM pg_roles WHERE rolname = '{}'",
                login.role
            );
            assert_eq!(postgres.query_one("postgres", &query).unwrap(), expected, "{platform:?}");
        }
    }

    /// Kinds of archive entries that every platform's source has, as `pg_restore -l` names them.
    const KINDS: &[&str] = &[
        "ACL",
        "BLOBS",
        "COMMENT",
        "CONSTRAINT",
        "DEFAULT ACL",
        "DOMAIN",
        "FK CONSTRAINT",
        "FUNCTION",
        "INDEX ATTACH",
        "MATERIALIZED VIEW DATA",
        "POLICY",
        "PROCEDURE",
        "PUBLICATION",
        "PUBLICATION TABLE",
        "ROW SECURITY",
        "SCHEMA",
        "SEQUENCE SET",
        "TABLE ATTACH",
        "TABLE DATA",
        "TRIGGER",
        "TYPE",
        "VIEW",
    ];

    /// Acts as its groups, reads everything, and owns only its part.
    fn is_a_supabase_like_customer(postgres: &Postgres, login: &Login) {
        let major = postgres.major();
        let ask = |query: &str| {
            let mut command = login.command(postgres, "psql", Platform::SupabaseLike.database());
            command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", query]);
            output(command).trim_end().to_owned()
        };
        for role in ["anon", "authenticated", "service_role", "supabase_auth_admin", "supabase_storage_admin"] {
            assert_eq!(ask(&format!("SET ROLE {role}; SELECT current_user")), role, "Postgres {major}");
        }
        // By inheritance of reading everything, and by belonging to the owner.
        assert_eq!(ask("SELECT count(*) FROM vault.secrets"), "1", "Postgres {major}");
        assert_eq!(ask("SELECT count(*) FROM auth.users"), "150", "Postgres {major}");
        let foreign = "SELECT count(*) > 10 FROM pg_proc WHERE proowner = 'supabase_admin'::regrole";
        assert_eq!(ask(foreign), "t", "Postgres {major}");
        let schemas = "SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace
            WHERE nspowner = 'supabase_admin'::regrole";
        let owned = "auth extensions graphql graphql_public realtime storage vault";
        assert_eq!(ask(schemas), owned, "Postgres {major}");
        // A user who is gone takes rows of the customer's along.
        let gone = "DELETE FROM auth.users WHERE email = 'user2@example.org'; SELECT count(*) FROM public.profiles";
        assert_eq!(ask(gone), "149", "Postgres {major}");
    }
}
