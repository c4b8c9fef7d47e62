//! A backup from its trigger to its evidence, and what lies in the bucket then.

use serde_json::Value;
use walwarden_contract::ids::DatabaseId;
use walwarden_verifier::{
    keys::KeySet,
    verify::{Supplied, SuppliedCheckpoint, verify},
};

use crate::{
    audit,
    bucket::Store,
    stack::Stack,
    workers::{Session, completed, dump, fetch, report, sha256},
};

/// A JSON value with everything that differs from run to run named instead.
fn masked(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(masked_text(&text)),
        Value::Array(all) => all.into_iter().map(masked).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("versionId", Value::String(_)) => "[version]".into(),
                    (_, value) => masked(value),
                };
                (name, value)
            })
            .collect(),
        other => other,
    }
}

fn masked_text(text: &str) -> String {
    if walwarden_verifier::ids::is_time(text) {
        return "[time]".into();
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return "[sha256]".into();
    }
    let mut masked: Vec<String> = Vec::new();
    for word in text.split('/') {
        let date = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) && matches!(word.len(), 2 | 4);
        match word.split_once('_') {
            Some((kind, rest)) if rest.len() >= 26 && rest.is_char_boundary(26) => {
                masked.push(format!("[{kind}]{}", &rest[26..]));
            }
            _ if date => masked.push("0".repeat(word.len())),
            _ => masked.push(word.to_owned()),
        }
    }
    masked.join("/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_trigger_to_evidence() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;

    let id = stack.trigger(&database).await;
    assert_eq!(stack.active(&database).await, Some(id.clone()));
    let session = Session::claim(&stack, id.as_str()).await;
    let instructions = session.instructions().await.expect(200);
    assert_eq!(instructions["kind"], "backup");
    assert_eq!((instructions["partCap"].as_u64(), instructions["partDigest"].as_str()), (Some(10_000), Some("sha256")));
    assert_eq!(session.heartbeat(1).await.expect(200)["action"], "continue");

    let finish = session.upload(&dump()).await;
    session.heartbeat(7_000).await.expect(200);
    let shown = stack.shown(&id).await;
    assert_eq!((shown["state"].as_str(), shown["progress"]["bytes"].as_u64()), (Some("running"), Some(7_000)));
    assert_eq!(session.finish(&finish).await.expect(202)["state"], "finalizing");
    let job = stack.sealed(&id).await;
    assert_eq!(stack.active(&database).await, None);
    let state = session.state().await.expect(200);
    assert_eq!((state["state"].as_str(), state["final"].as_bool()), (Some("completed"), Some(true)));
    assert_eq!(
        stack.kinds(id.as_str()).await,
        ["backup.queued", "backup.claimed", "backup.running", "backup.finalizing", "backup.completed"]
    );

    insta::assert_json_snapshot!("backup", masked(stack.shown(&id).await));
    insta::assert_json_snapshot!(
        "evidence",
        masked(stack.get(format!("/api/v1/evidence/{id}")).send().await.expect(200))
    );
    insta::assert_json_snapshot!(
        "database",
        masked(stack.get(format!("/api/v1/databases/{database}")).send().await.expect(200))
    );
    let entries: Vec<Value> = stack.entries_of(id.as_str()).await;
    insta::assert_json_snapshot!(
        "entries",
        entries.into_iter().map(|e| masked(e["payload"].clone())).collect::<Vec<_>>()
    );

    // What lies in the bucket is all that is needed, and all of it is locked.
    let mut keys: Vec<String> =
        store.keys(&format!("org/{}/", stack.org)).into_iter().map(|k| masked_text(&k)).collect();
    keys.retain(|key| !key.contains("/keys/"));
    insta::assert_json_snapshot!("objects", keys);
    let keys = store.keys(&format!("org/{}/keys/", stack.org));
    assert_eq!(keys.len(), 3);
    let until = job.retain_until.parse::<jiff::Timestamp>().unwrap().as_second();
    for key in store.keys(&format!("org/{}/", stack.org)) {
        assert!(store.locked_until(&key) >= until, "{key}");
    }
    assert_eq!(store.read(&job.artifact_key()), dump().concat());

    // Offline, from the bucket alone.
    let pinned: String = keys.iter().map(|key| String::from_utf8(store.read(key)).unwrap()).collect();
    let pinned = KeySet::from_pem(&pinned).unwrap();
    let published = store.read(&job.bundle_key());
    let found = verify(published.as_slice(), &pinned, Supplied::default()).unwrap();
    assert_eq!(Some(&found.signed.manifest_hash), job.manifest_hash.as_ref());
    assert_eq!((found.signed.artifact_sha256, found.logged.backup_events), (sha256(&dump().concat()), 5));

    // A later bundle extends the checkpoint that the customer holds.
    let bundle = stack.get(format!("/api/v1/evidence/{id}/bundle")).send().await;
    assert_eq!((bundle.status, bundle.content_type.as_deref()), (200, Some("application/gzip")));
    let kept = store.keys(&format!("org/{}/log/0/", stack.org));
    let checkpoints = kept.iter().map(|key| SuppliedCheckpoint { name: key.clone(), note: store.read(key) }).collect();
    let served = stack.get("/.well-known/walwarden-pubkey.pem").anonymous().send().await;
    let served = KeySet::from_pem(&served.text()).unwrap();
    let found = verify(bundle.bytes.as_slice(), &served, Supplied { checkpoints, ..Supplied::default() }).unwrap();
    assert_eq!(found.witnessed.unwrap().checkpoints, 1);
    assert!(found.logged.tree_size > kept[0].rsplit('/').next().unwrap().parse().unwrap());

    assert_eq!(store.unfinished(&stack), []);
    audit::log(&stack).await;
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_from_token_to_receipt() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let backup = completed(&stack, &database).await;

    let request = serde_json::json!({ "backupJobId": backup, "mode": "new_database" });
    let created = stack.post("/api/v1/restores").fresh().json(&request).send().await.expect(202);
    let (id, token) = (created["restoreJobId"].as_str().unwrap(), created["token"].as_str().unwrap());
    let inspected = crate::workers::inspect(&stack, token).await.expect(200);
    assert_eq!(fetch(&inspected["annex"]).await, b"an annex, which the control plane never reads");
    assert_eq!(inspected["databaseLabel"], "orders");

    let session = Session::claim_restore(&stack, token).await;
    let instructions = session.instructions().await.expect(200);
    assert_eq!(fetch(&instructions["artifact"]).await, dump().concat());
    for step in ["downloading", "verifying"] {
        session.transition(&serde_json::json!({ "to": step })).await.expect(200);
    }
    let verified = serde_json::json!({ "to": "manifest_verified", "checksumSha256": report()["checksumSha256"] });
    session.transition(&verified).await.expect(200);
    // A repeat, and a step that comes late, change nothing.
    let size = stack.log_size().await;
    session.transition(&verified).await.expect(200);
    assert_eq!(
        session.transition(&serde_json::json!({ "to": "downloading" })).await.expect(200)["state"],
        "manifest_verified"
    );
    assert_eq!(stack.log_size().await, size);
    session.transition(&serde_json::json!({ "to": "restoring" })).await.expect(200);
    session.transition(&serde_json::json!({ "to": "finalizing" })).await.expect(200);
    let done = session.finish(&report()).await.expect(200);
    let receipt_hash = done["receiptHash"].as_str().unwrap();
    // Equal again is the same answer, anything else a refusal.
    assert_eq!(session.finish(&report()).await.expect(200)["receiptHash"], receipt_hash);
    let mut other = report();
    other["plan"]["adapted"] = 1.into();
    session.finish(&other).await.refused(409, "measurements_differ");

    insta::assert_json_snapshot!(
        "restore",
        masked(stack.get(format!("/api/v1/restores/{id}")).send().await.expect(200))
    );
    assert_eq!(
        stack.kinds(id).await,
        [
            "restore.token_issued",
            "restore.triggered",
            "restore.claimed",
            "restore.downloading",
            "restore.verifying",
            "restore.manifest_verified",
            "restore.restoring",
            "restore.finalizing",
            "restore.completed",
        ]
    );
    let key = stack.backup(&backup).await.receipt_key(&id.parse().unwrap());
    for _ in 0..1000 {
        if store.keys(&key) == [key.clone()] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let receipt = store.read(&key);
    let envelope = walwarden_verifier::dsse::Envelope::from_bytes(&receipt).unwrap();
    let receipt = walwarden_verifier::receipt::verify(&envelope, stack.domain.keyring.public_keys()).unwrap();
    assert_eq!(receipt.hash, receipt_hash);
    assert!(!receipt.statement.predicate.late);

    let bundle = stack.get(format!("/api/v1/evidence/{backup}/bundle")).send().await;
    let found = verify(bundle.bytes.as_slice(), stack.domain.keyring.public_keys(), Supplied::default()).unwrap();
    assert_eq!(found.restored.len(), 1);
    audit::log(&stack).await;
    still_protected(&stack, &database).await;
}

async fn still_protected(stack: &Stack, database: &DatabaseId) {
    let shown = stack.get(format!("/api/v1/databases/{database}")).send().await.expect(200);
    assert!(shown["protectedUntil"].is_string() && shown["lastCompletedBackupId"].is_string());
}
