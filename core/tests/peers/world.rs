//! What these tests share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use md5::Md5;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use walwarden_contract::{
    address::AddressPolicy,
    api::DestinationAccess,
    ids::OrgId,
    secret::Secret,
    worker::{BytesDigest, SignedRequest},
};
use walwarden_core::destinations::{Bucket, BucketConfig, Network};
use walwarden_tests::Seaweed;

pub fn local() -> Network {
    Network::new(AddressPolicy { allow_private: true }, true)
}

pub fn config(server: &Seaweed, bucket: &str) -> BucketConfig {
    BucketConfig {
        bucket: bucket.into(),
        region: server.region().into(),
        access: DestinationAccess::S3Compatible {
            endpoint: server.endpoint(),
            access_key_id: server.access_key.clone(),
            secret_access_key: Secret::new(&server.secret_key),
            part_cap: None,
        },
    }
}

pub async fn locked(server: &Seaweed, bucket: &str) -> Bucket {
    server.create_locked_bucket(bucket).unwrap();
    Bucket::connect(&config(server, bucket), &local(), now()).await.unwrap()
}

pub fn now() -> Timestamp {
    Timestamp::now()
}

pub fn in_minutes(minutes: i64) -> Timestamp {
    now() + jiff::SignedDuration::from_mins(minutes)
}

pub fn org() -> OrgId {
    OrgId::new(1_795_507_190_001, [7; 10])
}

pub fn digest(bytes: &[u8]) -> BytesDigest {
    BytesDigest {
        size_bytes: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
        md5: hex::encode(Md5::digest(bytes)),
    }
}

/// Sends a presigned request with a client that knows nothing of S3: exactly those headers and these bytes.
pub async fn send(request: &SignedRequest, body: &[u8]) -> Answer {
    send_with(request, body, |_| {}).await
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

pub async fn send_with(
    request: &SignedRequest,
    body: &[u8],
    change: impl FnOnce(&mut Vec<(String, String)>),
) -> Answer {
    let mut headers = request.headers.clone();
    change(&mut headers);
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).unwrap();
    let mut sending = reqwest::Client::new().request(method, request.url.expose());
    for (name, value) in headers {
        sending = sending.header(name, value);
    }
    if request.method == "PUT" {
        sending = sending.body(body.to_vec());
    }
    let answer = sending.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
}

/// What a [`door`] does besides passing on.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Nothing.
    None,
    /// The first request of that method is carried out, but its answer does not arrive.
    LoseFirst(&'static str),
    /// Changes of retention after the first are acknowledged and not carried out.
    NodAtRetention,
}

/// A door to a server that says of each request that it came over TLS, as a proxy that ends TLS does.
pub async fn door(endpoint: &str, fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let target = endpoint.trim_start_matches("http://").to_owned();
    let lost = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, target.clone(), fault, Arc::clone(&lost)));
        }
    });
    address
}

async fn pass(mut client: TcpStream, target: String, fault: Fault, lost: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n") {
        head.push(client.read_u8().await?);
    }
    let lose = matches!(fault, Fault::LoseFirst(method) if head.starts_with(method.as_bytes()))
        && !lost.swap(true, Ordering::SeqCst);
    if matches!(fault, Fault::NodAtRetention)
        && head.starts_with(b"PUT ")
        && contains(&head, b"retention")
        && lost.swap(true, Ordering::SeqCst)
    {
        while !contains(&head, b"</Retention>") {
            head.push(client.read_u8().await?);
        }
        return client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    }
    // One request to a connection, so that there is one head to change and one answer to lose.
    head.extend_from_slice(b"x-forwarded-proto: https\r\nconnection: close\r\n");
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&head).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let sending = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut answer = Vec::new();
    from_server.read_to_end(&mut answer).await?;
    sending.abort();
    if lose { Ok(()) } else { to_client.write_all(&answer).await }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
