//! A real bucket: one SeaweedFS with one locked bucket for the test process (every test has an organization of its own,
//! and with it a prefix), and before it a gate for each test, which it can close to make the bucket unreachable.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use walwarden_contract::ids::{DatabaseId, DestinationId};
use walwarden_tests::{Seaweed, seaweed::Version};

use crate::stack::Stack;

const BUCKET: &str = "backups";

static SERVER: LazyLock<Seaweed> = LazyLock::new(|| {
    let server = Seaweed::start().expect("an S3 server; `make tools` installs it");
    server.create_locked_bucket(BUCKET).unwrap();
    server
});

pub struct Store {
    gate: watch::Sender<bool>,
    endpoint: String,
}

impl Store {
    pub async fn new() -> Self {
        LazyLock::force(&SERVER);
        let (gate, open) = watch::channel(true);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, open.clone()));
            }
        });
        Self { gate, endpoint }
    }

    pub fn server(&self) -> &'static Seaweed {
        &SERVER
    }

    /// From now on every connection is cut, those that are open too.
    pub fn close(&self) {
        self.gate.send_replace(false);
    }

    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    pub fn request(&self) -> Value {
        json!({
            "name": "bucket", "provider": "s3_compatible", "endpoint": self.endpoint, "region": SERVER.region(),
            "bucket": BUCKET, "accessKeyId": SERVER.access_key, "secretAccessKey": SERVER.secret_key,
        })
    }

    /// Registered through the API and verified by a real preflight.
    pub async fn destination(&self, stack: &Stack) -> DestinationId {
        let created = stack.post("/api/v1/destinations").fresh().json(&self.request()).send().await.expect(201);
        let id = created["id"].as_str().unwrap();
        let preflight = stack.post(format!("/api/v1/destinations/{id}/preflight")).send().await.expect(200);
        assert_eq!(preflight["result"], "verified", "{preflight:#}");
        id.parse().unwrap()
    }

    /// A database whose backups go here.
    pub async fn database(&self, stack: &Stack) -> DatabaseId {
        let destination = self.destination(stack).await;
        stack.database(destination.as_str()).await
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        SERVER.keys(BUCKET, prefix).unwrap()
    }

    pub fn versions(&self, prefix: &str) -> Vec<Version> {
        SERVER.versions(BUCKET, prefix).unwrap()
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        SERVER.get(BUCKET, key, None).unwrap()
    }

    pub fn write(&self, key: &str, bytes: &[u8]) -> String {
        SERVER.put(BUCKET, key, bytes).unwrap()
    }

    /// Until when a key's newest version is locked, in seconds since 1970.
    pub fn locked_until(&self, key: &str) -> i64 {
        let version = self.versions(key).into_iter().find(|v| v.key == key && v.latest).expect("a version");
        let lock = SERVER.retention(BUCKET, key, &version.version_id).unwrap().expect("a lock");
        assert_eq!(lock.mode, "GOVERNANCE");
        lock.retain_until
    }

    /// The test's uploads that were neither completed nor aborted: `(key, upload id)`.
    pub fn unfinished(&self, stack: &Stack) -> Vec<(String, String)> {
        let own = format!("org/{}/", stack.org);
        let all = SERVER.unfinished_uploads(BUCKET).unwrap();
        all.into_iter().filter(|(key, _)| key.starts_with(&own)).collect()
    }

    /// Begins an upload past the worker protocol.
    pub async fn begin(&self, key: &str) -> String {
        let request = SERVER.client().create_multipart_upload().bucket(BUCKET).key(key);
        request.send().await.unwrap().upload_id.unwrap()
    }

    pub async fn abort(&self, key: &str, upload_id: &str) {
        let request = SERVER.client().abort_multipart_upload().bucket(BUCKET).key(key).upload_id(upload_id);
        request.send().await.unwrap();
    }

    /// Completes an upload that has these parts.
    pub async fn complete(&self, key: &str, upload_id: &str, parts: &[Vec<u8>]) {
        use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
        let client = SERVER.client();
        let parts = (1..).zip(parts).map(|(number, bytes)| {
            let part = CompletedPart::builder().part_number(number).e_tag(hex::encode(Md5::digest(bytes)));
            part.checksum_sha256(STANDARD.encode(Sha256::digest(bytes))).build()
        });
        let upload = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let request = client.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(upload_id);
        request.multipart_upload(upload).send().await.unwrap();
    }

    /// Writes a part past the worker protocol, as somebody else with the bucket's key could.
    pub async fn overwrite_part(&self, key: &str, upload_id: &str, number: i32, bytes: &[u8]) {
        let request = SERVER.client().upload_part().bucket(BUCKET).key(key).upload_id(upload_id);
        request.part_number(number).body(bytes.to_vec().into()).send().await.unwrap();
    }
}

async fn pass(mut client: TcpStream, mut open: watch::Receiver<bool>) {
    if !*open.borrow() {
        return;
    }
    let address = SERVER.endpoint().trim_start_matches("http://").to_owned();
    let Ok(mut server) = TcpStream::connect(address).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = open.wait_for(|open| !*open) => {}
    }
}
