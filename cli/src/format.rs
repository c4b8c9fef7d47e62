//! Numbers for people: decimal units, thousands apart.

use std::time::Duration;

/// `148.9 MB`
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `48,113,902`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 table`, `212 tables`
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `212 tables, 48,113,902 rows, 31 sequences, 4 large objects`
pub fn contents(tables: u64, rows: u64, sequences: u64, large_objects: u64) -> String {
    let parts = [
        counted(tables, "table"),
        counted(rows, "row"),
        counted(sequences, "sequence"),
        counted(large_objects, "large object"),
    ];
    parts.join(", ")
}

/// `4.1 s`, `12 min 05 s`
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `5 s`, `12 min`, `3 h`: no more than a forecast can know.
pub fn forecast(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// Lines of at most `width` characters, broken at spaces; a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1000), bytes(148_897_024), bytes(999_999)],
            ["0 B", "999 B", "1.0 kB", "148.9 MB", "1.0 MB"]
        );
        assert_eq!([count(0), count(999), count(1000), count(48_113_902)], ["0", "999", "1,000", "48,113,902"]);
        assert_eq!(counted(1, "table"), "1 table");
        assert_eq!(duration(Duration::from_secs(725)), "12 min 05 s");
        assert_eq!([5, 100, 6000].map(|s| forecast(Duration::from_secs(s))), ["5 s", "2 min", "2 h"]);
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a-very-long-word b", 4), ["a-very-long-word", "b"]);
    }
}
