//! Which pg_restore runs: the lowest installed one that reads the archive's format, that the target
//! accepts, and that was built with the archive's compression. Of an archive that nobody has read, it is one no older
//! than the server it came from.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use walwarden_verifier::{annex::Annex, archive::put_int};

use super::{evidence::is_opaque, guards::Environment};

/// An installed pg_restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where.
    pub path: PathBuf,
    /// Major version.
    pub major: u32,
    /// Minor version; 0 for betas.
    pub minor: u32,
    /// As it calls itself.
    pub version: String,
}

/// What an archive needs of its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// One that reads this.
    Format {
        /// Minor archive version: 14, 15 or 16.
        archive_minor: u32,
        /// `none`, `gzip`, `zstd` or `lz4`.
        codec: String,
    },
    /// One of this major version or a later one: what pg_dump of it wrote is not known here.
    Major(u32),
}

impl Need {
    /// What the annex says; `None` for an archive version that is not known here.
    pub fn of(annex: &Annex) -> Option<Self> {
        let header = &annex.header;
        if is_opaque(annex) {
            return Some(Self::Major(header.server_version_num / 10_000));
        }
        let archive_minor = header.archive_version.strip_prefix("1.")?.split('.').next()?.parse().ok()?;
        let codec = header.compression.split(':').next().unwrap_or_default().to_owned();
        ((14..=16).contains(&archive_minor)).then_some(Self::Format { archive_minor, codec })
    }

    /// First major whose pg_restore reads it.
    fn first_major(&self) -> u32 {
        match self {
            Self::Format { archive_minor: 14, .. } => 14,
            Self::Format { archive_minor: 15, .. } => 16,
            Self::Format { .. } => 17,
            Self::Major(major) => *major,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Format { archive_minor, codec } => format!("has format 1.{archive_minor} with {codec}"),
            Self::Major(major) => format!("was written by pg_dump {major} and not read since"),
        }
    }
}

/// First client major that sends settings servers up to 16 do not know.
const TRANSACTION_TIMEOUT_SINCE: u32 = 17;

/// Lowest minor of each major without known vulnerabilities that an archive could use.
const SECURITY_FLOOR: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];

impl Program {
    /// Whether this version reads the archive and the target accepts it.
    pub fn suits(&self, need: &Need, target_major: u32) -> bool {
        self.major >= need.first_major()
            && (target_major >= TRANSACTION_TIMEOUT_SINCE || self.major < TRANSACTION_TIMEOUT_SINCE)
    }

    /// The minor version it should have had, if it is below.
    pub fn below_security_floor(&self) -> Option<(u32, u32)> {
        SECURITY_FLOOR.into_iter().find(|(major, minor)| *major == self.major && self.minor < *minor)
    }
}

/// Parses `pg_restore (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
pub fn parse_version(line: &str) -> Option<(u32, u32, String)> {
    let version = line.strip_prefix("pg_restore (PostgreSQL) ")?.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    let major = version[..digits].parse().ok()?;
    let minor = version[digits..].strip_prefix('.').and_then(|rest| rest.parse().ok()).unwrap_or(0);
    Some((major, minor, version.to_owned()))
}

/// Why no pg_restore can be used, and what to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProgram {
    /// Why.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Chooses among the installed programs: the lowest suitable major, of it the newest minor. `reads` probes the
/// compression. Programs in directories that were named are preferred as a group.
pub fn choose(
    named: &[Program],
    found: &[Program],
    need: &Need,
    target_major: u32,
    reads: impl Fn(&Program) -> bool,
) -> Result<Program, NoProgram> {
    for group in [named, found] {
        let mut suitable: Vec<&Program> = group.iter().filter(|program| program.suits(need, target_major)).collect();
        suitable.sort_by_key(|program| (program.major, std::cmp::Reverse(program.minor)));
        if let Some(program) = suitable.into_iter().find(|program| reads(program)) {
            return Ok(program.clone());
        }
    }
    let first = need.first_major();
    if first >= TRANSACTION_TIMEOUT_SINCE && target_major < TRANSACTION_TIMEOUT_SINCE {
        return Err(NoProgram {
            problem: format!(
                "no pg_restore can do this: the archive{} needs version {first} or later, and a server of version {target_major} refuses those",
                match need {
                    Need::Format { archive_minor, .. } => format!(" (format 1.{archive_minor})"),
                    Need::Major(_) => String::new(),
                }
            ),
            remedy: format!("restore into a server of version {first} or later"),
        });
    }
    let all: Vec<&Program> = named.iter().chain(found).collect();
    let package = if target_major < TRANSACTION_TIMEOUT_SINCE { first.max(target_major).min(16) } else { first };
    let have = match (all.as_slice(), need) {
        ([], _) => "no pg_restore is installed here".to_owned(),
        (some, Need::Format { codec, .. }) if some.iter().any(|p| p.suits(need, target_major)) => {
            format!("none of the installed pg_restore that fit was built with {codec}")
        }
        (some, _) => {
            let versions: BTreeSet<u32> = some.iter().map(|program| program.major).collect();
            let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
            format!("the installed pg_restore ({}) do not fit", versions.join(", "))
        }
    };
    Err(NoProgram {
        problem: format!("{have}: the archive {}, the target is version {target_major}", need.words()),
        remedy: format!(
            "install postgresql-client-{package} (Debian, Ubuntu) or postgresql@{package} (Homebrew), or name its directory with --pg-bin"
        ),
    })
}

/// The programs in the named directories, and those found elsewhere.
pub fn installed(flags: &[PathBuf], environment: &Environment) -> (Vec<Program>, Vec<Program>) {
    let named: Vec<PathBuf> = flags.iter().chain(&environment.pg_bin).cloned().collect();
    let mut usual = environment.path.clone();
    for (parent, below) in [
        ("/usr/lib/postgresql", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
    ] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        usual.extend(entries.map(|entry| entry.path().join(below)));
    }
    let rpm = std::fs::read_dir("/usr").into_iter().flatten().flatten();
    usual.extend(
        rpm.map(|entry| entry.path())
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pgsql-")))
            .map(|p| p.join("bin")),
    );
    (look(&named), look(&usual))
}

fn look(directories: &[PathBuf]) -> Vec<Program> {
    let mut seen = BTreeSet::new();
    let candidates = directories.iter().map(|directory| directory.join("pg_restore"));
    // A relative directory in PATH could be anyone's.
    let candidates = candidates.filter(|path| path.is_absolute() && path.is_file());
    candidates
        .filter(|path| {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            // Debian's wrapper chooses a version by rules of its own.
            let wrapper = real.file_name().is_some_and(|name| name == "pg_wrapper");
            !wrapper && seen.insert(real)
        })
        .filter_map(|path| {
            let output = clean(Command::new(&path).arg("--version")).output().ok()?;
            let line = String::from_utf8(output.stdout).ok()?;
            let (major, minor, version) = parse_version(line.trim())?;
            Some(Program { path, major, minor, version })
        })
        .collect()
}

/// Takes everything from a child's environment but what finds its libraries.
pub fn clean(command: &mut Command) -> &mut Command {
    command.env_clear().stdin(Stdio::null());
    for name in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("LC_ALL", "C")
}

/// Whether a program was built with the codec that is needed: it lists an empty archive of that codec without
/// complaint. Without support it only warns that no data will be available. Where no codec is known none is asked for.
pub fn reads(program: &Path, need: &Need, scratch: &Path) -> bool {
    let Need::Format { archive_minor, codec } = need else { return true };
    let path = scratch.join("probe.dump");
    if crate::files::write_private(&path, &empty_archive(*archive_minor, codec)).is_err() {
        return false;
    }
    let output = clean(Command::new(program).arg("--list").arg(&path)).output();
    let _ = std::fs::remove_file(&path);
    output.is_ok_and(|output| output.status.success() && output.stderr.is_empty())
}

fn empty_archive(archive_minor: u32, codec: &str) -> Vec<u8> {
    let minor = u8::try_from(archive_minor).unwrap_or(16);
    let mut bytes = b"PGDMP\x01".to_vec();
    bytes.extend_from_slice(&[minor, 0, 4, 8, 1]);
    match (minor, codec) {
        (..=14, "none") => put_int(&mut bytes, 0),
        (..=14, _) => put_int(&mut bytes, 6),
        (_, "none") => bytes.push(0),
        (_, "gzip") => bytes.push(1),
        (_, "lz4") => bytes.push(2),
        _ => bytes.push(3),
    }
    for field in [0, 0, 0, 1, 0, 126, 0] {
        put_int(&mut bytes, field);
    }
    for text in ["probe", "16.0", "16.0"] {
        put_int(&mut bytes, text.len() as i32);
        bytes.extend_from_slice(text.as_bytes());
    }
    put_int(&mut bytes, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(major: u32, minor: u32) -> Program {
        Program {
            path: format!("/pg/{major}.{minor}/pg_restore").into(),
            major,
            minor,
            version: format!("{major}.{minor}"),
        }
    }

    fn need(archive_minor: u32) -> Need {
        Need::Format { archive_minor, codec: "gzip".into() }
    }

    #[test]
    fn versions_parse() {
        assert_eq!(
            parse_version("pg_restore (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some((15, 18, "15.18".into()))
        );
        assert_eq!(parse_version("pg_restore (PostgreSQL) 19beta1"), Some((19, 0, "19beta1".into())));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_lowest_that_fits_both_sides() {
        let all = [program(18, 6), program(15, 18), program(16, 14), program(17, 10), program(17, 12)];
        let pick = |archive, target| choose(&[], &all, &need(archive), target, |_| true).map(|p| (p.major, p.minor));
        for target in 14..=18 {
            assert_eq!(pick(14, target), Ok((15, 18)));
            assert_eq!(pick(15, target), Ok((16, 14)));
        }
        assert_eq!(pick(16, 17), Ok((17, 12)));
        assert_eq!(pick(16, 18), Ok((17, 12)));
        assert!(pick(16, 16).unwrap_err().problem.contains("no pg_restore can do this"));
        assert!(pick(16, 16).unwrap_err().remedy.contains("version 17 or later"));
    }

    #[test]
    fn what_nobody_read_needs_no_less_than_its_server() {
        let all = [program(17, 10), program(18, 1), program(20, 0), program(19, 2)];
        let pick = |need: &Need, target| choose(&[], &all, need, target, |_| true).map(|p| (p.major, p.minor));
        assert_eq!(pick(&Need::Major(19), 19), Ok((19, 2)));
        assert_eq!(pick(&Need::Major(18), 17), Ok((18, 1)));
        let error = pick(&Need::Major(19), 16).unwrap_err();
        assert!(
            error.problem.contains("needs version 19 or later") && error.remedy.contains("version 19"),
            "{error:?}"
        );
        let error = pick(&Need::Major(21), 21).unwrap_err();
        assert!(
            error
                .problem
                .contains("(17, 18, 19, 20) do not fit: the archive was written by pg_dump 21 and not read since")
                && error.remedy.contains("postgresql-client-21"),
            "{error:?}"
        );
        // Nothing is probed: there is no program, and yet it would do.
        assert!(reads(Path::new("/nowhere"), &Need::Major(19), Path::new("/nowhere")));
    }

    #[test]
    fn what_to_install_is_named() {
        let error = choose(&[], &[program(18, 6)], &need(14), 15, |_| true).unwrap_err();
        assert!(
            error.problem.contains("(18) do not fit") && error.remedy.contains("postgresql-client-15"),
            "{error:?}"
        );
        let error = choose(&[], &[], &need(16), 18, |_| true).unwrap_err();
        assert!(error.problem.contains("no pg_restore is installed") && error.remedy.contains("postgresql-client-17"));
        let error = choose(&[], &[program(17, 1)], &need(16), 18, |_| false).unwrap_err();
        assert!(error.problem.contains("was built with gzip"));
    }

    #[test]
    fn named_directories_come_first_and_codecs_are_probed() {
        let named = [program(18, 6)];
        let found = [program(17, 12)];
        assert_eq!(choose(&named, &found, &need(16), 18, |_| true).unwrap().major, 18);
        assert_eq!(choose(&named, &found, &need(16), 18, |p| p.major == 17).unwrap().major, 17);
        assert_eq!(choose(&named, &[program(15, 1)], &need(14), 15, |_| true).unwrap().major, 15);
    }

    #[test]
    fn the_security_floor() {
        assert_eq!(program(15, 18).below_security_floor(), Some((15, 20)));
        assert_eq!(program(15, 20).below_security_floor(), None);
        assert_eq!(program(19, 0).below_security_floor(), None);
    }

    #[test]
    fn an_installed_pg_restore_lists_the_probe() {
        let (_, found) = installed(&[], &Environment { path: vec![], ..Environment::default() });
        let scratch = tempfile::tempdir().unwrap();
        for program in found {
            for archive_minor in 14..=16 {
                let need = need(archive_minor);
                if program.major >= need.first_major() {
                    assert!(reads(&program.path, &need, scratch.path()), "{program:?}");
                }
            }
        }
    }
}
