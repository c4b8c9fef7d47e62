//! Synthetic artifacts with their annexes. The row digest is computed here in the plainest way, apart from
//! the verifier's own.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use sha2::{Digest, Sha256};
use walwarden_verifier::annex::{
    AnnexSize, AnnexWriter, Counts, Database, Entry as AnnexEntry, Header, LargeObject, Omission, Record, Role,
    Sequence, Setting, Table,
};

use super::{
    synthetic::{self, Content, Entry},
    world::{BACKUP, at},
};

/// *K* of every vector.
pub const ROW_KEY: [u8; 64] = [0x5a; 64];

/// An artifact and its annex, with what a manifest says of them.
#[derive(Clone)]
pub struct Files {
    pub artifact: Vec<u8>,
    pub annex: Vec<u8>,
    pub annex_size: AnnexSize,
    pub records: Vec<Record>,
    pub contents_digest: String,
    pub counts: Counts,
    pub compression: &'static str,
    pub server_version: &'static str,
    pub snapshot_at: String,
}

/// Which pg_dump the archive could be from.
#[derive(Clone, Copy)]
pub struct Flavour {
    pub minor: u8,
    pub method: u8,
    pub compression: &'static str,
    pub server_version: &'static str,
}

pub const V14_GZIP: Flavour = Flavour { minor: 14, method: 1, compression: "gzip:6", server_version: "14.19" };
pub const V14_NONE: Flavour = Flavour { minor: 14, method: 0, compression: "none", server_version: "15.14" };
pub const V15_NONE: Flavour = Flavour { minor: 15, method: 0, compression: "none", server_version: "16.10" };
pub const V16_ZSTD: Flavour = Flavour { minor: 16, method: 3, compression: "zstd:3", server_version: "17.6" };

fn entries(minor: u8) -> Vec<Entry> {
    let mut hostile = synthetic::entry(3, "TABLE", "orders \u{202e}\u{1b}[2J\"x\"");
    hostile.dependencies = vec![1];
    let mut sequence = synthetic::entry(8, "SEQUENCE SET", "orders_id_seq");
    sequence.defn = Some("SELECT pg_catalog.setval('public.orders_id_seq', 9007199254740993, true);\n".into());
    let mut orders = synthetic::table(5, "orders", b"1\tapple\n2\t\\N\n3\tpear\n3\tpear\n");
    orders.copy = Some("COPY public.orders (id, what) FROM stdin;\n".into());
    let mut entries = vec![synthetic::entry(1, "SCHEMA", "app"), synthetic::entry(2, "TABLE", "orders"), hostile];
    entries.extend([orders, synthetic::table(6, "empty", b"")]);
    entries.push(sequence);
    entries.extend(synthetic::objects(20, minor, &[(16_500, b"large object"), (3_000_000_000, b"")]));
    entries
}

fn encode(method: u8, content: &[u8]) -> Vec<Vec<u8>> {
    match method {
        1 => {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(6));
            zlib.write_all(content).unwrap();
            vec![zlib.finish().unwrap()]
        }
        3 => vec![zstd::bulk::compress(content, 3).unwrap()],
        _ => synthetic::chunk_per_row(content),
    }
}

fn row_digest(rows: &[u8]) -> (u64, String) {
    let mut sum = [0u8; 32];
    let mut count = 0;
    for line in rows.split_inclusive(|&b| b == b'\n') {
        let digest = Sha256::new().chain_update(ROW_KEY).chain_update(line.strip_suffix(b"\n").unwrap()).finalize();
        let mut carry = 0u16;
        for at in (0..32).rev() {
            let total = u16::from(sum[at]) + u16::from(digest[at]) + carry;
            sum[at] = total as u8;
            carry = total >> 8;
        }
        count += 1;
    }
    (count, hex::encode(sum))
}

impl Files {
    pub fn new(flavour: Flavour) -> Self {
        let Flavour { minor, method, compression, server_version } = flavour;
        let entries = entries(minor);
        let artifact = synthetic::archive(minor, method, &entries, &|content| encode(method, content));
        let snapshot_at = at(2);
        let mut counts =
            Counts { settings: 1, roles: 1, entries: entries.len() as u64, omissions: 1, ..Counts::default() };
        let mut digest = Sha256::new();
        let (mut described, mut tables, mut sequences, mut objects) = (vec![], vec![], vec![], vec![]);
        for entry in &entries {
            let schema = entry.namespace.clone().unwrap_or_default();
            let owner = entry.owner.clone().unwrap_or_default();
            let line = serde_json::json!({
                "dependencies": entry.dependencies, "dumpId": entry.dump_id, "kind": entry.desc,
                "name": entry.tag, "owner": owner, "schema": schema,
            });
            digest.update(line.to_string());
            digest.update("\n");
            described.push(Record::Entry(AnnexEntry {
                dump_id: entry.dump_id.into(),
                kind: entry.desc.clone(),
                schema: schema.clone(),
                name: entry.tag.clone(),
                owner,
                dependencies: entry.dependencies.iter().map(|&id| id.into()).collect(),
                ..AnnexEntry::default()
            }));
            match &entry.content {
                Content::Rows(rows) => {
                    let (count, digest) = row_digest(rows);
                    counts.tables += 1;
                    counts.rows += count;
                    let copy = entry.copy.as_deref().unwrap().strip_prefix("COPY ").unwrap();
                    let (load_target, rest) = copy.split_once(' ').unwrap();
                    tables.push(Record::Table(Table {
                        dump_id: entry.dump_id.into(),
                        schema,
                        name: entry.tag.clone(),
                        columns: rest.strip_suffix(" FROM stdin;\n").unwrap().into(),
                        load_target: load_target.into(),
                        rows: count,
                        bytes: rows.len() as u64,
                        digest,
                    }));
                }
                Content::Objects(content) => {
                    for (oid, bytes) in content {
                        counts.large_objects += 1;
                        let digest = Sha256::new().chain_update(ROW_KEY).chain_update(bytes).finalize();
                        objects.push(Record::LargeObject(LargeObject {
                            oid: *oid,
                            size: bytes.len() as u64,
                            digest: hex::encode(digest),
                        }));
                    }
                }
                _ if entry.desc == "SEQUENCE SET" => {
                    counts.sequences += 1;
                    sequences.push(Record::Sequence(Sequence {
                        schema,
                        name: entry.tag.clone(),
                        last_value: "9007199254740993".into(),
                        is_called: true,
                    }));
                }
                _ => {}
            }
        }
        let header = Header {
            v: "walwarden.annex.v1".into(),
            backup_id: BACKUP.into(),
            attempt: 1,
            server_version: server_version.into(),
            server_version_num: 10_000 * server_version[..2].parse::<u32>().unwrap() + 9,
            pg_dump_version: "14.0".into(),
            archive_version: format!("1.{minor}"),
            compression: compression.into(),
            snapshot_at: snapshot_at.clone(),
            row_key: hex::encode(ROW_KEY),
            counts: counts.clone(),
        };
        let mut records = vec![
            Record::Header(header),
            Record::Setting(Setting { name: "TimeZone".into(), value: "UTC".into() }),
            Record::Database(Database { name: "shop".into(), encoding: "UTF8".into(), ..Database::default() }),
            Record::Role(Role { name: "owner".into(), login: true, ..Role::default() }),
        ];
        records.extend(described.into_iter().chain(tables).chain(sequences).chain(objects));
        records.push(Record::Omission(Omission {
            kind: "TABLE".into(),
            schema: "audit".into(),
            name: "secrets".into(),
            reason: "notReadable".into(),
        }));
        let mut files = Self {
            artifact,
            annex: vec![],
            annex_size: AnnexSize { uncompressed_bytes: 0, lines: 0 },
            records,
            contents_digest: hex::encode(digest.finalize()),
            counts,
            compression,
            server_version,
            snapshot_at,
        };
        files.write_annex();
        files
    }

    /// The same, for another attempt.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.edit_record(0, |record| {
            if let Record::Header(header) = record {
                header.attempt = attempt;
            }
        });
        self
    }

    /// Changes one record and writes the annex again.
    pub fn edit_record(&mut self, at: usize, edit: impl FnOnce(&mut Record)) {
        edit(&mut self.records[at]);
        self.write_annex();
    }

    /// Place of the first record that `wanted` accepts.
    pub fn find(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        self.records.iter().position(wanted).unwrap()
    }

    /// The annex's lines, each with its LF.
    pub fn annex_lines(&self) -> Vec<Vec<u8>> {
        let line = |record| {
            let mut line = walwarden_verifier::jcs::to_vec(record).unwrap();
            line.push(b'\n');
            line
        };
        self.records.iter().map(line).collect()
    }

    /// An annex of any bytes.
    pub fn set_annex(&mut self, lines: &[Vec<u8>]) {
        let mut gzip = flate2::GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
        lines.iter().for_each(|line| gzip.write_all(line).unwrap());
        self.annex = gzip.finish().unwrap();
        self.annex_size = AnnexSize {
            uncompressed_bytes: lines.iter().map(|line| line.len() as u64).sum(),
            lines: lines.len() as u64,
        };
    }

    fn write_annex(&mut self) {
        let mut writer = AnnexWriter::new(Vec::new());
        for record in &self.records {
            writer.write(record).unwrap();
        }
        (self.annex, self.annex_size) = writer.finish().unwrap();
    }
}
