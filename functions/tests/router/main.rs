//! Behaviour through the front doors, in one process: requests go through both routers, state lies in an embedded table
//! that speaks DynamoDB's wire protocol, bytes in a real S3 server, and the test turns the clock.
//!
//! Real processes (runner, CLI, server) are for `tests/`; rules of one type are beside their code.

mod api;
mod audit;
mod bodies;
mod bucket;
mod failures;
mod idempotency;
mod life;
mod lists;
mod logs;
mod moves;
mod placed;
mod races;
mod registry;
mod restores;
mod schedule;
mod sealing;
mod secrets;
mod sequences;
mod stack;
mod tokens;
mod workers;
