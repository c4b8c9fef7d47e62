//! What pg_dump's end means. It tells no SQLSTATE, so words must do: those of libpq and pg_dump, which speak English
//! here (`LC_ALL=C`), and those of servers that do.

use std::os::unix::process::ExitStatusExt;

use walwarden_contract::{failure::FailureClass, secret::Secret};

use super::process::End;
use crate::fault::{Fault, unnamed};

/// First match wins.
const MEANINGS: [(&str, FailureClass); 20] = [
    ("permission denied", FailureClass::SourcePermission),
    ("row-level security", FailureClass::SourcePermission),
    ("lock timeout", FailureClass::SourceLocked),
    // --lock-wait-timeout is a statement_timeout while tables are locked.
    ("statement timeout", FailureClass::SourceLocked),
    ("could not obtain lock", FailureClass::SourceLocked),
    ("password authentication failed", FailureClass::SourceAuthFailed),
    ("server version mismatch", FailureClass::SourceVersionUnsupported),
    ("SSL error", FailureClass::SourceConnectionLost),
    ("SSL SYSCALL error", FailureClass::SourceConnectionLost),
    ("SSL connection has been closed", FailureClass::SourceConnectionLost),
    ("server closed the connection", FailureClass::SourceConnectionLost),
    ("terminating connection", FailureClass::SourceConnectionLost),
    ("could not receive data from server", FailureClass::SourceConnectionLost),
    ("connection to server", FailureClass::SourceConnectionLost),
    ("connection not open", FailureClass::SourceConnectionLost),
    ("invalid snapshot identifier", FailureClass::SourceConnectionLost),
    ("could not import the requested snapshot", FailureClass::SourceConnectionLost),
    ("conflict with recovery", FailureClass::SourceConnectionLost),
    // Something was dropped between the snapshot and its lock.
    ("cache lookup failed", FailureClass::DumpIncomplete),
    ("could not open relation with OID", FailureClass::DumpIncomplete),
];

impl End {
    /// The fault it makes, if it does not mean success.
    pub fn fault(&self, password: Option<&Secret>) -> Option<Fault> {
        if self.status.success() {
            return None;
        }
        if let Some(signal) = self.status.signal() {
            return Some(Fault::new(FailureClass::DumpFailed, format!("pg_dump was ended by signal {signal}")));
        }
        let class = MEANINGS.into_iter().find(|(words, _)| self.messages.contains(words));
        let class = class.map_or(FailureClass::DumpFailed, |(_, class)| class);
        let message = self.first_message();
        let detail =
            if message.is_empty() { "pg_dump failed without a message".into() } else { unnamed(message, password) };
        Some(Fault::new(class, detail))
    }

    /// Warnings of a pg_dump that succeeded, redacted, for the log.
    pub fn warnings(&self, password: Option<&Secret>) -> Vec<String> {
        self.messages
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| unnamed(line, password))
            .take(20)
            .collect()
    }

    fn first_message(&self) -> &str {
        let strip = |line: &'static str| self.messages.lines().find_map(|l| l.strip_prefix(line));
        strip("pg_dump: error: ")
            .or_else(|| strip("pg_dump: fatal: "))
            .or_else(|| self.messages.lines().find(|line| !line.trim().is_empty()))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn fault(code: i32, messages: &str) -> Option<Fault> {
        End { status: ExitStatus::from_raw(code), messages: messages.into() }.fault(None)
    }

    #[test]
    fn ends() {
        assert!(fault(0, "pg_dump: warning: there are circular foreign-key constraints").is_none());
        let permission = "pg_dump: error: query failed: ERROR:  permission denied for table \"secret ones\"\n\
                          pg_dump: detail: Query was: LOCK TABLE public.\"secret ones\" IN ACCESS SHARE MODE\n";
        let fault_of = |text| fault(256, text).unwrap();
        let found = fault_of(permission);
        assert_eq!(found.class, FailureClass::SourcePermission);
        assert_eq!(found.detail.unwrap(), "query failed: ERROR:  permission denied for table \"…\"");
        assert_eq!(fault_of("").class, FailureClass::DumpFailed);
        assert_eq!(
            fault_of("pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout").class,
            FailureClass::SourceLocked
        );
        assert_eq!(fault_of("pg_dump: error: invalid snapshot identifier").class, FailureClass::SourceConnectionLost);
        assert!(fault(9, "").unwrap().detail.unwrap().contains("signal 9"));
    }
}
