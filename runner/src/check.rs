//! A check job: everything a backup does before it dumps, and a report of what would stand in its way.

use walwarden_client::worker::JobSession;
use walwarden_contract::{
    address::AddressPolicy,
    dsn::SslMode,
    failure::FailureClass,
    quote::{ident, qualified},
    selection::{self, Selection},
    worker::{CheckInstructions, CheckReport, Finish},
};

use walwarden_verifier::annex::Omission;

use crate::{
    config::Machine,
    dump::{self, Prepared},
    fault::Ended,
    progress::{Phase, Progress},
    source::{DEPENDS_ON_OMITTED, LeftOut, Relation, Unreadable},
};

/// Most problems a report tells.
const MAX_PROBLEMS: usize = 100;

/// Does it, up to the accepted `finish`.
pub async fn run(
    instructions: &CheckInstructions,
    session: &JobSession,
    machine: &Machine,
    progress: &Progress,
) -> Result<(), Ended> {
    let policy = AddressPolicy { allow_private: instructions.allow_private_addresses };
    let prepared = dump::prepare(&instructions.dsn, policy, &instructions.selection, machine, progress).await?;
    let mut report = report(&prepared, instructions.omit_unreadable);
    let preset = prepared.snapshot.preset().await?;
    if let Some(preset) = &preset {
        report.warnings.extend(instead(&preset.name, &prepared.unreadable).filter(|_| !instructions.omit_unreadable));
    }
    report.preset = preset.filter(|preset| !preset.selection.is_everything());
    prepared.snapshot.release().await;
    progress.enter(Phase::Finishing);
    session.finish(&Finish::Check(Box::new(report))).await?;
    Ok(())
}

fn report(prepared: &Prepared, omit_unreadable: bool) -> CheckReport {
    let Prepared { snapshot, facts, unreadable, left_out, pg_dump, .. } = prepared;
    let mut problems = unreadable.problems(&snapshot.role);
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("{more} more of these"));
    }
    let mut warnings = warnings(prepared);
    if omit_unreadable {
        warnings.extend(problems.drain(..).map(|problem| format!("left out, as omitUnreadable says: {problem}")));
    }
    let what =
        if omit_unreadable { "also left out, for it depends on that" } else { "a backup without that also lacks" };
    warnings.extend(with_it(left_out).map(|text| format!("{what}: {text}")));
    let of_selection = prepared.selection_problems();
    let class = match (of_selection.is_empty(), problems.is_empty()) {
        (false, _) => Some(FailureClass::SourceSelection),
        (true, false) => Some(FailureClass::SourcePermission),
        (true, true) => None,
    };
    problems.extend(of_selection.into_iter().take(MAX_PROBLEMS));
    CheckReport {
        server_version: snapshot.version().text.clone(),
        database_name: snapshot.database.clone(),
        size_bytes: facts.size_bytes,
        pg_dump_version: pg_dump.version.clone(),
        problems,
        class,
        warnings,
        preset: None,
    }
}

/// On a platform much belongs to roles that its customer cannot grant anything of: what to exclude instead.
fn instead(platform: &str, unreadable: &Unreadable) -> Option<String> {
    let one = |relation: &Relation| selection::write(&[&relation.schema, &relation.name]);
    let outside = |relation: &&Relation| !unreadable.schemas.contains(&relation.schema);
    let exclude = Selection {
        exclude_schemas: unreadable.schemas.iter().map(|name| selection::write(&[name])).collect(),
        exclude_tables: unreadable.relations.iter().filter(outside).map(one).collect(),
        exclude_table_data: unreadable.hidden.iter().chain(&unreadable.positions).filter(outside).map(one).collect(),
        ..Selection::default()
    };
    let named = exclude.exclude_schemas.len() + exclude.exclude_tables.len() + exclude.exclude_table_data.len();
    let json = serde_json::to_string(&exclude).ok().filter(|_| (1..=50).contains(&named))?;
    Some(format!("what cannot be granted, for it is {platform}'s own, can be excluded: \"selection\": {json}"))
}

/// What is left out with what cannot be read or was not to be taken.
fn with_it(left_out: &LeftOut) -> Option<String> {
    let depends = |omission: &&Omission| omission.reason == DEPENDS_ON_OMITTED;
    let also: Vec<&Omission> = left_out.omissions.iter().filter(depends).collect();
    let name = |o: &&Omission| format!("{} {}", o.kind.to_lowercase(), qualified(&o.schema, &o.name));
    let named = also.iter().take(10).map(name).collect::<Vec<_>>().join(", ");
    // Objects of an excluded schema are among those that depend on it.
    let more = also.len().saturating_sub(10) + if left_out.schemas.is_empty() { left_out.dependents.len() } else { 0 };
    match (named.as_str(), more) {
        ("", 0) => None,
        ("", more) => Some(format!("{more} constraints or functions")),
        (named, 0) => Some(named.to_owned()),
        (named, more) => Some(format!("{named} and {more} more objects")),
    }
}

/// What the selection does, a line each.
fn selected(prepared: &Prepared) -> Vec<String> {
    let Prepared { chosen, excluded, .. } = prepared;
    let mut lines = Vec::new();
    let by_reason = |o: &&Omission| o.reason != DEPENDS_ON_OMITTED;
    for omission in excluded.left_out.omissions.iter().filter(by_reason).take(20) {
        let (kind, name) = match omission.kind.as_str() {
            "SCHEMA" => ("schema", ident(&omission.schema)),
            "TABLE DATA" => ("rows of table", qualified(&omission.schema, &omission.name)),
            "SEQUENCE SET" => ("position of sequence", qualified(&omission.schema, &omission.name)),
            _ => ("table", qualified(&omission.schema, &omission.name)),
        };
        lines.push(format!("not in the backup, as the selection says: {kind} {name}"));
    }
    let more = excluded.left_out.omissions.iter().filter(by_reason).count().saturating_sub(20);
    if more > 0 {
        lines.push(format!("not in the backup, as the selection says: {more} more"));
    }
    lines.extend(with_it(&excluded.left_out).map(|text| format!("nor what depends on that: {text}")));
    lines.extend(chosen.idle.iter().take(20).map(|name| format!("nothing is called as the selection says in {name}")));
    lines
}

fn warnings(prepared: &Prepared) -> Vec<String> {
    let Prepared { snapshot, facts, pg_dump, .. } = prepared;
    let mut warnings = Vec::new();
    if prepared.opaque {
        warnings.push(format!(
            "archives of version {} are kept as pg_dump writes them, unread: no rows are counted or digested, and a restore cannot be proven",
            snapshot.version().major()
        ));
    }
    warnings.extend(selected(prepared));
    warnings.extend(pg_dump.below_floor());
    for keyword in snapshot.ignored_keywords() {
        warnings.push(format!("the connection string's keyword {keyword} does nothing here"));
    }
    if snapshot.endpoint().sslmode == SslMode::Require {
        warnings.push("TLS is used without checking the server's certificate; sslmode=verify-full checks it".into());
    }
    let may_be_plain = matches!(snapshot.endpoint().sslmode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
    if may_be_plain && !snapshot.endpoint().address.ip().is_loopback() {
        warnings.push("the connection may be unencrypted: who is on the way can read the database; sslmode=verify-full encrypts it and checks the server's certificate".into());
    }
    if facts.is_standby {
        warnings.push("the server is a standby: its replay can end a long dump (max_standby_streaming_delay)".into());
    }
    if facts.relations > facts.lock_room {
        warnings.push(format!(
            "pg_dump locks all {} tables and sequences at once and the server may have room for {} locks: \
             raise max_locks_per_transaction",
            facts.relations, facts.lock_room
        ));
    }
    for omission in facts.omissions.iter().take(20) {
        let name = match omission.schema.as_str() {
            "" => omission.name.clone(),
            schema => format!("{schema}.{}", omission.name),
        };
        warnings.push(format!("{} {name} will not be in the backup", omission.kind.to_lowercase()));
    }
    if facts.omissions.len() > 20 {
        warnings.push(format!("{} more objects will not be in the backup", facts.omissions.len() - 20));
    }
    warnings
}
