//! One DynamoDB table (on demand, TTL, one sparse index). Every partition key begins with the
//! organization, but for API-token fingerprints, which lead to one, and the sentinel's own. Reads that matter are by key and
//! strongly consistent; the `due` index only hints to the sentinel.
//!
//! An item is `pk, sk, rev, body` (JSON) and, where it has them, `state`, `duePk`, `dueAt`, `ttl`.
//! Every replacement is conditioned on the revision that was read.

mod item;
pub mod keys;

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, Delete, GlobalSecondaryIndex, KeySchemaElement, KeyType,
        KeysAndAttributes, Projection, ProjectionType, Put, ScalarAttributeType, TimeToLiveSpecification,
        TransactWriteItem,
    },
};
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use item::{Item, Key, Record, Write};

/// Name of the sparse index.
const DUE_INDEX: &str = "due";
/// Attribute that says when an item may be removed, in seconds since 1970.
const TTL: &str = "ttl";

/// A failed table operation.
#[derive(Debug, Error)]
pub enum TableError {
    /// DynamoDB did not do it.
    #[error("{operation}: {code}: {message}")]
    Service {
        /// Which operation.
        operation: &'static str,
        /// DynamoDB's error code, or `unreachable`.
        code: String,
        /// Its message.
        message: String,
    },
    /// An item does not have the expected shape.
    #[error("item {pk} {sk}: {problem}")]
    Shape {
        /// Partition key.
        pk: String,
        /// Sort key.
        sk: String,
        /// What is wrong.
        problem: String,
    },
    /// A write's condition did not hold: someone else was first. Positions of the writes.
    #[error("condition of write {0:?} did not hold")]
    Condition(Vec<usize>),
    /// Another transaction touches the same items right now.
    #[error("transaction conflict")]
    Conflict,
}

impl TableError {
    /// Whether trying again can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Service { code, .. } => code != "ValidationException" && code != "AccessDeniedException",
            Self::Shape { .. } | Self::Condition(_) => false,
            Self::Conflict => true,
        }
    }

    fn service<E, R>(operation: &'static str, error: &SdkError<E, R>) -> Self
    where
        SdkError<E, R>: ProvideErrorMetadata,
    {
        Self::Service {
            operation,
            code: error.code().unwrap_or("unreachable").into(),
            message: error.message().unwrap_or("no answer").into(),
        }
    }
}

/// The table.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
}

/// Some items, and where the next page begins.
#[derive(Debug)]
pub struct Page<T> {
    /// The items.
    pub records: Vec<Record<T>>,
    /// Sort key after which to go on.
    pub next: Option<String>,
}

impl Table {
    /// A table that exists, or will ([`Self::create_if_missing`]).
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// Creates the table where it is missing: local installs. On AWS the template does.
    pub async fn create_if_missing(&self) -> Result<(), TableError> {
        let attribute = |name: &str| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(|e| self.shape("-", "-", e))
        };
        let key = |name: &str, kind: KeyType| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(|e| self.shape("-", "-", e))
        };
        let index = GlobalSecondaryIndex::builder()
            .index_name(DUE_INDEX)
            .key_schema(key("duePk", KeyType::Hash)?)
            .key_schema(key("dueAt", KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
            .build()
            .map_err(|e| self.shape("-", "-", e))?;
        let created = self
            .client
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute("pk")?)
            .attribute_definitions(attribute("sk")?)
            .attribute_definitions(attribute("duePk")?)
            .attribute_definitions(attribute("dueAt")?)
            .key_schema(key("pk", KeyType::Hash)?)
            .key_schema(key("sk", KeyType::Range)?)
            .global_secondary_indexes(index)
            .send()
            .await;
        match created {
            Ok(_) => {}
            Err(error) if error.code() == Some("ResourceInUseException") => {}
            Err(error) => return Err(TableError::service("CreateTable", &error)),
        }
        let expiry = TimeToLiveSpecification::builder().attribute_name(TTL).enabled(true).build();
        let expiry = expiry.map_err(|e| self.shape("-", "-", e))?;
        let set = self.client.update_time_to_live().table_name(&self.name).time_to_live_specification(expiry).send();
        match set.await {
            Ok(_) => Ok(()),
            // It is on already.
            Err(error) if error.code() == Some("ValidationException") => Ok(()),
            Err(error) => Err(TableError::service("UpdateTimeToLive", &error)),
        }
    }

    /// One item, strongly consistent.
    pub async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Record<T>>, TableError> {
        let output = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(key.attributes()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::service("GetItem", &e))?;
        output.item.map(|item| self.record(item)).transpose()
    }

    /// Several items, strongly consistent; missing ones are left out. At most 100 keys a call are sent.
    pub async fn get_many<T: DeserializeOwned>(&self, keys: &[Key]) -> Result<Vec<Record<T>>, TableError> {
        let mut records = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(100) {
            let mut wanted = KeysAndAttributes::builder()
                .consistent_read(true)
                .set_keys(Some(chunk.iter().map(Key::attributes).collect()))
                .build()
                .map_err(|e| self.shape("-", "-", e))?;
            for _ in 0..20 {
                let output = self
                    .client
                    .batch_get_item()
                    .request_items(&self.name, wanted)
                    .send()
                    .await
                    .map_err(|e| TableError::service("BatchGetItem", &e))?;
                for item in output.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                    records.push(self.record(item)?);
                }
                match output.unprocessed_keys.and_then(|mut m| m.remove(&self.name)) {
                    Some(rest) => wanted = rest,
                    None => break,
                }
            }
        }
        Ok(records)
    }

    /// Items of a partition whose sort key begins with `prefix`, in order, strongly consistent.
    pub async fn query<T: DeserializeOwned>(
        &self,
        pk: &str,
        prefix: &str,
        newest_first: bool,
        limit: i32,
        after: Option<&str>,
    ) -> Result<Page<T>, TableError> {
        let output = self
            .client
            .query()
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", AttributeValue::S(pk.into()))
            .expression_attribute_values(":prefix", AttributeValue::S(prefix.into()))
            .consistent_read(true)
            .scan_index_forward(!newest_first)
            .limit(limit)
            .set_exclusive_start_key(after.map(|sk| Key::new(pk, sk).attributes()))
            .send()
            .await
            .map_err(|e| TableError::service("Query", &e))?;
        let next =
            output.last_evaluated_key.and_then(|mut key| key.remove("sk")).and_then(|sk| sk.as_s().ok().cloned());
        let records = output.items.unwrap_or_default().into_iter().map(|i| self.record(i)).collect::<Result<_, _>>()?;
        Ok(Page { records, next })
    }

    /// All items of a partition under a prefix, in order.
    pub async fn query_all<T: DeserializeOwned>(&self, pk: &str, prefix: &str) -> Result<Vec<Record<T>>, TableError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.query(pk, prefix, false, 500, after.as_deref()).await?;
            all.extend(page.records);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Keys whose time has come, oldest first: a hint only, each is read again by key before any act.
    pub async fn due(&self, queue: &str, until: &str, most: usize) -> Result<Vec<Key>, TableError> {
        let text = |item: &HashMap<String, AttributeValue>, name: &str| {
            item.get(name).and_then(|v| v.as_s().ok().cloned()).unwrap_or_default()
        };
        let (mut keys, mut after) = (Vec::new(), None);
        while keys.len() < most {
            let output = self
                .client
                .query()
                .table_name(&self.name)
                .index_name(DUE_INDEX)
                .key_condition_expression("duePk = :queue AND dueAt <= :until")
                .expression_attribute_values(":queue", AttributeValue::S(queue.into()))
                .expression_attribute_values(":until", AttributeValue::S(until.into()))
                .limit(i32::try_from(most - keys.len()).unwrap_or(i32::MAX))
                .set_exclusive_start_key(after)
                .send()
                .await
                .map_err(|e| TableError::service("Query", &e))?;
            keys.extend(output.items.unwrap_or_default().iter().map(|i| Key::new(text(i, "pk"), text(i, "sk"))));
            after = output.last_evaluated_key.filter(|key| !key.is_empty());
            if after.is_none() {
                break;
            }
        }
        Ok(keys)
    }

    /// One write under its condition.
    pub async fn write(&self, write: Write) -> Result<(), TableError> {
        self.transact(vec![write]).await
    }

    /// All writes, or none. On [`TableError::Condition`] the positions name the writes that were refused.
    pub async fn transact(&self, writes: Vec<Write>) -> Result<(), TableError> {
        let items = writes.into_iter().map(|w| self.transact_item(w)).collect::<Result<Vec<_>, _>>()?;
        let result = self.client.transact_write_items().set_transact_items(Some(items)).send().await;
        let Err(error) = result else { return Ok(()) };
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() {
            let reasons = cancelled.cancellation_reasons();
            let refused: Vec<usize> = reasons
                .iter()
                .enumerate()
                .filter(|(_, reason)| reason.code() == Some("ConditionalCheckFailed"))
                .map(|(position, _)| position)
                .collect();
            if !refused.is_empty() {
                return Err(TableError::Condition(refused));
            }
            if reasons.iter().any(|r| r.code() == Some("TransactionConflict")) {
                return Err(TableError::Conflict);
            }
        }
        if matches!(error.code(), Some("TransactionConflictException" | "TransactionInProgressException")) {
            return Err(TableError::Conflict);
        }
        Err(TableError::service("TransactWriteItems", &error))
    }

    fn transact_item(&self, write: Write) -> Result<TransactWriteItem, TableError> {
        let builder = TransactWriteItem::builder();
        let built = match write {
            Write::Create(key, item) => {
                let put = Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(item.attributes(&key, 1)))
                    .condition_expression("attribute_not_exists(pk)")
                    .build();
                builder.put(put.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
            Write::CreateUnlessLive(key, item, now) => {
                let put = Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(item.attributes(&key, 1)))
                    .condition_expression("attribute_not_exists(pk) OR #ttl < :now")
                    .expression_attribute_names("#ttl", TTL)
                    .expression_attribute_values(":now", AttributeValue::N(now.to_string()))
                    .build();
                builder.put(put.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
            Write::Replace(key, rev, item) => {
                let put = Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(item.attributes(&key, rev + 1)))
                    .condition_expression("rev = :rev")
                    .expression_attribute_values(":rev", AttributeValue::N(rev.to_string()))
                    .build();
                builder.put(put.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
            Write::Move(key, rev, from, item) => {
                let put = Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(item.attributes(&key, rev + 1)))
                    .condition_expression("rev = :rev AND #state = :from")
                    .expression_attribute_names("#state", "state")
                    .expression_attribute_values(":rev", AttributeValue::N(rev.to_string()))
                    .expression_attribute_values(":from", AttributeValue::S(from))
                    .build();
                builder.put(put.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
            Write::Put(key, item) => {
                let put = Put::builder().table_name(&self.name).set_item(Some(item.attributes(&key, 1))).build();
                builder.put(put.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
            Write::Delete(key) => {
                let delete = Delete::builder().table_name(&self.name).set_key(Some(key.attributes())).build();
                builder.delete(delete.map_err(|e| self.shape(&key.pk, &key.sk, e))?)
            }
        };
        Ok(built.build())
    }

    fn record<T: DeserializeOwned>(&self, item: HashMap<String, AttributeValue>) -> Result<Record<T>, TableError> {
        let text = |name: &str| item.get(name).and_then(|v| v.as_s().ok()).map_or("", String::as_str);
        let (pk, sk) = (text("pk"), text("sk"));
        let rev = item
            .get("rev")
            .and_then(|v| v.as_n().ok())
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| self.shape(pk, sk, "has no revision"))?;
        let body = serde_json::from_str(text("body")).map_err(|e| self.shape(pk, sk, e))?;
        Ok(Record { key: Key::new(pk, sk), rev, body })
    }

    fn shape(&self, pk: &str, sk: &str, problem: impl std::fmt::Display) -> TableError {
        TableError::Shape { pk: pk.into(), sk: sk.into(), problem: problem.to_string() }
    }
}
