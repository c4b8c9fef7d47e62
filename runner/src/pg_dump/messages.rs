//! What pg_dump's end means. It tells no SQLSTATE, so words must do: those of libpq and pg_dump, which speak English
//! here (`LC_ALL=C`), and those of servers that do.

use std::os::unix::process::ExitStatusExt;

use walwarden_contract::{failure::FailureClass, secret::Secret};

use super::process::End;
use crate::fault::{Fault, unnamed};

/// First match wins.
const MEANINGS: [(&str, FailureClass); 22] = [
    ("permission denied", FailureClass::SourcePermission),
    ("row-level security", FailureClass::SourcePermission),
    ("lock timeout", FailureClass::SourceLocked),
    // --lock-wait-timeout is a statement_timeout while tables are locked.
    ("statement timeout", FailureClass::SourceLocked),
    ("could not obtain lock", FailureClass::SourceLocked),
    ("deadlock detected", FailureClass::SourceLocked),
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
    // pg_cancel_backend.
    ("due to user request", FailureClass::SourceConnectionLost),
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
            let what = format!("pg_dump was ended by signal {signal}; was the machine short of memory?");
            return Some(Fault::new(FailureClass::DumpIncomplete, what));
        }
        let class = MEANINGS.into_iter().find(|(words, _)| self.messages.contains(words));
        let otherwise =
            if self.has_lost_a_relation() { FailureClass::DumpIncomplete } else { FailureClass::DumpFailed };
        let class = class.map_or(otherwise, |(_, class)| class);
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

    /// A table that was dropped while pg_dump waited for its lock: it is in the snapshot and no more there.
    fn has_lost_a_relation(&self) -> bool {
        let message = self.first_message();
        ["relation \"", "schema \""].iter().any(|kind| message.contains(kind)) && message.contains("does not exist")
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
        let dropped = "pg_dump: error: query failed: ERROR:  relation \"public.staging\" does not exist";
        assert_eq!(fault_of(dropped).class, FailureClass::DumpIncomplete);
        let option = "pg_dump: error: database \"x\" does not exist";
        assert_eq!(fault_of(option).class, FailureClass::DumpFailed);
        let cancelled = "pg_dump: error: Dumping the contents of table \"t\" failed: PQgetResult() failed.\n\
                         pg_dump: detail: Error message from server: ERROR:  canceling statement due to user request";
        assert_eq!(fault_of(cancelled).class, FailureClass::SourceConnectionLost);
        assert_eq!(fault(9, "").unwrap().class, FailureClass::DumpIncomplete);
        assert!(fault(9, "").unwrap().detail.unwrap().contains("signal 9"));
    }
}
