//! The new database: made under a name of our own, given its properties and its final name in one
//! transaction at the end. A database with the final name is complete or absent.

use tokio_postgres::{Client, error::SqlState};
use walwarden_contract::{failure::FailureClass, ids::RestoreId, quote};
use walwarden_verifier::{
    annex::{Database, Setting},
    ids::shown,
};

use super::plan::acl;
use crate::failure::Failure;

/// Name of a database while it is not complete.
pub fn temporary_name(restore_id: &RestoreId) -> String {
    format!("ww_{restore_id}")
}

/// Whether a database is the leftover of some restore.
pub fn is_leftover(name: &str) -> bool {
    name.strip_prefix("ww_").is_some_and(|id| walwarden_verifier::ids::is_id("rst", id))
}

/// The command that removes a leftover.
pub fn drop_statement(name: &str) -> String {
    format!("DROP DATABASE {};", quote::ident(name))
}

/// The statement that makes an empty database with the source's encoding and locale.
pub fn create_statement(name: &str, source: &Database, target_major: u32) -> String {
    let mut statement = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote::ident(name),
        quote::literal(&source.encoding),
        quote::literal(&source.collate),
        quote::literal(&source.ctype),
    );
    let locale = source.locale.as_deref().unwrap_or_default();
    match source.locale_provider.as_str() {
        "i" => {
            statement.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote::literal(locale)));
            if let Some(rules) = &source.icu_rules {
                statement.push_str(&format!(" ICU_RULES {}", quote::literal(rules)));
            }
        }
        "b" => statement.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", quote::literal(locale))),
        _ if target_major >= 15 => statement.push_str(" LOCALE_PROVIDER libc"),
        _ => {}
    }
    statement
}

/// Makes the empty database; what an earlier try of the same restore left is removed first. `heir` gets it at once:
/// from Postgres 15 on only a database's owner may create in its schema `public`, and so what others are to own there
/// cannot be given to them otherwise.
pub async fn create(
    client: &Client,
    name: &str,
    source: &Database,
    target_major: u32,
    heir: Option<&str>,
) -> Result<(), Failure> {
    discard(client, name).await?;
    client
        .batch_execute(&create_statement(name, source, target_major))
        .await
        .map_err(|error| failed("create the database", &error))?;
    let Some(heir) = heir else { return Ok(()) };
    let give = format!("ALTER DATABASE {} OWNER TO {}", quote::ident(name), quote::ident(heir));
    client.batch_execute(&give).await.map_err(|error| failed("give the new database to its owner", &error))
}

/// Removes an unfinished database, and whoever is connected to it.
pub async fn discard(client: &Client, name: &str) -> Result<(), Failure> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote::ident(name));
    client.batch_execute(&statement).await.map_err(|error| failed("drop the unfinished database", &error))
}

/// Ends what is left of our sessions in a database that nobody else knows of: a pooler keeps them for the next client,
/// and a database cannot be renamed under anybody.
async fn end_sessions(client: &Client, name: &str) -> Result<(), Failure> {
    let end = "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()";
    client.query(end, &[&name]).await.map_err(|error| failed("end the sessions of the restore", &error)).map(drop)
}

/// Properties and final name, all or nothing. `heir` is who has the database already, where it is not the restoring
/// role. `rehearse` rolls everything back: it finds what would fail before the long work.
pub async fn complete(
    client: &Client,
    temporary: &str,
    name: &str,
    source: &Database,
    heir: Option<&str>,
    rehearse: bool,
) -> Result<(), Failure> {
    if !rehearse {
        end_sessions(client, temporary).await?;
    }
    let mut script = String::from("BEGIN;\n");
    for statement in property_statements(temporary, source, heir) {
        script.push_str(&statement);
        script.push_str(";\n");
    }
    if temporary != name {
        script.push_str(&format!("ALTER DATABASE {} RENAME TO {};\n", quote::ident(temporary), quote::ident(name)));
    }
    // The owner last: who gives a database away may lose the right to do anything else with it.
    script.push_str(&format!("ALTER DATABASE {} OWNER TO {};\n", quote::ident(name), quote::ident(&source.owner)));
    script.push_str(if rehearse { "ROLLBACK" } else { "COMMIT" });
    let Err(error) = client.batch_execute(&script).await else { return Ok(()) };
    let _ = client.batch_execute("ROLLBACK").await;
    if error.code() == Some(&SqlState::DUPLICATE_DATABASE) {
        return Err(Failure::class(
            FailureClass::TargetExists,
            format!("a database called \"{}\" has appeared on the target", shown(name)),
        ));
    }
    Err(failed("give the database its properties and name", &error))
}

/// Settings that make a server load code; a backup may not ask for that.
const LOADS_LIBRARIES: [&str; 5] = [
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "dynamic_library_path",
    "jit_provider",
];

/// Whether a stored setting is left out of every restore.
pub fn loads_libraries(name: &str) -> bool {
    LOADS_LIBRARIES.contains(&name.to_ascii_lowercase().as_str())
}

/// Settings whose value is a list of quoted names (Postgres' GUC_LIST_QUOTE): each is a literal of its own.
const QUOTED_LISTS: [&str; 3] = ["search_path", "temp_tablespaces", "unix_socket_directories"];

/// Settings that could stand in the way of what is still to be done.
fn is_hindrance(name: &str) -> bool {
    name.ends_with("_timeout") || name == "default_transaction_read_only" || name == "transaction_read_only"
}

fn property_statements(name: &str, source: &Database, heir: Option<&str>) -> Vec<String> {
    let database = quote::ident(name);
    // What was set for the loading itself goes first.
    let mut statements = vec![format!("ALTER DATABASE {database} RESET ALL")];
    if let Some(comment) = &source.comment {
        statements.push(format!("COMMENT ON DATABASE {database} IS {}", quote::literal(comment)));
    }
    if source.connection_limit != -1 {
        statements.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {}", source.connection_limit));
    }
    if source.is_template {
        statements.push(format!("ALTER DATABASE {database} IS_TEMPLATE true"));
    }
    if let Some(items) = &source.acl {
        statements.extend(acl::database_grants(name, &source.owner, heir, items));
    }
    let usable = || source.settings.iter().filter(|setting| !loads_libraries(&setting.name));
    let (last, first): (Vec<&Setting>, Vec<&Setting>) = usable().partition(|setting| is_hindrance(&setting.name));
    for setting in first.into_iter().chain(last) {
        statements.push(format!("ALTER DATABASE {database} SET {}", assignment(&setting.name, &setting.value)));
    }
    for setting in source.role_settings.iter().filter(|setting| !loads_libraries(&setting.name)) {
        statements.push(format!(
            "ALTER ROLE {} IN DATABASE {database} SET {}",
            quote::ident(&setting.role),
            assignment(&setting.name, &setting.value)
        ));
    }
    statements
}

/// `name TO value`. A custom setting's name may have a dot, each side of which is an identifier.
fn assignment(name: &str, value: &str) -> String {
    let name: Vec<String> = name.split('.').map(quote::ident).collect();
    let name = name.join(".");
    if QUOTED_LISTS.iter().any(|list| format!("\"{list}\"") == name)
        && let Some(items) = split_list(value)
    {
        let items: Vec<String> = items.iter().map(|item| quote::literal(item)).collect();
        return format!("{name} TO {}", if items.is_empty() { "''".to_owned() } else { items.join(", ") });
    }
    format!("{name} TO {}", quote::literal(value))
}

/// Splits `"$user", public` (Postgres' SplitGUCList).
fn split_list(value: &str) -> Option<Vec<String>> {
    let mut items = Vec::new();
    let mut rest = value.trim();
    if rest.is_empty() {
        return Some(items);
    }
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut item = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') if quoted[at + 1..].starts_with('"') => {
                        chars.next();
                        item.push('"');
                    }
                    (at, '"') => break at + 1,
                    (_, c) => item.push(c),
                }
            };
            items.push(item);
            rest = quoted[end..].trim_start();
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            items.push(rest[..end].trim_end().to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => return Some(items),
            None => return None,
        }
    }
}

/// An error of the target while it is being written.
pub fn failed(what: &str, error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            Failure::class(
                FailureClass::TargetFailed,
                format!("could not {what}: {}", shown(&format!("{}{detail}", db.message()))),
            )
            .hint(db.hint().map_or_else(|| "correct that on the target, then restore again".to_owned(), shown))
        }
        None => Failure::class(
            FailureClass::TargetUnreachable,
            format!("could not {what}: the connection to the target broke ({})", shown(&error.to_string())),
        ),
    }
}

#[cfg(test)]
mod tests {
    use walwarden_verifier::annex::RoleSetting;

    use super::*;

    #[test]
    fn lists_split_as_postgres_does() {
        assert_eq!(split_list(r#""$user", public"#).unwrap(), ["$user", "public"]);
        assert_eq!(split_list(r#""a ""b", c,"d""#).unwrap(), ["a \"b", "c", "d"]);
        assert_eq!(split_list("").unwrap(), Vec::<String>::new());
        assert_eq!(split_list(r#""open"#), None);
        assert_eq!(split_list(r#""a" b"#), None);
    }

    #[test]
    fn a_hostile_description_stays_quoted() {
        let evil = "x\"; DROP TABLE t; --'\\";
        let source = Database {
            name: evil.into(),
            encoding: evil.into(),
            locale_provider: "i".into(),
            collate: evil.into(),
            ctype: evil.into(),
            locale: Some(evil.into()),
            owner: evil.into(),
            comment: Some(evil.into()),
            connection_limit: 5,
            settings: vec![
                Setting { name: "statement_timeout".into(), value: "5s".into() },
                Setting { name: "search_path".into(), value: r#""$user", public"#.into() },
                Setting { name: "session_preload_libraries".into(), value: "evil".into() },
                Setting { name: "app.tenant".into(), value: "it's".into() },
                Setting { name: evil.into(), value: evil.into() },
            ],
            role_settings: vec![RoleSetting { role: evil.into(), name: "work_mem".into(), value: "1MB".into() }],
            ..Database::default()
        };
        insta::assert_snapshot!(create_statement("new", &source, 16));
        insta::assert_snapshot!(property_statements("new", &source, None).join("\n"));
    }

    #[test]
    fn leftovers_are_ours_by_name() {
        assert!(is_leftover("ww_rst_01jd7z9k3m5n7p9r1t3v5x7z9a"));
        assert!(!is_leftover("ww_production") && !is_leftover("rst_01jd7z9k3m5n7p9r1t3v5x7z9a"));
    }
}
