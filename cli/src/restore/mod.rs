//! A restore: checked, planned, downloaded, verified, run by stock pg_restore, proven.

pub mod access;
pub mod artifact;
pub mod database;
pub mod delivery;
pub mod download;
pub mod ending;
pub mod engine;
pub mod evidence;
pub mod fate;
pub mod fetch;
pub mod guards;
pub mod later;
pub mod plan;
pub mod prepare;
pub mod programs;
pub mod prove;
pub mod session;
pub mod steps;
pub mod target;
pub mod transaction;
pub mod watch;
pub mod workspace;
