//! Which pg_dump: exactly the server's major, the newest minor that is installed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use walwarden_contract::failure::FailureClass;

use crate::fault::Fault;

/// The first minor of each major without known vulnerabilities of the client programs (CVE-2026-116314).
const FLOOR: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];

/// A pg_dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgDump {
    /// The program.
    pub path: PathBuf,
    /// Its version as it tells it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    major: u32,
    minor: u32,
}

impl PgDump {
    fn ask(path: PathBuf) -> Option<Self> {
        let output = Command::new(&path).arg("--version").env_clear().stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Option<Self> {
        let version = text.trim().strip_prefix("pg_dump (PostgreSQL) ")?;
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
        let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
        Some(Self { path, version: version.into(), major, minor })
    }

    /// A warning if it is older than the first version without known vulnerabilities.
    pub fn below_floor(&self) -> Option<String> {
        let (major, floor) = FLOOR.into_iter().find(|(major, _)| *major == self.major)?;
        (self.minor < floor).then(|| {
            format!(
                "pg_dump {} has known vulnerabilities that a hostile database can use; install {major}.{floor} or later",
                self.version
            )
        })
    }
}

/// The pg_dump for a server of this major among the directories.
pub fn find(directories: &[PathBuf], major: u32) -> Result<PgDump, Fault> {
    let mut seen = Vec::new();
    let mut best: Option<PgDump> = None;
    for directory in directories {
        let path = directory.join("pg_dump");
        let is_program = std::fs::canonicalize(&path).is_ok_and(|real| real.is_file());
        if !is_program || seen.iter().any(|known: &PathBuf| same_file(known, &path)) {
            continue;
        }
        seen.push(path.clone());
        if let Some(found) = PgDump::ask(path)
            && found.major == major
            && best.as_ref().is_none_or(|best| best.minor < found.minor)
        {
            best = Some(found);
        }
    }
    best.ok_or_else(|| {
        let what = format!("the server is version {major} and no pg_dump {major} is installed");
        Fault::new(FailureClass::SourceVersionUnsupported, what)
    })
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
pub(super) fn tests_program() -> PgDump {
    PgDump { path: "/bin/true".into(), version: "15.18".into(), major: 15, minor: 18 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let parse = |text| PgDump::parse("x".into(), text);
        let debian = parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap();
        assert_eq!((debian.major, debian.minor), (15, 18));
        assert_eq!(debian.version, "15.18 (Debian 15.18-0+deb12u1)");
        assert!(debian.below_floor().unwrap().contains("15.20"));
        assert_eq!(parse("pg_dump (PostgreSQL) 18.7").unwrap().below_floor(), None);
        assert_eq!(parse("pg_dump (PostgreSQL) 19beta1").unwrap().major, 19);
        assert_eq!(parse("something else 15.18"), None);
    }

    #[test]
    fn no_pg_dump_is_a_class_of_its_own() {
        let error = find(&["/nonexistent".into()], 17).unwrap_err();
        assert_eq!(error.class, FailureClass::SourceVersionUnsupported);
    }
}
