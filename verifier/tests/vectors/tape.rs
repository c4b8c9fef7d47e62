//! Bundles taken apart and put together again by other means than the crate's own, in ways it would refuse.

use std::io::{Read, Write};

use flate2::{Compression, GzBuilder, read::GzDecoder};
use sha2::{Digest, Sha256};

/// A member: name, content, type flag.
#[derive(Clone)]
pub struct Member {
    pub name: String,
    pub content: Vec<u8>,
    pub kind: u8,
}

pub fn ungzip(bundle: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    GzDecoder::new(bundle).read_to_end(&mut archive).unwrap();
    archive
}

pub fn gzip(archive: &[u8]) -> Vec<u8> {
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    gzip.write_all(archive).unwrap();
    gzip.finish().unwrap()
}

pub fn members(bundle: &[u8]) -> Vec<Member> {
    let archive = ungzip(bundle);
    let (mut at, mut members) = (0, Vec::new());
    while archive[at] != 0 {
        let header = &archive[at..at + 512];
        let name = String::from_utf8(header[..100].iter().copied().take_while(|&b| b != 0).collect()).unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&header[124..135]).unwrap(), 8).unwrap();
        members.push(Member { name, content: archive[at + 512..at + 512 + size].to_vec(), kind: header[156] });
        at += 512 + size.div_ceil(512) * 512;
    }
    members
}

pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for Member { name, content, kind } in members {
        let mut header = vec![0; 512];
        let mut field = |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(0, name.clone());
        field(100, "0000644\0".into());
        field(108, "0000000\0".into());
        field(116, "0000000\0".into());
        field(124, format!("{:011o}\0", content.len()));
        field(136, "00000000000\0".into());
        field(148, "        ".into());
        field(156, char::from(*kind).to_string());
        field(257, "ustar\x0000".into());
        field(329, "0000000\0".into());
        field(337, "0000000\0".into());
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A bundle of these members, whose digests in `bundle.json` are left as they are.
pub fn pack(members: &[Member]) -> Vec<u8> {
    gzip(&archive(members))
}

/// Changes one member's bytes, and its size and digest in `bundle.json`.
pub fn with_member(bundle: &[u8], name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut members = members(bundle);
    let member = members.iter_mut().find(|m| m.name == name).unwrap();
    let digest = |content: &[u8]| hex::encode(Sha256::digest(content));
    let (old_digest, old_size) = (digest(&member.content), member.content.len());
    edit(&mut member.content);
    let (new_digest, new_size) = (digest(&member.content), member.content.len());
    if name != "bundle.json" {
        let index = String::from_utf8(members[0].content.clone()).unwrap();
        let old = format!("\"sha256\":\"{old_digest}\",\"sizeBytes\":{old_size}}}");
        assert_eq!(index.matches(&old).count(), 1);
        members[0].content =
            index.replace(&old, &format!("\"sha256\":\"{new_digest}\",\"sizeBytes\":{new_size}}}")).into();
    }
    pack(&members)
}

/// As [`with_member`], on text.
pub fn with_text(bundle: &[u8], name: &str, from: &str, to: &str) -> Vec<u8> {
    with_member(bundle, name, |content| replace(content, from, to))
}

/// Replaces the first `from`, which must be there.
pub fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    *bytes = text.replacen(from, to, 1).into();
}
