//! Job states and the one table of legal moves. The store conditions every write on the state it
//! moves from, so that an illegal move fails there and not by a prior read.

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($state:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $(#[doc = $text] #[serde(rename = $text)] $state,)* }

        impl $name {
            /// All states.
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            /// As shown and stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$state => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

states! {
    /// States of a backup. `failed_retryable` is still live: the next attempt follows.
    BackupState {
        Queued = "queued",
        Claimed = "claimed",
        Running = "running",
        Finalizing = "finalizing",
        Completed = "completed",
        FailedRetryable = "failed_retryable",
        FailedTerminal = "failed_terminal",
        Cancelled = "cancelled",
    }
}

impl BackupState {
    /// Whether a move is legal. A move to the same state never is.
    pub fn may_become(self, next: Self) -> bool {
        use BackupState::*;
        match self {
            Queued => matches!(next, Claimed | FailedRetryable | FailedTerminal | Cancelled),
            Claimed => matches!(next, Running | FailedRetryable | FailedTerminal | Cancelled),
            Running => matches!(next, Finalizing | FailedRetryable | FailedTerminal | Cancelled),
            // Cancelling a backup whose measurements were accepted is a conflict.
            Finalizing => matches!(next, Completed | FailedRetryable | FailedTerminal),
            FailedRetryable => matches!(next, Queued | FailedTerminal | Cancelled),
            Completed | FailedTerminal | Cancelled => false,
        }
    }

    /// Whether no move leaves this state.
    pub fn is_final(self) -> bool {
        !Self::ALL.iter().any(|next| self.may_become(*next))
    }
}

states! {
    /// States of a restore.
    RestoreState {
        Created = "created",
        Claimed = "claimed",
        Downloading = "downloading",
        Verifying = "verifying",
        ManifestVerified = "manifest_verified",
        Restoring = "restoring",
        Finalizing = "finalizing",
        Completed = "completed",
        FailedRetryable = "failed_retryable",
        FailedTerminal = "failed_terminal",
        TimedOut = "timed_out",
        Cancelled = "cancelled",
    }
}

impl RestoreState {
    /// Whether a move is legal. `timed_out → completed` is the late report of a restore that the
    /// watchdog had given up. Steps may be skipped forwards: a report can be lost, never undone.
    pub fn may_become(self, next: Self) -> bool {
        use RestoreState::*;
        let rank = |s: Self| match s {
            Claimed => Some(1),
            Downloading => Some(2),
            Verifying => Some(3),
            ManifestVerified => Some(4),
            Restoring => Some(5),
            Finalizing => Some(6),
            Completed => Some(7),
            _ => None,
        };
        match self {
            Created => matches!(next, Claimed | Cancelled),
            TimedOut => next == Completed,
            Completed | FailedRetryable | FailedTerminal | Cancelled => false,
            _ => match (rank(self), rank(next)) {
                (Some(from), Some(to)) => to > from,
                _ => matches!(next, FailedRetryable | FailedTerminal | TimedOut | Cancelled),
            },
        }
    }

    /// Whether the restore is over. A late completion of a timed-out restore is the one exception.
    pub fn is_final(self) -> bool {
        use RestoreState::*;
        matches!(self, Completed | FailedRetryable | FailedTerminal | TimedOut | Cancelled)
    }
}

states! {
    /// States of a source check.
    CheckState {
        Queued = "queued",
        Claimed = "claimed",
        Completed = "completed",
        Failed = "failed",
    }
}

states! {
    /// Whether a destination may be used. Backups run only to a verified one.
    DestinationState {
        Unverified = "unverified",
        Verified = "verified",
        Failed = "failed",
        Drifted = "drifted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backup_move_is_as_written() {
        use BackupState::*;
        let legal: Vec<(BackupState, BackupState)> = BackupState::ALL
            .iter()
            .flat_map(|a| BackupState::ALL.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a.may_become(*b))
            .collect();
        assert_eq!(
            legal,
            [
                (Queued, Claimed),
                (Queued, FailedRetryable),
                (Queued, FailedTerminal),
                (Queued, Cancelled),
                (Claimed, Running),
                (Claimed, FailedRetryable),
                (Claimed, FailedTerminal),
                (Claimed, Cancelled),
                (Running, Finalizing),
                (Running, FailedRetryable),
                (Running, FailedTerminal),
                (Running, Cancelled),
                (Finalizing, Completed),
                (Finalizing, FailedRetryable),
                (Finalizing, FailedTerminal),
                (FailedRetryable, Queued),
                (FailedRetryable, FailedTerminal),
                (FailedRetryable, Cancelled),
            ]
        );
        let finals: Vec<_> = BackupState::ALL.iter().filter(|s| s.is_final()).collect();
        assert_eq!(finals, [&Completed, &FailedTerminal, &Cancelled]);
    }

    #[test]
    fn restores_only_move_forwards_and_end() {
        use RestoreState::*;
        for from in RestoreState::ALL {
            assert!(!from.may_become(*from), "{from}");
            assert!(!from.may_become(Created), "{from}");
            if from.is_final() {
                let next: Vec<_> = RestoreState::ALL.iter().filter(|n| from.may_become(**n)).collect();
                assert_eq!(next, if *from == TimedOut { vec![&Completed] } else { vec![] });
            }
        }
        assert!(!Created.may_become(Downloading) && Claimed.may_become(Downloading));
        assert!(Downloading.may_become(Completed) && !Restoring.may_become(Verifying));
        assert!(!Created.may_become(Completed) && !Created.may_become(TimedOut));
    }
}
