//! Through a pooler: where it gives sessions all is as without it; where it does not, that is found before anything is
//! set in a session of somebody else's.

use std::collections::BTreeSet;

use serde_json::json;
use walwarden_tests::{Postgres, postgres::Pooler};

use crate::{restore::Restore, stack::Stack};

fn furnished() -> Postgres {
    let postgres = Postgres::start(*Postgres::majors_available().last().expect("a Postgres")).unwrap();
    postgres.create_database("pooled").unwrap();
    let rows = "CREATE TABLE t AS SELECT n, md5(n::text) AS body FROM generate_series(1, 20000) AS n;
        SELECT lo_from_bytea(0, 'large'); CREATE VIEW v AS SELECT count(*) FROM t";
    postgres.run_sql("pooled", rows).unwrap();
    postgres
}

#[test]
fn a_pooler_that_gives_sessions_is_as_good_as_none() {
    let postgres = furnished();
    let pooler = Pooler::before(&postgres, "session").unwrap();
    let stack = Stack::shared();
    let database = stack.add_database(
        "pooled",
        &pooler.dsn(&postgres.dsn("pooled")),
        json!({ "compression": { "codec": "gzip", "level": 6 } }),
    );
    let backup = stack.back_up(&database);
    let issued = stack.issue(&backup, Some("by_pooler"));
    let restore = Restore::new(&stack.api.url, &issued, &postgres).connect_by(&pooler.dsn(&postgres.dsn("postgres")));
    let said = restore.args(&["--created-database", "by_pooler", "--prove", "--jobs", "2"]).run().said.succeeded();
    assert!(said.stderr.contains("identical: 1 table"), "{said}");
}

#[test]
fn nothing_is_set_in_sessions_that_are_shared() {
    let postgres = furnished();
    let pooler = Pooler::before(&postgres, "transaction").unwrap();
    let stack = Stack::shared();
    let dsn = pooler.dsn(&postgres.dsn("pooled"));
    let request = json!({ "name": "shared", "dsn": dsn, "destinationId": stack.destination });
    let id = crate::stack::text(&stack.api.post("/api/v1/databases", &request).ok()["id"]);
    let check = crate::patience::expect("the check", 60, || {
        let check = stack.api.get(&format!("/api/v1/databases/{id}")).ok()["check"].clone();
        (check["final"] == true).then_some(check)
    });
    assert_eq!(check["failure"]["class"], "source_pooled", "{check:#}");
    // Sessions that an application gets afterwards are as the server makes them.
    let mut application = postgres.command("psql", "pooled");
    application.env("PGPORT", dsn.rsplit(':').next().unwrap().split('/').next().unwrap());
    let show = "SELECT current_setting('search_path') || ' ' || current_setting('client_encoding')";
    let seen: BTreeSet<String> = (0..6)
        .map(|_| String::from_utf8(application.args(["-X", "-A", "-t", "-c", show]).output().unwrap().stdout).unwrap())
        .collect();
    assert_eq!(
        seen.into_iter().collect::<String>().lines().collect::<BTreeSet<_>>(),
        ["\"$user\", public UTF8"].into()
    );
}
