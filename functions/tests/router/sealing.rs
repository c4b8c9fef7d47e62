//! From measurements to a manifest, with a bucket that is away, tampered with, or ahead of us.

use serde_json::json;
use walwarden_contract::{
    ids::{BackupId, DatabaseId},
    states::BackupState,
};
use walwarden_core::{
    backups::{BackupJob, Publish},
    calls::WorkerCall,
};

use crate::{
    audit,
    bucket::Store,
    placed,
    stack::Stack,
    workers::{Session, dump, put},
};

/// A backup whose bytes and documents are all in the bucket; what to finish it with.
async fn uploaded<'s>(stack: &'s Stack, database: &DatabaseId) -> (BackupId, Session<'s>, serde_json::Value) {
    let id = stack.trigger(database).await;
    let session = Session::claim(stack, id.as_str()).await;
    let finish = session.upload(&dump()).await;
    (id, session, finish)
}

/// Takes the measurements without the seal that would follow the answer.
async fn finalizing(stack: &Stack, id: &BackupId, finish: &serde_json::Value) -> BackupJob {
    let Ok(walwarden_contract::worker::Finish::Backup(measured)) = serde_json::from_value(finish.clone()) else {
        panic!("measurements")
    };
    let record = stack.domain.backup_by_id(&stack.org, id).await.unwrap();
    stack.domain.finish_backup(&record, *measured).await.unwrap()
}

async fn seal(stack: &Stack, job: &BackupJob) -> BackupJob {
    let (org, database, backup) = (job.org_id.clone(), job.database_id.clone(), job.id.clone());
    stack.domain.carry_out(WorkerCall::Seal { org, database, backup }).await.unwrap();
    stack.backup(&job.id).await
}

fn failed(job: &BackupJob) -> (BackupState, &'static str) {
    (job.state, job.failure.map_or("", |class| class.as_str()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_is_waited_for() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let (id, session, finish) = uploaded(&stack, &database).await;
    store.close();
    session.finish(&finish).await.expect(202);
    for _ in 0..3000 {
        let job = stack.backup(&id).await;
        if job.seal.lease == 1 && job.seal.lease_until.is_none() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(stack.backup(&id).await.state, BackupState::Finalizing);
    assert_eq!(stack.sweep().await, Vec::<String>::new());
    // It is the sealer's now: nobody else ends it.
    stack.post(format!("/api/v1/backups/{id}/cancel")).send().await.refused(409, "state_conflict");
    session.fail("control_plane_unreachable").await.refused(409, "state_conflict");
    assert_eq!(session.state().await.expect(200)["state"], "finalizing");
    // The runner did not get its answer and asks again; another result is no result.
    session.finish(&finish).await.expect(202);
    let mut other = finish.clone();
    other["omissions"] = 1.into();
    session.finish(&other).await.refused(409, "measurements_differ");

    store.open();
    stack.clock.forward(120);
    stack.sweep().await;
    let job = stack.sealed(&id).await;
    assert_eq!(failed(&job), (BackupState::Completed, ""));
    assert_eq!(session.finish(&finish).await.expect(200)["state"], "completed");
    audit::log(&stack).await;
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_for_longer_than_six_hours() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let (id, _, finish) = uploaded(&stack, &database).await;
    let job = finalizing(&stack, &id, &finish).await;
    store.close();
    assert_eq!(failed(&seal(&stack, &job).await), (BackupState::Finalizing, ""));
    stack.clock.forward(6 * 3600 + 1);
    let job = seal(&stack, &job).await;
    assert_eq!(failed(&job), (BackupState::FailedRetryable, "seal_unreachable"));
    assert_eq!(job.leftovers.len(), 1);
    audit::database(&stack, &database).await;
    // Back again, the upload that came to nothing is taken away; the attempt that follows has an upload of its own.
    store.open();
    stack.domain.carry_out(clear(&job)).await.unwrap();
    assert_eq!(store.unfinished(&stack), []);
}

fn clear(job: &BackupJob) -> WorkerCall {
    WorkerCall::ClearLeftovers { org: job.org_id.clone(), database: job.database_id.clone(), backup: job.id.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_aborted_behind_our_back_is_lost() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let (id, session, finish) = uploaded(&stack, &database).await;
    let (key, upload) = store.unfinished(&stack).remove(0);
    store.abort(&key, &upload).await;
    session.finish(&finish).await.expect(202);
    assert_eq!(failed(&stack.sealed(&id).await), (BackupState::FailedRetryable, "seal_upload_lost"));
    assert!(store.keys(&format!("org/{}/db/", stack.org)).iter().all(|key| !key.ends_with(".manifest.json")));
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tampered_with_is_never_signed() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    for tampered in ["part", "size", "extra part", "annex", "parts list", "longer parts list", "manifest"] {
        let (id, session, finish) = uploaded(&stack, &database).await;
        let job = stack.backup(&id).await;
        let (key, upload) = (job.artifact_key(), job.upload_id.clone().unwrap());
        let part = dump()[1].clone();
        if matches!(tampered, "part" | "size") {
            // SeaweedFS keeps both and tells them apart by the second.
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        }
        match tampered {
            "part" => store.overwrite_part(&key, &upload, 2, &part.iter().rev().copied().collect::<Vec<_>>()).await,
            "size" => store.overwrite_part(&key, &upload, 2, &part[1..]).await,
            "extra part" => store.overwrite_part(&key, &upload, 3, b"more").await,
            "annex" => drop(store.write(&job.annex_key(), b"another annex")),
            "parts list" => {
                let mut list = store.read(&job.parts_key());
                let last = list.len() - 3;
                list[last] ^= 1;
                store.write(&job.parts_key(), &list);
            }
            "longer parts list" => drop(store.write(&job.parts_key(), &[b' '; 5000])),
            _ => drop(store.write(&job.manifest_key(), b"{}")),
        }
        session.finish(&finish).await.expect(202);
        let job = stack.sealed(&id).await;
        assert_eq!(failed(&job), (BackupState::FailedRetryable, "seal_mismatch"), "{tampered}");
        assert_eq!(job.manifest_hash, None);
        stack.post(format!("/api/v1/backups/{id}/cancel")).send().await.expect(200);
        stack.sweep().await;
    }
    assert_eq!(store.unfinished(&stack), []);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_uploaded_is_never_signed() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    for missing in ["parts list", "annex", "part"] {
        let id = stack.trigger(&database).await;
        let session = Session::claim(&stack, id.as_str()).await;
        let snapshot_at = session.start().await;
        let parts = dump();
        for (number, bytes) in (1..).zip(&parts).skip(usize::from(missing == "part")) {
            put(&session.part(number, bytes).await.expect(200), bytes).await;
        }
        let list = session.list_of(&parts, 1);
        for (kind, name, bytes) in [("partsList", "parts list", list.as_slice()), ("annex", "annex", b"annex")] {
            let url = session.document(kind, bytes).await.expect(200);
            if name != missing {
                put(&url, bytes).await;
            }
        }
        let finish = crate::workers::measurements(&parts, &list, b"annex", &snapshot_at);
        session.finish(&finish).await.expect(202);
        assert_eq!(failed(&stack.sealed(&id).await), (BackupState::FailedRetryable, "seal_mismatch"), "{missing}");
        stack.post(format!("/api/v1/backups/{id}/cancel")).send().await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parts_list_that_contradicts_the_measurements_ends_it() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let snapshot_at = session.start().await;
    let parts = dump();
    put(&session.part(1, &parts[0]).await.expect(200), &parts[0]).await;
    let list = session.list_of(&parts[..1], 1);
    for (kind, bytes) in [("partsList", list.as_slice()), ("annex", b"annex")] {
        put(&session.document(kind, bytes).await.expect(200), bytes).await;
    }
    let finish = crate::workers::measurements(&parts, &list, b"annex", &snapshot_at);
    session.finish(&finish).await.expect(202);
    assert_eq!(failed(&stack.sealed(&id).await), (BackupState::FailedTerminal, "seal_impossible"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_completed_already_is_found() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let (id, _, finish) = uploaded(&stack, &database).await;
    let job = finalizing(&stack, &id, &finish).await;
    // As a sealer that died after Complete leaves it.
    store.complete(&job.artifact_key(), job.upload_id.as_deref().unwrap(), &dump()).await;
    let job = seal(&stack, &job).await;
    assert_eq!(failed(&job), (BackupState::Completed, ""));
    let version = job.seal.artifact.unwrap().version_id;
    let there = store.versions(&stack.backup(&id).await.artifact_key());
    assert_eq!(there.iter().map(|v| v.version_id.clone()).collect::<Vec<_>>(), [version]);

    // Another object under the key is not taken for it.
    let (id, _, finish) = uploaded(&stack, &database).await;
    let job = finalizing(&stack, &id, &finish).await;
    store.abort(&job.artifact_key(), job.upload_id.as_deref().unwrap()).await;
    store.write(&job.artifact_key(), &dump().concat());
    assert_eq!(failed(&seal(&stack, &job).await), (BackupState::FailedRetryable, "seal_upload_lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sealer_at_a_time() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let (id, _, finish) = uploaded(&stack, &database).await;
    let mut job = finalizing(&stack, &id, &finish).await;
    // A sealer took it up and died.
    job.seal.lease = 1;
    job.seal.since = Some(stack.clock.now());
    job.seal.lease_until = Some(walwarden_contract::time::format_ms(stack.clock.now_ms() + 120_000));
    job.due_at = job.seal.lease_until.clone();
    placed::put(&stack, &job).await;
    let held = seal(&stack, &job).await;
    assert_eq!((held.state, held.seal.lease, held.seal.artifact.is_none()), (BackupState::Finalizing, 1, true));
    assert_eq!(stack.sweep().await, Vec::<String>::new());
    stack.clock.forward(121);
    assert_eq!(stack.sweep().await, ["Seal"]);
    let job = stack.backup(&id).await;
    assert_eq!((job.state, job.seal.lease, job.publish), (BackupState::Completed, 2, Publish::Done));

    // Four at once: one does it.
    let (id, _, finish) = uploaded(&stack, &database).await;
    let job = finalizing(&stack, &id, &finish).await;
    tokio::join!(seal(&stack, &job), seal(&stack, &job), seal(&stack, &job), seal(&stack, &job));
    assert_eq!(stack.backup(&id).await.state, BackupState::Completed);
    let kinds = stack.kinds(id.as_str()).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "backup.completed").count(), 1);
    for key in store.keys(&format!("org/{}/db/", stack.org)) {
        assert_eq!(store.versions(&key).len(), 1, "{key} was written twice");
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_is_driven_until_it_is_done_and_no_more_often_than_need_be() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let backup = crate::workers::completed(&stack, &database).await;
    let mut job = stack.backup(&backup).await;
    job.publish = Publish::Pending;
    job.due_at = Some(stack.clock.now());
    placed::put(&stack, &job).await;
    store.close();
    let errands = stack.sweep().await;
    assert_eq!((errands[0].as_str(), errands.len()), ("Publish", 2), "{errands:?}");
    assert_eq!(stack.sweep().await, Vec::<String>::new(), "no second errand while the first may be under way");
    store.open();
    stack.clock.forward(120);
    assert_eq!(stack.sweep().await, ["Publish"]);
    assert_eq!(stack.backup(&backup).await.publish, Publish::Done);
    stack.clock.forward(3600);
    assert_eq!(stack.sweep().await, Vec::<String>::new());
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_names_still_fit_a_statement() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let destination = store.destination(&stack).await;
    let mut request = Stack::database_request(destination.as_str());
    request["name"] = "ü".repeat(100).into();
    let created = stack.post("/api/v1/databases").fresh().json(&request).send().await.expect(201);
    let database: DatabaseId = created["id"].as_str().unwrap().parse().unwrap();
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let mut finish = session.upload(&dump()).await;
    // 63 bytes that JSON writes as six each.
    finish["sourceDatabase"] = "\u{1}".repeat(63).into();
    finish["serverVersion"] = "v".repeat(200).into();
    finish["pgDumpVersion"] = "v".repeat(200).into();
    for field in ["/sizeBytes", "/contents/entries", "/contents/tables", "/contents/rows", "/omissions", "/annexLines"]
    {
        if field != "/sizeBytes" {
            *finish.pointer_mut(field).unwrap() = ((1u64 << 53) - 1).into();
        }
    }
    session.finish(&finish).await.expect(202);
    let job = stack.sealed(&id).await;
    assert_eq!(failed(&job), (BackupState::Completed, ""));
    let bytes = job.seal.manifest.unwrap().statement.len();
    assert!(bytes < 3500, "{bytes}");

    // Longer than any name is, or of a form that no reader accepts, it is not written under lock.
    for (field, value) in [("sourceDatabase", "x".repeat(4000)), ("compression", "lz4:1".into())] {
        let id = stack.trigger(&database).await;
        let session = Session::claim(&stack, id.as_str()).await;
        let mut finish = session.upload(&dump()).await;
        finish[field] = value.into();
        session.finish(&finish).await.expect(202);
        assert_eq!(failed(&stack.sealed(&id).await), (BackupState::FailedTerminal, "seal_impossible"), "{field}");
        assert!(store.versions(&stack.backup(&id).await.manifest_key()).is_empty(), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_written_once() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    session.document("annex", b"annex").await.refused(409, "state_conflict");
    session.start().await;
    let url = session.document("annex", b"annex").await.expect(200);
    assert_ne!(crate::workers::send_signed(&url, b"ANNEX").await.0, 200, "other bytes under the URL of these");
    put(&url, b"annex").await;
    // The answer was lost.
    assert_eq!(crate::workers::send_signed(&url, b"annex").await.0, 412);
    session.document("annex", b"annex").await.expect(200);
    session.document("annex", b"another").await.refused(409, "measurements_differ");
    for (kind, bytes) in [("annex", 0u64), ("partsList", 3 << 20), ("annex", 2 << 30)] {
        let request = json!({
            "document": kind, "sizeBytes": bytes, "sha256": crate::workers::sha256(b""), "md5": "00".repeat(16),
        });
        let path = format!("{}/document", stack.job_path(id.as_str()));
        stack.post(path).bearer(&session.secret).json(&request).send().await.refused(400, "invalid_request");
    }
    for (number, size) in [(0, 1), (10_001, 1), (1, 0), (1, (8 << 20) + 1)] {
        let request = json!({
            "number": number, "sizeBytes": size, "sha256": crate::workers::sha256(b""), "md5": "00".repeat(16),
        });
        let path = format!("{}/part", stack.job_path(id.as_str()));
        stack.post(path).bearer(&session.secret).json(&request).send().await.refused(400, "invalid_request");
    }
}
