//! Mutations under an idempotency key: once, and the same answer again.

use serde_json::{Value, json};

use crate::{audit, placed, stack::Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_lapsed_may_be_used_again() {
    let stack = Stack::start().await;
    let request = json!({
        "name": "bucket", "provider": "s3_compatible", "endpoint": "http://127.0.0.1:9", "region": "us-east-1",
        "bucket": "bucket", "accessKeyId": "AK", "secretAccessKey": "secret",
    });
    let create = async |request: &Value| stack.post("/api/v1/destinations").key("a key").json(request).send().await;
    let first = create(&request).await.expect(201);
    stack.clock.forward(7 * 24 * 3600 - 60);
    assert_eq!(create(&request).await.expect(201), first);
    // The record is still there: DynamoDB removes it "within a few days".
    stack.clock.forward(120);
    let second = create(&request).await.expect(201);
    assert_ne!(second["id"], first["id"]);
    assert_eq!(create(&request).await.expect(201), second);
    let mut other = request.clone();
    other["name"] = "another".into();
    create(&other).await.refused(409, "idempotency_mismatch");

    // As much for what revealed a secret.
    let request = json!({ "name": "n", "scopes": ["databases:read"] });
    let token = async || stack.post("/api/v1/tokens").key("a key").json(&request).send().await;
    token().await.expect(201);
    token().await.refused(409, "secret_already_revealed");
    stack.clock.forward(8 * 24 * 3600);
    token().await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_items_are_removed_from_an_embedded_table() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let records = |stack: &Stack| stack.items().iter().filter(|item| item.contains("#IDEMPOTENCY")).count();
    // The engine goes by the real clock: written long ago, the records have expired.
    stack.clock.forward(-30 * 24 * 3600);
    stack.trigger(&database).await;
    let before = records(&stack);
    assert_eq!(stack.engine.sweep_ttl().unwrap(), 1);
    assert_eq!(records(&stack), before - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_many_requests_at_once() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let backup = placed::completed(&stack, &database).await;
    let destination = stack.domain.database(&stack.org, &database).await.unwrap().body.destination_id;
    let bucket = json!({
        "name": "n", "provider": "s3_compatible", "endpoint": "http://127.0.0.1:9", "region": "r", "bucket": "bucket",
        "accessKeyId": "a", "secretAccessKey": "s",
    });
    let cases = [
        ("/api/v1/destinations".to_owned(), bucket, "destination.created"),
        ("/api/v1/databases".to_owned(), Stack::database_request(destination.as_str()), "database.created"),
        (format!("/api/v1/databases/{database}/backups"), json!({}), "backup.queued"),
        ("/api/v1/restores".to_owned(), json!({ "backupJobId": backup, "mode": "in_place" }), "restore.token_issued"),
        ("/api/v1/tokens".to_owned(), json!({ "name": "n", "scopes": ["databases:read"] }), "token.issued"),
    ];
    for (path, body, kind) in cases {
        let size = stack.log_size().await;
        let ask = || stack.post(path.clone()).key("at once").json(&body).send();
        let answers = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask());
        let answers: [_; 6] = answers.into();
        let done: Vec<&_> = answers.iter().filter(|a| (200..300).contains(&a.status)).collect();
        if path.ends_with("/tokens") {
            assert_eq!(done.len(), 1);
            for lost in answers.iter().filter(|a| a.status >= 300) {
                lost.refused(409, "secret_already_revealed");
            }
        } else {
            assert_eq!(done.len(), 6, "{path}: {:?}", answers.iter().map(|a| a.text()).collect::<Vec<_>>());
            assert!(done.iter().all(|a| a.bytes == done[0].bytes), "{path}");
        }
        let kinds: Vec<_> =
            stack.entries_since(size).await.iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, [kind], "{path}");
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_its_token_and_its_operation() {
    let stack = Stack::start().await;
    let (one, two) = (stack.bucketless().await, stack.bucketless().await);
    let token = stack.token(&["backups:trigger"], None).await;
    let trigger = async |database: &_, bearer: &str| {
        stack.post(format!("/api/v1/databases/{database}/backups")).bearer(bearer).key("same").send().await
    };
    let first = trigger(&one, &stack.operator).await.expect(202);
    let second = trigger(&two, &stack.operator).await.expect(202);
    assert_ne!(first["backupJobId"], second["backupJobId"]);
    let error = trigger(&one, &token).await.refused(409, "backup_already_active");
    assert_eq!(error["resourceId"], first["backupJobId"]);
    // A replay is for who may still do it.
    assert_eq!(trigger(&one, &stack.operator).await.expect(202), first);
    let stranger = stack.stranger().await;
    trigger(&one, &stranger).await.refused(404, "not_found");
}
