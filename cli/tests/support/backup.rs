//! A backup as the runner and the sealer would make it, from pg_dump's own archive.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;
use sha2::{Digest, Sha256};
use walwarden_verifier::{
    annex::*,
    archive::{self, RowKey, TocEntry},
    dsse::{self, Envelope, Statement},
    jcs,
    keys::{KeySet, PublicKey},
    manifest,
};

use super::Postgres;

pub const ORG: &str = "org_01jd7z9k3m5n7p9r1t3v5x7z9a";
pub const DATABASE: &str = "db_01jd7z9k3m5n7p9r1t3v5x7z9a";
pub const BACKUP: &str = "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a";
const AT: &str = "2026-11-24T07:59:50.001Z";

pub struct Backup {
    pub artifact: Vec<u8>,
    pub annex: Vec<u8>,
    pub annex_size: AnnexSize,
    pub records: Annex,
    pub envelope: String,
    pub manifest_hash: String,
    pub pem: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array().map(|items| items.iter().map(text).collect())
}

impl Backup {
    /// Dumps a database; `compress` is pg_dump's argument.
    pub fn of(postgres: &Postgres, database: &str, compress: &str) -> Self {
        Self::of_with(postgres, database, compress, &[])
    }

    /// The same with more arguments for pg_dump.
    pub fn of_with(postgres: &Postgres, database: &str, compress: &str, more: &[&str]) -> Self {
        let output = postgres.client("pg_dump", database).args(["-Fc", compress]).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let key: RowKey = [7; 64];
        let mut toc = Vec::new();
        let survey = archive::survey(&output.stdout[..], &key, |entry| toc.push(entry.clone())).unwrap();
        let annex = describe(postgres, database, &survey, &toc, compress);
        Self::seal(output.stdout, annex, &survey)
    }

    /// The same with a description changed by someone who holds the key.
    pub fn with(&self, change: impl FnOnce(&mut Annex)) -> Self {
        let survey = archive::survey(&self.artifact[..], &[7; 64], |_| {}).unwrap();
        let mut annex = self.records.clone();
        change(&mut annex);
        Self::seal(self.artifact.clone(), annex, &survey)
    }

    fn seal(artifact: Vec<u8>, annex: Annex, survey: &archive::Survey) -> Self {
        let mut writer = AnnexWriter::new(Vec::new());
        let records = std::iter::once(Record::Header(annex.header.clone()))
            .chain(annex.settings.iter().cloned().map(Record::Setting))
            .chain([Record::Database(annex.database.clone())])
            .chain(annex.roles.iter().cloned().map(Record::Role))
            .chain(annex.extensions.iter().cloned().map(Record::Extension))
            .chain(annex.entries.iter().cloned().map(Record::Entry))
            .chain(annex.tables.iter().cloned().map(Record::Table))
            .chain(annex.sequences.iter().cloned().map(Record::Sequence))
            .chain(annex.large_objects.iter().cloned().map(Record::LargeObject))
            .chain(annex.omissions.iter().cloned().map(Record::Omission));
        for record in records {
            writer.write(&record).unwrap();
        }
        let (file, size) = writer.finish().unwrap();
        Self::sign(artifact, annex, survey, file, size)
    }

    /// The same with another file as its annex, and what the manifest says of its size.
    pub fn with_annex_file(&self, file: Vec<u8>, size: AnnexSize) -> Self {
        let survey = archive::survey(&self.artifact[..], &[7; 64], |_| {}).unwrap();
        Self::sign(self.artifact.clone(), self.records.clone(), &survey, file, size)
    }

    fn sign(artifact: Vec<u8>, annex: Annex, survey: &archive::Survey, file: Vec<u8>, size: AnnexSize) -> Self {
        let sha = hex::encode(Sha256::digest(&artifact));
        let predicate = manifest::Backup {
            org_id: ORG.into(),
            database_id: DATABASE.into(),
            backup_id: BACKUP.into(),
            attempt: 1,
            log_origin: format!("test/log/{ORG}/0"),
            source_database: annex.database.name.clone(),
            bucket: "bucket".into(),
            version_id: "v1".into(),
            size_bytes: artifact.len() as u64,
            attested: manifest::Attested { algorithm: "none".into(), value: String::new() },
            server_version: annex.header.server_version.clone(),
            pg_dump_version: annex.header.pg_dump_version.clone(),
            compression: annex.header.compression.clone(),
            contents: manifest::Contents {
                digest: hex::encode(survey.contents_digest),
                entries: survey.entries,
                tables: survey.tables.len() as u64,
                rows: survey.rows(),
            },
            omissions: annex.omissions.len() as u64,
            retention: manifest::Retention { mode: "GOVERNANCE".into(), retain_until: AT.into() },
            started_at: AT.into(),
            snapshot_at: AT.into(),
            finished_at: AT.into(),
            annex: manifest::AnnexRef {
                key: format!("org/{ORG}/db/{DATABASE}/backup/2026/11/24/{BACKUP}.annex.jsonl.gz"),
                version_id: "v1".into(),
                sha256: hex::encode(Sha256::digest(&file)),
                size_bytes: file.len() as u64,
                uncompressed_bytes: size.uncompressed_bytes,
                lines: size.lines,
            },
        };
        let statement = Statement::new(
            format!("org/{ORG}/db/{DATABASE}/backup/2026/11/24/{BACKUP}.dump"),
            sha,
            manifest::PREDICATE_TYPE,
            predicate,
        );
        let payload = jcs::to_vec(&statement).unwrap();
        let signing = SigningKey::from_bytes(&[42; 32]);
        let public = PublicKey::new(&signing.verifying_key().to_bytes()).unwrap();
        let signature = signing.sign(&dsse::pae(&payload)).to_bytes();
        let envelope = Envelope::new(&payload, &public.id, &signature).to_bytes().unwrap();
        Self {
            artifact,
            annex: file,
            annex_size: size,
            records: annex,
            envelope: String::from_utf8(envelope).unwrap(),
            manifest_hash: manifest::hash(&payload),
            pem: KeySet::new(vec![public]).to_pem(),
        }
    }
}

fn describe(postgres: &Postgres, database: &str, survey: &archive::Survey, toc: &[TocEntry], compress: &str) -> Annex {
    let json = |query: &str| postgres.json(database, query);
    let acls = json(
        "SELECT n.nspname AS schema, c.relname AS name, c.relacl::text[] AS acl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relacl IS NOT NULL
         UNION ALL SELECT n.nspname, 'TABLE ' || c.relname, c.relacl::text[] FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' WHERE relacl IS NOT NULL
         UNION ALL SELECT n.nspname, 'COLUMN ' || c.relname || '.' || a.attname, a.attacl::text[] FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace WHERE attacl IS NOT NULL
         UNION ALL SELECT n.nspname, p.proname || '(' || oidvectortypes(p.proargtypes) || ')', p.proacl::text[] FROM pg_proc p
           JOIN pg_namespace n ON n.oid = p.pronamespace WHERE proacl IS NOT NULL AND n.nspname <> 'pg_catalog'
         UNION ALL SELECT '', 'SCHEMA public', nspacl::text[] FROM pg_namespace WHERE nspname = 'public' AND nspacl IS NOT NULL",
    );
    let acls: BTreeMap<(String, String), Vec<String>> = acls
        .as_array()
        .unwrap()
        .iter()
        .map(|row| ((text(&row["schema"]), text(&row["name"])), texts(&row["acl"]).unwrap()))
        .collect();
    let policies = json(
        "SELECT schemaname AS schema, tablename || ' ' || policyname AS name, roles::text[] AS roles FROM pg_policies",
    );
    let policies: BTreeMap<(String, String), Vec<String>> = policies
        .as_array()
        .unwrap()
        .iter()
        .map(|row| ((text(&row["schema"]), text(&row["name"])), texts(&row["roles"]).unwrap()))
        .collect();
    let entries: Vec<Entry> = toc
        .iter()
        .map(|entry| {
            let key = (entry.namespace.clone().unwrap_or_default(), entry.tag.clone());
            Entry {
                dump_id: entry.dump_id.into(),
                kind: entry.desc.clone(),
                schema: key.0.clone(),
                name: entry.tag.clone(),
                owner: entry.owner.clone().unwrap_or_default(),
                dependencies: entry.dependencies.iter().map(|id| i64::from(*id)).collect(),
                acl: ["TABLE", "SEQUENCE", "VIEW", "ACL", "FUNCTION", "PROCEDURE"]
                    .contains(&entry.desc.as_str())
                    .then(|| acls.get(&key).cloned())
                    .flatten(),
                policy_roles: if entry.desc == "POLICY" {
                    policies.get(&key).cloned().unwrap_or_default()
                } else {
                    vec![]
                },
                security_definer: false,
            }
        })
        .collect();
    let tables: Vec<Table> = survey
        .tables
        .iter()
        .map(|data| {
            let entry = toc.iter().find(|entry| entry.dump_id == data.dump_id).unwrap();
            let target = archive::copy_target(entry.copy.as_deref().unwrap()).unwrap();
            Table {
                dump_id: data.dump_id.into(),
                schema: entry.namespace.clone().unwrap(),
                name: entry.tag.clone(),
                columns: if target.columns.is_empty() { String::new() } else { format!("({})", target.columns) },
                load_target: target.table.into(),
                rows: data.rows.rows,
                bytes: data.bytes,
                digest: hex::encode(data.rows.digest()),
            }
        })
        .collect();
    let sequences: Vec<Sequence> = toc
        .iter()
        .filter(|entry| entry.desc == "SEQUENCE SET")
        .map(|entry| {
            let value = archive::sequence_value(entry.defn.as_deref().unwrap()).unwrap();
            Sequence {
                schema: entry.namespace.clone().unwrap(),
                name: entry.tag.clone(),
                last_value: value.last_value.to_string(),
                is_called: value.is_called,
            }
        })
        .collect();
    let large_objects: Vec<LargeObject> = survey
        .large_objects
        .iter()
        .map(|object| LargeObject { oid: object.oid, size: object.bytes, digest: hex::encode(object.digest) })
        .collect();
    let settings = json(
        "SELECT name, setting AS value FROM pg_settings WHERE name IN ('TimeZone', 'bytea_output', 'lc_monetary', 'xmlbinary') ORDER BY 1",
    );
    let extensions = json(
        "SELECT extname AS name, extversion AS version, extnamespace::regnamespace::text AS schema, (SELECT coalesce(json_agg(json_build_object('schema', n.nspname, 'name', c.relname, 'condition', coalesce(x.condition, ''))), '[]') FROM unnest(extconfig, extcondition) AS x(relation, condition) JOIN pg_class c ON c.oid = x.relation JOIN pg_namespace n ON n.oid = c.relnamespace) AS \"configTables\" FROM pg_extension WHERE extname <> 'plpgsql'",
    );
    let major = postgres.major;
    let locale = match major {
        17.. => "datlocale",
        15.. => "daticulocale",
        _ => "NULL::text",
    };
    let properties = json(&format!(
        "SELECT datname AS name, pg_encoding_to_char(encoding) AS encoding, {} AS \"localeProvider\", datcollate AS collate, datctype AS ctype, {locale} AS locale,
           pg_get_userbyid(datdba) AS owner, shobj_description(d.oid, 'pg_database') AS comment, datconnlimit AS \"connectionLimit\", datistemplate AS \"isTemplate\", datacl::text[] AS acl,
           (SELECT coalesce(json_agg(json_build_object('name', split_part(s, '=', 1), 'value', substr(s, strpos(s, '=') + 1))), '[]') FROM pg_db_role_setting, unnest(setconfig) s WHERE setdatabase = d.oid AND setrole = 0) AS settings,
           (SELECT coalesce(json_agg(json_build_object('role', setrole::regrole::text, 'name', split_part(s, '=', 1), 'value', substr(s, strpos(s, '=') + 1))), '[]') FROM pg_db_role_setting, unnest(setconfig) s WHERE setdatabase = d.oid AND setrole <> 0) AS \"roleSettings\"
         FROM pg_database d WHERE datname = current_database()",
        if major >= 15 { "datlocprovider::text" } else { "'c'" }
    ));
    let settings: Vec<Setting> = serde_json::from_value(settings).unwrap();
    let extensions: Vec<Extension> = serde_json::from_value(extensions).unwrap();
    let database_record: Database = serde_json::from_value(properties[0].clone()).unwrap();
    let codec = compress.rsplit('=').next().unwrap().trim_start_matches("-Z");
    let compression = match codec {
        "0" => "none".to_owned(),
        level if level.bytes().all(|b| b.is_ascii_digit()) => format!("gzip:{level}"),
        other => other.to_owned(),
    };
    let (_, minor, _) = survey.header.version;
    Annex {
        header: Header {
            v: VERSION.into(),
            backup_id: BACKUP.into(),
            attempt: 1,
            server_version: survey.header.server_version.clone(),
            server_version_num: postgres.one(database, "SHOW server_version_num").parse().unwrap(),
            pg_dump_version: survey.header.dump_version.clone(),
            archive_version: format!("1.{minor}"),
            compression,
            snapshot_at: AT.into(),
            row_key: hex::encode([7; 64]),
            counts: Counts {
                settings: settings.len() as u64,
                roles: 0,
                extensions: extensions.len() as u64,
                entries: entries.len() as u64,
                tables: tables.len() as u64,
                rows: survey.rows(),
                sequences: sequences.len() as u64,
                large_objects: large_objects.len() as u64,
                omissions: 0,
            },
        },
        settings,
        database: database_record,
        roles: vec![],
        extensions,
        entries,
        tables,
        sequences,
        large_objects,
        omissions: vec![],
    }
}
