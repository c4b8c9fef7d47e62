//! Requests that are not what they should be: one clear refusal each, in JSON, with a hint, quoting no value.

use serde_json::{Value, json};

use crate::{placed, stack::Stack, workers::sha256};

/// Every route that takes a body, with one that it takes.
async fn takers(stack: &Stack) -> Vec<(String, String, String, Value)> {
    let database = stack.bucketless().await;
    let destination = stack.domain.database(&stack.org, &database).await.unwrap().body.destination_id;
    let backup = placed::completed(stack, &database).await;
    let live = stack.trigger(&database).await;
    placed::in_state(stack, &live, walwarden_contract::states::BackupState::Running).await;
    let worker = stack.job_path(live.as_str());
    let operator = stack.operator.clone();
    let bytes = json!({ "sizeBytes": 1, "sha256": sha256(b"x"), "md5": "00".repeat(16) });
    let with = |extra: Value| {
        let mut all = bytes.clone();
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        all
    };
    let api = |method: &str, path: &str, body: Value| (method.to_owned(), path.to_owned(), operator.clone(), body);
    let session =
        |what: &str, body: Value| ("POST".to_owned(), format!("{worker}/{what}"), placed::SESSION.to_owned(), body);
    vec![
        api(
            "POST",
            "/api/v1/destinations",
            json!({
                "name": "n", "provider": "s3_compatible", "endpoint": "http://127.0.0.1:9", "region": "r",
                "bucket": "bucket", "accessKeyId": "a", "secretAccessKey": "s",
            }),
        ),
        api("POST", "/api/v1/databases", Stack::database_request(destination.as_str())),
        api("PUT", &format!("/api/v1/databases/{database}/schedule"), json!({ "schedule": null })),
        api("POST", &format!("/api/v1/databases/{database}/backups"), json!({ "trigger": "adhoc" })),
        api("POST", "/api/v1/restores", json!({ "backupJobId": backup, "mode": "in_place" })),
        api("POST", "/api/v1/tokens", json!({ "name": "n", "scopes": ["databases:read"] })),
        session("claim", json!({ "secret": "s", "sessionSha256": sha256(b"x"), "workerVersion": "1" })),
        session("part", with(json!({ "number": 1 }))),
        session("document", with(json!({ "document": "annex" }))),
        session("heartbeat", json!({ "phase": "p", "bytes": 1, "bytesPerSecond": 1 })),
        session("finish", placed::finish()),
        ("POST".into(), "/worker/v1/restores/inspect".into(), String::new(), json!({ "token": "t" })),
        (
            "POST".into(),
            "/worker/v1/restores/claim".into(),
            String::new(),
            json!({ "token": "t", "sessionSha256": sha256(b"x"), "workerVersion": "1" }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies_are_refused_alike() {
    let stack = Stack::start().await;
    let takers = takers(&stack).await;
    let size = stack.log_size().await;
    for (method, path, bearer, good) in &takers {
        let send = async |body: String| stack.call(method, path.clone()).bearer(bearer).fresh().raw(body).send().await;
        let refused = async |what: &str, body: String, status: u16, code: &str| {
            let error = send(body).await.refused(status, code);
            for value in ["hunter2", "SECRET"] {
                assert!(!error.to_string().contains(value), "{method} {path}, {what}: {error}");
            }
            assert!(error["message"].as_str().unwrap().len() < 300, "{method} {path}, {what}: {error}");
        };
        let text = good.to_string();
        refused("cut off", text[..text.len() - 1].to_owned(), 400, "invalid_request").await;
        refused("not JSON", "hunter2".into(), 400, "invalid_request").await;
        refused("not UTF-8", String::from("\"hunter2"), 400, "invalid_request").await;
        refused("an array", "[\"hunter2\"]".into(), 400, "invalid_request").await;
        refused("a number", "12".into(), 400, "invalid_request").await;
        refused("trailing", format!("{text} hunter2"), 400, "invalid_request").await;
        refused("too deep", format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)), 400, "invalid_request").await;
        refused("too large", format!("{}{}", text, " ".repeat(70_000)), 413, "payload_too_large").await;
        let mut unknown = good.clone();
        unknown["surplus"] = "hunter2".into();
        refused("unknown field", unknown.to_string(), 400, "invalid_request").await;
        let odd = format!("{{\"SECRET{}\":1,{}", "x".repeat(5000), &text[1..]);
        refused("long unknown field", odd, 400, "invalid_request").await;
        for (field, value) in good.as_object().unwrap() {
            let mut wrong = good.clone();
            wrong[field] = if value.is_number() { json!("hunter2") } else { json!({ "odd": "hunter2" }) };
            refused(field, wrong.to_string(), 400, "invalid_request").await;
        }
        let twice = format!("{{{},{}", &text[1..text.len() - 1], &text[1..]);
        refused("fields twice", twice, 400, "invalid_request").await;
    }
    assert_eq!(stack.log_size().await, size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_methods_and_queries_that_are_not_there() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/api/v1"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v2/profile"),
        ("POST", "/api/v1/profile"),
        ("DELETE", "/api/v1/databases"),
        ("PUT", "/api/v1/restores"),
        ("GET", "/worker/v1/restores/inspect"),
        ("GET", "/worker/v1/nothing"),
        ("POST", "/.well-known/walwarden-pubkey.pem"),
    ] {
        stack.call(method, path).send().await.refused(404, "not_found");
    }
    for path in [
        "/api/v1/backups/%ff".to_owned(),
        format!("/api/v1/databases/{database}/backups?limit=%ff"),
        format!("/api/v1/databases/{database}/backups?limit=hunter2"),
        "/api/v1/evidence?databaseId=%ff&databaseId=2".to_owned(),
    ] {
        let refused = stack.get(path.clone()).send().await;
        assert!(matches!(refused.status, 400 | 404), "{path}");
        let code = if refused.status == 400 { "invalid_request" } else { "not_found" };
        let error = refused.refused(refused.status, code);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for id in [
        "x",
        "bkp_",
        "bkp_01JD7Z9K3M5N7P9R1T3V5X7Z9A",
        "db_01jd7z9k3m5n7p9r1t3v5x7z9a",
        "..%2f..",
        "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a",
    ] {
        stack.get(format!("/api/v1/backups/{id}")).send().await.refused(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_body_is_an_empty_object() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    stack.post(format!("/api/v1/databases/{database}/backups")).fresh().send().await.expect(202);
    stack.post("/api/v1/tokens").fresh().send().await.refused(400, "invalid_request");
    let error = stack
        .post(format!("/api/v1/databases/{database}/backups"))
        .fresh()
        .json(&json!({ "trigger": "schedule" }))
        .send()
        .await;
    error.refused(400, "invalid_request");
}
