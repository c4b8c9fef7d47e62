//! The log itself: many writers at once, and proofs across tiles.

use std::sync::Arc;

use tokio::task::JoinSet;
use walwarden_core::log::Draft;
use walwarden_verifier::entry::Event;

use crate::{audit, stack::Stack};

fn draft(n: usize) -> Draft {
    Draft::standing(Event::BackupMissed { database_id: format!("database {n}"), tick: "now".into() }, "test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_writers_leave_no_gap_and_no_double() {
    const WRITERS: usize = 20;
    const EACH: usize = 5;
    let stack = Arc::new(Stack::start().await);
    let before = stack.log_size().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let stack = Arc::clone(&stack);
        writers.spawn(async move {
            for n in 0..EACH {
                stack.domain.log.commit(&stack.org, Vec::new(), vec![draft(writer * EACH + n)]).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let entries = audit::log(&stack).await;
    assert_eq!(entries.len() as u64, before + (WRITERS * EACH) as u64);
    let mut written: Vec<String> =
        entries.iter().map(|e| format!("{:?}", e.event)).filter(|e| e.contains("Missed")).collect();
    written.sort();
    written.dedup();
    assert_eq!(written.len(), WRITERS * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_hold_across_tiles() {
    let stack = Stack::start().await;
    // More than two full tiles, in transactions of as many entries as DynamoDB takes.
    for _ in 0..7 {
        let drafts = (0..90).map(draft).collect();
        stack.domain.log.commit(&stack.org, Vec::new(), drafts).await.unwrap();
    }
    audit::log(&stack).await;
    let tiles = stack.items().iter().filter(|item| item.contains("TILE#")).count();
    assert!(tiles >= 2, "{tiles}");
    // Now from the kept tiles, and after the log has grown.
    stack.domain.log.commit(&stack.org, Vec::new(), vec![draft(0)]).await.unwrap();
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_in_a_log_never_go_back() {
    let stack = Stack::start().await;
    stack.clock.forward(60);
    stack.domain.log.commit(&stack.org, Vec::new(), vec![draft(0)]).await.unwrap();
    // Another writer's clock is behind.
    stack.clock.forward(-60);
    stack.domain.log.commit(&stack.org, Vec::new(), vec![draft(1)]).await.unwrap();
    audit::log(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_databases_share_one_head() {
    let stack = Arc::new(Stack::start().await);
    let mut databases = Vec::new();
    for _ in 0..12 {
        databases.push(stack.bucketless().await);
    }
    let size = stack.log_size().await;
    let mut starts = JoinSet::new();
    for database in databases.clone() {
        let stack = Arc::clone(&stack);
        starts.spawn(async move {
            let id = stack.trigger(&database).await;
            stack.post(format!("/api/v1/backups/{id}/cancel")).send().await.expect(200);
        });
    }
    while let Some(ended) = starts.join_next().await {
        ended.unwrap();
    }
    assert_eq!(stack.log_size().await, size + 24);
    for database in &databases {
        audit::database(&stack, database).await;
    }
    audit::log(&stack).await;
}
