//! A session that holds a lock.

use std::process::{Child, Stdio};

use walwarden_tests::Postgres;

use crate::patience;

/// Holds `ACCESS EXCLUSIVE` on a table until it is dropped.
pub struct Holder<'a> {
    child: Child,
    postgres: &'a Postgres,
    database: &'a str,
}

impl<'a> Holder<'a> {
    pub fn of(postgres: &'a Postgres, database: &'a str, table: &str) -> Self {
        let mut command = postgres.command("psql", database);
        let hold = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)");
        command.args(["-X", "-q", "-c", &hold]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = '{table}'::regclass AND granted"
        );
        patience::expect("the lock", 20, || (postgres.query_one(database, &held).unwrap() == "1").then_some(()));
        Self { child, postgres, database }
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        // Its server process would sleep on without a client.
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid() AND datname = current_database()";
        let _ = self.postgres.query_one(self.database, end);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
