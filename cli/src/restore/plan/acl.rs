//! ACL items as a server prints them: `grantee=privileges/grantor`, names quoted where needed.

use walwarden_contract::quote;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Role it is granted to; empty for everyone.
    pub grantee: String,
    /// Privilege letters, each with whether it may be passed on.
    pub privileges: Vec<(char, bool)>,
    /// Role that granted it.
    pub grantor: String,
}

/// Parses an item; `None` where it is none.
pub fn parse(text: &str) -> Option<Item> {
    let (grantee, rest) = identifier(text, ENDS)?;
    let rest = rest.strip_prefix('=')?;
    let (letters, grantor) = rest.split_once('/')?;
    let mut privileges = Vec::new();
    for letter in letters.chars() {
        match (letter, privileges.last_mut()) {
            ('*', Some((_, passable))) => *passable = true,
            (letter, _) if letter.is_ascii_alphabetic() => privileges.push((letter, false)),
            _ => return None,
        }
    }
    let (grantor, rest) = identifier(grantor, ENDS)?;
    rest.is_empty().then_some(Item { grantee, privileges, grantor })
}

/// What follows a name in an ACL item.
const ENDS: [char; 2] = ['=', '/'];

/// An identifier, quoted or up to one of these, and what follows it.
pub fn identifier(text: &str, ends: [char; 2]) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(ends).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            out.push(c);
        } else if quoted[at + 1..].starts_with('"') {
            chars.next();
            out.push('"');
        } else {
            return Some((out, &quoted[at + 1..]));
        }
    }
    None
}

/// Statements that give a database exactly this ACL. Its present owner is `heir`, or the role that runs them.
pub fn database_grants(database: &str, owner: &str, heir: Option<&str>, items: &[String]) -> Vec<String> {
    let database = quote::ident(database);
    let holder = heir.map_or_else(|| "CURRENT_USER".to_owned(), quote::ident);
    let mut statements = vec![
        format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"),
        format!("REVOKE ALL ON DATABASE {database} FROM {holder}"),
    ];
    for item in items.iter().filter_map(|item| parse(item)) {
        let grantee = match item.grantee.as_str() {
            "" => "PUBLIC".to_owned(),
            // Given to the present owner now, it goes to the owner-to-be with the database.
            name if name == owner => holder.clone(),
            name => quote::ident(name),
        };
        for passable in [false, true] {
            let words: Vec<&str> = item
                .privileges
                .iter()
                .filter(|(_, p)| *p == passable)
                .filter_map(|(letter, _)| word(*letter))
                .collect();
            if !words.is_empty() {
                let option = if passable { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON DATABASE {database} TO {grantee}{option}", words.join(", ")));
            }
        }
    }
    statements
}

fn word(letter: char) -> Option<&'static str> {
    match letter {
        'C' => Some("CREATE"),
        'T' => Some("TEMPORARY"),
        'c' => Some("CONNECT"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_parse() {
        let item = parse(r#""a=""b/"=rw*/"x y""#).unwrap();
        assert_eq!((item.grantee.as_str(), item.grantor.as_str()), ("a=\"b/", "x y"));
        assert_eq!(item.privileges, [('r', false), ('w', true)]);
        assert_eq!(parse("=Tc/owner").unwrap().grantee, "");
        assert_eq!(parse("größe=r/o").unwrap().grantee, "größe");
        for bad in ["", "a", "a=r", "a=*r/b", "\"a=r/b", "a=r/b=c", "a=;/b"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn database_acls_are_rebuilt() {
        let items = ["=c/o".to_owned(), "o=CTc/o".to_owned(), "app=C*T/o".to_owned()];
        insta::assert_snapshot!(database_grants("d", "o", None, &items).join("\n"));
        assert!(
            database_grants("d", "o", Some("o"), &items).contains(&"REVOKE ALL ON DATABASE \"d\" FROM \"o\"".into())
        );
    }
}
