//! What a plan does beside pg_restore: roles before it, owners and rights after it.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use walwarden_contract::{failure::FailureClass, quote};
use walwarden_verifier::ids::shown;

use super::{
    database,
    plan::{
        access,
        objects::{LINKED_SEQUENCES, ROUTINES, Routines},
    },
    prepare::Prepared,
};
use crate::{failure::Failure, output::Output};

/// Makes the roles that the plan makes and drops what it drops first: all of it or nothing.
pub async fn before(prepared: &Prepared<'_>) -> Result<(), Failure> {
    if prepared.plan.before.is_empty() {
        return Ok(());
    }
    all_or_nothing(&prepared.control, &prepared.plan.before).await.map_err(|error| {
        database::failed("make the roles that the backup refers to, or drop what is in the way", &error)
    })
}

/// Drops them again, as far as nothing else depends on them; gives those that stay.
pub async fn drop_roles(control: &Client, made: &[String]) -> Vec<String> {
    let mut stay = Vec::new();
    for role in made.iter().rev() {
        if control.batch_execute(&format!("DROP ROLE IF EXISTS {}", quote::ident(role))).await.is_err() {
            stay.push(role.clone());
        }
    }
    stay
}

/// Gives owners and rights that pg_restore could not give, and makes these keys; in place in one transaction.
pub async fn give(prepared: &Prepared<'_>, name: &str, keys: Vec<String>, output: &Output) -> Result<(), Failure> {
    let plan = &prepared.plan;
    if plan.fixes.is_empty() && plan.after.is_empty() && keys.is_empty() && !plan.no_owner {
        return Ok(());
    }
    let failed = |error: &tokio_postgres::Error| database::failed("give owners, rights and keys", error);
    let client = prepared.target.connect(name, super::prepare::APPLICATION).await?;
    client.batch_execute("SET search_path = ''").await.map_err(|error| failed(&error))?;
    let mut routines = Routines::new();
    for row in client.query(ROUTINES, &[]).await.map_err(|error| failed(&error))? {
        for signature in [2, 1] {
            routines.insert((row.get(0), row.get(signature)), row.get(3));
        }
    }
    let linked: BTreeSet<(String, String)> = client
        .query(LINKED_SEQUENCES, &[])
        .await
        .map_err(|error| failed(&error))?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let statements = access::statements(&plan.fixes, &routines, &linked, prepared.facts.major());
    // Whoever owns the database may create in its schema `public`, and must, to own what is there.
    let heir =
        prepared.heir().map(|heir| format!("ALTER DATABASE {} OWNER TO {}", quote::ident(name), quote::ident(heir)));
    let statements = statements
        .map(|rest| heir.into_iter().chain(rest).chain(plan.after.iter().cloned()).chain(keys).collect::<Vec<_>>())
        .map_err(|object| {
            let what = format!("{} was not found to give it its rights", shown(&format!("{object:?}")));
            Failure::class(FailureClass::TargetFailed, what)
                .hint("please report this; walwarden restore --keep-failed keeps what was restored")
        })?;
    // A database without its final name may be between; and each object that is changed is locked until the commit.
    let at_once = if prepared.plan.temporary_database.is_some() { STATEMENTS_AT_ONCE } else { usize::MAX };
    for some in statements.chunks(at_once) {
        if let Err(error) = all_or_nothing(&client, some).await {
            if plan.temporary_database.is_none() {
                output.warn("what was still to be done on the target, in this order:");
                statements.iter().for_each(|statement| output.quote(&format!("{statement};")));
            }
            return Err(failed(&error));
        }
    }
    Ok(())
}

/// Statements in one transaction, where more may be made. A new owner is an exclusive lock on a table, its indexes, and its
/// TOAST table with its own.
const STATEMENTS_AT_ONCE: usize = 50;

async fn all_or_nothing(client: &Client, statements: &[String]) -> Result<(), tokio_postgres::Error> {
    let script = format!("BEGIN;\n{};\nCOMMIT", statements.join(";\n"));
    let done = client.batch_execute(&script).await;
    if done.is_err() {
        let _ = client.batch_execute("ROLLBACK").await;
    }
    done
}
