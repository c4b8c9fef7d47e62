//! The annex: a description of a backup's contents, one canonical JSON record a line, gzipped. It says
//! what grows with the database (names, roles, row digests); the manifest holds its digest and size.
//! It is hostile input: it describes, it is never executed, and readers stop at the manifest's sizes.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::jcs::{self, JcsError};

/// Version tag, in the header record.
pub const VERSION: &str = "walwarden.annex.v1";
/// Largest record.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Largest annex, uncompressed.
pub const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// One line of the annex. Records come in the order of the arms; each kind may repeat but for the
/// header and the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "camelCase")]
pub enum Record {
    /// First line.
    Header(Header),
    /// An effective setting of the dumping session that decides how values are written.
    Setting(Setting),
    /// Properties of the source database.
    Database(Database),
    /// A role that the archive refers to.
    Role(Role),
    /// An extension.
    Extension(Extension),
    /// An entry of the archive's table of contents, in its order.
    Entry(Entry),
    /// Data of one table.
    Table(Table),
    /// A sequence's position.
    Sequence(Sequence),
    /// A large object.
    LargeObject(LargeObject),
    /// Something knowingly not in the archive.
    Omission(Omission),
}

/// Versions, counts, and the row key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Always [`VERSION`].
    pub v: String,
    /// `bkp_…`
    pub backup_id: String,
    /// Attempt.
    pub attempt: u32,
    /// `server_version` of the source.
    pub server_version: String,
    /// `server_version_num` of the source.
    pub server_version_num: u32,
    /// Version of pg_dump.
    pub pg_dump_version: String,
    /// Archive format, such as `1.16`; `unknown` where nobody read it.
    pub archive_version: String,
    /// `none`, `gzip:<level>`, `zstd:<level>`, `pg_dump`.
    pub compression: String,
    /// The server's clock before the snapshot.
    pub snapshot_at: String,
    /// *K*: 64 random bytes in hex, drawn after the snapshot.
    pub row_key: String,
    /// How many records of each kind follow.
    pub counts: Counts,
}

/// Records of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// `setting`
    pub settings: u64,
    /// `role`
    pub roles: u64,
    /// `extension`
    pub extensions: u64,
    /// `entry`
    pub entries: u64,
    /// `table`
    pub tables: u64,
    /// Rows in all tables.
    pub rows: u64,
    /// `sequence`
    pub sequences: u64,
    /// `largeObject`
    pub large_objects: u64,
    /// `omission`
    pub omissions: u64,
}

/// A name and its value: a server setting, or a database's or role's stored setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Name of the setting.
    pub name: String,
    /// Value, as text.
    pub value: String,
}

/// Properties of the source database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Encoding name, such as `UTF8`.
    pub encoding: String,
    /// `c` (libc), `i` (ICU) or `b` (builtin).
    pub locale_provider: String,
    /// LC_COLLATE.
    pub collate: String,
    /// LC_CTYPE.
    pub ctype: String,
    /// ICU or builtin locale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// ICU rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// Owner.
    pub owner: String,
    /// Comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Connection limit, -1 for none.
    pub connection_limit: i64,
    /// `datistemplate`
    pub is_template: bool,
    /// ACL items as the server prints them; absent = the server's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<String>>,
    /// `ALTER DATABASE … SET`.
    pub settings: Vec<Setting>,
    /// `ALTER ROLE … IN DATABASE … SET`.
    pub role_settings: Vec<RoleSetting>,
}

/// A setting of one role in this database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleSetting {
    /// The role.
    pub role: String,
    /// Name of the setting.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A role the archive refers to. Never a password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// SUPERUSER
    pub superuser: bool,
    /// INHERIT
    pub inherit: bool,
    /// CREATEROLE
    pub create_role: bool,
    /// CREATEDB
    pub create_db: bool,
    /// LOGIN
    pub login: bool,
    /// REPLICATION
    pub replication: bool,
    /// BYPASSRLS
    pub bypass_rls: bool,
    /// CONNECTION LIMIT, -1 for none.
    pub connection_limit: i64,
    /// VALID UNTIL, as the server prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// Roles it is a member of.
    pub member_of: Vec<Membership>,
    /// `ALTER ROLE … SET` in every database.
    pub settings: Vec<Setting>,
}

/// Membership in a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// The role it is a member of.
    pub role: String,
    /// WITH ADMIN OPTION
    pub admin: bool,
}

/// An installed extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Installed version.
    pub version: String,
    /// Schema it is in.
    pub schema: String,
    /// Tables whose rows belong to the user (`pg_extension_config_dump`).
    pub config_tables: Vec<ConfigTable>,
}

/// A configuration table of an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigTable {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Which rows are the user's: a `WHERE …` text, or empty.
    pub condition: String,
}

/// An entry of the archive's table of contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Dump id.
    pub dump_id: i64,
    /// Kind: the archive's `desc`, such as `TABLE DATA`.
    pub kind: String,
    /// Schema, empty where there is none.
    pub schema: String,
    /// Name: the archive's `tag`.
    pub name: String,
    /// Owner, empty where there is none.
    pub owner: String,
    /// Dump ids it depends on.
    pub dependencies: Vec<i64>,
    /// ACL of the object in the source, as the server prints it; absent = the server's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<String>>,
    /// Roles a policy names.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub policy_roles: Vec<String>,
    /// Whether the function runs with its owner's rights.
    #[serde(skip_serializing_if = "is_false", default)]
    pub security_definer: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Data of one table in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Dump id of its `TABLE DATA`.
    pub dump_id: i64,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// COPY's column list as the archive has it, parentheses included; empty for a table without columns to copy.
    pub columns: String,
    /// Table that COPY loads into, quoted; another than this one where partitions load through their root.
    pub load_target: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of COPY text.
    pub bytes: u64,
    /// Row digest, lower-case hex.
    pub digest: String,
}

/// A sequence's position, as the archive sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sequence {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `last_value`, decimal text: it can exceed what JSON integers hold.
    pub last_value: String,
    /// `is_called`
    pub is_called: bool,
}

/// A large object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LargeObject {
    /// OID.
    pub oid: u32,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256(*K* ‖ content), lower-case hex.
    pub digest: String,
}

/// Something not in the archive, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Omission {
    /// Kind: `TABLE`, `SCHEMA`, …
    pub kind: String,
    /// Schema, empty where there is none.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `notReadable`; `rowSecurity`: rows hidden from the dumping role; `dependsOnOmitted`: of no use without something
    /// else that is not there; `excluded`.
    pub reason: String,
}

impl Record {
    fn rank(&self) -> u8 {
        match self {
            Self::Header(_) => 0,
            Self::Setting(_) => 1,
            Self::Database(_) => 2,
            Self::Role(_) => 3,
            Self::Extension(_) => 4,
            Self::Entry(_) => 5,
            Self::Table(_) => 6,
            Self::Sequence(_) => 7,
            Self::LargeObject(_) => 8,
            Self::Omission(_) => 9,
        }
    }
}

/// Which rule an annex breaks.
#[derive(Debug)]
pub enum AnnexError {
    /// Reading failed, or not gzip.
    Io(io::Error),
    /// A line is not a canonical record.
    Line(u64, JcsError),
    /// A rule about the whole.
    Rule(&'static str),
}

impl fmt::Display for AnnexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Line(line, error) => write!(f, "line {line} {error}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}

impl std::error::Error for AnnexError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Line(_, error) => Some(error),
            Self::Rule(_) => None,
        }
    }
}

/// Room is made for so many records of a kind at once.
const FORESEEN: u64 = 1 << 20;

/// What a finished annex measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnexSize {
    /// Bytes before compression.
    pub uncompressed_bytes: u64,
    /// Records.
    pub lines: u64,
}

/// Writes an annex: the same records give the same bytes.
pub struct AnnexWriter<W: Write> {
    gzip: GzEncoder<W>,
    size: AnnexSize,
    rank: u8,
}

impl<W: Write> AnnexWriter<W> {
    /// Starts an annex on `out`.
    pub fn new(out: W) -> Self {
        let gzip = GzBuilder::new().mtime(0).operating_system(255).write(out, Compression::new(6));
        Self { gzip, size: AnnexSize { uncompressed_bytes: 0, lines: 0 }, rank: 0 }
    }

    /// Appends one record; the order of kinds is checked.
    pub fn write(&mut self, record: &Record) -> Result<(), AnnexError> {
        let line = self.size.lines + 1;
        if record.rank() < self.rank || (line == 1) != (record.rank() == 0) {
            return Err(AnnexError::Rule("records are not in order"));
        }
        self.rank = record.rank();
        let mut bytes = jcs::to_vec(record).map_err(|e| AnnexError::Line(line, e))?;
        bytes.push(b'\n');
        if bytes.len() > MAX_LINE_BYTES {
            return Err(AnnexError::Rule("a record is larger than 1 MiB"));
        }
        self.size.uncompressed_bytes += bytes.len() as u64;
        if self.size.uncompressed_bytes > MAX_BYTES {
            return Err(AnnexError::Rule("larger than 1 GiB uncompressed"));
        }
        self.size.lines = line;
        self.gzip.write_all(&bytes).map_err(AnnexError::Io)
    }

    /// Ends the annex and gives back the output.
    pub fn finish(self) -> Result<(W, AnnexSize), AnnexError> {
        Ok((self.gzip.finish().map_err(AnnexError::Io)?, self.size))
    }
}

/// Reads records one by one and stops at the sizes the manifest gives.
pub struct AnnexReader<R: BufRead> {
    lines: BufReader<io::Take<GzDecoder<R>>>,
    expected: AnnexSize,
    read: AnnexSize,
    rank: u8,
}

impl<R: BufRead> AnnexReader<R> {
    /// A reader over the compressed bytes; `expected` comes from the manifest.
    pub fn new(input: R, expected: AnnexSize) -> Result<Self, AnnexError> {
        if expected.uncompressed_bytes > MAX_BYTES {
            return Err(AnnexError::Rule("larger than 1 GiB uncompressed"));
        }
        // One byte more than expected, so that an excess is seen and not just cut off.
        let limit = expected.uncompressed_bytes + 1;
        Ok(Self {
            lines: BufReader::new(GzDecoder::new(input).take(limit)),
            expected,
            read: AnnexSize { uncompressed_bytes: 0, lines: 0 },
            rank: 0,
        })
    }

    /// The next record, or `None` after the last, when everything matched the expected sizes.
    pub fn next_record(&mut self) -> Result<Option<Record>, AnnexError> {
        let mut line = Vec::new();
        let taken =
            (&mut self.lines).take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).map_err(AnnexError::Io)?;
        if taken == 0 {
            if self.read != self.expected {
                return Err(AnnexError::Rule("shorter than the manifest says"));
            }
            if !self.lines.get_mut().get_mut().get_mut().fill_buf().map_err(AnnexError::Io)?.is_empty() {
                return Err(AnnexError::Rule("bytes follow the gzip member"));
            }
            return Ok(None);
        }
        self.read.lines += 1;
        self.read.uncompressed_bytes += taken as u64;
        if self.read.uncompressed_bytes > self.expected.uncompressed_bytes || self.read.lines > self.expected.lines {
            return Err(AnnexError::Rule("longer than the manifest says"));
        }
        if line.pop() != Some(b'\n') || line.len() >= MAX_LINE_BYTES {
            return Err(AnnexError::Rule("a record is larger than 1 MiB or does not end"));
        }
        let number = self.read.lines;
        let record: Record = jcs::from_slice(&line).map_err(|e| AnnexError::Line(number, e))?;
        let rank = record.rank();
        let repeats = rank == self.rank && matches!(rank, 0 | 2) && number > 1;
        if (number == 1) != (rank == 0) || rank < self.rank || repeats {
            return Err(AnnexError::Rule("records are not in order"));
        }
        self.rank = rank;
        Ok(Some(record))
    }
}

/// A whole annex in memory.
#[derive(Debug, Clone)]
pub struct Annex {
    /// Header.
    pub header: Header,
    /// Effective settings.
    pub settings: Vec<Setting>,
    /// Database properties.
    pub database: Database,
    /// Roles.
    pub roles: Vec<Role>,
    /// Extensions.
    pub extensions: Vec<Extension>,
    /// Entries in TOC order.
    pub entries: Vec<Entry>,
    /// Table data.
    pub tables: Vec<Table>,
    /// Sequences.
    pub sequences: Vec<Sequence>,
    /// Large objects.
    pub large_objects: Vec<LargeObject>,
    /// Omissions.
    pub omissions: Vec<Omission>,
}

impl Annex {
    /// Reads a whole annex and checks the header's counts.
    pub fn read<R: BufRead>(input: R, expected: AnnexSize) -> Result<Self, AnnexError> {
        let mut reader = AnnexReader::new(input, expected)?;
        let Some(Record::Header(header)) = reader.next_record()? else {
            return Err(AnnexError::Rule("does not begin with a header"));
        };
        if header.v != VERSION {
            return Err(AnnexError::Rule("header has another version than walwarden.annex.v1"));
        }
        let mut annex = Self {
            header,
            settings: vec![],
            database: Database::default(),
            roles: vec![],
            extensions: vec![],
            entries: vec![],
            tables: vec![],
            sequences: vec![],
            large_objects: vec![],
            omissions: vec![],
        };
        // Growing would need half as much room again. A count is only a hint, and believed up to a point.
        let exactly = |count: u64| usize::try_from(count.min(FORESEEN)).unwrap_or_default();
        let _ = annex.entries.try_reserve_exact(exactly(annex.header.counts.entries));
        let _ = annex.tables.try_reserve_exact(exactly(annex.header.counts.tables));
        while let Some(record) = reader.next_record()? {
            match record {
                Record::Header(_) => return Err(AnnexError::Rule("has two headers")),
                Record::Setting(x) => annex.settings.push(x),
                Record::Database(x) => annex.database = x,
                Record::Role(x) => annex.roles.push(x),
                Record::Extension(x) => annex.extensions.push(x),
                Record::Entry(x) => annex.entries.push(x),
                Record::Table(x) => annex.tables.push(x),
                Record::Sequence(x) => annex.sequences.push(x),
                Record::LargeObject(x) => annex.large_objects.push(x),
                Record::Omission(x) => annex.omissions.push(x),
            }
        }
        let found = Counts {
            settings: annex.settings.len() as u64,
            roles: annex.roles.len() as u64,
            extensions: annex.extensions.len() as u64,
            entries: annex.entries.len() as u64,
            tables: annex.tables.len() as u64,
            rows: annex.tables.iter().fold(0, |sum: u64, t| sum.saturating_add(t.rows)),
            sequences: annex.sequences.len() as u64,
            large_objects: annex.large_objects.len() as u64,
            omissions: annex.omissions.len() as u64,
        };
        if found != annex.header.counts {
            return Err(AnnexError::Rule("counts in the header differ from what follows"));
        }
        Ok(annex)
    }
}
