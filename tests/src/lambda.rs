//! The Lambda runtime API, by cargo-lambda's emulator. Functions are started by the test, as Lambda would.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::guard::Guarded;
use crate::ports::PortBlock;
use crate::tools;

/// A running emulator; dropping it ends it and the functions that were started on it.
pub struct LambdaRuntime {
    port: u16,
    functions: Vec<Child>,
    _server: Guarded,
    _ports: PortBlock,
}

impl LambdaRuntime {
    /// Starts the emulator for functions of these names.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start(functions: &[&str]) -> anyhow::Result<LambdaRuntime> {
        let program = tools::program("cargo-lambda")?;
        let scratch = tempfile::Builder::new().prefix("ww-lambda-").tempdir()?.keep();
        let ports = PortBlock::take()?;
        let port = ports.port(0);
        // It knows functions as binaries of a package, though it is told to build and watch nothing.
        let mut manifest =
            "[package]\nname = \"none\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n".to_owned();
        for name in functions {
            manifest.push_str(&format!("[[bin]]\nname = \"{name}\"\npath = \"src/main.rs\"\n"));
        }
        std::fs::create_dir(scratch.join("src"))?;
        std::fs::write(scratch.join("Cargo.toml"), manifest)?;
        std::fs::write(scratch.join("src/main.rs"), "fn main() {}\n")?;
        let mut command = Command::new(program);
        command.args(["lambda", "watch", "--only-lambda-apis", "--ignore-changes", "-A", "127.0.0.1", "-P"]);
        command.arg(port.to_string()).current_dir(&scratch).env("HOME", &scratch);
        // Toolchains are found by the home directory that was just taken away.
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none()
                && let Some(home) = std::env::home_dir()
            {
                command.env(name, home.join(folder));
            }
        }
        let mut server = Guarded::start(&command, "KILL", &scratch)?;
        server.wait_until(Duration::from_secs(60), || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        Ok(LambdaRuntime { port, functions: Vec::new(), _server: server, _ports: ports })
    }

    /// Starts a function's program under a name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn function(&mut self, name: &str, program: &Path, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("AWS_LAMBDA_RUNTIME_API", format!("http://127.0.0.1:{}/.rt/{name}", self.port));
        command.env("AWS_LAMBDA_FUNCTION_NAME", name).env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST");
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256").env("AWS_LAMBDA_LOG_GROUP_NAME", "test");
        command.env("AWS_LAMBDA_LOG_STREAM_NAME", "test").envs(environment.iter().copied()).stdin(Stdio::null());
        let child = command.spawn().with_context(|| format!("could not start {}", program.display()))?;
        self.functions.push(child);
        Ok(())
    }

    /// Where HTTP requests to a function go.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/lambda-url/{name}", self.port)
    }

    /// Where an event for a function is posted: Lambda's Invoke.
    pub fn invoke_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/2015-03-31/functions/{name}/invocations", self.port)
    }
}

impl Drop for LambdaRuntime {
    fn drop(&mut self) {
        for function in &mut self.functions {
            let _ = function.kill();
            let _ = function.wait();
        }
    }
}
