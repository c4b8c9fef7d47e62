//! Keys, items and writes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;

/// Primary key of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

impl Key {
    /// A key.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    pub(super) fn attributes(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([
            ("pk".into(), AttributeValue::S(self.pk.clone())),
            ("sk".into(), AttributeValue::S(self.sk.clone())),
        ])
    }
}

/// An item as read.
#[derive(Debug, Clone)]
pub struct Record<T> {
    /// Its key.
    pub key: Key,
    /// Its revision, to condition the next write on.
    pub rev: u64,
    /// Its content.
    pub body: T,
}

/// An item to write.
#[derive(Debug, Clone)]
pub struct Item {
    body: String,
    state: Option<String>,
    due: Option<(String, String)>,
    ttl: Option<i64>,
}

impl Item {
    /// An item with a JSON body.
    pub fn new<T: Serialize>(body: &T) -> Self {
        // Bodies are our own types with string keys: they serialize.
        Self { body: serde_json::to_string(body).unwrap_or_default(), state: None, due: None, ttl: None }
    }

    /// With a state that [`Write::Move`] can condition on.
    pub fn state(mut self, state: &str) -> Self {
        self.state = Some(state.into());
        self
    }

    /// To be looked at by the sentinel at `at`, in `queue`.
    pub fn due(mut self, queue: &str, at: Option<&str>) -> Self {
        self.due = at.map(|at| (queue.into(), at.into()));
        self
    }

    /// To be deleted some time after `unix_seconds`.
    pub fn ttl(mut self, unix_seconds: i64) -> Self {
        self.ttl = Some(unix_seconds);
        self
    }

    pub(super) fn attributes(self, key: &Key, rev: u64) -> HashMap<String, AttributeValue> {
        let mut map = key.attributes();
        map.insert("rev".into(), AttributeValue::N(rev.to_string()));
        map.insert("body".into(), AttributeValue::S(self.body));
        if let Some(state) = self.state {
            map.insert("state".into(), AttributeValue::S(state));
        }
        if let Some((queue, at)) = self.due {
            map.insert("duePk".into(), AttributeValue::S(queue));
            map.insert("dueAt".into(), AttributeValue::S(at));
        }
        if let Some(ttl) = self.ttl {
            map.insert(super::TTL.into(), AttributeValue::N(ttl.to_string()));
        }
        map
    }
}

/// One write of a transaction.
#[derive(Debug, Clone)]
pub enum Write {
    /// Only where there is nothing under the key.
    Create(Key, Item),
    /// As `Create`, or over an item whose time to live lies before that time (seconds since 1970): DynamoDB removes
    /// expired items "within a few days", and until then they must not stand in the way.
    CreateUnlessLive(Key, Item, i64),
    /// Only where the revision is still the one that was read.
    Replace(Key, u64, Item),
    /// As `Replace`, and only from that state.
    Move(Key, u64, String, Item),
    /// In any case.
    Put(Key, Item),
    /// In any case.
    Delete(Key),
}
