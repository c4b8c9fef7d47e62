//! Kill -9, between every two steps of the sealer and at random: a restart ends what was begun, with the same bytes, and
//! nothing is left half done.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::{Value, json};
use walwarden_tests::{Postgres, tools};

use crate::{
    evidence::{entries, kinds},
    patience,
    server::Server,
    stack::{BUCKET, Backup, Stack, Verification},
};

/// A little more than a sealer's lease, and than a runner's silence.
const LAPSE_SECONDS: u64 = 125;
/// A little more than the life of a claim secret.
const CLAIM_SECONDS: u64 = 30 * 60 + 10;

/// The points at which the server can be told to die, in the order in which a sealer comes by.
const POINTS: [&str; 14] = [
    "seal:leased",
    "seal:parts-listed",
    "seal:upload-completed",
    "seal:artifact-read-back",
    "seal:artifact-recorded",
    "seal:annex-recorded",
    "seal:manifest-recorded",
    "seal:manifest-written",
    "seal:manifest-read-back",
    "seal:completed",
    "publish:checkpoint-written",
    "publish:checkpoint-recorded",
    "publish:keys-written",
    "publish:bundle-written",
];

#[test]
fn every_point_of_the_source_is_tested() {
    let files = ["core/src/sealer.rs", "core/src/evidence.rs"];
    let sources = files.map(|file| fs::read_to_string(tools::repository().join(file)).unwrap()).concat();
    let named = sources.split("fault_point(\"").skip(1).filter_map(|rest| rest.split('"').next());
    assert_eq!(named.collect::<BTreeSet<_>>(), BTreeSet::from(POINTS));
}

#[test]
fn killed_between_the_steps_up_to_the_annex() {
    killed_at(&POINTS[..6]);
}

#[test]
fn killed_between_the_steps_from_the_manifest_on() {
    killed_at(&POINTS[6..]);
}

fn source() -> Postgres {
    let postgres = Postgres::start(*Postgres::majors_available().first().expect("a Postgres")).unwrap();
    postgres.create_database("plain").unwrap();
    let rows = "CREATE TABLE t AS SELECT n, md5(n::text) AS body FROM generate_series(1, 5000) AS n";
    postgres.run_sql("plain", rows).unwrap();
    postgres
}

fn killed_at(points: &[&str]) {
    let postgres = source();
    let mut stack = Stack::start();
    let database = stack.add_database("plain", &postgres.dsn("plain"), json!({}));
    let mut ahead = 0;
    for point in points {
        stack.server.stop();
        let turned = ahead.to_string();
        stack.server.start_again(&[("WALWARDEN_TEST_DIE_AT", point), ("WALWARDEN_TEST_CLOCK_AHEAD_SECONDS", &turned)]);
        let id = stack.trigger(&database);
        stack.server.wait_for_death(60);
        let before = Remains::of(&stack, &id);

        ahead += LAPSE_SECONDS;
        stack.restart(ahead);
        let backup = stack.completed(&id);
        before.are_kept(&stack, &backup, point);
        is_whole(&stack, &backup, point);
    }
}

/// What a dead server left behind.
struct Remains {
    /// Key, version and bytes of whatever lay in the bucket.
    objects: Vec<(String, String, Vec<u8>)>,
    /// The embedded table's files.
    table: Vec<u8>,
}

impl Remains {
    fn of(stack: &Stack, id: &str) -> Remains {
        let versions = stack
            .versions("org/")
            .into_iter()
            .filter(|version| version.key.contains(id) || version.key.contains("/log/"));
        let objects = versions
            .map(|version| {
                let bytes = stack.seaweed.get(BUCKET, &version.key, Some(&version.version_id)).unwrap();
                (version.key, version.version_id, bytes)
            })
            .collect();
        Remains { objects, table: table(&stack.server) }
    }

    fn are_kept(&self, stack: &Stack, backup: &Backup, point: &str) {
        for (key, version, bytes) in &self.objects {
            assert_eq!(&stack.seaweed.get(BUCKET, key, Some(version)).unwrap(), bytes, "{point}: {key}");
        }
        let found = |ending: &str| self.objects.iter().any(|(key, ..)| *key == format!("{}{ending}", backup.stem()));
        let is_past = |name: &str| {
            let at = |name: &str| POINTS.iter().position(|point| *point == name).expect("a point");
            at(point) >= at(name)
        };
        // Each point is where its name says it is.
        assert!(found(".parts.json") && found(".annex.jsonl.gz"), "{point}");
        assert_eq!(found(".dump"), is_past("seal:upload-completed"), "{point}");
        assert_eq!(found(".manifest.json"), is_past("seal:manifest-written"), "{point}");
        assert_eq!(found(".evidence.tgz"), is_past("publish:bundle-written"), "{point}");

        // Ed25519 signs the same bytes with the same signature and no others: where a statement was recorded before the
        // death, that very statement is the one in the bucket now.
        let key = format!("{}.manifest.json", backup.stem());
        let signature = hex::encode(signature(&stack.seaweed.get(BUCKET, &key, None).unwrap()));
        let recorded = self.table.windows(signature.len()).any(|window| window == signature.as_bytes());
        assert_eq!(recorded, is_past("seal:manifest-recorded"), "{point}: the statement that is in the bucket now");
    }
}

fn signature(envelope: &[u8]) -> Vec<u8> {
    let envelope: Value = serde_json::from_slice(envelope).unwrap();
    BASE64.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap()
}

fn table(server: &Server) -> Vec<u8> {
    ["table.sqlite", "table.sqlite-wal"]
        .iter()
        .flat_map(|name| fs::read(server.data().join(name)).unwrap_or_default())
        .collect()
}

/// One version of each object, no upload left open, the log has each step once, and all of it verifies offline.
fn is_whole(stack: &Stack, backup: &Backup, what: &str) {
    let published = stack.published_bundle(backup);
    let mut keys: Vec<String> = stack.versions(backup.stem()).into_iter().map(|version| version.key).collect();
    keys.iter_mut().for_each(|key| *key = key.strip_prefix(backup.stem()).unwrap().to_owned());
    assert_eq!(keys, [".annex.jsonl.gz", ".dump", ".evidence.tgz", ".manifest.json", ".parts.json"], "{what}");
    assert_eq!(stack.seaweed.unfinished_uploads(BUCKET).unwrap(), [], "{what}");
    for bundle in [published, stack.bundle(backup)] {
        let all = Verification::of(&bundle, &stack.public_keys());
        all.with("artifact", &stack.artifact(backup)).with("annex", &stack.annex(backup)).passes();
        let kinds = kinds(&entries(&bundle), &backup.id);
        let expected = ["backup.queued", "backup.claimed", "backup.running", "backup.finalizing", "backup.completed"];
        assert!(kinds.ends_with(&expected.map(str::to_owned)), "{what}: {kinds:?}");
        assert_eq!(kinds.iter().filter(|kind| *kind == "backup.completed").count(), 1, "{what}: {kinds:?}");
    }
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // A linear congruential generator with Knuth's constants: scattered enough to choose moments.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn killed_at_random() {
    let postgres = source();
    // Some megabytes that hardly compress, so that there is a while to be killed in.
    let more =
        "CREATE TABLE more AS SELECT n, md5(n::text) || md5((-n)::text) AS body FROM generate_series(1, 200000) AS n";
    postgres.run_sql("plain", more).unwrap();
    let seeds = match std::env::var("WALWARDEN_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("WALWARDEN_TEST_SEED is a number")],
        Err(_) => vec![1, 2, 3],
    };
    let mut stack = Stack::start();
    let database = stack.add_database("plain", &postgres.dsn("plain"), json!({}));
    let begun = Instant::now();
    stack.back_up(&database);
    let usual = begun.elapsed().as_millis() as u64;
    let mut ahead = 0;
    for seed in seeds {
        let mut random = Random(seed);
        let (pause, machine_too) = (random.below(usual), random.below(2) == 1);
        survives(&mut stack, &database, Duration::from_millis(pause), machine_too, &mut ahead);
    }
}

#[test]
fn killed_before_the_runner_has_claimed() {
    let postgres = source();
    let mut stack = Stack::start();
    let database = stack.add_database("plain", &postgres.dsn("plain"), json!({}));
    survives(&mut stack, &database, Duration::ZERO, true, &mut 0);
}

/// A backup during which the server dies, and perhaps the machine with its runner: it ends well, or says why not.
fn survives(stack: &mut Stack, database: &str, pause: Duration, machine_too: bool, ahead: &mut u64) {
    let id = stack.trigger(database);
    thread::sleep(pause);
    stack.server.kill();
    let runners = if machine_too { stack.server.kill_runners() } else { 0 };
    let what = format!("killed after {pause:?}, with {runners} runners");
    let ended = carried_on(stack, &id, ahead, &what);
    eprintln!("{what}: {} in attempt {}", ended["state"], ended["attempt"]);
    no_open_upload(stack, &what);
    match ended["state"].as_str() {
        Some("completed") => is_whole(stack, &Backup { id, job: ended }, &what),
        // An honest failure says why, and is the end of it.
        Some("failed_terminal") => assert!(ended["failure"]["class"].is_string(), "{what}: {ended:#}"),
        state => assert_eq!(state, Some("cancelled"), "{what}: {ended:#}"),
    }
    // Nothing stands in the way of the next, and the log that has all of this verifies.
    let next = stack.back_up(database);
    is_whole(stack, &next, &what);
}

/// Starts the server again, and if it takes long, again and again, its clock ahead each time: what waits for a lease or
/// for a silent runner need not be waited for.
fn carried_on(stack: &mut Stack, id: &str, ahead: &mut u64, what: &str) -> Value {
    for round in 0..5 {
        stack.restart(*ahead);
        let ended = patience::within(10, || Some(stack.backup(id)).filter(|job| job["final"] == true));
        if let Some(ended) = ended {
            return ended;
        }
        if round > 0 && stack.backup(id)["state"] == "queued" {
            return never_claimed(stack, id, *ahead, what);
        }
        *ahead += LAPSE_SECONDS;
    }
    panic!("{what}: stuck: {:#}", stack.backup(id));
}

/// A runner that died before its claim is waited for as long as the claim secret lives; then the backup says so and would
/// be tried again. Not here: no bucket takes requests of a clock that is half an hour ahead.
fn never_claimed(stack: &mut Stack, id: &str, ahead: u64, what: &str) -> Value {
    stack.restart(ahead + CLAIM_SECONDS);
    let failed =
        patience::within(10, || Some(stack.backup(id)).filter(|job| job["failure"]["class"] == "never_claimed"));
    assert!(failed.is_some_and(|job| job["final"] == false), "{what}: stuck: {:#}", stack.backup(id));
    stack.api.post(&format!("/api/v1/backups/{id}/cancel"), &json!({})).ok();
    stack.restart(ahead);
    stack.backup(id)
}

fn no_open_upload(stack: &Stack, what: &str) {
    let closed = patience::within(20, || stack.seaweed.unfinished_uploads(BUCKET).unwrap().is_empty().then_some(()));
    assert!(closed.is_some(), "{what}: an upload is left open");
}
