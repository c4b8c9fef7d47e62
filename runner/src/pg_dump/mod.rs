//! pg_dump as a child process: the server's own major, an environment of its own, killed when we go.

mod invocation;
mod messages;
mod process;
mod programs;

pub use invocation::{Invocation, Wishes};
pub use process::{End, Ender, Process};
pub use programs::{PgDump, find};
