//! Archives made from nothing, for tests. *Synthetic*: no pg_dump wrote them; they follow its source, and for archive
//! version 1.14 they stand in for Postgres 14, of which no server with clients was at hand.
//!
//! Deliberately independent of the reader's own constants and writers. The runner's tests include this file by path.

#![allow(dead_code, missing_docs)]

/// One table's rows or a run of large objects.
#[derive(Debug, Clone)]
pub enum Content {
    /// COPY text without the terminator.
    Rows(Vec<u8>),
    /// Text as it is, terminator or not.
    Raw(Vec<u8>),
    Objects(Vec<(u32, Vec<u8>)>),
    None,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub dump_id: i32,
    pub tag: String,
    pub desc: String,
    pub namespace: Option<String>,
    pub owner: Option<String>,
    pub defn: Option<String>,
    pub copy: Option<String>,
    pub dependencies: Vec<i32>,
    pub content: Content,
}

pub fn entry(dump_id: i32, desc: &str, tag: &str) -> Entry {
    Entry {
        dump_id,
        tag: tag.to_owned(),
        desc: desc.to_owned(),
        namespace: Some("public".to_owned()),
        owner: Some("owner".to_owned()),
        defn: Some("SELECT 1;\n".to_owned()),
        copy: None,
        dependencies: vec![],
        content: Content::None,
    }
}

pub fn table(dump_id: i32, tag: &str, rows: &[u8]) -> Entry {
    Entry {
        copy: Some(format!("COPY public.{tag} (a) FROM stdin;\n")),
        defn: None,
        dependencies: vec![1],
        content: Content::Rows(rows.to_vec()),
        ..entry(dump_id, "TABLE DATA", tag)
    }
}

/// A BLOBS entry after the entries that announce its objects, as the archive version has them.
pub fn objects(dump_id: i32, minor: u8, objects: &[(u32, &[u8])]) -> Vec<Entry> {
    let mut entries = Vec::new();
    if minor >= 16 {
        let list = objects.iter().map(|(oid, _)| format!("{oid}\n")).collect();
        let named = entry(dump_id + 1, "BLOB METADATA", "objects");
        entries.push(Entry { namespace: None, defn: Some(list), ..named });
    } else {
        for (at, (oid, _)) in objects.iter().enumerate() {
            let named = entry(dump_id + 1 + at as i32, "BLOB", &oid.to_string());
            entries.push(Entry { namespace: None, ..named });
        }
    }
    let content = Content::Objects(objects.iter().map(|(oid, bytes)| (*oid, bytes.to_vec())).collect());
    entries.push(Entry { namespace: None, defn: None, content, ..entry(dump_id, "BLOBS", "BLOBS") });
    entries
}

pub fn int(out: &mut Vec<u8>, value: i64) {
    out.push((value < 0).into());
    out.extend_from_slice(&(value.unsigned_abs() as u32).to_le_bytes());
}

fn string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => int(out, -1),
        Some(text) => {
            int(out, text.len() as i64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// `encode` turns an item's content into its chunks. `method` is 0 none, 1 gzip, 3 zstd.
pub fn archive(minor: u8, method: u8, entries: &[Entry], encode: &dyn Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<u8> {
    let mut out = b"PGDMP\x01".to_vec();
    out.extend_from_slice(&[minor, 0, 4, 8, 1]);
    if minor >= 15 {
        out.push(method);
    } else {
        int(&mut out, if method == 1 { 6 } else { 0 });
    }
    for field in [59, 58, 23, 31, 11, 126, 0] {
        int(&mut out, field);
    }
    for text in ["synthetic", "14.0", "14.0"] {
        string(&mut out, Some(text));
    }
    int(&mut out, entries.len() as i64);
    for entry in entries {
        let has_data = !matches!(entry.content, Content::None);
        int(&mut out, entry.dump_id.into());
        int(&mut out, has_data.into());
        string(&mut out, Some("1259"));
        string(&mut out, Some("16385"));
        string(&mut out, Some(&entry.tag));
        string(&mut out, Some(&entry.desc));
        int(&mut out, if has_data { 3 } else { 2 });
        string(&mut out, entry.defn.as_deref());
        string(&mut out, Some(""));
        string(&mut out, entry.copy.as_deref());
        string(&mut out, entry.namespace.as_deref());
        string(&mut out, Some(""));
        string(&mut out, Some("heap"));
        if minor >= 16 {
            int(&mut out, 114);
        }
        string(&mut out, entry.owner.as_deref());
        string(&mut out, Some("false"));
        for dependency in &entry.dependencies {
            string(&mut out, Some(&dependency.to_string()));
        }
        string(&mut out, None);
        out.push(if has_data { 1 } else { 3 });
        out.extend_from_slice(&[0; 8]);
    }
    for entry in entries {
        let stream = |out: &mut Vec<u8>, content: &[u8]| {
            for chunk in encode(content) {
                int(out, chunk.len() as i64);
                out.extend_from_slice(&chunk);
            }
            int(out, 0);
        };
        match &entry.content {
            Content::None => {}
            Content::Rows(content) | Content::Raw(content) => {
                out.push(1);
                int(&mut out, entry.dump_id.into());
                let mut content = content.clone();
                if matches!(entry.content, Content::Rows(_)) {
                    content.extend_from_slice(b"\\.\n\n\n");
                }
                stream(&mut out, &content);
            }
            Content::Objects(objects) => {
                out.push(3);
                int(&mut out, entry.dump_id.into());
                for (oid, content) in objects {
                    int(&mut out, i64::from(*oid as i32));
                    stream(&mut out, content);
                }
                int(&mut out, 0);
            }
        }
    }
    out
}

/// As `-Z0` writes: a chunk per row.
pub fn chunk_per_row(content: &[u8]) -> Vec<Vec<u8>> {
    content.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}
