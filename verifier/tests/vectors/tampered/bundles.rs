//! gzip, tar and `bundle.json`.

use std::io::Write;

use flate2::{Compression, GzBuilder};

use super::{
    super::{
        catalogue::Catalogue,
        tape::{self, replace, with_member, with_text},
    },
    CANONICAL, world,
};

/// gzip, tar and `bundle.json`.
pub fn bundles(catalogue: &mut Catalogue) {
    let good = world().bundle();
    let members = tape::members(&good);

    let mut named =
        GzBuilder::new().mtime(0).operating_system(255).filename("x").write(Vec::new(), Compression::new(6));
    named.write_all(&tape::ungzip(&good)).unwrap();
    let header = "bundle: does not begin with the gzip header of a bundle";
    catalogue.tampered("gzip-names-a-file", named.finish().unwrap(), header);
    let after = "bundle: bytes follow the end of the gzip member";
    catalogue.tampered("gzip-trailing-byte", [good.as_slice(), &[0]].concat(), after);
    catalogue.tampered("gzip-second-member", [good.as_slice(), &tape::gzip(b"")].concat(), after);
    let damaged = "bundle: is not one whole gzip member around one whole tar archive";
    catalogue.tampered("gzip-truncated", good[..good.len() - 9].to_vec(), damaged);
    let mut checksum = good.clone();
    let at = checksum.len() - 5;
    checksum[at] ^= 1;
    catalogue.tampered("gzip-checksum", checksum, damaged);

    let mut bomb = members.clone();
    bomb[0].content = vec![b' '; 2 << 20];
    catalogue.tampered("bomb", tape::pack(&bomb), "bundle.json: larger than the limit");

    let mut reordered = members.clone();
    reordered.swap(1, 2);
    catalogue.tampered(
        "members-reordered",
        tape::pack(&reordered),
        "backup.dsse.json: is not there, or not in its place",
    );
    let mut twice = members.clone();
    twice.push(members[5].clone());
    catalogue.tampered("member-twice", tape::pack(&twice), "bundle: holds a member that has no place in it");
    catalogue.tampered("member-missing", tape::pack(&members[..5]), "keys.pem: is not there, or not in its place");
    let mut escaping = members.clone();
    escaping[5].name = "../keys.pem".into();
    catalogue.tampered("member-escapes", tape::pack(&escaping), "keys.pem: is not there, or not in its place");
    let mut link = members.clone();
    link[5].kind = b'2';
    let plain = "bundle: a member's header is not that of a plain file of its name and size";
    catalogue.tampered("member-is-a-link", tape::pack(&link), plain);
    let mut longer = tape::archive(&members);
    longer.push(0);
    catalogue.tampered("tar-trailing-byte", tape::gzip(&longer), "bundle: bytes follow the end of the archive");
    let mut shorter = tape::archive(&members);
    shorter.truncate(shorter.len() - 512);
    catalogue.tampered("tar-one-zero-block", tape::gzip(&shorter), "bundle: the archive ends too early");
    let mut keys = members.clone();
    keys[5].content.push(b'\n');
    catalogue.tampered(
        "member-altered",
        tape::pack(&keys),
        "keys.pem: differs from what bundle.json says of the members",
    );

    let mut index = |name: &str, from: &str, to: &str, problem: &str| {
        catalogue.tampered(name, with_text(&good, "bundle.json", from, to), &format!("bundle.json: {problem}"));
    };
    index("index-unknown-field", "\"v\":", "\"trust\":true,\"v\":", CANONICAL);
    index("index-white-space", "\"v\":", "\"v\": ", CANONICAL);
    index("index-version", "bundle.v1", "bundle.v2", "has another version than walwarden.bundle.v1");
    index("index-origin", "\"origin\":\"v", "\"origin\":\"w", "origin is not the manifest's");
    index(
        "index-backup",
        "\"backupId\":\"bkp_01kb0000000000000000000003",
        "\"backupId\":\"bkp_01kb0000000000000000000009",
        "backupId is not the manifest's",
    );
    index("index-annex", ".annex.jsonl.gz", ".annex.jsonl", "annex is not the manifest's");
    let other = with_member(&good, "bundle.json", |bytes| {
        let hash = world().evidence().manifest_hash;
        replace(bytes, &hash, &"0".repeat(64));
    });
    catalogue.tampered("index-manifest-hash", other, "bundle.json: manifestHash is not the hash of the manifest");
    let size = with_text(&good, "bundle.json", "\"treeSize\":7", "\"treeSize\":8");
    catalogue.tampered("index-tree-size", size, "checkpoint: its size is not the bundle's");
    let mut altered = world();
    altered.contents = Box::new(|contents| contents.index.root = "0".repeat(64));
    catalogue.tampered("index-root", altered.bundle(), "checkpoint: its root is not the bundle's");
}
