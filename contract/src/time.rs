//! RFC 3339 UTC times with milliseconds, as every document here writes them.

use jiff::Timestamp;

/// `2026-11-24T07:59:50.001Z`
pub fn format(at: Timestamp) -> String {
    format!("{:.3}", at.round(jiff::Unit::Millisecond).unwrap_or(at))
}

/// From milliseconds since 1970.
pub fn format_ms(unix_ms: i64) -> String {
    format(Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Milliseconds since 1970 of a time in the form [`format`] writes.
pub fn parse_ms(text: &str) -> Option<i64> {
    if !walwarden_verifier::ids::is_time(text) {
        return None;
    }
    text.parse::<Timestamp>().ok().map(|t| t.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_exactly_three_digits() {
        assert_eq!(format_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_ms(1_795_507_190_001), "2026-11-24T07:59:50.001Z");
        assert_eq!(parse_ms("2026-11-24T07:59:50.001Z"), Some(1_795_507_190_001));
        assert_eq!(parse_ms("2026-11-24T07:59:50Z"), None);
    }
}
