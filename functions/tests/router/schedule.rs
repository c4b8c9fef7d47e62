//! The schedule, and what a database may be registered with.

use serde_json::{Value, json};
use walwarden_contract::ids::DatabaseId;

use crate::{audit, placed, stack::Stack};

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
    for bad in ["", "* * * *", "61 * * * *", "@daily", "0 0 31 2 *", &"1,".repeat(500)] {
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
async fn retention_compression_and_limits_are_checked() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let destination = stack.domain.database(&stack.org, &database).await.unwrap().body.destination_id;
    let size = stack.log_size().await;
    let ask = async |field: &str, value: Value| {
        let mut request = Stack::database_request(destination.as_str());
        request[field] = value;
        stack.post("/api/v1/databases").fresh().json(&request).send().await
    };
    let refused: [(&str, Vec<Value>); 6] = [
        ("retentionDays", vec![json!(0), json!(3651), json!(-1), json!(1.5), json!("30")]),
        (
            "compression",
            vec![
                json!({ "codec": "gzip", "level": 0 }),
                json!({ "codec": "gzip", "level": 10 }),
                json!({ "codec": "zstd", "level": 20 }),
                json!({ "codec": "lz4", "level": 1 }),
                json!("gzip"),
            ],
        ),
        ("maxBytes", vec![json!(0), json!(-1)]),
        ("maxHours", vec![json!(0), json!(721)]),
        ("schedule", vec![json!("often"), json!(5)]),
        ("name", vec![json!(""), json!("  "), json!("a\u{202e}b"), json!("a\nb"), json!("x".repeat(101))]),
    ];
    for (field, values) in refused {
        for value in values {
            ask(field, value).await.refused(400, "invalid_request");
        }
    }
    ask("destinationId", json!("dst_01jd7z9k3m5n7p9r1t3v5x7z9a")).await.refused(404, "not_found");
    assert_eq!(stack.log_size().await, size);
    for (field, value) in [
        ("retentionDays", json!(3650)),
        ("compression", json!({ "codec": "zstd", "level": 19 })),
        ("maxHours", json!(720)),
        ("schedule", json!("0 2 * * 1-5")),
    ] {
        let created = ask(field, value.clone()).await.expect(201);
        if field != "maxHours" {
            assert_eq!(created[field], value);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_connection_string_is_refused_and_not_echoed() {
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    let destination = stack.domain.database(&stack.org, &database).await.unwrap().body.destination_id;
    for dsn in [
        "hunter2hunter2",
        "mysql://u:hunter2hunter2@h/d",
        "postgresql://u:hunter2hunter2@/d",
        "postgresql://u:hunter2hunter2@a,b/d",
        "postgresql://u:hunter2hunter2@h:0/d",
        "postgresql://u:hunter2hunter2@h/d?sslkey=/etc/key",
        "postgresql://u:hunter2hunter2@h/d?sslrootcert=/etc/hunter2hunter2",
        "postgresql://u:hunter2hunter2@h/d?options=-csearch_path%3Dhunter2hunter2",
        "postgresql://:hunter2hunter2@h/d",
        "postgresql://u:hunter2hunter2%zz@h/d",
        "postgresql://u:hunter2hunter2@x.pooler.supabase.com:6543/d",
        "postgresql://u:hunter2hunter2@ep-x-pooler.eu.aws.neon.tech/d",
        "host=/var/run password=hunter2hunter2",
        "host='h password=hunter2hunter2",
    ] {
        let mut request = Stack::database_request(destination.as_str());
        request["dsn"] = dsn.into();
        let refused = stack.post("/api/v1/databases").fresh().json(&request).send().await;
        let error = refused.refused(400, "invalid_request");
        assert!(!error.to_string().contains("hunter2"), "{dsn}: {error}");
    }
    // What is shown of a good one.
    let mut request = Stack::database_request(destination.as_str());
    request["dsn"] = "host=db.example.com user=backup password='it''s hunter2hunter2' dbname=orders".into();
    let refused = stack.post("/api/v1/databases").fresh().json(&request).send().await;
    assert!(!refused.text().contains("hunter2"));
    request["dsn"] = "postgresql://b%40ckup:hunter2hunter2@[2001:db8::1]:6000/my%20db?sslmode=verify-full".into();
    let created = stack.post("/api/v1/databases").fresh().json(&request).send().await.expect(201);
    assert_eq!(created["redactedDsn"], "postgresql://b%40ckup@[2001:db8::1]:6000/my%20db");
    assert!(!stack.items().iter().any(|item| item.contains("hunter2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_bucket_is_refused_before_it_is_stored() {
    let stack = Stack::start().await;
    let good = json!({
        "name": "bucket", "provider": "s3_compatible", "endpoint": "https://s3.example.com", "region": "us-east-1",
        "bucket": "backups", "accessKeyId": "AK", "secretAccessKey": "hunter2hunter2",
    });
    let size = stack.log_size().await;
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x\u{1b}[2J")),
        ("bucket", json!("Not A Bucket")),
        ("bucket", json!("b".repeat(30_000))),
        ("region", json!("us east")),
        ("endpoint", json!("s3.example.com")),
        ("endpoint", json!("https://key:hunter2hunter2@s3.example.com")),
        ("endpoint", json!("https://s3.example.com/?x=hunter2hunter2")),
        ("endpoint", json!("http://169.254.169.254")),
        ("accessKeyId", json!("")),
        ("secretAccessKey", json!("")),
        ("provider", json!("ftp")),
        ("provider", json!("aws_s3")),
    ] {
        let mut request = good.clone();
        request[field] = value;
        let refused = stack.post("/api/v1/destinations").fresh().json(&request).send().await;
        let error = refused.refused(400, "invalid_request");
        assert!(!error.to_string().contains("hunter2"), "{field}: {error}");
    }
    let aws = json!({
        "name": "aws", "provider": "aws_s3", "bucket": "backups", "region": "eu-central-1",
        "roleArn": "arn:aws:iam::1234:role/x", "externalId": "walwarden-1",
    });
    stack.post("/api/v1/destinations").fresh().json(&aws).send().await.refused(400, "invalid_request");
    assert_eq!(stack.log_size().await, size);
    let created = stack.post("/api/v1/destinations").fresh().json(&good).send().await.expect(201);
    assert_eq!(created["state"], "unverified");
    assert!(!stack.items().iter().any(|item| item.contains("hunter2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_paged_newest_first_within_their_database() {
    let stack = Stack::start().await;
    let (one, two) = (stack.bucketless().await, stack.bucketless().await);
    let mut made = Vec::new();
    for n in 0..7 {
        stack.clock.forward(1);
        let database = if n == 3 { &two } else { &one };
        made.push(placed::completed(&stack, database).await.to_string());
    }
    let elsewhere = made.remove(3);
    made.reverse();
    let page = async |database: &DatabaseId, query: &str| {
        stack.get(format!("/api/v1/databases/{database}/backups?{query}")).send().await
    };
    let ids = |page: &Value| -> Vec<String> {
        page["backups"].as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let found = page(&one, &format!("limit=2{cursor}")).await.expect(200);
        seen.extend(ids(&found));
        match found["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, made);
    // A cursor of another database is but a place in time: it shows nothing of that database.
    let found = page(&one, &format!("cursor={elsewhere}")).await.expect(200);
    assert_eq!(ids(&found), made[3..].to_vec());
    assert_eq!(ids(&page(&two, &format!("cursor={}", made[0])).await.expect(200)), [elsewhere]);
    for bad in [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=-1",
        "cursor=x",
        "cursor=rst_01jd7z9k3m5n7p9r1t3v5x7z9a",
        "limit=1&limit=2",
    ] {
        page(&one, bad).await.refused(400, "invalid_request");
    }
}
