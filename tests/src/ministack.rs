//! An emulator of AWS, used for KMS and STS: `ministack`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::guard::Guarded;
use crate::ports::PortBlock;
use crate::{random, tools};

/// A running emulator that enforces identities; dropping it ends it.
///
/// It checks no signature made with the root key, nor with the key ids `test` and twelve digits: a test that wants a
/// wrong secret refused, or a policy enforced, makes a user and an access key of its own first.
pub struct Ministack {
    /// The root identity's access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    port: u16,
    _server: Guarded,
    _ports: PortBlock,
}

impl Ministack {
    /// Starts the emulator and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start() -> anyhow::Result<Ministack> {
        let program = tools::program("ministack")?;
        let scratch = tempfile::Builder::new().prefix("ww-aws-").tempdir()?.keep();
        let (access_key, secret_key) = (format!("AKIA{}", random::hex(8).to_uppercase()), random::hex(20));
        let ports = PortBlock::take()?;
        let port = ports.port(0);
        let mut command = Command::new(program);
        command
            // Without it everything is allowed to everybody.
            .env("AUTH", "true")
            .env("AWS_ACCESS_KEY_ID", &access_key)
            .env("AWS_SECRET_ACCESS_KEY", &secret_key)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("IOT_MTLS_ENABLED", "0")
            .env("SFTP_ENABLED", "0")
            .env("HOME", &scratch)
            .current_dir(&scratch);
        let mut server = Guarded::start(&command, "KILL", &scratch)?;
        server.wait_until(Duration::from_secs(60), || Ok(healthy(port)))?;
        Ok(Ministack { access_key, secret_key, port, _server: server, _ports: ports })
    }

    /// Where it listens: `http://127.0.0.1:<port>`, for every service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The region requests are signed for.
    pub fn region(&self) -> &'static str {
        "us-east-1"
    }
}

fn healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ministack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_port_of_its_own() {
        let stack = Ministack::start().unwrap();
        assert!(stack.endpoint().starts_with("http://127.0.0.1:"));
        assert!(healthy(stack.port));
    }
}
