//! Buckets on SeaweedFS.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use walwarden_contract::{
    address::AddressPolicy,
    api::{CheckOutcome, DestinationAccess, PreflightCheck},
    secret::Secret,
    worker::PartDigest,
};
use walwarden_core::destinations::{
    Bucket, BucketConfig, CompletedPart, LockMode, Network, ObservedLock, Probe, PutOutcome, StorageErrorKind,
    is_verified, preflight,
};
use walwarden_tests::Seaweed;

use crate::world::{Fault, config, digest, door, in_minutes, local, locked, now, org, send, send_with};

#[tokio::test]
async fn an_upload_by_presigned_parts_is_completed_and_attested() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let (key, until) = ("org/o/db/d/backup/2026/11/24/bkp_1.dump", in_minutes(60));
    let upload = bucket.create_upload(key, until, &[("attempt", "1"), ("backup", "bkp_1")]).await.unwrap();

    let pieces: [Vec<u8>; 2] = [vec![7; 5 * 1024 * 1024], b"the rest".to_vec()];
    for (piece, number) in pieces.iter().zip(1..) {
        for digest_kind in [PartDigest::Md5, PartDigest::Sha256] {
            let request = bucket.presign_part(key, &upload, number, &digest(piece), digest_kind, now()).unwrap();
            assert!(!request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")));
            assert!(!format!("{request:?}").contains("X-Amz-Signature"));
            let sent = send(&request, piece).await;
            assert_eq!(sent.status, 200, "{}", String::from_utf8_lossy(&sent.body));
        }
    }
    let pending = bucket.list_uploads("org/o/").await.unwrap();
    assert_eq!((pending.len(), &*pending[0].key, &pending[0].upload_id), (1, key, &upload));
    assert!(pending[0].initiated.is_some());

    let listed = bucket.list_parts(key, &upload).await.unwrap();
    assert_eq!(listed.iter().map(|p| (p.number, p.size_bytes)).collect::<Vec<_>>(), [(1, 5 * 1024 * 1024), (2, 8)]);
    assert_eq!(listed[1].etag, digest(&pieces[1]).md5);
    let parts: Vec<CompletedPart> = listed
        .iter()
        .zip(&pieces)
        .map(|(part, piece)| CompletedPart {
            number: part.number,
            etag: part.etag.clone(),
            sha256_base64: Some(STANDARD.encode(Sha256::digest(piece))),
        })
        .collect();
    let done = bucket.complete_upload(key, &upload, &parts).await.unwrap();
    let again = bucket.complete_upload(key, &upload, &parts).await;
    assert!(
        again.as_ref().is_ok_and(|again| again.version_id == done.version_id)
            || again.is_err_and(|e| e.kind == StorageErrorKind::NoSuchUpload)
    );

    let digests: Vec<u8> = pieces.iter().flat_map(Sha256::digest).collect();
    let composite = format!("{}-2", STANDARD.encode(Sha256::digest(digests)));
    let facts = bucket.head(key, done.version_id.as_deref()).await.unwrap().unwrap();
    assert_eq!(facts.checksum_sha256.as_deref(), Some(composite.as_str()));
    assert_eq!(facts.size_bytes, 5 * 1024 * 1024 + 8);
    assert_eq!(facts.version_id, done.version_id);
    assert_eq!(facts.etag, done.etag);
    assert_eq!(facts.metadata.get("attempt").map(String::as_str), Some("1"));
    assert!(facts.lock.holds_until(until) && facts.lock_mode() == Some(LockMode::Governance));

    let found = bucket.find_versions(key).await.unwrap();
    assert_eq!(
        (found.len(), &found[0].version_id, found[0].size_bytes, found[0].is_latest),
        (1, &done.version_id, facts.size_bytes, true)
    );

    let url = bucket.presign_get(key, done.version_id.as_deref(), now(), Duration::from_secs(60)).unwrap();
    let part = send_with(&url, &[], |headers| headers.push(("range".into(), "bytes=5242880-5242882".into()))).await;
    assert_eq!((part.status, part.body.as_slice()), (206, b"the".as_slice()));
}

#[tokio::test]
async fn a_part_url_takes_only_its_own_bytes() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let upload = bucket.create_upload("a/b c+d.dump", in_minutes(5), &[]).await.unwrap();
    let body = b"exactly these bytes".to_vec();
    for kind in [PartDigest::Sha256, PartDigest::Md5] {
        let sign = |at| bucket.presign_part("a/b c+d.dump", &upload, 1, &digest(&body), kind, at).unwrap();
        let request = sign(now());
        let same_length = b"exactly those bytes".to_vec();
        assert_eq!(send(&request, &same_length).await.status, 400);
        for (name, value) in
            [("content-md5", digest(&same_length).md5), ("x-amz-checksum-sha256", digest(&same_length).sha256)]
        {
            let value = STANDARD.encode(hex::decode(value).unwrap());
            let changed = send_with(&request, &same_length, |headers| {
                headers.iter_mut().filter(|h| h.0 == name).for_each(|h| h.1 = value.clone())
            })
            .await;
            assert!(changed.status >= 400, "{name}: {}", changed.status);
        }
        let shorter = send_with(&request, &body[1..], |headers| headers.retain(|h| h.0 != "content-length")).await;
        assert_eq!(shorter.status, 403);
        for (from, to) in
            [("partNumber=1", "partNumber=2"), ("b%20c", "b%20d"), ("X-Amz-Expires=900", "X-Amz-Expires=901")]
        {
            let mut other = request.clone();
            let url = other.url.expose().replacen(from, to, 1);
            assert_ne!(url, other.url.expose());
            other.url = Secret::new(url);
            assert_eq!(send(&other, &body).await.status, 403, "{to}");
        }
        let old = sign(now() - jiff::SignedDuration::from_mins(16));
        assert_eq!(send(&old, &body).await.status, 403);
        assert!(bucket.list_parts("a/b c+d.dump", &upload).await.unwrap().iter().all(|part| part.number == 1));
        assert_eq!(send(&request, &body).await.status, 200);
    }
    bucket.abort_upload("a/b c+d.dump", &upload).await.unwrap();
    bucket.abort_upload("a/b c+d.dump", &upload).await.unwrap();
    assert_eq!(bucket.list_parts("a/b c+d.dump", &upload).await.unwrap_err().kind, StorageErrorKind::NoSuchUpload);
    let part = CompletedPart { number: 1, etag: digest(&body).md5, sha256_base64: None };
    assert_eq!(
        bucket.complete_upload("a/b c+d.dump", &upload, &[part]).await.unwrap_err().kind,
        StorageErrorKind::NoSuchUpload
    );
    assert_eq!(bucket.list_uploads("").await.unwrap(), []);
}

#[tokio::test]
async fn a_completion_with_a_wrong_part_is_refused_and_can_be_repeated_rightly() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let upload = bucket.create_upload("k", in_minutes(5), &[]).await.unwrap();
    let body = b"bytes".to_vec();
    let request = bucket.presign_part("k", &upload, 1, &digest(&body), PartDigest::Sha256, now()).unwrap();
    assert_eq!(send(&request, &body).await.status, 200);
    let part = |etag: &str, of: &[u8]| CompletedPart {
        number: 1,
        etag: etag.into(),
        sha256_base64: Some(STANDARD.encode(Sha256::digest(of))),
    };
    let wrong = bucket.complete_upload("k", &upload, &[part(&digest(b"other").md5, &body)]).await.unwrap_err();
    assert!(!wrong.is_passing(), "{wrong}");
    bucket.complete_upload("k", &upload, &[part(&digest(&body).md5, &body)]).await.unwrap();
}

#[tokio::test]
async fn documents_are_written_once_under_lock() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let (key, until) = ("org/o/bkp_1.manifest.json", in_minutes(60));
    let written = bucket.put_locked(key, b"{\"a\":1}", until, "application/json").await.unwrap();
    assert!(matches!(written, PutOutcome::Written { .. }) && written.version_id().is_some());
    let again = bucket.put_locked(key, b"{\"a\":1}", until, "application/json").await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere { version_id: written.version_id().map(str::to_owned) });
    for other in [b"{\"a\":2}".as_slice(), b"{\"a\":10}", b""] {
        assert_eq!(
            bucket.put_locked(key, other, until, "application/json").await.unwrap_err().kind,
            StorageErrorKind::Mismatch
        );
    }
    assert_eq!(server.versions("backups", key).unwrap().len(), 1);

    let facts = bucket.head(key, written.version_id()).await.unwrap().unwrap();
    assert!(facts.lock.holds_until(until) && !facts.lock.holds_until(in_minutes(62)));
    assert_eq!(facts.checksum_sha256, Some(STANDARD.encode(Sha256::digest(b"{\"a\":1}"))));
    // A longer lock asked for by a repeat is given.
    bucket.put_locked(key, b"{\"a\":1}", in_minutes(90), "application/json").await.unwrap();
    assert!(bucket.retention(key, written.version_id()).await.unwrap().holds_until(in_minutes(89)));
    server.delete("backups", key, written.version_id()).unwrap_err();

    assert_eq!(bucket.get(key, written.version_id(), 7).await.unwrap(), b"{\"a\":1}");
    assert_eq!(bucket.get(key, None, 6).await.unwrap_err().kind, StorageErrorKind::Mismatch);
    assert_eq!(bucket.get("nothing", None, 6).await.unwrap_err().kind, StorageErrorKind::NotFound);
    assert_eq!(bucket.head("nothing", None).await.unwrap(), None);
    assert_eq!(bucket.find_versions("nothing").await.unwrap(), []);

    // Hidden by a delete marker, and another key that begins alike.
    server.put("backups", "org/o/bkp_1.manifest.json.other", "x").unwrap();
    server.delete("backups", key, None).unwrap();
    assert_eq!(bucket.head(key, None).await.unwrap(), None);
    let versions = bucket.find_versions(key).await.unwrap();
    assert_eq!(versions.iter().map(|v| v.version_id.as_deref()).collect::<Vec<_>>(), [written.version_id()]);
    assert_eq!(bucket.get(key, written.version_id(), 7).await.unwrap(), b"{\"a\":1}");
    let unlocked = bucket.head("org/o/bkp_1.manifest.json.other", None).await.unwrap().unwrap();
    assert_eq!(unlocked.lock, ObservedLock::Unlocked);
}

#[tokio::test]
async fn presigned_documents_are_locked_and_recognised() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let (key, until, body) = ("org/o/bkp_1.annex.jsonl.gz", in_minutes(60), b"annex".to_vec());
    let request =
        bucket.presign_put_locked(key, &digest(&body), until, LockMode::Governance, "application/gzip", now()).unwrap();
    assert_eq!(send(&request, b"other").await.status, 400);
    let head = request.head.as_deref().unwrap();
    assert_eq!((head.method.as_str(), head.headers.len()), ("HEAD", 0));
    assert_eq!(send(head, &[]).await.status, 404);
    let put = send(&request, &body).await;
    assert_eq!(put.status, 200);
    assert_eq!(send(&request, &body).await.status, 412);
    let seen = send(head, &[]).await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.headers["x-amz-checksum-sha256"], STANDARD.encode(Sha256::digest(&body)).as_str());
    assert_eq!(seen.headers["content-length"], "5");
    assert_eq!(seen.headers["x-amz-version-id"], put.headers["x-amz-version-id"]);
    let facts = bucket.head(key, None).await.unwrap().unwrap();
    assert!(facts.lock.holds_until(until));

    let compliance = bucket
        .presign_put_locked("c", &digest(&body), in_minutes(1), LockMode::Compliance, "text/plain", now())
        .unwrap();
    assert_eq!(send(&compliance, &body).await.status, 200);
    assert_eq!(bucket.head("c", None).await.unwrap().unwrap().lock_mode(), Some(LockMode::Compliance));
}

#[tokio::test]
async fn lists_longer_than_a_page_are_whole() {
    let server = Seaweed::start().unwrap();
    let bucket = locked(&server, "backups").await;
    let upload = bucket.create_upload("many", in_minutes(5), &[]).await.unwrap();
    let client = reqwest::Client::new();
    for number in 1..=1_005 {
        let body = number.to_string().into_bytes();
        let request = bucket.presign_part("many", &upload, number, &digest(&body), PartDigest::Md5, now()).unwrap();
        let mut sending = client.put(request.url.expose()).body(body);
        for (name, value) in request.headers {
            sending = sending.header(name, value);
        }
        assert_eq!(sending.send().await.unwrap().status(), 200);
    }
    let parts = bucket.list_parts("many", &upload).await.unwrap();
    assert_eq!(parts.iter().map(|p| p.number).collect::<Vec<_>>(), (1..=1_005).collect::<Vec<_>>());
    bucket.abort_upload("many", &upload).await.unwrap();

    for n in 0..1_005 {
        server.put("backups", "often", format!("{n}")).unwrap();
    }
    assert_eq!(bucket.find_versions("often").await.unwrap().len(), 1_005);
}

#[tokio::test]
async fn lost_answers_cost_nothing() {
    let server = Seaweed::start().unwrap();
    server.create_locked_bucket("backups").unwrap();
    let through = async |fault| {
        let mut config = config(&server, "backups");
        if let DestinationAccess::S3Compatible { endpoint, .. } = &mut config.access {
            *endpoint = door(&server.endpoint(), fault).await;
        }
        Bucket::connect(&config, &local(), now()).await.unwrap()
    };
    let bucket = through(Fault::LoseFirst("PUT")).await;
    let put = bucket.put_locked("doc", b"once", in_minutes(5), "text/plain").await.unwrap();
    assert!(matches!(put, PutOutcome::AlreadyThere { .. }));
    let versions = bucket.find_versions("doc").await.unwrap();
    assert_eq!(versions.iter().map(|v| v.version_id.as_deref()).collect::<Vec<_>>(), [put.version_id()]);

    // The first id is lost with its answer; both uploads are found by their key.
    let bucket = through(Fault::LoseFirst("POST")).await;
    let upload = bucket.create_upload("dump", in_minutes(5), &[("attempt", "1")]).await.unwrap();
    let pending = bucket.list_uploads("dump").await.unwrap();
    assert_eq!(pending.len(), 2);
    for lost in pending.iter().filter(|pending| pending.upload_id != upload) {
        bucket.abort_upload("dump", &lost.upload_id).await.unwrap();
    }

    let request = bucket.presign_part("dump", &upload, 1, &digest(b"part"), PartDigest::Sha256, now()).unwrap();
    assert_eq!(send(&request, b"part").await.status, 200);
    let bucket = through(Fault::LoseFirst("POST")).await;
    let part = CompletedPart {
        number: 1,
        etag: digest(b"part").md5,
        sha256_base64: Some(STANDARD.encode(Sha256::digest(b"part"))),
    };
    let error = bucket.complete_upload("dump", &upload, &[part]).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    let versions = bucket.find_versions("dump").await.unwrap();
    let facts = bucket.head("dump", versions[0].version_id.as_deref()).await.unwrap().unwrap();
    assert_eq!((versions.len(), facts.size_bytes, facts.metadata["attempt"].as_str()), (1, 4, "1"));
    assert_eq!(facts.checksum_sha256, Some(format!("{}-1", STANDARD.encode(Sha256::digest(Sha256::digest(b"part"))))));
}

#[tokio::test]
async fn refusals_say_what_was_refused() {
    let server = Seaweed::start().unwrap();
    locked(&server, "backups").await;
    let connect = |change: fn(&mut BucketConfig)| {
        let mut config = config(&server, "backups");
        change(&mut config);
        async move { Bucket::connect(&config, &local(), now()).await.unwrap() }
    };
    let wrong_secret = connect(|c| {
        if let DestinationAccess::S3Compatible { secret_access_key, .. } = &mut c.access {
            *secret_access_key = Secret::new("wrong");
        }
    })
    .await;
    let error = wrong_secret.put_locked("k", b"x", in_minutes(1), "text/plain").await.unwrap_err();
    assert_eq!(error.code(), Some("SignatureDoesNotMatch"));
    assert!(error.hint().contains("secret access key") && !error.is_passing());
    let missing = connect(|c| c.bucket = "no-such-bucket".into()).await;
    assert_eq!(missing.create_upload("k", in_minutes(1), &[]).await.unwrap_err().code(), Some("NoSuchBucket"));
    let nobody = connect(|c| {
        if let DestinationAccess::S3Compatible { endpoint, .. } = &mut c.access {
            *endpoint = "http://127.0.0.1:9".into();
        }
    })
    .await;
    let error = nobody.get("k", None, 1).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");

    // A name that leads to a private address, where only public ones are dialled.
    let mut config = config(&server, "backups");
    if let DestinationAccess::S3Compatible { endpoint, .. } = &mut config.access {
        *endpoint = endpoint.replace("127.0.0.1", "localhost");
    }
    let guarded = Network::new(AddressPolicy { allow_private: false }, true);
    let bucket = Bucket::connect(&config, &guarded, now()).await.unwrap();
    let error = bucket.get("k", None, 1).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Invalid, "{error}");
    let checks =
        preflight(&config, &guarded, &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() }).await;
    assert_eq!(outcome(&checks, "put_object"), CheckOutcome::Failed);
}

#[tokio::test]
async fn preflight_verifies_a_locked_bucket_and_cleans_up() {
    let server = Seaweed::start().unwrap();
    locked(&server, "backups").await;
    // What an earlier run left, its lock over, and what is not ours to remove.
    let earlier = format!("org/{}/preflight/01jd000000000000000000000a/object", org());
    server.put("backups", &earlier, "x").unwrap();
    server.delete("backups", &earlier, None).unwrap();
    server.put("backups", "org/other", "x").unwrap();
    let first = preflight(
        &config(&server, "backups"),
        &local(),
        &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() },
    )
    .await;
    show(&first);
    assert!(is_verified(&first));
    assert_eq!(outcome(&first, "public_access_block"), CheckOutcome::NotObservable);
    for passed in ["bucket_versioning", "object_lock", "cleanup"] {
        assert_eq!(outcome(&first, passed), CheckOutcome::Passed, "{passed}");
    }
    assert_eq!(server.keys("backups", "").unwrap(), ["org/other"]);
    assert_eq!(server.unfinished_uploads("backups").unwrap(), []);
    assert_eq!(server.versions("backups", &earlier).unwrap(), []);
    let left = server.versions("backups", &format!("org/{}/", org())).unwrap();
    assert_eq!(left.iter().filter(|version| !version.delete_marker).count(), 2, "{left:?}");
}

#[tokio::test]
async fn preflight_finds_a_server_that_lets_locks_be_shortened() {
    let server = Seaweed::start().unwrap();
    server.create_locked_bucket("backups").unwrap();
    let mut config = config(&server, "backups");
    if let DestinationAccess::S3Compatible { endpoint, .. } = &mut config.access {
        *endpoint = door(&server.endpoint(), Fault::NodAtRetention).await;
    }
    let checks =
        preflight(&config, &local(), &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() }).await;
    show(&checks);
    let not_passed = checks.iter().filter(|check| check.outcome == CheckOutcome::Failed);
    assert_eq!(not_passed.map(|check| check.name.as_str()).collect::<Vec<_>>(), ["retention_enforced"]);
    assert!(!is_verified(&checks));
}

#[tokio::test]
async fn preflight_fails_a_bucket_without_lock() {
    let server = Seaweed::start().unwrap();
    server.create_bucket("plain").unwrap();
    let checks = preflight(
        &config(&server, "plain"),
        &local(),
        &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() },
    )
    .await;
    show(&checks);
    assert!(!is_verified(&checks));
    for failed in ["put_object_retention", "object_lock", "bucket_versioning"] {
        assert_eq!(outcome(&checks, failed), CheckOutcome::Failed, "{failed}");
    }
    assert_eq!(outcome(&checks, "retention_enforced"), CheckOutcome::Skipped);
    assert!(checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).all(|check| check.hint.is_some()));
    assert_eq!(server.keys("plain", "").unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn preflight_of_nothing_ends_soon() {
    let server = Seaweed::start().unwrap();
    let mut gone = config(&server, "backups");
    drop(server);
    gone.bucket = "backups".into();
    let started = std::time::Instant::now();
    let checks = preflight(&gone, &local(), &Probe { org: &org(), id: "01jd7z9k3m5n7p9r1t3v5x7z9a", at: now() }).await;
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(!is_verified(&checks) && !is_verified(&[]));
    assert_eq!(checks.iter().filter(|check| check.outcome == CheckOutcome::Skipped).count(), checks.len() - 1);
}

pub fn outcome(checks: &[PreflightCheck], name: &str) -> CheckOutcome {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}")).outcome
}

pub fn show(checks: &[PreflightCheck]) {
    for check in checks {
        println!(
            "{:22} {:?}: {} {}",
            check.name,
            check.outcome,
            check.detail,
            check.hint.as_deref().unwrap_or_default()
        );
    }
}
