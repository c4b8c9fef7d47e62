//! Who can do what, as the server itself answers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::live::Live;

/// A line for each right of each role that is no superuser on each object a user made.
const RIGHTS: &str = r"
    WITH roles AS (SELECT oid, rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' UNION ALL SELECT 0, 'public'),
    schemas AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    rights AS (
        SELECT r.rolname, 'schema ' || quote_ident(s.nspname) AS object, p AS privilege
          FROM roles r, schemas s, unnest(ARRAY['USAGE', 'CREATE']) p WHERE r.oid <> 0 AND has_schema_privilege(r.oid, s.oid, p)
        UNION ALL
        SELECT r.rolname, 'relation ' || s.nspname || '.' || c.relname, p
          FROM roles r, pg_class c JOIN schemas s ON s.oid = c.relnamespace, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
         WHERE r.oid <> 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege(r.oid, c.oid, p)
        UNION ALL
        SELECT r.rolname, 'relation ' || s.nspname || '.' || c.relname, p
          FROM roles r, pg_class c JOIN schemas s ON s.oid = c.relnamespace,
               unnest(CASE WHEN current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] ELSE ARRAY[]::text[] END) p
         WHERE r.oid <> 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
           AND has_table_privilege(r.oid, c.oid, p)
        UNION ALL
        SELECT r.rolname, 'column ' || s.nspname || '.' || c.relname || '.' || a.attname, p
          FROM roles r, pg_class c JOIN schemas s ON s.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
               unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p
         WHERE r.oid <> 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_column_privilege(r.oid, c.oid, a.attnum, p)
        UNION ALL
        SELECT r.rolname, 'sequence ' || s.nspname || '.' || c.relname, p
          FROM roles r, pg_class c JOIN schemas s ON s.oid = c.relnamespace, unnest(ARRAY['SELECT', 'UPDATE', 'USAGE']) p
         WHERE r.oid <> 0 AND c.relkind = 'S' AND has_sequence_privilege(r.oid, c.oid, p)
        UNION ALL
        SELECT r.rolname, 'function ' || s.nspname || '.' || f.proname || '(' || oidvectortypes(f.proargtypes) || ')', 'EXECUTE'
          FROM roles r, pg_proc f JOIN schemas s ON s.oid = f.pronamespace WHERE r.oid <> 0 AND has_function_privilege(r.oid, f.oid, 'EXECUTE'))
    SELECT coalesce(string_agg(rolname || ' | ' || object || ' | ' || privilege, E'\x01'), '') FROM rights";

pub fn rights(live: &Live, database: &str) -> BTreeSet<String> {
    let all = live.server.query_one(database, RIGHTS).expect("rights");
    all.split('\u{1}').filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Fails the test where a role can do more than in the source: but for who restored, to whom belongs what could not be
/// given to its owner, and for what an extension brought, where the plan says that its rights could not be changed.
pub fn is_no_wider(cell: &str, source: &Live, target: &Live, restored: &str, plan: &Value) {
    let (before, after) = (rights(source, source.platform.database()), rights(target, restored));
    assert!(!before.is_empty() && !after.is_empty());
    let own = format!("{} | ", target.login.role);
    let left_out: Vec<&str> = plan["leftOut"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let said = |line: &&String| {
        let object = line.split(" | ").nth(1).and_then(|object| object.rsplit('.').next()).unwrap_or_default();
        left_out.iter().any(|left| left.contains("what an extension brought") && left.contains(object))
    };
    // Who may do anything in the source is not wider anywhere.
    let superusers = source
        .server
        .query_one("postgres", "SELECT ' ' || string_agg(rolname, ' ') || ' ' FROM pg_roles WHERE rolsuper");
    let superusers = superusers.expect("superusers");
    let mighty = |line: &&String| superusers.contains(&format!(" {} ", line.split(" | ").next().unwrap_or_default()));
    let wider = after.difference(&before).filter(|line| !line.starts_with(&own) && !said(line) && !mighty(line));
    let wider: Vec<&String> = wider.collect();
    assert!(wider.is_empty(), "{cell}: wider than in the source: {wider:#?}\n{:#}", plan["adapted"]);
    let narrower: Vec<&String> = before.difference(&after).collect();
    if plan["outcome"] == "exact" {
        assert!(narrower.is_empty(), "{cell}: less than in the source: {narrower:#?}");
    }
}
