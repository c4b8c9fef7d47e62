//! Golden vectors: `tests/vectors/` holds bundles and files, good and tampered, and `index.json` says of
//! each what a verifier must answer. A second implementation runs the same table.
//!
//! The files are generated here from fixed keys and nothing random; this test holds the committed bytes to
//! the generated ones (`UPDATE_VECTORS=1` rewrites them) and runs the real binary over the table. More
//! variants are generated than are committed; `ALL_VECTORS=DIR` leaves all of them, with their table, there.

mod catalogue;
mod evidence;
mod files;
mod mutations;
mod supplied;
mod tampered;
mod tape;
mod world;

#[path = "../../src/archive/synthetic.rs"]
mod synthetic;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use catalogue::Catalogue;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn generate() -> Catalogue {
    let mut catalogue = Catalogue::default();
    evidence::valid(&mut catalogue);
    tampered::bundles(&mut catalogue);
    tampered::statements(&mut catalogue);
    tampered::logs(&mut catalogue);
    tampered::receipts(&mut catalogue);
    supplied::checkpoints(&mut catalogue);
    supplied::artifacts(&mut catalogue);
    supplied::annexes(&mut catalogue);
    supplied::keys(&mut catalogue);
    catalogue
}

fn committed() -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&directory(), &directory(), &mut found);
    found.remove("README.md");
    found
}

fn write(directory: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn committed_vectors_are_the_generated_ones() {
    let generated = generate().committed();
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        for name in committed().keys() {
            fs::remove_file(directory().join(name)).unwrap();
        }
        write(&directory(), &generated);
    }
    let committed = committed();
    let differing: Vec<_> =
        generated.keys().chain(committed.keys()).filter(|name| generated.get(*name) != committed.get(*name)).collect();
    assert!(differing.is_empty(), "UPDATE_VECTORS=1 rewrites them; differing: {differing:?}");
    let total: usize = committed.values().map(Vec::len).sum();
    assert!(total < 300_000, "vectors are meant to be small, these are {total} bytes");
}

/// The whole table, with the real binary. The committed one is part of it.
#[test]
fn the_verifier_answers_as_the_table_says() {
    let all = generate().all();
    let directory = match std::env::var_os("ALL_VECTORS") {
        Some(wanted) => PathBuf::from(wanted),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors"),
    };
    write(&directory, &all);
    let index: serde_json::Value = serde_json::from_slice(&all["index.json"]).unwrap();
    let mut wrong = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        let args: Vec<&str> = case["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_walwarden-verifier"))
            .current_dir(&directory)
            .args(&args)
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let expected = case["expectedLine"].as_str().unwrap();
        let exit = case["expectedExit"].as_i64().unwrap();
        let good = if exit == 0 {
            let lines: Vec<&str> =
                case["expectedLines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
            stderr.is_empty() && stdout.lines().eq(lines) && stdout.lines().last() == Some(expected)
        } else {
            let first = stderr.lines().next().unwrap_or_default();
            // After the fixed words an implementation may add its own in parentheses.
            stdout.is_empty()
                && first.strip_prefix(expected).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        };
        if !good || i64::from(output.status.code().unwrap_or(-1)) != exit {
            wrong.push(format!(
                "{}\n  {stdout}{stderr}  {:?}, expected {exit} {expected}",
                args.join(" "),
                output.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// `--json` says the same on stdout, in success and failure.
#[test]
fn json_is_one_object_on_stdout() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_walwarden-verifier"))
            .current_dir(directory())
            .args(args)
            .arg("--json")
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["exitCode"].as_i64(), output.status.code().map(i64::from));
        value
    };
    let good = run(&["--bundle", "valid/restored.tgz", "--pubkey", "keys.pem"]);
    assert_eq!(good["ok"], true);
    assert_eq!(good["restored"][0]["proof"], "identical");
    assert_eq!(good["lines"][0].as_str().unwrap()[..8], *"SIGNED: ");
    let bad = run(&["--bundle", "tampered/signature-altered.tgz", "--pubkey", "keys.pem"]);
    assert_eq!((&bad["failure"], &bad["place"]), (&"badEvidence".into(), &"backup.dsse.json".into()));
    let unpinned = run(&["--bundle", "valid/restored.tgz"]);
    assert_eq!((&unpinned["failure"], &unpinned["exitCode"]), (&"notChecked".into(), &2.into()));
    assert!(unpinned["hint"].as_str().unwrap().contains("--pubkey"));
    let usage = run(&["--bundel", "x"]);
    assert_eq!((&usage["failure"], &usage["exitCode"]), (&"notChecked".into(), &2.into()));
}

/// The document for whoever writes another verifier leaves no kind out.
#[test]
fn the_format_document_names_every_kind_of_entry() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/evidence-format.md");
    let document = fs::read_to_string(path).unwrap();
    for kind in walwarden_verifier::entry::Event::KINDS {
        assert!(document.contains(&format!("\n| `{kind}` |")), "{kind}");
    }
}
