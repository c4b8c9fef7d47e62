//! Many at once: what may happen once happens once, and who may not is told so.

use std::{sync::Barrier, thread};

use reqwest::Method;
use serde_json::{Value, json};
use walwarden_contract::scopes::Scope;
use walwarden_tests::Postgres;

use crate::{
    api::{Answer, Api, fresh_key},
    evidence::{entries, kinds},
    patience,
    stack::{Stack, Verification, text},
};

fn postgres() -> Postgres {
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    for name in ["held", "free"] {
        postgres.create_database(name).unwrap();
        postgres.run_sql(name, "CREATE TABLE t AS SELECT generate_series(1, 100) AS n").unwrap();
    }
    postgres
}

/// The same call from many threads at the same moment.
fn at_once(count: usize, call: impl Fn(usize) -> Answer + Sync) -> Vec<Answer> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let (start, call) = (&start, &call);
        let calls = (0..count).map(|nth| {
            scope.spawn(move || {
                start.wait();
                call(nth)
            })
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| call.join().expect("a call")).collect()
    })
}

/// A session that keeps pg_dump waiting for a table of the database; dropping it lets it go on.
struct Hold(std::process::Child);

impl Hold {
    fn on(postgres: &Postgres, database: &str) -> Hold {
        let mut command = postgres.command("psql", database);
        command.args(["-X", "-q", "-c", "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"]);
        let hold =
            Hold(command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap());
        let held = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 't'::regclass AND granted";
        patience::expect("the lock", 20, || (postgres.query_one(database, held).unwrap() == "1").then_some(()));
        hold
    }

    fn release(self, postgres: &Postgres) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation IS NOT NULL";
        postgres.query_one("held", end).unwrap();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_backup_at_a_time_however_many_ask() {
    let stack = Stack::shared();
    let postgres = postgres();
    let database = stack.add_database("held", &postgres.dsn("held"), json!({}));
    let path = format!("/api/v1/databases/{database}/backups");
    let hold = Hold::on(&postgres, "held");
    let keys: Vec<String> = (0..10).map(|_| fresh_key()).collect();
    let answers = at_once(10, |nth| stack.api.post_under(&keys[nth], &path, &json!({})));
    let (started, refused): (Vec<_>, Vec<_>) = answers.iter().enumerate().partition(|(_, answer)| answer.status == 202);
    assert_eq!(started.len(), 1, "{:?}", answers.iter().map(Answer::text).collect::<Vec<_>>());
    let (winner, answer) = &started[0];
    let id = text(&answer.json()["backupJobId"]);
    for (_, answer) in &refused {
        answer.refused(409, "backup_already_active");
        assert_eq!(answer.json()["error"]["resourceId"], id, "{}", answer.text());
    }
    // The winner's key gives the winner's answer again; with another body it is another request.
    for answer in at_once(5, |_| stack.api.post_under(&keys[*winner], &path, &json!({}))) {
        assert_eq!((answer.status, &answer.json()["backupJobId"]), (202, &json!(id)), "{}", answer.text());
    }
    stack.api.post_under(&keys[*winner], &path, &json!({ "trigger": "adhoc" })).refused(409, "idempotency_mismatch");
    stack.api.request(Method::POST, &path, Some(&json!({})), None).refused(400, "idempotency_key_required");
    hold.release(&postgres);

    let backup = stack.completed(&id);
    let again = stack.api.post_under(&keys[*winner], &path, &json!({}));
    assert_eq!((again.status, &again.json()["backupJobId"]), (202, &json!(id)), "a replay after the end");
    let bundle = stack.bundle(&backup);
    Verification::of(&bundle, &stack.public_keys()).passes();
    let log = kinds(&entries(&bundle), &id);
    assert_eq!(log, ["backup.queued", "backup.claimed", "backup.running", "backup.finalizing", "backup.completed"]);
    let all = stack.api.get(&path).ok();
    assert_eq!(all["backups"].as_array().unwrap().len(), 1, "{all:#}");
}

#[test]
fn one_key_used_by_many_at_once_is_one_request() {
    let stack = Stack::shared();
    let postgres = postgres();
    let same = |path: &str, body: &Value, member: &str| {
        let key = fresh_key();
        let mut answers = at_once(8, |_| stack.api.post_under(&key, path, body));
        // Who comes while the first is still writing may be asked to come again: with the same key.
        for answer in &mut answers {
            patience::expect("an answer that is not `try again`", 20, || {
                if answer.status == 503 {
                    *answer = stack.api.post_under(&key, path, body);
                }
                (answer.status != 503).then_some(())
            });
        }
        let ids: Vec<Value> = answers.into_iter().map(|answer| answer.ok()[member].clone()).collect();
        assert!(ids.iter().all(|id| id.is_string() && *id == ids[0]), "{path}: {ids:?}");
        text(&ids[0])
    };
    let request = json!({ "name": "free", "dsn": postgres.dsn("free"), "destinationId": stack.destination });
    let database = same("/api/v1/databases", &request, "id");
    let backup = same(&format!("/api/v1/databases/{database}/backups"), &json!({}), "backupJobId");
    let backup = stack.completed(&backup);
    let restore =
        same("/api/v1/restores", &json!({ "backupJobId": backup.id, "mode": "new_database" }), "restoreJobId");
    let bundle = stack.bundle(&backup);
    Verification::of(&bundle, &stack.public_keys()).passes();
    assert_eq!(stack.api.get(&format!("/api/v1/restores/{restore}")).ok()["state"], "created");
}

#[test]
fn a_token_does_what_its_scopes_say_and_no_more() {
    let stack = Stack::shared();
    let postgres = postgres();
    let database = stack.add_database("free", &postgres.dsn("free"), json!({}));
    let other = stack.add_database("held", &postgres.dsn("held"), json!({}));
    let backup = stack.back_up(&database);
    let issued = stack.issue(&backup, None);
    let destination = &stack.destination;
    let new_database = json!({ "name": "more", "dsn": postgres.dsn("free"), "destinationId": destination });
    let new_restore = json!({ "backupJobId": backup.id, "mode": "new_database" });
    let (get, post) = (Method::GET, Method::POST);
    let operations = [
        (&get, "/destinations".to_owned(), Scope::DestinationsRead, json!(null)),
        (&get, format!("/destinations/{destination}"), Scope::DestinationsRead, json!(null)),
        (&post, "/destinations".into(), Scope::DestinationsWrite, json!({})),
        (&post, format!("/destinations/{destination}/preflight"), Scope::DestinationsWrite, json!({})),
        (&get, "/databases".into(), Scope::DatabasesRead, json!(null)),
        (&get, format!("/databases/{database}"), Scope::DatabasesRead, json!(null)),
        (&post, "/databases".into(), Scope::DatabasesWrite, new_database),
        (&post, format!("/databases/{database}/check"), Scope::DatabasesWrite, json!({})),
        (&Method::PUT, format!("/databases/{database}/schedule"), Scope::DatabasesWrite, json!({ "schedule": null })),
        (&get, format!("/databases/{database}/backups"), Scope::DatabasesRead, json!(null)),
        (&post, format!("/databases/{database}/backups"), Scope::BackupsTrigger, json!({})),
        (&get, format!("/backups/{}", backup.id), Scope::DatabasesRead, json!(null)),
        (&post, format!("/backups/{}/cancel", backup.id), Scope::BackupsTrigger, json!({})),
        (&get, "/evidence".into(), Scope::EvidenceRead, json!(null)),
        (&get, format!("/evidence/{}", backup.id), Scope::EvidenceRead, json!(null)),
        (&get, format!("/evidence/{}/bundle", backup.id), Scope::EvidenceExport, json!(null)),
        (&post, "/restores".into(), Scope::RestoresWrite, new_restore),
        (&get, format!("/restores/{}", issued.restore_id), Scope::RestoresRead, json!(null)),
    ];
    let token = |scopes: &[Scope], database: Option<&str>| -> Api {
        let request = json!({ "name": "a test", "scopes": scopes, "databaseId": database });
        let token = text(&stack.api.post("/api/v1/tokens", &request).ok()["token"]);
        Api { token, ..stack.api.clone() }
    };
    let nobody = Api { token: format!("wal_{}", "0".repeat(64)), ..stack.api.clone() };
    let call = |api: &Api, (method, path, _, body): &(&Method, String, Scope, Value)| {
        let body = Some(body).filter(|body| !body.is_null());
        api.request((*method).clone(), &format!("/api/v1{path}"), body, body.map(|_| fresh_key()).as_deref())
    };
    for operation in &operations {
        let scope = operation.2;
        let others: Vec<Scope> = Scope::ALL.iter().copied().filter(|other| *other != scope).collect();
        let answer = call(&token(&others, None), operation);
        answer.refused(403, "forbidden");
        assert_eq!(answer.json()["error"]["requiredScope"], scope.as_str(), "{}", operation.1);
        call(&nobody, operation).refused(401, "unauthorized");
        // With that scope alone it is not the token that stands in the way.
        let answer = call(&token(&[scope], None), operation);
        assert!(![401, 403].contains(&answer.status), "{}: {}", operation.1, answer.text());
    }

    // Bound to the other database, nothing of this one exists for it.
    let bound = token(Scope::ALL, Some(&other));
    for operation in operations
        .iter()
        .filter(|(_, path, ..)| [&database, &backup.id, &issued.restore_id].iter().any(|id| path.contains(id.as_str())))
    {
        call(&bound, operation).refused(404, "not_found");
    }
    let listed = bound.get("/api/v1/databases").ok();
    assert_eq!(listed["databases"].as_array().unwrap().len(), 1, "{listed:#}");
    // Tokens are the operator's affair.
    bound
        .post("/api/v1/tokens", &json!({ "name": "more", "scopes": [Scope::DatabasesRead] }))
        .refused(403, "forbidden");
}

#[test]
fn what_another_organization_has_does_not_exist() {
    let stack = Stack::shared();
    let api = &stack.api;
    // A well-formed id that nobody here has.
    let of = |kind: &str| format!("{kind}_01jd7z9k3m5n7p9r1t3v5x7z9a");
    let none = json!({});
    for (method, path, body) in [
        (Method::GET, format!("/destinations/{}", of("dst")), None),
        (Method::POST, format!("/destinations/{}/preflight", of("dst")), Some(&none)),
        (Method::GET, format!("/databases/{}", of("db")), None),
        (Method::POST, format!("/databases/{}/check", of("db")), Some(&none)),
        (Method::PUT, format!("/databases/{}/schedule", of("db")), Some(&json!({ "schedule": null }))),
        (Method::GET, format!("/databases/{}/backups", of("db")), None),
        (Method::POST, format!("/databases/{}/backups", of("db")), Some(&none)),
        (Method::GET, format!("/backups/{}", of("bkp")), None),
        (Method::POST, format!("/backups/{}/cancel", of("bkp")), Some(&none)),
        (Method::GET, format!("/evidence/{}", of("bkp")), None),
        (Method::GET, format!("/evidence/{}/bundle", of("bkp")), None),
        (Method::GET, format!("/evidence?databaseId={}", of("db")), None),
        (Method::POST, "/restores".into(), Some(&json!({ "backupJobId": of("bkp"), "mode": "new_database" }))),
        (Method::GET, format!("/restores/{}", of("rst")), None),
        (Method::DELETE, format!("/tokens/{}", of("tok")), None),
        (Method::GET, "/backups/not-an-id".into(), None),
        (Method::GET, "/databases/..%2f..".into(), None),
        (Method::GET, "/nothing".into(), None),
    ] {
        let key = body.map(|_| fresh_key());
        api.request(method, &format!("/api/v1{path}"), body, key.as_deref()).refused(404, "not_found");
    }
    // A worker's door is closed to whoever holds no session of that job.
    let (org, job) = (text(&api.get("/api/v1/profile").ok()["orgId"]), of("bkp"));
    let own = api.get(&format!("/worker/v1/{org}/{job}/instructions"));
    let foreign = api.get(&format!("/worker/v1/{}/{job}/instructions", of("org")));
    assert_eq!((own.status, foreign.status), (404, 404), "{} {}", own.text(), foreign.text());
}
