//! Clusters as platforms hand them out, each with an application in it.

use std::process::Command;

use walwarden_tests::Postgres;

/// What kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PlainSuperuser,
    PlainOwner,
    SupabaseLike,
    NeonLike,
    RdsLike,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::PlainSuperuser, Self::PlainOwner, Self::SupabaseLike, Self::NeonLike, Self::RdsLike];

    pub fn name(self) -> &'static str {
        match self {
            Self::PlainSuperuser => "plain, as superuser",
            Self::PlainOwner => "plain, as owner",
            Self::SupabaseLike => "Supabase-like",
            Self::NeonLike => "Neon-like",
            Self::RdsLike => "RDS-like",
        }
    }
}

/// A running one, and who logs in to it.
pub struct Platform {
    pub kind: Kind,
    pub server: Postgres,
    pub role: String,
    pub password: String,
    /// Where the application is.
    pub database: &'static str,
}

impl Platform {
    pub fn start(kind: Kind, major: u8) -> Self {
        let server = Postgres::start(major).expect("a server");
        let attributes = match kind {
            Kind::PlainSuperuser => "NOSUPERUSER",
            Kind::PlainOwner => "CREATEDB",
            Kind::RdsLike => "CREATEDB CREATEROLE",
            Kind::SupabaseLike | Kind::NeonLike => "CREATEDB CREATEROLE BYPASSRLS REPLICATION",
        };
        let customer = server.create_login("customer", attributes).expect("a login");
        // Every project of this platform has the same database, and it is never another's.
        let database = if kind == Kind::SupabaseLike { "postgres" } else { "app" };
        if database != "postgres" {
            server.run_sql("postgres", "CREATE DATABASE app OWNER customer TEMPLATE template0").expect("a database");
        }
        let script = match kind {
            Kind::PlainSuperuser | Kind::PlainOwner => include_str!("../../../platforms/plain.sql"),
            Kind::SupabaseLike => include_str!("../../../platforms/supabase.sql"),
            Kind::NeonLike => include_str!("../../../platforms/neon.sql"),
            Kind::RdsLike => include_str!("../../../platforms/rds.sql"),
        };
        server.run_sql(database, script).expect("the platform");
        let (role, password) = match kind {
            Kind::PlainSuperuser => (server.user().to_owned(), server.password().to_owned()),
            _ => ("customer".to_owned(), customer),
        };
        Self { kind, server, role, password, database }
    }

    /// Makes the application, and what a user of the platform's own tables adds.
    pub fn fill(&self) {
        let mut script =
            format!("SET SESSION AUTHORIZATION customer;\n{}", include_str!("../../../platforms/application.sql"));
        if self.kind == Kind::SupabaseLike {
            script.push_str(
                "CREATE TABLE public.members (id uuid PRIMARY KEY, plan text);
                 RESET SESSION AUTHORIZATION;
                 ALTER TABLE public.members ADD FOREIGN KEY (id) REFERENCES auth.users;
                 SET SESSION AUTHORIZATION customer;
                 CREATE POLICY own ON public.members TO authenticated USING (id = auth.uid());
                 INSERT INTO public.members SELECT md5(n::text)::uuid, 'free' FROM generate_series(1, 200) n;
                 ALTER PUBLICATION supabase_realtime ADD TABLE public.orders;",
            );
        } else {
            script.push_str("CREATE PUBLICATION orders_only FOR TABLE public.orders;");
        }
        self.server.run_sql(self.database, &script).expect("the application");
    }

    pub fn source_dsn(&self) -> String {
        self.server.dsn_as(&self.role, &self.password, self.database)
    }

    /// A fixture whose stock restore works is none of what people have.
    pub fn stock_restore_fails_as_it_does_in_the_field(&self) {
        let (vanilla, own): (&[&str], &[&str]) = match self.kind {
            Kind::PlainSuperuser | Kind::PlainOwner => return,
            Kind::SupabaseLike => (
                &["role \"supabase_admin\" does not exist"],
                &["must be member of role \"supabase_admin\"", "must be able to SET ROLE \"supabase_admin\""],
            ),
            Kind::NeonLike => (
                &["role \"authenticated\" does not exist", "role \"cloud_admin\" does not exist"],
                &["permission denied", "must be member of role \"cloud_admin\""],
            ),
            Kind::RdsLike => (
                &["role \"rdsadmin\" does not exist"],
                &["must be member of role \"rdsadmin\"", "must be able to SET ROLE \"rdsadmin\""],
            ),
        };
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("stock.dump");
        let mut dump = self.client("pg_dump");
        let output = dump.args(["-Fc", "-f"]).arg(&file).arg(self.database).output().expect("pg_dump");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stock = |restore: &mut Command| {
            let output = restore.args(["--exit-on-error", "-d", "stock"]).arg(&file).output().expect("pg_restore");
            assert!(!output.status.success(), "{:?}: stock pg_restore works", self.kind);
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let plain = Postgres::start(self.server.major()).expect("a server");
        plain.run_sql("postgres", "CREATE ROLE customer; CREATE DATABASE stock OWNER customer").expect("a database");
        let said = stock(&mut plain.command("pg_restore", "postgres"));
        assert!(vanilla.iter().any(|words| said.contains(words)), "{:?} into vanilla: {said}", self.kind);
        let same = Self::start(self.kind, self.server.major());
        same.server.run_sql("postgres", "CREATE DATABASE stock OWNER customer TEMPLATE template0").expect("a database");
        let said = stock(&mut same.client("pg_restore"));
        assert!(own.iter().any(|words| said.contains(words)), "{:?} into the same: {said}", self.kind);
    }

    /// A client program, connected as who logs in here.
    fn client(&self, program: &str) -> Command {
        let mut command = self.server.command(program, self.database);
        command.env("PGUSER", &self.role).env("PGPASSWORD", &self.password);
        command
    }
}
