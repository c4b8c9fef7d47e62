//! Restores that fit what people have: databases of managed platforms, where nobody is superuser and half the objects are
//! the platform's, into clusters of every kind. Every cell of the matrix is proven, and who can do what afterwards is
//! what the source gave, or less.

mod access;
mod live;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use walwarden_tests::{Platform, Postgres, tools};

use self::live::Live;
use crate::{
    holder::Holder,
    restore::{Finished, Restore},
    stack::{Backup, Stack},
};

/// A source, backed up by its customer.
struct Source {
    live: Live,
    backup: Backup,
}

fn back_up(stack: &Stack, platform: Platform, major: u8) -> Source {
    back_up_with(stack, platform, major, &json!({}))
}

fn back_up_with(stack: &Stack, platform: Platform, major: u8, selection: &Value) -> Source {
    back_up_live(stack, Live::filled(platform, major), selection)
}

fn back_up_live(stack: &Stack, live: Live, selection: &Value) -> Source {
    // Not every client that is installed here was built with zstd.
    let gzip = json!({ "compression": { "codec": "gzip", "level": 6 }, "selection": selection });
    let dsn = live.login.dsn(&live.server, live.platform.database());
    let database = stack.add_database(&format!("{:?} {}", live.platform, live.server.major()), &dsn, gzip);
    Source { backup: stack.back_up(&database), live }
}

/// The one-liner, with nothing added but the proof and a name that is free.
fn restore(stack: &Stack, source: &Source, target: &Live, arguments: &[&str]) -> (Finished, Value) {
    let issued = stack.issue(&source.backup, None);
    let command = |more: &[&str]| {
        Restore::new(&stack.api.url, &issued, &target.server)
            .connect_as(&target.login.role, &target.login.password)
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
    source: Platform,
    target: &'static str,
    outcome: String,
    /// What that is, where there is more to say.
    detail: Vec<String>,
}

impl Cell {
    fn of(source: Platform, target: &'static str, plan: &Value) -> Self {
        Self { source, target, outcome: outcome(plan), detail: detail(plan) }
    }
}

/// Roles by name, entries by kind, refusals by reason.
fn detail(plan: &Value) -> Vec<String> {
    let texts = |values: &Value, pointer: &str| -> Vec<String> {
        let values = values.as_array().expect("a list").iter();
        values.map(|value| value.pointer(pointer).and_then(Value::as_str).expect("a text").to_owned()).collect()
    };
    if plan["outcome"] == "refused" {
        return texts(&plan["refusals"], "/reason");
    }
    let of = |becomes: &str, title: &str| {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for entry in plan["entries"].as_array().expect("entries").iter().filter(|entry| entry["becomes"] == becomes) {
            *kinds.entry(entry["kind"].as_str().expect("a kind").to_lowercase()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (!kinds.is_empty()).then(|| format!("{title}: {}", kinds.join(", ")))
    };
    let roles = texts(&plan["rolesMade"], "").join(", ");
    let roles = (!roles.is_empty()).then(|| format!("roles made: {roles}"));
    [roles, of("adapted", "in another form"), of("leftOut", "left out")].into_iter().flatten().collect()
}

fn outcome(plan: &Value) -> String {
    let count = |name: &str| plan["counts"][name].as_u64().expect("a count");
    let made = plan["rolesMade"].as_array().expect("roles").len();
    match plan["outcome"].as_str() {
        Some("adapted") => {
            let roles = if made > 0 { format!("{made} roles made, ") } else { String::new() };
            format!("adapted: {roles}{} in another form, {} left out", count("adapted"), count("leftOut"))
        }
        Some("refused") => {
            let refusals = plan["refusals"].as_array().expect("refusals").iter();
            let codes: BTreeSet<&str> = refusals.map(|refusal| refusal["code"].as_str().expect("a code")).collect();
            format!("refused: {}", codes.into_iter().collect::<Vec<_>>().join(", "))
        }
        Some(other) => other.to_owned(),
        None => panic!("no outcome: {plan:#}"),
    }
}

/// Every source into every target of one major, proven; and over itself.
fn matrix(major: u8) -> Vec<Cell> {
    let stack = Stack::shared();
    let mut cells = Vec::new();
    for platform in Platform::ALL {
        let source = back_up(&stack, platform, major);
        let targets = [(platform, SAME), (Platform::PlainSuperuser, SUPERUSER), (Platform::PlainOwner, OWNER)];
        for (target_platform, name) in targets {
            let target = Live::start(target_platform, major);
            let (finished, plan) = restore(&stack, &source, &target, &[]);
            let cell = format!("{platform:?} {major} into {target_platform:?}");
            // Nothing but a plain owner's cluster, where policies' roles are missing and cannot be made, may refuse.
            let refused = plan["outcome"] == "refused";
            assert!(!refused || name == OWNER, "{cell}: {}", plan["refusals"]);
            assert_eq!(finished.said.code == 0, !refused, "{cell}: {}", finished.said);
            if !refused {
                finished.is_identical();
                access::is_no_wider(&cell, &source.live, &target, "restored", &plan);
            }
            cells.push(Cell::of(platform, name, &plan));
        }
        cells.push(over_itself(&stack, &source));
    }
    cells
}

/// Restores over the source, with the flags that the plan asks for.
fn over_itself(stack: &Stack, source: &Source) -> Cell {
    let live = &source.live;
    let before = access::rights(live, live.platform.database());
    let (finished, plan, flags) = in_place(stack, source);
    finished.is_identical();
    let after = access::rights(live, live.platform.database());
    assert!(!plan["notes"].to_string().contains("lost with the table"), "nothing has changed: {}", plan["notes"]);
    let (wider, narrower): (Vec<_>, Vec<_>) =
        (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(wider.is_empty() && narrower.is_empty(), "{:?}: wider {wider:#?}, narrower {narrower:#?}", live.platform);
    let mut cell = Cell::of(live.platform, IN_PLACE, &plan);
    if !flags.is_empty() {
        cell.outcome = format!("with flags, {}", cell.outcome);
        cell.detail.insert(0, format!("flags: `{}`", flags.join(" ")));
    }
    cell
}

/// A restore over the source: refused only for data of others, and done once that is named.
fn in_place(stack: &Stack, source: &Source) -> (Finished, Value, Vec<String>) {
    let live = &source.live;
    let issued = stack.issue_in_place(&source.backup);
    let command = |more: &[&str]| {
        let restore = Restore::in_place(&stack.api.url, &issued, &live.server);
        restore
            .connect_to(&live.login.role, &live.login.password, live.platform.database())
            .args(&["--prove"])
            .args(more)
    };
    let plan_with = |flags: &[&str]| {
        let planned = command(&[&["--plan"], flags].concat()).run();
        let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned());
        plan.unwrap_or_else(|| panic!("no plan: {}", planned.said))
    };
    let flags = flags_of(&plan_with(&[]));
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let plan = plan_with(&given);
    let finished = command(&given).run();
    assert_eq!(finished.said.code, 0, "{:?}: {}\n{}", live.platform, plan["refusals"], finished.said);
    (finished, plan, flags)
}

/// What a plan asks to be said of the data of others.
fn flags_of(plan: &Value) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    for refusal in plan["refusals"].as_array().expect("refusals") {
        assert!(
            ["data_of_others", "publication_of_others"].contains(&refusal["code"].as_str().unwrap()),
            "{refusal:#}"
        );
        let remedy = refusal["remedy"].as_str().expect("a remedy").rsplit(": ").next().expect("flags");
        flags.extend(remedy.split(' ').map(str::to_owned));
    }
    flags
}

const SAME: &str = "new database, same kind";
const SUPERUSER: &str = "new database, superuser";
const OWNER: &str = "new database, `CREATEDB` only";
const IN_PLACE: &str = "in place";

fn name(platform: Platform) -> &'static str {
    match platform {
        Platform::PlainSuperuser => "plain, as superuser",
        Platform::PlainOwner => "plain, as owner",
        Platform::SupabaseLike => "Supabase-like",
        Platform::NeonLike => "Neon-like",
        Platform::RdsLike => "RDS-like",
    }
}

const PAGE: &str = "\
# What restores into what

Made by a test (`platforms` in `tests/tests/e2e`), which restores each source into each target by the one-liner with
nothing added but a name and `--prove`, finds all the data identical, and asks the server who can do what: nobody can do
more than in the source, but for who restored. The sources are databases as platforms hand them out, built in SQL
(`tests/platforms`), with an application in each; stock pg_restore of those of the managed platforms fails. *In another
form*: entries whose owner or rights are not as they were; *left out*: what holds neither data nor logic, and in place
what belongs to the platform and stays as it is. Below each table are the kinds of entries that this is about.
[What is adapted](restore.md#what-is-adapted) has the rules.
";

fn section(major: u8, cells: &[Cell]) -> String {
    let targets = [SAME, SUPERUSER, OWNER, IN_PLACE];
    let mut section = format!("## Postgres {major}\n\n| source | {} |\n|---|---|---|---|---|\n", targets.join(" | "));
    for platform in Platform::ALL {
        let of = |target: &&str| {
            cells.iter().find(|cell| cell.source == platform && cell.target == *target).expect("a cell")
        };
        let row: Vec<&str> = targets.iter().map(|target| of(target).outcome.as_str()).collect();
        section.push_str(&format!("| {} | {} |\n", name(platform), row.join(" | ")));
    }
    section.push('\n');
    for cell in cells.iter().filter(|cell| !cell.detail.is_empty()) {
        section.push_str(&format!("- {} → {}: {}\n", name(cell.source), cell.target, cell.detail.join("; ")));
    }
    section
}

/// The page has a section for each major; those of these are as it says.
fn is_as_the_page_says(majors: &[u8]) {
    let made: Vec<String> = std::thread::scope(|scope| {
        let making = majors.chunks(2).flat_map(|pair| {
            let pair: Vec<_> = pair.iter().map(|&major| scope.spawn(move || section(major, &matrix(major)))).collect();
            pair.into_iter().map(|made| made.join().expect("a major")).collect::<Vec<_>>()
        });
        making.collect()
    });
    let path = tools::repository().join("docs/restore-matrix.md");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let heading = |section: &str| section.lines().next().unwrap_or_default().to_owned();
    let mut sections: BTreeMap<String, String> = kept
        .split("\n\n## ")
        .skip(1)
        .map(|section| format!("## {}\n", section.trim_end()))
        .map(|section| (heading(&section), section))
        .collect();
    sections.extend(made.into_iter().map(|section| (heading(&section), section)));
    let page = [PAGE.to_owned()].into_iter().chain(sections.into_values()).collect::<Vec<_>>().join("\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).expect("the page");
        return;
    }
    assert_eq!(kept, page, "docs/restore-matrix.md is not what was seen\nhint: UPDATE_DOCS=1 writes it anew");
}

#[test]
fn every_platform_into_every_target_as_the_page_says() {
    let majors = Postgres::majors_available();
    is_as_the_page_says(&[*majors.first().expect("a Postgres"), *majors.last().expect("a Postgres")]);
}

#[test]
#[ignore = "the same for the majors between; make soak runs it"]
fn every_platform_into_every_target_of_the_majors_between() {
    let majors = Postgres::majors_available();
    is_as_the_page_says(&majors[1..majors.len() - 1]);
}

/// What must be as before, whatever is restored over the customer's tables: definitions and rows of the platform's schemas.
fn of_the_platform(live: &Live) -> String {
    let schemas = "SELECT string_agg(nspname, ' ') FROM pg_namespace
        WHERE NOT pg_has_role('customer_postgres', nspowner, 'USAGE') AND nspname !~ '^pg_' AND nspname <> 'information_schema'";
    let mut dump = live.server.command("pg_dump", live.platform.database());
    let schemas = live.one(schemas);
    assert!(schemas.contains("auth"), "{schemas}");
    for schema in schemas.split(' ') {
        dump.args(["-n", schema]);
    }
    let output = dump.output().expect("pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let kept = text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_live_platform_is_restored_over_and_what_is_the_platforms_stays() {
    let stack = Stack::shared();
    let majors = Postgres::majors_available();
    for major in [*majors.first().expect("a Postgres"), *majors.last().expect("a Postgres")] {
        let source = back_up(&stack, Platform::SupabaseLike, major);
        let live = &source.live;
        // Since then: rows changed, another table made, somebody signed up.
        let names = live.one("SELECT md5(string_agg(name, ',' ORDER BY id)) FROM public.profiles");
        live.run("UPDATE public.profiles SET name = 'lost'; CREATE TABLE public.since (id int); INSERT INTO public.since VALUES (1)");
        live.server.run_sql(live.platform.database(), "INSERT INTO auth.users SELECT (jsonb_populate_record(u, jsonb_build_object('id', md5('new')::uuid, 'email', 'new@example.org'))).* FROM auth.users u LIMIT 1").expect("a user");
        let before = of_the_platform(live);
        let (finished, _, flags) = in_place(&stack, &source);
        // The platform's data stays as it is only where that was said.
        assert!(flags.iter().any(|flag| flag == "data:auth"), "{flags:?}");
        finished.is_identical();
        assert_eq!(of_the_platform(live), before, "{major}");
        assert_eq!(live.one("SELECT count(*) FROM public.since"), "1");
        assert_eq!(live.one("SELECT count(*) FROM auth.users WHERE email = 'new@example.org'"), "1");
        assert_eq!(live.one("SELECT md5(string_agg(name, ',' ORDER BY id)) FROM public.profiles"), names);
    }
}

#[test]
fn rows_whose_keys_refer_to_what_is_gone_are_named_and_can_be_restored_all_the_same() {
    let stack = Stack::shared();
    let source = back_up(&stack, Platform::SupabaseLike, *Postgres::majors_available().last().expect("a Postgres"));
    let live = &source.live;
    let keys = "SELECT string_agg(conname || ' ' || convalidated, ', ' ORDER BY conname) FROM pg_constraint
                 WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND confrelid = 'auth.users'::regclass";
    assert_eq!(live.one(keys), "profiles_id_fkey true, subscriptions_subscriber_fkey true");

    // Nobody is gone: nothing to be said of it.
    let (_, plan, flags) = in_place(&stack, &source);
    let notes = |plan: &Value| {
        plan["notes"].as_array().expect("notes").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    };
    assert!(!notes(&plan).contains("refers to auth.users"), "{plan:#}");

    let gone = "DELETE FROM public.subscriptions WHERE subscriber = md5('user 1')::uuid;
        DELETE FROM auth.users WHERE id = md5('user 1')::uuid";
    live.server.run_sql(live.platform.database(), gone).expect("a user who is gone");
    let rows = || {
        live.one("SELECT (SELECT count(*) FROM public.profiles) || ' ' || (SELECT count(*) FROM public.subscriptions)")
    };
    let before = rows();
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let run = |more: &[&str]| {
        let issued = stack.issue_in_place(&source.backup);
        let restore = Restore::in_place(&stack.api.url, &issued, &live.server);
        let database = live.platform.database();
        restore
            .connect_to(&live.login.role, &live.login.password, database)
            .args(&["--prove"])
            .args(&given)
            .args(more)
            .run()
    };
    let plan_of = |more: &[&str]| {
        let planned = run(&[&["--plan"], more].concat()).documents();
        planned.into_iter().find_map(|document| document.get("plan").cloned()).expect("a plan")
    };
    let plan = plan_of(&[]);
    let told = "refers to auth.users, which stays, and it is not as it was at the backup: ";
    assert!(notes(&plan).contains(told), "{plan:#}");
    let without = run(&[]);
    without.failed(3, "violates foreign key constraint");
    assert!(without.said.stderr.contains("--keys-not-valid"), "{}", without.said);
    assert_eq!((rows(), live.one(keys).contains("false")), (before, false));

    let with = run(&["--keys-not-valid"]);
    with.is_identical();
    assert_eq!(live.one(keys), "profiles_id_fkey false, subscriptions_subscriber_fkey false");
    let planned = plan_of(&["--keys-not-valid"]);
    let commands: Vec<&str> =
        planned["commands"].as_array().expect("commands").iter().filter_map(Value::as_str).collect();
    let orphans = commands
        .iter()
        .find(|command| command.starts_with("SELECT * FROM \"public\".\"profiles\""))
        .unwrap_or_else(|| panic!("{commands:#?}"));
    let orphans = orphans.trim_end_matches(';').replace("SELECT *", "SELECT count(*)");
    assert_eq!(live.one(&orphans), "1", "{commands:#?}");
    live.run(
        "DELETE FROM public.profiles WHERE id NOT IN (SELECT id FROM auth.users);
        DELETE FROM public.subscriptions WHERE subscriber NOT IN (SELECT id FROM auth.users)",
    );
    for command in commands.iter().filter(|command| command.starts_with("ALTER TABLE")) {
        live.run(command);
    }
    assert_eq!(live.one(keys), "profiles_id_fkey true, subscriptions_subscriber_fkey true");

    // A key whose table is gone, and one that was changed, are the archive's all the same.
    let actions = "SELECT string_agg(conname || ' ' || confdeltype::text, ', ' ORDER BY conname) FROM pg_constraint
                    WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND confrelid = 'auth.users'::regclass";
    let as_in_source = live.one(actions);
    live.run(
        "DROP TABLE public.subscriptions; ALTER TABLE public.profiles DROP CONSTRAINT profiles_id_fkey;
         ALTER TABLE public.profiles ADD CONSTRAINT profiles_id_fkey FOREIGN KEY (id) REFERENCES auth.users ON DELETE RESTRICT",
    );
    let noted = notes(&plan_of(&[]));
    assert!(noted.contains("subscriptions_subscriber_fkey") && noted.contains("profiles_id_fkey"), "{noted}");
    run(&["--keys-not-valid"]).is_identical();
    assert_eq!(live.one(keys), "profiles_id_fkey false, subscriptions_subscriber_fkey false");
    assert_eq!(live.one(actions), as_in_source);

    // Who may not make them is told beforehand.
    let role = walwarden_contract::quote::ident(&live.login.role);
    let revoke = format!("REVOKE supabase_auth_admin FROM {role}");
    live.server.run_sql(live.platform.database(), &revoke).expect("a right that is gone");
    let plan = plan_of(&["--keys-not-valid"]);
    assert_eq!(plan["refusals"][0]["code"], "no_references", "{} {}", plan["refusals"], plan["notes"]);
}

#[test]
fn a_platforms_database_goes_into_a_later_major() {
    let stack = Stack::shared();
    let majors = Postgres::majors_available();
    let (oldest, newest) = (*majors.first().expect("a Postgres"), *majors.last().expect("a Postgres"));
    let source = back_up(&stack, Platform::SupabaseLike, oldest);
    for platform in [Platform::SupabaseLike, Platform::PlainSuperuser] {
        let target = Live::start(platform, newest);
        let (finished, plan) = restore(&stack, &source, &target, &[]);
        assert_eq!(finished.said.code, 0, "{platform:?}: {}\n{}", plan["refusals"], finished.said);
        finished.is_identical();
        access::is_no_wider(&format!("{platform:?}"), &source.live, &target, "restored", &plan);
    }
}

#[test]
fn a_preset_that_the_check_offers_leaves_the_platforms_workings_out() {
    let stack = Stack::shared();
    let major = *Postgres::majors_available().first().expect("a Postgres");
    let whole = Live::filled(Platform::SupabaseLike, major);
    let dsn = whole.login.dsn(&whole.server, whole.platform.database());
    let database = stack.add_database("without a selection", &dsn, json!({}));
    let check = stack.api.get(&format!("/api/v1/databases/{database}")).ok()["check"].clone();
    let preset = json!({
        "name": "supabase",
        "selection": { "excludeSchemas": ["graphql", "graphql_public", "pgbouncer", "realtime"] },
    });
    assert_eq!(check["preset"], preset, "{check:#}");

    let neon = Live::filled(Platform::NeonLike, major);
    let workings = "CREATE SCHEMA neon_migration; CREATE TABLE neon_migration.migration_id (id bigint)";
    neon.server.run_sql(neon.platform.database(), workings).expect("what Neon keeps there");
    let dsn_of_neon = neon.login.dsn(&neon.server, neon.platform.database());
    let database = stack.add_database("on Neon", &dsn_of_neon, json!({}));
    let check = stack.api.get(&format!("/api/v1/databases/{database}")).ok()["check"].clone();
    let preset_of_neon = json!({ "name": "neon", "selection": { "excludeSchemas": ["neon_migration"] } });
    assert_eq!(check["preset"], preset_of_neon, "{check:#}");
    drop(neon);

    // What cannot be read is given as what to exclude, for nobody of the customer's could grant it.
    let hide = format!(
        "CREATE TABLE public.hidden (id integer); CREATE SCHEMA \"Own\"; CREATE TABLE \"Own\".t (id integer);
         REVOKE pg_read_all_data FROM {}",
        whole.login.role
    );
    whole.server.run_sql(whole.platform.database(), &hide).expect("tables");
    let request = json!({ "name": "hidden", "dsn": dsn, "destinationId": stack.destination });
    let hidden = crate::stack::text(&stack.api.post("/api/v1/databases", &request).ok()["id"]);
    let check = crate::patience::expect("the check", 60, || {
        let check = stack.api.get(&format!("/api/v1/databases/{hidden}")).ok()["check"].clone();
        (check["final"] == true).then_some(check)
    });
    let warnings = check["warnings"].as_array().expect("warnings").iter().filter_map(Value::as_str);
    let (_, exclude) = warnings.filter_map(|w| w.split_once("\"selection\": ")).next().expect("what to exclude");
    let exclude: Value = serde_json::from_str(exclude).expect("a selection");
    assert!(exclude["excludeSchemas"].to_string().contains(r#""\"Own\"""#), "{exclude}");
    assert!(exclude["excludeTables"].to_string().contains("public.hidden"), "{exclude}");
    stack.back_up(&stack.add_database("without what is hidden", &dsn, json!({ "selection": exclude })));

    let source = back_up_with(&stack, Platform::SupabaseLike, major, &preset["selection"]);
    for platform in [Platform::SupabaseLike, Platform::PlainSuperuser] {
        let target = Live::start(platform, major);
        let (finished, plan) = restore(&stack, &source, &target, &[]);
        assert_eq!(finished.said.code, 0, "{platform:?}: {}\n{}", plan["refusals"], finished.said);
        finished.is_identical();
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('realtime', 'graphql', 'pgbouncer')";
        assert_eq!(target.server.query_one("restored", schemas).unwrap(), "0");
        access::is_no_wider(&format!("{platform:?}"), &source.live, &target, "restored", &plan);
    }
    let (finished, _, _) = in_place(&stack, &source);
    finished.is_identical();
}

#[test]
fn killed_at_five_moments_a_live_platform_is_as_before_or_as_after() {
    let stack = Stack::shared();
    let live = Live::filled(Platform::SupabaseLike, *Postgres::majors_available().first().expect("a Postgres"));
    live.run("CREATE TABLE public.bulk AS SELECT n, md5(n::text) AS body FROM generate_series(1, 400000) AS n");
    let source = back_up_live(&stack, live, &json!({}));
    let live = &source.live;
    let state = || {
        let rows = "SELECT (SELECT md5(string_agg(name, ',' ORDER BY id)) FROM public.profiles) || ' '
                        || (SELECT count(*) || ' ' || min(body) FROM public.bulk)";
        let objects = "SELECT md5(string_agg(d, E'\\n' ORDER BY d COLLATE \"C\")) FROM (
            SELECT pg_describe_object('pg_class'::regclass, oid, 0) FROM pg_class WHERE oid >= 16384 AND relkind NOT IN ('t', 'i')
            UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE oid >= 16384
            UNION ALL SELECT polname || polrelid::regclass FROM pg_policy
            UNION ALL SELECT tgname || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal) AS of_all (d)";
        format!("{} {}\n{}", live.one(rows), live.one(objects), of_the_platform(live))
    };
    let after = state();
    let spoil = "UPDATE public.profiles SET name = 'since'; UPDATE public.bulk SET body = 'since'";
    let activity = |condition: &str| {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'walwarden|pg_restore' AND {condition}"
        );
        live.one(&query).parse::<u32>().expect("a count")
    };
    let with = |flags: &[&str]| {
        let issued = stack.issue_in_place(&source.backup);
        let restore = Restore::in_place(&stack.api.url, &issued, &live.server);
        restore
            .connect_to(&live.login.role, &live.login.password, live.platform.database())
            .args(&["--prove"])
            .args(flags)
    };
    let planned = with(&["--plan"]).run();
    let plan = planned.documents().into_iter().find_map(|document| document.get("plan").cloned());
    let flags = flags_of(&plan.unwrap_or_else(|| panic!("no plan: {}", planned.said)));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let command = || with(&flags);
    let reached = |said: &str, state: &str| said.contains(&format!("\"state\":\"{state}\""));
    type Moment<'a> = Box<dyn Fn(&str) -> bool + 'a>;
    let moments: [(&str, bool, Moment<'_>); 5] = [
        ("the token is spent", false, Box::new(|said: &str| reached(said, "downloading"))),
        ("pg_restore is started", false, Box::new(|said: &str| reached(said, "restoring"))),
        (
            "something is dropped, and the rest waits",
            false,
            Box::new(|_: &str| activity("wait_event_type = 'Lock'") > 0),
        ),
        (
            "rows are loaded",
            false,
            Box::new(|_: &str| activity("query LIKE 'COPY public.bulk %' AND state = 'active'") > 0),
        ),
        ("pg_restore is done", true, Box::new(|said: &str| reached(said, "finalizing"))),
    ];
    for (name, is_after, moment) in moments {
        live.run(spoil);
        let before = state();
        assert_ne!(before, after);
        let waits =
            name.ends_with("waits").then(|| Holder::of(&live.server, live.platform.database(), "public.profiles"));
        assert!(command().kill_at(moment), "{name}: it had ended");
        drop(waits);
        crate::patience::expect("its sessions to end", 60, || (activity("true") == 0).then_some(()));
        let is = state();
        assert!(is == after || !is_after && is == before, "{name}: it is neither as before nor as after");
    }
    let finished = command().run();
    finished.is_identical();
    assert_eq!(state(), after);
}
