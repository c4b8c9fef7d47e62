//! Idempotency: a mutation under a key happens once. The record is written in the mutation's own
//! transaction, bound to organization, principal and operation; a replay returns the stored response,
//! which never holds what was shown once.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use walwarden_contract::{
    errors::{ErrorCode, ErrorDetail},
    ids::OrgId,
};

use crate::{
    Domain,
    error::{DomainError, Result},
    table::{Item, Key, TableError, Write, keys},
};

/// How long a replay is recognised.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;

/// A mutation's idempotency key, bound to who sent what.
#[derive(Debug, Clone)]
pub struct Once {
    key: Key,
    request_sha256: String,
    now: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    request_sha256: String,
    response: String,
    resource_id: String,
    revealed_secret: bool,
    expires_at: i64,
}

/// What a replay finds.
#[derive(Debug)]
pub enum Replay<T> {
    /// Nothing: go on.
    New,
    /// The response of the first time.
    Done(T),
    /// The first time revealed a secret that is not stored; the resource's id.
    Revealed(String),
}

impl Once {
    /// A key that `principal` sent with a request.
    pub fn new(domain: &Domain, org: &OrgId, principal: &str, operation: &str, key: &str, request: &[u8]) -> Self {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        Self {
            key: keys::idempotency(org, principal, operation, &digest(key.as_bytes())),
            request_sha256: digest(request),
            now: domain.edge.now_ms() / 1000,
        }
    }

    /// Looks for an earlier use.
    pub async fn replay<T: DeserializeOwned>(&self, domain: &Domain) -> Result<Replay<T>> {
        let Some(stored) = domain.table.get::<Stored>(&self.key).await? else { return Ok(Replay::New) };
        let stored = stored.body;
        if stored.expires_at < self.now {
            return Ok(Replay::New);
        }
        if stored.request_sha256 != self.request_sha256 {
            return Err(DomainError::refused(
                ErrorCode::IdempotencyMismatch,
                "this idempotency key was used with another request",
                "use a fresh key for a different request",
            ));
        }
        if stored.revealed_secret {
            return Ok(Replay::Revealed(stored.resource_id));
        }
        serde_json::from_str(&stored.response)
            .map(Replay::Done)
            .map_err(|e| DomainError::broken("idempotency record", e))
    }

    /// The write that goes with the mutation.
    pub fn write<T: Serialize>(&self, response: &T, resource_id: &str) -> Write {
        self.stored(serde_json::to_string(response).unwrap_or_default(), resource_id, false)
    }

    /// The write that goes with a mutation that reveals a secret.
    pub fn write_revealing(&self, resource_id: &str) -> Write {
        self.stored(String::new(), resource_id, true)
    }

    /// What a mutation ends with that a condition refused: the answer of the request under this very key that was
    /// first, if that is what stood in the way, else `refused`.
    pub async fn lost<T: DeserializeOwned>(&self, domain: &Domain, refused: DomainError) -> Result<T> {
        if !matches!(refused, DomainError::Table(TableError::Condition(_))) {
            return Err(refused);
        }
        match self.replay(domain).await? {
            Replay::Done(response) => Ok(response),
            Replay::Revealed(id) => Err(Self::already_revealed(&id)),
            Replay::New => Err(refused),
        }
    }

    fn stored(&self, response: String, resource_id: &str, revealed_secret: bool) -> Write {
        let expires_at = self.now + KEPT_SECONDS;
        let stored = Stored {
            request_sha256: self.request_sha256.clone(),
            response,
            resource_id: resource_id.into(),
            revealed_secret,
            expires_at,
        };
        // The one condition that two requests under one key share: what they create has an id of its own in each.
        Write::CreateUnlessLive(self.key.clone(), Item::new(&stored).ttl(expires_at), self.now)
    }

    /// The refusal of a replay that would have to show a secret again.
    pub fn already_revealed(resource_id: &str) -> DomainError {
        DomainError::Refused(Box::new(
            ErrorDetail::new(
                ErrorCode::SecretAlreadyRevealed,
                "this request was carried out before, and its secret was shown then",
            )
            .hint("if the secret was lost, revoke it and create another under a fresh idempotency key")
            .about(resource_id),
        ))
    }
}
