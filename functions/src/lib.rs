//! Walwarden's functions, each a router or an event handler with permissions of its own: `api` (public
//! REST), `worker` (what runners and restores speak; it alone decrypts, assumes roles and signs),
//! `dispatch` (starts runners) and `sentinel` (each minute). On AWS each is a Lambda function; in
//! `walwarden-server` they share one process. They hold no rules: those are in `walwarden-core`.

pub mod answer;
pub mod api;
pub mod callers;
pub mod config;
pub mod dispatch;
pub mod sentinel;
pub mod worker;
