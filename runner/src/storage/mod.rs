//! Bytes on their way into the customer's bucket: by presigned URLs, each good for exactly these bytes.

mod document;
mod parts;
mod put;

pub use document::{Uploaded, upload as upload_document};
pub use parts::{PartSink, Uploader, channel};

use std::time::Duration;

use walwarden_contract::worker::BytesDigest;

use crate::fault::Fault;

/// A client for the bucket's endpoint: no redirects, for a presigned URL must not be followed elsewhere.
pub fn client() -> Result<reqwest::Client, Fault> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| Fault::internal("making an HTTP client", e))
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
