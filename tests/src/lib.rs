//! What the end-to-end tests share: real servers started as child processes, and the sample databases.
//!
//! Nothing here imitates a server. Postgres, S3 and KMS are the pinned programs that `tests/tools/install.sh` puts below
//! `.tools/`; every instance has its own directory, ports and random credentials, so that tests run side by side, and
//! all of it is gone when the value that owns it is dropped or the test process dies, by whatever means.
//!
//! Calls block; they may be made from async tests too.

mod blocking;
mod guard;
mod ports;
mod random;

pub mod bin;
pub mod lambda;
pub mod ministack;
pub mod platform;
pub mod postgres;
pub mod sample;
pub mod seaweed;
pub mod tools;

pub use bin::bin;
pub use lambda::LambdaRuntime;
pub use ministack::Ministack;
pub use platform::{Login, Platform};
pub use postgres::Postgres;
pub use sample::Sample;
pub use seaweed::Seaweed;
