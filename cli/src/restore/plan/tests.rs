use walwarden_verifier::annex::{Counts, Database, Extension, Header, Omission, Role, RoleSetting, Setting, Table};

use super::*;
use crate::restore::target::{
    dependents::{Dependent, Named},
    facts::OfferedExtension,
    inside::{DefaultPrivilege, ExistingTable, IndexName, Resident},
    locale::{Locale, Missing},
};

fn entry(dump_id: i64, kind: &str, name: &str) -> Entry {
    let schema = if ["SCHEMA", "EXTENSION", "DATABASE", "EVENT TRIGGER"].contains(&kind) { "" } else { "app" };
    Entry {
        dump_id,
        kind: kind.into(),
        schema: schema.into(),
        name: name.into(),
        owner: "app_owner".into(),
        ..Entry::default()
    }
}

fn omission(kind: &str, schema: &str, name: &str, reason: &str) -> Omission {
    Omission { kind: kind.into(), schema: schema.into(), name: name.into(), reason: reason.into() }
}

pub(super) fn annex(entries: Vec<Entry>) -> Annex {
    Annex {
        header: Header {
            v: String::new(),
            backup_id: String::new(),
            attempt: 1,
            server_version: "16.4".into(),
            server_version_num: 160_004,
            pg_dump_version: "16.4".into(),
            archive_version: "1.15".into(),
            compression: "gzip:6".into(),
            snapshot_at: "2026-11-24T07:59:50.001Z".into(),
            row_key: String::new(),
            counts: Counts { tables: 1, rows: 1234, ..Counts::default() },
        },
        settings: vec![],
        database: Database {
            name: "shop".into(),
            encoding: "UTF8".into(),
            owner: "app_owner".into(),
            connection_limit: -1,
            ..Database::default()
        },
        roles: vec![],
        extensions: vec![],
        entries,
        tables: vec![],
        sequences: vec![],
        large_objects: vec![],
        omissions: vec![],
    }
}

fn facts(superuser: bool) -> Facts {
    Facts {
        version: "16.4".into(),
        version_num: 160_004,
        role: "me".into(),
        superuser,
        create_db: true,
        inherit: true,
        may_subscribe: superuser,
        encoding: "UTF8".into(),
        roles: [("me", true), ("app_owner", true), ("pg_read_all_data", false), ("reader", false)]
            .map(|(n, s)| (n.to_owned(), s))
            .into(),
        databases: vec!["postgres".into(), "ww_rst_01jd7z9k3m5n7p9r1t3v5x7z9b".into()],
        lc_monetary_known: true,
        ..Facts::default()
    }
}

fn plan(annex: &Annex, facts: &Facts, mode: RestoreMode) -> Plan {
    let restore_id = "rst_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap();
    let wishes = Wishes {
        mode,
        created_database: None,
        target_database: "live",
        restore_id: &restore_id,
        refuse_superuser: false,
        parallel_in_place: false,
        exact: false,
        wanted: adapt::Wanted::default(),
    };
    Plan::make(annex, facts, &wishes)
}

fn shown_plan(plan: &Plan, annex: &Annex) -> String {
    plan.lines(annex).iter().map(|(label, text)| format!("{label:<10}{text}\n")).collect()
}

#[test]
fn an_exact_plan_for_a_new_database() {
    let annex = annex(vec![
        entry(1, "DATABASE", "shop"),
        entry(2, "SCHEMA", "app"),
        entry(3, "TABLE", "t"),
        entry(4, "TABLE DATA", "t"),
        Entry { name: "DATABASE shop".into(), schema: String::new(), ..entry(5, "COMMENT", "") },
    ]);
    let plan = plan(&annex, &facts(false), RestoreMode::NewDatabase);
    assert_eq!((plan.outcome, plan.counts.restored, plan.counts.left_out), ("exact", 5, 0));
    assert_eq!(plan.use_list(), "2\n3\n4\n");
    insta::assert_snapshot!(shown_plan(&plan, &annex));
}

#[test]
fn everything_that_stands_in_the_way_of_a_new_database_is_named() {
    let mut annex = annex(vec![
        Entry {
            owner: "ghost\u{202e}".into(),
            acl: Some(vec!["=r/app_owner".into(), "reporter=r/app_owner".into(), "reader=r/somebody".into()]),
            ..entry(3, "TABLE", "t")
        },
        Entry { policy_roles: vec!["public".into(), "tenant".into()], ..entry(4, "POLICY", "t p") },
        Entry { owner: "reader".into(), ..entry(5, "VIEW", "v") },
        Entry { owner: "pg_maintain".into(), ..entry(6, "SCHEMA", "s") },
        entry(7, "EVENT TRIGGER", "watcher"),
        entry(8, "SUBSCRIPTION", "sub"),
        entry(9, "EXTENSION", "vector"),
        entry(10, "EXTENSION", "hstore"),
    ]);
    annex.extensions =
        vec![Extension { name: "hstore".into(), version: "1.7".into(), schema: "app".into(), config_tables: vec![] }];
    annex.database.settings = vec![Setting { name: "session_preload_libraries".into(), value: "x".into() }];
    annex.database.role_settings =
        vec![RoleSetting { role: "reader".into(), name: "work_mem".into(), value: "1MB".into() }];
    let mut facts = facts(false);
    facts.create_db = false;
    facts.read_only = true;
    facts.databases.push("shop".into());
    facts.databases.push("shop_restore".into());
    facts.locale_missing = Some(Missing { problem: "could not create locale".into(), instead: None });
    facts.setting_problems =
        vec![("log_statement".into(), "permission denied".into()), ("session_preload_libraries".into(), "no".into())];
    facts.extensions.insert("hstore".into(), OfferedExtension { default_version: "1.8".into(), superuser_only: true });
    let plan = plan(&annex, &facts, RestoreMode::NewDatabase);
    assert_eq!(plan.outcome, "refused");
    insta::assert_snapshot!(shown_plan(&plan, &annex));
}

#[test]
fn where_the_locale_is_missing_the_nearest_one_is_given() {
    let database = entry(1, "DATABASE", "shop");
    let mut annex = annex(vec![database, entry(3, "TABLE", "t")]);
    annex.database.locale_provider = "i".into();
    annex.database.locale = Some("de-DE".into());
    annex.database.collate = "de_DE.utf8".into();
    annex.database.ctype = "de_DE.utf8".into();
    let mut facts = facts(true);
    facts.databases.clear();
    let nearest = [
        Locale { provider: "c".into(), collate: "C".into(), ctype: "C.utf8".into(), ..Locale::default() },
        Locale { collate: "C.utf8".into(), ctype: "C.utf8".into(), ..Locale::of(&annex.database) },
    ];
    for (instead, words) in nearest.into_iter().zip([
        "not all of its locale, de-DE of ICU (no such locale), and gives it C with C.utf8 for characters: text sorts and compares as there",
        "not all of its locale, de-DE of ICU (no such locale), and gives it de-DE of ICU: text sorts as before",
    ]) {
        facts.locale_missing = Some(Missing { problem: "no such locale".into(), instead: Some(instead.clone()) });
        let plan = plan(&annex, &facts, RestoreMode::NewDatabase);
        assert_eq!((plan.outcome, plan.counts.adapted, plan.refusals.len()), ("adapted", 1, 0), "{plan:#?}");
        assert!(plan.adapted[0].contains(words), "{}", plan.adapted[0]);
        assert_eq!(Locale::of(&plan.properties), instead);
    }
}

#[test]
fn in_place_says_what_goes_what_stays_and_what_would_not_go() {
    let mut annex = annex(vec![
        entry(1, "DATABASE", "shop"),
        entry(2, "SCHEMA", "app"),
        entry(3, "TABLE", "t"),
        entry(4, "VIEW", "v"),
        entry(5, "FUNCTION", "f(integer)"),
    ]);
    annex.tables = vec![Table {
        dump_id: 6,
        schema: "app".into(),
        name: "t".into(),
        columns: "(id, name)".into(),
        load_target: String::new(),
        rows: 1234,
        bytes: 0,
        digest: String::new(),
    }];
    let mut facts = facts(false);
    let table = |schema: &str, name: &str, of: Option<&str>| ExistingTable {
        schema: schema.into(),
        name: name.into(),
        ours: true,
        partition_of: of.map(|of| ("app".into(), of.into())),
    };
    facts.inside.tables = vec![
        table("app", "t", None),
        table("app", "t_2", Some("t")),
        table("app", "t_2_1", Some("t_2")),
        table("app", "new", None),
        table("public", "other", None),
    ];
    let relation = |name: &str| Named::relation("app", name);
    let routine = |name: &str| Named::Object(objects::Object::Routine("app".into(), name.into()));
    let dependent = |kind: &str, holder, part: &str, on| Dependent {
        kind: kind.into(),
        holder,
        part: part.into(),
        on,
        ours: true,
        oid: 0,
    };
    let t = || relation("t");
    let f = || routine("f(integer)");
    let new = || relation("new");
    facts.inside.dependents = vec![
        dependent("view", relation("on_since"), "", relation("since")),
        dependent("view", relation("v"), "", t()),
        dependent("view", relation("since"), "", t()),
        dependent("foreign key", new(), "new_t_fkey", t()),
        dependent("trigger", t(), "of_its_own", f()),
        dependent("trigger", new(), "tr", f()),
        dependent("policy", new(), "p", f()),
        dependent("column", new(), "c", t()),
        dependent("view", relation("harmless"), "", new()),
        Dependent { ours: false, ..dependent("function", routine("theirs(app.t)"), "", t()) },
    ];
    facts.inside.columns = [(("app".into(), "t".into()), "(id, nick)".into())].into();
    let resident = |kind: &str, name: &str| Resident { kind: kind.into(), schema: "app".into(), name: name.into() };
    facts.inside.residents =
        vec![resident("function", "f(a integer)"), resident("function", "g(a integer)"), resident("view", "v")];
    facts.other_sessions = 2;
    let refused = plan(&annex, &facts, RestoreMode::InPlace);
    assert_eq!((refused.counts.restored, refused.counts.left_out), (3, 2));
    insta::assert_snapshot!(shown_plan(&refused, &annex));

    let wanted = adapt::Wanted { drop_dependents: true, ..adapt::Wanted::default() };
    let dropping = wanting(&annex, &facts, RestoreMode::InPlace, wanted.clone());
    let codes: Vec<&str> = dropping.refusals.iter().map(|refusal| refusal.code).collect();
    assert_eq!(codes, ["dependent_object"; 3], "a policy, a column and what belongs to others are not dropped");
    let dropped = [
        r#"DROP VIEW IF EXISTS "app"."on_since""#,
        r#"DROP TRIGGER IF EXISTS "tr" ON "app"."new""#,
        r#"ALTER TABLE "app"."new" DROP CONSTRAINT IF EXISTS "new_t_fkey""#,
        r#"DROP VIEW IF EXISTS "app"."since""#,
    ];
    assert_eq!(dropping.before, dropped);
    let elsewhere = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted);
    assert!(elsewhere.refusals.iter().any(|refusal| refusal.code == "nothing_to_drop"));
}

#[test]
fn in_place_tables_without_rows_in_the_backup_stay_as_they_are() {
    let annex = annex(vec![
        entry(1, "SCHEMA", "app"),
        entry(2, "TABLE", "users"),
        entry(3, "TABLE", "events"),
        Entry { dependencies: vec![2], ..entry(4, "TABLE DATA", "users") },
        entry(5, "SEQUENCE", "events_id_seq"),
        Entry { dependencies: vec![5], ..entry(6, "SEQUENCE SET", "events_id_seq") },
        Entry { dependencies: vec![3], ..entry(7, "CONSTRAINT", "events events_pkey") },
        // Its key to what is made anew is dropped first and made again.
        Entry { dependencies: vec![2, 3], ..entry(8, "FK CONSTRAINT", "events events_user_fkey") },
        entry(9, "TABLE", "log"),
        entry(10, "TABLE", "log_1"),
        Entry { dependencies: vec![9, 10], ..entry(11, "TABLE ATTACH", "log_1") },
        Entry { dependencies: vec![3], ..entry(12, "TRIGGER", "events touched") },
    ]);
    let mut facts = facts(true);
    let relation = |name: &str| objects::Object::Relation("app".into(), name.into());
    facts.inside.rowless =
        [relation("events"), relation("log_1"), objects::Object::Sequence("app".into(), "events_id_seq".into())].into();
    let table = |name: &str, of: Option<&str>| ExistingTable {
        schema: "app".into(),
        name: name.into(),
        ours: true,
        partition_of: of.map(|of| ("app".into(), of.into())),
    };
    facts.inside.tables =
        vec![table("users", None), table("events", None), table("log", None), table("log_1", Some("log"))];
    // Dropped, the partitioned table would take its partition along.
    let with_root = plan(&annex, &facts, RestoreMode::InPlace);
    assert_eq!((with_root.outcome, with_root.dump_ids), ("adapted", vec![2, 4, 8]), "{:#?}", with_root.refusals);
    let mut other = annex.clone();
    other.entries.push(entry(13, "TABLE", "log_2"));
    facts.inside.tables.push(table("log_2", Some("log")));
    let torn_plan = plan(&other, &facts, RestoreMode::InPlace);
    assert_eq!(torn_plan.refusals.iter().map(|refusal| refusal.code).collect::<Vec<_>>(), ["partition_stays"]);
    // One that is new goes with its table; not one of others, nor one that the backup was to be without.
    let mut since = facts.clone();
    since.inside.tables.retain(|table| table.name != "log_1");
    let codes = |annex: &Annex, facts: &Facts| -> Vec<&'static str> {
        plan(annex, facts, RestoreMode::InPlace).refusals.iter().map(|refusal| refusal.code).collect()
    };
    since.inside.tables.push(table("log_new", Some("log")));
    assert!(codes(&other, &since).is_empty());
    let mut without = other.clone();
    without.omissions.push(omission("TABLE", "app", "log_new", "excluded"));
    assert_eq!(codes(&without, &since), ["partition_stays"]);
    since.inside.tables.last_mut().unwrap().ours = false;
    assert_eq!(codes(&other, &since), ["partition_stays"]);
    // Taken out by hand it is put back by the archive's own statement.
    facts.inside.tables.retain(|table| table.name != "log_1");
    facts.inside.tables.push(table("log_1", None));
    let put_back = plan(&other, &facts, RestoreMode::InPlace);
    assert_eq!(
        (put_back.outcome, put_back.dump_ids),
        ("adapted", vec![2, 4, 8, 9, 11, 13]),
        "{:#?}",
        put_back.refusals
    );
}

#[test]
fn a_partitions_index_comes_before_its_parents() {
    let annex = annex(vec![
        entry(1, "TABLE", "t"),
        entry(2, "CONSTRAINT", "p p_pkey"),
        entry(3, "CONSTRAINT", "p_1 p_1_pkey"),
        entry(4, "CONSTRAINT", "p_1_1 p_1_1_pkey"),
        entry(5, "INDEX ATTACH", "p_1_pkey"),
    ]);
    let name = |name: &str| IndexName { kind: "CONSTRAINT".into(), schema: "app".into(), name: name.into() };
    let mut facts = facts(true);
    facts.inside.attached = vec![
        (name("p_1 p_1_pkey"), name("p p_pkey")),
        (name("p_1_1 p_1_1_pkey"), name("p_1 p_1_pkey")),
        (name("gone gone_pkey"), name("p p_pkey")),
    ];
    assert_eq!(plan(&annex, &facts, RestoreMode::InPlace).use_list(), "1\n4\n3\n2\n5\n");
    assert_eq!(plan(&annex, &facts, RestoreMode::NewDatabase).use_list(), "1\n2\n3\n4\n5\n");
}

#[test]
fn superusers_are_warned_or_refused() {
    let annex = annex(vec![Entry { owner: "me".into(), ..entry(7, "EVENT TRIGGER", "watcher") }]);
    let restore_id = "rst_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap();
    let mut wishes = Wishes {
        mode: RestoreMode::NewDatabase,
        created_database: Some("x"),
        target_database: "postgres",
        restore_id: &restore_id,
        refuse_superuser: false,
        parallel_in_place: false,
        exact: false,
        wanted: adapt::Wanted::default(),
    };
    let mut facts = facts(true);
    // An event trigger's owner must be one.
    assert_eq!(Plan::make(&annex, &facts, &wishes).counts.left_out, 1);
    facts.superusers.insert("me".into());
    let plan = Plan::make(&annex, &facts, &wishes);
    assert!(plan.outcome == "exact" && plan.notes.iter().any(|note| note.contains("superuser")));
    wishes.refuse_superuser = true;
    assert_eq!(Plan::make(&annex, &facts, &wishes).refusals[0].code, "superuser_target");
}

#[test]
fn what_default_privileges_would_give_more_is_taken_away() {
    let acl = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    let annex = annex(vec![
        entry(1, "TABLE", "closed"),
        Entry { acl: acl(&["app_owner=arwdDxt/app_owner", "anon=r/app_owner"]), ..entry(2, "TABLE", "half") },
        Entry { acl: acl(&["app_owner=arwdDxt/app_owner", "anon=rw/app_owner"]), ..entry(3, "TABLE", "open") },
        Entry { schema: "other".into(), ..entry(4, "TABLE", "elsewhere") },
        entry(5, "FUNCTION", "f()"),
    ]);
    let mut facts = facts(true);
    let default = |schema: &str, objects: &str, items: &[&str]| DefaultPrivilege {
        schema: schema.into(),
        objects: objects.into(),
        acl: items.iter().map(|i| (*i).to_owned()).collect(),
    };
    facts.roles.insert("anon".into(), true);
    facts.inside.default_privileges = vec![
        default("app", "r", &["anon=rw/me", "me=arwdDxt/me"]),
        default("", "f", &["=X/me", "me=X/me"]),
        default("nowhere", "r", &["anon=r/me"]),
    ];
    let in_place = plan(&annex, &facts, RestoreMode::InPlace);
    assert!(in_place.refusals.is_empty(), "{:?}", in_place.refusals);
    let statements = access::statements(&in_place.fixes, &objects::Routines::new(), &BTreeSet::new(), 16).unwrap();
    assert_eq!(
        statements,
        [
            "REVOKE ALL ON TABLE \"app\".\"closed\" FROM \"anon\" CASCADE",
            "REVOKE ALL ON TABLE \"app\".\"half\" FROM \"anon\" CASCADE",
            "GRANT SELECT ON TABLE \"app\".\"half\" TO \"anon\"",
        ]
    );
    let new_database = plan(&annex, &facts, RestoreMode::NewDatabase);
    assert!(new_database.refusals.is_empty() && new_database.fixes.is_empty());
}

#[test]
fn owners_that_may_not_create_where_their_objects_are() {
    let owned = |dump_id, kind: &str, schema: &str, owner: &str| Entry {
        schema: schema.into(),
        owner: owner.into(),
        ..entry(dump_id, kind, "x")
    };
    let annex = annex(vec![
        Entry { owner: "host".into(), ..entry(1, "SCHEMA", "app") },
        owned(2, "TABLE", "app", "guest"),
        owned(3, "TABLE DATA", "app", "guest"),
        owned(4, "INDEX", "app", "guest"),
        owned(5, "VIEW", "app", "guest"),
        owned(6, "TABLE", "app", "me"),
        owned(7, "TABLE", "app", "heir"),
        owned(8, "FUNCTION", "public", "guest"),
        owned(9, "PUBLICATION", "", "guest"),
        owned(10, "PUBLICATION TABLE", "app", "guest"),
    ]);
    let mut facts = facts(false);
    for role in ["host", "guest", "heir"] {
        facts.roles.insert(role.into(), true);
    }
    facts.rights_of.insert(("heir".into(), "host".into()));
    let in_place = plan(&annex, &facts, RestoreMode::InPlace);
    // In a new database everything is made by the restoring role, and given to those that may have it.
    let new_database = plan(&annex, &facts, RestoreMode::NewDatabase);
    assert!(new_database.no_owner && new_database.refusals.is_empty(), "{:?}", new_database.refusals);
    let given = |plan: &Plan| plan.fixes.iter().filter_map(|fix| fix.owner.clone()).collect::<Vec<_>>();
    assert_eq!(given(&new_database), ["host", "heir"]);
    assert_eq!(given(&in_place), ["host", "heir", "guest"]);
    let mine: Vec<&str> = new_database.adapted.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(mine, ["table app.x", "view app.x", "function public.x"]);
    // What the schema's rights allow comes after them.
    let mut open = annex.clone();
    open.entries[0].acl = Some(vec!["host=UC/host".into(), "guest=UC/host".into()]);
    let new_database = plan(&open, &facts, RestoreMode::NewDatabase);
    assert_eq!(given(&new_database), ["host", "guest", "guest", "heir"]);
    facts.superuser = true;
    let new_database = plan(&annex, &facts, RestoreMode::NewDatabase);
    assert!(!new_database.no_owner && new_database.adapted.is_empty() && new_database.fixes.is_empty());
}

#[test]
fn what_the_backup_lacks_is_shown() {
    let mut annex = annex(vec![entry(3, "TABLE", "t")]);
    annex.omissions = vec![
        omission("SUBSCRIPTION", "", "sub\u{1b}", "notReadable"),
        omission("TABLE DATA", "app", "log", "excluded"),
        omission("SCHEMA", "", "s", "some later reason"),
        omission("TABLE DATA", "app", "t", "rowSecurity"),
        omission("VIEW", "app", "v", "dependsOnOmitted"),
    ];
    annex.omissions.extend((0..30).map(|n| omission("SEQUENCE SET", "app", &format!("s{n}"), "notReadable")));
    for mode in [RestoreMode::NewDatabase, RestoreMode::InPlace] {
        let plan = plan(&annex, &facts(true), mode);
        let lines = plan.lines(&annex);
        let told: Vec<&str> =
            lines.iter().filter(|(label, _)| *label == "lacks").map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            told[..6],
            [
                "subscription sub\\u{1b}: it could not be read when the backup was made",
                "table data app.log: left out of the backup as its owner chose",
                "schema s: some later reason",
                "table data app.t: row security hid rows of it when the backup was made",
                "view app.v: it needs something else that is not in the backup",
                "sequence set app.s0: it could not be read when the backup was made",
            ]
        );
        assert_eq!((told.len(), told[20]), (21, "and 15 more; --plan --json names all"));
        let json = serde_json::to_value(plan.complete(Some(&annex))).unwrap();
        assert_eq!(json["omissions"].as_array().unwrap().len(), 35);
        assert_eq!(json["omissions"][1]["name"], "log");
    }
}

fn unread() -> Annex {
    let mut annex = annex(vec![]);
    annex.header.compression = "pg_dump".into();
    annex.header.archive_version = "unknown".into();
    annex.header.server_version_num = 190_001;
    annex.header.counts = Counts::default();
    let role = |name: &str| Role { name: name.into(), ..Role::default() };
    annex.roles = vec![role("app_owner"), role("reader"), role("absent")];
    annex.extensions =
        vec![Extension { name: "vector".into(), version: "1".into(), schema: "app".into(), config_tables: vec![] }];
    annex
}

#[test]
fn an_archive_that_nobody_read_is_planned_with_what_is_known_of_it() {
    let mut annex = unread();
    let mut facts = facts(true);
    facts.version_num = 190_000;
    let codes = |annex: &Annex, facts: &Facts, mode| -> Vec<&'static str> {
        plan(annex, facts, mode).refusals.iter().map(|refusal| refusal.code).collect()
    };
    assert_eq!(codes(&annex, &facts, RestoreMode::NewDatabase), ["role_missing", "extension_missing"]);
    assert_eq!(codes(&annex, &facts, RestoreMode::InPlace), ["role_missing", "extension_missing", "opaque_in_place"]);
    let refused = plan(&annex, &facts, RestoreMode::InPlace);
    assert!(refused.refusals[2].remedy.contains("--mode new_database"), "{:?}", refused.refusals);
    // Who is no superuser must be able to act as each owner.
    facts.superuser = false;
    let refusals = plan(&annex, &facts, RestoreMode::NewDatabase).refusals;
    let owner = refusals.iter().find(|refusal| refusal.code == "owner_not_settable").unwrap();
    assert_eq!(owner.reason, "the role \"reader\" is an owner in the backup, and \"me\" may not act as it");
    facts.superuser = true;

    annex.roles.truncate(2);
    annex.extensions.clear();
    let plan = plan(&annex, &facts, RestoreMode::NewDatabase);
    assert_eq!((plan.outcome, plan.counts.restored, plan.use_list().as_str()), ("unread", 0, ""));
    insta::assert_snapshot!(shown_plan(&plan, &annex));
}

fn wanting(annex: &Annex, facts: &Facts, mode: RestoreMode, wanted: adapt::Wanted) -> Plan {
    let restore_id = "rst_01jd7z9k3m5n7p9r1t3v5x7z9a".parse().unwrap();
    let wishes = Wishes {
        mode,
        created_database: Some("copy"),
        target_database: "live",
        restore_id: &restore_id,
        refuse_superuser: false,
        parallel_in_place: false,
        exact: false,
        wanted,
    };
    Plan::make(annex, facts, &wishes)
}

fn statements(plan: &Plan) -> Vec<String> {
    let routine = (("app".to_owned(), "f()".to_owned()), "app.f()".to_owned());
    access::statements(&plan.fixes, &[routine].into(), &BTreeSet::new(), 16).unwrap()
}

#[test]
fn missing_roles_are_made_or_done_without() {
    const EVIL: &str = "x\"; ALTER ROLE me SUPERUSER; --";
    let acl = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    let mut annex = annex(vec![
        Entry { owner: EVIL.into(), acl: acl(&["=r/ghost", "ghost=r*w/ghost"]), ..entry(1, "TABLE", "t") },
        Entry { owner: EVIL.into(), dependencies: vec![1], ..entry(2, "ACL", "TABLE t") },
    ]);
    annex.roles = vec![Role { name: EVIL.into(), superuser: true, inherit: true, ..Role::default() }];
    let mut facts = facts(false);
    facts.create_role = true;
    let made = wanting(&annex, &facts, RestoreMode::NewDatabase, adapt::Wanted::default());
    assert_eq!(made.roles_made, ["ghost", EVIL]);
    let quoted = "\"x\"\"; ALTER ROLE me SUPERUSER; --\"";
    assert!(made.before.contains(&format!("CREATE ROLE {quoted} NOLOGIN")), "{:?}", made.before);
    assert!(made.before.contains(&format!("GRANT {quoted} TO \"me\" WITH INHERIT TRUE, SET TRUE")));
    assert_eq!(made.commands, [format!("ALTER ROLE {quoted} SUPERUSER;")]);
    assert!(!made.no_owner && made.outcome == "adapted");
    // Rights that another than the owner granted are granted by the owner.
    assert_eq!(
        statements(&made),
        [
            "REVOKE ALL ON TABLE \"app\".\"t\" FROM PUBLIC".to_owned(),
            format!("REVOKE ALL ON TABLE \"app\".\"t\" FROM {quoted}"),
            "GRANT SELECT ON TABLE \"app\".\"t\" TO PUBLIC".to_owned(),
            "GRANT UPDATE ON TABLE \"app\".\"t\" TO \"ghost\"".to_owned(),
            "GRANT SELECT ON TABLE \"app\".\"t\" TO \"ghost\" WITH GRANT OPTION".to_owned(),
        ]
    );

    let wanted = adapt::Wanted { no_create_roles: true, ..adapt::Wanted::default() };
    let without = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted);
    assert!(without.no_owner && without.before.is_empty() && without.roles_made.is_empty());
    assert_eq!(without.dump_ids, [1]);
    assert_eq!(
        statements(&without),
        [
            "REVOKE ALL ON TABLE \"app\".\"t\" FROM PUBLIC",
            "REVOKE ALL ON TABLE \"app\".\"t\" FROM \"me\"",
            "GRANT SELECT ON TABLE \"app\".\"t\" TO PUBLIC",
        ]
    );
}

#[test]
fn who_runs_with_anothers_rights_is_nobodys_to_call() {
    let definer = Entry { owner: "reader".into(), security_definer: true, ..entry(1, "FUNCTION", "f()") };
    let annex = annex(vec![definer]);
    let facts = facts(false);
    let closed = wanting(&annex, &facts, RestoreMode::NewDatabase, adapt::Wanted::default());
    assert_eq!(
        statements(&closed),
        [
            "REVOKE ALL ON ROUTINE app.f() FROM PUBLIC",
            "REVOKE ALL ON ROUTINE app.f() FROM \"me\"",
            "GRANT EXECUTE ON ROUTINE app.f() TO \"me\"",
        ]
    );
    let wanted = adapt::Wanted { adopt_definers: true, ..adapt::Wanted::default() };
    let adopted = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted);
    assert!(statements(&adopted).is_empty() && adopted.counts.adapted == 1);
    let lost = access::statements(&closed.fixes, &objects::Routines::new(), &BTreeSet::new(), 16);
    assert!(lost.is_err(), "a function that is not there is not passed over");
}

#[test]
fn what_is_left_out_takes_what_is_about_it_and_never_data() {
    let mut annex = annex(vec![
        entry(1, "EXTENSION", "pg_cron"),
        Entry { dependencies: vec![1], ..entry(2, "COMMENT", "EXTENSION pg_cron") },
        Entry { dependencies: vec![1], ..entry(3, "FUNCTION", "f()") },
        entry(4, "TABLE", "t"),
    ]);
    let wanted = |word: &str| adapt::Wanted { leave_out: vec![word.into()], ..adapt::Wanted::default() };
    let codes = |plan: &Plan| plan.refusals.iter().map(|refusal| refusal.code).collect::<Vec<_>>();
    let facts = facts(true);
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, adapt::Wanted::default());
    assert_eq!(codes(&plan), ["extension_missing"]);
    assert!(plan.refusals[0].remedy.contains("--leave-out extension:pg_cron"));
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted("extension:pg_cron"));
    assert_eq!((plan.outcome, plan.dump_ids), ("adapted", vec![4]));
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted("extension:pg_corn"));
    assert_eq!(codes(&plan), ["nothing_to_leave_out", "extension_missing"]);
    annex.entries[3].dependencies = vec![1];
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted("extension:pg_cron"));
    assert_eq!(codes(&plan), ["needed_by_data"]);

    // It is for one database only; named, it goes with its jobs.
    annex.entries[3] = Entry { dependencies: vec![1], ..entry(4, "TABLE DATA", "job") };
    let jobs =
        walwarden_verifier::annex::ConfigTable { schema: "app".into(), name: "job".into(), condition: String::new() };
    annex.extensions = vec![Extension {
        name: "pg_cron".into(),
        version: "1.6".into(),
        schema: "app".into(),
        config_tables: vec![jobs],
    }];
    let mut facts = facts;
    let offered = OfferedExtension { default_version: "1.6".into(), superuser_only: false };
    facts.extensions.insert("pg_cron".into(), offered);
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, adapt::Wanted::default());
    assert_eq!(codes(&plan), ["extension_bound"]);
    let plan = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted("extension:pg_cron"));
    assert_eq!((codes(&plan), plan.dump_ids), (vec![], vec![]));
    assert!(codes(&wanting(&annex, &facts, RestoreMode::InPlace, adapt::Wanted::default())).is_empty());
}

#[test]
fn in_place_what_belongs_to_others_is_left_alone_with_all_that_is_part_of_it() {
    let annex = annex(vec![
        entry(1, "SCHEMA", "app"),
        Entry { owner: "platform".into(), ..entry(2, "TABLE", "users") },
        entry(3, "TABLE", "orders"),
        Entry { owner: "platform".into(), dependencies: vec![2], ..entry(4, "TABLE DATA", "users") },
        Entry { dependencies: vec![3], ..entry(5, "TABLE DATA", "orders") },
        Entry { owner: "platform".into(), dependencies: vec![2], ..entry(6, "CONSTRAINT", "users users_pkey") },
        // Of the orders, though it is about both.
        Entry { dependencies: vec![2, 3], ..entry(7, "FK CONSTRAINT", "orders orders_user_fkey") },
        Entry { owner: "platform".into(), dependencies: vec![2], ..entry(8, "ACL", "TABLE users") },
        Entry { dependencies: vec![2], ..entry(9, "VIEW", "names") },
    ]);
    let mut facts = facts(false);
    facts.roles.insert("platform".into(), false);
    facts.inside.foreign.insert(objects::Object::Relation("app".into(), "users".into()));
    let plan = wanting(&annex, &facts, RestoreMode::InPlace, adapt::Wanted::default());
    let codes: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.code).collect();
    assert_eq!(codes, ["data_of_others"]);
    assert_eq!(plan.refusals[0].remedy.rsplit(": ").next(), Some("--leave-out data:app"));
    for word in ["data:app", "data:app.users"] {
        let wanted = adapt::Wanted { leave_out: vec![word.into()], ..adapt::Wanted::default() };
        let plan = wanting(&annex, &facts, RestoreMode::InPlace, wanted);
        // The schema cannot be dropped, for it holds what stays.
        assert_eq!((plan.outcome, plan.dump_ids), ("adapted", vec![3, 5, 7, 9]), "{word}");
    }
    let wanted = adapt::Wanted { leave_out: vec!["data:app.orders".into()], ..adapt::Wanted::default() };
    assert_eq!(wanting(&annex, &facts, RestoreMode::InPlace, wanted).refusals[0].code, "data_of_others");
}

#[test]
fn all_before_17_is_not_maintain_afterwards() {
    let acl = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    let mut annex = annex(vec![
        Entry {
            acl: acl(&["app_owner=arwdDxt/app_owner", "reader=arwdDxt/app_owner", "=a*r*w*d*D*x*t*/app_owner"]),
            ..entry(1, "TABLE", "t")
        },
        // pg_dump writes this out, one by one.
        Entry { acl: acl(&["reader=a*rwdDxt/app_owner"]), ..entry(2, "VIEW", "v") },
        Entry { acl: acl(&["reader=arwdDxt/app_owner"]), ..entry(3, "DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES") },
        Entry { acl: acl(&["reader=rwU/app_owner"]), ..entry(4, "DEFAULT ACL", "DEFAULT PRIVILEGES FOR SEQUENCES") },
        // Given anew, letter by letter, for one of the roles is missing.
        Entry { acl: acl(&["reader=arwdDxt/app_owner", "absent=r/app_owner"]), ..entry(5, "TABLE", "u") },
        Entry { dependencies: vec![5], ..entry(6, "ACL", "TABLE u") },
    ]);
    let mut facts = facts(true);
    facts.version_num = 170_002;
    let wanted = || adapt::Wanted { no_create_roles: true, ..adapt::Wanted::default() };
    let narrow = wanting(&annex, &facts, RestoreMode::NewDatabase, wanted());
    assert_eq!(
        narrow.after,
        [
            r#"REVOKE MAINTAIN ON TABLE "app"."t" FROM "reader", PUBLIC CASCADE"#,
            r#"ALTER DEFAULT PRIVILEGES FOR ROLE "app_owner" IN SCHEMA "app" REVOKE MAINTAIN ON TABLES FROM "reader""#,
        ]
    );
    assert!(narrow.notes.iter().any(|note| note.contains("MAINTAIN") && note.ends_with("on 2 objects")));
    annex.header.server_version_num = 170_001;
    assert!(wanting(&annex, &facts, RestoreMode::NewDatabase, wanted()).after.is_empty());
    (annex.header.server_version_num, facts.version_num) = (160_001, 160_004);
    assert!(wanting(&annex, &facts, RestoreMode::NewDatabase, wanted()).after.is_empty());
}

#[test]
fn rights_on_columns_are_given_anew_with_those_of_their_table() {
    let acl = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
    let annex = annex(vec![
        Entry { acl: acl(&["absent=r/app_owner"]), ..entry(1, "TABLE", "t") },
        Entry { dependencies: vec![1], acl: acl(&["=r/app_owner"]), ..entry(2, "ACL", "COLUMN t.id") },
        Entry { dependencies: vec![1], ..entry(3, "ACL", "TABLE t") },
        entry(4, "TABLE", "u"),
        Entry { dependencies: vec![4], acl: acl(&["=r/app_owner"]), ..entry(5, "ACL", "COLUMN u.id") },
    ]);
    let wanted = adapt::Wanted { no_create_roles: true, ..adapt::Wanted::default() };
    let plan = wanting(&annex, &facts(true), RestoreMode::NewDatabase, wanted);
    assert_eq!(
        statements(&plan),
        [
            r#"REVOKE ALL ON TABLE "app"."t" FROM PUBLIC"#,
            r#"REVOKE ALL ON TABLE "app"."t" FROM "app_owner""#,
            r#"GRANT SELECT ("id") ON TABLE "app"."t" TO PUBLIC"#,
        ]
    );
    assert_eq!(plan.dump_ids, [1, 4, 5]);
}

#[test]
fn very_many_reasons_of_a_kind_are_counted() {
    let annex = annex(vec![entry(1, "SCHEMA", "app"), entry(2, "TABLE", "t")]);
    let mut facts = facts(true);
    facts.inside.dependents = (0..25)
        .map(|n| Dependent {
            kind: "view".into(),
            holder: Named::relation("app", &format!("v{n:02}")),
            part: String::new(),
            on: Named::relation("app", "t"),
            ours: true,
            oid: n,
        })
        .collect();
    let plan = plan(&annex, &facts, RestoreMode::InPlace);
    assert_eq!(plan.refusals.len(), 25);
    let refused: Vec<String> =
        plan.lines(&annex).into_iter().filter(|(label, _)| *label == "refused").map(|(_, text)| text).collect();
    assert_eq!(
        (refused.len(), refused[20].as_str()),
        (21, "5 more of the kind dependent_object; --plan --json names all")
    );
}
