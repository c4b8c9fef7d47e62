//! The textual forms of ids and times in evidence.

/// Whether `text` is `<kind>_<ulid>`, lower case (Crockford base 32, 26 characters).
pub fn is_id(kind: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(kind).and_then(|t| t.strip_prefix('_')) else { return false };
    rest.len() == 26
        && rest.as_bytes()[0] <= b'7'
        && rest.bytes().all(|b| b.is_ascii_digit() || (b.is_ascii_lowercase() && !b"ilou".contains(&b)))
}

/// Whether `text` is `YYYY-MM-DDTHH:MM:SS.mmmZ`. Such texts order as the times they name.
pub fn is_time(text: &str) -> bool {
    const PATTERN: &[u8; 24] = b"dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == 24 && text.bytes().zip(PATTERN).all(|(b, p)| if *p == b'd' { b.is_ascii_digit() } else { b == *p })
}

/// Whether `text` is `<deployment>/log/<orgId>/<epoch>` for that organization. An origin is also the name
/// of a C2SP key, so it holds neither white space nor `+`.
pub fn is_origin(org_id: &str, text: &str) -> bool {
    let Some((rest, epoch)) = text.rsplit_once('/') else { return false };
    let deployment = rest.strip_suffix(org_id).and_then(|rest| rest.strip_suffix("/log/")).unwrap_or_default();
    !deployment.is_empty()
        && deployment.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
        && !epoch.is_empty()
        && epoch.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// `text` for a person: control, bidirectional and other invisible formatting characters are shown as
/// `\u{…}`. Names and comments from a source database pass through here before a terminal or page.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        if hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert!(is_id("bkp", "bkp_01jd7z9k3m5n7p9r1t3v5x7z9a"));
        for bad in [
            "bkp_01jd7z9k3m5n7p9r1t3v5x7z9",
            "bkp_81jd7z9k3m5n7p9r1t3v5x7z9a",
            "bkp_01JD7Z9K3M5N7P9R1T3V5X7Z9A",
            "rst_01jd7z9k3m5n7p9r1t3v5x7z9a",
        ] {
            assert!(!is_id("bkp", bad), "{bad}");
        }
        assert!(is_time("2026-11-24T07:59:50.001Z"));
        assert!(!is_time("2026-11-24T07:59:50Z"));
        assert!(!is_time("2026-11-24 07:59:50.001Z"));
        let org = "org_01jd7z9k3m5n7p9r1t3v5x7z9a";
        assert!(
            is_origin(org, &format!("local/log/{org}/0")) && is_origin(org, &format!("eu.example.com/a/log/{org}/12"))
        );
        for bad in
            ["/log/ORG/0", "a b/log/ORG/0", "local/log/ORG/", "local/log/ORG/0/1", "local/ORG/0", "local/log/org_x/0"]
        {
            assert!(!is_origin(org, &bad.replace("ORG", org)), "{bad}");
        }
        assert_eq!(shown("a\u{202e}b\u{1b}[0m"), "a\\u{202e}b\\u{1b}[0m");
    }
}
