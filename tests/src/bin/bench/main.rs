//! The benchmarks: our runner and our restore against the stock tools, on one database, in one run; then the memory of
//! both on databases of unusual shapes, and on one with a hundred thousand tables. What is reported of the first are
//! ratios of medians of interleaved runs, for absolute times belong to the machine; of the others, peaks beside the
//! bounds that the code states.
//!
//! `make bench` builds the programs and runs this. `BENCH_ONLY` chooses `shop`, only its `restore`, `shapes` or
//! `tenants`. `BENCH_MEGABYTES` sets the shop's size (default 1,000), `BENCH_RUNS` the repetitions (default 5; -Z9 and
//! -Z6 run once), `BENCH_MAJORS` the Postgres majors (default 15,17; the last two benchmarks take the last).
//! `BENCH_RAW_GIGABYTES` is the size of the largest shape (default 4), which needs some five times that on the disk.

mod measure;
mod shapes;
mod shop;
mod world;

use anyhow::{Result, bail};
use walwarden_tests::Postgres;

fn main() -> Result<()> {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let known = ["", "shop", "restore", "shapes", "tenants"];
    if !known.contains(&only.as_str()) {
        bail!("BENCH_ONLY is {only:?}\nhint: shop, restore, shapes or tenants; without it all");
    }
    let wants = |name: &str| only.is_empty() || only == name;
    let (dumps, restore) = (wants("shop"), wants("shop") || only == "restore");
    let wanted = std::env::var("BENCH_MAJORS").unwrap_or_else(|_| "15,17".into());
    let (majors, missing): (Vec<u8>, Vec<u8>) = wanted
        .split(',')
        .filter_map(|major| major.trim().parse::<u8>().ok())
        .partition(|major| Postgres::majors_available().contains(major));
    for major in missing {
        println!("Postgres {major}: not installed, not measured");
    }
    let runs = number("BENCH_RUNS", 5) as usize;
    for major in majors.iter().filter(|_| dumps || restore) {
        let bench = shop::Bench::new(*major, number("BENCH_MEGABYTES", 1_000))?;
        if dumps {
            bench.dumps(runs)?;
        }
        if restore {
            bench.restore(runs)?;
        }
    }
    let Some(&major) = majors.last() else { return Ok(()) };
    if wants("shapes") {
        shapes::run(major, number("BENCH_RAW_GIGABYTES", 4))?;
    }
    if wants("tenants") {
        shapes::tenants(major)?;
    }
    Ok(())
}
