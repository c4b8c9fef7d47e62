//! Stock pg_restore, with nothing unexpected ignored: any error or warning of it is a failure.

use std::{
    path::{Path, PathBuf},
    process::{Command as PlainCommand, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
};
use walwarden_contract::{failure::FailureClass, quote};
use walwarden_verifier::ids::shown;

use super::programs::{self, Program};
use crate::{failure::Failure, output::Output, stop::Stop};

/// How pg_restore is called.
pub struct Invocation<'a> {
    /// The program.
    pub program: &'a Program,
    /// The archive.
    pub artifact: &'a Path,
    /// Dump ids to restore, one a line.
    pub use_list: PathBuf,
    /// Database to restore into.
    pub database: &'a str,
    /// Parallel jobs.
    pub jobs: usize,
    /// Drop what exists first.
    pub clean: bool,
    /// All or nothing; excludes more than one job.
    pub single_transaction: bool,
    /// libpq's variables.
    pub environment: Vec<(String, String)>,
}

impl Invocation<'_> {
    /// Arguments: no host, user or password among them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--exit-on-error".to_owned(),
            "--verbose".to_owned(),
            "--no-password".to_owned(),
            // In this form a name with `=` is not read as a connection string.
            format!("--dbname=dbname={}", quote::conninfo(self.database)),
            format!("--use-list={}", self.use_list.display()),
        ];
        if self.clean {
            arguments.extend(["--clean".to_owned(), "--if-exists".to_owned()]);
        }
        if self.single_transaction {
            arguments.push("--single-transaction".to_owned());
        } else if self.jobs > 1 {
            arguments.push(format!("--jobs={}", self.jobs));
        }
        arguments.push(self.artifact.display().to_string());
        arguments
    }

    fn command(&self) -> Command {
        let mut command = PlainCommand::new(&self.program.path);
        programs::clean(&mut command)
            .args(self.arguments())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = Command::from(command);
        // A group of its own: a Ctrl-C is for us, and pg_restore's workers end with it.
        command.process_group(0).kill_on_drop(true);
        die_with_parent(&mut command);
        command
    }
}

/// Ends the child when this process dies by whatever means. pg_restore answers SIGTERM by cancelling its workers'
/// queries. The kernel ties this to the *thread* that spawns, which is why children are started from the main one.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two system calls are made, both safe after a fork; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
            // The parent may have died before that.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

/// What pg_restore says while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// It began an item.
    Begins(String),
    /// Data of a table, serially: schema and name as it quotes them.
    Data(String),
    /// A parallel worker finished the item with this dump id.
    Finished(i64),
    /// The server warned.
    ServerWarning(String),
    /// An error or warning of pg_restore, or something about it.
    Complaint(String),
    /// Anything else.
    Other,
}

/// Reads a line of `pg_restore --verbose` under LC_ALL=C.
pub fn read_line(line: &str) -> Line {
    if let Some(said) = line.strip_prefix("pg_restore: ") {
        let complaint = ["error: ", "warning: ", "detail: ", "hint: ", "while ", "from TOC entry ", "fatal: "];
        if complaint.iter().any(|start| said.starts_with(start)) {
            return Line::Complaint(line.into());
        }
        if let Some(table) = said.strip_prefix("processing data for table ") {
            return Line::Data(table.trim_matches('"').into());
        }
        if let Some(id) = said.strip_prefix("finished item ").and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            return Line::Finished(id);
        }
        if said.starts_with("creating ") || said.starts_with("launching item ") || said.starts_with("executing ") {
            return Line::Begins(said.into());
        }
        return Line::Other;
    }
    if line.starts_with("WARNING:  ") {
        return Line::ServerWarning(line.into());
    }
    Line::Other
}

/// Lines kept after the first complaint.
const COMPLAINT_LINES: usize = 40;

/// Runs pg_restore to its end and tells `said` what it says. `Err` for any error or warning of it.
pub async fn run(
    invocation: &Invocation<'_>,
    output: &Output,
    stop: &Stop,
    said: mpsc::UnboundedSender<Line>,
) -> Result<(), Failure> {
    let mut child = invocation.command().spawn().map_err(|error| {
        Failure::class(
            FailureClass::Internal,
            format!("could not start {}: {error}", invocation.program.path.display()),
        )
    })?;
    let stderr = child.stderr.take().ok_or_else(|| Failure::internal("pg_restore has no stderr"))?;
    let reading = tokio::spawn(read(stderr, said));
    let status = tokio::select! {
        status = child.wait() => status.map_err(|error| Failure::internal(format!("pg_restore was lost: {error}")))?,
        () = stop.signalled() => {
            end(&mut child).await;
            return Err(crate::stop::stopped(crate::stop::Cause::Signal));
        }
    };
    // What pg_restore said decides as much as how it ended: if it could not be read, nothing is known to be well.
    let (complaints, complained) = reading
        .await
        .map_err(|error| Failure::internal(format!("reading what pg_restore says failed: {error}")))?
        .map_err(|error| Failure::internal(format!("reading what pg_restore says failed: {error}")))?;
    if status.success() && !complained {
        return Ok(());
    }
    for line in &complaints {
        output.quote(line);
    }
    let how = match status.code() {
        Some(0) => "warned".to_owned(),
        Some(code) => format!("ended with exit code {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let first = complaints.iter().find(|line| line.contains("error: ")).or(complaints.first());
    let cause = first.map(|line| format!(": {}", shown(line.trim_start_matches("pg_restore: ")))).unwrap_or_default();
    Err(Failure::class(FailureClass::TargetFailed, format!("pg_restore {how}{cause}")))
}

/// Asks politely, then does not.
async fn end(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
    }
}

/// Reads until pg_restore closes its stderr. Gives what it complained of (all lines from the first complaint on, a
/// statement may follow) and whether it complained.
async fn read(
    stderr: impl AsyncRead + Unpin,
    said: mpsc::UnboundedSender<Line>,
) -> std::io::Result<(Vec<String>, bool)> {
    let mut stderr = BufReader::new(stderr);
    let (mut complaints, mut complained) = (Vec::new(), false);
    let mut bytes = Vec::new();
    while stderr.read_until(b'\n', &mut bytes).await? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches('\n');
        let meaning = read_line(line);
        let complaint = matches!(&meaning, Line::Complaint(_));
        complained |= matches!(&meaning, Line::Complaint(text) if !text.starts_with("pg_restore: while "));
        if (complaint || !complaints.is_empty()) && complaints.len() < COMPLAINT_LINES {
            complaints.push(line.chars().take(400).collect());
        }
        let _ = said.send(meaning);
        bytes.clear();
    }
    Ok((complaints, complained))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pg_restore() {
        assert_eq!(read_line("pg_restore: processing data for table \"public.t\""), Line::Data("public.t".into()));
        assert_eq!(read_line("pg_restore: finished item 3377 TABLE DATA t"), Line::Finished(3377));
        assert_eq!(
            read_line("pg_restore: creating TABLE \"public.t\""),
            Line::Begins("creating TABLE \"public.t\"".into())
        );
        assert!(matches!(read_line("pg_restore: warning: errors ignored on restore: 1"), Line::Complaint(_)));
        assert!(matches!(read_line("pg_restore: error: could not execute query: ERROR:  x"), Line::Complaint(_)));
        assert!(matches!(
            read_line("WARNING:  wal_level is insufficient to publish logical changes"),
            Line::ServerWarning(_)
        ));
        assert_eq!(read_line("Command was: CREATE TABLE"), Line::Other);
    }

    #[tokio::test]
    async fn a_complaint_is_kept_with_what_follows() {
        let (said, _received) = mpsc::unbounded_channel();
        let text = b"pg_restore: creating TABLE \"x\"\npg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 1; 1 1 TABLE x o\npg_restore: error: no\nCommand was: CREATE\n";
        let (complaints, complained) = read(&text[..], said).await.unwrap();
        assert!(complained);
        assert_eq!(complaints.len(), 4);
    }

    #[test]
    fn arguments_hold_no_credentials_and_no_readable_connection_string() {
        let program = Program { path: "/x/pg_restore".into(), major: 15, minor: 0, version: "15.0".into() };
        let invocation = Invocation {
            program: &program,
            artifact: Path::new("/w/artifact.dump"),
            use_list: "/w/list".into(),
            database: "host=evil dbname='x'",
            jobs: 4,
            clean: false,
            single_transaction: false,
            environment: vec![("PGPASSWORD".into(), "hunter2".into())],
        };
        insta::assert_snapshot!(invocation.arguments().join("\n"));
    }
}
