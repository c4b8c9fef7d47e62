//! `walwarden-runner`: does one backup or check job, and ends.

use std::{future::Future, io::IsTerminal, process::ExitCode};

use walwarden_contract::exit::ExitCode as Code;
use walwarden_runner::{config, job, to_file};

const USAGE: &str = "\
walwarden-runner                 does the job that WALWARDEN_JOB_ID names (started by the dispatcher)
walwarden-runner dump-to-file    dumps WALWARDEN_SOURCE_DSN into a file: a measuring aid, not a backup
    --out FILE                   where the archive goes; /dev/null to measure
    --annex FILE                 where the annex goes
    --compression CODEC:LEVEL    gzip:1 to gzip:9, zstd:1 to zstd:19";

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(config::log_filter()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => config::Config::from_env().and_then(|config| run(job::run(config))),
        ["dump-to-file", options @ ..] => {
            to_file::Options::parse(options).and_then(|options| run(to_file::run(options)))
        }
        ["--version"] => {
            println!("walwarden-runner {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match result {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(work: impl Future<Output = anyhow::Result<Code>>) -> anyhow::Result<Code> {
    // Compressing has its own threads; these only move bytes.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build()?;
    let result = runtime.block_on(work);
    // A host that asked us to stop does not wait for what is still being digested.
    runtime.shutdown_background();
    result
}
