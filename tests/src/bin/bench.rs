//! The benchmarks: our runner and our restore against the stock tools, on one database, in one run. What is
//! reported are ratios of medians of interleaved runs; absolute times belong to the machine.
//!
//! `make bench` builds the programs and runs this. `BENCH_MEGABYTES` sets the size (default 1,000),
//! `BENCH_RUNS` the repetitions (default 5; -Z9 and -Z6 run once), `BENCH_MAJORS` the Postgres majors (default 15,17).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walwarden_tests::{Postgres, Sample, Seaweed, tools};

fn main() -> Result<()> {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (megabytes, runs) = (number("BENCH_MEGABYTES", 1_000), number("BENCH_RUNS", 5) as usize);
    let majors = std::env::var("BENCH_MAJORS").unwrap_or_else(|_| "15,17".into());
    for major in majors.split(',').filter_map(|m| m.trim().parse().ok()) {
        if !Postgres::majors_available().contains(&major) {
            println!("Postgres {major}: not installed, not measured");
            continue;
        }
        Bench::new(major, megabytes)?.run(runs)?;
    }
    Ok(())
}

struct Bench {
    major: u8,
    source: Postgres,
    scratch: tempfile::TempDir,
}

/// One run of a program.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    peak_kib: u64,
}

impl Bench {
    fn new(major: u8, megabytes: u64) -> Result<Self> {
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

    fn run(&self, runs: usize) -> Result<()> {
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
        self.restore(runs)
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
    fn restore(&self, runs: usize) -> Result<()> {
        let world = World::start(self)?;
        let backup = world.backup(self)?;
        let target = Postgres::start(self.major)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for run in 0..runs {
            let name = format!("ours_{run}");
            ours.push(world.restore(&backup, &target, &name, false)?.seconds);
            target.run_sql("postgres", &format!("DROP DATABASE {name}"))?;
            theirs.push(world.stock(&backup, &target, self)?.seconds);
            target.run_sql("postgres", "DROP DATABASE theirs")?;
        }
        let proven = world.restore(&backup, &target, "proven", true)?;
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
}

/// A server, a bucket, a registered database.
struct World {
    server: std::process::Child,
    bucket: Seaweed,
    url: String,
    token: String,
    database: String,
    directory: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A backup and how a person with only the bucket would fetch it.
struct BackedUp {
    id: String,
    key: String,
}

impl World {
    fn start(bench: &Bench) -> Result<Self> {
        let directory = bench.scratch.path().to_owned();
        let bucket = Seaweed::start()?;
        bucket.create_locked_bucket("bench")?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let url = format!("http://127.0.0.1:{port}");
        let data = directory.join("data");
        let server = Command::new(walwarden_tests::bin("walwarden-server"))
            .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(&data)
            .arg("--runner")
            .arg(release("walwarden-runner")?)
            .env("WALWARDEN_PG_BIN", bench.source.bin_dir())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("server.log"))?)
            .spawn()?;
        let mut world = Self { server, bucket, url, token: String::new(), database: String::new(), directory };
        let begun = Instant::now();
        let config = data.join("api.curl");
        while !config.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the server did not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = fs::read_to_string(&config)?;
        world.token = text.split("Bearer ").nth(1).and_then(|t| t.split('"').next()).context("no token")?.to_owned();
        let destination = world.call("POST", "/destinations", json!({
            "name": "bench", "provider": "s3_compatible", "endpoint": world.bucket.endpoint(), "region": world.bucket.region(),
            "bucket": "bench", "accessKeyId": world.bucket.access_key, "secretAccessKey": world.bucket.secret_key,
        }))?;
        let destination = field(&destination, "/id")?;
        world.call("POST", &format!("/destinations/{destination}/preflight"), Value::Null)?;
        let database = world.call(
            "POST",
            "/databases",
            json!({
                "name": "bench", "dsn": bench.source.dsn("bench"), "destinationId": destination,
                "compression": { "codec": "gzip", "level": 6 },
            }),
        )?;
        world.database = field(&database, "/id")?;
        Ok(world)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let (url, token, method) = (format!("{}/api/v1{path}", self.url), self.token.clone(), method.parse()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut request = reqwest::Client::new().request(method, url).bearer_auth(token);
            request = request.header("idempotency-key", format!("{:?}", Instant::now()));
            if !body.is_null() {
                request = request.json(&body);
            }
            let response = request.send().await?;
            let (status, value) = (response.status(), response.json::<Value>().await?);
            ensure!(status.is_success(), "{status}: {value}");
            Ok(value)
        })
    }

    fn backup(&self, bench: &Bench) -> Result<BackedUp> {
        let triggered = self.call("POST", &format!("/databases/{}/backups", self.database), Value::Null)?;
        let id = field(&triggered, "/backupJobId")?;
        let begun = Instant::now();
        loop {
            let job = self.call("GET", &format!("/backups/{id}"), Value::Null)?;
            if job["final"] == true {
                ensure!(job["state"] == "completed", "backup: {job}");
                println!("  a whole backup into the bucket  {:>5.1} s", begun.elapsed().as_secs_f64());
                return Ok(BackedUp { id, key: field(&job, "/artifact/key")? });
            }
            ensure!(begun.elapsed() < Duration::from_secs(900), "the backup of {} did not end", bench.major);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn restore(&self, backup: &BackedUp, target: &Postgres, name: &str, prove: bool) -> Result<Measured> {
        let created = self.call("POST", "/restores", json!({ "backupJobId": backup.id, "mode": "new_database" }))?;
        let mut command = Command::new(release("walwarden")?);
        command.args(["restore", "--mode", "new_database", "--created-database", name, "--jobs", "2", "--manifest"]);
        command.arg(field(&created, "/manifestHash")?).arg("--pg-bin").arg(target.bin_dir());
        if prove {
            command.arg("--prove");
        }
        command.env("WALWARDEN_TOKEN", field(&created, "/token")?).env("WALWARDEN_BASE_URL", &self.url);
        command.env("WALWARDEN_TARGET", target.dsn("postgres")).env("TMPDIR", &self.directory);
        measure(&mut command).context("walwarden restore")
    }

    /// What a careful operator without us would type.
    fn stock(&self, backup: &BackedUp, target: &Postgres, bench: &Bench) -> Result<Measured> {
        let file = bench.scratch.path().join("fetched");
        let config = bench.scratch.path().join("s3.curl");
        fs::write(&config, format!("user = \"{}:{}\"\n", self.bucket.access_key, self.bucket.secret_key))?;
        let begun = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--aws-sigv4", &format!("aws:amz:{}:s3", self.bucket.region()), "-K"]).arg(&config);
        curl.arg("-o").arg(&file).arg(format!("{}/bench/{}", self.bucket.endpoint(), backup.key));
        measure(&mut curl).context("curl")?;
        target.create_database("theirs")?;
        let mut restore = target.command("pg_restore", "theirs");
        restore.args(["--exit-on-error", "-j", "2", "-d", "theirs"]).arg(&file);
        measure(&mut restore).context("pg_restore")?;
        Ok(Measured { seconds: begun.elapsed().as_secs_f64(), peak_kib: 0 })
    }
}

fn ratio(name: &str, value: f64, goal: Option<f64>) {
    let verdict = goal.map(|g| verdict(value <= g, &format!("≤ {g}"))).unwrap_or_default();
    println!("  {name:<58} {value:>6.3}      {verdict}");
}

fn verdict(met: bool, goal: &str) -> String {
    format!("goal {goal}: {}", if met { "met" } else { "NOT met" })
}

fn field(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no {pointer} in {value}"))
}

fn release(name: &str) -> Result<PathBuf> {
    let path = tools::repository().join("target/release").join(name);
    ensure!(path.is_file(), "{} is not built\nhint: make bench builds it", path.display());
    Ok(path)
}

/// Runs a program to its end; its peak memory as the kernel last told it.
fn measure(command: &mut Command) -> Result<Measured> {
    let said = tempfile::NamedTempFile::new()?;
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.reopen()?).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let result = loop {
        peak_kib = peak_of(Path::new(&status)).unwrap_or(0).max(peak_kib);
        if let Some(result) = child.try_wait()? {
            break result;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(result.success(), "ended with {result}: {}", fs::read_to_string(said.path()).unwrap_or_default());
    Ok(Measured { seconds: begun.elapsed().as_secs_f64(), peak_kib })
}

fn peak_of(status: &Path) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").trim().parse().ok()
}
