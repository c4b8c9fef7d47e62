//! A real S3 server: SeaweedFS, with versions and Object Lock.

use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, timeout::TimeoutConfig,
};
use aws_sdk_s3::primitives::DateTime;
use serde_json::json;

use crate::guard::Guarded;
use crate::ports::PortBlock;
use crate::{blocking, random, tools};

/// A running S3 server with random credentials; dropping it ends the server and removes everything stored in it.
pub struct Seaweed {
    /// The access key id of the one identity there is.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    port: u16,
    client: Client,
    _server: Guarded,
    _sockets: Sockets,
    _ports: PortBlock,
}

/// One version of an object, or a marker that hides the versions before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The object's key.
    pub key: String,
    /// The version's id.
    pub version_id: String,
    /// Size in bytes; 0 for a delete marker.
    pub size_bytes: i64,
    /// Whether a read without a version id finds this one.
    pub latest: bool,
    /// Whether this is a delete marker.
    pub delete_marker: bool,
}

/// How a version is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `COMPLIANCE` or `GOVERNANCE`.
    pub mode: String,
    /// Seconds since 1970.
    pub retain_until: i64,
}

impl Seaweed {
    /// Starts a server and waits until it answers a signed request.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start() -> anyhow::Result<Seaweed> {
        let scratch = scratch()?;
        let data = scratch.join("data");
        Self::run(format!("AK{}", random::hex(9)), random::hex(20), &data, scratch, PortBlock::take()?)
    }

    /// Starts a server that keeps what it stores in `directory`, under the same credentials and port each time.
    ///
    /// # Errors
    /// As [`Seaweed::start`]; when its ports are in use.
    pub fn open(directory: &Path) -> anyhow::Result<Seaweed> {
        let kept = directory.join("server.json");
        if !kept.exists() {
            let first_port = PortBlock::take()?.port(0);
            let server = json!({ "accessKey": format!("AK{}", random::hex(9)), "secretKey": random::hex(20), "firstPort": first_port });
            std::fs::create_dir_all(directory)?;
            std::fs::write(&kept, server.to_string())?;
            std::fs::set_permissions(&kept, Permissions::from_mode(0o600))?;
        }
        let text = std::fs::read_to_string(&kept).with_context(|| format!("could not read {}", kept.display()))?;
        let server: serde_json::Value = serde_json::from_str(&text)?;
        let field = |name: &str| {
            server[name].as_str().map(str::to_owned).with_context(|| format!("{name} is missing in {}", kept.display()))
        };
        let port = server["firstPort"].as_u64().and_then(|p| u16::try_from(p).ok()).context("firstPort is missing")?;
        Self::run(
            field("accessKey")?,
            field("secretKey")?,
            &directory.join("data"),
            scratch()?,
            PortBlock::take_at(port)?,
        )
    }

    fn run(
        access_key: String,
        secret_key: String,
        data: &Path,
        scratch: PathBuf,
        ports: PortBlock,
    ) -> anyhow::Result<Seaweed> {
        let program = tools::program("weed")?;
        let config = scratch.join("s3.json");
        let identity = json!({
            "name": "test",
            "credentials": [{ "accessKey": access_key, "secretKey": secret_key }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        });
        std::fs::write(&config, json!({ "identities": [identity] }).to_string())?;
        std::fs::set_permissions(&config, Permissions::from_mode(0o600))?;
        std::fs::create_dir_all(data)?;

        // Each service has a second port for gRPC, 10,000 above; they find each other by that rule.
        let services = ["s3", "filer", "master", "volume", "admin"];
        let port = ports.port(0);
        let mut command = Command::new(program);
        command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-dir={}", data.display()));
        command.arg(format!("-s3.config={}", config.display()));
        for (nth, service) in (0..).zip(services) {
            command.arg(format!("-{service}.port={}", ports.port(nth)));
        }
        command.args(["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.args(["-s3.autoCreateBucket=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=1024"]);
        command.current_dir(&scratch).env("HOME", &scratch).env("TMPDIR", &scratch);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("S3_BUCKET");
        let sockets = Sockets(services.iter().zip(0..).map(|(service, nth)| (*service, ports.port(nth))).collect());
        let server = Guarded::start(&command, "KILL", &scratch)?;

        let client = client(port, &access_key, &secret_key);
        let mut seaweed =
            Seaweed { access_key, secret_key, port, client, _server: server, _sockets: sockets, _ports: ports };
        let client = seaweed.client.clone();
        seaweed._server.wait_until(Duration::from_secs(40), || {
            let client = client.clone();
            Ok(blocking::wait(async move { client.list_buckets().send().await.is_ok() }))
        })?;
        seaweed.wait_for_storage()?;
        Ok(seaweed)
    }

    // The S3 face answers before there is a volume to write to.
    fn wait_for_storage(&mut self) -> anyhow::Result<()> {
        self.create_bucket("readiness-probe")?;
        let client = self.client.clone();
        self._server.wait_until(Duration::from_secs(20), || {
            let client = client.clone();
            Ok(blocking::wait(async move {
                let body = b"ready".to_vec().into();
                client.put_object().bucket("readiness-probe").key("probe").body(body).send().await.is_ok()
            }))
        })?;
        self.call(|s3| async move {
            s3.delete_object().bucket("readiness-probe").key("probe").send().await?;
            s3.delete_bucket().bucket("readiness-probe").send().await?;
            Ok(())
        })
    }

    /// Where it listens: `http://127.0.0.1:<port>`. Buckets are addressed by path.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The region requests are signed for.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A client of its own for async tests that need more than the calls here.
    pub fn client(&self) -> Client {
        client(self.port, &self.access_key, &self.secret_key)
    }

    /// Creates a bucket that keeps no versions and cannot lock.
    ///
    /// # Errors
    /// As the server says.
    pub fn create_bucket(&self, bucket: &str) -> anyhow::Result<()> {
        let bucket = bucket.to_owned();
        self.call(|s3| async move {
            s3.create_bucket().bucket(bucket).send().await?;
            Ok(())
        })
    }

    /// Creates a bucket with Object Lock, which implies versions.
    ///
    /// # Errors
    /// As the server says.
    pub fn create_locked_bucket(&self, bucket: &str) -> anyhow::Result<()> {
        let bucket = bucket.to_owned();
        self.call(|s3| async move {
            s3.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true).send().await?;
            Ok(())
        })
    }

    /// Writes an object, as another version where there is one, and returns its version id (empty without versioning).
    ///
    /// # Errors
    /// As the server says.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) -> anyhow::Result<String> {
        let (bucket, key, bytes) = (bucket.to_owned(), key.to_owned(), bytes.into());
        self.call(|s3| async move {
            let written = s3.put_object().bucket(bucket).key(key).body(bytes.into()).send().await?;
            Ok(written.version_id.unwrap_or_default())
        })
    }

    /// Reads an object: this version, or the latest.
    ///
    /// # Errors
    /// As the server says.
    pub fn get(&self, bucket: &str, key: &str, version_id: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let (bucket, key, version_id) = (bucket.to_owned(), key.to_owned(), version_id.map(str::to_owned));
        self.call(|s3| async move {
            let object = s3.get_object().bucket(bucket).key(key).set_version_id(version_id).send().await?;
            Ok(object.body.collect().await?.to_vec())
        })
    }

    /// Removes one version for good, or with `None` puts a delete marker before all of them.
    ///
    /// # Errors
    /// As the server says: a locked version is not removed.
    pub fn delete(&self, bucket: &str, key: &str, version_id: Option<&str>) -> anyhow::Result<()> {
        let (bucket, key, version_id) = (bucket.to_owned(), key.to_owned(), version_id.map(str::to_owned));
        self.call(|s3| async move {
            s3.delete_object().bucket(bucket).key(key).set_version_id(version_id).send().await?;
            Ok(())
        })
    }

    /// Every version and delete marker of the keys that begin with `prefix`, ordered by key.
    ///
    /// # Errors
    /// As the server says.
    pub fn versions(&self, bucket: &str, prefix: &str) -> anyhow::Result<Vec<Version>> {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        self.call(|s3| async move {
            let mut found = Vec::new();
            let (mut key_marker, mut version_marker) = (None, None);
            loop {
                let request = s3.list_object_versions().bucket(&bucket).prefix(&prefix);
                let page = request.set_key_marker(key_marker).set_version_id_marker(version_marker).send().await?;
                found.extend(page.versions().iter().map(|version| Version {
                    key: version.key().unwrap_or_default().to_owned(),
                    version_id: version.version_id().unwrap_or_default().to_owned(),
                    size_bytes: version.size().unwrap_or_default(),
                    latest: version.is_latest().unwrap_or_default(),
                    delete_marker: false,
                }));
                found.extend(page.delete_markers().iter().map(|marker| Version {
                    key: marker.key().unwrap_or_default().to_owned(),
                    version_id: marker.version_id().unwrap_or_default().to_owned(),
                    size_bytes: 0,
                    latest: marker.is_latest().unwrap_or_default(),
                    delete_marker: true,
                }));
                if page.is_truncated() != Some(true) {
                    found.sort_by(|a, b| a.key.cmp(&b.key));
                    return Ok(found);
                }
                (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
            }
        })
    }

    /// The keys that begin with `prefix` and are not hidden, in order.
    ///
    /// # Errors
    /// As the server says.
    pub fn keys(&self, bucket: &str, prefix: &str) -> anyhow::Result<Vec<String>> {
        let versions = self.versions(bucket, prefix)?;
        Ok(versions
            .into_iter()
            .filter(|version| version.latest && !version.delete_marker)
            .map(|version| version.key)
            .collect())
    }

    /// Multipart uploads that were begun and neither completed nor aborted: `(key, upload id)`.
    ///
    /// # Errors
    /// As the server says.
    pub fn unfinished_uploads(&self, bucket: &str) -> anyhow::Result<Vec<(String, String)>> {
        let bucket = bucket.to_owned();
        self.call(|s3| async move {
            let page = s3.list_multipart_uploads().bucket(bucket).send().await?;
            let uploads = page.uploads().iter();
            Ok(uploads
                .map(|u| (u.key().unwrap_or_default().to_owned(), u.upload_id().unwrap_or_default().to_owned()))
                .collect())
        })
    }

    /// Locks a version in compliance mode until a time in seconds since 1970.
    ///
    /// # Errors
    /// As the server says: a lock is not shortened.
    pub fn retain(&self, bucket: &str, key: &str, version_id: &str, until: i64) -> anyhow::Result<()> {
        use aws_sdk_s3::types::{ObjectLockRetention, ObjectLockRetentionMode};
        let (bucket, key, version_id) = (bucket.to_owned(), key.to_owned(), version_id.to_owned());
        let lock = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Compliance);
        let lock = lock.retain_until_date(DateTime::from_secs(until)).build();
        self.call(|s3| async move {
            s3.put_object_retention().bucket(bucket).key(key).version_id(version_id).retention(lock).send().await?;
            Ok(())
        })
    }

    /// How a version is locked, if it is.
    ///
    /// # Errors
    /// As the server says.
    pub fn retention(&self, bucket: &str, key: &str, version_id: &str) -> anyhow::Result<Option<Retention>> {
        let (bucket, key, version_id) = (bucket.to_owned(), key.to_owned(), version_id.to_owned());
        self.call(|s3| async move {
            let head = s3.head_object().bucket(bucket).key(key).version_id(version_id).send().await?;
            let until = head.object_lock_retain_until_date().map(DateTime::secs);
            Ok(head
                .object_lock_mode()
                .zip(until)
                .map(|(mode, retain_until)| Retention { mode: mode.as_str().to_owned(), retain_until }))
        })
    }

    fn call<T, F, R>(&self, request: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Client) -> R,
        R: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        blocking::wait(request(self.client.clone())).context("the S3 server of the test")
    }
}

fn scratch() -> anyhow::Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("ww-s3-").tempdir()?.keep())
}

const REGION: &str = "us-east-1";

fn client(port: u16, access_key: &str, secret_key: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .region(Region::from_static(REGION))
        .credentials_provider(Credentials::from_keys(access_key, secret_key, None))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(60)).build())
        .build();
    Client::from_conf(config)
}

/// SeaweedFS leaves Unix sockets in /tmp, whatever TMPDIR says.
struct Sockets(Vec<(&'static str, u16)>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for (service, port) in &self.0 {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{service}-{port}.sock"));
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{service}-grpc-{}.sock", port + 10_000));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_run_side_by_side_and_keep_locked_versions() {
        let (seaweed, other) = (Seaweed::start().unwrap(), Seaweed::start().unwrap());
        seaweed.create_locked_bucket("locked").unwrap();
        assert!(other.get("locked", "a/b", None).is_err());

        let first = seaweed.put("locked", "a/b", "one").unwrap();
        let second = seaweed.put("locked", "a/b", "two").unwrap();
        assert_eq!(seaweed.get("locked", "a/b", None).unwrap(), b"two");
        assert_eq!(seaweed.get("locked", "a/b", Some(&first)).unwrap(), b"one");
        assert_eq!(seaweed.versions("locked", "a/").unwrap().len(), 2);

        let until = 4_000_000_000;
        assert_eq!(seaweed.retention("locked", "a/b", &first).unwrap(), None);
        seaweed.retain("locked", "a/b", &first, until).unwrap();
        let retention = seaweed.retention("locked", "a/b", &first).unwrap().unwrap();
        assert_eq!(retention, Retention { mode: "COMPLIANCE".into(), retain_until: until });
        seaweed.delete("locked", "a/b", Some(&first)).unwrap_err();
        seaweed.retain("locked", "a/b", &first, until - 1_000).unwrap_err();

        seaweed.delete("locked", "a/b", Some(&second)).unwrap();
        seaweed.delete("locked", "a/b", None).unwrap();
        assert_eq!(seaweed.keys("locked", "").unwrap(), Vec::<String>::new());
        assert_eq!(seaweed.get("locked", "a/b", Some(&first)).unwrap(), b"one");
        assert_eq!(seaweed.unfinished_uploads("locked").unwrap(), Vec::new());
    }

    #[tokio::test]
    async fn starts_and_answers_inside_a_runtime() {
        let seaweed = Seaweed::start().unwrap();
        seaweed.create_bucket("plain").unwrap();
        assert_eq!(seaweed.client().list_buckets().send().await.unwrap().buckets().len(), 1);
    }
}
