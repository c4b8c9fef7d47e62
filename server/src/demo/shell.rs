//! Runs a demo's commands in its directory and shows them: what is run, and what it said.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub struct Shell {
    directory: PathBuf,
    color: bool,
}

/// A program in the background; it is asked to stop, and waited for, when this is dropped.
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Shell {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.into(), color: std::io::stdout().is_terminal() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    pub fn heading(&self, text: &str) {
        println!("\n{}", self.paint("1", &format!("== {text}")));
    }

    pub fn say(&self, text: &str) {
        println!("{text}");
        let _ = std::io::stdout().flush();
    }

    fn show(&self, command: &str) {
        self.say(&self.paint("36", &format!("$ {command}")));
    }

    fn sh(&self, command: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(command).current_dir(&self.directory);
        sh
    }

    /// Runs a command that must succeed and shows what it prints.
    pub fn run(&self, command: &str) -> Result<()> {
        self.show(command);
        let status = self.sh(command).status()?;
        ensure!(status.success(), "the command failed: {status}");
        Ok(())
    }

    /// Runs a command that prints JSON and shows the named members.
    pub fn json(&self, command: &str, shown: &[&str]) -> Result<Value> {
        self.show(command);
        let value = self.quiet_json(command)?;
        ensure!(value.get("error").is_none(), "the server refused: {value}");
        for name in shown {
            match &value[*name] {
                Value::Null => {}
                Value::String(text) => self.say(&format!("  {name}: {text}")),
                other => self.say(&format!("  {name}: {other}")),
            }
        }
        Ok(value)
    }

    /// Runs a command that prints JSON, showing nothing.
    pub fn quiet_json(&self, command: &str) -> Result<Value> {
        let output = self.sh(command).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Starts a program that runs until the demo ends.
    pub fn background(&self, program: &Path, arguments: &str, environment: &[(&str, &str)]) -> Result<Background> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        self.show(&format!("{name} {arguments} &"));
        let log = File::create(self.directory.join("server.log"))?;
        let child = Command::new(program)
            .args(arguments.split(' '))
            .envs(environment.iter().copied())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        Ok(Background(child))
    }

    /// Runs the one-liner as pasted, the target in the environment. The token is shown cut short.
    pub fn restore(&self, one_liner: &str, target: &str, flags: &str, program: &Path) -> Result<()> {
        let shown = one_liner
            .split(' ')
            .map(|word| match word.strip_prefix("WALWARDEN_TOKEN=") {
                Some(token) => format!("WALWARDEN_TOKEN={}…", token.get(..12).unwrap_or_default()),
                None => word.to_owned(),
            })
            .collect::<Vec<_>>()
            .join(" ");
        self.say("the target's connection string is in the environment: export WALWARDEN_TARGET=postgresql://…");
        self.show(&format!("{shown} {flags}"));
        // The pasted line names the program as installed; here it lies beside this one.
        let folder = program.parent().unwrap_or(Path::new("."));
        let path = std::env::join_paths(
            std::iter::once(folder.to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut sh = Command::new("sh");
        // By standard input: the token is not to stand in the shell's own arguments.
        sh.arg("-s")
            .current_dir(&self.directory)
            .env("PATH", path)
            .env("WALWARDEN_TARGET", target)
            .stdin(Stdio::piped());
        let mut child = sh.spawn()?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(format!("{one_liner} {flags} </dev/null\n").as_bytes())?;
        let status = child.wait()?;
        ensure!(status.success(), "the restore failed: {status}");
        Ok(())
    }

    /// Runs the verifier, which must end with `expected`.
    pub fn verify(&self, program: &Path, arguments: &str, expected: i32) -> Result<()> {
        self.show(&format!("walwarden-verifier {arguments}"));
        let status = Command::new(program).args(arguments.split(' ')).current_dir(&self.directory).status()?;
        ensure!(status.code() == Some(expected), "the verifier ended with {status}, not with {expected}");
        if expected != 0 {
            self.say(&format!("  (exit {expected}, as it must)"));
        }
        Ok(())
    }
}
