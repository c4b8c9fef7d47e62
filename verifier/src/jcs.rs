//! JSON Canonicalization Scheme (RFC 8785), narrowed to what evidence needs: ASCII keys, integers
//! whose magnitude is below 2^53, no floats. Whatever is signed or hashed here is bytes in this form.
//!
//! Reading is strict by construction: [`from_slice`] parses a typed value and then demands that
//! writing it again gives the same bytes. Unknown fields, another key order, duplicate keys, floats
//! and stray white space all fail that one test.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Largest integer that every JSON reader keeps exactly (RFC 8785, section 3.2.2.3): 2^53 - 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

const MAX_DEPTH: usize = 32;

/// Why bytes are not canonical JSON of the expected shape.
#[derive(Debug)]
pub enum JcsError {
    /// Not JSON, or not of the expected type.
    Shape(serde_json::Error),
    /// Valid JSON of the right type, but not in canonical form, or with fields that are not known.
    NotCanonical,
    /// A value that this profile does not allow (a float, a large integer, a key outside ASCII).
    NotAllowed(&'static str),
}

impl fmt::Display for JcsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => write!(f, "not of the expected shape: {error}"),
            Self::NotCanonical => f.write_str("not in canonical form, or with unknown fields"),
            Self::NotAllowed(what) => write!(f, "holds {what}, which canonical evidence may not"),
        }
    }
}

impl std::error::Error for JcsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Shape(error) => Some(error),
            _ => None,
        }
    }
}

/// The canonical bytes of `value`.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JcsError> {
    let value = serde_json::to_value(value).map_err(JcsError::Shape)?;
    let mut out = Vec::with_capacity(256);
    write(&value, &mut out, 0)?;
    Ok(out)
}

/// Parses `bytes`, which must be exactly what [`to_vec`] writes for the result.
pub fn from_slice<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, JcsError> {
    let value: T = serde_json::from_slice(bytes).map_err(JcsError::Shape)?;
    if to_vec(&value)? != bytes {
        return Err(JcsError::NotCanonical);
    }
    Ok(value)
}

fn write(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), JcsError> {
    if depth > MAX_DEPTH {
        return Err(JcsError::NotAllowed("values nested deeper than 32"));
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            let magnitude = if let Some(n) = number.as_u64() {
                n
            } else if let Some(n) = number.as_i64() {
                n.unsigned_abs()
            } else {
                return Err(JcsError::NotAllowed("a float"));
            };
            if magnitude > MAX_INTEGER {
                return Err(JcsError::NotAllowed("an integer beyond 2^53 - 1"));
            }
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // Sorted here, whatever map serde_json was built with. For ASCII keys byte order is
            // the UTF-16 order that RFC 8785 asks for.
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (i, key) in keys.iter().enumerate() {
                if !key.is_ascii() {
                    return Err(JcsError::NotAllowed("a key outside ASCII"));
                }
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write(&map[key.as_str()], out, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// RFC 8785 3.2.2.2: the seven short escapes, `\u00xx` in lower case for other controls, all else as is.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        b: String,
        a: i64,
    }

    #[test]
    fn keys_are_sorted_and_strings_escaped_as_the_rfc_says() {
        let bytes = to_vec(&Sample { b: "\u{20ac}$\u{f}\nA'B\"\\\"/".into(), a: 1 }).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "{\"a\":1,\"b\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\"/\"}");
    }

    #[test]
    fn anything_but_the_canonical_bytes_is_refused() {
        for bad in [
            r#"{"b":"x","a":1}"#,
            r#"{"a":1,"b":"x" }"#,
            r#"{"a":1,"b":"x","c":2}"#,
            r#"{"a":1,"a":1,"b":"x"}"#,
            r#"{"a":1.0,"b":"x"}"#,
            r#"{"a":9007199254740992,"b":"x"}"#,
            r#"{"a":1,"b":"\ud800"}"#,
            r#"{"a":1,"b":"\u0041"}"#,
            "{\"a\":1,\"b\":\"x\"}\n",
        ] {
            assert!(from_slice::<Sample>(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(from_slice::<Sample>(br#"{"a":1,"b":"x"}"#).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(a in -(MAX_INTEGER as i64)..=(MAX_INTEGER as i64), b in ".*") {
            let sample = Sample { a, b };
            let bytes = to_vec(&sample).unwrap();
            prop_assert_eq!(&from_slice::<Sample>(&bytes).unwrap(), &sample);
            // serde_json's own writer agrees, for keys already in order.
            prop_assert_eq!(bytes, serde_json::to_vec(&serde_json::json!({"a": sample.a, "b": sample.b})).unwrap());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = from_slice::<Sample>(&bytes);
        }
    }
}
