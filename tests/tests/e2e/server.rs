//! One `walwarden-server up`, its port and its data directory, which outlive it: it can be killed and started again.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use walwarden_tests::{bin, tools};

use crate::patience;

/// A port nobody else takes: above the blocks of the support crate, below those of outgoing connections.
pub struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    pub fn take() -> Port {
        let directory = std::env::temp_dir().join(format!("walwarden-ports-{}", rustix::process::geteuid().as_raw()));
        fs::create_dir_all(&directory).expect("a directory for locks");
        for number in 32_000..32_768 {
            let Ok(lock) = File::create(directory.join(number.to_string())) else { continue };
            let held = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if held && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between 32,000 and 32,767");
    }
}

// Reads a pipe only we hold open. A test process that dies leaves no server and no files; one that ends well says so
// first, and nothing is left to do.
const KEEPER: &str = r#"
read -r _ && exit 0
[ -f "$1/pid" ] && kill -KILL "$(cat "$1/pid")" 2>/dev/null
rm -rf "$1"
"#;

/// The server.
pub struct Server {
    directory: PathBuf,
    port: Port,
    keeper: Child,
    running: Option<Child>,
}

impl Server {
    /// Starts a server with an empty data directory.
    pub fn start(environment: &[(&str, &str)]) -> Server {
        let directory = tempfile::Builder::new().prefix("ww-e2e-").tempdir().expect("a directory").keep();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&directory).stdin(Stdio::piped());
        let keeper = keeper.spawn().expect("a shell");
        let mut server = Server { directory, port: Port::take(), keeper, running: None };
        server.start_again(environment);
        server
    }

    /// Starts it on the same data directory and port.
    pub fn start_again(&mut self, environment: &[(&str, &str)]) {
        assert!(self.running.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.directory.join("log")).expect("a log");
        let mut command = Command::new(bin("walwarden-server"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("RUST_LOG", "warn,walwarden=info");
        command.envs(environment.iter().copied());
        command.arg("up").arg("--data-dir").arg(self.data());
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port.number));
        command.arg("--pg-bin").arg(std::env::join_paths(pg_bins()).expect("directories without colons"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("walwarden-server");
        fs::write(self.directory.join("pid"), child.id().to_string()).expect("a file for its pid");
        self.running = Some(child);
        let up = patience::within(30, || {
            assert!(!self.has_ended(), "the server ended:\n{}", self.log_tail());
            let answers = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number)).is_ok();
            (answers && self.data().join("api.curl").exists()).then_some(())
        });
        assert!(up.is_some(), "the server does not answer:\n{}", self.log_tail());
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The operator's token, from the file the first start writes for curl.
    pub fn operator_token(&self) -> String {
        let text = fs::read_to_string(self.data().join("api.curl")).expect("api.curl");
        let token = text.split("Bearer ").nth(1).and_then(|rest| rest.split('"').next());
        token.expect("a token in api.curl").to_owned()
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.running {
            Some(child) => child.try_wait().expect("a child of ours").is_some(),
            None => true,
        }
    }

    /// Waits until it has died by itself.
    pub fn wait_for_death(&mut self, seconds: u64) {
        let dead = patience::within(seconds, || self.has_ended().then_some(()));
        assert!(dead.is_some(), "the server did not die within {seconds} s:\n{}", self.log_tail());
        self.running = None;
    }

    /// Ends it at once, as a power cut does. Its runners live on: they are elsewhere.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) {
        let Some(child) = &self.running else { return };
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        kill_process(pid, Signal::TERM).expect("a child of ours");
        self.wait_for_death(30);
    }

    /// Ends the runners this server started, as when the machine they run on dies; gives how many there were.
    pub fn kill_runners(&self) -> usize {
        let mark = format!("WALWARDEN_WORKER_URL={}", self.url());
        let is_ours = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse::<i32>().ok()?)));
        let ours = pids.filter(|(path, _)| is_ours(path)).filter_map(|(_, pid)| Pid::from_raw(pid));
        ours.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
    }

    pub fn log_tail(&self) -> String {
        let text = fs::read(self.directory.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log_tail());
        }
        self.kill();
        self.kill_runners();
        if let Some(mut pipe) = self.keeper.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.keeper.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Directories with Postgres' programs, of every installed major.
fn pg_bins() -> Vec<PathBuf> {
    let parents = [tools::directory().join("pg"), PathBuf::from("/usr/lib/postgresql")];
    let majors = parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    majors.map(|major| major.path().join("bin")).filter(|bin| bin.join("pg_dump").exists()).collect()
}
