//! `dump-to-file`: the path of a backup with a file in place of the bucket. A measuring aid, for `make bench` and for
//! tests that look at archives: what it writes is no backup, for nobody signed it.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::json;
use walwarden_contract::{
    address::AddressPolicy, exit::ExitCode, secret::Secret, selection::Selection, worker::CompressionSetting,
};

use crate::{
    annex,
    config::{Machine, SOURCE_DSN},
    dump::{self, Dumped, Plan, Sink},
    fault::Fault,
    progress::Progress,
};

/// Stands where a backup's id would.
const NO_BACKUP: &str = "bkp_00000000000000000000000000";

/// What the command was told.
#[derive(Debug)]
pub struct Options {
    out: PathBuf,
    annex: Option<PathBuf>,
    compression: Option<CompressionSetting>,
}

impl Options {
    /// Parses the command's arguments.
    pub fn parse(arguments: &[&str]) -> anyhow::Result<Self> {
        let (mut out, mut annex, mut compression) = (None, None, None);
        for pair in arguments.chunks(2) {
            match pair {
                ["--out", path] => out = Some(PathBuf::from(path)),
                ["--annex", path] => annex = Some(PathBuf::from(path)),
                ["--compression", text] => compression = Some(setting(text)?),
                [name, ..] => bail!("{name} is not an option, or lacks its value"),
                [] => {}
            }
        }
        Ok(Self { out: out.context("--out FILE is missing")?, annex, compression })
    }
}

fn setting(text: &str) -> anyhow::Result<CompressionSetting> {
    let (codec, level) = text.split_once(':').unwrap_or((text, ""));
    let level = level.parse().with_context(|| format!("{text} has no level"))?;
    match codec {
        "gzip" => Ok(CompressionSetting::Gzip(level)),
        "zstd" => Ok(CompressionSetting::Zstd(level)),
        _ => bail!("{codec} is neither gzip nor zstd"),
    }
}

struct FileSink(File);

impl Sink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn finish(self) -> io::Result<()> {
        Ok(())
    }
}

/// Dumps, and prints measurements as a line of JSON.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let dsn = Secret::new(std::env::var(SOURCE_DSN).with_context(|| format!("{SOURCE_DSN} is not set"))?);
    let machine = Machine::from_env()?;
    let begun = Instant::now();
    match dump(&options, &dsn, &machine).await {
        Ok((dumped, annex)) => {
            let outcome = &dumped.outcome;
            let measured = json!({
                "sizeBytes": outcome.size_bytes,
                "rawBytes": outcome.raw_bytes,
                "sha256": hex::encode(outcome.sha256),
                "contentsDigest": hex::encode(outcome.contents_digest),
                "entries": outcome.entries.len(),
                "tables": outcome.tables.len(),
                "rows": outcome.rows(),
                "largeObjects": outcome.large_objects.len(),
                "compression": dumped.compression,
                "serverVersion": dumped.server_version.text,
                "pgDumpVersion": dumped.pg_dump_version,
                "snapshotAt": dumped.snapshot_at,
                "annexBytes": annex.as_ref().map(|annex| annex.uncompressed_bytes),
                "annexLines": annex.as_ref().map(|annex| annex.lines),
                "milliseconds": begun.elapsed().as_millis() as u64,
                "peakRssKib": peak_rss_kib(),
            });
            println!("{measured}");
            Ok(ExitCode::Ok)
        }
        Err(fault) => {
            eprintln!("error: {fault}\nhint: {}", fault.class.remedy());
            Ok(fault.exit_code())
        }
    }
}

async fn dump(
    options: &Options,
    dsn: &Secret,
    machine: &Machine,
) -> Result<(Dumped, Option<walwarden_verifier::annex::AnnexSize>), Fault> {
    let file = File::create(&options.out).map_err(|e| Fault::internal("creating the output file", e))?;
    let private = tempfile::Builder::new()
        .prefix("walwarden-")
        .tempdir_in(&machine.work_dir)
        .map_err(|e| Fault::internal("creating a private directory", e))?;
    let progress = Progress::default();
    let prepared =
        dump::prepare(dsn, AddressPolicy { allow_private: true }, &Selection::default(), machine, &progress).await?;
    let compression = dump::compression(options.compression, prepared.snapshot.version().major())?;
    let plan = Plan {
        compression,
        omit_unreadable: false,
        max_bytes: u64::MAX,
        max_duration: Duration::from_secs(7 * 24 * 3600),
    };
    let dumped = prepared.dump(&plan, FileSink(file), machine, private.path(), &progress).await?;
    let Some(path) = &options.annex else { return Ok((dumped, None)) };
    // Whoever measures twice writes twice.
    let _ = std::fs::remove_file(path);
    let size = annex::write(&dumped, NO_BACKUP, 1, path).map_err(|e| Fault::internal("writing the annex", e))?;
    Ok((dumped, Some(size)))
}

/// `VmHWM`: the most memory this process has had.
fn peak_rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parsed = Options::parse(&["--out", "f", "--compression", "zstd:3"]).unwrap();
        assert_eq!((parsed.out, parsed.compression), ("f".into(), Some(CompressionSetting::Zstd(3))));
        for wrong in [&[][..], &["--out"], &["--out", "f", "--compression", "lz4:1"], &["--out", "f", "--other", "x"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
