//! Lists: their pages, cursors and limits.

use serde_json::Value;
use walwarden_contract::ids::{DatabaseId, RestoreId};
use walwarden_core::backups::ReceiptRef;

use crate::{placed, stack::Stack};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_the_table_cuts_short_is_not_the_last() {
    const BACKUPS: usize = 45;
    let stack = Stack::start().await;
    let database = stack.bucketless().await;
    for _ in 0..BACKUPS {
        let id = placed::completed(&stack, &database).await;
        // DynamoDB ends a page at a megabyte: these are large.
        let mut job = stack.backup(&id).await;
        let receipt = ReceiptRef { restore_id: RestoreId::new(1, [1; 10]), hash: "00".repeat(32) };
        job.receipts = vec![receipt; 250];
        placed::put(&stack, &job).await;
    }
    let (mut seen, mut pages, mut query) = (0, 0, "limit=200".to_owned());
    loop {
        let path = format!("/api/v1/databases/{database}/backups?{query}");
        let page = stack.get(path).send().await.expect(200);
        (seen, pages) = (seen + page["backups"].as_array().unwrap().len(), pages + 1);
        match page["nextCursor"].as_str() {
            Some(next) => query = format!("limit=200&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, BACKUPS);
    assert!(pages > 1, "the table gave it all at once");
    let evidence = stack.get(format!("/api/v1/evidence?databaseId={database}")).send().await.expect(200);
    assert_eq!(evidence["evidence"].as_array().unwrap().len(), BACKUPS);
}
