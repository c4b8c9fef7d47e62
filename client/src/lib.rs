//! Walwarden's Rust SDK: HTTP with retries, idempotency keys and job sessions. It refuses to know what
//! a backup is; it moves the types of `walwarden-contract` back and forth.

mod http;
pub mod worker;

pub use http::{ApiClient, ClientError, RetryPolicy};
