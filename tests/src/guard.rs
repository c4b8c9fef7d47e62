//! Child processes that cannot outlive the test.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

// Between us and the program stands a shell that reads a pipe only we hold open. However this process ends, the pipe
// closes; the shell then ends the program and removes its files. (A parent-death signal would do less: it follows the
// thread that started the child, not the process, and removes nothing.)
const GUARD: &str = r#"
signal=$1 scratch=$2; shift 2
exec 3<&0
"$@" 3<&- </dev/null & program=$!
{ read -r _ <&3; trap '' TERM; kill -s "$signal" "$program" 2>/dev/null; true; } & reader=$!
exec 3<&-
wait "$program"; code=$?
kill "$reader" 2>/dev/null
# Killed: the program ended by itself, and its log is still wanted.
wait "$reader" || exit "$code"
rm -rf "$scratch"
"#;

/// A running program; dropping it ends the program, waits for its end and removes its scratch directory.
pub(crate) struct Guarded {
    name: String,
    child: Child,
    log: PathBuf,
    scratch: PathBuf,
}

impl Guarded {
    /// Starts `command` with its output in `scratch`/log. `signal` is what ends it at once, without a farewell.
    pub(crate) fn start(command: &Command, signal: &str, scratch: &Path) -> anyhow::Result<Guarded> {
        let name =
            Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
        let log = scratch.join("log");
        let output = File::create(&log).with_context(|| format!("could not create {}", log.display()))?;
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard", signal]).arg(scratch).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guard.env(key, value),
                None => guard.env_remove(key),
            };
        }
        guard.current_dir(command.get_current_dir().unwrap_or(scratch));
        guard.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C is for the test; its end then ends the child.
        guard.process_group(0);
        let child = guard.spawn().with_context(|| format!("could not start {name}"))?;
        Ok(Guarded { name, child, log, scratch: scratch.to_owned() })
    }

    /// Asks `ready` until it says yes, for at most `limit`; fails at once when the program ends before.
    pub(crate) fn wait_until(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it was ready ({status}):\n{}", self.name, self.log_tail());
            }
            if ready()? {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("{} was not ready after {} s:\n{}", self.name, limit.as_secs(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// The last lines the program wrote.
    pub(crate) fn log_tail(&self) -> String {
        let text =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// Not a test of its own: what the next one starts and kills.
    #[test]
    #[ignore = "runs as a child of the next test, and would sleep"]
    fn a_process_with_a_child() {
        let scratch = tempfile::tempdir().unwrap().keep();
        std::fs::write(scratch.join("data"), "x").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > pid; exec sleep 600"]).current_dir(&scratch);
        let mut child = Guarded::start(&command, "KILL", &scratch).unwrap();
        child
            .wait_until(Duration::from_secs(5), || Ok(scratch.join("pid").metadata().is_ok_and(|m| m.len() > 0)))
            .unwrap();
        println!("scratch={}", scratch.display());
        std::thread::sleep(Duration::from_secs(600));
    }

    #[test]
    fn a_killed_process_leaves_no_child_and_no_files() {
        let name = "guard::tests::a_process_with_a_child";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--ignored", "--nocapture"]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let scratch = lines.filter_map(|line| line.split_once("scratch=").map(|(_, path)| PathBuf::from(path))).next();
        let scratch = scratch.expect("the child's scratch directory");
        let pid = std::fs::read_to_string(scratch.join("pid")).unwrap();
        let running = PathBuf::from("/proc").join(pid.trim());
        assert!(running.exists());

        process.kill().unwrap();
        process.wait().unwrap();
        let begun = Instant::now();
        while (running.exists() || scratch.exists()) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!running.exists() && !scratch.exists());
    }

    #[test]
    fn a_program_that_ends_early_is_reported_with_its_last_words() {
        let scratch = tempfile::tempdir().unwrap().keep();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let mut child = Guarded::start(&command, "KILL", &scratch).unwrap();
        let error = child.wait_until(Duration::from_secs(5), || Ok(false)).unwrap_err().to_string();
        assert!(error.contains("no such luck") && error.contains('3'), "{error}");
    }
}
