//! Every route of the public API: who may use it, what it demands, what it leaves in the log. The routes are read from
//! the router's source: one that has no row here fails the test, and so does a row without a route.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use walwarden_contract::scopes::Scope;

use crate::{
    bucket::Store,
    stack::{Reply, Stack},
    workers::{Session, completed},
};

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Everyone,
    AnyToken,
    With(&'static str),
    Operator,
}

/// What a repeat means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing, or may be done again.
    Safe,
    /// An idempotency key is demanded; a replay gives the same answer.
    Once,
    /// As `Once`, but a replay is told that the secret was shown.
    OnceRevealing,
}

struct Row {
    method: &'static str,
    path: &'static str,
    who: Who,
    repeat: Repeat,
    status: u16,
    /// Body, with ids as in paths; and another body for the same key.
    body: &'static str,
    other: &'static str,
    /// Kinds of the entries that a success leaves.
    entries: &'static [&'static str],
}

const fn read(path: &'static str, who: Who) -> Row {
    Row { method: "GET", path, who, repeat: Repeat::Safe, status: 200, body: "", other: "", entries: &[] }
}

fn rows() -> Vec<Row> {
    use Repeat::{Once, OnceRevealing, Safe};
    use Who::{AnyToken, Everyone, Operator, With};
    vec![
        read("/healthz", Everyone),
        read("/.well-known/walwarden-pubkey.pem", Everyone),
        read("/.well-known/walwarden-keys.json", Everyone),
        read("/profile", AnyToken),
        read("/destinations", With("destinations:read")),
        Row {
            method: "POST",
            path: "/destinations",
            who: With("destinations:write"),
            repeat: Once,
            status: 201,
            body: r#"{"name":"n","provider":"aws_s3","bucket":"backups","region":"eu-central-1","roleArn":"arn:aws:iam::123456789012:role/r","externalId":"w-1"}"#,
            other: r#"{"name":"m","provider":"aws_s3","bucket":"backups","region":"eu-central-1","roleArn":"arn:aws:iam::123456789012:role/r","externalId":"w-1"}"#,
            entries: &["destination.created"],
        },
        read("/destinations/{destination}", With("destinations:read")),
        Row {
            method: "POST",
            path: "/destinations/{destination}/preflight",
            who: With("destinations:write"),
            repeat: Safe,
            status: 200,
            body: "",
            other: "",
            entries: &["destination.preflight"],
        },
        read("/databases", With("databases:read")),
        Row {
            method: "POST",
            path: "/databases",
            who: With("databases:write"),
            repeat: Once,
            status: 201,
            body: r#"{"name":"n","dsn":"postgresql://u:p@db.example.com/d","destinationId":"{destination}","schedule":"0 2 * * *"}"#,
            other: r#"{"name":"n","dsn":"postgresql://u:p@db.example.com/d","destinationId":"{destination}"}"#,
            entries: &["database.created", "database.schedule_changed"],
        },
        read("/databases/{database}", With("databases:read")),
        Row {
            method: "PATCH",
            path: "/databases/{database}",
            who: With("databases:write"),
            repeat: Safe,
            status: 200,
            body: r#"{"maxHours":2}"#,
            other: "",
            entries: &["database.updated"],
        },
        Row {
            method: "POST",
            path: "/databases/{database}/check",
            who: With("databases:write"),
            repeat: Safe,
            status: 202,
            body: "",
            other: "",
            entries: &[],
        },
        Row {
            method: "PUT",
            path: "/databases/{database}/schedule",
            who: With("databases:write"),
            repeat: Safe,
            status: 200,
            body: r#"{"schedule":null}"#,
            other: "",
            entries: &["database.schedule_changed"],
        },
        read("/databases/{database}/backups", With("databases:read")),
        Row {
            method: "POST",
            path: "/databases/{database}/backups",
            who: With("backups:trigger"),
            repeat: Once,
            status: 202,
            body: "{}",
            other: r#"{"trigger":"adhoc"}"#,
            entries: &["backup.queued"],
        },
        read("/backups/{backup}", With("databases:read")),
        Row {
            method: "POST",
            path: "/backups/{live}/cancel",
            who: With("backups:trigger"),
            repeat: Safe,
            status: 200,
            body: "",
            other: "",
            entries: &["backup.cancelled"],
        },
        read("/evidence", With("evidence:read")),
        read("/evidence/{backup}", With("evidence:read")),
        Row { entries: &["evidence.exported"], ..read("/evidence/{backup}/bundle", With("evidence:export")) },
        Row {
            method: "POST",
            path: "/restores",
            who: With("restores:write"),
            repeat: Once,
            status: 202,
            body: r#"{"backupJobId":"{backup}","mode":"new_database"}"#,
            other: r#"{"backupJobId":"{backup}","mode":"in_place"}"#,
            entries: &["restore.token_issued"],
        },
        read("/restores/{restore}", With("restores:read")),
        read("/tokens", Operator),
        Row {
            method: "POST",
            path: "/tokens",
            who: Operator,
            repeat: OnceRevealing,
            status: 201,
            body: r#"{"name":"n","scopes":["databases:read"]}"#,
            other: r#"{"name":"m","scopes":["databases:read"]}"#,
            entries: &["token.issued"],
        },
        Row {
            method: "DELETE",
            path: "/tokens/{token}",
            who: Operator,
            repeat: Safe,
            status: 200,
            body: "",
            other: "",
            entries: &["token.revoked"],
        },
    ]
}

/// `(method, path)` of every `.route(…)` in a router's source.
fn routes(source: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(format!("{}/src/{source}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut found = BTreeSet::new();
    for (start, _) in text.match_indices(".route(") {
        let inside = &text[start + ".route(".len()..];
        let mut depth = 1;
        let end = inside
            .char_indices()
            .find(|(_, c)| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth == 0
            })
            .expect("a closing parenthesis")
            .0;
        let (path, handlers) = inside[..end].split_once(',').expect("a path and its handlers");
        let path = path.trim().trim_matches('"').to_owned();
        let before = found.len();
        for method in ["get", "post", "put", "delete", "patch", "head", "options", "any"] {
            let called = format!("{method}(");
            let word = |at: usize| !handlers[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if handlers.match_indices(&called).any(|(at, _)| word(at)) {
                found.insert((method.to_uppercase(), path.clone()));
            }
        }
        assert!(found.len() > before, "no handler of {path} was understood");
    }
    found
}

/// Names of ids in paths are the rows' own.
fn plain(path: &str) -> String {
    path.replace("{live}", "{backup}")
}

#[test]
fn every_route_has_a_row_and_every_row_a_route() {
    let rows: BTreeSet<(String, String)> = rows().iter().map(|row| (row.method.to_owned(), plain(row.path))).collect();
    assert_eq!(rows, routes("api/mod.rs"));
}

struct Bench {
    stack: Stack,
    _store: Store,
    ids: BTreeMap<&'static str, String>,
}

impl Bench {
    async fn new() -> Self {
        let (stack, store) = (Stack::start().await, Store::new().await);
        let destination = store.destination(&stack).await;
        let database = stack.database(destination.as_str()).await;
        let backup = completed(&stack, &database).await;
        let (restore, _) = crate::restores::issue(&stack, &backup).await;
        let issued = stack.token(&["audit:read"], None).await;
        let token = stack.get("/api/v1/profile").bearer(&issued).send().await.expect(200)["tokenId"].clone();
        let live = stack.database(destination.as_str()).await;
        let live = stack.trigger(&live).await;
        let ids = BTreeMap::from([
            ("{destination}", destination.to_string()),
            ("{database}", database.to_string()),
            ("{backup}", backup.to_string()),
            ("{live}", live.to_string()),
            ("{restore}", restore.to_string()),
            ("{token}", token.as_str().unwrap().to_owned()),
        ]);
        Self { stack, _store: store, ids }
    }

    fn filled(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
    }

    fn path(&self, row: &Row) -> String {
        let path = self.filled(row.path);
        let bare = path == "/healthz" || path.starts_with("/.well-known/");
        if bare { path } else { format!("/api/v1{path}") }
    }

    /// As it should be, but for who asks and under which key.
    async fn ask(&self, row: &Row, bearer: Option<&str>, key: Option<&str>, body: &str) -> Reply {
        let mut call = self.stack.call(row.method, self.path(row)).raw(self.filled(body));
        call = match bearer {
            Some(token) => call.bearer(token),
            None => call.anonymous(),
        };
        if let Some(key) = key {
            call = call.key(key);
        }
        call.send().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_whom_it_must_and_leaves_what_it_should() {
    let bench = Bench::new().await;
    let stack = &bench.stack;
    let stranger = stack.stranger().await;
    let every: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    for row in rows() {
        let what = format!("{} {}", row.method, row.path);
        let size = stack.log_size().await;
        if row.who != Who::Everyone {
            bench.ask(&row, None, Some("k"), row.body).await.refused(401, "unauthorized");
            for bearer in ["wal_".to_owned() + &"0".repeat(64), "x".into(), stack.operator.replace("wal_", "")] {
                bench.ask(&row, Some(&bearer), Some("k"), row.body).await.refused(401, "unauthorized");
            }
        }
        let good = match row.who {
            Who::With(scope) => {
                let rest: Vec<&str> = every.iter().copied().filter(|other| *other != scope).collect();
                let lacking = stack.token(&rest, None).await;
                let refused = bench.ask(&row, Some(&lacking), Some("k"), row.body).await.refused(403, "forbidden");
                assert_eq!(
                    (&refused["requiredScope"], &refused["nextAction"]),
                    (&json!(scope), &json!("issue_token_with_scope")),
                    "{what}"
                );
                // Before anything else is said: not whether the body is well-formed, nor whether there is such a thing.
                bench.ask(&row, Some(&lacking), None, "{").await.refused(403, "forbidden");
                stack.token(&[scope], None).await
            }
            Who::Operator => {
                let all = stack.token(&every, None).await;
                bench.ask(&row, Some(&all), Some("k"), row.body).await.refused(403, "forbidden");
                stack.operator.clone()
            }
            Who::AnyToken => stack.token(&["audit:read"], None).await,
            Who::Everyone => String::new(),
        };
        let bearer = Some(good.as_str()).filter(|good| !good.is_empty());

        // Another organization: there is no such thing.
        if row.path.contains('{') || row.body.contains('{') && bench.filled(row.body) != row.body {
            bench.ask(&row, Some(&stranger), Some("k"), row.body).await.refused(404, "not_found");
        } else if row.who != Who::Everyone && row.method == "GET" && row.path != "/profile" {
            let list = bench.ask(&row, Some(&stranger), None, "").await.expect(200);
            let inside = list.as_object().unwrap().values().find_map(Value::as_array).unwrap();
            // Its own token is all that it has.
            assert_eq!(inside.len(), usize::from(row.path == "/tokens"), "{what}");
        }
        let kinds = |entries: Vec<Value>| -> Vec<String> {
            let kinds = entries.iter().map(|e| e["kind"].as_str().unwrap().to_owned());
            kinds.filter(|kind| kind != "token.issued" || row.path == "/tokens").collect()
        };
        assert_eq!(
            kinds(stack.entries_since(size).await).iter().filter(|k| *k != "token.issued").count(),
            0,
            "{what}: a refusal left entries"
        );

        if row.repeat != Repeat::Safe {
            for key in [None, Some(""), Some(&*"k".repeat(201))] {
                bench.ask(&row, bearer, key, row.body).await.refused(400, "idempotency_key_required");
            }
        }
        let size = stack.log_size().await;
        let first = bench.ask(&row, bearer, Some("the key"), row.body).await;
        assert_eq!(first.status, row.status, "{what}: {}", first.text());
        assert_eq!(kinds(stack.entries_since(size).await), row.entries, "{what}");
        let size = stack.log_size().await;
        if row.repeat != Repeat::Safe {
            let again = bench.ask(&row, bearer, Some("the key"), row.body).await;
            match row.repeat {
                Repeat::OnceRevealing => drop(again.refused(409, "secret_already_revealed")),
                _ => assert_eq!((again.status, again.text()), (first.status, first.text()), "{what}"),
            }
            bench.ask(&row, bearer, Some("the key"), row.other).await.refused(409, "idempotency_mismatch");
            assert_eq!(stack.log_size().await, size, "{what}");
        }
        if row.method == "GET" {
            assert_eq!(stack.log_size().await, size, "{what}");
        }
    }
    crate::audit::log(stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_protocol_refuses_whoever_does_not_hold_the_session() {
    let stack = Stack::start().await;
    let (database, other) = (stack.bucketless().await, stack.bucketless().await);
    let live = stack.trigger(&database).await;
    let session = Session::claim(&stack, live.as_str()).await;
    let foreign = stack.trigger(&other).await;
    let foreign = Session::claim(&stack, foreign.as_str()).await;
    let unclaimed = crate::placed::completed(&stack, &stack.bucketless().await).await;
    let (restore, _) = crate::restores::issue(&stack, &unclaimed).await;
    let stranger = stack.stranger().await;
    let items = stack.items();
    let by_session: Vec<_> = routes("worker.rs")
        .into_iter()
        .filter(|(_, path)| path.contains("{job}") && !path.ends_with("/claim"))
        .collect();
    assert_eq!(by_session.len(), 7);
    for (method, path) in &by_session {
        let of = |job: &str| path.replace("{org}", stack.org.as_str()).replace("{job}", job);
        stack.call(method, of(live.as_str())).anonymous().raw("{").send().await.refused(401, "unauthorized");
        for bearer in [foreign.secret.as_str(), &stack.operator, &stranger, "x", ""] {
            let refused = stack.call(method, of(live.as_str())).bearer(bearer).raw("{").send().await;
            refused.refused(401, "unauthorized");
        }
        // A job that nobody claimed yet has no session, not even an empty one.
        stack.call(method, of(restore.as_str())).bearer("").send().await.refused(401, "unauthorized");
        for job in ["bkp_01jd7z9k3m5n7p9r1t3v5x7z9a", "x", database.as_str()] {
            stack.call(method, of(job)).bearer(&session.secret).send().await.refused(404, "not_found");
        }
        let elsewhere = path.replace("{org}", "org_01jd7z9k3m5n7p9r1t3v5x7z9a").replace("{job}", live.as_str());
        stack.call(method, elsewhere).bearer(&session.secret).send().await.refused(404, "not_found");
    }
    let claim = json!({ "secret": session.secret, "sessionSha256": "00".repeat(32), "workerVersion": "1" });
    let path = |job: &str| format!("{}/claim", stack.job_path(job));
    stack.post(path(live.as_str())).anonymous().json(&claim).send().await.refused(401, "unauthorized");
    stack.post(path(restore.as_str())).anonymous().json(&claim).send().await.refused(400, "invalid_request");
    assert_eq!(stack.items(), items);
}
