//! Attempts that fail, are lost, are never taken up, or are cancelled.

use serde_json::{Value, json};
use walwarden_contract::{ids::BackupId, states::BackupState};

use crate::{
    audit,
    bucket::Store,
    placed,
    stack::Stack,
    workers::{Session, dump, inspect, send_signed, session_secret, sha256},
};

/// Waits until the aborts that run behind answers have been made.
async fn cleared(stack: &Stack, store: &Store) {
    for _ in 0..500 {
        if store.unfinished(stack).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("unfinished uploads: {:?}", store.unfinished(stack));
}

async fn next_attempt(stack: &Stack, id: &BackupId) -> String {
    let shown = stack.shown(id).await;
    assert_eq!((shown["state"].as_str(), shown["final"].as_bool()), (Some("failed_retryable"), Some(false)));
    shown["nextAttemptAt"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_is_followed_by_another_under_fresh_keys() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let first = Session::claim(&stack, id.as_str()).await;
    first.start().await;
    let parts = dump();
    crate::workers::put(&first.part(1, &parts[0]).await.expect(200), &parts[0]).await;
    let status = first.fail("source_connection_lost").await.expect(200);
    assert_eq!((status["state"].as_str(), status["final"].as_bool()), (Some("failed_retryable"), Some(false)));
    assert_eq!(status["failure"]["class"], "source_connection_lost");
    // Said again it is the same; the upload of the attempt is aborted.
    first.fail("source_connection_lost").await.expect(200);
    cleared(&stack, &store).await;
    audit::database(&stack, &database).await;

    let at = next_attempt(&stack, &id).await;
    assert_eq!(stack.sweep().await, Vec::<String>::new());
    stack.clock.forward_to(&at);
    stack.sweep().await;
    let shown = stack.shown(&id).await;
    assert_eq!((shown["state"].as_str(), shown["attempt"].as_u64()), (Some("queued"), Some(2)));
    assert_eq!(
        (&shown["nextAttemptAt"], &shown["failure"], &shown["snapshotAt"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );

    // The runner of the first attempt is told to end, whatever it says.
    first.state().await.refused(401, "unauthorized");
    first.heartbeat(1).await.refused(401, "unauthorized");
    first.part(2, b"x").await.refused(401, "unauthorized");
    first.fail("runner_terminated").await.refused(401, "unauthorized");

    let second = Session::claim(&stack, id.as_str()).await;
    assert_eq!(second.instructions().await.expect(200)["attempt"], 2);
    let finish = second.upload(&parts).await;
    second.finish(&finish).await.expect(202);
    let job = stack.sealed(&id).await;
    assert_eq!(job.state, BackupState::Completed, "{:?}", job.failure);
    let keys = store.keys(&format!("org/{}/db/", stack.org));
    assert_eq!(keys.len(), 5);
    assert!(keys.iter().all(|key| key.contains(&format!("/{id}.2."))), "{keys:?}");
    let bundle = store.read(&job.bundle_key());
    let supplied = walwarden_verifier::verify::Supplied::default();
    let found =
        walwarden_verifier::verify::verify(bundle.as_slice(), stack.domain.keyring.public_keys(), supplied).unwrap();
    assert_eq!(found.signed.attempt, 2);
    assert_eq!(store.unfinished(&stack), []);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_failure_is_the_last() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id = stack.trigger(&database).await;
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let session = Session::claim(&stack, id.as_str()).await;
        let before = stack.clock.now_ms();
        let status = session.fail("source_unreachable").await.expect(200);
        assert_eq!(status["attempt"], attempt);
        audit::database(&stack, &database).await;
        if attempt < 3 {
            let at = next_attempt(&stack, &id).await;
            pauses.push((walwarden_contract::time::parse_ms(&at).unwrap() - before) / 1000);
            stack.clock.forward_to(&at);
            stack.sweep().await;
        }
    }
    assert!((30..=40).contains(&pauses[0]) && (120..=130).contains(&pauses[1]), "{pauses:?}");
    let shown = stack.shown(&id).await;
    assert_eq!((shown["state"].as_str(), shown["final"].as_bool()), (Some("failed_terminal"), Some(true)));
    assert_eq!((&shown["nextAttemptAt"], &shown["failure"]["class"]), (&Value::Null, &json!("source_unreachable")));
    let failed: Vec<_> =
        stack.entries_of(id.as_str()).await.into_iter().filter(|e| e["kind"] == "backup.failed").collect();
    assert_eq!(
        failed.iter().map(|e| e["payload"]["final"].as_bool().unwrap()).collect::<Vec<_>>(),
        [false, false, true]
    );
    // The next backup may start.
    stack.trigger(&database).await;
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_not_change_is_not_tried_again() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    assert_eq!(session.fail("source_auth_failed").await.expect(200)["state"], "failed_terminal");
    assert_eq!(session.heartbeat(1).await.expect(200)["action"], "cancel");
    assert_eq!(stack.active(&database).await, None);
    // What it may have left in the bucket is looked for once.
    for _ in 0..500 {
        if stack.backup(&id).await.leftovers.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(stack.backup(&id).await.leftovers.is_empty());
    stack.clock.forward(3600);
    assert_eq!(stack.sweep().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_runner_is_given_up_and_a_talking_one_is_not() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    session.start().await;
    for _ in 0..3 {
        stack.clock.forward(110);
        session.heartbeat(1).await.expect(200);
        stack.sweep().await;
        assert_eq!(stack.backup(&id).await.state, BackupState::Running);
    }
    // Nobody was there to hear it.
    stack.clock.forward(300);
    stack.domain.age_last_sweep(91).await.unwrap();
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.state, BackupState::Running);
    stack.clock.forward(119);
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.state, BackupState::Running);
    stack.clock.forward(2);
    assert_eq!(stack.sweep().await, ["ClearLeftovers"]);
    let job = stack.backup(&id).await;
    assert_eq!((job.state, job.failure.unwrap().as_str()), (BackupState::FailedRetryable, "runner_lost"));
    assert_eq!(store.unfinished(&stack), []);
    // It comes back to find that it was given up.
    assert_eq!(session.heartbeat(1).await.expect(200)["action"], "cancel");
    session.part(1, b"x").await.refused(409, "state_conflict");
    session.finish(&placed::finish()).await.refused(409, "state_conflict");
    // A heartbeat of the lost attempt does not keep the next one alive.
    stack.clock.forward_to(&next_attempt(&stack, &id).await);
    stack.sweep().await;
    Session::claim(&stack, id.as_str()).await;
    stack.clock.forward(121);
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.failure.unwrap().as_str(), "runner_lost");
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_a_sign_of_life() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    stack.clock.forward(119);
    session.start().await;
    stack.clock.forward(10);
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.state, BackupState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_claims_is_launched_anew_and_the_old_secret_is_void() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id = stack.trigger(&database).await;
    let old = stack.launched(id.as_str()).await;
    stack.clock.forward(30 * 60 - 10);
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.state, BackupState::Queued);
    stack.clock.forward(11);
    let late = Session::new(&stack, id.as_str(), &session_secret());
    late.claim_with(&old).await.refused(401, "token_expired");
    stack.sweep().await;
    assert_eq!(stack.backup(&id).await.failure.unwrap().as_str(), "never_claimed");
    stack.clock.forward_to(&next_attempt(&stack, &id).await);
    stack.sweep().await;
    late.claim_with(&old).await.refused(401, "unauthorized");
    Session::claim(&stack, id.as_str()).await;
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_failed_is_tried_again_within_minutes() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    stack.break_launcher();
    let id = stack.trigger(&database).await;
    let started = stack.clock.now_ms();
    stack.clock.forward(61);
    stack.sweep().await;
    assert!(!stack.has_launched(id.as_str()));
    stack.mend_launcher();
    stack.clock.forward(61);
    stack.sweep().await;
    Session::claim(&stack, id.as_str()).await;
    assert!(stack.clock.now_ms() - started < 5 * 60_000);

    // But not for ever.
    let other = stack.bucketless().await;
    stack.break_launcher();
    let id = stack.trigger(&other).await;
    for _ in 0..35 {
        stack.clock.forward(61);
        stack.sweep().await;
    }
    assert!(stack.backup(&id).await.failure.is_some_and(|class| class.as_str() == "never_claimed"));

    // A check says so at once: a person waits for it.
    let checked = stack.post(format!("/api/v1/databases/{other}/check")).send().await.expect(202);
    assert_eq!(checked["check"]["failure"]["class"], "never_claimed");
    stack.mend_launcher();
    let checked = stack.post(format!("/api/v1/databases/{other}/check")).send().await.expect(202);
    Session::claim(&stack, checked["check"]["id"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_belongs_to_one_runner() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id = stack.trigger(&database).await;
    let launched = stack.launched(id.as_str()).await;
    let (one, two) =
        (Session::new(&stack, id.as_str(), &session_secret()), Session::new(&stack, id.as_str(), &session_secret()));
    one.claim_with("wrong").await.refused(401, "unauthorized");
    let malformed = json!({ "secret": launched, "sessionSha256": "ABC", "workerVersion": "1" });
    stack
        .post(format!("{}/claim", stack.job_path(id.as_str())))
        .anonymous()
        .json(&malformed)
        .send()
        .await
        .refused(400, "invalid_request");
    let claimed = one.claim_with(&launched).await.expect(200);
    assert_eq!((claimed["attempt"].as_u64(), claimed["jobId"].as_str()), (Some(1), Some(id.as_str())));
    // The answer was lost: the same session asks again.
    let size = stack.log_size().await;
    one.claim_with(&launched).await.expect(200);
    two.claim_with(&launched).await.refused(409, "already_claimed");
    two.state().await.refused(401, "unauthorized");
    assert_eq!(stack.log_size().await, size);
    assert_eq!(stack.kinds(id.as_str()).await, ["backup.queued", "backup.claimed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_found_lost_or_never_taken_up() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let path = format!("/api/v1/databases/{database}");
    let check = async || {
        let shown = stack.get(path.clone()).send().await.expect(200);
        (shown["check"]["id"].as_str().unwrap().to_owned(), shown["check"].clone())
    };
    stack.clock.forward(15 * 60 + 1);
    stack.sweep().await;
    let (_, shown) = check().await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["class"].as_str()), (Some("failed"), Some("never_claimed")));

    let size = stack.log_size().await;
    stack.post(format!("{path}/check")).send().await.expect(202);
    let (id, _) = check().await;
    let session = Session::claim(&stack, &id).await;
    assert_eq!(session.instructions().await.expect(200)["kind"], "check");
    // Asked for again while one is under way it is that one, and its runner is left alone.
    stack.post(format!("{path}/check")).send().await.expect(202);
    assert_eq!(check().await.0, id);
    assert_eq!(session.heartbeat(0).await.expect(200)["action"], "continue");
    session.part(1, b"x").await.refused(400, "invalid_request");
    session.document("annex", b"x").await.refused(400, "invalid_request");
    stack.clock.forward(15 * 60 + 1);
    stack.sweep().await;
    let (_, shown) = check().await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["class"].as_str()), (Some("failed"), Some("runner_lost")));
    let entries = stack.entries_since(size).await;
    assert_eq!(entries.iter().map(|e| e["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["database.checked"]);

    // And one that ends.
    stack.post(format!("{path}/check")).send().await.expect(202);
    let session = Session::claim(&stack, &check().await.0).await;
    let report = json!({
        "kind": "check", "serverVersion": "17.2", "databaseName": "orders", "sizeBytes": 1, "pgDumpVersion": "17.2",
        "problems": [], "warnings": ["small"],
    });
    assert_eq!(session.finish(&report).await.expect(200)["state"], "completed");
    session.finish(&report).await.expect(200);
    let mut other = report.clone();
    other["problems"] = json!(["GRANT SELECT ON x TO backup"]);
    session.finish(&other).await.refused(409, "state_conflict");
    session.fail("internal").await.refused(409, "state_conflict");
    let (_, shown) = check().await;
    assert_eq!((shown["final"].as_bool(), shown["warnings"][0].as_str()), (Some(true), Some("small")));
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_in_each_state() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    for state in BackupState::ALL {
        let id = stack.trigger(&database).await;
        let record = placed::in_state(&stack, &id, *state).await;
        let size = stack.log_size().await;
        let cancelled = stack.post(format!("/api/v1/backups/{id}/cancel")).send().await;
        match state {
            BackupState::Finalizing | BackupState::Completed | BackupState::FailedTerminal => {
                cancelled.refused(409, "state_conflict");
                assert_eq!(stack.log_size().await, size);
            }
            // Once is enough.
            BackupState::Cancelled => {
                cancelled.expect(200);
                assert_eq!(stack.log_size().await, size);
            }
            _ => {
                let shown = cancelled.expect(200);
                assert_eq!((shown["state"].as_str(), shown["final"].as_bool()), (Some("cancelled"), Some(true)));
                assert_eq!(stack.active(&database).await, None);
                assert_eq!(
                    stack.entries_since(size).await[0]["actor"],
                    stack.get("/api/v1/profile").send().await.expect(200)["tokenId"]
                );
                if record.body.claim.session_sha256.is_some() {
                    let session = Session::new(&stack, id.as_str(), placed::SESSION);
                    assert_eq!(session.heartbeat(1).await.expect(200)["action"], "cancel");
                    session.part(1, b"x").await.refused(409, "state_conflict");
                }
            }
        }
        let key = walwarden_core::table::keys::active(&stack.org, &database);
        stack.domain.table.write(walwarden_core::table::Write::Delete(key)).await.unwrap();
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_upload_leaves_nothing_behind() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    session.start().await;
    let url = session.part(1, b"part").await.expect(200);
    stack.post(format!("/api/v1/backups/{id}/cancel")).send().await.expect(200);
    cleared(&stack, &store).await;
    // A URL that was handed out before takes nothing any more, and what comes late begins no upload.
    let (status, _) = send_signed(&url, b"part").await;
    assert_eq!(status, 404);
    session.running().await.refused(409, "state_conflict");
    assert_eq!(store.unfinished(&stack), []);

    // Out of reach, it is tried again until it is done, and not all the time.
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    session.start().await;
    store.close();
    let record = stack.domain.backup_by_id(&stack.org, &id).await.unwrap();
    stack.domain.cancel_backup(&record, "test").await.unwrap();
    assert_eq!(stack.sweep().await[0], "ClearLeftovers");
    assert_eq!(stack.sweep().await, Vec::<String>::new(), "no second errand while the first may be under way");
    store.open();
    stack.clock.forward(120);
    assert_eq!(stack.sweep().await, ["ClearLeftovers"]);
    assert_eq!(store.unfinished(&stack), []);
    assert!(stack.backup(&id).await.leftovers.is_empty());
    stack.clock.forward(3600);
    assert_eq!(stack.sweep().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_id_was_never_written_down_is_found_by_its_key() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    // We were stopped between creating it and writing its id down.
    let job = stack.backup(&id).await;
    store.begin(&job.artifact_key()).await;
    // Another's is not touched.
    let other = format!("{}.other", job.artifact_key());
    let kept = store.begin(&other).await;
    assert_eq!(store.unfinished(&stack).len(), 2);
    session.fail("runner_terminated").await.expect(200);
    for _ in 0..500 {
        if store.unfinished(&stack).len() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(store.unfinished(&stack), [(other.clone(), kept.clone())]);
    store.abort(&other, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_measurements_end_a_backup() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let big = (1u64 << 53).to_string().parse::<Value>().unwrap();
    for (pointer, value) in [
        ("/checksumSha256", json!("ABC")),
        ("/contents/digest", json!(sha256(b"x").to_uppercase())),
        ("/partsList/sha256", json!(sha256(b"another list"))),
        ("/annex/sizeBytes", json!(17)),
        ("/sizeBytes", json!(0)),
        ("/sizeBytes", json!(1)),
        ("/sizeBytes", big.clone()),
        ("/parts", json!(0)),
        ("/parts", json!(10_001)),
        ("/contents/entries", json!(0)),
        ("/contents/tables", json!(0)),
        ("/contents/rows", big.clone()),
        ("/omissions", big),
        ("/snapshotAt", json!("2026-01-01T00:00:01.000Z")),
        ("/annexLines", json!(0)),
        ("/annexUncompressedBytes", json!(2u64 << 30)),
        ("/serverVersion", json!("17\u{202e}")),
        ("/pgDumpVersion", json!("x".repeat(201))),
        ("/sourceDatabase", json!("")),
    ] {
        let id = stack.trigger(&database).await;
        placed::in_state(&stack, &id, BackupState::Running).await;
        let mut finish = placed::finish();
        *finish.pointer_mut(pointer).unwrap() = value.clone();
        let session = Session::new(&stack, id.as_str(), placed::SESSION);
        let refused = session.finish(&finish).await;
        assert_eq!(refused.status, 422, "{pointer}: {value}");
        let error = refused.refused(422, "unprocessable");
        assert!(error["message"].as_str().unwrap().starts_with("impossible measurements: "), "{pointer}: {error}");
        let job = stack.backup(&id).await;
        assert_eq!(
            (job.state, job.failure.unwrap().as_str()),
            (BackupState::FailedTerminal, "seal_impossible"),
            "{pointer}"
        );
        assert_eq!(stack.active(&database).await, None, "{pointer}");
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_servers_version_is_not_written_into_the_log() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let size = stack.log_size().await;
    for (field, value) in [
        ("serverVersion", "x".repeat(30_000)),
        ("serverVersion", "17\n\u{1b}[2J".into()),
        ("serverVersion", String::new()),
        ("pgDumpVersion", "x".repeat(201)),
        ("snapshotAt", "yesterday".into()),
        ("snapshotAt", "2026-01-01T00:00:00Z".into()),
    ] {
        let mut step = json!({
            "to": "running", "serverVersion": "17.2", "pgDumpVersion": "17.2", "snapshotAt": stack.clock.now(),
        });
        step[field] = value.into();
        session.transition(&step).await.refused(400, "invalid_request");
    }
    assert_eq!(stack.log_size().await, size);
    assert_eq!(stack.backup(&id).await.state, BackupState::Claimed);
    // Nor is anything else taken that no restore or check does.
    session.transition(&json!({ "to": "restoring" })).await.refused(400, "invalid_request");
    inspect(&stack, "nonsense").await.refused(401, "token_invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_that_cannot_be_read_holds_up_no_other() {
    use walwarden_core::table::{Item, Write, keys};
    let stack = Stack::start().await;
    let (one, two) = (stack.bucketless().await, stack.bucketless().await);
    let (broken, sound) = (stack.trigger(&one).await, stack.trigger(&two).await);
    let item = Item::new(&"nonsense").due(keys::SENTINEL_QUEUE, Some("2000-01-01T00:00:00.000Z"));
    stack.domain.table.write(Write::Put(keys::backup(&stack.org, &one, &broken), item)).await.unwrap();
    Session::claim(&stack, sound.as_str()).await;
    stack.clock.forward(121);
    stack.sweep().await;
    assert_eq!(stack.backup(&sound).await.failure.unwrap().as_str(), "runner_lost");
}
