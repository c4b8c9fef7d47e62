//! Real buckets: one SeaweedFS for the test process, a locked bucket for each test that wants one, and between the
//! two a gate that a test can close to make the bucket unreachable.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use walwarden_contract::ids::{DatabaseId, DestinationId};
use walwarden_tests::{Seaweed, seaweed::Version};

use crate::stack::Stack;

static SERVER: LazyLock<Seaweed> = LazyLock::new(|| Seaweed::start().expect("an S3 server; `make tools` installs it"));

pub struct Store {
    pub name: String,
    gate: watch::Sender<bool>,
    endpoint: String,
}

impl Store {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        SERVER.create_locked_bucket(&name).unwrap();
        let (gate, open) = watch::channel(true);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, open.clone()));
            }
        });
        Self { name, gate, endpoint }
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
            "bucket": self.name, "accessKeyId": SERVER.access_key, "secretAccessKey": SERVER.secret_key,
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
        SERVER.keys(&self.name, prefix).unwrap()
    }

    pub fn versions(&self, prefix: &str) -> Vec<Version> {
        SERVER.versions(&self.name, prefix).unwrap()
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        SERVER.get(&self.name, key, None).unwrap()
    }

    pub fn write(&self, key: &str, bytes: &[u8]) -> String {
        SERVER.put(&self.name, key, bytes).unwrap()
    }

    /// Until when a key's newest version is locked, in seconds since 1970.
    pub fn locked_until(&self, key: &str) -> i64 {
        let version = self.versions(key).into_iter().find(|v| v.key == key && v.latest).expect("a version");
        let lock = SERVER.retention(&self.name, key, &version.version_id).unwrap().expect("a lock");
        assert_eq!(lock.mode, "GOVERNANCE");
        lock.retain_until
    }

    pub fn unfinished(&self) -> Vec<(String, String)> {
        SERVER.unfinished_uploads(&self.name).unwrap()
    }

    pub async fn abort(&self, key: &str, upload_id: &str) {
        let request = SERVER.client().abort_multipart_upload().bucket(&self.name).key(key).upload_id(upload_id);
        request.send().await.unwrap();
    }

    /// Completes an upload with whatever parts it has.
    pub async fn complete(&self, key: &str, upload_id: &str) {
        use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
        let client = SERVER.client();
        let listed = client.list_parts().bucket(&self.name).key(key).upload_id(upload_id).send().await.unwrap();
        let parts = listed.parts().iter().map(|part| {
            let completed = CompletedPart::builder().set_part_number(part.part_number()).set_e_tag(part.e_tag.clone());
            completed.set_checksum_sha256(part.checksum_sha256.clone()).build()
        });
        let upload = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let request = client.complete_multipart_upload().bucket(&self.name).key(key).upload_id(upload_id);
        request.multipart_upload(upload).send().await.unwrap();
    }

    /// Writes a part past the worker protocol, as somebody else with the bucket's key could.
    pub async fn overwrite_part(&self, key: &str, upload_id: &str, number: i32, bytes: &[u8]) {
        let request = SERVER.client().upload_part().bucket(&self.name).key(key).upload_id(upload_id);
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
