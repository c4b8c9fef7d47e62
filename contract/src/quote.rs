//! Quoting, in one place: every command and statement we print or run goes through here.

/// `text` as one word of a POSIX shell.
pub fn sh(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&b))
        && !text.starts_with(['=', '~']);
    if plain { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// `name` as an SQL identifier, always quoted.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.name` as a qualified SQL identifier.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// `text` as an SQL string literal, right under either `standard_conforming_strings` setting.
pub fn literal(text: &str) -> String {
    let body = text.replace('\'', "''");
    if body.contains('\\') { format!(" E'{}'", body.replace('\\', "\\\\")) } else { format!("'{body}'") }
}

/// `value` in a libpq keyword/value string (`dbname='…'`).
pub fn conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sh_words_come_back_from_a_real_shell(text in "[^\0]*") {
            let out = Command::new("sh").arg("-c").arg(format!("printf %s {}", sh(&text))).output().unwrap();
            prop_assert_eq!(out.stdout, text.as_bytes());
        }
    }

    #[test]
    fn sql_forms() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), " E'a\\\\'''");
        assert_eq!(conninfo("a'b\\c"), r"'a\'b\\c'");
    }
}
