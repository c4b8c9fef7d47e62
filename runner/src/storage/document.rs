//! The documents beside the artifact: annex and parts list. Written once under lock; where one is there already it must
//! be the very same.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Response, header};
use walwarden_contract::{
    failure::FailureClass,
    worker::{BytesDigest, DocumentKind, DocumentRequest, SignedRequest},
};

use super::{
    Bucket, Digester,
    put::{self, Content, Stored, Target, Trouble},
};
use crate::fault::{Ended, Fault};

/// Digests of an uploaded document.
pub type Uploaded = BytesDigest;

impl Bucket {
    /// Uploads the file at `path` as that document.
    pub async fn upload(&self, document: DocumentKind, path: &Path) -> Result<Uploaded, Ended> {
        let digest = {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || digest(&path))
                .await
                .map_err(|e| Fault::internal("digesting a document", e))?
                .map_err(|e| Fault::internal("reading a document", e))?
        };
        let target = Target::Document(DocumentRequest { document, bytes: digest.clone() });
        if let Stored::AlreadyThere(refused) = self.put(&target, Content::File(path)).await? {
            self.compare(&target, refused, &digest).await?;
        }
        Ok(digest)
    }

    /// An earlier attempt's response was lost, or somebody else wrote there: the object's own words decide.
    async fn compare(&self, target: &Target, refused: SignedRequest, digest: &BytesDigest) -> Result<(), Ended> {
        let (mut request, mut trouble) = (refused, Trouble::default());
        loop {
            let Some(head) = &request.head else {
                let what = "the document is there already and cannot be looked at";
                return Err(Fault::new(FailureClass::StorageRefused, what).into());
            };
            let sent = put::signed(&self.http, head)?.timeout(Duration::from_secs(60)).send().await;
            let (verdict, why) = match sent {
                Ok(response) if response.status().is_success() => {
                    if is_same(&response, digest) {
                        return Ok(());
                    }
                    let what = "an object is there already under the document's name, and it is another";
                    return Err(Fault::new(FailureClass::StorageRefused, what).into());
                }
                Ok(response) => put::judge(response).await,
                Err(error) => put::unanswered(&error),
            };
            let why = format!("{why} when asked for a document that is there already");
            trouble.met(verdict, why, self.wait).await?;
            request = target.ask(&self.session).await?;
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
