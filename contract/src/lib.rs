//! Walwarden's public surface as data: what the API, the worker protocol and the programs agree on.
//! It refuses to do I/O; whoever serves or calls brings their own.

pub mod address;
pub mod api;
pub mod dsn;
pub mod errors;
pub mod exit;
pub mod failure;
pub mod ids;
pub mod parts;
pub mod quote;
pub mod scopes;
pub mod secret;
pub mod selection;
pub mod states;
pub mod time;
pub mod token;
pub mod worker;
