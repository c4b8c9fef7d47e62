//! Builds the annex: what the archive's contents are, in records, from the archive itself and from what was read of the
//! catalogue in the same snapshot.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, bail};
use walwarden_verifier::{
    annex::{
        AnnexSize, AnnexWriter, Counts, Entry, Header, LargeObject, Record, Role, Sequence, Setting, Table, VERSION,
    },
    archive::{TERMINATOR, TocEntry, copy_target, sequence_value},
};

use crate::{dump::Dumped, source::named_in_acl};

/// Writes the annex of a dump to `path`.
pub fn write(dumped: &Dumped, backup_id: &str, attempt: u32, path: &Path) -> anyhow::Result<AnnexSize> {
    let file = File::create_new(path).context("creating the annex")?;
    let mut writer = AnnexWriter::new(BufWriter::new(file));
    let annex = Annex::new(dumped)?;
    writer.write(&Record::Header(annex.header(backup_id, attempt)))?;
    for setting in &annex.settings {
        writer.write(&Record::Setting(setting.clone()))?;
    }
    writer.write(&Record::Database(dumped.facts.database.clone()))?;
    for role in &annex.roles {
        writer.write(&Record::Role((*role).clone()))?;
    }
    for extension in &dumped.facts.extensions {
        writer.write(&Record::Extension(extension.clone()))?;
    }
    for entry in &dumped.outcome.entries {
        writer.write(&Record::Entry(annex.entry(entry)))?;
    }
    for table in &dumped.outcome.tables {
        let entry = annex.table_entries.get(&table.dump_id).context("table data without its entry")?;
        let target = entry.copy.as_deref().and_then(copy_target);
        let target = target.with_context(|| format!("entry {} has no COPY statement that is known", entry.dump_id))?;
        writer.write(&Record::Table(Table {
            dump_id: entry.dump_id.into(),
            schema: schema(entry),
            name: entry.tag.clone(),
            columns: if target.columns.is_empty() { String::new() } else { format!("({})", target.columns) },
            load_target: target.table.to_owned(),
            rows: table.rows.rows,
            bytes: table.bytes - TERMINATOR.len() as u64,
            digest: hex::encode(table.rows.digest()),
        }))?;
    }
    for entry in annex.sequences() {
        let value = entry.defn.as_deref().and_then(sequence_value);
        let value = value.with_context(|| format!("entry {} sets no sequence in a known way", entry.dump_id))?;
        writer.write(&Record::Sequence(Sequence {
            schema: schema(entry),
            name: entry.tag.clone(),
            last_value: value.last_value.to_string(),
            is_called: value.is_called,
        }))?;
    }
    for object in &dumped.outcome.large_objects {
        let digest = hex::encode(object.digest);
        writer.write(&Record::LargeObject(LargeObject { oid: object.oid, size: object.bytes, digest }))?;
    }
    for omission in dumped.omissions() {
        writer.write(&Record::Omission(omission))?;
    }
    let (mut out, size) = writer.finish()?;
    out.flush().context("writing the annex")?;
    Ok(size)
}

/// A dump, looked at once.
struct Annex<'a> {
    dumped: &'a Dumped,
    settings: Vec<Setting>,
    roles: Vec<&'a Role>,
    table_entries: HashMap<i32, &'a TocEntry>,
}

impl<'a> Annex<'a> {
    fn new(dumped: &'a Dumped) -> anyhow::Result<Self> {
        let entries = &dumped.outcome.entries;
        let mut settings = dumped.facts.settings.clone();
        // Of an archive that nobody read it is not known; it matters to rows that are compared, and there are none.
        if dumped.outcome.header.is_some() {
            let client_encoding = client_encoding(entries).context("the archive names no encoding")?;
            settings.push(Setting { name: "client_encoding".into(), value: client_encoding.into() });
        }
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        let tables = entries.iter().filter(|entry| entry.desc == "TABLE DATA");
        let annex = Self {
            dumped,
            settings,
            roles: referred_roles(dumped),
            table_entries: tables.map(|entry| (entry.dump_id, entry)).collect(),
        };
        if annex.table_entries.len() != dumped.outcome.tables.len() {
            bail!("{} tables announced, {} seen", annex.table_entries.len(), dumped.outcome.tables.len());
        }
        Ok(annex)
    }

    fn sequences(&self) -> impl Iterator<Item = &'a TocEntry> {
        self.dumped.outcome.entries.iter().filter(|entry| entry.desc == "SEQUENCE SET")
    }

    fn header(&self, backup_id: &str, attempt: u32) -> Header {
        let Dumped { outcome, facts, .. } = self.dumped;
        let archive_version = match &outcome.header {
            Some(header) => format!("{}.{}", header.version.0, header.version.1),
            None => "unknown".to_owned(),
        };
        Header {
            v: VERSION.into(),
            backup_id: backup_id.into(),
            attempt,
            server_version: self.dumped.server_version.text.clone(),
            server_version_num: self.dumped.server_version.number,
            pg_dump_version: self.dumped.pg_dump_version.clone(),
            archive_version,
            compression: self.dumped.compression.clone(),
            snapshot_at: self.dumped.snapshot_at.clone(),
            row_key: hex::encode(self.dumped.row_key),
            counts: Counts {
                settings: self.settings.len() as u64,
                roles: self.roles.len() as u64,
                extensions: facts.extensions.len() as u64,
                entries: outcome.entries.len() as u64,
                tables: outcome.tables.len() as u64,
                rows: outcome.rows(),
                sequences: self.sequences().count() as u64,
                large_objects: outcome.large_objects.len() as u64,
                omissions: self.dumped.omissions().count() as u64,
            },
        }
    }

    fn entry(&self, entry: &TocEntry) -> Entry {
        let facts = &self.dumped.facts;
        let is_policy = entry.desc == "POLICY";
        let is_function = matches!(entry.desc.as_str(), "FUNCTION" | "PROCEDURE");
        Entry {
            dump_id: entry.dump_id.into(),
            kind: entry.desc.clone(),
            schema: schema(entry),
            name: entry.tag.clone(),
            owner: entry.owner.clone().unwrap_or_default(),
            dependencies: entry.dependencies.iter().map(|id| i64::from(*id)).collect(),
            acl: self.acl(entry),
            policy_roles: facts.policy_roles.get(&entry.oid).filter(|_| is_policy).cloned().unwrap_or_default(),
            security_definer: is_function && facts.security_definers.contains(&entry.oid),
        }
    }

    /// Rights stand with the object's entry; with the ACL entry where the object has none.
    fn acl(&self, entry: &TocEntry) -> Option<Vec<String>> {
        let facts = &self.dumped.facts;
        if entry.desc == "ACL" {
            return facts.tagged_acls.get(&(schema(entry), entry.tag.clone())).cloned();
        }
        facts.acls.get((entry.table_oid, entry.oid)).map(<[String]>::to_vec)
    }
}

fn schema(entry: &TocEntry) -> String {
    entry.namespace.clone().unwrap_or_default()
}

/// `SET client_encoding = 'UTF8';`
fn client_encoding(entries: &[TocEntry]) -> Option<&str> {
    let entry = entries.iter().find(|entry| entry.desc == "ENCODING")?;
    entry.defn.as_deref()?.strip_prefix("SET client_encoding = '")?.strip_suffix("';\n")
}

fn referred_roles(dumped: &Dumped) -> Vec<&Role> {
    let Dumped { outcome, facts, .. } = dumped;
    let owners = outcome.entries.iter().filter_map(|entry| entry.owner.as_deref());
    let acls = facts.acls.distinct().iter().chain(facts.tagged_acls.values()).chain(&facts.database.acl).flatten();
    let in_acls: Vec<String> = acls.flat_map(|item| named_in_acl(item)).flatten().collect();
    let policies = facts.policy_roles.values().flatten().map(String::as_str);
    let settings = facts.database.role_settings.iter().map(|setting| setting.role.as_str());
    let also = owners
        .chain(in_acls.iter().map(String::as_str))
        .chain(policies)
        .chain(settings)
        .chain([facts.database.owner.as_str()]);
    facts.roles.referred(also)
}
