//! The append-only log of an organization, and the one way anything changes state: a transaction that
//! writes the new state (conditioned on the old), the entry (conditioned on its index being free) and
//! the head with its Merkle frontier. There is no state change without its entry because there is no
//! other function that could make one.

mod hashes;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walwarden_contract::ids::OrgId;
use walwarden_verifier::{
    checkpoint::Checkpoint,
    entry::{self, AssertedBy, Entry, Event},
    keys::KeyUse,
    merkle::{Frontier, Hash},
};

use crate::{
    edge::Edge,
    error::{DomainError, Result},
    keyring::Keyring,
    table::{Item, Table, TableError, Write, keys},
};

/// Tries at a contended head before giving up. Writers to one log are few; each try is one round trip.
const ATTEMPTS: u32 = 60;

/// An entry to append; index, time, salt and chain are added.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The job it is about and its position among the job's entries.
    pub job: Option<(String, u64)>,
    /// What happened.
    pub event: Event,
    /// Who caused it.
    pub actor: String,
    /// Who vouches for it.
    pub asserted_by: AssertedBy,
}

impl Draft {
    /// An entry about no job.
    pub fn standing(event: Event, actor: impl Into<String>) -> Self {
        Self { job: None, event, actor: actor.into(), asserted_by: AssertedBy::ControlPlane }
    }
}

/// The head of a log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    size: u64,
    last_hash: String,
    /// Time of the last entry. Clocks of several writers differ; a log's times never go back.
    #[serde(default)]
    last_at: String,
    frontier: Vec<String>,
}

impl Head {
    fn frontier(&self) -> Option<Frontier> {
        let nodes = self.frontier.iter().map(|n| to_hash(n)).collect::<Option<Vec<_>>>()?;
        Frontier::from_parts(self.size, nodes)
    }
}

/// Stored form of an entry.
#[derive(Debug, Serialize, Deserialize)]
struct StoredEntry {
    entry: String,
}

/// Stored form of the way from a job's sequence number to its entry.
#[derive(Debug, Serialize, Deserialize)]
struct JobEntry {
    index: u64,
}

/// A checkpoint as published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishedCheckpoint {
    /// The signed note.
    pub note: String,
    /// Its size.
    pub size: u64,
}

/// The logs of a deployment.
#[derive(Debug, Clone)]
pub struct Log {
    table: Table,
    edge: Edge,
    deployment: String,
    epoch: u32,
}

impl Log {
    /// The logs in `table`, of the current epoch.
    pub fn new(table: Table, edge: Edge, deployment: String, epoch: u32) -> Self {
        Self { table, edge, deployment, epoch }
    }

    /// `<deployment>/log/<orgId>/<epoch>`
    pub fn origin(&self, org: &OrgId) -> String {
        format!("{}/log/{org}/{}", self.deployment, self.epoch)
    }

    /// The one transition function: all `writes` and one entry per draft, or nothing.
    ///
    /// Errors: [`TableError::Condition`] where one of `writes` was refused (positions are those of
    /// `writes`), [`DomainError::Contention`] where the head was too busy for too long.
    pub async fn commit(&self, org: &OrgId, writes: Vec<Write>, drafts: Vec<Draft>) -> Result<()> {
        let head_key = keys::log_head(org, self.epoch);
        for attempt in 0..ATTEMPTS {
            let head = self.table.get::<Head>(&head_key).await?;
            let (rev, head) = head.map_or((0, Head::default()), |r| (r.rev, r.body));
            let (entries, next) = self.append(org, &head, &drafts)?;
            let mut all = writes.clone();
            let item = Item::new(&next);
            all.push(match rev {
                0 => Write::Create(head_key.clone(), item),
                rev => Write::Replace(head_key.clone(), rev, item),
            });
            for entry in entries {
                all.push(Write::Create(
                    keys::log_entry(org, self.epoch, entry.index),
                    Item::new(&StoredEntry { entry: entry.text }),
                ));
                if let Some((job, seq)) = entry.job {
                    let key = keys::log_job_entry(org, self.epoch, &job, seq);
                    all.push(Write::Create(key, Item::new(&JobEntry { index: entry.index })));
                }
            }
            match self.table.transact(all).await {
                Ok(()) => return Ok(()),
                Err(TableError::Condition(refused)) => {
                    let own: Vec<usize> = refused.into_iter().filter(|p| *p < writes.len()).collect();
                    if !own.is_empty() {
                        return Err(TableError::Condition(own).into());
                    }
                }
                Err(TableError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            let bound = 20u64 << attempt.min(5);
            tokio::time::sleep(Duration::from_millis(5 + self.edge.jitter_ms(bound))).await;
        }
        Err(DomainError::Contention { org: org.to_string() })
    }

    fn append(&self, org: &OrgId, head: &Head, drafts: &[Draft]) -> Result<(Vec<Appended>, Head)> {
        let mut frontier = head
            .frontier()
            .ok_or_else(|| DomainError::broken(format!("log head of {org}"), "frontier does not fit"))?;
        let mut last = if head.size == 0 { entry::NO_PREVIOUS.to_owned() } else { head.last_hash.clone() };
        let at = self.edge.now().max(head.last_at.clone());
        let mut appended = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let index = frontier.size();
            let entry = Entry {
                v: entry::VERSION.into(),
                origin: self.origin(org),
                org_id: org.to_string(),
                index,
                seq: draft.job.as_ref().map(|(_, seq)| *seq),
                job_id: draft.job.as_ref().map(|(job, _)| job.clone()),
                event: draft.event.clone(),
                at: at.clone(),
                actor: draft.actor.clone(),
                asserted_by: draft.asserted_by,
                salt: hex::encode(self.edge.random::<16>()),
                prev_hash: last,
            };
            let bytes = entry.to_bytes().map_err(|e| DomainError::broken("audit entry", e))?;
            let hash = walwarden_verifier::merkle::leaf_hash(&bytes);
            frontier.push(hash);
            last = hex::encode(hash);
            let text = String::from_utf8(bytes).map_err(|e| DomainError::broken("audit entry", e))?;
            appended.push(Appended { index, text, job: draft.job.clone() });
        }
        let next = Head {
            size: frontier.size(),
            last_hash: last,
            last_at: at,
            frontier: frontier.nodes().iter().map(hex::encode).collect(),
        };
        Ok((appended, next))
    }

    /// Size and root now.
    pub async fn tip(&self, org: &OrgId) -> Result<(u64, Hash)> {
        let head = self.table.get::<Head>(&keys::log_head(org, self.epoch)).await?.map(|r| r.body).unwrap_or_default();
        let frontier = head
            .frontier()
            .ok_or_else(|| DomainError::broken(format!("log head of {org}"), "frontier does not fit"))?;
        Ok((head.size, frontier.root()))
    }

    /// Canonical bytes of entries `[from, to)`.
    pub async fn entries(&self, org: &OrgId, indexes: &[u64]) -> Result<Vec<Vec<u8>>> {
        let wanted: Vec<_> = indexes.iter().map(|i| keys::log_entry(org, self.epoch, *i)).collect();
        let mut found = self.table.get_many::<StoredEntry>(&wanted).await?;
        found.sort_by(|a, b| a.key.sk.cmp(&b.key.sk));
        if found.len() != indexes.len() {
            return Err(DomainError::broken(format!("log of {org}"), "an entry is missing"));
        }
        Ok(found.into_iter().map(|r| r.body.entry.into_bytes()).collect())
    }

    /// Indexes of a job's entries, in order of `seq`.
    pub async fn job_indexes(&self, org: &OrgId, job: &str) -> Result<Vec<u64>> {
        let prefix = format!("JOB#{job}#");
        let found = self.table.query_all::<JobEntry>(&keys::log_partition(org, self.epoch), &prefix).await?;
        Ok(found.into_iter().map(|r| r.body.index).collect())
    }

    /// Signs a checkpoint of the log as it is now.
    pub async fn checkpoint(&self, org: &OrgId, keyring: &Keyring) -> Result<(Checkpoint, String)> {
        let (size, root) = self.tip(org).await?;
        let checkpoint = Checkpoint { origin: self.origin(org), size, root };
        let (key, signature) = keyring.sign(KeyUse::Checkpoint, checkpoint.body().as_bytes()).await?;
        let public = keyring
            .public_keys()
            .by_id(&key)
            .ok_or_else(|| DomainError::broken("keyring", "signed with an unknown key"))?;
        let note = checkpoint.note(&public.to_bytes(), &signature);
        Ok((checkpoint, note))
    }

    /// Remembers that a checkpoint was published, so that later bundles prove their consistency with it.
    pub async fn record_checkpoint(&self, org: &OrgId, size: u64, note: &str) -> Result<()> {
        let key = keys::log_checkpoint(org, self.epoch, size);
        let item = Item::new(&PublishedCheckpoint { note: note.into(), size });
        Ok(self.table.write(Write::Put(key, item)).await?)
    }

    /// Sizes of all published checkpoints, ascending.
    pub async fn published_sizes(&self, org: &OrgId) -> Result<Vec<u64>> {
        let pk = keys::log_partition(org, self.epoch);
        let found = self.table.query_all::<PublishedCheckpoint>(&pk, "CHECKPOINT#").await?;
        Ok(found.into_iter().map(|r| r.body.size).collect())
    }
}

struct Appended {
    index: u64,
    text: String,
    job: Option<(String, u64)>,
}

fn to_hash(text: &str) -> Option<Hash> {
    hex::decode(text).ok()?.try_into().ok()
}
