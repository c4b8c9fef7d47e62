//! The sample databases: a small one with everything, and a shop of any size.

use anyhow::Context;

use crate::postgres::Postgres;

/// A script that fills an empty database, on every supported major.
#[derive(Debug, Clone)]
pub struct Sample {
    small: bool,
    shop_megabytes: Option<u64>,
}

const ROLES: &str = include_str!("../sample/roles.sql");
const SMALL: &str = include_str!("../sample/small.sql");
const SHOP: &str = include_str!("../sample/shop.sql");

impl Sample {
    /// One of everything a dump can contain, some 12 MB of rows; for every test.
    pub fn small() -> Sample {
        Sample { small: true, shop_megabytes: None }
    }

    /// The small one and a shop of some 40 MB beside it.
    pub fn demo() -> Sample {
        Sample { small: true, shop_megabytes: Some(40) }
    }

    /// A shop whose rows, as pg_dump writes them, have at least so many bytes; for measuring.
    pub fn realistic(bytes: u64) -> Sample {
        Sample { small: false, shop_megabytes: Some(bytes.div_ceil(1_000_000).max(1)) }
    }

    /// What creates the roles the small sample names, on the source and on every target; repeatable.
    pub fn roles_sql() -> &'static str {
        ROLES
    }

    /// Creates the roles and fills the database.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn load(&self, postgres: &Postgres, database: &str) -> anyhow::Result<()> {
        postgres.run_sql("postgres", ROLES)?;
        if self.small {
            postgres.run_sql(database, SMALL).context("the small sample")?;
        }
        let Some(megabytes) = self.shop_megabytes else { return Ok(()) };
        // As long as the script, parts run side by side: each is limited by its one server process.
        let mut parts: Vec<String> =
            SHOP.split("\n-- part: ").map(|part| format!("SET shop.megabytes = {megabytes};\n-- {part}")).collect();
        let (first, last) = (parts.remove(0), parts.pop().expect("the script's last part"));
        postgres.run_sql(database, &first).context("the shop's tables")?;
        std::thread::scope(|scope| {
            let running: Vec<_> = parts.iter().map(|part| scope.spawn(|| postgres.run_sql(database, part))).collect();
            running.into_iter().try_for_each(|part| part.join().expect("a thread that runs psql"))
        })
        .context("the shop's rows")?;
        postgres.run_sql(database, &last).context("the shop's keys")
    }

    /// Creates the database, then [`Sample::load`].
    ///
    /// # Errors
    /// When a statement fails.
    pub fn create(&self, postgres: &Postgres, database: &str) -> anyhow::Result<()> {
        postgres.create_database(database)?;
        self.load(postgres, database)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn run(command: &mut Command) {
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
    }

    fn raw_size(postgres: &Postgres, database: &str) -> usize {
        let output = postgres.command("pg_dump", database).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.len()
    }

    fn dump_and_restore(postgres: &Postgres, database: &str, into: &str, scratch: &Path) -> u64 {
        let archive = scratch.join("archive");
        run(postgres.command("pg_dump", database).arg("-Fc").arg("-f").arg(&archive));
        postgres.create_database(into).unwrap();
        run(postgres.command("pg_restore", into).args(["--exit-on-error", "-d"]).arg(into).arg(&archive));
        std::fs::metadata(archive).unwrap().len()
    }

    #[test]
    fn the_small_sample_survives_dump_and_restore_on_every_major() {
        let scratch = tempfile::tempdir().unwrap();
        for major in Postgres::majors_available() {
            let postgres = Postgres::start(major).unwrap();
            Sample::small().create(&postgres, "source").unwrap();
            dump_and_restore(&postgres, "source", "copy", scratch.path());
            let archive = scratch.path().join("archive");
            let contents = postgres.command("pg_restore", "copy").arg("-l").arg(archive).output().unwrap();
            let contents = String::from_utf8_lossy(&contents.stdout);
            for kind in KINDS {
                let there = contents.lines().any(|line| line.split_once(&format!(" {kind} ")).is_some());
                assert!(there, "Postgres {major}: no {kind} in the archive");
            }
            similar(&postgres.schema("source").unwrap(), &postgres.schema("copy").unwrap());
            let long = "SELECT count(*) FROM pg_class WHERE octet_length(relname) = 63 AND relkind = 'r'";
            assert_eq!(postgres.query_one("copy", long).unwrap(), "2");
            let objects = "SELECT count(*), sum(octet_length(lo_get(oid))) FROM pg_largeobject_metadata";
            assert_eq!(postgres.query_one("copy", objects).unwrap(), "5|313239");
            assert_eq!(postgres.query_one("source", "SHOW DateStyle").unwrap(), "SQL, DMY");
        }
    }

    /// Kinds of archive entries, as `pg_restore -l` names them; every server can make these.
    const KINDS: &[&str] = &[
        "ACCESS METHOD",
        "ACL",
        "AGGREGATE",
        "BLOBS",
        "CAST",
        "CHECK CONSTRAINT",
        "COLLATION",
        "COMMENT",
        "CONSTRAINT",
        "CONVERSION",
        "DEFAULT",
        "DEFAULT ACL",
        "DOMAIN",
        "EVENT TRIGGER",
        "FK CONSTRAINT",
        "FOREIGN DATA WRAPPER",
        "FOREIGN TABLE",
        "FUNCTION",
        "INDEX",
        "INDEX ATTACH",
        "MATERIALIZED VIEW",
        "MATERIALIZED VIEW DATA",
        "OPERATOR",
        "OPERATOR CLASS",
        "OPERATOR FAMILY",
        "POLICY",
        "PROCEDURE",
        "PUBLICATION",
        "PUBLICATION TABLE",
        "PUBLICATION TABLES IN SCHEMA",
        "ROW SECURITY",
        "RULE",
        "SCHEMA",
        "SEQUENCE",
        "SEQUENCE OWNED BY",
        "SEQUENCE SET",
        "SERVER",
        "SHELL TYPE",
        "STATISTICS",
        "TABLE",
        "TABLE ATTACH",
        "TABLE DATA",
        "TEXT SEARCH CONFIGURATION",
        "TEXT SEARCH DICTIONARY",
        "TEXT SEARCH PARSER",
        "TEXT SEARCH TEMPLATE",
        "TRIGGER",
        "TYPE",
        "USER MAPPING",
        "VIEW",
    ];

    fn similar(left: &str, right: &str) {
        if left != right {
            let difference = left.lines().zip(right.lines()).find(|(left, right)| left != right);
            panic!("the schemas differ: {difference:?}");
        }
    }

    #[test]
    fn the_shop_has_its_size_and_compresses_like_real_data() {
        let scratch = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(*Postgres::majors_available().last().unwrap()).unwrap();
        let bytes = 20_000_000;
        Sample::realistic(bytes).create(&postgres, "shop").unwrap();
        let raw = raw_size(&postgres, "shop") as f64;
        let compressed = dump_and_restore(&postgres, "shop", "copy", scratch.path()) as f64;
        assert!(raw >= bytes as f64 && raw < 1.3 * bytes as f64, "{raw} bytes");
        assert!((2.5..=5.0).contains(&(raw / compressed)), "compresses {} times", raw / compressed);
        let share = "SELECT max(pg_table_size(oid)) * 100 / sum(pg_table_size(oid)) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind = 'r'";
        let largest: f64 = postgres.query_one("shop", share).unwrap().parse().unwrap();
        assert!(largest < 50.0, "one table holds {largest} % of the bytes");
    }

    /// `cargo test -p walwarden-tests --lib -- --ignored --nocapture` prints how long the larger samples take.
    #[test]
    #[ignore = "a minute and several gigabytes of disk"]
    fn the_larger_samples_have_their_sizes() {
        let scratch = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(*Postgres::majors_available().last().unwrap()).unwrap();
        for (name, sample, bytes) in
            [("demo", Sample::demo(), 40e6), ("gigabyte", Sample::realistic(1_000_000_000), 1e9)]
        {
            let begun = std::time::Instant::now();
            sample.create(&postgres, name).unwrap();
            let seconds = begun.elapsed().as_secs_f64();
            let raw = raw_size(&postgres, name) as f64;
            let archive = scratch.path().join(name);
            run(postgres.command("pg_dump", name).args(["-Fc", "-Z6", "-f"]).arg(&archive));
            let ratio = raw / std::fs::metadata(archive).unwrap().len() as f64;
            println!("{name}: {raw} bytes in {seconds:.1} s, compresses {ratio:.2} times");
            assert!(raw >= bytes && ratio > 2.5 && ratio < 5.0);
        }
    }
}
