//! A secret is in the one answer that it is for, and nowhere else: not in another answer, not in an item, not in the
//! log, not in the bucket.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    bucket::Store,
    restores,
    stack::{DSN_PASSWORD, Stack},
    workers::{Session, completed, dump, inspect, report},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stay_where_they_belong() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let issued = stack.token(&["databases:read"], None).await;

    // A whole life, with a failure in it.
    let id = stack.trigger(&database).await;
    let launched = stack.launched(id.as_str()).await;
    let runner = Session::new(&stack, id.as_str(), &crate::workers::session_secret());
    runner.claim_with(&launched).await.expect(200);
    runner.instructions().await.expect(200);
    runner.heartbeat(1).await.expect(200);
    let finish = runner.upload(&dump()).await;
    runner.finish(&finish).await.expect(202);
    stack.sealed(&id).await;
    let failing = stack.trigger(&database).await;
    let other = Session::claim(&stack, failing.as_str()).await;
    other.fail("source_auth_failed").await.expect(200);
    let backup = completed(&stack, &database).await;
    let (restore, token) = restores::issue(&stack, &backup).await;
    inspect(&stack, &token).await.expect(200);
    let cli = Session::claim_restore(&stack, &token).await;
    cli.instructions().await.expect(200);
    inspect(&stack, &token).await.refused(409, "token_used");
    cli.finish(&report()).await.expect(200);
    for path in [
        "/api/v1/profile".to_owned(),
        "/api/v1/destinations".to_owned(),
        "/api/v1/databases".to_owned(),
        "/api/v1/tokens".to_owned(),
        "/api/v1/evidence".to_owned(),
        format!("/api/v1/databases/{database}/backups"),
        format!("/api/v1/restores/{restore}"),
        format!("/api/v1/evidence/{backup}/bundle"),
        "/.well-known/walwarden-keys.json".to_owned(),
    ] {
        stack.get(path).send().await.expect(200);
    }
    // Mistakes with secrets in them.
    stack
        .post("/api/v1/databases")
        .fresh()
        .json(&json!({ "name": "n", "dsn": format!("x {DSN_PASSWORD}"), "destinationId": 1 }))
        .send()
        .await;
    stack
        .post("/worker/v1/restores/claim")
        .anonymous()
        .json(&json!({ "token": token, "sessionSha256": cli.secret, "workerVersion": "" }))
        .send()
        .await;

    let server = store.server();
    let mac = token.split_once('.').unwrap().1.to_owned();
    let secrets = [
        ("connection string's password", DSN_PASSWORD, vec!["/instructions"]),
        ("bucket's secret", &server.secret_key, vec![]),
        ("operator's token", &stack.operator, vec![]),
        ("issued token", &issued, vec!["POST /api/v1/tokens"]),
        ("restore token", &mac, vec!["POST /api/v1/restores"]),
        ("runner's session", &runner.secret, vec![]),
        ("CLI's session", &cli.secret, vec![]),
        ("claim secret", &launched, vec![]),
    ];
    let objects: Vec<(String, String)> = store
        .keys(&format!("org/{}/", stack.org))
        .into_iter()
        .map(|key| {
            let bytes = store.read(&key);
            (key, String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect();
    let (items, entries) = (stack.items(), stack.entries_since(0).await);
    for (what, secret, shown_by) in secrets {
        let encoded = STANDARD.encode(secret);
        let leaks = |text: &str| text.contains(secret) || text.contains(encoded.trim_end_matches('='));
        let mut shown = 0;
        for (call, body) in stack.transcript() {
            if leaks(&body) {
                assert!(shown_by.iter().any(|path| call.contains(path)), "the {what} is in the answer to {call}");
                shown += 1;
            }
        }
        assert_eq!(shown > 0, !shown_by.is_empty(), "the {what}");
        assert!(!items.iter().any(|item| leaks(item)), "the {what} is in the table");
        assert!(!entries.iter().any(|entry| leaks(&entry.to_string())), "the {what} is in the log");
        for (key, bytes) in &objects {
            assert!(!leaks(bytes), "the {what} is in the bucket, in {key}");
        }
    }
    assert!(items.len() > 40 && objects.len() > 10);
}
