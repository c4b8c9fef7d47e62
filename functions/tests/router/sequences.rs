//! Random histories: whatever workers, operators, the sentinel and time do, in whatever order, the log stays a valid
//! chain, `ACTIVE` says what is live, and what is called complete is.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use tokio::runtime::Runtime;
use walwarden_contract::{
    ids::{BackupId, DatabaseId, JobId, RestoreId},
    states::{BackupState, RestoreState},
};
use walwarden_core::table::keys;

use crate::{
    audit,
    bucket::Store,
    restores,
    stack::Stack,
    workers::{Session, dump, report, session_secret},
};

#[derive(Debug, Clone)]
enum Step {
    /// What a backup needs next, or another backup; likewise a restore.
    Advance,
    AdvanceRestore,
    // What comes between, whether it fits or not.
    Trigger,
    /// With the secret of the last launch, or with an older one.
    Claim {
        stale: bool,
    },
    Run,
    Heartbeat,
    /// Uploads what is missing and finishes; `twice` sends it again, `wrong` sends what cannot be.
    Finish {
        twice: bool,
        wrong: bool,
    },
    Fail {
        retryable: bool,
    },
    Cancel,
    Sweep,
    Wait {
        seconds: i64,
    },
    Issue,
    ClaimRestore {
        again: bool,
    },
    MoveRestore {
        step: usize,
    },
    FinishRestore,
    Inspect,
    Export,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => Just(Step::Advance),
        12 => Just(Step::AdvanceRestore),
        1 => Just(Step::Trigger),
        1 => prop::bool::weighted(0.5).prop_map(|stale| Step::Claim { stale }),
        1 => Just(Step::Run),
        1 => Just(Step::Heartbeat),
        1 => (any::<bool>(), prop::bool::weighted(0.3)).prop_map(|(twice, wrong)| Step::Finish { twice, wrong }),
        2 => prop::bool::weighted(0.7).prop_map(|retryable| Step::Fail { retryable }),
        1 => Just(Step::Cancel),
        3 => Just(Step::Sweep),
        2 => prop_oneof![4 => Just(20), 2 => Just(125), 1 => Just(700)].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Issue),
        1 => any::<bool>().prop_map(|again| Step::ClaimRestore { again }),
        2 => (0..6usize).prop_map(|step| Step::MoveRestore { step }),
        1 => Just(Step::FinishRestore),
        1 => Just(Step::Inspect),
        1 => Just(Step::Export),
    ]
}

/// What the outside remembers of one database.
struct History<'s> {
    stack: &'s Stack,
    database: DatabaseId,
    backup: Option<BackupId>,
    launched: Vec<String>,
    session: Option<Session<'s>>,
    completed: Option<BackupId>,
    restore: Option<(RestoreId, String)>,
    cli: Option<Session<'s>>,
}

impl<'s> History<'s> {
    /// The step that the present state asks for.
    async fn next(&self) -> Step {
        let Some(id) = &self.backup else { return Step::Trigger };
        match self.stack.backup(id).await.state {
            BackupState::Queued => Step::Claim { stale: false },
            BackupState::Claimed => Step::Run,
            BackupState::Running => Step::Finish { twice: false, wrong: false },
            BackupState::FailedRetryable => Step::Wait { seconds: 40 },
            _ => Step::Trigger,
        }
    }

    async fn next_of_restore(&self) -> Step {
        let Some((id, _)) = &self.restore else { return Step::Issue };
        match self.stack.domain.restore_by_id(&self.stack.org, id).await.unwrap().body.state {
            RestoreState::Created => Step::ClaimRestore { again: true },
            RestoreState::Claimed => Step::MoveRestore { step: 0 },
            RestoreState::Downloading => Step::MoveRestore { step: 2 },
            RestoreState::ManifestVerified => Step::MoveRestore { step: 4 },
            state if state.is_final() && state != RestoreState::TimedOut => Step::Issue,
            _ => Step::FinishRestore,
        }
    }

    async fn apply(&mut self, step: &Step) {
        let stack = self.stack;
        let step = match step {
            Step::Advance => &self.next().await,
            Step::AdvanceRestore => &self.next_of_restore().await,
            step => step,
        };
        match step {
            Step::Advance | Step::AdvanceRestore => {}
            Step::Trigger => {
                let path = format!("/api/v1/databases/{}/backups", self.database);
                let triggered = stack.post(path).fresh().send().await;
                let live = stack.active(&self.database).await.expect("a live backup");
                match triggered.status {
                    202 => {
                        self.launched = vec![stack.launched(live.as_str()).await];
                        (self.backup, self.session) = (Some(live), None);
                    }
                    _ => drop(triggered.refused(409, "backup_already_active")),
                }
            }
            Step::Claim { stale } => {
                let Some(id) = self.backup.clone() else { return };
                // Whatever was launched since; as a retry does.
                if let Ok(Some(launch)) = stack.domain.mint_launch(&stack.org, &JobId::Backup(id.clone())).await {
                    self.launched.push(launch.secret.expose().to_owned());
                }
                let nth = self.launched.len() - 1;
                let secret = &self.launched[if *stale { 0 } else { nth }];
                let session = Session::new(stack, id.as_str(), &session_secret());
                let claimed = session.claim_with(secret).await;
                if claimed.status == 200 {
                    assert!(!*stale || nth == 0, "an older secret claimed");
                    self.session = Some(session);
                }
            }
            Step::Run => {
                if let Some(session) = &self.session {
                    allowed(session.running().await.status, &[200, 401, 409]);
                }
            }
            Step::Heartbeat => {
                if let Some(session) = &self.session {
                    allowed(session.heartbeat(7).await.status, &[200, 401]);
                }
            }
            Step::Finish { twice, wrong } => self.finish(*twice, *wrong).await,
            Step::Fail { retryable } => {
                if let Some(session) = &self.session {
                    let class = if *retryable { "source_unreachable" } else { "source_auth_failed" };
                    allowed(session.fail(class).await.status, &[200, 401, 409]);
                }
            }
            Step::Cancel => {
                if let Some(id) = &self.backup {
                    let cancelled = stack.post(format!("/api/v1/backups/{id}/cancel")).send().await;
                    allowed(cancelled.status, &[200, 409]);
                }
            }
            Step::Sweep => drop(stack.sweep().await),
            Step::Wait { seconds } => stack.clock.forward(*seconds),
            Step::Issue => {
                if let Some(backup) = &self.completed {
                    self.restore = Some(restores::issue(stack, backup).await);
                    self.cli = None;
                }
            }
            Step::ClaimRestore { again } => {
                let Some((id, token)) = &self.restore else { return };
                let secret = match (&self.cli, again) {
                    (Some(cli), true) => cli.secret.clone(),
                    _ => session_secret(),
                };
                let claimed = crate::workers::claim_restore(stack, token, &secret).await;
                allowed(claimed.status, &[200, 401, 409]);
                if claimed.status == 200 {
                    assert!(self.cli.is_none() || *again, "claimed twice");
                    self.cli = Some(Session::new(stack, id.as_str(), &secret));
                }
            }
            Step::MoveRestore { step } => {
                let steps = ["downloading", "verifying", "manifest_verified", "restoring", "finalizing", "cancelled"];
                if let Some(cli) = &self.cli {
                    let mut body = json!({ "to": steps[*step] });
                    if steps[*step] == "manifest_verified" {
                        body["checksumSha256"] = report()["checksumSha256"].clone();
                    }
                    allowed(cli.transition(&body).await.status, &[200, 409]);
                }
            }
            Step::FinishRestore => {
                if let Some(cli) = &self.cli {
                    allowed(cli.finish(&report()).await.status, &[200, 409]);
                }
            }
            Step::Inspect => {
                if let Some((_, token)) = &self.restore {
                    allowed(crate::workers::inspect(stack, token).await.status, &[200, 401, 409]);
                }
            }
            Step::Export => {
                if let Some(id) = &self.completed {
                    let bundle = stack.get(format!("/api/v1/evidence/{id}/bundle")).send().await;
                    assert_eq!(bundle.status, 200);
                    let keys = stack.domain.keyring.public_keys();
                    walwarden_verifier::verify::verify(bundle.bytes.as_slice(), keys, Default::default()).unwrap();
                }
            }
        }
    }

    async fn finish(&mut self, twice: bool, wrong: bool) {
        let (Some(session), Some(id)) = (&self.session, self.backup.clone()) else { return };
        let job = self.stack.backup(&id).await;
        let holds = job.claim.check_session(&session.secret).is_ok();
        if job.state != BackupState::Running || !holds {
            let measured = crate::workers::measurements(&dump(), b"list", b"annex", &self.stack.clock.now());
            allowed(session.finish(&measured).await.status, &[200, 202, 401, 409, 422]);
            return;
        }
        // URLs carry the test's time, which the bucket compares with its own.
        let ahead = self.stack.clock.now_ms() - walwarden_core::edge::Edge::system().now_ms();
        if ahead > 600_000 {
            return;
        }
        let mut finish = session.upload(&dump()).await;
        if wrong {
            finish["parts"] = 0.into();
            session.finish(&finish).await.refused(422, "unprocessable");
            return;
        }
        session.finish(&finish).await.expect(202);
        if twice {
            allowed(session.finish(&finish).await.status, &[200, 202]);
        }
        let job = self.stack.sealed(&id).await;
        assert_eq!(job.state, BackupState::Completed, "{:?}", job.failure);
        self.completed = Some(id);
    }
}

#[track_caller]
fn allowed(status: u16, these: &[u16]) {
    assert!(these.contains(&status), "{status} is none of {these:?}");
}

#[test]
fn whatever_happens_the_log_and_the_jobs_agree() {
    let runtime = Runtime::new().unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(step(), 20..60);
    let store = runtime.block_on(Store::new());
    let outcome = runner.run(&steps, |steps| {
        runtime.block_on(async {
            let stack = Stack::start().await;
            let database = store.database(&stack).await;
            let mut history = History {
                stack: &stack,
                database: database.clone(),
                backup: None,
                launched: Vec::new(),
                session: None,
                completed: None,
                restore: None,
                cli: None,
            };
            for step in &steps {
                history.apply(step).await;
                audit::database(&stack, &database).await;
            }
            // Left alone long enough, everything comes to an end and nothing unfinished is left in the bucket.
            for _ in 0..12 {
                stack.clock.forward(2000);
                stack.sweep().await;
            }
            let all = stack.get(format!("/api/v1/databases/{database}/backups")).send().await.expect(200);
            assert!(all["backups"].as_array().unwrap().iter().all(|b| b["final"] == true), "{all:#}");
            assert_eq!(stack.active(&database).await, None);
            let due = stack.domain.table.due(keys::SENTINEL_QUEUE, "2999", 10).await.unwrap();
            assert!(due.iter().all(|key| key.sk.starts_with("RESTORE#")), "{due:?}");
            assert_eq!(store.unfinished(&stack), []);
            audit::log(&stack).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
