//! Organizations and their API tokens. A token is stored as a fingerprint; its plaintext is shown once.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walwarden_contract::{
    api::{CreateTokenRequest, CreatedToken, Token},
    errors::{ErrorCode, ErrorDetail},
    ids::{DatabaseId, OrgId, TokenId},
    scopes::Scope,
    secret::Secret,
    time,
};
use walwarden_verifier::entry::Event;

use crate::{
    Domain,
    error::{DomainError, Result},
    log::Draft,
    once::Once,
    registry::check_label,
    table::{Item, Record, Write, keys},
};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Organization {
    id: OrgId,
    name: String,
    created_at: String,
}

/// A token as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// What people see.
    pub info: Token,
    /// SHA-256 of the plaintext.
    pub fingerprint: String,
    /// Whether it may issue and revoke tokens: the operator's own, made when the organization was.
    pub operator: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenPointer {
    org: OrgId,
    token: TokenId,
}

/// Who is calling.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Organization.
    pub org: OrgId,
    /// The token.
    pub token: Token,
    /// Whether it may manage tokens.
    pub operator: bool,
}

impl Principal {
    /// Refuses a token that lacks `scope`.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.token.scopes.contains(&scope) {
            return Ok(());
        }
        let mut detail =
            ErrorDetail::new(ErrorCode::Forbidden, format!("the token lacks the scope {}", scope.as_str()))
                .hint("issue a token with that scope");
        detail.required_scope = Some(scope.as_str().into());
        detail.next_action = Some("issue_token_with_scope".into());
        Err(DomainError::Refused(Box::new(detail)))
    }

    /// Refuses whoever may not issue, list and revoke tokens.
    pub fn require_operator(&self) -> Result<()> {
        if self.operator {
            return Ok(());
        }
        Err(DomainError::refused(
            ErrorCode::Forbidden,
            "only the operator's token manages tokens",
            "use the token that was printed when the server first started",
        ))
    }

    /// Refuses a token that is bound to a database, for what concerns more than that one.
    pub fn require_unbound(&self) -> Result<()> {
        match &self.token.database_id {
            None => Ok(()),
            Some(own) => Err(DomainError::refused(
                ErrorCode::Forbidden,
                format!("the token is bound to database {own}"),
                "use a token that is not bound to one database",
            )),
        }
    }

    /// Refuses a token that is bound to another database; it is told that there is none.
    pub fn require_database(&self, database: &DatabaseId) -> Result<()> {
        match &self.token.database_id {
            Some(own) if own != database => Err(DomainError::not_found("database", database)),
            _ => Ok(()),
        }
    }
}

/// SHA-256 of a secret, lower-case hex: what is stored of it.
pub fn fingerprint(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

impl Domain {
    /// Creates an organization and its operator's token (every scope; may issue others).
    pub async fn create_organization(&self, name: &str) -> Result<(OrgId, Secret)> {
        let now_ms = self.edge.now_ms();
        let org = OrgId::new(now_ms as u64, self.edge.random());
        let body = Organization { id: org.clone(), name: name.into(), created_at: self.edge.now() };
        let request = CreateTokenRequest {
            name: "operator".into(),
            scopes: Scope::ALL.to_vec(),
            expires_at: None,
            database_id: None,
        };
        let (writes, draft, created) = self.token_writes(&org, request, true, "system");
        let mut all = vec![Write::Create(keys::org(&org), Item::new(&body))];
        all.extend(writes);
        self.log.commit(&org, all, vec![draft]).await?;
        Ok((org, created.token))
    }

    /// Issues a token.
    pub async fn issue_token(&self, who: &Principal, request: CreateTokenRequest, once: &Once) -> Result<CreatedToken> {
        who.require_operator()?;
        check_label(&request.name)?;
        if request.scopes.is_empty() {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "scopes is empty",
                "name what the token may do",
            ));
        }
        if request.expires_at.as_deref().is_some_and(|t| time::parse_ms(t).is_none_or(|ms| ms <= self.edge.now_ms())) {
            return Err(DomainError::refused(
                ErrorCode::InvalidRequest,
                "expiresAt is not a future time of the form 2026-01-31T00:00:00.000Z",
                "leave it out for a token that does not expire",
            ));
        }
        if let Some(database) = &request.database_id {
            self.database(&who.org, database).await?;
        }
        let (mut writes, draft, created) = self.token_writes(&who.org, request, false, who.token.id.as_str());
        writes.push(once.write_revealing(created.info.id.as_str()));
        match self.log.commit(&who.org, writes, vec![draft]).await {
            Ok(()) => Ok(created),
            Err(refused) => once.lost(self, refused).await,
        }
    }

    fn token_writes(
        &self,
        org: &OrgId,
        request: CreateTokenRequest,
        operator: bool,
        actor: &str,
    ) -> (Vec<Write>, Draft, CreatedToken) {
        let plaintext = format!("wal_{}", hex::encode(self.edge.random::<32>()));
        let mut scopes = request.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let info = Token {
            id: TokenId::new(self.edge.now_ms() as u64, self.edge.random()),
            name: request.name,
            scopes,
            database_id: request.database_id,
            created_at: self.edge.now(),
            expires_at: request.expires_at,
            revoked_at: None,
        };
        let record = TokenRecord { info: info.clone(), fingerprint: fingerprint(&plaintext), operator };
        let pointer = TokenPointer { org: org.clone(), token: info.id.clone() };
        let writes = vec![
            Write::Create(keys::token(org, &info.id), Item::new(&record)),
            Write::Create(keys::token_fingerprint(&record.fingerprint), Item::new(&pointer)),
        ];
        let event = Event::TokenIssued {
            token_id: info.id.to_string(),
            name: info.name.clone(),
            scopes: info.scopes.iter().map(|s| s.as_str().to_owned()).collect(),
        };
        (writes, Draft::standing(event, actor), CreatedToken { token: Secret::new(plaintext), info })
    }

    /// Who presents `plaintext`; refuses unknown, revoked and expired tokens alike.
    pub async fn authenticate(&self, plaintext: &str) -> Result<Principal> {
        let refused = || {
            DomainError::refused(
                ErrorCode::Unauthorized,
                "the API token is missing, unknown, revoked or expired",
                "send Authorization: Bearer <token> with a live token",
            )
        };
        if !plaintext.starts_with("wal_") || plaintext.len() != 68 {
            return Err(refused());
        }
        // The lookup is by the hash of the secret: its timing tells nothing about stored plaintexts.
        let pointer = self.table.get::<TokenPointer>(&keys::token_fingerprint(&fingerprint(plaintext))).await?;
        let pointer = pointer.ok_or_else(refused)?.body;
        let record = self.token_record(&pointer.org, &pointer.token).await?.body;
        let expired = record.info.expires_at.as_deref().is_some_and(|t| t <= self.edge.now().as_str());
        if record.info.revoked_at.is_some() || expired {
            return Err(refused());
        }
        Ok(Principal { org: pointer.org, token: record.info, operator: record.operator })
    }

    /// All tokens, revoked ones too, oldest first.
    pub async fn tokens(&self, who: &Principal) -> Result<Vec<Token>> {
        who.require_operator()?;
        let found = self.table.query_all::<TokenRecord>(&keys::org_partition(&who.org), "TOK#").await?;
        Ok(found.into_iter().map(|r| r.body.info).collect())
    }

    /// Revokes a token; a revoked one stays revoked.
    pub async fn revoke_token(&self, who: &Principal, id: &TokenId) -> Result<Token> {
        who.require_operator()?;
        let mut record = self.token_record(&who.org, id).await?;
        if record.body.operator {
            return Err(DomainError::Refused(Box::new(
                ErrorDetail::new(ErrorCode::StateConflict, "the operator's token is the only one that manages tokens")
                    .hint("keep it where only the operator reads it")
                    .about(id.as_str()),
            )));
        }
        if record.body.info.revoked_at.is_none() {
            record.body.info.revoked_at = Some(self.edge.now());
            let write = Write::Replace(record.key, record.rev, Item::new(&record.body));
            let event = Event::TokenRevoked { token_id: id.to_string() };
            self.log.commit(&who.org, vec![write], vec![Draft::standing(event, who.token.id.as_str())]).await?;
        }
        Ok(record.body.info)
    }

    async fn token_record(&self, org: &OrgId, id: &TokenId) -> Result<Record<TokenRecord>> {
        self.table.get(&keys::token(org, id)).await?.ok_or_else(|| DomainError::not_found("token", id))
    }
}
