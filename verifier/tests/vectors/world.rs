//! A small, fixed world: an organization, a database, keys, one backup, perhaps one restore. Everything
//! that goes into a bundle can be edited before it is signed, hashed or packed, so that each vector
//! breaks one rule and no other.

use ed25519_dalek::{Signer, SigningKey};
use walwarden_verifier::{
    bundle::{self, BundleAnnex, BundleContents, BundleIndex, Proof},
    checkpoint::Checkpoint,
    dsse::{self, Envelope, Statement},
    entry::{self, AssertedBy, Entry, Event},
    jcs,
    keys::{self, KeySet, KeyUse, PublicKey},
    manifest::{self, AnnexRef, Attested, Backup, Contents, Retention},
    merkle::{self, Frontier, Hash},
    receipt::{self, PlanCounts, Restore},
};

use super::files::Files;

pub const ORG: &str = "org_01kb0000000000000000000001";
pub const DATABASE: &str = "db_01kb0000000000000000000002";
pub const BACKUP: &str = "bkp_01kb0000000000000000000003";
pub const RESTORE: &str = "rst_01kb0000000000000000000004";
pub const ORIGIN: &str = "vectors.example/log/org_01kb0000000000000000000001/0";
pub const OTHER_BACKUP: &str = "bkp_01kb0000000000000000000009";

pub type Edit<T> = Box<dyn Fn(&mut T)>;
pub type LeafEdit = Box<dyn Fn(u64, &mut Vec<u8>)>;

pub fn nothing<T>() -> Edit<T> {
    Box::new(|_| {})
}

/// A signing key known to everyone. `1` signs manifests, `2` checkpoints, `3` receipts.
pub fn signer(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn public(seed: u8) -> [u8; 32] {
    signer(seed).verifying_key().to_bytes()
}

pub fn key_id(seed: u8) -> String {
    keys::key_id(&public(seed))
}

pub fn key(seed: u8, key_use: KeyUse, until: Option<&str>) -> PublicKey {
    let mut key = PublicKey::new(&public(seed)).unwrap();
    key.key_use = Some(key_use);
    key.not_before = Some("2026-01-01T00:00:00.000Z".into());
    key.not_after = until.map(str::to_owned);
    key
}

pub fn key_set() -> KeySet {
    KeySet::new(vec![key(1, KeyUse::Manifest, None), key(2, KeyUse::Checkpoint, None), key(3, KeyUse::Receipt, None)])
}

/// Second `n` of the world's time.
pub fn at(n: u64) -> String {
    format!("2026-11-24T08:{:02}:{:02}.000Z", n / 60, n % 60)
}

pub fn sign(seed: u8, payload: &[u8]) -> Envelope {
    Envelope::new(payload, &key_id(seed), &signer(seed).sign(&dsse::pae(payload)).to_bytes())
}

pub fn note(seed: u8, checkpoint: &Checkpoint) -> Vec<u8> {
    let signature = signer(seed).sign(checkpoint.body().as_bytes()).to_bytes();
    checkpoint.note(&public(seed), &signature).into_bytes()
}

pub struct World {
    pub files: Files,
    pub attempt: u32,
    pub restored: bool,
    /// Sizes with a consistency proof.
    pub older: Vec<u64>,
    pub statement: Edit<Statement<Backup>>,
    /// The statement's bytes before they are signed.
    pub payload: Edit<Vec<u8>>,
    /// Who signs the manifest.
    pub manifest_seed: u8,
    pub receipt: Edit<Statement<Restore>>,
    pub receipt_seed: u8,
    /// The whole log before it is chained.
    pub log: Edit<Vec<Entry>>,
    /// An entry after it was chained, before it is hashed.
    pub chained: Edit<Entry>,
    /// Its bytes, by index.
    pub leaf: LeafEdit,
    pub checkpoint: Edit<Checkpoint>,
    pub checkpoint_seed: u8,
    pub contents: Edit<BundleContents>,
    pub keys_pem: String,
}

/// A world's evidence.
pub struct Evidence {
    pub contents: BundleContents,
    pub manifest_hash: String,
    pub leaves: Vec<Hash>,
}

impl Evidence {
    pub fn bundle(&self) -> Vec<u8> {
        bundle::write(&self.contents).unwrap()
    }

    /// The log's checkpoint when it had `size` entries.
    pub fn checkpoint(&self, size: u64) -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size, root: root(&self.leaves, size) }
    }
}

pub fn root(leaves: &[Hash], size: u64) -> Hash {
    let mut frontier = Frontier::default();
    leaves[..size as usize].iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// The root of the complete subtree of `2^level` leaves at `index`.
pub fn subtree(leaves: &[Hash], level: u32, index: u64) -> Result<Hash, ()> {
    let start = (index << level) as usize;
    Ok(root(&leaves[start..], 1 << level))
}

impl World {
    /// One attempt, no restore.
    pub fn new(files: Files) -> Self {
        Self {
            files,
            attempt: 1,
            restored: false,
            older: vec![],
            statement: nothing(),
            payload: nothing(),
            manifest_seed: 1,
            receipt: nothing(),
            receipt_seed: 3,
            log: nothing(),
            chained: nothing(),
            leaf: Box::new(|_, _| {}),
            checkpoint: nothing(),
            checkpoint_seed: 2,
            contents: nothing(),
            keys_pem: key_set().to_pem(),
        }
    }

    /// Two attempts, a restore, three older checkpoints.
    pub fn restored(files: Files) -> Self {
        Self { attempt: 2, restored: true, older: vec![3, 8, 12], ..Self::new(files) }
    }

    /// Without the keys inside, which nothing reads: vectors are many and should be small.
    pub fn without_keys(self) -> Self {
        Self { keys_pem: "# left out\n".into(), ..self }
    }

    pub fn stem(&self) -> String {
        let attempt = if self.attempt == 1 { String::new() } else { format!(".{}", self.attempt) };
        format!("org/{ORG}/db/{DATABASE}/backup/2026/11/24/{BACKUP}{attempt}")
    }

    fn make_statement(&self) -> Statement<Backup> {
        let files = &self.files;
        let backup = Backup {
            org_id: ORG.into(),
            database_id: DATABASE.into(),
            backup_id: BACKUP.into(),
            attempt: self.attempt,
            log_origin: ORIGIN.into(),
            source_database: "shop".into(),
            bucket: "vectors-example-backups".into(),
            version_id: "3HL4kqtJvjVBH40Nrjfkd".into(),
            size_bytes: files.artifact.len() as u64,
            attested: Attested { algorithm: "sha256-composite".into(), value: "c3ludGhldGlj-1".into() },
            server_version: files.server_version.into(),
            pg_dump_version: files.server_version.into(),
            compression: files.compression.into(),
            contents: Contents {
                digest: files.contents_digest.clone(),
                entries: files.counts.entries,
                tables: files.counts.tables,
                rows: files.counts.rows,
            },
            omissions: files.counts.omissions,
            retention: Retention { mode: "COMPLIANCE".into(), retain_until: "2026-12-25T08:00:00.000Z".into() },
            started_at: at(1),
            snapshot_at: files.snapshot_at.clone(),
            finished_at: at(50),
            annex: AnnexRef {
                key: format!("{}.annex.jsonl.gz", self.stem()),
                version_id: "QUpfdndhfd8438MNFDN93".into(),
                sha256: manifest::hash(&files.annex),
                size_bytes: files.annex.len() as u64,
                uncompressed_bytes: files.annex_size.uncompressed_bytes,
                lines: files.annex_size.lines,
            },
        };
        Statement::new(
            format!("{}.dump", self.stem()),
            manifest::hash(&files.artifact),
            manifest::PREDICATE_TYPE,
            backup,
        )
    }

    fn make_receipt(&self, statement: &Statement<Backup>, manifest_hash: &str) -> Statement<Restore> {
        let restore = Restore {
            org_id: ORG.into(),
            database_id: DATABASE.into(),
            backup_id: BACKUP.into(),
            restore_id: RESTORE.into(),
            manifest_hash: manifest_hash.into(),
            log_origin: ORIGIN.into(),
            mode: "new_database".into(),
            purpose: "drill".into(),
            plan: PlanCounts { restored: self.files.counts.entries, adapted: 0, left_out: 0 },
            proof: receipt::Proof {
                result: "identical".into(),
                tables: self.files.counts.tables,
                rows: self.files.counts.rows,
                sequences: self.files.counts.sequences,
                large_objects: self.files.counts.large_objects,
                not_compared: 0,
            },
            cli_version: "0.1.0".into(),
            pg_restore_version: self.files.server_version.into(),
            target_server_version: self.files.server_version.into(),
            claimed_at: at(102),
            completed_at: at(150),
            late: false,
            asserted_by: "cli".into(),
        };
        let subject = &statement.subject[0];
        Statement::new(subject.name.clone(), subject.digest.sha256.clone(), receipt::PREDICATE_TYPE, restore)
    }

    fn history(&self, statement: &Statement<Backup>, manifest_hash: &str, receipt_hash: &str) -> Vec<Entry> {
        let artifact = statement.subject[0].digest.sha256.clone();
        let backup = &statement.predicate;
        let mut log: Vec<Entry> = Vec::new();
        let mut push = |second, job: Option<&str>, asserted_by, event| {
            let seq = job.map(|job| 1 + log.iter().filter(|e| e.job_id.as_deref() == Some(job)).count() as u64);
            log.push(Entry {
                v: entry::VERSION.into(),
                origin: ORIGIN.into(),
                org_id: ORG.into(),
                index: log.len() as u64,
                seq,
                job_id: job.map(str::to_owned),
                event,
                at: at(second),
                actor: "system".into(),
                asserted_by,
                salt: "00".repeat(16),
                prev_hash: String::new(),
            });
        };
        let (service, runner, cli) = (AssertedBy::ControlPlane, AssertedBy::Runner, AssertedBy::Cli);
        push(
            0,
            None,
            service,
            Event::DatabaseCreated {
                database_id: DATABASE.into(),
                destination_id: "dst_01kb0000000000000000000005".into(),
            },
        );
        let job = Some(BACKUP);
        for attempt in 1..=self.attempt {
            let trigger = if attempt == 1 { "schedule" } else { "retry" };
            push(
                u64::from(attempt) - 1,
                job,
                service,
                Event::BackupQueued { database_id: DATABASE.into(), trigger: trigger.into(), attempt },
            );
            push(1, job, runner, Event::BackupClaimed { attempt });
            if attempt < self.attempt {
                push(1, None, service, Event::TokenRevoked { token_id: "tok_01kb0000000000000000000006".into() });
                let class = "network".into();
                push(1, job, runner, Event::BackupFailed { attempt, retryable: true, class, r#final: false });
            }
        }
        push(
            2,
            job,
            runner,
            Event::BackupRunning {
                attempt: self.attempt,
                server_version: backup.server_version.clone(),
                pg_dump_version: backup.pg_dump_version.clone(),
                snapshot_at: backup.snapshot_at.clone(),
            },
        );
        push(
            51,
            job,
            runner,
            Event::BackupFinalizing {
                checksum_sha256: artifact.clone(),
                size_bytes: backup.size_bytes,
                parts: 1,
                contents_digest: backup.contents.digest.clone(),
                annex_sha256: backup.annex.sha256.clone(),
            },
        );
        push(
            53,
            job,
            service,
            Event::BackupCompleted {
                manifest_hash: manifest_hash.into(),
                checksum_sha256: artifact.clone(),
                size_bytes: backup.size_bytes,
                version_id: backup.version_id.clone(),
                key_id: key_id(self.manifest_seed),
            },
        );
        if self.restored {
            let job = Some(RESTORE);
            push(
                100,
                job,
                service,
                Event::RestoreTokenIssued {
                    backup_id: BACKUP.into(),
                    manifest_hash: manifest_hash.into(),
                    mode: "new_database".into(),
                    purpose: "drill".into(),
                    expires_at: at(3599),
                },
            );
            push(102, job, cli, Event::RestoreTriggered { mode: "new_database".into() });
            push(102, job, cli, Event::RestoreClaimed { cli_version: "0.1.0".into() });
            push(103, job, service, Event::RestoreTokenRejected { reason: "used".into() });
            push(104, job, cli, Event::RestoreDownloading {});
            push(110, job, cli, Event::RestoreVerifying {});
            push(110, None, service, Event::EvidenceExported { backup_id: BACKUP.into() });
            push(111, job, cli, Event::RestoreManifestVerified { checksum_sha256: artifact.clone() });
            push(112, job, cli, Event::RestoreRestoring {});
            push(140, job, cli, Event::RestoreFinalizing {});
            push(
                150,
                job,
                cli,
                Event::RestoreCompleted {
                    bytes_restored: backup.size_bytes,
                    checksum_sha256: artifact,
                    proof: "identical".into(),
                    late: false,
                    receipt_hash: receipt_hash.into(),
                },
            );
        }
        push(
            160,
            None,
            service,
            Event::DatabaseScheduleChanged { database_id: DATABASE.into(), schedule: "0 3 * * *".into() },
        );
        log
    }

    pub fn evidence(&self) -> Evidence {
        let mut statement = self.make_statement();
        (self.statement)(&mut statement);
        let mut payload = jcs::to_vec(&statement).unwrap();
        (self.payload)(&mut payload);
        let manifest_hash = manifest::hash(&payload);

        let mut receipt = self.make_receipt(&statement, &manifest_hash);
        (self.receipt)(&mut receipt);
        let receipt = jcs::to_vec(&receipt).unwrap();

        let mut log = self.history(&statement, &manifest_hash, &manifest::hash(&receipt));
        (self.log)(&mut log);
        let mut leaves: Vec<Hash> = Vec::new();
        let mut inside = Vec::new();
        for mut entry in log {
            entry.index = leaves.len() as u64;
            entry.prev_hash = leaves.last().map_or(entry::NO_PREVIOUS.into(), hex::encode);
            (self.chained)(&mut entry);
            let mut bytes = entry.to_bytes().unwrap();
            (self.leaf)(leaves.len() as u64, &mut bytes);
            if entry.job_id.is_some() {
                inside.push((leaves.len() as u64, bytes.clone()));
            }
            leaves.push(merkle::leaf_hash(&bytes));
        }
        let size = leaves.len() as u64;
        let mut checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: root(&leaves, size) };
        let index = BundleIndex {
            v: bundle::VERSION.into(),
            origin: ORIGIN.into(),
            org_id: ORG.into(),
            database_id: DATABASE.into(),
            backup_id: BACKUP.into(),
            manifest_hash: manifest_hash.clone(),
            tree_size: size,
            root: hex::encode(checkpoint.root),
            annex: BundleAnnex::from(&statement.predicate.annex),
            files: vec![],
        };
        (self.checkpoint)(&mut checkpoint);
        let read = |level, index| subtree(&leaves, level, index);
        let inclusion = inside.iter().map(|(index, _)| Proof::Inclusion {
            index: *index,
            path: merkle::inclusion_proof(*index, size, read).unwrap(),
        });
        let consistency = self
            .older
            .iter()
            .map(|&old| Proof::Consistency { size: old, path: merkle::consistency_proof(old, size, read).unwrap() });
        let mut contents = BundleContents {
            index,
            envelope: sign(self.manifest_seed, &payload).to_bytes().unwrap(),
            proofs: inclusion.chain(consistency).collect(),
            entries: inside.into_iter().map(|(_, bytes)| bytes).collect(),
            checkpoint: note(self.checkpoint_seed, &checkpoint),
            receipts: vec![],
            keys_pem: self.keys_pem.clone(),
        };
        if self.restored {
            contents.receipts.push((RESTORE.into(), sign(self.receipt_seed, &receipt).to_bytes().unwrap()));
        }
        (self.contents)(&mut contents);
        Evidence { contents, manifest_hash, leaves }
    }

    pub fn bundle(&self) -> Vec<u8> {
        self.evidence().bundle()
    }
}
