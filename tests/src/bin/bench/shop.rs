//! The runner and the restore against pg_dump and pg_restore on a shop: ratios.

use std::{fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result};
use serde_json::json;
use walwarden_tests::{Postgres, Sample};

use super::{
    measure::{Measured, measure, release},
    world::{BUCKET, BackedUp, World},
};

pub struct Bench {
    major: u8,
    source: Postgres,
    scratch: tempfile::TempDir,
}

impl Bench {
    pub fn new(major: u8, megabytes: u64) -> Result<Self> {
        let source = Postgres::start(major)?;
        let begun = Instant::now();
        Sample::realistic(megabytes * 1_000_000).create(&source, "bench")?;
        println!(
            "\nPostgres {}, a shop of {} ({:.0} s to load), {} cores",
            source.query_one("bench", "SHOW server_version")?,
            source.query_one("bench", "SELECT pg_size_pretty(pg_database_size('bench'))")?,
            begun.elapsed().as_secs_f64(),
            std::thread::available_parallelism()?,
        );
        // So that no run meets a checkpoint or an autovacuum that another did not.
        source.run_sql("bench", "VACUUM ANALYZE")?;
        source.run_sql("bench", "CHECKPOINT")?;
        Ok(Self { major, source, scratch: tempfile::Builder::new().prefix("ww-bench-").tempdir()? })
    }

    /// The runner against pg_dump.
    pub fn dumps(&self, runs: usize) -> Result<()> {
        let zstd = self.major >= 16 && Postgres::client_supports_zstd(self.major);
        let peers = ["-Z9", "-Z6", "-Z0"].into_iter().chain(zstd.then_some("--compress=zstd:3"));
        let mut columns: Vec<(String, Vec<Measured>)> = peers.map(|p| (format!("pg_dump -Fc {p}"), vec![])).collect();
        let mut codecs = vec!["gzip:6"];
        if self.major >= 16 {
            codecs.push("zstd:3");
        }
        columns.extend(codecs.iter().map(|c| (format!("runner {c}"), vec![])));
        for run in 0..runs {
            for (name, measured) in &mut columns {
                // The slow peers are so far behind that one run shows it; the others differ by less than runs do.
                if (name.ends_with("-Z9") || name.ends_with("-Z6")) && run > 0 {
                    continue;
                }
                measured.push(self.dump(name)?);
            }
        }
        let median = |name: &str| {
            let (_, measured) = columns.iter().find(|(n, _)| n == name)?;
            let mut seconds: Vec<f64> = measured.iter().map(|m| m.seconds).collect();
            seconds.sort_by(f64::total_cmp);
            seconds.get(seconds.len() / 2).copied()
        };
        for (name, measured) in &columns {
            let peak = measured.iter().map(|m| m.peak_kib).max().unwrap_or_default();
            let seconds = measured.iter().map(|m| m.seconds);
            let (least, most) = (seconds.clone().fold(f64::MAX, f64::min), seconds.fold(0.0, f64::max));
            println!(
                "  {name:<30} {:>6.1} s ({least:.1} to {most:.1})   peak RSS {:>5.1} MiB",
                median(name).unwrap_or(f64::NAN),
                peak as f64 / 1024.0
            );
        }
        for codec in codecs {
            let ours = median(&format!("runner {codec}")).unwrap_or(f64::NAN);
            let goal = if codec.starts_with("gzip") { 0.20 } else { 0.12 };
            ratio(
                &format!("runner {codec} ÷ pg_dump -Fc -Z9"),
                ours / median("pg_dump -Fc -Z9").unwrap_or(f64::NAN),
                Some(goal),
            );
            ratio(
                &format!("runner {codec} ÷ pg_dump -Fc -Z0 (one COPY stream)"),
                ours / median("pg_dump -Fc -Z0").unwrap_or(f64::NAN),
                None,
            );
            if codec == "zstd:3" && zstd {
                ratio(
                    "runner zstd:3 ÷ pg_dump -Fc --compress=zstd:3",
                    ours / median("pg_dump -Fc --compress=zstd:3").unwrap_or(f64::NAN),
                    Some(0.95),
                );
            }
            let peer = if codec == "gzip:6" {
                Some("pg_dump -Fc -Z6")
            } else {
                zstd.then_some("pg_dump -Fc --compress=zstd:3")
            };
            if let Some(peer) = peer {
                let size = |name: &str| -> Result<f64> { Ok(fs::metadata(self.artifact(name))?.len() as f64) };
                ratio(
                    &format!("artifact size, {codec} ÷ {peer}"),
                    size(&format!("runner {codec}"))? / size(peer)?,
                    Some(1.01),
                );
            }
            let peaks = columns.iter().filter(|(n, _)| *n == format!("runner {codec}")).flat_map(|(_, m)| m);
            let peak = peaks.map(|m| m.peak_kib).max().unwrap_or_default() as f64 / 1024.0;
            println!(
                "  {:<58} {peak:>6.1} MiB  {}",
                format!("runner {codec}: peak RSS"),
                verdict(peak <= 96.0, "≤ 96 MiB")
            );
        }
        Ok(())
    }

    fn artifact(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name.replace([' ', ':', '='], "_"))
    }

    fn dump(&self, name: &str) -> Result<Measured> {
        let out = self.artifact(name);
        let mut command = match name.strip_prefix("runner ") {
            Some(codec) => {
                let mut command = Command::new(release("walwarden-runner")?);
                command.args(["dump-to-file", "--out"]).arg(&out).args(["--compression", codec]);
                command.env("WALWARDEN_SOURCE_DSN", self.source.dsn("bench"));
                command.env("WALWARDEN_PG_BIN", self.source.bin_dir()).env("RUST_LOG", "error");
                command
            }
            None => {
                let mut command = self.source.command("pg_dump", "bench");
                command.args(name.split(' ').skip(1)).arg("-f").arg(&out);
                command
            }
        };
        measure(&mut command).with_context(|| name.to_owned())
    }

    /// Our restore of a backup in a bucket, against curl to a file and pg_restore of it.
    pub fn restore(&self, runs: usize) -> Result<()> {
        let world = World::start(self.source.bin_dir(), self.scratch.path())?;
        let gzip = json!({ "codec": "gzip", "level": 6 });
        let database = world.database("bench", &self.source.dsn("bench"), &world.destination(None)?, Some(gzip))?;
        let backup = world.backup(&database)?;
        println!("  a whole backup into the bucket  {:>5.1} s", backup.seconds);
        let target = Postgres::start(self.major)?;
        // A new cluster makes its WAL files in its first restore and uses them again in the next.
        self.stock(&world, &backup, &target)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for run in 0..runs {
            // By turns, so that neither always meets what the other left to be written.
            for turn in 0..2 {
                if (run + turn) % 2 == 0 {
                    let restore = &mut world.restore(&backup, &target, "ours", false)?;
                    ours.push(measure(restore).context("walwarden restore")?.seconds);
                    target.run_sql("postgres", "DROP DATABASE ours")?;
                } else {
                    theirs.push(self.stock(&world, &backup, &target)?);
                }
                target.run_sql("postgres", "CHECKPOINT")?;
            }
        }
        println!("  in turn: ours {ours:.1?}, stock {theirs:.1?}");
        let proven = measure(&mut world.restore(&backup, &target, "proven", true)?).context("walwarden restore")?;
        let median = |seconds: &mut Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        println!("  {:<28} {ours:>7.1} s", "walwarden restore");
        println!("  {:<28} {theirs:>7.1} s", "curl, then pg_restore -j");
        println!("  {:<28} {:>7.1} s", "walwarden restore --prove", proven.seconds);
        ratio("restore ÷ (curl to a file, then pg_restore -j)", ours / theirs, Some(1.05));
        Ok(())
    }

    /// What a careful operator without us would type; how many seconds it takes.
    fn stock(&self, world: &World, backup: &BackedUp, target: &Postgres) -> Result<f64> {
        let file = self.scratch.path().join("fetched");
        let config = self.scratch.path().join("s3.curl");
        let bucket = &world.bucket;
        fs::write(&config, format!("user = \"{}:{}\"\n", bucket.access_key, bucket.secret_key))?;
        let begun = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--aws-sigv4", &format!("aws:amz:{}:s3", bucket.region()), "-K"]).arg(&config);
        curl.arg("-o").arg(&file).arg(format!("{}/{BUCKET}/{}", bucket.endpoint(), backup.key));
        measure(&mut curl).context("curl")?;
        target.create_database("theirs")?;
        let mut restore = target.command("pg_restore", "theirs");
        restore.args(["--exit-on-error", "-j", "2", "-d", "theirs"]).arg(&file);
        measure(&mut restore).context("pg_restore")?;
        let seconds = begun.elapsed().as_secs_f64();
        target.run_sql("postgres", "DROP DATABASE theirs")?;
        Ok(seconds)
    }
}

fn ratio(name: &str, value: f64, goal: Option<f64>) {
    let verdict = goal.map(|g| verdict(value <= g, &format!("≤ {g}"))).unwrap_or_default();
    println!("  {name:<58} {value:>6.3}      {verdict}");
}

fn verdict(met: bool, goal: &str) -> String {
    format!("goal {goal}: {}", if met { "met" } else { "NOT met" })
}
