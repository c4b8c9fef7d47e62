//! Walwarden's evidence: the formats, and their verification without network or trust in a server.
//!
//! This crate *is* the definition of the formats: whoever produces evidence uses these types. It
//! refuses to know networks, clocks, async or any cloud.

pub mod annex;
pub mod archive;
pub mod bundle;
pub mod checkpoint;
pub mod dsse;
pub mod entry;
pub mod ids;
pub mod jcs;
pub mod keys;
pub mod manifest;
pub mod merkle;
pub mod parts;
pub mod receipt;
pub mod verify;
