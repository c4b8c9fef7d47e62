//! Facts that an archive holds only inside SQL text pg_dump wrote.
//!
//! These parse exactly the statements pg_dump generates and nothing like them: `None` means "not that statement", and
//! callers treat it as an error, never as absence.

use super::toc::{TocEntry, digits};

/// Where a table's data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTarget<'a> {
    /// The table to load, qualified and quoted as SQL. A partition's data may name its root.
    pub table: &'a str,
    /// The columns, quoted as SQL, without the parentheses; empty for a table without columns to load.
    pub columns: &'a str,
}

/// What a SEQUENCE SET entry sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceValue {
    /// The sequence, qualified and quoted as SQL: text that `regclass` accepts.
    pub sequence: String,
    /// Its `last_value`.
    pub last_value: i64,
    /// Its `is_called`.
    pub is_called: bool,
}

/// Parses the COPY statement of a TABLE DATA entry: `COPY schema."t" (a, b) FROM stdin;`.
pub fn copy_target(statement: &str) -> Option<CopyTarget<'_>> {
    let rest = statement.strip_prefix("COPY ")?;
    let (table, rest) = rest.split_at(qualified_name(rest)?);
    let mut rest = rest.strip_prefix(' ')?;
    let mut columns = "";
    if let Some(list) = rest.strip_prefix('(') {
        let end = outside_quotes(list, ')')?;
        columns = &list[..end];
        rest = list[end..].strip_prefix(')')?;
    }
    // Without columns there are two spaces.
    (rest.trim_start_matches(' ') == "FROM stdin;\n").then_some(CopyTarget { table, columns })
}

/// Parses the definition of a SEQUENCE SET entry: `SELECT pg_catalog.setval('public.s', 5, true);`.
pub fn sequence_value(definition: &str) -> Option<SequenceValue> {
    let rest = definition.strip_prefix("SELECT pg_catalog.setval(")?;
    let (sequence, rest) = string_literal(rest)?;
    (qualified_name(&sequence)? == sequence.len()).then_some(())?;
    let (value, rest) = rest.strip_prefix(", ")?.split_once(", ")?;
    let magnitude = value.strip_prefix('-').unwrap_or(value);
    digits::<u64>(magnitude)?;
    let last_value = value.parse().ok()?;
    let is_called = match rest {
        "true);\n" => true,
        "false);\n" => false,
        _ => return None,
    };
    Some(SequenceValue { sequence, last_value, is_called })
}

/// The large objects an entry announces: a BLOB entry (servers up to 16) is one, a BLOB METADATA entry (from 17) lists
/// them a line each. `None` for other entries, an error for a list that is none.
pub fn large_object_oids(entry: &TocEntry) -> Option<Result<Vec<u32>, ()>> {
    match entry.desc.as_str() {
        "BLOB" => Some(digits(&entry.tag).map(|oid| vec![oid]).ok_or(())),
        "BLOB METADATA" => {
            let list = entry.defn.as_deref().unwrap_or_default();
            Some(list.lines().map(|line| digits(line).ok_or(())).collect())
        }
        _ => None,
    }
}

/// Length of the `schema.name` at the start of `text`, each part quoted or plain.
fn qualified_name(text: &str) -> Option<usize> {
    let mut end = 0;
    loop {
        end += identifier(&text[end..])?;
        if !text[end..].starts_with('.') {
            return Some(end);
        }
        end += 1;
    }
}

fn identifier(text: &str) -> Option<usize> {
    let Some(quoted) = text.strip_prefix('"') else {
        // fmtId() leaves only these plain.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let length = text.bytes().take_while(|&byte| plain(byte)).count();
        return (length > 0).then_some(length);
    };
    let mut bytes = quoted.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'"' {
            if quoted.as_bytes().get(at + 1) != Some(&b'"') {
                return Some(at + 2);
            }
            bytes.next();
        }
    }
    None
}

/// Where `wanted` first stands outside quoted identifiers.
fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        if character == '"' {
            quoted = !quoted;
        } else if character == wanted && !quoted {
            return Some(at);
        }
    }
    None
}

/// The value of the string literal at the start of `text`, and what follows. With a leading `E`, backslashes escape;
/// pg_dump then doubles each and uses no other escape.
fn string_literal(text: &str) -> Option<(String, &str)> {
    let (escapes, body) = match text.strip_prefix("E'") {
        Some(body) => (true, body),
        None => (false, text.strip_prefix('\'')?),
    };
    let mut value = String::new();
    let mut characters = body.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let doubled = match character {
            '\'' => true,
            '\\' => escapes,
            _ => false,
        };
        if doubled {
            match characters.peek() {
                Some(&(_, next)) if next == character => drop(characters.next()),
                _ if character == '\'' => return Some((value, &body[at + 1..])),
                _ => return None,
            }
        }
        value.push(character);
    }
    None
}
