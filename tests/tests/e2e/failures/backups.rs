//! Sources, dumps and buckets that fail, on one server whose runners find only one pg_dump.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use walwarden_contract::failure::FailureClass;
use walwarden_tests::{Postgres, postgres::Pooler};

use super::{
    Scenario,
    gate::{Gate, Mischief},
    jobs::{Case, Runner},
    ledger,
    older::Older,
    page::Row,
};
use crate::{
    holder::Holder,
    patience,
    stack::{BUCKET, Stack},
};

/// Where it happens. All backups go through the gate.
pub struct Scene<'a> {
    pub stack: &'a Stack,
    pub gate: &'a Gate,
    /// Of the version the runners have a pg_dump for.
    pub source: &'a Postgres,
    /// Of another version.
    pub other: &'a Postgres,
}

/// What a pg_dump waits for a lock, where a test does.
pub const LOCK_WAIT_SECONDS: &str = "3";
pub const BUCKET_WAIT_SECONDS: &str = "3";

const ALWAYS: usize = usize::MAX;
const PARTS: &str = "partNumber=";

/// Databases, roles and rows of the source.
pub fn furnish(source: &Postgres) {
    let rows = "CREATE TABLE t AS SELECT n, md5(n::text) AS body FROM generate_series(1, 3000) AS n";
    for name in ["plain", "unknown_kind", "cut_short", "fails", "locked"] {
        source.create_database(name).unwrap();
        source.run_sql(name, rows).unwrap();
    }
    source.create_database("guarded").unwrap();
    source.run_sql("guarded", &format!("{rows}; ALTER TABLE t ENABLE ROW LEVEL SECURITY")).unwrap();
    source.create_database("chosen").unwrap();
    source
        .run_sql("chosen", "CREATE SCHEMA kinds; CREATE DOMAIN kinds.kind AS text; CREATE TABLE t (k kinds.kind)")
        .unwrap();
    source.create_database("bulk").unwrap();
    // More than everything between pg_dump and the bucket takes up, and hardly compressible: gzip looks back 32 KiB.
    let bulk = "CREATE TABLE bulk (n integer, noise bytea); ALTER TABLE bulk ALTER noise SET STORAGE EXTERNAL;
        INSERT INTO bulk SELECT n, noise FROM generate_series(1, 1100) AS n,
            (SELECT decode(string_agg(md5(m::text), ''), 'hex') AS noise FROM generate_series(1, 4096) AS m) AS block";
    source.run_sql("bulk", bulk).unwrap();
    for name in ["few_parts", "loaded"] {
        source.run_sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE bulk")).unwrap();
    }
}

impl<'a> Scene<'a> {
    fn case(&self, class: FailureClass, provoked: &'a str, dsn: String) -> Case<'a> {
        Case { class, provoked, name: class.as_str(), dsn, more: json!({}) }
    }

    /// A database of the source.
    fn of(&self, class: FailureClass, database: &str, provoked: &'a str) -> Case<'a> {
        self.case(class, provoked, self.source.dsn(database))
    }

    pub fn scenarios(&'a self) -> Vec<Scenario<'a>> {
        use FailureClass::*;
        let mut all: Vec<Scenario> = vec![
            Box::new(|| self.connection_lost()),
            Box::new(|| self.locked()),
            Box::new(|| self.permission()),
            Box::new(|| self.row_security()),
            Box::new(|| self.selection()),
            Box::new(|| self.too_large()),
            Box::new(|| self.unreachable_bucket()),
            Box::new(|| self.refused()),
            Box::new(|| self.upload_refused()),
            Box::new(|| self.url_refused_once()),
            Box::new(|| self.other_bytes()),
            Box::new(|| self.terminated()),
            Box::new(|| self.upload_lost()),
            Box::new(|| self.another_writer()),
            Box::new(|| self.few_parts()),
        ];
        let host = self.source.host();
        let simple = [
            self.case(SourceUnreachable, "nothing listens there", format!("postgresql://u:p@{host}:1/plain")),
            self.case(SourceAuthFailed, "the password is wrong", self.source.dsn_as("postgres", "wrong", "plain")),
            self.case(
                SourceTlsFailed,
                "`sslmode=verify-full`, and the server has no TLS",
                self.source.dsn("plain").replace("sslmode=disable", "sslmode=verify-full"),
            ),
            self.of(SourceDsnInvalid, "absent", "there is no such database"),
            self.case(SourceAddressRefused, "a link-local address", "postgresql://u:p@169.254.1.1/plain".into()),
            self.case(
                SourceVersionUnsupported,
                "no pg_dump of the server's version is installed",
                self.other.dsn("postgres"),
            ),
            self.of(DumpUnknownKind, "unknown_kind", "pg_dump that writes an entry of a kind nobody knows"),
            self.of(DumpIncomplete, "cut_short", "pg_dump that stops in the middle, with exit code 0"),
            self.of(DumpFailed, "fails", "pg_dump that ends with an error"),
        ];
        all.extend(simple.into_iter().map(|case| -> Scenario { Box::new(move || vec![case.run(self.stack)]) }));
        all.push(Box::new(|| {
            let older = Older::before(self.source);
            let dsn = older.dsn(self.source, "plain");
            vec![self.case(SourceVersionUnsupported, "the server says that it is 14.20", dsn).run(self.stack)]
        }));
        all.push(Box::new(|| {
            let pooler = Pooler::before(self.source, "transaction").unwrap();
            let dsn = pooler.dsn(&self.source.dsn("plain"));
            vec![self.case(SourcePooled, "pgbouncer with `pool_mode = transaction`", dsn).run(self.stack)]
        }));
        all.push(Box::new(|| {
            self.pooled_is_refused_by_the_api();
            Vec::new()
        }));
        all
    }

    fn pooled_is_refused_by_the_api(&self) {
        let dsn = "postgresql://u:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres";
        let request = json!({ "name": "pooled", "dsn": dsn, "destinationId": self.stack.destination });
        self.stack.api.post("/api/v1/databases", &request).refused(400, "invalid_request");
    }

    fn locked(&self) -> Vec<Row> {
        let provoked = "a session holds `ACCESS EXCLUSIVE` on a table";
        let case = self.of(FailureClass::SourceLocked, "locked", provoked);
        let added = case.add(self.stack);
        let holder = Holder::of(self.source, "locked", "t");
        let backup = self.stack.trigger(&added.id);
        let row = case.failed(self.stack, &added, &backup, Runner::OfClass);
        drop(holder);
        vec![row]
    }

    fn connection_lost(&self) -> Vec<Row> {
        let provoked = "the server ends pg_dump's session in the middle of a table";
        let mut case = self.of(FailureClass::SourceConnectionLost, "bulk", provoked);
        case.more = json!({ "compression": { "codec": "gzip", "level": 1 } });
        let added = case.add(self.stack);
        // The bucket takes nothing, so pg_dump has to wait.
        let held = self.gate.spoil("PUT", &[&added.id, PARTS], ALWAYS, Mischief::Hold);
        let backup = self.stack.trigger(&added.id);
        held.wait("a part on its way");
        let end = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bulk' AND query LIKE 'COPY%' AND pg_terminate_backend(pid)";
        assert_eq!(self.source.query_one("postgres", end).unwrap(), "1", "sessions that were ended");
        drop(held);
        vec![case.failed(self.stack, &added, &backup, Runner::OfClass)]
    }

    fn permission(&self) -> Vec<Row> {
        let password = self.source.create_login("stranger", "").unwrap();
        let dsn = self.source.dsn_as("stranger", &password, "plain");
        vec![self.case(FailureClass::SourcePermission, "the role may not read a table", dsn).run(self.stack)]
    }

    fn row_security(&self) -> Vec<Row> {
        let password = self.source.create_login("guarded", "").unwrap();
        self.source.run_sql("guarded", "GRANT SELECT ON t TO guarded").unwrap();
        let dsn = self.source.dsn_as("guarded", &password, "guarded");
        vec![self.case(FailureClass::SourcePermission, "row security hides rows from the role", dsn).run(self.stack)]
    }

    fn selection(&self) -> Vec<Row> {
        let provoked = [
            ("a table has a column of a type that `selection` excludes", json!({ "excludeSchemas": ["kinds"] })),
            ("`selection` names a schema that is not there", json!({ "schemas": ["public", "gone"] })),
        ];
        let row = |(provoked, selection)| {
            let mut case = self.of(FailureClass::SourceSelection, "chosen", provoked);
            case.more = json!({ "selection": selection });
            case.run(self.stack)
        };
        provoked.into_iter().map(row).collect()
    }

    fn too_large(&self) -> Vec<Row> {
        let mut case = self.of(FailureClass::DumpTooLarge, "plain", "the dump has more than `maxBytes`");
        case.more = json!({ "maxBytes": 10_000 });
        vec![case.run(self.stack)]
    }

    /// With mischief from the moment the database was added until the backup failed.
    fn spoiled(&self, case: &Case, method: &'static str, part: &str, mischief: Mischief) -> Row {
        let added = case.add(self.stack);
        let spoiled = self.gate.spoil(method, &[&added.id, part], ALWAYS, mischief);
        let backup = self.stack.trigger(&added.id);
        let row = case.failed(self.stack, &added, &backup, Runner::OfClass);
        assert!(spoiled.made() > 0);
        row
    }

    fn unreachable_bucket(&self) -> Vec<Row> {
        let provoked = "the bucket's endpoint breaks off each part, for longer than is waited";
        let case = self.of(FailureClass::StorageUnreachable, "plain", provoked);
        vec![self.spoiled(&case, "PUT", PARTS, Mischief::Drop)]
    }

    fn refused(&self) -> Vec<Row> {
        let case = self.of(FailureClass::StorageRefused, "plain", "the bucket answers each part with 403");
        vec![self.spoiled(&case, "PUT", PARTS, Mischief::Refuse(403, "AccessDenied"))]
    }

    fn upload_refused(&self) -> Vec<Row> {
        let provoked = "the bucket answers with 403 when an upload is to begin, as when its key was revoked";
        let case = self.of(FailureClass::StorageRefused, "plain", provoked);
        vec![self.spoiled(&case, "POST", "?uploads", Mischief::Refuse(403, "AccessDenied"))]
    }

    fn other_bytes(&self) -> Vec<Row> {
        let provoked = "a bit of a part is changed on its way, each time";
        let case = self.of(FailureClass::StorageDigestMismatch, "plain", provoked);
        vec![self.spoiled(&case, "PUT", PARTS, Mischief::FlipBody)]
    }

    fn url_refused_once(&self) -> Vec<Row> {
        let provoked = "the bucket answers a part with 403 once, as when its URL has expired: a fresh one is asked for";
        let case = self.of(FailureClass::StorageRefused, "plain", provoked);
        let added = case.add(self.stack);
        let spoiled = self.gate.spoil("PUT", &[&added.id, PARTS], 1, Mischief::Refuse(403, "AccessDenied"));
        let backup = self.stack.trigger(&added.id);
        let row = case.completes(self.stack, &added, &backup);
        assert_eq!(spoiled.made(), 1);
        vec![row]
    }

    fn few_parts(&'a self) -> Vec<Row> {
        let provoked = "the bucket takes 20 parts to an upload: the later parts are larger";
        let destination = self.stack.add_destination_with(&self.stack.seaweed.endpoint(), json!({ "partCap": 20 }));
        let mut case = self.of(FailureClass::DumpTooLarge, "few_parts", provoked);
        case.name = "few_parts";
        case.more = json!({ "destinationId": destination, "compression": { "codec": "gzip", "level": 1 } });
        let added = case.add(self.stack);
        let backup = self.stack.trigger(&added.id);
        let row = case.completes(self.stack, &added, &backup);
        let backup = self.stack.completed(&backup);
        let parts = self.stack.seaweed.get(BUCKET, &format!("{}.parts.json", backup.stem()), None).unwrap();
        let parts: serde_json::Value = serde_json::from_slice(&parts).unwrap();
        let sizes: Vec<u64> =
            parts["parts"].as_array().unwrap().iter().map(|p| p["sizeBytes"].as_u64().unwrap()).collect();
        assert!(sizes.len() > 3 && sizes[..2] == [8 << 20; 2] && sizes[2] == 16 << 20, "{sizes:?}");
        vec![row]
    }

    /// Stops a backup at its last step, does something, and lets it go on.
    fn meanwhile(&self, case: &Case, part: &str, runner: Runner, act: impl FnOnce(&str)) -> Row {
        let added = case.add(self.stack);
        let held = self.gate.spoil("PUT", &[&added.id, part], ALWAYS, Mischief::Hold);
        let backup = self.stack.trigger(&added.id);
        held.wait("an upload on its way");
        act(&backup);
        drop(held);
        case.failed(self.stack, &added, &backup, runner)
    }

    fn terminated(&self) -> Vec<Row> {
        let case = self.of(FailureClass::RunnerTerminated, "plain", "SIGTERM to the runner during the upload");
        let row = self.meanwhile(&case, PARTS, Runner::OfClass, |backup| {
            let pid = Pid::from_raw(ledger::runner_pid(&self.stack.server, backup)).expect("a pid");
            kill_process(pid, Signal::TERM).expect("a runner of ours");
            patience::expect("the runner's report", 30, || {
                (!self.stack.backup(backup)["failure"].is_null()).then_some(())
            });
        });
        vec![row]
    }

    fn upload_lost(&self) -> Vec<Row> {
        let provoked = "somebody aborts the upload before it is completed";
        let case = self.of(FailureClass::SealUploadLost, "plain", provoked);
        let row = self.meanwhile(&case, ".parts.json", Runner::So("0"), |backup| {
            let uploads = self.stack.seaweed.unfinished_uploads(BUCKET).unwrap();
            let (key, upload) = uploads.into_iter().find(|(key, _)| key.contains(backup)).expect("an upload");
            abort(self.stack, key, upload);
        });
        vec![row]
    }

    fn another_writer(&self) -> Vec<Row> {
        let case = self.of(FailureClass::SealMismatch, "plain", "somebody writes another annex over the backup's");
        let row = self.meanwhile(&case, ".parts.json", Runner::So("0"), |backup| {
            let keys = self.stack.seaweed.keys(BUCKET, "org/").unwrap();
            let is_annex = |key: &&String| key.contains(backup) && key.ends_with(".annex.jsonl.gz");
            let annex = keys.iter().find(is_annex).expect("the annex");
            self.stack.seaweed.put(BUCKET, annex, "another annex").unwrap();
        });
        vec![row]
    }
}

fn abort(stack: &Stack, key: String, upload: String) {
    let client = stack.seaweed.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        client.abort_multipart_upload().bucket(BUCKET).key(key).upload_id(upload).send().await.expect("an abort")
    });
}
