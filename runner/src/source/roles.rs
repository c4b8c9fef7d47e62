//! Roles: pg_dump takes none of them, and they are lost with the cluster unless the annex has them. Never a password.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Error};
use walwarden_verifier::annex::{Membership, Role};

use super::{facts::stored_settings, text::Columns};

/// All roles of the cluster, and which of them this database refers to.
#[derive(Debug, Default)]
pub struct Roles {
    all: BTreeMap<String, Role>,
    referred: BTreeSet<String>,
}

impl Roles {
    /// Those the database refers to, those `also` names, and those they are members of, in the order of their names.
    pub fn referred<'a>(&self, also: impl Iterator<Item = &'a str>) -> Vec<&Role> {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = self.referred.iter().map(String::as_str).collect();
        open.extend(also.map(|name| -> &str { name }));
        while let Some(name) = open.pop() {
            // A name that is none (an owner dropped since, PUBLIC) is no role to describe.
            if let Some(role) = self.all.get(name)
                && found.insert(role.name.as_str())
            {
                open.extend(role.member_of.iter().map(|membership| membership.role.as_str()));
            }
        }
        found.into_iter().filter_map(|name| self.all.get(name)).collect()
    }
}

/// Reads them. `pg_shdepend` knows which roles a database's objects are owned by, grant to or name in policies, except
/// for the bootstrap superuser: callers add the owners and grantees they see.
pub(super) async fn read(client: &Client) -> Result<Roles, Error> {
    let mut roles = Roles::default();
    let attributes = "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, \
                      rolbypassrls, rolconnlimit, rolvaliduntil::text, rolconfig FROM pg_roles";
    for row in client.query(attributes, &[]).await? {
        let name = row.text(0)?;
        let role = Role {
            name: name.clone(),
            superuser: row.try_get(1)?,
            inherit: row.try_get(2)?,
            create_role: row.try_get(3)?,
            create_db: row.try_get(4)?,
            login: row.try_get(5)?,
            replication: row.try_get(6)?,
            bypass_rls: row.try_get(7)?,
            connection_limit: row.try_get::<_, i32>(8)?.into(),
            valid_until: row.text_or_null(9)?,
            member_of: Vec::new(),
            settings: stored_settings(row.texts_or_null(10)?),
        };
        roles.all.insert(name, role);
    }
    // From 16 on several grantors may have granted the same membership.
    let memberships = "SELECT pg_get_userbyid(member), pg_get_userbyid(roleid), bool_or(admin_option) \
                       FROM pg_auth_members GROUP BY member, roleid ORDER BY 1, 2";
    for row in client.query(memberships, &[]).await? {
        if let Some(member) = roles.all.get_mut(&row.text(0)?) {
            member.member_of.push(Membership { role: row.text(1)?, admin: row.try_get(2)? });
        }
    }
    let referred = "SELECT DISTINCT pg_get_userbyid(s.refobjid) \
                    FROM pg_shdepend s JOIN pg_database d ON d.datname = current_database() \
                    WHERE s.refclassid = 'pg_authid'::regclass \
                    AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid)";
    for row in client.query(referred, &[]).await? {
        roles.referred.insert(row.text(0)?);
    }
    Ok(roles)
}

/// The roles an ACL item names: who is granted to, and who granted. `role=arwd/grantor`, where PUBLIC is an empty name
/// and names that are not plain stand in quotes (`aclitemout`).
pub fn named_in_acl(item: &str) -> [Option<String>; 2] {
    let (grantee, rest) = acl_name(item);
    let grantor = rest.split_once('/').map(|(_, grantor)| acl_name(grantor).0);
    [Some(grantee).filter(|name| !name.is_empty()), grantor]
}

fn acl_name(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('=').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut name = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character == '"' && characters.next_if(|(_, next)| *next == '"').is_none() {
            return (name, &quoted[at + 1..]);
        }
        name.push(character);
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_items_name_roles() {
        let named = |item| named_in_acl(item).map(Option::unwrap_or_default);
        assert_eq!(named("reader=r/owner"), ["reader", "owner"]);
        assert_eq!(named("=U/owner"), ["", "owner"]);
        assert_eq!(named(r#""a=b/""c"=arwdDxt*/"o w""#), [r#"a=b/"c"#, "o w"]);
        assert_eq!(named("odd"), ["odd", ""]);
    }

    #[test]
    fn referred_roles_bring_what_they_are_members_of() {
        let mut roles = Roles::default();
        for (name, member_of) in
            [("a", vec!["b"]), ("b", vec!["c", "a"]), ("c", vec![]), ("d", vec![]), ("e", vec!["d"])]
        {
            let member_of = member_of.into_iter().map(|role| Membership { role: role.into(), admin: false }).collect();
            roles.all.insert(name.into(), Role { name: name.into(), member_of, ..Role::default() });
        }
        roles.referred.insert("d".into());
        let names: Vec<_> = roles.referred(["a", "nobody"].into_iter()).iter().map(|role| role.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }
}
