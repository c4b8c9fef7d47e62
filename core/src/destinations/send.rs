//! Sends a presigned request as a worker would. Preflight probes with it what workers will depend on.

use aws_smithy_runtime_api::{client::http::HttpConnector, http::Request};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use walwarden_contract::worker::SignedRequest;

use super::{Bucket, StorageError, StorageErrorKind};

/// Answers are small: probe objects and error documents.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The error this answer stands for [S3 "REST error responses"].
    pub(super) fn error(&self, operation: &'static str, key: &str) -> StorageError {
        let text = String::from_utf8_lossy(&self.body);
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside.to_owned())
        };
        StorageError::from_answer(
            operation,
            Some(key),
            self.status,
            element("Code").as_deref(),
            element("Message").as_deref(),
        )
    }
}

impl Bucket {
    pub(super) async fn send(
        &self,
        operation: &'static str,
        key: &str,
        request: &SignedRequest,
        body: &[u8],
    ) -> Result<Answer, StorageError> {
        let fail = |what: &str| StorageError::invalid(operation, what);
        let mut builder = http::Request::builder().method(request.method.as_str()).uri(request.url.expose());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let request = builder.body(SdkBody::from(body.to_vec())).map_err(|_| fail("the request could not be built"))?;
        let request = Request::try_from(request).map_err(|_| fail("the request could not be built"))?;
        let response = self
            .connector
            .call(request)
            .await
            .map_err(|error| StorageError::from_transport(operation, Some(key), Some(&error)))?;
        let status = response.status().as_u16();
        let headers = response.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut stream = ByteStream::new(response.into_body());
        let mut body = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| StorageError::from_transport(operation, Some(key), Some(&error)))?;
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(StorageError::new(operation, Some(key), StorageErrorKind::Mismatch)
                    .with_detail("the answer is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }
}
