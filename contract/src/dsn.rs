//! Connection strings, parsed by us and never handed on. libpq lets a string name files, services and
//! several hosts; here one list of keywords is accepted and everything else is refused by name.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::secret::Secret;

/// What is percent-encoded in a URI: everything but RFC 3986's unreserved characters.
const RESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How the connection is encrypted; libpq's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Without where the server offers it.
    Allow,
    /// With where the server offers it.
    Prefer,
    /// Always, certificate not checked.
    Require,
    /// Certificate chain checked.
    VerifyCa,
    /// Chain and host name checked.
    VerifyFull,
}

impl SslMode {
    /// As libpq writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

/// A parsed connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsn {
    /// Host name or address; never a socket path.
    pub host: String,
    /// Port, 5432 if not given.
    pub port: u16,
    /// Database, if given.
    pub dbname: Option<String>,
    /// User, if given.
    pub user: Option<String>,
    /// Password, if given.
    pub password: Option<Secret>,
    /// TLS, if given.
    pub sslmode: Option<SslMode>,
    /// `sslrootcert`: `system`, or a file on the machine that parses (CLI only).
    pub sslrootcert: Option<String>,
    /// `options=endpoint=…`, how Neon names a compute where SNI is missing.
    pub endpoint: Option<String>,
    /// Keywords that were recognised and do nothing here.
    pub ignored: Vec<String>,
}

/// Why a connection string is refused. Never quotes the string: it holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnError {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub hint: &'static str,
}

impl fmt::Display for DsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for DsnError {}

const FORM_HINT: &str =
    "use postgresql://user:password@host:5432/dbname; characters like @ : / % in user or password are percent-encoded";
const POOLED_HINT: &str = "pg_dump needs a session of its own: use the direct host, or the session-mode pooler (Supabase: port 5432 of the same pooler host; Neon: the host without -pooler)";

fn fail<T>(problem: impl Into<String>, hint: &'static str) -> Result<T, DsnError> {
    Err(DsnError { problem: problem.into(), hint })
}

impl Dsn {
    /// Parses a `postgres://` or `postgresql://` URI, or keyword/value pairs.
    pub fn parse(text: &str) -> Result<Self, DsnError> {
        let text = text.trim();
        if text.contains('\0') {
            return fail("the connection string holds a NUL byte", FORM_HINT);
        }
        let pairs = match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => uri_pairs(rest)?,
            None if is_uri(text) => return fail("the connection string is not a postgresql:// URI", FORM_HINT),
            None => keyword_pairs(text)?,
        };
        Self::from_pairs(pairs)
    }

    fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, DsnError> {
        let mut dsn = Self {
            host: String::new(),
            port: 5432,
            dbname: None,
            user: None,
            password: None,
            sslmode: None,
            sslrootcert: None,
            endpoint: None,
            ignored: Vec::new(),
        };
        for (key, value) in pairs {
            match key.as_str() {
                "host" => dsn.host = value,
                "port" => match value.parse::<u16>() {
                    Ok(port) if port > 0 => dsn.port = port,
                    _ => return fail("the port is not a number from 1 to 65535", FORM_HINT),
                },
                "dbname" => dsn.dbname = Some(value).filter(|v| !v.is_empty()),
                "user" => dsn.user = Some(value).filter(|v| !v.is_empty()),
                "password" => dsn.password = Some(Secret::new(value)),
                "sslmode" => match SslMode::parse(&value) {
                    Some(mode) => dsn.sslmode = Some(mode),
                    None => {
                        return fail(
                            "sslmode is not one of disable, allow, prefer, require, verify-ca, verify-full",
                            FORM_HINT,
                        );
                    }
                },
                "sslrootcert" => dsn.sslrootcert = Some(value),
                "options" => {
                    let endpoint = value.strip_prefix("-c ").unwrap_or(&value).strip_prefix("endpoint=");
                    match endpoint {
                        Some(name) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                            dsn.endpoint = Some(name.into());
                        }
                        _ => {
                            return fail(
                                "options may only be endpoint=<name>",
                                "remove options from the connection string",
                            );
                        }
                    }
                }
                "channel_binding"
                | "sslnegotiation"
                | "connect_timeout"
                | "application_name"
                | "target_session_attrs"
                | "keepalives"
                | "keepalives_idle"
                | "keepalives_interval"
                | "keepalives_count" => {}
                "pgbouncer" if value == "true" => {
                    return fail("pgbouncer=true names a transaction-mode pooler", POOLED_HINT);
                }
                "pgbouncer"
                | "schema"
                | "connection_limit"
                | "pool_timeout"
                | "statement_cache_size"
                | "socket_timeout"
                | "supa"
                | "workaround" => dsn.ignored.push(key),
                _ => {
                    return fail(
                        format!(
                            "the connection string has the keyword {:?}, which is not accepted",
                            walwarden_verifier::ids::shown(&key)
                        ),
                        "remove it; accepted are host, port, dbname, user, password, sslmode, sslrootcert, channel_binding, sslnegotiation, connect_timeout, application_name, keepalives*, target_session_attrs, options=endpoint=…",
                    );
                }
            }
        }
        dsn.check()
    }

    fn check(self) -> Result<Self, DsnError> {
        if self.host.is_empty() {
            return fail("the connection string names no host", FORM_HINT);
        }
        if self.host.contains(',') {
            return fail("the connection string names several hosts", "name one host");
        }
        if self.host.starts_with('/') || self.host.starts_with('@') || self.host.contains(char::is_whitespace) {
            return fail("the host is a socket path or not a host name", "name a host or an address");
        }
        Ok(self)
    }

    /// Refuses endpoints that do not give a session: Supabase's port 6543, Neon's `-pooler` hosts.
    pub fn refuse_transaction_pooler(&self) -> Result<(), DsnError> {
        let host = self.host.trim_end_matches('.').to_ascii_lowercase();
        let supabase = host.ends_with(".supabase.com") || host.ends_with(".supabase.co");
        if supabase && self.port == 6543 {
            return fail("port 6543 is Supabase's transaction-mode pooler", POOLED_HINT);
        }
        let first = host.split('.').next().unwrap_or_default();
        if host.ends_with(".neon.tech") && first.ends_with("-pooler") {
            return fail("the host is Neon's pooled endpoint (-pooler)", POOLED_HINT);
        }
        Ok(())
    }

    /// Whether the host is this machine by name or address.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// TLS to use: what the string says, but at least `require` where the host is not this machine
    /// and the string says nothing.
    pub fn effective_sslmode(&self) -> SslMode {
        self.sslmode.unwrap_or(if self.is_loopback() { SslMode::Prefer } else { SslMode::Require })
    }

    /// Who and where, without password: for people and the API.
    pub fn redacted(&self) -> String {
        let encode = |t: &str| percent_encoding::utf8_percent_encode(t, RESERVED).to_string();
        let user = self.user.as_deref().map(|u| format!("{}@", encode(u))).unwrap_or_default();
        let host = if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]", self.host)
        } else {
            walwarden_verifier::ids::shown(&self.host)
        };
        let db = self.dbname.as_deref().map(encode).unwrap_or_default();
        format!("postgresql://{user}{host}:{}/{db}", self.port)
    }
}

/// Whether `text` begins with a URI's scheme. A value further on may hold `://` itself.
fn is_uri(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))
}

fn decode(text: &str) -> Result<String, DsnError> {
    let bad = text.as_bytes().iter().enumerate().any(|(i, b)| {
        *b == b'%' && !text.as_bytes().get(i + 1..i + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit))
    });
    if bad {
        return fail("a % in the connection string is not followed by two hexadecimal digits", FORM_HINT);
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if !decoded.contains('\0') => Ok(decoded.into_owned()),
        _ => fail("a percent-encoded part of the connection string is not UTF-8", FORM_HINT),
    }
}

fn uri_pairs(rest: &str) -> Result<Vec<(String, String)>, DsnError> {
    let mut pairs = Vec::new();
    let mut put = |key: &str, value: &str| -> Result<(), DsnError> {
        pairs.push((key.to_owned(), decode(value)?));
        Ok(())
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('#') {
        return fail("a # in the connection string is not percent-encoded", FORM_HINT);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hostport) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
        put("user", user)?;
        if let Some(password) = password {
            put("password", password)?;
        }
    }
    let (host, port) = if let Some(v6) = hostport.strip_prefix('[') {
        let Some((host, after)) = v6.split_once(']') else {
            return fail("an IPv6 address in the connection string has no closing bracket", FORM_HINT);
        };
        (host, after.strip_prefix(':').unwrap_or(after))
    } else {
        hostport.split_once(':').unwrap_or((hostport, ""))
    };
    if !host.is_empty() {
        put("host", host)?;
    }
    if !port.is_empty() {
        put("port", port)?;
    }
    if !path.is_empty() {
        put("dbname", path)?;
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return fail("a parameter in the connection string has no value", FORM_HINT);
        };
        let key = decode(key)?;
        put(&key, value)?;
    }
    Ok(pairs)
}

fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>, DsnError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return fail("the connection string is neither a URI nor keyword=value pairs", FORM_HINT);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut closed = !quoted;
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.extend(chars.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                c if !quoted && c.is_whitespace() => break,
                c => value.push(c),
            }
        }
        if !closed {
            return fail("a quoted value in the connection string does not end", FORM_HINT);
        }
        pairs.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uris() {
        let dsn = Dsn::parse("postgresql://a%40b:p%3A%2F%20w@db.example.com:6000/my%20db?sslmode=verify-full&channel_binding=require&schema=public").unwrap();
        assert_eq!((dsn.host.as_str(), dsn.port), ("db.example.com", 6000));
        assert_eq!(dsn.user.as_deref(), Some("a@b"));
        assert_eq!(dsn.password.as_ref().unwrap().expose(), "p:/ w");
        assert_eq!(dsn.dbname.as_deref(), Some("my db"));
        assert_eq!(dsn.sslmode, Some(SslMode::VerifyFull));
        assert_eq!(dsn.ignored, ["schema"]);
        assert_eq!(dsn.redacted(), "postgresql://a%40b@db.example.com:6000/my%20db");
        let v6 = Dsn::parse("postgres://u@[::1]:5433/x").unwrap();
        assert_eq!((v6.host.as_str(), v6.port, v6.is_loopback()), ("::1", 5433, true));
        assert_eq!(v6.redacted(), "postgresql://u@[::1]:5433/x");
        let at = Dsn::parse("postgres://u:p@ss@h/x").unwrap();
        assert_eq!((at.host.as_str(), at.password.unwrap().expose()), ("h", "p@ss"));
    }

    #[test]
    fn keyword_values() {
        let dsn = Dsn::parse(r"host=h port = 5433 user='o\'neil' password='a b\\c' dbname=x").unwrap();
        assert_eq!(dsn.user.as_deref(), Some("o'neil"));
        assert_eq!(dsn.password.unwrap().expose(), r"a b\c");
        assert_eq!(dsn.port, 5433);
    }

    #[test]
    fn refused_by_name() {
        for (bad, word) in [
            ("postgres://h/x?service=foo", "service"),
            ("postgres://h/x?passfile=/etc/passwd", "passfile"),
            ("postgres://h/x?sslkey=/k", "sslkey"),
            ("postgres://a,b/x", "several hosts"),
            ("host=/var/run/postgresql", "socket path"),
            ("postgres://%2Ftmp/x", "socket path"),
            ("postgres:///x", "no host"),
            ("postgres://h:0/x", "port"),
            ("postgres://h:99999/x", "port"),
            ("postgres://h/x?options=-c%20search_path%3Devil", "options"),
            ("postgres://h/x?pgbouncer=true", "transaction-mode"),
            ("postgres://h/x?sslmode=maybe", "sslmode"),
            ("postgres://u:%zz@h/x", "%"),
            ("mysql://h/x", "not a postgresql"),
            ("host='h", "does not end"),
            ("nonsense", "neither"),
        ] {
            let error = Dsn::parse(bad).unwrap_err();
            assert!(error.problem.contains(word), "{bad}: {}", error.problem);
        }
        assert!(
            Dsn::parse("postgres://u@aws-0-eu.pooler.supabase.com:6543/postgres")
                .unwrap()
                .refuse_transaction_pooler()
                .is_err()
        );
        assert!(
            Dsn::parse("postgres://u@aws-0-eu.pooler.supabase.com:5432/postgres")
                .unwrap()
                .refuse_transaction_pooler()
                .is_ok()
        );
        assert!(
            Dsn::parse("postgres://u@ep-x-pooler.eu.aws.neon.tech/db").unwrap().refuse_transaction_pooler().is_err()
        );
        assert!(
            Dsn::parse("postgres://u@ep-x-pooler.eu.aws.neon.tech./db").unwrap().refuse_transaction_pooler().is_err()
        );
    }

    #[test]
    fn remote_hosts_get_tls() {
        assert_eq!(Dsn::parse("postgres://h/x").unwrap().effective_sslmode(), SslMode::Require);
        assert_eq!(Dsn::parse("postgres://127.0.0.1/x").unwrap().effective_sslmode(), SslMode::Prefer);
        assert_eq!(Dsn::parse("postgres://h/x?sslmode=disable").unwrap().effective_sslmode(), SslMode::Disable);
    }

    #[test]
    fn a_value_may_look_like_a_uri() {
        let dsn = Dsn::parse("host=h user=u password='a://b'").unwrap();
        assert_eq!(dsn.password.unwrap().expose(), "a://b");
        for other in ["mysql://u@h", "://u@h"] {
            assert!(Dsn::parse(other).unwrap_err().problem.contains("not a postgresql:// URI"), "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_part_survives_encoding(user in "[^\0]{1,20}", password in "[^\0]{0,20}", db in "[^\0]{1,20}") {
            let enc = |t: &str| percent_encoding::utf8_percent_encode(t, percent_encoding::NON_ALPHANUMERIC).to_string();
            let dsn = Dsn::parse(&format!("postgresql://{}:{}@h:1/{}", enc(&user), enc(&password), enc(&db))).unwrap();
            prop_assert_eq!(dsn.user.as_deref(), Some(user.as_str()));
            prop_assert_eq!(dsn.password.as_ref().unwrap().expose(), password.as_str());
            prop_assert_eq!(dsn.dbname.as_deref(), Some(db.as_str()));
            let debug = format!("{dsn:?}");
            prop_assert!(password.len() < 6 || !debug.contains(&password) || user.contains(&password) || db.contains(&password));
        }

        #[test]
        fn keyword_form_survives_quoting(user in "[^\0]{1,20}", password in "[^\0]{0,20}") {
            let text = format!("host=h user={} password={}", crate::quote::conninfo(&user), crate::quote::conninfo(&password));
            let dsn = Dsn::parse(&text).unwrap();
            prop_assert_eq!(dsn.user.as_deref(), Some(user.as_str()));
            prop_assert_eq!(dsn.password.as_ref().unwrap().expose(), password.as_str());
        }

        #[test]
        fn arbitrary_text_never_panics_and_never_leaks(text in ".*") {
            if let Err(error) = Dsn::parse(&format!("postgres://u:hunter2hunter2@{text}")) {
                prop_assert!(!error.problem.contains("hunter2hunter2"));
            }
        }
    }
}
