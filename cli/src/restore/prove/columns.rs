//! Names in the annex' COPY texts. The annex is hostile input: a text that is not exactly a list of
//! identifiers is refused, and what is accepted is quoted anew by us.

use walwarden_contract::quote;

/// `("a", b)` as names; empty text for a table without columns to copy.
pub fn columns(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = text.strip_prefix('(')?;
    let mut names = Vec::new();
    loop {
        let (name, after) = identifier(rest)?;
        names.push(name);
        if let Some(more) = after.strip_prefix(", ") {
            rest = more;
        } else {
            return (after == ")").then_some(names);
        }
    }
}

/// `schema.name`, each quoted or plain.
pub fn qualified(text: &str) -> Option<(String, String)> {
    let (schema, rest) = identifier(text)?;
    let (name, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((schema, name))
}

/// Names as a list for SQL.
pub fn list(names: &[String]) -> String {
    names.iter().map(|name| quote::ident(name)).collect::<Vec<_>>().join(", ")
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let end = text.find(|c| !plain(c)).unwrap_or(text.len());
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        return starts.then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\0' => return None,
            '"' if quoted[at + 1..].starts_with('"') => {
                chars.next();
                name.push('"');
            }
            '"' => return (!name.is_empty()).then(|| (name, &quoted[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists() {
        assert_eq!(columns("").unwrap(), Vec::<String>::new());
        assert_eq!(
            columns("(id, \"Weird \"\"name\", \"order\", _x1)").unwrap(),
            ["id", "Weird \"name", "order", "_x1"]
        );
        assert_eq!(qualified("public.\"T able\"").unwrap(), ("public".into(), "T able".into()));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "()",
            "(",
            "id",
            "(id",
            "(id,b)",
            "(id) FROM t",
            "(id); DROP TABLE t",
            "(id) TO PROGRAM 'x'",
            "(a(b))",
            "(\"a)",
            "(\"\")",
            "(1a)",
            "(A)",
            "(a, )",
            "(a b)",
            "((a))",
            "(a), (b)",
            "(a\n)",
            "(pg_sleep(1))",
            "(*)",
            "(a::text)",
            " (a)",
            "(\"a\0\")",
        ] {
            assert_eq!(columns(bad), None, "{bad}");
        }
        for bad in ["", "t", "a.b.c", "a.b x", "\"a\".", ".b", "a.b;"] {
            assert_eq!(qualified(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(names in prop::collection::vec("[^\0]{1,12}", 1..5)) {
            let text = format!("({})", list(&names));
            prop_assert_eq!(columns(&text), Some(names));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = columns(&text);
            let _ = qualified(&text);
        }
    }
}
