//! API tokens: who may issue them, what they may do, how they end.

use serde_json::json;
use walwarden_contract::scopes::Scope;

use crate::{placed, stack::Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_until_it_expires_or_is_revoked() {
    let stack = Stack::start().await;
    let at = walwarden_contract::time::format_ms(stack.clock.now_ms() + 3_600_000);
    let request = json!({ "name": "ci", "scopes": ["databases:read"], "expiresAt": at });
    let created = stack.post("/api/v1/tokens").fresh().json(&request).send().await.expect(201);
    let token = created["token"].as_str().unwrap().to_owned();
    let profile = async |token: &str| stack.get("/api/v1/profile").bearer(token).send().await;
    assert_eq!(profile(&token).await.expect(200)["scopes"], json!(["databases:read"]));
    stack.clock.forward(3601);
    profile(&token).await.refused(401, "unauthorized");

    let token = stack.token(&["databases:read"], None).await;
    let id = profile(&token).await.expect(200)["tokenId"].as_str().unwrap().to_owned();
    let size = stack.log_size().await;
    let revoked = stack.call("DELETE", format!("/api/v1/tokens/{id}")).send().await.expect(200);
    assert!(revoked["revokedAt"].is_string());
    profile(&token).await.refused(401, "unauthorized");
    // Once is enough.
    assert_eq!(stack.call("DELETE", format!("/api/v1/tokens/{id}")).send().await.expect(200), revoked);
    assert_eq!(stack.log_size().await, size + 1);
    let listed = stack.get("/api/v1/tokens").send().await.expect(200);
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 3);
    for odd in ["", "wal_", "Bearer", &"wal_".repeat(17), &token.to_uppercase(), &format!("{token}0"), &token[..67]] {
        profile(odd).await.refused(401, "unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_operator_manages_tokens_and_it_stays() {
    let stack = Stack::start().await;
    let every: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let token = stack.token(&every, None).await;
    let request = json!({ "name": "more", "scopes": ["databases:read"] });
    // That comes first: before the key, the body, or whether there is such a token.
    stack.post("/api/v1/tokens").bearer(&token).raw("{").send().await.refused(403, "forbidden");
    stack.post("/api/v1/tokens").bearer(&token).fresh().json(&request).send().await.refused(403, "forbidden");
    stack.get("/api/v1/tokens").bearer(&token).send().await.refused(403, "forbidden");
    let own = stack.get("/api/v1/profile").send().await.expect(200)["tokenId"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/tokens/{own}");
    stack.call("DELETE", path.clone()).bearer(&token).send().await.refused(403, "forbidden");
    // Nobody could issue another.
    stack.call("DELETE", path).send().await.refused(409, "state_conflict");
    stack.get("/api/v1/tokens").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_token_is_made_of_is_checked() {
    let stack = Stack::start().await;
    let stranger = stack.stranger().await;
    let database = stack.bucketless().await;
    for request in [
        json!({ "name": "", "scopes": ["databases:read"] }),
        json!({ "name": "x".repeat(101), "scopes": ["databases:read"] }),
        json!({ "name": "a\u{1b}[2Jb", "scopes": ["databases:read"] }),
        json!({ "name": "n", "scopes": [] }),
        json!({ "name": "n", "scopes": ["capability:mcp"] }),
        json!({ "name": "n", "scopes": ["databases:read"], "expiresAt": "2020-01-01T00:00:00.000Z" }),
        json!({ "name": "n", "scopes": ["databases:read"], "expiresAt": "tomorrow" }),
    ] {
        stack.post("/api/v1/tokens").fresh().json(&request).send().await.refused(400, "invalid_request");
    }
    let request = json!({ "name": "n", "scopes": ["databases:read"], "databaseId": database });
    stack.post("/api/v1/tokens").bearer(&stranger).fresh().json(&request).send().await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_database_sees_and_does_nothing_else() {
    let stack = Stack::start().await;
    let (own, other) = (stack.bucketless().await, stack.bucketless().await);
    let (mine, theirs) = (placed::completed(&stack, &own).await, placed::completed(&stack, &other).await);
    let every: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let token = stack.token(&every, Some(&own)).await;
    let get = async |path: String| stack.get(path).bearer(&token).send().await;
    for (good, bad) in [
        (format!("/api/v1/databases/{own}"), format!("/api/v1/databases/{other}")),
        (format!("/api/v1/databases/{own}/backups"), format!("/api/v1/databases/{other}/backups")),
        (format!("/api/v1/backups/{mine}"), format!("/api/v1/backups/{theirs}")),
        (format!("/api/v1/evidence/{mine}"), format!("/api/v1/evidence/{theirs}")),
        (format!("/api/v1/evidence?databaseId={own}"), format!("/api/v1/evidence?databaseId={other}")),
    ] {
        get(good).await.expect(200);
        get(bad).await.refused(404, "not_found");
    }
    for (path, list) in [("/api/v1/databases", "databases"), ("/api/v1/evidence", "evidence")] {
        assert_eq!(get(path.into()).await.expect(200)[list].as_array().unwrap().len(), 1);
    }
    let post =
        async |path: String, body: serde_json::Value| stack.post(path).bearer(&token).fresh().json(&body).send().await;
    for path in [
        format!("/api/v1/databases/{other}/backups"),
        format!("/api/v1/databases/{other}/check"),
        format!("/api/v1/backups/{theirs}/cancel"),
    ] {
        post(path, json!({})).await.refused(404, "not_found");
    }
    let restore = |backup: &_| json!({ "backupJobId": backup, "mode": "in_place" });
    post("/api/v1/restores".into(), restore(&theirs)).await.refused(404, "not_found");
    let created = post("/api/v1/restores".into(), restore(&mine)).await.expect(202);
    get(format!("/api/v1/restores/{}", created["restoreJobId"].as_str().unwrap())).await.expect(200);
    let foreign = stack.post("/api/v1/restores").fresh().json(&restore(&theirs)).send().await.expect(202);
    get(format!("/api/v1/restores/{}", foreign["restoreJobId"].as_str().unwrap())).await.refused(404, "not_found");
    // What belongs to no database or would be another is not for it.
    let destination = stack.domain.database(&stack.org, &own).await.unwrap().body.destination_id;
    post("/api/v1/databases".into(), Stack::database_request(destination.as_str())).await.refused(403, "forbidden");
    let bucket = json!({
        "name": "n", "provider": "s3_compatible", "endpoint": "http://127.0.0.1:9", "region": "r", "bucket": "bucket",
        "accessKeyId": "a", "secretAccessKey": "s",
    });
    post("/api/v1/destinations".into(), bucket).await.refused(403, "forbidden");
    post(format!("/api/v1/destinations/{destination}/preflight"), json!({})).await.refused(403, "forbidden");
}
