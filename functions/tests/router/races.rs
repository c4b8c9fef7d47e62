//! Two at the same thing. Bookkeeping of others (the sentinel's next look, a document's digest, a receipt, a refused
//! token) bumps an item's revision; whoever was about to move the job must not be told that it lost it.

use serde_json::json;
use walwarden_contract::{
    states::BackupState,
    worker::{Finish, Transition},
};
use walwarden_core::{
    backups::{BackupJob, Started},
    table::{Item, Record, TableError, Write, keys},
};

use crate::{
    audit,
    bucket::Store,
    placed, restores,
    stack::Stack,
    workers::{Session, completed, dump, measurements, report, session_secret},
};

/// What the sentinel does to a live job in passing: its revision moves, its state does not.
async fn looked_at(stack: &Stack, record: &Record<BackupJob>) {
    loop {
        let fresh = stack.domain.backup_by_id(&stack.org, &record.body.id).await.unwrap();
        let item = Item::new(&fresh.body).state(fresh.body.state.as_str());
        let item = item.due(keys::SENTINEL_QUEUE, Some(&stack.clock.now()));
        match stack.domain.table.write(Write::Replace(fresh.key, fresh.rev, item)).await {
            Ok(()) => return,
            Err(TableError::Condition(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_of_the_sentinel_does_not_cost_a_runner_its_job() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let read = async || stack.domain.backup_by_id(&stack.org, &id).await.unwrap();

    let record = read().await;
    looked_at(&stack, &record).await;
    let snapshot_at = stack.clock.now();
    let started =
        Started { server_version: "17.2".into(), pg_dump_version: "17.2".into(), snapshot_at: snapshot_at.clone() };
    let running = stack.domain.backup_running(&record, started).await.unwrap();
    assert_eq!(running.state, BackupState::Running);
    assert_eq!(store.unfinished(&stack).len(), 1, "the upload of the first try is not left behind");

    let parts = dump();
    for (number, bytes) in (1..).zip(&parts) {
        crate::workers::put(&session.part(number, bytes).await.expect(200), bytes).await;
    }
    let (list, annex) = (session.list_of(&parts, 1), b"annex".to_vec());
    let record = read().await;
    looked_at(&stack, &record).await;
    for (kind, bytes) in [("partsList", &list), ("annex", &annex)] {
        let mut request = crate::workers::digests(bytes);
        request["document"] = kind.into();
        let url = stack.domain.document_url(&record, &serde_json::from_value(request).unwrap()).await.unwrap();
        crate::workers::put(&json!(url), bytes).await;
    }
    let record = read().await;
    looked_at(&stack, &record).await;
    let finish = measurements(&parts, &list, &annex, &snapshot_at);
    let Ok(Finish::Backup(measured)) = serde_json::from_value(finish.clone()) else { panic!("measurements") };
    stack.domain.finish_backup(&record, *measured).await.unwrap();
    session.finish(&finish).await;
    assert_eq!(stack.sealed(&id).await.state, BackupState::Completed);

    // Cancelling likewise.
    let id = stack.trigger(&database).await;
    let record = stack.domain.backup_by_id(&stack.org, &id).await.unwrap();
    looked_at(&stack, &record).await;
    assert_eq!(stack.domain.cancel_backup(&record, "test").await.unwrap().state, BackupState::Cancelled);
    // And a failure that a runner reports.
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let record = stack.domain.backup_by_id(&stack.org, &id).await.unwrap();
    let (failed, ()) = tokio::join!(session.fail("source_unreachable"), looked_at(&stack, &record));
    failed.expect(200);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_step_twice_at_once_is_one_step() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let id = stack.trigger(&database).await;
    let session = Session::claim(&stack, id.as_str()).await;
    let running = tokio::join!(session.running(), session.running(), session.running());
    for answer in <[_; 3]>::from(running) {
        assert_eq!(answer.expect(200)["state"], "running");
    }
    assert_eq!(store.unfinished(&stack).len(), 1);
    let annex = tokio::join!(
        session.document("annex", b"a"),
        session.document("partsList", b"p"),
        session.document("annex", b"a")
    );
    for answer in <[_; 3]>::from(annex) {
        answer.expect(200);
    }
    assert_eq!(stack.kinds(id.as_str()).await, ["backup.queued", "backup.claimed", "backup.running"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_claims_one_wins() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let backup = placed::completed(&stack, &database).await;
    let id = stack.trigger(&database).await;
    let launched = stack.launched(id.as_str()).await;
    let sessions: Vec<_> = (0..4).map(|_| Session::new(&stack, id.as_str(), &session_secret())).collect();
    let claims = tokio::join!(
        sessions[0].claim_with(&launched),
        sessions[1].claim_with(&launched),
        sessions[2].claim_with(&launched),
        sessions[3].claim_with(&launched),
    );
    let claims: [_; 4] = claims.into();
    assert_eq!(claims.iter().filter(|c| c.status == 200).count(), 1);
    claims.iter().filter(|c| c.status != 200).for_each(|c| drop(c.refused(409, "already_claimed")));

    let (restore, token) = restores::issue(&stack, &backup).await;
    let claim = || crate::workers::claim_restore(&stack, &token, Box::leak(session_secret().into_boxed_str()));
    let claims: [_; 4] = tokio::join!(claim(), claim(), claim(), claim()).into();
    assert_eq!(claims.iter().filter(|c| c.status == 200).count(), 1);
    claims.iter().filter(|c| c.status != 200).for_each(|c| drop(c.refused(409, "token_used")));
    let kinds = stack.kinds(restore.as_str()).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "restore.claimed").count(), 1);

    // One session, its answers lost: all of them are the same claim.
    let (_, token) = restores::issue(&stack, &backup).await;
    let secret = session_secret();
    let claim = || crate::workers::claim_restore(&stack, &token, &secret);
    for answer in <[_; 4]>::from(tokio::join!(claim(), claim(), claim(), claim())) {
        answer.expect(200);
    }
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_triggers_one_starts() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let trigger = || stack.post(format!("/api/v1/databases/{database}/backups")).fresh().send();
    let answers: [_; 5] = tokio::join!(trigger(), trigger(), trigger(), trigger(), trigger()).into();
    let started: Vec<_> = answers.iter().filter(|a| a.status == 202).collect();
    assert_eq!(started.len(), 1);
    let id = started[0].expect(202)["backupJobId"].clone();
    for lost in answers.iter().filter(|a| a.status != 202) {
        assert_eq!(lost.refused(409, "backup_already_active")["resourceId"], id);
    }
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restores_that_end_together_all_end_well() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let backup = completed(&stack, &database).await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let (_, token) = restores::issue(&stack, &backup).await;
        sessions.push(Session::claim_restore(&stack, &token).await);
    }
    // Each adds its receipt to the backup, which is being published again meanwhile.
    let mut job = stack.backup(&backup).await;
    job.publish = walwarden_core::backups::Publish::Pending;
    job.due_at = Some(stack.clock.now());
    placed::put(&stack, &job).await;
    let finish = report();
    let ended = tokio::join!(
        sessions[0].finish(&finish),
        sessions[1].finish(&finish),
        sessions[2].finish(&finish),
        sessions[3].finish(&finish),
        sessions[4].finish(&finish),
        stack.sweep(),
    );
    for answer in [ended.0, ended.1, ended.2, ended.3, ended.4] {
        answer.expect(200);
    }
    let evidence = stack.get(format!("/api/v1/evidence/{backup}")).send().await.expect(200);
    assert_eq!(evidence["restores"].as_array().unwrap().len(), 5);
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_token_that_is_shown_around_does_not_disturb_the_restore() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let backup = placed::completed(&stack, &database).await;
    let (id, token) = restores::issue(&stack, &backup).await;
    Session::claim_restore(&stack, &token).await;
    let record = stack.domain.restore_by_id(&stack.org, &id).await.unwrap();
    crate::workers::inspect(&stack, &token).await.refused(409, "token_used");
    stack.domain.restore_step(&record, &Transition::Downloading {}).await.unwrap();
    let record = stack.domain.restore_by_id(&stack.org, &id).await.unwrap();
    crate::workers::inspect(&stack, &token).await.refused(409, "token_used");
    let Ok(Finish::Restore(report)) = serde_json::from_value(report()) else { panic!("a report") };
    stack.domain.finish_restore(&record, *report).await.unwrap();
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_at_once_all_answer() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let destination = store.destination(&stack).await;
    let size = stack.log_size().await;
    let run = || stack.post(format!("/api/v1/destinations/{destination}/preflight")).send();
    for answer in <[_; 3]>::from(tokio::join!(run(), run(), run())) {
        assert_eq!(answer.expect(200)["result"], "verified");
    }
    assert_eq!(stack.log_size().await, size + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_while_the_upload_begins_leaves_none_behind() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    for _ in 0..5 {
        let id = stack.trigger(&database).await;
        let session = Session::claim(&stack, id.as_str()).await;
        let cancel = stack.post(format!("/api/v1/backups/{id}/cancel")).send();
        let (running, cancelled) = tokio::join!(session.running(), cancel);
        cancelled.expect(200);
        assert!(matches!(running.status, 200 | 409), "{}", running.text());
        for _ in 0..200 {
            stack.sweep().await;
            if store.unfinished(&stack).is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(store.unfinished(&stack), []);
    }
}
