//! What databases and destinations may be registered with, and when a destination may be used.

use serde_json::{Value, json};

use crate::{bucket::Store, stack::Stack};

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
    let refused: [(&str, Vec<Value>); 7] = [
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
        (
            "selection",
            vec![
                json!({ "excludeTables": ["events"] }),
                json!({ "excludeTables": ["app.ev*"] }),
                json!({ "schemas": ["pg_catalog"] }),
                json!({ "schemas": ["a"], "excludeSchemas": ["A"] }),
                json!({ "tables": [] }),
                json!("app"),
            ],
        ),
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
async fn settings_change_one_by_one_and_hold_from_the_next_attempt_on() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let database = store.database(&stack).await;
    let path = format!("/api/v1/databases/{database}");
    let change = async |body: Value| stack.call("PATCH", &path).json(&body).send().await;
    let size = stack.log_size().await;
    for body in [
        json!({ "retentionDays": 0 }),
        json!({ "maxBytes": 0 }),
        json!({ "maxHours": 721 }),
        json!({ "compression": { "codec": "zstd", "level": 20 } }),
        json!({ "omitUnreadable": "yes" }),
        json!({ "selection": { "excludeSchemas": ["a.b"] } }),
        json!({ "dsn": "postgresql://u@h/d" }),
    ] {
        change(body).await.refused(400, "invalid_request");
    }
    let before = change(json!({})).await.expect(200);
    assert_eq!((&before["omitUnreadable"], &before["maxHours"]), (&json!(false), &json!(24)));
    assert_eq!(stack.log_size().await, size, "nothing changed");

    let selection = json!({ "schemas": ["Sales", "\"Sales\""], "excludeTableData": ["sales.log"] });
    let settings =
        json!({ "omitUnreadable": true, "maxBytes": 5_000_000_000u64, "maxHours": 24, "selection": selection });
    let after = change(settings).await.expect(200);
    let selection = json!({ "schemas": ["\"Sales\"", "sales"], "excludeTableData": ["sales.log"] });
    assert_eq!(after["selection"], selection, "in its one form");
    assert_eq!((&after["omitUnreadable"], &after["maxBytes"]), (&json!(true), &json!(5_000_000_000u64)));
    assert_eq!(after["retentionDays"], before["retentionDays"]);
    let entries = stack.entries_since(size).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["kind"], "database.updated");
    assert_eq!(
        entries[0]["payload"],
        json!({ "databaseId": database, "changed": ["maxBytes", "omitUnreadable", "selection"] })
    );

    let id = stack.trigger(&database).await;
    let session = crate::workers::Session::claim(&stack, id.as_str()).await;
    let instructions = session.instructions().await.expect(200);
    assert_eq!((&instructions["omitUnreadable"], &instructions["maxBytes"]), (&json!(true), &json!(5_000_000_000u64)));
    assert_eq!(instructions["selection"], selection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_takes_few_parts_is_given_few_and_large_ones() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let mut request = store.request();
    for cap in [json!(0), json!(19), json!(10_001), json!("20")] {
        request["partCap"] = cap;
        stack.post("/api/v1/destinations").fresh().json(&request).send().await.refused(400, "invalid_request");
    }
    request["partCap"] = json!(20);
    let created = stack.post("/api/v1/destinations").fresh().json(&request).send().await.expect(201);
    assert_eq!(created["partCap"], 20);
    let destination = created["id"].as_str().unwrap();
    stack.post(format!("/api/v1/destinations/{destination}/preflight")).send().await.expect(200);
    let request = Stack::database_request(destination);
    let created = stack.post("/api/v1/databases").fresh().json(&request).send().await.expect(201);
    let database = created["id"].as_str().unwrap().parse().unwrap();
    let id = stack.trigger(&database).await;
    let session = crate::workers::Session::claim(&stack, id.as_str()).await;
    session.start().await;
    assert_eq!(session.instructions().await.expect(200)["partCap"], 20);
    // The third part of twenty has twice the size of the first; a part beyond the cap is refused.
    session.part(3, &vec![1; 16 << 20]).await.expect(200);
    session.part(1, &vec![1; 16 << 20]).await.refused(400, "invalid_request");
    session.part(21, b"x").await.refused(400, "invalid_request");
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
async fn only_a_preflight_that_passes_opens_a_destination() {
    let (stack, store) = (Stack::start().await, Store::new().await);
    let created = stack.post("/api/v1/destinations").fresh().json(&store.request()).send().await.expect(201);
    let id = created["id"].as_str().unwrap();
    let database = stack.database(id).await;
    let preflight = async || stack.post(format!("/api/v1/destinations/{id}/preflight")).send().await.expect(200);
    let trigger = async || stack.post(format!("/api/v1/databases/{database}/backups")).fresh().send().await;
    trigger().await.refused(412, "destination_not_verified");
    store.close();
    let size = stack.log_size().await;
    let found = preflight().await;
    assert_eq!(found["result"], "failed");
    assert!(found["checks"].as_array().unwrap().iter().any(|check| check["outcome"] == "skipped"), "{found:#}");
    let entries = stack.entries_since(size).await;
    assert_eq!(entries[0]["payload"]["result"], "failed");
    assert_eq!(entries[0]["payload"]["failed"], json!(["put_object"]));
    trigger().await.refused(412, "destination_not_verified");
    store.open();
    assert_eq!(preflight().await["result"], "verified");
    trigger().await.expect(202);
    let shown = stack.get(format!("/api/v1/destinations/{id}")).send().await.expect(200);
    assert_eq!((shown["state"].as_str(), shown["preflight"]["result"].as_str()), (Some("verified"), Some("verified")));
}
