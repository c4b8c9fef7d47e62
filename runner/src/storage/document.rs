//! The documents beside the artifact: annex and parts list. Written once under lock; where one is there already it must
//! be the very same.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Response, header};
use walwarden_client::worker::JobSession;
use walwarden_contract::{
    failure::FailureClass,
    worker::{BytesDigest, DocumentKind, DocumentRequest, SignedRequest},
};

use super::{
    Digester,
    put::{self, Content, Stored, Target, put},
};
use crate::fault::{Ended, Fault};

/// Digests of an uploaded document.
pub type Uploaded = BytesDigest;

/// Uploads the file at `path` as that document.
pub async fn upload(
    http: &reqwest::Client,
    session: &JobSession,
    document: DocumentKind,
    path: &Path,
) -> Result<Uploaded, Ended> {
    let digest = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || digest(&path))
            .await
            .map_err(|e| Fault::internal("digesting a document", e))?
            .map_err(|e| Fault::internal("reading a document", e))?
    };
    let target = Target::Document(DocumentRequest { document, bytes: digest.clone() });
    match put(http, session, &target, Content::File(path)).await? {
        Stored::Taken => Ok(digest),
        Stored::AlreadyThere(refused) => {
            compare(http, &refused, &digest).await?;
            Ok(digest)
        }
    }
}

fn digest(path: &Path) -> io::Result<BytesDigest> {
    let mut file = File::open(path)?;
    let mut digester = Digester::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            count => digester.update(&buffer[..count]),
        }
    }
}

/// An earlier attempt's response was lost, or somebody else wrote there: the object's own words decide.
async fn compare(http: &reqwest::Client, refused: &SignedRequest, digest: &BytesDigest) -> Result<(), Fault> {
    let unknown = |what: &str| Fault::new(FailureClass::StorageRefused, what);
    let Some(head) = &refused.head else {
        return Err(unknown("the document is there already and cannot be looked at"));
    };
    let response = put::signed(http, head)?
        .timeout(std::time::Duration::from_secs(60))
        .send()
        .await
        .map_err(|_| Fault::new(FailureClass::StorageUnreachable, "the bucket's endpoint could not be reached"))?;
    if !response.status().is_success() {
        return Err(unknown("the document is there already and the bucket does not show it"));
    }
    if is_same(&response, digest) {
        return Ok(());
    }
    let what = "an object is there already under the document's name, and it is another";
    Err(Fault::new(FailureClass::StorageRefused, what))
}

/// By size and SHA-256, or where the store tells none by its ETag, which is the MD5 of what was put in one piece.
fn is_same(response: &Response, digest: &BytesDigest) -> bool {
    let value = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let size = value(header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
    let sha256 = hex::decode(&digest.sha256).unwrap_or_default();
    let content = match value("x-amz-checksum-sha256") {
        Some(attested) => attested == STANDARD.encode(sha256),
        None => value(header::ETAG.as_str()).is_some_and(|etag| etag.trim_matches('"') == digest.md5),
    };
    size == Some(digest.size_bytes) && content
}
