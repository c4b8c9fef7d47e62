//! Restore tokens and what becomes of the jobs behind them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use walwarden_contract::{
    ids::{BackupId, RestoreId},
    token::MAC_CONTEXT,
};
use walwarden_verifier::verify::{Supplied, verify};

use crate::{
    audit,
    bucket::Store,
    placed,
    stack::Stack,
    workers::{Session, claim_restore, completed, inspect, report, session_secret},
};

/// Issues a restore token.
pub async fn issue(stack: &Stack, backup: &BackupId) -> (RestoreId, String) {
    let request = json!({ "backupJobId": backup, "mode": "new_database" });
    let created = stack.post("/api/v1/restores").fresh().json(&request).send().await.expect(202);
    (created["restoreJobId"].as_str().unwrap().parse().unwrap(), created["token"].as_str().unwrap().to_owned())
}

async fn started() -> (Stack, BackupId) {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let backup = placed::completed(&stack, &database).await;
    (stack, backup)
}

async fn state_of(stack: &Stack, id: &RestoreId) -> String {
    let shown = stack.get(format!("/api/v1/restores/{id}")).send().await.expect(200);
    shown["state"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_changed_byte_passes_and_no_stranger_writes_the_log() {
    let (stack, backup) = started().await;
    let (id, token) = issue(&stack, &backup).await;
    let items = stack.items();
    for place in 0..token.len() {
        for other in [b'A', b'B', b'.', b'~'] {
            let mut changed = token.clone().into_bytes();
            if changed[place] == other {
                continue;
            }
            changed[place] = other;
            let changed = String::from_utf8(changed).unwrap();
            let refused = if place % 2 == 0 {
                inspect(&stack, &changed).await
            } else {
                claim_restore(&stack, &changed, &session_secret()).await
            };
            // Whether a changed audience or a changed MAC: nothing is said of the job.
            let error = refused.expect(401)["error"].clone();
            assert!(error["code"] == "token_invalid" || error["code"] == "token_wrong_audience", "{place}: {error}");
            assert!(error.get("resourceId").is_none());
        }
    }
    for odd in ["", ".", "a.b", &token[..token.len() - 1], &format!("{token}A"), &"A".repeat(5000)] {
        inspect(&stack, odd).await.refused(401, "token_invalid");
    }
    // Nothing at all was written, and the token is as good as before.
    assert_eq!(stack.items(), items);
    assert_eq!(state_of(&stack, &id).await, "created");
    inspect(&stack, &token).await.expect(200);
    assert_eq!(stack.items(), items);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_server_or_of_no_job_is_refused() {
    let (stack, backup) = started().await;
    let (_, token) = issue(&stack, &backup).await;
    let (payload, _) = token.split_once('.').unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    // With the right key, as another deployment that shares it would.
    let minted = async |field: &str, value: serde_json::Value| {
        let mut payload: walwarden_contract::token::RestoreTokenPayload =
            serde_json::from_value(payload.clone()).unwrap();
        let mut changed = serde_json::to_value(&payload).unwrap();
        changed[field] = value;
        payload = serde_json::from_value(changed).unwrap();
        let encoded = payload.encode();
        let (_, mac) = stack.domain.keyring.mac(format!("{MAC_CONTEXT}{encoded}").as_bytes()).await.unwrap();
        walwarden_contract::token::join(&encoded, &mac)
    };
    let other = minted("aud", "another-deployment".into()).await;
    inspect(&stack, &other).await.refused(401, "token_wrong_audience");
    let nobody = minted("jobIntentId", "rst_01jd7z9k3m5n7p9r1t3v5x7z9a".into()).await;
    claim_restore(&stack, &nobody, &session_secret()).await.refused(401, "token_invalid");
    // What the token says of its life is not what counts, and a job's own token says what the job says.
    let prolonged = minted("exp", json!(4_000_000_000_i64)).await;
    stack.clock.forward(3601);
    claim_restore(&stack, &prolonged, &session_secret()).await.refused(401, "token_expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_claimed_once() {
    let (stack, backup) = started().await;
    let (id, token) = issue(&stack, &backup).await;
    for _ in 0..3 {
        inspect(&stack, &token).await.expect(200);
    }
    assert_eq!(stack.kinds(id.as_str()).await, ["restore.token_issued"]);
    let first = session_secret();
    let claimed = claim_restore(&stack, &token, &first).await.expect(200);
    assert_eq!(claimed["restoreId"], id.as_str());
    // The same session may ask again: its answer was lost.
    let size = stack.log_size().await;
    claim_restore(&stack, &token, &first).await.expect(200);
    assert_eq!(stack.log_size().await, size);
    // Another may not, and that it tried is on record.
    let error = claim_restore(&stack, &token, &session_secret()).await.refused(409, "token_used");
    assert_eq!(error["resourceId"], id.as_str());
    inspect(&stack, &token).await.refused(409, "token_used");
    let rejected = stack.entries_of(id.as_str()).await;
    let rejected: Vec<_> = rejected.iter().filter(|e| e["kind"] == "restore.token_rejected").collect();
    assert_eq!(rejected.len(), 2);
    assert_eq!(rejected[0]["payload"]["reason"], "used");
    // The session is none the worse for it.
    Session::new(&stack, id.as_str(), &first).transition(&json!({ "to": "downloading" })).await.expect(200);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_showing_a_spent_token_does_not_fill_the_log() {
    let (stack, backup) = started().await;
    let (id, token) = issue(&stack, &backup).await;
    let session = Session::claim_restore(&stack, &token).await;
    for _ in 0..40 {
        inspect(&stack, &token).await.refused(409, "token_used");
    }
    let rejected = stack.kinds(id.as_str()).await.iter().filter(|kind| *kind == "restore.token_rejected").count();
    assert!((1..=10).contains(&rejected), "{rejected} entries");
    session.finish(&report()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_token_expires_with_an_entry() {
    let (stack, backup) = started().await;
    let (id, token) = issue(&stack, &backup).await;
    stack.clock.forward(3590);
    stack.sweep().await;
    assert_eq!(state_of(&stack, &id).await, "created");
    stack.clock.forward(11);
    // Nobody looked yet, and still it is too late.
    claim_restore(&stack, &token, &session_secret()).await.refused(401, "token_expired");
    stack.sweep().await;
    assert_eq!(state_of(&stack, &id).await, "cancelled");
    claim_restore(&stack, &token, &session_secret()).await.refused(401, "token_expired");
    let entries = stack.entries_of(id.as_str()).await;
    let cancelled = entries.iter().find(|e| e["kind"] == "restore.cancelled").unwrap();
    assert_eq!(cancelled["payload"]["reason"], "tokenExpired");
    let size = stack.log_size().await;
    stack.sweep().await;
    assert_eq!(stack.log_size().await, size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_shows_the_token_again_only_while_it_is_of_use() {
    let (stack, backup) = started().await;
    let request = json!({ "backupJobId": backup, "mode": "in_place" });
    let ask = async || stack.post("/api/v1/restores").key("one restore").json(&request).send().await;
    let first = ask().await.expect(202);
    let again = ask().await.expect(202);
    assert_eq!(first, again);
    assert!(first["oneLiner"]["native"].as_str().unwrap().ends_with("--mode in_place --confirm-destructive"));
    Session::claim_restore(&stack, first["token"].as_str().unwrap()).await;
    let error = ask().await.refused(409, "secret_already_revealed");
    assert_eq!(error["resourceId"], first["restoreJobId"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_restore_and_a_late_report_completes_it() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let backup = completed(&stack, &database).await;
    let (id, token) = issue(&stack, &backup).await;
    let session = Session::claim_restore(&stack, &token).await;
    // Long phases are bridged by signs of life.
    for _ in 0..4 {
        stack.clock.forward(500);
        session.heartbeat(1).await.expect(200);
        stack.sweep().await;
        assert_eq!(state_of(&stack, &id).await, "claimed");
    }
    stack.clock.forward(601);
    stack.sweep().await;
    assert_eq!(state_of(&stack, &id).await, "timed_out");
    // It was only out of reach.
    assert_eq!(session.heartbeat(2).await.expect(200)["action"], "continue");
    session.instructions().await.expect(200);
    assert_eq!(session.transition(&json!({ "to": "restoring" })).await.expect(200)["state"], "timed_out");
    stack.clock.forward(3600);
    let done = session.finish(&report()).await.expect(200);
    assert_eq!((done["state"].as_str(), done["final"].as_bool()), (Some("completed"), Some(true)));
    let entries = stack.entries_of(id.as_str()).await;
    assert_eq!(entries.last().unwrap()["payload"]["late"], true);
    let bundle = stack.get(format!("/api/v1/evidence/{backup}/bundle")).send().await;
    let found = verify(bundle.bytes.as_slice(), stack.domain.keyring.public_keys(), Supplied::default()).unwrap();
    assert_eq!(found.restored.len(), 1);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instructions_are_served_for_a_day() {
    let (stack, backup) = started().await;
    let (_, token) = issue(&stack, &backup).await;
    let session = Session::claim_restore(&stack, &token).await;
    stack.clock.forward(24 * 3600 - 60);
    session.instructions().await.expect(200);
    stack.clock.forward(120);
    session.instructions().await.refused(409, "state_conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_failed_or_was_interrupted_is_over() {
    let (stack, backup) = started().await;
    for (step, state) in [
        (json!({ "to": "failed", "class": "target_unreachable" }), "failed_retryable"),
        (json!({ "to": "failed", "class": "proof_differs" }), "failed_terminal"),
        (json!({ "to": "cancelled" }), "cancelled"),
        (json!({ "to": "cancelled", "reason": "requested" }), "cancelled"),
    ] {
        let (id, token) = issue(&stack, &backup).await;
        let session = Session::claim_restore(&stack, &token).await;
        session.transition(&step).await.expect(200);
        assert_eq!(session.transition(&step).await.expect(200)["state"], state);
        session.finish(&report()).await.refused(409, "state_conflict");
        session.instructions().await.refused(409, "state_conflict");
        assert_eq!(session.heartbeat(1).await.expect(200)["action"], "cancel");
        assert_eq!(state_of(&stack, &id).await, state);
        let last = stack.entries_of(id.as_str()).await.pop().unwrap();
        if state == "cancelled" {
            let reason = step["reason"].as_str().unwrap_or("interrupted");
            assert_eq!((&last["kind"], &last["payload"]["reason"]), (&json!("restore.cancelled"), &json!(reason)));
        }
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_must_be_of_this_backup_and_of_no_difference() {
    let (stack, backup) = started().await;
    let (id, token) = issue(&stack, &backup).await;
    let session = Session::claim_restore(&stack, &token).await;
    let size = stack.log_size().await;
    let with = |pointer: &str, value: serde_json::Value| {
        let mut changed = report();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    session.finish(&with("/checksumSha256", "00".repeat(32).into())).await.refused(412, "manifest_mismatch");
    session.finish(&with("/bytesRestored", 1.into())).await.refused(412, "manifest_mismatch");
    session.finish(&with("/proof/result", "different".into())).await.refused(400, "invalid_request");
    // What cannot be stated in a receipt is refused, and not tried again for ever.
    session.finish(&with("/targetServerVersion", "x".repeat(5000).into())).await.refused(400, "invalid_request");
    session.finish(&with("/pgRestoreVersion", "17\u{1b}[31m".into())).await.refused(400, "invalid_request");
    session.finish(&with("/proof/rows", u64::MAX.into())).await.refused(400, "invalid_request");
    let wrong = json!({ "to": "manifest_verified", "checksumSha256": "00".repeat(32) });
    session.transition(&wrong).await.refused(412, "manifest_mismatch");
    assert_eq!(stack.log_size().await, size);
    assert_eq!(state_of(&stack, &id).await, "claimed");
    session.finish(&report()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_an_old_backup_is_locked_all_the_same() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let destination = store.destination(&stack).await;
    let mut request = Stack::database_request(destination.as_str());
    request["retentionDays"] = 1.into();
    let created = stack.post("/api/v1/databases").fresh().json(&request).send().await.expect(201);
    let database = created["id"].as_str().unwrap().parse().unwrap();
    let backup = completed(&stack, &database).await;
    // The lock on the backup has ended; it is still there.
    stack.clock.forward(40 * 24 * 3600);
    let (id, token) = issue(&stack, &backup).await;
    let session = Session::claim_restore(&stack, &token).await;
    session.finish(&report()).await.expect(200);
    let key = stack.backup(&backup).await.receipt_key(&id);
    for _ in 0..500 {
        if !store.keys(&key).is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(store.locked_until(&key) > stack.clock.now_ms() / 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_not_taken_for_a_redacted_target() {
    let (stack, backup) = started().await;
    let ask = async |target: &str| {
        let request = json!({ "backupJobId": backup, "mode": "in_place", "targetRedactedDsn": target });
        stack.post("/api/v1/restores").fresh().json(&request).send().await
    };
    for secret in ["postgres://app:s3cr3t-target@db/x", "host=db user=app password=s3cr3t-target", "s3cr3t-target"] {
        ask(secret).await.refused(400, "invalid_request");
    }
    ask("postgresql://app@db.example.com:5432/x").await.expect(202);
    assert!(!stack.items().iter().any(|item| item.contains("s3cr3t-target")));
    assert!(!stack.transcript().iter().any(|(_, body)| body.contains("s3cr3t-target")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_needs_a_completed_backup_and_a_sound_name() {
    let (stack, backup) = started().await;
    let job = stack.backup(&backup).await;
    let live = stack.trigger(&job.database_id).await;
    let ask = async |request: serde_json::Value| stack.post("/api/v1/restores").fresh().json(&request).send().await;
    ask(json!({ "backupJobId": live, "mode": "new_database" })).await.refused(412, "backup_not_completed");
    for name in ["", "1st", "a b", "a;b", "ä", &"x".repeat(64)] {
        let request = json!({ "backupJobId": backup, "mode": "new_database", "createdDatabase": name });
        ask(request).await.refused(400, "invalid_request");
    }
    let request = json!({ "backupJobId": backup, "mode": "in_place", "createdDatabase": "x" });
    ask(request).await.refused(400, "invalid_request");
    let request = json!({ "backupJobId": backup, "mode": "new_database", "createdDatabase": "orders_copy-2" });
    let created = ask(request).await.expect(202);
    assert!(created["oneLiner"]["npx"].as_str().unwrap().contains("--created-database orders_copy-2"));
}
