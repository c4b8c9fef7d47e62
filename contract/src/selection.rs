//! What of a database is backed up. Names are written as in SQL: `schema`, `schema.table`; a part is a plain identifier,
//! folded to lower case as Postgres does, or in double quotes, with `""` for a quote. No patterns.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest identifier (`NAMEDATALEN` − 1), in bytes.
const MAX_PART_BYTES: usize = 63;
/// Most names of a selection.
const MAX_NAMES: usize = 500;

/// What is taken and what is not. By default everything is that pg_dump would take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selection {
    /// Only what lies in these schemas, where any are named; what lies in none, large objects and publications, is
    /// taken all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Nothing of these schemas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_schemas: Vec<String>,
    /// Not these tables, views or foreign tables; of a partitioned table its partitions neither.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_tables: Vec<String>,
    /// Of these tables the definition, without rows; of these sequences without their position.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_table_data: Vec<String>,
}

/// A selection that suits a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preset {
    /// The platform: `supabase` or `neon`.
    pub name: String,
    /// What to select.
    pub selection: Selection,
}

/// Why a selection is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectionError {
    /// Which entry, and what is wrong.
    pub problem: String,
    /// What to do.
    pub hint: &'static str,
}

impl fmt::Display for SelectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for SelectionError {}

const FORM_HINT: &str =
    "write names as in SQL: app, \"My Schema\", app.events, \"My Schema\".\"Events\"; no patterns, no system schemas";

fn fail<T>(problem: String) -> Result<T, SelectionError> {
    Err(SelectionError { problem, hint: FORM_HINT })
}

/// The parts of a name.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn parse(text: &str) -> Result<Vec<String>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted)?,
            None => plain(rest)?,
        };
        match part.len() {
            0 => return Err("an empty name"),
            1..=MAX_PART_BYTES => parts.push(part),
            _ => return Err("a name of more than 63 bytes"),
        }
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(parts),
            None => return Err("characters that need double quotes"),
        }
    }
}

fn in_quotes(text: &str) -> Result<(String, &str), &'static str> {
    let mut part = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if characters.next_if(|(_, next)| *next == '"').is_some() => part.push('"'),
            '"' => return Ok((part, &text[at + 1..])),
            '\0' => return Err("a NUL character"),
            other => part.push(other),
        }
    }
    Err("a quote that is not closed")
}

fn plain(text: &str) -> Result<(String, &str), &'static str> {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    if !text.starts_with(begins) {
        return Err(if text.is_empty() { "an empty name" } else { "characters that need double quotes" });
    }
    let end = text.find(|c| !(begins(c) || c.is_ascii_digit() || c == '$')).unwrap_or(text.len());
    Ok((text[..end].to_ascii_lowercase(), &text[end..]))
}

/// A name as [`parse`] reads it, with quotes where they are needed.
pub fn write(parts: &[&str]) -> String {
    let part = |part: &&str| match plain(part) {
        Ok((folded, "")) if folded == *part => folded,
        _ => format!("\"{}\"", part.replace('"', "\"\"")),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(".")
}

impl Selection {
    /// Whether it takes everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// With each name in its one form, in order and once.
    ///
    /// # Errors
    /// Names the first entry that is no name, or that contradicts another.
    pub fn canonical(&self) -> Result<Self, SelectionError> {
        let lists = [&self.schemas, &self.exclude_schemas, &self.exclude_tables, &self.exclude_table_data];
        if lists.iter().map(|list| list.len()).sum::<usize>() > MAX_NAMES {
            return fail(format!("more than {MAX_NAMES} names"));
        }
        let canonical = Self {
            schemas: names("schemas", &self.schemas, 1)?,
            exclude_schemas: names("excludeSchemas", &self.exclude_schemas, 1)?,
            exclude_tables: names("excludeTables", &self.exclude_tables, 2)?,
            exclude_table_data: names("excludeTableData", &self.exclude_table_data, 2)?,
        };
        for (what, with, one, other) in [
            ("schemas", "excludeSchemas", &canonical.schemas, &canonical.exclude_schemas),
            ("excludeTables", "excludeTableData", &canonical.exclude_tables, &canonical.exclude_table_data),
        ] {
            if let Some(both) = one.iter().find(|name| other.contains(name)) {
                return fail(format!("{both} is in {what} and in {with}"));
            }
        }
        Ok(canonical)
    }
}

fn names(field: &str, list: &[String], parts: usize) -> Result<Vec<String>, SelectionError> {
    let mut names = Vec::with_capacity(list.len());
    for (at, text) in list.iter().enumerate() {
        let refused = |why: &str| fail(format!("{field}[{at}]: {why}"));
        let found = match parse(text) {
            Ok(found) => found,
            Err(why) => return refused(why),
        };
        match (found.len(), parts) {
            (1, 2) => return refused("it names no schema: schema.table"),
            (have, want) if have != want => return refused("it has too many parts"),
            _ => {}
        }
        let schema = found[0].as_str();
        if schema.starts_with("pg_") || schema == "information_schema" {
            return refused("a system schema is never in a backup");
        }
        names.push(write(&found.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn names_are_read_as_postgres_reads_them() {
        assert_eq!(parsed("App.Events"), ["app", "events"]);
        assert_eq!(parsed(r#" "App"."a.b""c" "#.trim()), ["App", "a.b\"c"]);
        assert_eq!(parsed("größe.t$1"), ["größe", "t$1"]);
        for bad in ["", ".", "a.", "a b", "a*", "1a", "\"a", "\"\"", "a..b", "\"a\"b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"x".repeat(64)).is_err());
    }

    #[test]
    fn a_selection_is_one_thing_and_says_what_is_wrong_with_it() {
        let of = |json: &str| serde_json::from_str::<Selection>(json).unwrap().canonical();
        let good = of(r#"{"excludeTables": ["B.t", "a.\"T\"", "b.t"], "schemas": ["a", "b"]}"#).unwrap();
        assert_eq!(good.exclude_tables, ["a.\"T\"", "b.t"]);
        assert_eq!(good.canonical().unwrap(), good);
        assert!(of("{}").unwrap().is_everything());
        for (bad, why) in [
            (r#"{"excludeTables": ["t"]}"#, "excludeTables[0]: it names no schema: schema.table"),
            (r#"{"schemas": ["a", "b.c"]}"#, "schemas[1]: it has too many parts"),
            (r#"{"excludeSchemas": ["pg_catalog"]}"#, "excludeSchemas[0]: a system schema is never in a backup"),
            (r#"{"schemas": ["a"], "excludeSchemas": ["A"]}"#, "a is in schemas and in excludeSchemas"),
            (r#"{"excludeTableData": ["a.b*"]}"#, "excludeTableData[0]: characters that need double quotes"),
        ] {
            assert_eq!(of(bad).unwrap_err().problem, why);
        }
        assert!(serde_json::from_str::<Selection>(r#"{"tables": []}"#).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(parts in prop::collection::vec("[^\0]{1,15}", 1..3)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(parse(&write(&parts)).unwrap(), parts);
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
