//! Bytes on their way into the customer's bucket: by presigned URLs, each good for exactly these bytes.

mod document;
mod parts;
mod put;

pub use document::Uploaded;
pub use parts::{PartSink, Uploader, channel};

use std::time::Duration;

use walwarden_client::worker::JobSession;
use walwarden_contract::worker::BytesDigest;

use crate::fault::Fault;

/// The way into the bucket: whom to ask for URLs, and whom to send bytes.
#[derive(Clone)]
pub struct Bucket {
    http: reqwest::Client,
    session: JobSession,
    /// How long a request is repeated while the bucket is in passing trouble; pg_dump waits meanwhile.
    wait: Duration,
}

impl Bucket {
    /// For a job, repeating each request for as long as `wait`.
    pub fn new(session: &JobSession, wait: Duration) -> Result<Self, Fault> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            // A presigned URL must not be followed elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Fault::internal("making an HTTP client", e))?;
        Ok(Self { http, session: session.clone(), wait })
    }
}

/// Digests of bytes, computed together as they come.
#[derive(Default)]
struct Digester {
    size_bytes: u64,
    sha256: sha2::Sha256,
    md5: md5::Md5,
}

impl Digester {
    fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest;
        self.size_bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        self.md5.update(bytes);
    }

    fn finish(self) -> BytesDigest {
        use sha2::Digest;
        BytesDigest {
            size_bytes: self.size_bytes,
            sha256: hex::encode(self.sha256.finalize()),
            md5: hex::encode(self.md5.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let mut digester = Digester::default();
        digester.update(b"ab");
        digester.update(b"c");
        let digest = digester.finish();
        assert_eq!(digest.size_bytes, 3);
        assert_eq!(digest.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.md5, "900150983cd24fb0d6963f7d28e17f72");
    }
}
