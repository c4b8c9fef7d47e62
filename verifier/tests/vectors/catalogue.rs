//! The table being built: files by path, and the cases over them.

use std::collections::BTreeMap;

use serde_json::json;

/// Keys every case trusts unless it says otherwise.
pub const KEYS: &str = "keys.pem";

/// Generated and run by the test, but not committed: each is a variant of what a committed vector shows, and
/// the repository should stay small.
const NOT_COMMITTED: &[&str] = &[
    "checkpoint-by-the-manifest-key",
    "checkpoint-extension-line",
    "completed-other-key",
    "completed-other-size",
    "completed-other-version",
    "consistency-proof-short",
    "consistency-sizes-fall",
    "entries-empty-line",
    "entries-no-newline",
    "entries-none",
    "entry-altered-inside",
    "entry-twice",
    "entry-white-space",
    "envelope-unknown-field",
    "envelope-white-space",
    "gzip-checksum",
    "index-annex",
    "index-backup",
    "index-manifest-hash",
    "index-tree-size",
    "index-version",
    "index-white-space",
    "logged-contents",
    "logged-duplicate-key",
    "logged-failed-for-good",
    "logged-null-job",
    "logged-organization",
    "logged-origin",
    "logged-other-attempt",
    "logged-other-database",
    "logged-retry-without-failure",
    "logged-salt",
    "logged-seq-without-job",
    "logged-snapshot",
    "logged-unknown-field",
    "logged-version",
    "member-missing",
    "member-twice",
    "payload-type",
    "proof-left-out",
    "proof-of-another-type",
    "proof-too-long",
    "proof-too-many",
    "proofs-swapped",
    "receipt-late",
    "receipt-mode",
    "receipt-not-logged",
    "receipt-of-another-artifact",
    "receipt-of-another-manifest",
    "receipt-of-another-restore",
    "receipt-proof",
    "restore-completed-after-failure",
    "restore-of-another-backup",
    "restore-of-other-bytes",
    "restore-went-on-after-time-out",
    "signature-missing",
    "signature-names-another-key",
    "signature-names-no-key",
    "signature-padding-bits",
    "signature-twice",
    "signed-annex-archive-version",
    "signed-annex-columns",
    "signed-annex-entry-left-out",
    "signed-annex-long-record",
    "signed-annex-no-newline",
    "signed-annex-other-backup",
    "signed-annex-other-database",
    "signed-annex-records-swapped",
    "signed-annex-row-key",
    "signed-annex-rows",
    "signed-annex-sequence",
    "signed-annex-shorter",
    "signed-annex-table-twice",
    "signed-artifact-trailing-byte",
    "signed-other-compression",
    "signed-other-contents",
    "signed-other-rows",
    "statement-annex-elsewhere",
    "statement-digest-upper-case",
    "statement-large-integer",
    "statement-origin",
    "statement-predicate-type",
    "statement-time",
    "statement-too-large",
    "statement-two-subjects",
    "statement-type",
    "statement-white-space",
    "tar-one-zero-block",
];

fn is_committed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    !NOT_COMMITTED.contains(&name.split('.').next().unwrap_or_default())
}

#[derive(Default)]
pub struct Catalogue {
    files: BTreeMap<String, Vec<u8>>,
    cases: Vec<serde_json::Value>,
}

// Keys of objects are written in alphabetical order: whether serde_json sorts them is up to other crates' features.
impl Catalogue {
    /// Adds a file; the same path twice must be the same bytes.
    pub fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        if let Some(before) = self.files.insert(path.to_owned(), bytes.clone()) {
            assert!(before == bytes, "{path} would be two files");
        }
    }

    /// A case that verifies: all of stdout is known.
    pub fn good(&mut self, file: &str, more: &[&str], lines: &[String]) {
        let last = lines.last().unwrap();
        self.cases.push(json!({
            "args": args(file, KEYS, more), "expectedExit": 0, "expectedLine": last, "expectedLines": lines,
            "file": file,
        }));
    }

    /// A case that fails with exit code 1: `place: rule`.
    pub fn bad(&mut self, file: &str, more: &[&str], problem: &str) {
        self.fails(args(file, KEYS, more), file, 1, &format!("BAD EVIDENCE: {problem}"));
    }

    /// A case that cannot be decided, exit code 2.
    pub fn undecided(&mut self, file: &str, more: &[&str], reason: &str) {
        self.fails(args(file, KEYS, more), file, 2, &format!("NOT CHECKED: {reason}"));
    }

    /// A case with all its arguments.
    pub fn fails(&mut self, args: Vec<String>, file: &str, exit: i32, line: &str) {
        self.cases.push(json!({ "args": args, "expectedExit": exit, "expectedLine": line, "file": file }));
    }

    /// A tampered bundle, its name and what is found.
    pub fn tampered(&mut self, name: &str, bundle: Vec<u8>, problem: &str) {
        let file = format!("tampered/{name}.tgz");
        self.file(&file, bundle);
        self.bad(&file, &[], problem);
    }

    /// All files, `index.json` among them.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        self.files_of(|_| true)
    }

    /// Those to commit.
    pub fn committed(&self) -> BTreeMap<String, Vec<u8>> {
        self.files_of(is_committed)
    }

    fn files_of(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
        let has_its_files = |case: &&serde_json::Value| {
            case["args"].as_array().unwrap().iter().all(|argument| wanted(argument.as_str().unwrap()))
        };
        // A case a line: it is read by people, too.
        let cases: Vec<String> = self.cases.iter().filter(has_its_files).map(|case| format!("{case}")).collect();
        let index = format!("{{\"cases\":[\n{}\n],\"v\":\"walwarden.vectors.v1\"}}\n", cases.join(",\n"));
        let mut files = self.files.clone();
        files.retain(|path, _| wanted(path));
        files.insert("index.json".into(), index.into());
        files
    }
}

pub fn args(file: &str, keys: &str, more: &[&str]) -> Vec<String> {
    ["--bundle", file, "--pubkey", keys].iter().chain(more).map(|&text| text.to_owned()).collect()
}
