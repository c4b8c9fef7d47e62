//! Stock pg_restore, with nothing unexpected ignored: any error or warning of it is a failure.

use std::{
    path::{Path, PathBuf},
    process::{Command as PlainCommand, ExitStatus, Stdio},
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
    /// Dump ids to restore, one a line; all of the archive without.
    pub use_list: Option<PathBuf>,
    /// Database to restore into.
    pub database: &'a str,
    /// Parallel jobs.
    pub jobs: usize,
    /// Drop what exists first.
    pub clean: bool,
    /// Everything belongs to the restoring role at first.
    pub no_owner: bool,
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
        ];
        arguments.extend(self.use_list.iter().map(|list| format!("--use-list={}", list.display())));
        if self.clean {
            arguments.extend(["--clean".to_owned(), "--if-exists".to_owned()]);
        }
        if self.no_owner {
            arguments.push("--no-owner".to_owned());
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
        if ["creating ", "dropping ", "launching item ", "executing "].iter().any(|start| said.starts_with(start)) {
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
/// Longest wait for the rest of what a pg_restore that was ended has to say.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What pg_restore has done, as far as its end and its words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It began nothing.
    Nothing,
    /// Some of it, in a transaction that it did not come to commit.
    Uncommitted,
    /// Some of it, for good.
    Part,
    /// All of it.
    Whole,
    /// That it did not come to tell.
    Untold,
}

/// A run that did not end well.
#[derive(Debug)]
pub struct Broken {
    /// What failed.
    pub failure: Failure,
    /// What was done by then.
    pub done: Done,
}

/// Runs pg_restore to its end and tells `said` what it says. `Err` for any error or warning of it.
pub async fn run(
    invocation: &Invocation<'_>,
    output: &Output,
    stop: &Stop,
    said: mpsc::UnboundedSender<Line>,
) -> Result<(), Broken> {
    let not_started = |failure| Broken { failure, done: Done::Nothing };
    let mut child = invocation.command().spawn().map_err(|error| {
        not_started(Failure::class(
            FailureClass::Internal,
            format!("could not start {}: {error}", invocation.program.path.display()),
        ))
    })?;
    let stderr = child.stderr.take().ok_or_else(|| not_started(Failure::internal("pg_restore has no stderr")))?;
    let mut reading = tokio::spawn(read(stderr, said));
    let ended = tokio::select! {
        biased;
        status = child.wait() => Some(status),
        () = stop.signalled() => None,
    };
    let Some(status) = ended else {
        let status = end(&mut child).await;
        let heard = tokio::time::timeout(LAST_WORDS, &mut reading).await;
        reading.abort();
        let words = heard.ok().and_then(Result::ok).and_then(Result::ok);
        let done = done(status, words.as_ref(), invocation.single_transaction);
        return Err(Broken { failure: crate::stop::stopped(crate::stop::Cause::Signal), done });
    };
    let words = match reading.await {
        Ok(Ok(words)) => Ok(words),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let done = done(status.as_ref().ok().copied(), words.as_ref().ok(), invocation.single_transaction);
    let broken = |failure| Broken { failure, done };
    let status = status.map_err(|error| broken(Failure::internal(format!("pg_restore was lost: {error}"))))?;
    // What pg_restore said decides as much as how it ended: if it could not be read, nothing is known to be well.
    let words =
        words.map_err(|error| broken(Failure::internal(format!("reading what pg_restore says failed: {error}"))))?;
    if status.success() && !words.complained {
        return Ok(());
    }
    for line in &words.complaints {
        output.quote(line);
    }
    let how = match status.code() {
        Some(0) => "warned".to_owned(),
        Some(code) => format!("ended with exit code {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let first = words.complaints.iter().find(|line| line.contains("error: ")).or(words.complaints.first());
    let cause = first.map(|line| format!(": {}", shown(line.trim_start_matches("pg_restore: ")))).unwrap_or_default();
    let failure = Failure::class(FailureClass::TargetFailed, format!("pg_restore {how}{cause}"));
    let says = |text: &str| words.complaints.iter().any(|line| line.contains(text));
    let hint = if words.disk_full {
        "the target's disk is full: make room there, or restore into another server"
    } else if says("out of shared memory") {
        "the target has not room for so many locks: raise max_locks_per_transaction there, and restart it"
    } else if says("violates foreign key constraint") && invocation.clean {
        "a row is missing that is referred to. Gone from a table that stays: --keys-not-valid makes such keys without checking the rows that are there. Missing in the backup, too: restore into a new database with --leave-out fk-constraint"
    } else if says("violates foreign key constraint") {
        "the source has rows that refer to none: --leave-out fk-constraint restores without foreign keys"
    } else if says("would be affected by row-level security policy") {
        "pg_restore makes nothing from rows that a policy may hide, and a policy is forced on the owner of a materialized view: --leave-out materialized-view-data goes without its rows, into a new database; REFRESH MATERIALIZED VIEW makes them then"
    } else if says("permission denied to create extension") {
        "the target lets only others make it: ask for it there, or go without: --leave-out extension:NAME, into a new database"
    } else {
        return Err(broken(failure));
    };
    Err(broken(failure.hint(hint)))
}

/// Under --verbose each step is told before it is made, an error ends the run, and COMMIT is the last that is sent: an
/// error at any other place comes before it.
fn done(status: Option<ExitStatus>, words: Option<&Words>, single_transaction: bool) -> Done {
    let exit = status.and_then(|status| status.code());
    match (exit, words) {
        (Some(0), _) => Done::Whole,
        (_, Some(words)) if words.begun == 0 => Done::Nothing,
        (Some(_), Some(words)) if single_transaction && words.failed && !words.commit_lost => Done::Uncommitted,
        _ if single_transaction => Done::Untold,
        (_, Some(words)) if words.begun > 1 => Done::Part,
        _ => Done::Untold,
    }
}

/// Asks politely, then does not.
async fn end(child: &mut Child) -> Option<ExitStatus> {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process_group(group, Signal::TERM);
        if let Ok(status) = tokio::time::timeout(Duration::from_secs(10), child.wait()).await {
            return status.ok();
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.wait().await.ok()
}

/// What pg_restore said.
#[derive(Debug, Default)]
struct Words {
    /// All lines from the first complaint on: a statement may follow.
    complaints: Vec<String>,
    /// A statement goes on that is not to be shown.
    hidden: bool,
    /// It complained.
    complained: bool,
    /// It told of an error.
    failed: bool,
    /// The connection was lost after COMMIT was sent and before it was answered.
    commit_lost: bool,
    /// The server has no room left.
    disk_full: bool,
    /// Steps it began.
    begun: u64,
}

/// Statements whose options are what one logs in with.
const SECRETIVE: [&str; 3] = ["CREATE USER MAPPING", "CREATE SERVER", "CREATE SUBSCRIPTION"];

impl Words {
    fn take(&mut self, line: &str, meaning: &Line) {
        match meaning {
            Line::Begins(_) | Line::Data(_) => self.begun += 1,
            Line::Complaint(text) => {
                self.disk_full |= text.contains("could not extend file") || text.contains("No space left on device");
                self.complained |= !text.starts_with("pg_restore: while ");
                self.failed |= text.starts_with("pg_restore: error: ");
                self.commit_lost |= text.contains("could not commit database transaction") && !text.contains("ERROR: ");
            }
            _ => {}
        }
        let complaint = matches!(meaning, Line::Complaint(_));
        if complaint {
            self.hidden = false;
        } else if self.hidden {
            return;
        } else if SECRETIVE.iter().any(|words| line.contains(words)) {
            // The rest of the statement follows in lines of its own.
            self.hidden = true;
            self.complaints.push("Command was: not shown, for its options may hold a password".to_owned());
            return;
        }
        if (complaint || !self.complaints.is_empty()) && self.complaints.len() < COMPLAINT_LINES {
            self.complaints.push(line.chars().take(400).collect());
        }
    }
}

/// Reads until pg_restore closes its stderr.
async fn read(stderr: impl AsyncRead + Unpin, said: mpsc::UnboundedSender<Line>) -> std::io::Result<Words> {
    let mut stderr = BufReader::new(stderr);
    let mut words = Words::default();
    let mut bytes = Vec::new();
    while stderr.read_until(b'\n', &mut bytes).await? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches('\n');
        let meaning = read_line(line);
        words.take(line, &meaning);
        let _ = said.send(meaning);
        bytes.clear();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_in_a_statement_that_failed_is_not_said() {
        let text = b"pg_restore: error: could not execute query: ERROR:  server \"s\" does not exist\nCommand was: CREATE USER MAPPING FOR u SERVER s OPTIONS (\n    password 'hunter2',\n    \"user\" 'u'\n);\npg_restore: error: no\nCommand was: CREATE TABLE t\n";
        let (said, _heard) = mpsc::unbounded_channel();
        let words = read(&text[..], said).await.unwrap();
        let told = words.complaints.join("\n");
        assert!(!told.contains("hunter2") && told.contains("not shown") && told.ends_with("CREATE TABLE t"), "{told}");
    }

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
        let words = read(&text[..], said).await.unwrap();
        assert!(words.complained && words.failed);
        assert_eq!((words.complaints.len(), words.begun), (4, 1));
    }

    #[tokio::test]
    async fn what_was_done_is_no_more_than_what_is_known() {
        use std::os::unix::process::ExitStatusExt;
        let exit = |code: i32| Some(ExitStatus::from_raw(code << 8));
        let killed = Some(ExitStatus::from_raw(15));
        let dropping = "pg_restore: dropping TABLE t\n";
        let twice = "pg_restore: dropping TABLE t\npg_restore: creating TABLE \"public.t\"\n";
        let failed = "pg_restore: dropping TABLE t\npg_restore: while PROCESSING TOC:\npg_restore: error: could not execute query: ERROR:  no\n";
        let server_gone = "pg_restore: processing data for table \"public.t\"\npg_restore: error: error returned by PQputCopyData: server closed the connection unexpectedly\n";
        let deferred = "pg_restore: dropping TABLE t\npg_restore: error: could not commit database transaction: ERROR:  violates foreign key\n";
        let lost = "pg_restore: dropping TABLE t\npg_restore: error: could not commit database transaction: server closed the connection unexpectedly\n";
        for (text, status, single, parallel) in [
            ("", exit(0), Done::Whole, Done::Whole),
            (twice, exit(0), Done::Whole, Done::Whole),
            ("", exit(1), Done::Nothing, Done::Nothing),
            ("", killed, Done::Nothing, Done::Nothing),
            (dropping, exit(1), Done::Untold, Done::Untold),
            (dropping, killed, Done::Untold, Done::Untold),
            (twice, killed, Done::Untold, Done::Part),
            (twice, exit(1), Done::Untold, Done::Part),
            (twice, None, Done::Untold, Done::Part),
            (failed, exit(1), Done::Uncommitted, Done::Untold),
            (failed, killed, Done::Untold, Done::Untold),
            (server_gone, exit(1), Done::Uncommitted, Done::Untold),
            (deferred, exit(1), Done::Uncommitted, Done::Untold),
            (lost, exit(1), Done::Untold, Done::Untold),
        ] {
            let (said, _received) = mpsc::unbounded_channel();
            let words = read(text.as_bytes(), said).await.unwrap();
            assert_eq!(
                (done(status, Some(&words), true), done(status, Some(&words), false)),
                (single, parallel),
                "{text}"
            );
        }
        assert_eq!(done(exit(1), None, true), Done::Untold);
    }

    #[test]
    fn arguments_hold_no_credentials_and_no_readable_connection_string() {
        let program = Program { path: "/x/pg_restore".into(), major: 15, minor: 0, version: "15.0".into() };
        let invocation = Invocation {
            program: &program,
            artifact: Path::new("/w/artifact.dump"),
            use_list: Some("/w/list".into()),
            database: "host=evil dbname='x'",
            jobs: 4,
            clean: false,
            no_owner: false,
            single_transaction: false,
            environment: vec![("PGPASSWORD".into(), "hunter2".into())],
        };
        insta::assert_snapshot!(invocation.arguments().join("\n"));
        let whole = Invocation { use_list: None, ..invocation };
        assert!(!whole.arguments().iter().any(|argument| argument.contains("list")), "{:?}", whole.arguments());
    }
}
