//! Owners and rights that pg_restore cannot give, given afterwards: by statements of our own, with our quoting, in one
//! transaction, before the database has its final name.

use std::collections::BTreeSet;

use walwarden_contract::quote;

use super::{
    acl::Item,
    objects::{Object, Routines},
};

/// What is still to be done to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The object.
    pub object: Object,
    /// A column of it, if only that is meant.
    pub column: Option<String>,
    /// Who is to own it.
    pub owner: Option<String>,
    /// Who may do what with it, in the place of all rights it has; `holder` is its owner then.
    pub rights: Option<Rights>,
    /// Roles that lose all rights on it first; the empty one is everyone.
    pub take_from: Vec<String>,
    /// Everyone and the owner lose theirs first, too.
    pub whole: bool,
}

impl Fix {
    /// Nothing yet to be done to it.
    pub fn of(object: Object) -> Self {
        Self { object, column: None, owner: None, rights: None, take_from: Vec::new(), whole: true }
    }
}

/// All rights on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The owner.
    pub holder: String,
    /// Items whose grantees exist; the grantor is the owner.
    pub items: Vec<Item>,
}

/// The statements for these, or the first object that is not there. Owners come first: rights are then granted by the
/// owner there will be; of the rights those on schemas, then those on whole objects, for they take away those on columns.
/// Sequences in `linked` belong to a column and follow its table.
pub fn statements(
    fixes: &[Fix],
    routines: &Routines,
    linked: &BTreeSet<(String, String)>,
    major: u32,
) -> Result<Vec<String>, Object> {
    let named = |object: &Object| object.sql(routines).ok_or_else(|| object.clone());
    let mut all = Vec::new();
    let is_schema = |fix: &&Fix| matches!(fix.object, Object::Schema(_));
    for fix in fixes.iter().filter(is_schema).chain(fixes.iter().filter(|fix| !is_schema(fix))) {
        if let Some(rights) = fix.rights.as_ref().filter(|_| is_schema(&fix)) {
            // Whoever is to own what is in it must be allowed to create there.
            all.extend(grants(fix, rights, &named(&fix.object)?, major, false));
        }
    }
    for fix in fixes {
        let follows = |object: &Object| match object {
            Object::Sequence(schema, name) => linked.contains(&(schema.clone(), name.clone())),
            _ => false,
        };
        if let Some(owner) = fix.owner.as_ref().filter(|_| !follows(&fix.object)) {
            let (kind, name) = (fix.object.alter_kind(), named(&fix.object)?);
            all.push(format!("ALTER {kind} {name} OWNER TO {}", quote::ident(owner)));
        }
    }
    for whole in [true, false] {
        for fix in fixes.iter().filter(|fix| fix.column.is_none() == whole) {
            if let Some(rights) = &fix.rights {
                all.extend(grants(fix, rights, &named(&fix.object)?, major, true));
            }
        }
    }
    Ok(all)
}

fn grants(fix: &Fix, rights: &Rights, object: &str, major: u32, revoke: bool) -> Vec<String> {
    let kind = fix.object.grant_kind();
    let mut statements = Vec::new();
    let role = |name: &str| if name.is_empty() { "PUBLIC".to_owned() } else { quote::ident(name) };
    if fix.column.is_none() && revoke {
        for name in ["", &rights.holder].into_iter().filter(|_| fix.whole) {
            statements.push(format!("REVOKE ALL ON {kind} {object} FROM {}", role(name)));
        }
        for name in &fix.take_from {
            // With what it was passed on to, which is given again by the owner.
            statements.push(format!("REVOKE ALL ON {kind} {object} FROM {} CASCADE", role(name)));
        }
    }
    for item in &rights.items {
        let to = role(&item.grantee);
        for passable in [false, true] {
            let words: Vec<String> = item
                .privileges
                .iter()
                .filter(|(letter, p)| *p == passable && (*letter != 'm' || major >= 17))
                .filter_map(|(letter, _)| fix.object.privilege(*letter))
                .map(|word| match &fix.column {
                    Some(column) => format!("{word} ({})", quote::ident(column)),
                    None => word.to_owned(),
                })
                .collect();
            if !words.is_empty() {
                // An owner can always grant; it is not told so again.
                let option = if passable && item.grantee != rights.holder { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON {kind} {object} TO {to}{option}", words.join(", ")));
            }
        }
    }
    statements
}
