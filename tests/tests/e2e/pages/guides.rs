//! The guides, and the way without us: each where its reader stands, with what its reader has.

use std::fs;

use walwarden_tests::{Platform, Postgres};

use super::{
    ROLE, Run, run_all,
    stage::{APP, Stage},
};
use crate::stack::{BUCKET, Stack};

const API: &[&str] = &["http://127.0.0.1:8787", "/var/lib/walwarden"];
const SERVER: &[&str] = &["http://127.0.0.1:8787", "/var/lib/walwarden", "db.example.com:5432"];

#[test]
fn every_command_in_the_guides_runs_as_it_is_written() {
    let stack = Stack::start();
    let pages: [(&str, Run); 7] = [
        ("docs/restore-without-us.md", without_us),
        ("docs/restore-without-us.md on a platform", without_us_on_a_platform),
        ("docs/guides/supabase.md", supabase),
        ("docs/guides/neon.md", neon),
        ("docs/guides/restore-modes.md", restore_modes),
        ("docs/guides/recover-from-data-loss.md", recover_from_data_loss),
        ("docs/guides/drill.md", drill),
    ];
    run_all(&stack, &pages);
}

fn oldest() -> u8 {
    *Postgres::majors_available().first().expect("a Postgres")
}

/// What the reader kept from when there was a server.
fn keep_public_keys(stage: &Stage<'_>) {
    fs::write(stage.directory.path().join("walwarden-pubkey.pem"), stage.stack.public_keys()).expect("the keys");
}

fn without_us(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    from_the_bucket(stage)
}

/// Where stock pg_restore stops at once, and only its list helps.
fn without_us_on_a_platform(stack: &Stack) -> Result<(), String> {
    from_the_bucket(Stage::on_platform(stack, Platform::SupabaseLike, oldest()))
}

fn from_the_bucket(mut stage: Stage<'_>) -> Result<(), String> {
    let (database, backup) = stage.backed_up();
    stage.stack.published_bundle(&backup);
    keep_public_keys(&stage);
    let host = format!("127.0.0.1:{}", stage.postgres.port());
    stage.own = vec![
        ("https://s3.example.com/my-backups", format!("{}/{BUCKET}", stage.stack.seaweed.endpoint())),
        ("postgres@db.example.com:5432", format!("{}@{host}", stage.login.role)),
    ];
    let literals = ["YOUR-ACCESS-KEY-ID", "YOUR-SECRET-ACCESS-KEY"];
    stage.run("docs/restore-without-us.md", &literals, &[("DB", database)])
}

fn supabase(stack: &Stack) -> Result<(), String> {
    let mut stage = Stage::on_platform(stack, Platform::SupabaseLike, oldest());
    // Another project, with the same password so that one variable holds it.
    let other = Postgres::start(oldest()).unwrap();
    let login = Platform::SupabaseLike.prepare(&other).unwrap();
    let same = format!("ALTER ROLE {} PASSWORD '{}'", login.role, stage.login.password);
    other.run_sql("postgres", &same).unwrap();
    let at = |server: &Postgres| format!("{}@127.0.0.1:{}", login.role, server.port());
    let pooler = "@aws-0-eu-central-1.pooler.supabase.com:5432";
    stage.own = vec![
        (SUPABASE_DSN, stage.login.dsn(&stage.postgres, "postgres")),
        (SUPABASE_LOGIN, at(&stage.postgres)),
        (OTHER_SUPABASE_LOGIN, at(&other)),
    ];
    debug_assert!(SUPABASE_LOGIN.ends_with(pooler) && OTHER_SUPABASE_LOGIN.ends_with(pooler));
    stage.run("docs/guides/supabase.md", API, &[("DST", stack.destination.clone())])
}

const SUPABASE_DSN: &str =
    "postgresql://postgres.abcdefghijklmnopqrst:YOUR-PASSWORD@aws-0-eu-central-1.pooler.supabase.com:5432/postgres";
const SUPABASE_LOGIN: &str = "postgres.abcdefghijklmnopqrst@aws-0-eu-central-1.pooler.supabase.com:5432";
const OTHER_SUPABASE_LOGIN: &str = "postgres.zyxwvutsrqponmlkjihg@aws-0-eu-central-1.pooler.supabase.com:5432";

fn neon(stack: &Stack) -> Result<(), String> {
    let mut stage = Stage::on_platform(stack, Platform::NeonLike, oldest());
    let dsn = "postgresql://neondb_owner:YOUR-PASSWORD@ep-cool-darkness-123456.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require";
    stage.own = vec![
        (dsn, stage.login.dsn(&stage.postgres, "neondb")),
        ("ep-cool-darkness-123456.eu-central-1.aws.neon.tech", format!("127.0.0.1:{}", stage.postgres.port())),
    ];
    stage.run("docs/guides/neon.md", API, &[("DST", stack.destination.clone())])
}

fn restore_modes(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    let (_, backup) = stage.backed_up();
    stage.run("docs/guides/restore-modes.md", SERVER, &[("BKP", backup.id)])
}

fn recover_from_data_loss(stack: &Stack) -> Result<(), String> {
    let mut stage = Stage::with_server(stack);
    let invoices = "CREATE TABLE invoices (id serial PRIMARY KEY, total integer CHECK (total > 0));
        INSERT INTO invoices (total) SELECT n FROM generate_series(1, 300) AS n;";
    stage.postgres.run_sql(APP, &format!("{ROLE} {invoices}")).unwrap();
    let database = stage.database();
    stack.back_up(&database);
    let loss =
        "DELETE FROM orders; DROP TABLE invoices; INSERT INTO orders (customer, note) VALUES (1, 'the first after')";
    stage.postgres.run_sql(APP, loss).unwrap();
    // After the backup, and before whatever else.
    stage.own = vec![("2026-11-24T02:40:00Z", "$(date -u +%FT%TZ)".to_owned())];
    stage.run("docs/guides/recover-from-data-loss.md", SERVER, &[("DB", database)])
}

fn drill(stack: &Stack) -> Result<(), String> {
    let stage = Stage::with_server(stack);
    let (database, _) = stage.backed_up();
    keep_public_keys(&stage);
    stage.run("docs/guides/drill.md", SERVER, &[("DB", database)])
}
