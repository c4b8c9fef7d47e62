//! A download that is interrupted, ten times and by whatever: it goes on where it was, and next to nothing comes
//! twice.

mod support;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    process::{Child, Command, Output, Stdio},
    sync::atomic::Ordering,
};

use support::{Backup, Postgres, Server, error, events, postgres, restore, said, wait_until};

const RANGE_BYTES: u64 = 8 << 20;
const INTERRUPTIONS: usize = 10;

/// What happens to a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Killed,
    Terminated,
    Interrupted,
    ConnectionsDropped,
    UrlsExpired,
}

const KINDS: [Interruption; 5] = [
    Interruption::Killed,
    Interruption::Terminated,
    Interruption::Interrupted,
    Interruption::ConnectionsDropped,
    Interruption::UrlsExpired,
];

/// SplitMix64: the same seed gives the same interruptions.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Of WALWARDEN_TEST_SEED, else of chance.
fn seed() -> u64 {
    let given = std::env::var("WALWARDEN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| RandomState::new().hash_one(0))
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The command that an interrupted restore printed, run by a shell as a person would: what the one-liner set for itself
/// is set no more.
fn printed(output: &Output, like: &Command) -> Command {
    let last = events(output).pop().unwrap();
    let hint = last["error"]["hint"].as_str().unwrap();
    let line = hint.lines().find(|line| line.starts_with("walwarden restore ")).unwrap_or_else(|| panic!("{hint}"));
    let event = events(output).into_iter().find(|event| event["state"] == "interrupted").unwrap();
    assert_eq!(event["payload"]["resume"], line);
    assert!(!line.contains("hunter2"), "{line}");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_walwarden"));
    let mut command = Command::new("/bin/sh");
    command.env_clear().stdin(Stdio::null()).arg("-c").arg(format!("exec {line}"));
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for variable in ["WALWARDEN_TOKEN", "WALWARDEN_BASE_URL"] {
        assert!(like.get_envs().any(|(name, value)| name == variable && value.is_some()), "{variable}");
        command.env_remove(variable);
    }
    command.env("PATH", program.parent().unwrap());
    command
}

#[test]
fn a_download_interrupted_ten_times_completes_and_fetches_next_to_nothing_twice() {
    let seed = seed();
    println!("WALWARDEN_TEST_SEED={seed}");
    let mut random = Random(seed);
    let postgres = Postgres::start(postgres::usual_major());
    postgres.run("postgres", "CREATE DATABASE source TEMPLATE template0");
    // Not compressed: the artifact has seven ranges.
    postgres.run("source", "CREATE TABLE t (id int, v bytea); INSERT INTO t SELECT n, sha512(n::text::bytea) || sha512((-n)::text::bytea) FROM generate_series(1, 200000) n");
    let backup = Backup::of(&postgres, "source", "-Z0");
    let size = backup.artifact.len() as u64;
    assert!(size > 6 * RANGE_BYTES, "{size} bytes");
    let server = Server::start(&backup);
    server.behaviour.pause_ms.store(12, Ordering::Relaxed);
    let work = tempfile::tempdir().unwrap();
    let dsn = postgres.login("owner", "SUPERUSER", "postgres");
    let mut command = restore(&server, &backup, &dsn, "new_database", work.path());
    command.args(["--created-database", "copy", "--prove", "--jobs", "2"]);

    // Each kind twice, in any order, each when so much of the artifact has been sent.
    let mut kinds: Vec<Interruption> = KINDS.into_iter().cycle().take(INTERRUPTIONS).collect();
    for at in (1..kinds.len()).rev() {
        kinds.swap(at, (random.next() % (at as u64 + 1)) as usize);
    }
    let share = size / (INTERRUPTIONS as u64 + 1);
    let moments: Vec<u64> = (1..=INTERRUPTIONS as u64).map(|n| n * share - random.next() % share).collect();
    let repeated = || {
        let (sent, first) = server.sent();
        sent - first
    };

    let requests = || server.behaviour.artifact_requests.load(Ordering::Relaxed);
    let mut child = start(&mut command);
    let (mut ended, mut asked) = (0, 0);
    for (kind, moment) in kinds.into_iter().zip(moments) {
        wait_until("so much was sent", || {
            assert_eq!(child.try_wait().unwrap(), None, "it ended by itself: {kind:?}, seed {seed}");
            requests() > asked && server.sent().1 >= moment
        });
        assert!(repeated() <= ended * RANGE_BYTES, "{} bytes came twice: {kind:?}, seed {seed}", repeated());
        let signal = match kind {
            Interruption::ConnectionsDropped => {
                server.behaviour.drops.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Interruption::UrlsExpired => {
                server.behaviour.expirations.fetch_add(1, Ordering::Relaxed);
                server.behaviour.drops.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Interruption::Killed => rustix::process::Signal::KILL,
            Interruption::Terminated => rustix::process::Signal::TERM,
            Interruption::Interrupted => rustix::process::Signal::INT,
        };
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        ended += 1;
        let mut next = match kind {
            Interruption::Killed => {
                assert_eq!(output.status.code(), None, "{}", said(&output));
                let mut again = Command::new(command.get_program());
                again.env_clear().stdin(Stdio::null()).args(command.get_args());
                again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                again
            }
            _ => {
                let (code, text) = error(&output);
                assert_eq!((code.as_str(), output.status.code()), ("interrupted", Some(4)), "{}", said(&output));
                assert!(text.contains("run the same command again"), "{text}");
                printed(&output, &command)
            }
        };
        asked = requests();
        child = start(&mut next);
    }
    server.behaviour.pause_ms.store(0, Ordering::Relaxed);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "seed {seed}: {}", said(&output));
    let completed = events(&output).pop().unwrap();
    assert_eq!(completed["payload"]["proof"]["result"], "identical", "{}", said(&output));
    assert_eq!(server.behaviour.claims.load(Ordering::Relaxed), 1);
    assert_eq!(postgres.databases(), ["copy", "postgres", "source"]);
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
    // Those that were ridden out lose nothing; those that ended it, less than a range each.
    let (sent, first) = server.sent();
    assert_eq!((ended, first), (6, size));
    println!("{} of {size} bytes came twice", sent - first);
    assert!(sent <= size + ended * RANGE_BYTES, "{} bytes came twice, seed {seed}", sent - first);
    // Nothing of it was reported as a failure or a cancellation.
    assert!(!server.reported_steps().iter().any(|step| ["failed", "cancelled"].contains(&step.as_str())));
}
