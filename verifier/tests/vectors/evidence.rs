//! Bundles that verify.

use walwarden_verifier::manifest;

use super::{
    catalogue::Catalogue,
    files::{Files, Flavour, V14_GZIP, V14_NONE, V15_NONE, V16_ZSTD},
    world::{BACKUP, ORIGIN, World, at, key_id, key_set, note},
};

/// A bundle in the catalogue, with the sentences that are always said of it.
struct Good {
    path: String,
    lines: Vec<String>,
    restored: Option<String>,
    events: usize,
}

fn add(catalogue: &mut Catalogue, name: &str, world: &World, size: u64) -> Good {
    let evidence = world.evidence();
    let path = format!("valid/{name}.tgz");
    catalogue.file(&path, evidence.bundle());
    let artifact = &world.files.artifact;
    let backup_events = if world.attempt == 1 { 5 } else { 8 };
    Good {
        path,
        lines: vec![
            format!(
                "SIGNED: key {} stated that artifact {}, {} bytes, is backup {BACKUP}; times are the signer's.",
                key_id(1),
                manifest::hash(artifact),
                artifact.len()
            ),
            format!(
                "LOGGED: {backup_events} events, seq 1..{backup_events}, are in log {ORIGIN} at size {size}; a later or different view is not excluded."
            ),
        ],
        restored: world
            .restored
            .then(|| format!("RESTORED (reported): key {} signed success at {}.", key_id(3), at(150))),
        events: evidence.contents.entries.len(),
    }
}

impl Good {
    fn case(&self, catalogue: &mut Catalogue, more: &[&str], sentences: &[&str]) {
        let mut lines = self.lines.clone();
        lines.extend(sentences.iter().map(|&s| s.to_owned()));
        lines.extend(self.restored.clone());
        lines.push(format!("OK: 1 manifests verified, {} audit events chain-intact (exit 0)", self.events));
        catalogue.good(&self.path, more, &lines);
    }
}

const ARTIFACT: &str = "ARTIFACT: size and SHA-256 match, contents parse and equal the manifest's; not restored.";
const ANNEX: &str = "ANNEX: size and SHA-256 match, entries and counts equal the manifest's.";
const BOTH: &str = "ANNEX: size and SHA-256 match, entries and counts equal the manifest's; 2 tables, 4 rows, 1 sequences and 2 large objects equal the artifact's.";

fn with_files(catalogue: &mut Catalogue, name: &str, flavour: Flavour) {
    let world = World::new(Files::new(flavour));
    let (artifact, annex) = (format!("valid/{name}.dump"), format!("valid/{name}.annex.jsonl.gz"));
    catalogue.file(&artifact, world.files.artifact.clone());
    catalogue.file(&annex, world.files.annex.clone());
    let good = add(catalogue, name, &world, 7);
    good.case(catalogue, &["--artifact", &artifact, "--annex", &annex], &[ARTIFACT, BOTH]);
}

pub fn valid(catalogue: &mut Catalogue) {
    catalogue.file("keys.pem", key_set().to_pem());

    let world = World::new(Files::new(V16_ZSTD));
    let good = add(catalogue, "backup", &world, 7);
    catalogue.file("valid/backup.dump", world.files.artifact.clone());
    catalogue.file("valid/backup.annex.jsonl.gz", world.files.annex.clone());
    good.case(catalogue, &[], &[]);
    good.case(catalogue, &["--artifact", "valid/backup.dump"], &[ARTIFACT]);
    good.case(catalogue, &["--annex", "valid/backup.annex.jsonl.gz"], &[ANNEX]);
    good.case(
        catalogue,
        &["--artifact", "valid/backup.dump", "--annex", "valid/backup.annex.jsonl.gz"],
        &[ARTIFACT, BOTH],
    );

    with_files(catalogue, "archive-1.14-gzip-synthetic", V14_GZIP);
    with_files(catalogue, "archive-1.14-synthetic", V14_NONE);
    with_files(catalogue, "archive-1.15-synthetic", V15_NONE);

    let world = World::restored(Files::new(V16_ZSTD).attempt(2));
    let evidence = world.evidence();
    let size = evidence.contents.index.tree_size;
    let good = add(catalogue, "restored", &world, size);
    good.case(catalogue, &[], &[]);
    let mut all = Vec::new();
    for older in [0, 3, 8, 12, size] {
        let path = format!("checkpoints/size-{older}");
        catalogue.file(&path, note(2, &evidence.checkpoint(older)));
        all.extend(["--checkpoint".to_owned(), path]);
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let said = format!("WITNESSED: size {size} extends all 5 supplied checkpoints.");
    good.case(catalogue, &all, &[&said]);
    let said = format!("WITNESSED: size {size} extends all 1 supplied checkpoints.");
    good.case(catalogue, &["--checkpoint", "checkpoints/size-8"], &[&said]);
}
