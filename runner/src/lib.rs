//! The runner: one backup or check job, from claim to finish, somewhere near the database.
//!
//! It talks to a database someone else controls, so it holds no power: no signing key, no table, no storage
//! credentials. What it can do is what its job session grants, one presigned URL at a time. The only thing it starts is
//! `pg_dump`, in an environment of its own.
//!
//! The path of the bytes: [`source`] opens a snapshot and reads what the annex needs, [`pg_dump`] dumps that snapshot,
//! [`pipeline`] rewrites the archive in flight, [`storage`] uploads it in parts. [`dump`] joins the first three, for
//! [`backup`] and for [`to_file`] alike; [`job`] is the life of one process.

pub mod annex;
pub mod backup;
pub mod check;
pub mod config;
pub mod dump;
pub mod fault;
pub mod job;
pub mod pg_dump;
pub mod pipeline;
pub mod progress;
pub mod source;
pub mod storage;
pub mod to_file;
