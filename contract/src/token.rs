//! Restore tokens: `base64url(payload).base64url(mac)`. The MAC is over
//! `walwarden.restore-token.v1\n` and the encoded payload; only the control plane can check it, but
//! everyone who holds a token may read what it says.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, DatabaseId, OrgId, RestoreId};

/// Prefix of what the MAC covers.
pub const MAC_CONTEXT: &str = "walwarden.restore-token.v1\n";
/// Life of a token in seconds; it gates the claim only.
pub const LIFETIME_SECONDS: i64 = 3600;

/// How a restore treats the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreMode {
    /// Into a database that does not exist yet.
    NewDatabase,
    /// Over an existing database.
    InPlace,
}

impl RestoreMode {
    /// As in flags, tokens and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewDatabase => "new_database",
            Self::InPlace => "in_place",
        }
    }
}

/// Why a restore is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestorePurpose {
    /// To have the data.
    Restore,
    /// To prove that it could be had.
    Drill,
}

impl RestorePurpose {
    /// As in tokens and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Drill => "drill",
        }
    }
}

/// What a restore token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreTokenPayload {
    /// 1
    pub v: u32,
    /// Id of the MAC key.
    pub kid: String,
    /// Deployment that issued it; another server refuses it.
    pub aud: String,
    /// Organization.
    pub org_id: OrgId,
    /// Database.
    pub database_id: DatabaseId,
    /// Backup to restore.
    pub backup_id: BackupId,
    /// Its manifest hash.
    pub manifest_hash: String,
    /// Mode.
    pub mode: RestoreMode,
    /// Purpose.
    pub purpose: RestorePurpose,
    /// The restore job: what makes the token single-use.
    pub job_intent_id: RestoreId,
    /// Issued at, seconds since 1970.
    pub iat: i64,
    /// Expires at, seconds since 1970.
    pub exp: i64,
}

/// A text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedToken;

impl std::fmt::Display for MalformedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a restore token")
    }
}

impl std::error::Error for MalformedToken {}

impl RestoreTokenPayload {
    /// The first half of the token: what the MAC is computed over, after [`MAC_CONTEXT`].
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The whole token.
pub fn join(encoded_payload: &str, mac: &[u8]) -> String {
    format!("{encoded_payload}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// A token taken apart; nothing is verified yet.
pub struct TokenParts<'t> {
    /// The encoded payload, as the MAC covers it.
    pub encoded_payload: &'t str,
    /// The MAC.
    pub mac: Vec<u8>,
    /// What it says.
    pub payload: RestoreTokenPayload,
}

/// Takes a token apart.
pub fn split(token: &str) -> Result<TokenParts<'_>, MalformedToken> {
    if token.len() > 4096 {
        return Err(MalformedToken);
    }
    let (encoded_payload, mac) = token.trim().split_once('.').ok_or(MalformedToken)?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| MalformedToken)?;
    let raw = URL_SAFE_NO_PAD.decode(encoded_payload).map_err(|_| MalformedToken)?;
    let payload: RestoreTokenPayload = serde_json::from_slice(&raw).map_err(|_| MalformedToken)?;
    if payload.v != 1 {
        return Err(MalformedToken);
    }
    Ok(TokenParts { encoded_payload, mac, payload })
}
