//! Every move of both state machines, against the store: what is not legal is refused there, and leaves no entry.

use walwarden_contract::{
    failure::FailureClass,
    ids::{BackupId, RestoreId},
    states::{BackupState, RestoreState},
    worker::{CancelReason, Finish, Transition},
};
use walwarden_core::{
    backups::Started,
    error::DomainError,
    log::Draft,
    table::{Item, TableError, Write, keys},
};
use walwarden_verifier::entry::{AssertedBy, Event};

use crate::{audit, placed, restores, stack::Stack};

/// The item as it lies there, revision and all.
async fn stored(stack: &Stack, sk: &str) -> String {
    let items = stack.items();
    items.into_iter().find(|item| item.contains(&format!("\"S\":\"{sk}\""))).expect("an item")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_refuses_a_move_from_another_state() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id = stack.trigger(&database).await;
    for actual in BackupState::ALL {
        for claimed in BackupState::ALL {
            let record = placed::in_state(&stack, &id, *actual).await;
            let size = stack.log_size().await;
            // Whoever writes has read the right revision and believes in another state.
            let item = Item::new(&record.body).state("cancelled");
            let write = Write::Move(record.key.clone(), record.rev, claimed.as_str().into(), item);
            let draft = Draft::standing(Event::BackupCancelled { attempt: 1 }, "test");
            let moved = stack.domain.log.commit(&stack.org, vec![write], vec![draft]).await;
            if actual == claimed {
                moved.unwrap();
                assert_eq!(stack.log_size().await, size + 1);
            } else {
                assert!(
                    matches!(moved, Err(DomainError::Table(TableError::Condition(ref refused))) if refused == &[0])
                );
                assert_eq!(stack.log_size().await, size);
            }
        }
    }
    audit::log(&stack).await;
}

/// What moves a backup, with the state it leads to.
#[derive(Debug, Clone, Copy)]
enum Act {
    Claim,
    Run,
    Finish,
    FailRetryable,
    FailTerminal,
    Retry,
    Cancel,
}

impl Act {
    const ALL: [Self; 7] =
        [Self::Claim, Self::Run, Self::Finish, Self::FailRetryable, Self::FailTerminal, Self::Retry, Self::Cancel];

    fn leads_to(self) -> BackupState {
        match self {
            Self::Claim => BackupState::Claimed,
            Self::Run => BackupState::Running,
            Self::Finish => BackupState::Finalizing,
            Self::FailRetryable => BackupState::FailedRetryable,
            Self::FailTerminal => BackupState::FailedTerminal,
            Self::Retry => BackupState::Queued,
            Self::Cancel => BackupState::Cancelled,
        }
    }

    async fn run(
        self,
        stack: &Stack,
        record: &walwarden_core::table::Record<walwarden_core::backups::BackupJob>,
    ) -> Result<BackupState, DomainError> {
        let (domain, job) = (&stack.domain, &record.body);
        let fail = |class| domain.fail_backup(record, class, "test", AssertedBy::ControlPlane);
        let moved = match self {
            Self::Claim => {
                let session = crate::workers::sha256(b"another session");
                domain.claim_backup(&job.org_id, &job.database_id, &job.id, "a claim's secret", &session).await?
            }
            Self::Run => {
                let started = Started {
                    server_version: "17.2".into(),
                    pg_dump_version: "17.2".into(),
                    snapshot_at: stack.clock.now(),
                };
                domain.backup_running(record, started).await?
            }
            Self::Finish => {
                let Ok(Finish::Backup(measured)) = serde_json::from_value(placed::finish()) else {
                    panic!("measurements")
                };
                domain.finish_backup(record, *measured).await?
            }
            Self::FailRetryable => fail(FailureClass::SourceUnreachable).await?,
            Self::FailTerminal => fail(FailureClass::SourceAuthFailed).await?,
            Self::Retry => domain.retry_backup(record).await?,
            Self::Cancel => domain.cancel_backup(record, "test").await?,
        };
        Ok(moved.state)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_act_moves_a_backup_where_it_may_not_go() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let id: BackupId = stack.trigger(&database).await;
    for state in BackupState::ALL {
        for act in Act::ALL {
            let record = placed::in_state(&stack, &id, *state).await;
            let (before, size) = (stored(&stack, &record.key.sk).await, stack.log_size().await);
            let outcome = act.run(&stack, &record).await;
            let legal = state.may_become(act.leads_to());
            match (act, outcome) {
                // The bucket of this database is nowhere.
                (Act::Run, Err(DomainError::Storage(_))) if legal => continue,
                // Repeats that are answered again.
                (Act::Run, Ok(BackupState::Running)) if *state == BackupState::Running => {}
                (Act::Cancel, Ok(BackupState::Cancelled)) if *state == BackupState::Cancelled => {}
                (Act::Finish, Ok(same))
                    if same == *state && matches!(state, BackupState::Finalizing | BackupState::Completed) => {}
                (_, Ok(now)) => {
                    assert!(legal && now == act.leads_to(), "{act:?} moved {state} to {now}");
                    assert_eq!(stack.log_size().await, size + 1);
                    // Whoever read it before that move writes nothing.
                    let stale = act.run(&stack, &record).await;
                    let repeated = matches!(stale, Ok(again) if again == now);
                    assert!(
                        repeated || matches!(stale, Err(DomainError::Refused(_))),
                        "{act:?} from a stale {state}: {stale:?}"
                    );
                    assert_eq!(stack.log_size().await, size + 1, "{act:?} from a stale {state}");
                    continue;
                }
                (_, Err(DomainError::Refused(detail))) => assert!(!legal, "{act:?} from {state}: {}", detail.message),
                (_, Err(error)) => panic!("{act:?} from {state}: {error}"),
            }
            assert_eq!(stored(&stack, &record.key.sk).await, before, "{act:?} from {state}");
            assert_eq!(stack.log_size().await, size, "{act:?} from {state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_act_moves_a_restore_where_it_may_not_go() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let backup = placed::completed(&stack, &database).await;
    let (id, token): (RestoreId, String) = restores::issue(&stack, &backup).await;
    let checksum = placed::finish()["checksumSha256"].as_str().unwrap().to_owned();
    let steps = [
        Transition::Downloading {},
        Transition::Verifying {},
        Transition::ManifestVerified { checksum_sha256: checksum },
        Transition::Restoring {},
        Transition::Finalizing {},
        Transition::Cancelled { reason: CancelReason::Interrupted },
        Transition::Cancelled { reason: CancelReason::Requested },
        Transition::Failed { class: FailureClass::TargetUnreachable, detail: None },
        Transition::Failed { class: FailureClass::TargetFailed, detail: None },
    ];
    for state in RestoreState::ALL {
        for step in &steps {
            let to = step.restore_state().unwrap();
            let record = placed::restore_in_state(&stack, &id, *state).await;
            let (before, size) = (stored(&stack, &record.key.sk).await, stack.log_size().await);
            let legal = state.may_become(to);
            match stack.domain.restore_step(&record, step).await {
                Ok(now) if now.state != *state => {
                    assert!(legal && now.state == to, "{state} to {to}: {}", now.state);
                    assert_eq!(stack.log_size().await, size + 1);
                    continue;
                }
                // A step that comes late is no fault of the worker's.
                Ok(_) => assert!(!legal && (to == *state || !to.is_final()), "{state} to {to} did nothing"),
                Err(DomainError::Refused(_)) => assert!(!legal, "{state} to {to} was refused"),
                Err(error) => panic!("{state} to {to}: {error}"),
            }
            assert_eq!(stored(&stack, &record.key.sk).await, before, "{state} to {to}");
            assert_eq!(stack.log_size().await, size, "{state} to {to}");
        }
        // Completion, and the claim.
        let record = placed::restore_in_state(&stack, &id, *state).await;
        let size = stack.log_size().await;
        let Ok(Finish::Restore(report)) = serde_json::from_value(crate::workers::report()) else { panic!("a report") };
        let finished = stack.domain.finish_restore(&record, *report).await;
        let legal = state.may_become(RestoreState::Completed);
        match finished {
            Ok(now) => assert!(legal && now.state == RestoreState::Completed, "{state}"),
            Err(DomainError::Refused(_)) => assert!(!legal, "{state}"),
            Err(error) => panic!("{state}: {error}"),
        }
        assert_eq!(stack.log_size().await, size + u64::from(legal), "{state}");

        placed::restore_in_state(&stack, &id, *state).await;
        let size = stack.log_size().await;
        let claimed = crate::workers::claim_restore(&stack, &token, "another session").await;
        assert_eq!(claimed.status == 200, *state == RestoreState::Created, "{state}: {}", claimed.text());
        let kinds: Vec<_> = stack.entries_since(size).await.iter().map(|e| e["kind"].clone()).collect();
        match state {
            RestoreState::Created => assert_eq!(kinds, ["restore.triggered", "restore.claimed"]),
            _ => assert!(kinds.iter().all(|kind| kind == "restore.token_rejected"), "{state}: {kinds:?}"),
        }
    }
    audit::log(&stack).await;
    assert!(audit::exists(&stack, &keys::restore(&stack.org, &database, &id)).await);
}
