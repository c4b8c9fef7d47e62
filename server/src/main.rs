//! `walwarden-server`: Walwarden as one process. It wires what the other crates provide and has no rules of
//! its own: `up` is the development stack and the single-node self-hosted install, `demo` shows the
//! product's main job on a throwaway database.

mod data;
mod demo;
mod stack;
mod up;

use std::io::IsTerminal;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "walwarden-server", version, about = "Walwarden as one process", propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole product on this machine
    Up(up::UpArguments),
    /// Back up a sample database, restore it, prove it, verify the evidence; then stop everything
    Demo(demo::DemoArguments),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // The embedded table warns of every refused condition; here they are how writers meet.
        "warn,walwarden=info,walwarden_core=info,walwarden_functions=info,walwarden_server=info,dynoxide=error".into()
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match Arguments::parse().command {
        Command::Up(arguments) => up::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
