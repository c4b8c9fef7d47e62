//! The product from outside: the real server, runner, CLI and verifier over a real Postgres and a real S3 server. Only
//! their public faces are used; where a test needs a fault, a proxy makes it or a process is killed.
//!
//! One binary, so that it links once. Every test may run beside every other one, in this process or another.

mod api;
mod concurrency;
mod evidence;
mod failures;
mod files;
mod holder;
mod majors;
mod pages;
mod partial;
mod patience;
mod platforms;
mod poolers;
mod program;
mod proof;
mod proxy;
mod refusals;
mod restore;
mod rooms;
mod sealer;
mod server;
mod stack;
