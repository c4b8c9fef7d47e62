//! Memory on databases of unusual shapes: whole backups through the server into a bucket, restored by the CLI and
//! proven. Each peak stands beside the bound that the code states for it. A bound that does not hold is printed, and
//! fails nothing: what it should be is decided by who reads this.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walwarden_tests::{Postgres, Sample};

use super::{
    measure::{Peaks, measure_all, watched},
    world::{BUCKET, BackedUp, World},
};

const MIB: u64 = 1 << 20;

/// What the pipeline may hold (`memory_bytes` in `runner/src/pipeline/mod.rs`).
const PIPELINE_BYTES: u64 = 40 * MIB;
/// Buffers for parts, and how many remain once parts are larger than that (`runner/src/storage/parts.rs`).
const PART_BUFFERS: u64 = 3;
const LARGE_PART_BUFFERS: u64 = 2;
const LARGE_PART_BYTES: u64 = 16 * MIB;
/// Ranges a download has under way, whole (`IN_FLIGHT` and `RANGE_BYTES` in `cli/src/restore/download/mod.rs`).
const RANGES_BYTES: u64 = 4 * 8 * MIB;
/// What either program has whatever it reads: its code, stacks, connections, TLS, what the allocator does not give back.
/// The first shape shows what it is without TLS.
const FIXED_BYTES: u64 = 16 * MIB;
/// What the runner keeps of an entry of the archive, and the CLI of a record of the annex: names and what refers to
/// them, twice over while one form is made from the other.
const ENTRY_BYTES: u64 = 1 << 10;

const TABLES: u64 = 10_000;
/// A schema for each of a thousand tenants.
const TENANTS_TABLES: u64 = 100_000;
/// What the plan of these may take.
const PLAN_SECONDS: f64 = 10.0;
const PLAN_BYTES: u64 = 300_000_000;
const TABLES_IN_SCHEMA: u64 = 100;
/// COPY's lines, which Postgres holds whole, end at 1 GiB.
const ROW_MEGABYTES: u64 = 900;
/// So few that parts become large.
const FEW_PARTS: u32 = 100;

/// Runs all shapes on this major.
pub fn run(major: u8, gigabytes: u64) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("ww-bench-").tempdir()?;
    let shapes = Shapes::start(major, "512", scratch.path())?;
    println!("\nPostgres {}, memory by shape", shapes.source.query_one("postgres", "SHOW server_version")?);
    shapes.measure("nothing but a table", "tiny", 0, |source, name| {
        source.create_database(name)?;
        source.run_sql(name, "CREATE TABLE tiny (id integer PRIMARY KEY); INSERT INTO tiny VALUES (1)")
    })?;
    shapes.measure(&format!("a row of {ROW_MEGABYTES} MB"), "wide", ROW_MEGABYTES * 1_000_000, wide)?;
    shapes.measure(&format!("{TABLES} tables"), "many", 0, |source, name| many(source, name, TABLES))?;
    shapes.measure(&format!("{gigabytes} GB of rows"), "large", 0, |source, name| {
        Sample::realistic(gigabytes * 1_000_000_000).create(source, name)
    })
}

/// A schema for each tenant: how long the plan takes, and what it and all else need.
pub fn tenants(major: u8) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("ww-bench-").tempdir()?;
    // So many that a restore in place is not refused for want of them.
    let shapes = Shapes::start(major, "16384", scratch.path())?;
    println!("\nPostgres {}, a schema per tenant", shapes.source.query_one("postgres", "SHOW server_version")?);
    shapes.measure(&format!("{TENANTS_TABLES} tables"), "tenants", 0, |source, name| many(source, name, TENANTS_TABLES))
}

/// A text that compresses some three times. Cut from a block longer than any compressor looks back, so that its
/// repetition is not seen.
fn wide(source: &Postgres, name: &str) -> Result<()> {
    const BLOCKS: u64 = 100;
    let block_bytes = ROW_MEGABYTES * 1_000_000 / BLOCKS;
    source.create_database(name)?;
    source.run_sql(
        name,
        &format!(
            "CREATE TABLE wide (id integer PRIMARY KEY, body text);
             ALTER TABLE wide ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO wide SELECT 1, repeat(left(string_agg(line, '' ORDER BY n), {block_bytes}), {BLOCKS})
               FROM generate_series(1, {block_bytes} / 80) n, LATERAL (SELECT
                    'order ' || n || ' of customer ' || md5(n::text) || ' placed '
                    || timestamp '2024-01-01' + hashint8(n) / 40 * interval '1 second' || ', paid '
                    || abs(hashint8(n + 7)) % 1000000 / 100.0 || ' and sent on the next day; ' AS line) lines;"
        ),
    )
}

fn many(source: &Postgres, name: &str, tables: u64) -> Result<()> {
    source.create_database(name)?;
    let mut script = String::new();
    for schema in 0..tables / TABLES_IN_SCHEMA {
        // A block is a transaction: one over all tables would need a lock for each.
        writeln!(
            script,
            "DO $$ BEGIN
               CREATE SCHEMA part_{schema};
               FOR n IN 1..{TABLES_IN_SCHEMA} LOOP
                 EXECUTE format('CREATE TABLE part_{schema}.table_%s (id bigint PRIMARY KEY, name text NOT NULL, at timestamptz)', n);
                 EXECUTE format('INSERT INTO part_{schema}.table_%s SELECT i, md5(i::text), ''2026-01-01'' FROM generate_series(1, 5) i', n);
               END LOOP;
             END $$;"
        )?;
    }
    source.run_sql(name, &script)
}

struct Shapes {
    world: World,
    source: Postgres,
    target: Postgres,
}

impl Shapes {
    /// pg_dump and the proof hold a lock on every table until they are done; 64 for each session would be too few.
    fn start(major: u8, locks: &str, scratch: &std::path::Path) -> Result<Self> {
        let locks = [("max_locks_per_transaction", locks)];
        let (source, target) = (Postgres::start_with(major, &locks)?, Postgres::start_with(major, &locks)?);
        let world = World::start(source.bin_dir(), scratch)?;
        Ok(Self { world, source, target })
    }

    /// Makes the database, measures, and drops it. `longest_row` is in bytes, or 0 where it is of no account.
    fn measure(
        &self,
        title: &str,
        name: &str,
        longest_row: u64,
        make: impl Fn(&Postgres, &str) -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        make(&self.source, name).with_context(|| title.to_owned())?;
        self.source.run_sql(name, "VACUUM ANALYZE; CHECKPOINT")?;
        println!("\n  {title} ({:.0} s to load)", begun.elapsed().as_secs_f64());
        let backup = self.back_up(name, None).with_context(|| title.to_owned())?;
        if name == "tenants" {
            self.plan(name, &backup).with_context(|| title.to_owned())?;
        }
        self.restore(name, &backup, longest_row).with_context(|| title.to_owned())?;
        if name == "large" {
            println!("\n  the same, in at most {FEW_PARTS} parts");
            self.back_up(name, Some(FEW_PARTS)).with_context(|| title.to_owned())?;
        }
        self.source.run_sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))
    }

    fn back_up(&self, name: &str, part_cap: Option<u32>) -> Result<Made> {
        let zstd = self.source.major() < 16 || Postgres::client_supports_zstd(self.source.major());
        let compression = (!zstd).then(|| json!({ "codec": "gzip", "level": 6 }));
        let destination = self.world.destination(part_cap)?;
        let label = format!("{name} {}", part_cap.unwrap_or_default());
        let database = self.world.database(&label, &self.source.dsn(name), &destination, compression)?;
        let (backup, peaks) = watched(self.world.server(), || self.world.backup(&database))?;
        let made = Made::look(&self.world, backup)?;
        println!(
            "    raw {:.1} MB, artifact {:.1} MB ({}), parts {} (largest {:.1} MiB), tables {}, entries {}",
            made.row_bytes as f64 / 1e6,
            made.size_bytes as f64 / 1e6,
            made.backup.artifact["compression"].as_str().unwrap_or("?"),
            made.parts,
            mib(made.largest_part_bytes),
            made.tables,
            made.entries,
        );
        let seconds = made.backup.seconds;
        println!("    {:<12} {seconds:>7.1} s", "backup");
        let buffers = if made.largest_part_bytes > LARGE_PART_BYTES { LARGE_PART_BUFFERS } else { PART_BUFFERS };
        tell(
            &peaks,
            "walwarden-runner",
            &[
                (PIPELINE_BYTES, "pipeline"),
                // An artifact that ends before all buffers were in use has touched no more of them than it is long.
                ((buffers * made.largest_part_bytes).min(made.size_bytes), &format!("for {buffers} parts")),
                (FIXED_BYTES, "fixed"),
                (made.entries * ENTRY_BYTES, "entries"),
            ],
        );
        tell(&peaks, "pg_dump", &[]);
        Ok(made)
    }

    /// Both modes' plans; in place over the source itself, where there is most to look at.
    fn plan(&self, name: &str, made: &Made) -> Result<()> {
        let mut beside = self.world.restore(&made.backup, &self.target, &format!("{name}_restored"), false)?;
        let mut over = self.world.restore_in_place(&made.backup, &self.source, name)?;
        for (mode, command) in [("new database", &mut beside), ("in place", &mut over)] {
            let (seconds, peaks, _) = measure_all(command.arg("--plan"))?;
            let peak = peaks.of("walwarden");
            let verdict = if seconds < PLAN_SECONDS && peak < PLAN_BYTES { "within" } else { "OVER" };
            println!(
                "    plan, {mode:<12} {seconds:>6.1} s   peak RSS {:>7.1} MiB   {verdict} {PLAN_SECONDS} s and {:.1} MiB",
                mib(peak),
                mib(PLAN_BYTES)
            );
        }
        Ok(())
    }

    fn restore(&self, name: &str, made: &Made, longest_row: u64) -> Result<()> {
        let restored = format!("{name}_restored");
        let mut command = self.world.restore(&made.backup, &self.target, &restored, true)?;
        let (seconds, peaks, said) = measure_all(&mut command).context("walwarden restore")?;
        let documents = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let verdict = documents.filter_map(|document| document["verdict"].as_str().map(str::to_owned)).next_back();
        println!("    {:<12} {seconds:>7.1} s   {}", "restore", verdict.unwrap_or_else(|| "not proven".into()));
        tell(
            &peaks,
            "walwarden",
            &[
                (RANGES_BYTES.min(made.size_bytes), "ranges"),
                (made.annex_bytes + made.records * ENTRY_BYTES, "annex"),
                (FIXED_BYTES, "fixed"),
                // COPY sends each row as one message, which the proof reads whole.
                (longest_row, "row"),
            ],
        );
        tell(&peaks, "pg_restore", &[]);
        self.target.run_sql("postgres", &format!("DROP DATABASE {restored} WITH (FORCE)"))
    }
}

/// A backup and what the documents beside it say.
struct Made {
    backup: BackedUp,
    size_bytes: u64,
    /// COPY text of all tables.
    row_bytes: u64,
    parts: usize,
    largest_part_bytes: u64,
    tables: u64,
    entries: u64,
    /// The annex' size as a file, and how many records it has.
    annex_bytes: u64,
    records: u64,
}

impl Made {
    fn look(world: &World, backup: BackedUp) -> Result<Self> {
        let stem = backup.key.strip_suffix(".dump").unwrap_or(&backup.key);
        let document = |name: &str| {
            let key = format!("{stem}.{name}");
            world.bucket.get(BUCKET, &key, None).with_context(|| key.clone())
        };
        let list: Value = serde_json::from_slice(&document("parts.json")?)?;
        let sizes: Vec<u64> =
            list["parts"].as_array().into_iter().flatten().filter_map(|part| part["sizeBytes"].as_u64()).collect();
        let annex = document("annex.jsonl.gz")?;
        let mut made = Self {
            size_bytes: sizes.iter().sum(),
            row_bytes: 0,
            parts: sizes.len(),
            largest_part_bytes: sizes.iter().copied().max().context("no parts")?,
            tables: 0,
            entries: 0,
            annex_bytes: annex.len() as u64,
            records: 0,
            backup,
        };
        for line in unpacked(annex)?.lines() {
            let record: Value = serde_json::from_str(line)?;
            made.records += 1;
            match record["record"].as_str() {
                Some("entry") => made.entries += 1,
                Some("table") => {
                    made.tables += 1;
                    made.row_bytes += record["bytes"].as_u64().unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(made)
    }
}

fn unpacked(bytes: Vec<u8>) -> Result<String> {
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = gzip.stdin.take().context("no pipe to gzip")?;
    let writing = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = gzip.wait_with_output()?;
    writing.join().expect("the writer of gzip's input")?;
    ensure!(output.status.success(), "gzip ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A program's peak, and whether it is within the sum of these.
fn tell(peaks: &Peaks, program: &str, bound: &[(u64, &str)]) {
    let peak = peaks.of(program);
    let mut line = format!("    {program:<16} peak RSS {:>7.1} MiB", mib(peak));
    if !bound.is_empty() {
        let sum = bound.iter().map(|(bytes, _)| bytes).sum();
        let terms: Vec<String> = bound.iter().map(|(bytes, what)| format!("{:.1} {what}", mib(*bytes))).collect();
        let verdict = if peak <= sum { "within" } else { "OVER" };
        line += &format!("   {verdict:<6} {:>6.1} = {}", mib(sum), terms.join(" + "));
    }
    println!("{line}");
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
