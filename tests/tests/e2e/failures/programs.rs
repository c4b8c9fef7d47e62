//! Programs in front of the real ones: what a machine, a pg_dump or a pg_restore does wrong, they do.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use walwarden_tests::{Postgres, bin};

use crate::patience;

/// pg_dump fails as the name of the database says.
const PG_DUMP: &str = r#"#!/bin/sh
case "$*" in
*unknown_kind*) '{real}' "$@" | LC_ALL=C sed 's/TABLE DATA/TABLE DATB/' ;;
*cut_short*) '{real}' "$@" | head -c 20000 ;;
*fails*) echo 'pg_dump: error: query failed: ERROR:  out of shared memory' >&2; exit 1 ;;
*) exec '{real}' "$@" ;;
esac
"#;

/// pg_restore waits before it begins until it may.
const WAITING: &str = r#"#!/bin/sh
case "$*" in *--use-list=*)
    : > '{directory}/began'
    while [ ! -e '{directory}/go' ]; do sleep 0.05; done ;;
esac
exec '{real}' "$@"
"#;

/// Somebody removes a row as soon as pg_restore is done.
const MEDDLING: &str = r#"#!/bin/sh
'{real}' "$@" || exit
case "$*" in *--use-list=*)
    for argument; do case "$argument" in --dbname=*) database=${argument#--dbname=} ;; esac; done
    exec '{psql}' -X -q -d "$database" -c 'DELETE FROM t WHERE n = 7' ;;
esac
"#;

/// The runner of another machine: what it says passes a gate, and its work directory has no room to speak of.
const RUNNER: &str = r#"#!/bin/sh
WALWARDEN_WORKER_URL=$(cat '{directory}/worker-url')
export WALWARDEN_WORKER_URL
{mount}exec '{real}'
"#;

const MOUNT: &str =
    r#"exec unshare --mount sh -c 'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"' mount "#;

fn script(path: &Path, text: &str, fields: &[(&str, &Path)]) {
    let text = fields.iter().fold(text.to_owned(), |text, (name, value)| {
        let value = value.to_str().expect("a path that is text");
        assert!(!value.contains('\''), "a quote in {value}");
        text.replace(&format!("{{{name}}}"), value)
    });
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a program");
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ww-programs-").tempdir().expect("a directory")
}

/// A runner that finds only one pg_dump, of that server's version, and one that fails as it is asked to.
pub struct FailingDump {
    directory: tempfile::TempDir,
}

impl FailingDump {
    pub fn of(postgres: &Postgres) -> FailingDump {
        let directory = directory();
        let path = directory.path();
        fs::create_dir(path.join("bin")).expect("a directory");
        script(&path.join("bin/pg_dump"), PG_DUMP, &[("real", &postgres.bin_dir().join("pg_dump"))]);
        let runner = "#!/bin/sh\nWALWARDEN_PG_BIN='{directory}/bin' exec '{real}'\n";
        script(&path.join("runner"), runner, &[("directory", path), ("real", &bin("walwarden-runner"))]);
        FailingDump { directory }
    }

    pub fn runner(&self) -> PathBuf {
        self.directory.path().join("runner")
    }
}

/// A runner on a machine with a full disk, behind a gate.
pub struct SmallMachine {
    directory: tempfile::TempDir,
}

impl SmallMachine {
    pub fn new(mounts: bool) -> SmallMachine {
        let directory = directory();
        let mount = MOUNT.replace("{size}", "16k") + "\"$WALWARDEN_WORK_DIR\" ";
        let text = match mounts {
            true => RUNNER.replace("{mount}exec ", &mount),
            false => RUNNER.replace("{mount}", ""),
        };
        let fields = [("directory", directory.path()), ("real", &bin("walwarden-runner"))];
        script(&directory.path().join("runner"), &text, &fields);
        SmallMachine { directory }
    }

    pub fn runner(&self) -> PathBuf {
        self.directory.path().join("runner")
    }

    /// Where its runners find the control plane.
    pub fn talks_to(&self, url: &str) {
        fs::write(self.directory.path().join("worker-url"), url).expect("a file");
    }
}

/// A command that runs with a file system of that size at `directory`, seen by it alone and gone with it.
pub fn with_little_room(size: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{MOUNT}\"$@\"").replace("{size}", size), "sh"]).arg(directory);
    command
}

/// Whether this machine lets one mount a file system.
pub fn can_mount() -> bool {
    let directory = directory();
    let mut command = with_little_room("16k", directory.path());
    command.arg("true").output().is_ok_and(|output| output.status.success())
}

/// A directory with a pg_restore for `--pg-bin`.
pub struct PgRestore {
    directory: tempfile::TempDir,
}

impl PgRestore {
    /// That waits until it is let go.
    pub fn waiting(postgres: &Postgres) -> PgRestore {
        Self::with(postgres, WAITING)
    }

    /// After which a row is missing.
    pub fn meddling(postgres: &Postgres) -> PgRestore {
        Self::with(postgres, MEDDLING)
    }

    fn with(postgres: &Postgres, text: &str) -> PgRestore {
        let directory = directory();
        let (real, psql) = (postgres.bin_dir().join("pg_restore"), postgres.bin_dir().join("psql"));
        let fields = [("real", real.as_path()), ("psql", &psql), ("directory", directory.path())];
        script(&directory.path().join("pg_restore"), text, &fields);
        PgRestore { directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until it was started.
    pub fn wait(&self) {
        patience::expect("pg_restore", 60, || self.directory.path().join("began").exists().then_some(()));
    }

    /// Lets it begin.
    pub fn go(&self) {
        fs::write(self.directory.path().join("go"), "").expect("a file");
    }
}
