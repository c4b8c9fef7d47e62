//! The schedule: what a tick starts, skips or misses.

use serde_json::{Value, json};
use walwarden_contract::ids::DatabaseId;

use crate::{audit, stack::Stack};

async fn scheduled(stack: &Stack, cron: &str) -> DatabaseId {
    let database = stack.bucketless().await;
    set(stack, &database, json!(cron)).await.expect(200);
    database
}

async fn set(stack: &Stack, database: &DatabaseId, schedule: Value) -> crate::stack::Reply {
    let path = format!("/api/v1/databases/{database}/schedule");
    stack.put(path).json(&json!({ "schedule": schedule })).send().await
}

async fn next_run(stack: &Stack, database: &DatabaseId) -> Option<String> {
    let shown = stack.get(format!("/api/v1/databases/{database}")).send().await.expect(200);
    shown["nextRunAt"].as_str().map(str::to_owned)
}

async fn backups(stack: &Stack, database: &DatabaseId) -> Vec<Value> {
    let shown = stack.get(format!("/api/v1/databases/{database}/backups")).send().await.expect(200);
    shown["backups"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_starts_one_backup() {
    let stack = Stack::start().await;
    let database = scheduled(&stack, "*/15 * * * *").await;
    assert_eq!(stack.ticks().await, Vec::<String>::new());
    let tick = next_run(&stack, &database).await.unwrap();
    stack.clock.forward_to(&tick);
    // Two schedulers at once, and then again.
    let (one, two) = tokio::join!(stack.domain.ticks(), stack.domain.ticks());
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    assert_eq!(stack.ticks().await, Vec::<String>::new());
    let all = backups(&stack, &database).await;
    assert_eq!((all.len(), all[0]["trigger"].as_str()), (1, Some("schedule")));
    let next = next_run(&stack, &database).await.unwrap();
    let minutes = |text: &str| walwarden_contract::time::parse_ms(text).unwrap() / 60_000;
    assert_eq!(minutes(&next), minutes(&tick) + 15);
    audit::database(&stack, &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_that_finds_a_backup_under_way_is_skipped() {
    let stack = Stack::start().await;
    let database = scheduled(&stack, "0 * * * *").await;
    let tick = next_run(&stack, &database).await.unwrap();
    stack.clock.forward_to(&tick);
    stack.trigger(&database).await;
    let size = stack.log_size().await;
    assert_eq!(stack.ticks().await, Vec::<String>::new());
    let entries = stack.entries_since(size).await;
    assert_eq!((entries.len(), entries[0]["kind"].as_str()), (1, Some("backup.skipped")));
    assert_eq!(
        entries[0]["payload"],
        json!({ "databaseId": database, "tick": tick, "reason": "backup_already_active" })
    );
    assert!(next_run(&stack, &database).await.unwrap() > tick);
    stack.ticks().await;
    assert_eq!(stack.log_size().await, size + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_that_passed_while_nothing_ran_are_one_missed() {
    let stack = Stack::start().await;
    let database = scheduled(&stack, "0 * * * *").await;
    let tick = next_run(&stack, &database).await.unwrap();
    stack.clock.forward_to(&tick);
    stack.clock.forward(5 * 3600 + 301);
    let size = stack.log_size().await;
    assert_eq!(stack.ticks().await, Vec::<String>::new());
    let entries = stack.entries_since(size).await;
    assert_eq!((entries.len(), entries[0]["kind"].as_str()), (1, Some("backup.missed")));
    assert_eq!(entries[0]["payload"]["tick"], tick);
    let next = next_run(&stack, &database).await.unwrap();
    assert!(next > stack.clock.now());
    // Late by minutes is not missed.
    stack.clock.forward_to(&next);
    stack.clock.forward(290);
    assert_eq!(stack.ticks().await, ["Launch"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_set_cleared_and_checked() {
    let stack = Stack::start().await;
    let database = scheduled(&stack, "0 2 * * *").await;
    for bad in
        ["", "* * * *", "61 * * * *", "@daily", "0 0 31 2 *", "0 2\n* * *", &format!("{}1 * * * *", "1,".repeat(500))]
    {
        set(&stack, &database, json!(bad)).await.refused(400, "invalid_request");
    }
    assert!(next_run(&stack, &database).await.unwrap().ends_with("T02:00:00.000Z"));
    // Saying nothing is not saying none.
    let path = format!("/api/v1/databases/{database}/schedule");
    stack.put(path.clone()).json(&json!({})).send().await.refused(400, "invalid_request");
    stack.put(path).send().await.refused(400, "invalid_request");
    assert!(next_run(&stack, &database).await.is_some());
    let size = stack.log_size().await;
    set(&stack, &database, Value::Null).await.expect(200);
    assert_eq!(next_run(&stack, &database).await, None);
    let entries = stack.entries_since(size).await;
    assert_eq!(entries[0]["payload"], json!({ "databaseId": database, "schedule": "" }));
    stack.clock.forward(7 * 24 * 3600);
    assert_eq!(stack.ticks().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_of_a_destination_that_is_not_verified_is_skipped() {
    let stack = Stack::start().await;
    let database = scheduled(&stack, "0 * * * *").await;
    let record = stack.domain.database(&stack.org, &database).await.unwrap().body;
    let mut destination = stack.domain.destination(&stack.org, &record.destination_id).await.unwrap();
    destination.body.info.state = walwarden_contract::states::DestinationState::Drifted;
    let item = walwarden_core::table::Item::new(&destination.body);
    stack.domain.table.write(walwarden_core::table::Write::Put(destination.key, item)).await.unwrap();
    let path = format!("/api/v1/databases/{database}/backups");
    let error = stack.post(path).fresh().send().await.refused(412, "destination_not_verified");
    assert_eq!(error["resourceId"], record.destination_id.as_str());
    stack.clock.forward_to(&next_run(&stack, &database).await.unwrap());
    let size = stack.log_size().await;
    stack.ticks().await;
    let entries = stack.entries_since(size).await;
    assert_eq!(entries[0]["payload"]["reason"], "destination_not_verified");
    // The same by the door that EventBridge takes.
    let call = walwarden_functions::dispatch::DispatchCall::Tick {
        org: stack.org.clone(),
        database: database.clone(),
        tick: stack.clock.now(),
    };
    stack.dispatch.carry_out(call).await.unwrap();
    let entries = stack.entries_since(size + 1).await;
    assert_eq!((entries.len(), entries[0]["kind"].as_str()), (1, Some("backup.skipped")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_that_is_delivered_twice_starts_one_backup() {
    use walwarden_functions::dispatch::DispatchCall;
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let size = stack.log_size().await;
    let fire = async |tick: &str| {
        let (org, database) = (stack.org.clone(), database.clone());
        stack.dispatch.carry_out(DispatchCall::Tick { org, database, tick: tick.into() }).await.unwrap();
    };
    fire("2026-11-24T02:00:00.000Z").await;
    let id = stack.active(&database).await.unwrap();
    stack.launched(id.as_str()).await;
    fire("2026-11-24T02:00:00.000Z").await;
    let kinds: Vec<_> = stack.entries_since(size).await.iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["backup.queued"]);
    // Whoever was launched last can claim.
    crate::workers::Session::claim(&stack, id.as_str()).await;
    fire("2026-11-24T02:00:00.000Z").await;
    fire("2026-11-24T03:00:00.000Z").await;
    let kinds: Vec<_> = stack.entries_since(size).await.iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["backup.queued", "backup.claimed", "backup.skipped"]);
    assert_eq!(backups(&stack, &database).await.len(), 1);
}
