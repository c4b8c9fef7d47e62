//! The envelope, its signature, the statement.

use walwarden_verifier::{
    dsse::{Envelope, Statement},
    keys::{KeySet, KeyUse},
    manifest::Backup,
};

use super::{
    super::{
        catalogue::{Catalogue, args},
        tape::{replace, with_member, with_text},
        world::{at, key, key_id},
    },
    CANONICAL, world,
};

const ENVELOPE: &str = "backup.dsse.json";

/// The envelope, its signature, the statement.
pub fn statements(catalogue: &mut Catalogue) {
    let good = world().bundle();
    let envelope = |edit: &dyn Fn(&mut Envelope)| {
        with_member(&good, ENVELOPE, |bytes| {
            let mut envelope = Envelope::from_bytes(bytes).unwrap();
            edit(&mut envelope);
            *bytes = envelope.to_bytes().unwrap();
        })
    };
    let mut add = |name: &str, bundle: Vec<u8>, problem: &str| {
        catalogue.tampered(name, bundle, &format!("{ENVELOPE}: {problem}"));
    };
    let flip = |text: &mut String, at: usize| {
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        text.replace_range(at..=at, other);
    };
    let mismatch = "the signature does not match the signed bytes";
    add("signature-altered", envelope(&|e| flip(&mut e.signatures[0].sig, 20)), mismatch);
    add("payload-altered", envelope(&|e| flip(&mut e.payload, 1000)), mismatch);
    add(
        "payload-type",
        envelope(&|e| e.payload_type = "application/json".into()),
        "payload type is not application/vnd.in-toto+json",
    );
    add("signature-missing", envelope(&|e| e.signatures.clear()), "envelope does not hold exactly one signature");
    add(
        "signature-twice",
        envelope(&|e| e.signatures.push(e.signatures[0].clone())),
        "envelope does not hold exactly one signature",
    );
    add(
        "signature-padding-bits",
        envelope(&|e| {
            // The last character before the padding has four idle bits.
            let at = e.signatures[0].sig.len() - 3;
            let last = e.signatures[0].sig.as_bytes()[at];
            let next = char::from(last + 1).to_string();
            e.signatures[0].sig.replace_range(at..=at, &next);
        }),
        "signature is not canonical base64",
    );
    add(
        "signature-names-another-key",
        envelope(&|e| e.signatures[0].keyid = key_id(2)),
        "the signing key is not trusted for this kind of statement",
    );
    add(
        "signature-names-no-key",
        envelope(&|e| e.signatures[0].keyid = "walwarden".into()),
        "the signature does not name a key by its id",
    );
    add("envelope-white-space", with_text(&good, ENVELOPE, ",", ", "), CANONICAL);
    add("envelope-unknown-field", with_text(&good, ENVELOPE, "{\"payload\"", "{\"cert\":\"\",\"payload\""), CANONICAL);

    let mut other = world();
    other.manifest_seed = 9;
    add(
        "signed-by-another-key",
        other.bundle(),
        &format!("signed by key {}, which is not among the trusted keys", key_id(9)),
    );
    let mut claims = world();
    claims.manifest_seed = 9;
    claims.contents = Box::new(|contents| {
        let mut envelope = Envelope::from_bytes(&contents.envelope).unwrap();
        envelope.signatures[0].keyid = key_id(1);
        contents.envelope = envelope.to_bytes().unwrap();
    });
    add("signed-by-another-key-in-its-name", claims.bundle(), mismatch);
    let mut checkpoint_key = world();
    checkpoint_key.manifest_seed = 2;
    add(
        "signed-by-the-checkpoint-key",
        checkpoint_key.bundle(),
        "the signing key is not trusted for this kind of statement",
    );

    let mut payload = |name: &str, from: &'static str, to: &'static str, problem: &str| {
        let mut world = world();
        world.payload = Box::new(move |bytes| replace(bytes, from, to));
        add(name, world.bundle(), problem);
    };
    let canonical = "the signed statement is not canonical JSON of its form";
    payload("statement-white-space", ",\"subject\"", ", \"subject\"", canonical);
    payload("statement-unknown-field", "{\"annex\":", "{\"aside\":1,\"annex\":", canonical);
    payload("statement-duplicate-key", "\"attempt\":1,", "\"attempt\":1,\"attempt\":1,", canonical);
    payload("statement-float", "\"omissions\":1,", "\"omissions\":1.0,", canonical);
    payload("statement-large-integer", "\"omissions\":1,", "\"omissions\":9007199254740992,", canonical);
    payload("statement-escape", "\"shop\"", "\"\\u0073hop\"", canonical);
    payload("statement-lone-surrogate", "\"shop\"", "\"\\ud800\"", canonical);
    payload(
        "statement-reordered",
        "\"attempt\":1,\"attested\":{\"algorithm\":\"sha256-composite\",\"value\":\"c3ludGhldGlj-1\"}",
        "\"attested\":{\"algorithm\":\"sha256-composite\",\"value\":\"c3ludGhldGlj-1\"},\"attempt\":1",
        canonical,
    );
    payload(
        "statement-predicate-type",
        "/backup/v1",
        "/backup/v2",
        "statement has another predicate type than expected",
    );
    payload(
        "statement-type",
        "in-toto.io/Statement/v1",
        "in-toto.io/Statement/v2",
        "statement is not an in-toto Statement v1",
    );
    payload(
        "statement-digest-upper-case",
        "\"digest\":{\"sha256\":\"",
        "\"digest\":{\"sha256\":\"A",
        "artifact digest is not lower-case hex SHA-256",
    );
    payload(
        "statement-time",
        "\"startedAt\":\"2026-11-24T08:00:01.000Z\"",
        "\"startedAt\":\"2026-11-24T08:00:01Z\"",
        "a time is not RFC 3339 UTC with milliseconds",
    );

    let mut statement = |name: &str, edit: &'static dyn Fn(&mut _), problem: &str| {
        let mut world = world();
        world.statement = Box::new(edit);
        add(name, world.bundle(), problem);
    };
    statement(
        "statement-two-subjects",
        &|s: &mut Statement<Backup>| s.subject.push(s.subject[0].clone()),
        "statement does not have exactly one subject",
    );
    statement(
        "statement-too-large",
        &|s: &mut Statement<Backup>| s.predicate.source_database = "x".repeat(3000),
        "statement is larger than 4,000 bytes",
    );
    statement(
        "statement-key-elsewhere",
        &|s: &mut Statement<Backup>| {
            s.subject[0].name = s.subject[0].name.replace("01kb0000000000000000000001", "01kb0000000000000000000007")
        },
        "the artifact's key is not where this attempt's artifact belongs",
    );
    statement(
        "statement-annex-elsewhere",
        &|s: &mut Statement<Backup>| s.predicate.annex.key = s.predicate.annex.key.replace("/24/", "/25/"),
        "the annex's key is not beside the artifact's",
    );
    statement(
        "statement-origin",
        &|s: &mut Statement<Backup>| {
            s.predicate.log_origin = "vectors.example/log/org_01kb0000000000000000000007/0".into()
        },
        "logOrigin is not of the form deployment/log/orgId/epoch",
    );

    // The key set is the reader's: here the manifest key was retired before the backup was made.
    let retired = KeySet::new(vec![
        key(1, KeyUse::Manifest, Some(&at(50))),
        key(2, KeyUse::Checkpoint, None),
        key(3, KeyUse::Receipt, None),
    ]);
    catalogue.file("keys-manifest-retired.pem", retired.to_pem());
    catalogue.fails(
        args("valid/backup.tgz", "keys-manifest-retired.pem", &[]),
        "valid/backup.tgz",
        1,
        "BAD EVIDENCE: backup.dsse.json: the signing key was not valid when the backup was made",
    );
}
