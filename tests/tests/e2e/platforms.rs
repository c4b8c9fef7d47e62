//! Restores that fit what people have: databases of managed platforms, where nobody is superuser and half the objects are
//! the platform's, into clusters of every kind. Every cell of the matrix is proven, and who can do what afterwards is
//! what the source gave, or less.

mod access;
mod kinds;

use serde_json::{Value, json};
use walwarden_tests::{Postgres, tools};

use self::kinds::{Kind, Platform};
use crate::{
    restore::{Finished, Restore},
    stack::{Backup, Stack},
};

/// A source, backed up by its customer.
struct Source {
    platform: Platform,
    backup: Backup,
}

fn back_up(stack: &Stack, kind: Kind, major: u8) -> Source {
    let platform = Platform::start(kind, major);
    platform.fill();
    let database = stack.add_database(
        &format!("{kind:?} {major}"),
        &platform.source_dsn(),
        json!({ "compression": { "codec": "gzip", "level": 6 } }),
    );
    Source { backup: stack.back_up(&database), platform }
}

/// The one-liner, with nothing added but the proof and a name that is free.
fn restore(stack: &Stack, source: &Source, target: &Platform, arguments: &[&str]) -> (Finished, Value) {
    let issued = stack.issue(&source.backup, None);
    let command = |more: &[&str]| {
        Restore::new(&stack.api.url, &issued, &target.server)
            .connect_as(&target.role, &target.password)
            .args(&["--prove", "--created-database", "restored"])
            .args(arguments)
            .args(more)
    };
    let planned = command(&["--plan"]).run();
    let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned());
    let plan = plan.unwrap_or_else(|| panic!("no plan: {}", planned.said));
    (command(&[]).run(), plan)
}

/// What became of one source in one target.
struct Cell {
    source: Kind,
    target: &'static str,
    outcome: String,
}

fn outcome(plan: &Value) -> String {
    let count = |name: &str| plan["counts"][name].as_u64().expect("a count");
    let made = plan["rolesMade"].as_array().expect("roles").len();
    match plan["outcome"].as_str() {
        Some("adapted") => {
            let roles = if made > 0 { format!("{made} roles made, ") } else { String::new() };
            format!("adapted: {roles}{} in another form, {} left out", count("adapted"), count("leftOut"))
        }
        Some(other) => other.to_owned(),
        None => panic!("no outcome: {plan:#}"),
    }
}

/// Every source into every target of one major, proven; and over itself.
fn matrix(major: u8) -> Vec<Cell> {
    let stack = Stack::shared();
    let mut cells = Vec::new();
    for kind in Kind::ALL {
        let source = back_up(&stack, kind, major);
        source.platform.stock_restore_fails_as_it_does_in_the_field();
        for (target_kind, name) in [(kind, SAME), (Kind::PlainSuperuser, SUPERUSER), (Kind::PlainOwner, OWNER)] {
            let target = Platform::start(target_kind, major);
            let (finished, plan) = restore(&stack, &source, &target, &[]);
            let cell = format!("{kind:?} {major} into {target_kind:?}");
            assert_eq!(finished.said.code, 0, "{cell}: {}\n{}", plan["refusals"], finished.said);
            finished.is_identical();
            access::is_no_wider(&cell, &source.platform, &target, "restored", &plan);
            cells.push(Cell { source: kind, target: name, outcome: outcome(&plan) });
        }
        cells.push(Cell { source: kind, target: IN_PLACE, outcome: over_itself(&stack, &source) });
    }
    cells
}

/// Restores over the source, with the flags that the plan asks for.
fn over_itself(stack: &Stack, source: &Source) -> String {
    let live = &source.platform;
    let before = access::rights(live, live.database);
    let (finished, plan, flags) = in_place(stack, source);
    finished.is_identical();
    let after = access::rights(live, live.database);
    assert!(after.is_subset(&before), "{:?}: {:#?}", live.kind, after.difference(&before).collect::<Vec<_>>());
    match flags.is_empty() {
        true => outcome(&plan),
        false => format!("with `{}` {}", flags.join(" "), outcome(&plan)),
    }
}

/// A restore over the source: refused only for data of others, and done once that is named.
fn in_place(stack: &Stack, source: &Source) -> (Finished, Value, Vec<String>) {
    let live = &source.platform;
    let issued = stack.issue_in_place(&source.backup);
    let command = |more: &[&str]| {
        let restore = Restore::in_place(&stack.api.url, &issued, &live.server);
        restore.connect_to(&live.role, &live.password, live.database).args(&["--prove"]).args(more)
    };
    let plan_with = |flags: &[&str]| {
        let planned = command(&[&["--plan"], flags].concat()).run();
        let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned());
        plan.unwrap_or_else(|| panic!("no plan: {}", planned.said))
    };
    let plan = plan_with(&[]);
    let mut flags: Vec<String> = Vec::new();
    for refusal in plan["refusals"].as_array().expect("refusals") {
        assert_eq!(refusal["code"], "data_of_others", "{refusal:#}");
        let remedy = refusal["remedy"].as_str().expect("a remedy").rsplit(": ").next().expect("flags");
        flags.extend(remedy.split(' ').map(str::to_owned));
    }
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let plan = plan_with(&given);
    let finished = command(&given).run();
    assert_eq!(finished.said.code, 0, "{:?}: {}\n{}", live.kind, plan["refusals"], finished.said);
    (finished, plan, flags)
}

const SAME: &str = "new database, same kind";
const SUPERUSER: &str = "new database, superuser";
const OWNER: &str = "new database, `CREATEDB` only";
const IN_PLACE: &str = "in place";

const PAGE: &str = "\
# What restores into what

Made by a test (`platforms` in `tests/tests/e2e`), which restores each source into each target by the one-liner with
nothing added but a name and `--prove`, finds all the data identical, and asks the server who can do what: nobody can do
more than in the source, but for who restored. The sources are databases as platforms hand them out, built in SQL
(`tests/platforms`), with an application in each; stock pg_restore of those of the managed platforms fails. *In another
form*: entries whose owner or rights are not as they were; *left out*: what holds neither data nor logic.
[What is adapted](restore.md#what-is-adapted) has the rules.
";

fn page(by_major: &[(u8, Vec<Cell>)]) -> String {
    let mut page = PAGE.to_owned();
    for (major, cells) in by_major {
        let targets = [SAME, SUPERUSER, OWNER, IN_PLACE];
        page.push_str(&format!(
            "\n## Postgres {major}\n\n| source | {} |\n|---|---|---|---|---|\n",
            targets.join(" | ")
        ));
        for kind in Kind::ALL {
            let of = |target: &&str| {
                cells.iter().find(|cell| cell.source == kind && cell.target == *target).expect("a cell")
            };
            let row: Vec<&str> = targets.iter().map(|target| of(target).outcome.as_str()).collect();
            page.push_str(&format!("| {} | {} |\n", kind.name(), row.join(" | ")));
        }
    }
    page
}

#[test]
fn every_platform_into_every_target_as_the_page_says() {
    let majors = Postgres::majors_available();
    let (oldest, newest) = (*majors.first().expect("a Postgres"), *majors.last().expect("a Postgres"));
    let by_major = std::thread::scope(|scope| {
        let other = scope.spawn(|| (newest, matrix(newest)));
        [(oldest, matrix(oldest)), other.join().expect("the newest major")]
    });
    let made = page(&by_major);
    let path = tools::repository().join("docs/restore-matrix.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).expect("the page");
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, made, "docs/restore-matrix.md is not what was seen\nhint: UPDATE_DOCS=1 writes it anew");
}

/// What must be as before, whatever is restored over the customer's tables: definitions and rows of the platform's schemas.
fn of_the_platform(platform: &Platform) -> String {
    let mut dump = platform.server.command("pg_dump", platform.database);
    for schema in ["auth", "storage", "realtime", "graphql", "graphql_public", "vault", "extensions"] {
        dump.args(["-n", schema]);
    }
    let output = dump.output().expect("pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_live_platform_is_restored_over_and_what_is_the_platforms_stays() {
    let stack = Stack::shared();
    let majors = Postgres::majors_available();
    for major in [*majors.first().expect("a Postgres"), *majors.last().expect("a Postgres")] {
        let source = back_up(&stack, Kind::SupabaseLike, major);
        let live = &source.platform;
        // Since then: rows changed, a table lost, another made, somebody signed up.
        let since = "UPDATE public.orders SET total = 0; DELETE FROM public.mails; DROP TABLE public.private;
            CREATE TABLE public.since (id int); INSERT INTO public.since VALUES (1);
            INSERT INTO auth.users (id, email) VALUES (md5('new')::uuid, 'new@example.com');";
        live.server.run_sql(live.database, &format!("SET SESSION AUTHORIZATION customer; {since}")).expect("changes");
        let before = of_the_platform(live);
        let (finished, _, flags) = in_place(&stack, &source);
        // The platform's data stays as it is only where that was said.
        assert!(flags.iter().any(|flag| flag == "data:auth"), "{flags:?}");
        finished.is_identical();
        assert_eq!(of_the_platform(live), before, "{major}");
        let one = |query: &str| live.server.query_one(live.database, query).expect("an answer");
        assert_eq!(one("SELECT count(*) FROM public.since"), "1");
        assert_eq!(one("SELECT count(*) FROM auth.users"), "201");
        assert_eq!(one("SELECT note FROM public.private"), "nobody else reads this");
        assert_eq!(one("SELECT has_table_privilege('anon', 'public.private', 'SELECT')"), "f");
        assert_eq!(one("SELECT count(*) FROM public.mails"), "1");
    }
}
